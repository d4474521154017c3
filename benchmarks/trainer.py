"""The trainer's step on a GPU: tokens a second, share of the chip's peak and of what dense products reach, memory.

    python -m benchmarks.trainer [WORD ...] [--out benchmarks/results]

Needs torch, triton, numpy and safetensors; peers need transformers, attention by cuDNN nvidia-cudnn-frontend. Each line
is a process of its own, so that none meets the memory and the compiled code of another; with words, only lines whose
names hold one. Documents are lognormal (sigma 1), packed one behind the other, tokens follow Zipf's law, routers are
untrained. MFU counts 6 a token and active parameter (input embedding left out) and causal attention inside documents,
against 989 TFLOP/s; "of dense" is against a product of 8,192^3 in bf16 after 1.5 s of load in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from model.data import Batch, make_batch
from model.speed import dense_rate, peak_rate
from model.step import Division, Learner
from model.trace import CLASSES, summary
from model.train import Progress, train
from model.transformer import step_flops
from schemas.manifest import Draw, LearningRate, Stage
from schemas.training import ModelConfig, TrainConfig
from tests.mds import write_shards

PROFILED = 2
WARM, STEPS = 12, 8  # each of four batches three times: code is compiled, steps are captured
VOCAB = 32_768
SHAPES = {
    "small": ModelConfig(layers=8, d_model=1024, heads=8, kv_heads=2, d_expert=1024, rope_theta=500_000),
    "slim": ModelConfig(layers=12, d_model=768, heads=12, kv_heads=4, d_expert=1024, rope_theta=500_000),
    "MoE-A slice": ModelConfig(layers=8, d_model=2048, heads=16, kv_heads=8, d_expert=3584, rope_theta=500_000),
}


@dataclass(frozen=True)
class Line:
    """A line of the table: `tokens` of a step in rows of `length`, documents of `mean` tokens."""

    shape: str
    tokens: int
    way: str = "ours"
    length: int = 4096
    mean: float = 700.0
    micro_batches: int = 1

    @property
    def name(self) -> str:
        parts = [f"{self.shape}, {self.tokens // 1024} K", self.way]
        parts += [f"{self.micro_batches} micro-batches"] if self.micro_batches > 1 else []
        long = [f"rows of {self.length // 1024} K", f"documents of {self.mean:,.0f}"]
        parts += long if self.length != 4096 else []
        return ", ".join(parts)


LINES = [
    Line("MoE-A slice", 32 << 10),
    Line("MoE-A slice", 32 << 10, "ours with FlashAttention"),
    Line("MoE-A slice", 128 << 10, micro_batches=4),
    Line("MoE-A slice", 32 << 10, length=32 << 10),
    Line("MoE-A slice", 32 << 10, length=32 << 10, mean=16_000),
    Line("MoE-A slice", 128 << 10, length=32 << 10, mean=16_000, micro_batches=4),
    Line("small", 64 << 10),
    Line("small", 64 << 10, "ours, the whole loop on shards"),
    Line("small", 64 << 10, length=32 << 10),
    Line("small", 64 << 10, length=32 << 10, mean=16_000),
    Line("small", 16 << 10),
    Line("slim", 64 << 10),
    Line("MoE-A slice", 32 << 10, "dense GLU of equal active size"),
    Line("small", 64 << 10, "dense GLU of equal active size"),
    Line("slim", 64 << 10, "dense GLU of equal active size"),
    Line("MoE-A slice", 16 << 10),
    Line("MoE-A slice", 16 << 10, "HF Mixtral, grouped_mm, compiled"),
    Line("MoE-A slice", 16 << 10, "HF DbrxForCausalLM"),
    Line("MoE-A slice", 16 << 10, "HF DbrxForCausalLM, fp32 weights, autocast"),
]
COLUMNS = "line", "ms", "host ms", "us a token", "tokens/s", "MFU %", "of dense %", "peak GB", "dense TFLOP/s"


def batch(line: Line, seed: int) -> Batch:
    return make_batch(0, packed_rows(line, seed)).map(torch.Tensor.pin_memory)


def packed_rows(line: Line, seed: int) -> list[dict]:
    """Samples of packed documents; the last of a row is cut."""
    random = np.random.default_rng(seed)
    odds = 1 / (np.arange(VOCAB) + 2.7)
    cumulative = odds.cumsum() / odds.sum()
    samples = []
    for _ in range(line.tokens // line.length):
        lengths = np.maximum(16, random.lognormal(np.log(line.mean) - 0.5, 1.0, line.length // 16)).astype(np.int64)
        starts = np.concatenate([[0], lengths.cumsum()])
        starts = starts[starts < line.length]
        tokens = np.minimum(np.searchsorted(cumulative, random.random(line.length)), VOCAB - 1)
        samples.append({"tokens": tokens, "starts": starts, "docs": 1 + len(samples) + np.arange(len(starts))})
    return samples


def measure(line: Line) -> dict:
    """One line's figures. Steps follow one another; the host waits once, at the end."""
    dense = dense_rate()
    batches = [batch(line, seed) for seed in range(4)]
    config = SHAPES[line.shape]
    if line.way.startswith("dense"):
        config = replace(config, experts=1, top_k=1, d_expert=config.top_k * config.d_expert)
    if "loop" in line.way:
        seconds, host, classes = whole_loop(line, config), float("nan"), []
    else:
        seconds, host, classes = bare_steps((peer if line.way.startswith("HF") else ours)(line, config, batches))
    used = [np.diff(one.packing.bounds_S.numpy()) for one in batches]
    if line.way.startswith("HF"):  # whole rows are attended, and counted
        used = [np.full(line.tokens // line.length, line.length)]
    flops = float(np.mean([step_flops(config, VOCAB, lengths) for lengths in used])) / seconds
    return {
        "line": line.name,
        "ms": 1e3 * seconds,
        "host ms": 1e3 * host,
        "us a token": 1e6 * seconds / line.tokens,
        "tokens/s": line.tokens / seconds,
        "MFU %": 100 * flops / (peak_rate() or float("nan")),
        "of dense %": 100 * flops / dense,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9,
        "dense TFLOP/s": dense / 1e12,
        "classes": {row["name"]: row["ms"] for row in classes},
    }


def bare_steps(step: Callable[[int], object]) -> tuple[float, float, list[dict]]:
    """(seconds a step, of which the host was busy in the median one, its kernels by class)."""
    for number in range(WARM):
        step(number)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    host, began = [], time.perf_counter()
    for number in range(WARM, WARM + STEPS):
        start = time.perf_counter()
        step(number)
        host.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / STEPS
    with torch.profiler.profile() as profile:
        for number in range(PROFILED):
            step(number)
        torch.cuda.synchronize()
    return seconds, float(np.median(host)), summary(profile, PROFILED)["classes"]


class Enough(Exception):
    """The steps that are measured are done."""


def whole_loop(line: Line, config: ModelConfig) -> float:
    """Seconds a step of `train` on shards, with ledger and metrics, checkpoints left out."""
    rows, told = line.tokens // line.length, []
    steps = WARM + STEPS

    def note(progress: Progress) -> None:
        told.append(time.perf_counter())
        if progress.step == steps:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        shards, run = Path(folder) / "shards", Path(folder) / "run"
        stage = Stage("s", 0, steps * rows, line.length, (Draw("a", steps * rows, 0),), LearningRate())
        samples = [sample for number in range(steps) for sample in packed_rows(line, number % 4)]
        write_shards(shards, {("a", line.length): [samples]}, [], (stage,), VOCAB)
        with contextlib.suppress(Enough):
            train(shards, run, config, TrainConfig(batch_tokens=line.tokens, checkpoint_steps=10**6), note)
    return (told[-1] - told[-1 - STEPS]) / STEPS


def ours(line: Line, config: ModelConfig, batches: list[Batch]) -> Callable[[int], object]:
    if "FlashAttention" in line.way:
        from model import attention

        attention.choose = lambda *_: "flash"
    learner = Learner(config, TrainConfig(batch_tokens=line.tokens), VOCAB)
    learner.division = Division(line.micro_batches)
    return lambda number: learner.step(number, batches[number % len(batches)], 3e-4)


def peer(line: Line, config: ModelConfig, batches: list[Batch]) -> Callable[[int], object]:
    """Hugging Face's model without a document mask, their fast path, and torch's fused AdamW; as it is fastest, weights
    and moments in bf16, unless the line says otherwise."""
    import transformers

    sizes = dict(vocab_size=VOCAB, max_position_embeddings=line.length)
    if "Mixtral" in line.way:
        made = transformers.MixtralConfig(
            hidden_size=config.d_model, intermediate_size=config.d_expert, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, num_local_experts=config.experts,
            num_experts_per_tok=config.top_k, rope_theta=config.rope_theta, attn_implementation="sdpa", **sizes,
        )  # fmt: skip
        kind = transformers.MixtralForCausalLM
        made._experts_implementation = "grouped_mm"
    else:
        made = transformers.DbrxConfig(
            d_model=config.d_model, n_heads=config.heads, n_layers=config.layers, max_seq_len=line.length,
            vocab_size=VOCAB, attn_config={"kv_n_heads": config.kv_heads, "clip_qkv": 8.0, "rope_theta": 5e5},
            ffn_config={
                "ffn_hidden_size": config.d_expert, "moe_num_experts": config.experts, "moe_top_k": config.top_k,
                "moe_normalize_expert_weights": 1.0, "moe_loss_weight": 0.05,
            },
            attn_implementation="sdpa",
        )  # fmt: skip
        kind = transformers.DbrxForCausalLM
    made.use_cache = False
    wide = "fp32" in line.way
    torch.set_default_dtype(torch.float32 if wide else torch.bfloat16)
    with torch.device("cuda"):
        network = kind(made)
    forward = torch.compile(network) if "compiled" in line.way else network
    adamw = torch.optim.AdamW(network.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    inputs = [one.tokens_BL.cuda() for one in batches]

    def step(number: int) -> None:
        tokens_BL = inputs[number % len(inputs)]
        with torch.autocast("cuda", torch.bfloat16, enabled=wide):
            logits = forward(input_ids=tokens_BL).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens_BL[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    return step


def table(rows: list[dict]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(row[c] if c == "line" else f"{row[c]:,.1f}" for c in COLUMNS) + " |")
    return "\n".join(lines)


def profiles(rows: list[dict]) -> str:
    """Milliseconds of a step by class of kernel."""
    kinds = list(CLASSES)
    lines = ["| " + " | ".join(["line", *kinds]) + " |", "|---" * (1 + len(kinds)) + "|"]
    for row in rows:
        lines.append(f"| {row['line']} | " + " | ".join(f"{row['classes'].get(kind, 0):.1f}" for kind in kinds) + " |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Bars: each line's FLOP/s as a share of those of dense products, with its share of the chip's peak."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.34 * len(rows)), layout="constrained")
    shares = [row["of dense %"] for row in rows]
    colours = ["#b9b6ad" if "HF" in row["line"] else "#7a9e9f" if "dense" in row["line"] else "#c8553d" for row in rows]
    bars = axes.barh([row["line"] for row in rows], shares, color=colours)
    axes.bar_label(
        bars, [f"{row['MFU %']:.0f} % MFU, {row['tokens/s'] / 1e3:,.0f} k tokens/s" for row in rows], padding=4
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, 140), xlabel="% of dense products in the same process")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only lines whose names hold one of these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--line", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.line:
        print(json.dumps(measure(next(line for line in LINES if line.name == arguments.line))))
        return
    rows = []
    for line in LINES:
        if arguments.words and not any(word in line.name for word in arguments.words):
            continue
        command = [sys.executable, "-m", "benchmarks.trainer", "--line", line.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{line.name}: failed\n{done.stderr[-2000:]}", flush=True)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    text = f"# The trainer's step on a GPU\n\n`python -m benchmarks.trainer`, {machine}\n\n{table(rows)}\n\n"
    plot(rows, arguments.out / "trainer.png")
    text += "![Share of dense products](trainer.png)\n\n"
    text += f"Milliseconds of kernels in a step, by class ({PROFILED} steps traced):\n\n{profiles(rows)}\n"
    (arguments.out / "trainer.md").write_text(text)


if __name__ == "__main__":
    main()
