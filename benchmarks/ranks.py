"""Several GPUs against one: the same step per GPU, with nothing sent and by each kind of parallelism.

    torchrun --standalone --nproc-per-node N -m benchmarks.ranks [KIND ...] [--out benchmarks/results]

Needs what `benchmarks.trainer` needs, whose shapes and documents these are: MoE-A's slice, 32 K tokens a GPU.
"alone" is one GPU's step on each at once, so that power and heat are those of the others. Beside peak memory stands
what `model.sizing` predicts. Each step is read as the trainer reads it, one step late.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

import torch

from benchmarks.trainer import SHAPES, VOCAB, Line, batch
from model.parallel.ranks import Ranks, join, leave
from model.sizing import Layout, Step, memory
from model.step import Learner
from schemas.training import TrainConfig

LINE = Line("MoE-A slice", 32 << 10)
KINDS = "alone", "replicate", "shard", "experts"
WARM, STEPS = 6, 10


def measure(kind: str, ranks: Ranks, line: Line) -> dict:
    """Milliseconds a step (the slowest rank's), loss and norm of the last, peak memory."""
    own = Ranks(0, 1, ranks.local) if kind == "alone" else ranks
    config = TrainConfig(batch_tokens=line.tokens * own.world, parallel="auto" if kind == "alone" else kind)
    learner = Learner(SHAPES[line.shape], config, VOCAB, own)
    batches = [batch(line, 10 * ranks.rank + seed) for seed in range(4)]
    told = None
    for number in range(WARM + STEPS):
        if number == WARM:
            torch.cuda.synchronize()
            ranks.barrier()
            torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
        launched = learner.step(number, batches[number % 4], 3e-4)
        numbers = told.read()[0] if told else {}
        told = launched
    torch.cuda.synchronize()
    seconds = max(ranks.every((time.perf_counter() - began) / STEPS))
    peak = max(ranks.every(torch.cuda.max_memory_allocated()))
    return {
        "kind": kind,
        "ms": 1e3 * seconds,
        "peak GB": peak / 1e9,
        "predicted GB": predicted(kind, ranks, line),
        "loss": numbers["loss"],
        "norm": numbers["grad_norm"],
    }


def predicted(kind: str, ranks: Ranks, line: Line) -> float:
    """GB on each GPU."""
    capacity = torch.cuda.get_device_properties(ranks.device).total_memory
    layout = Layout("replicate") if kind == "alone" else Layout(kind, ranks.world, ranks.world)
    return sum(memory(SHAPES[line.shape], VOCAB, layout, Step(line.tokens), capacity).values()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--out", type=Path, help="folder for ranks.json and ranks.md")
    options = parser.parse_args()
    ranks, rows = join(), []
    for kind in options.kinds:
        row = measure(kind, ranks, LINE)
        alone = rows[0]["ms"] if rows and rows[0]["kind"] == "alone" else row["ms"] if kind == "alone" else float("nan")
        rows.append(row | {"times one": alone / row["ms"] * (1 if kind == "alone" else ranks.world)})
        if ranks.rank == 0:
            print(json.dumps(rows[-1]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if ranks.rank == 0 and options.out:
        write(rows, ranks.world, options.out)
    leave()


def write(rows: list[dict], world: int, folder: Path) -> None:
    """The table, for people and for programs."""
    (folder / "ranks.json").write_text(json.dumps({"world": world, "rows": rows}, indent=1) + "\n")
    names = "kind", "ms", "times one", "peak GB", "predicted GB"
    lines = [
        f"{torch.cuda.get_device_name()} x {world}: {LINE.name} a GPU",
        "",
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
    ]
    for row in rows:
        figures = f"{row['ms']:.1f} | {row['times one']:.3f} | {row['peak GB']:.1f} | {row['predicted GB']:.1f}"
        lines.append(f"| {row['kind']} | {figures} |")
    (folder / "ranks.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
