"""The trainer on a GPU: tokens a second on real shards, and the share of a step's GPU time that is expert layers.

    python -m benchmarks.trainer <folder with manifest.json> [--out benchmarks/results]

Needs torch, triton, numpy and safetensors. Two models read the shards of a run whose recipe says `batch_tokens: 16384`:
the default one, which is bound by launches on a GPU, and one with layers of a useful size. Each takes `STEPS` optimiser
steps on the GPU's kernels and on the reference.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from kernels import layer
from model.data import Batches
from model.train import Learner
from schemas.manifest import load_manifest, load_plan
from schemas.training import ModelConfig, TrainConfig

STEPS, WARM_STEPS = 40, 10
PROFILED = 3  # steps
COLUMNS = (
    "model", "parameters", "expert layers", "tokens/s", "ms a step", "GPU ms a step", "experts' share of GPU time",
    "loss after the steps",
)  # fmt: skip
NOTE = (
    "Where a step takes far longer than its GPU time, the host sets the pace: it launches kernels, reads shards and "
    "keeps the ledger. The share is that of `Experts` and its backward; for hopper and blocksparse the casts of fp32 "
    "weights to bf16 and of their gradients back lie outside it, for the reference inside."
)
BATCH_TOKENS = 16384
MODELS = {
    "default": ModelConfig(d_model=128, heads=2, kv_heads=1, init_std=0.08),
    "D 1024, F 1792": ModelConfig(layers=8, d_model=1024, heads=8, kv_heads=2, d_expert=1792),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, model in MODELS.items():
        for implementation in ("hopper", "blocksparse", "reference"):
            lines.append(row(name, arguments.shards, model, implementation))
            print(lines[-1], flush=True)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    head = f"# The trainer on a GPU\n\n`python -m benchmarks.trainer <shards>`, {machine}\n\n{NOTE}\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "trainer.md").write_text("\n".join([head, *lines]) + "\n")


def row(name: str, shards: Path, model: ModelConfig, implementation: str) -> str:
    manifest, plan = load_manifest(shards / "manifest.json"), load_plan(shards / "plan.json")
    config = TrainConfig(batch_tokens=BATCH_TOKENS)
    batches = Batches(shards, manifest, plan, BATCH_TOKENS)
    if batches.steps <= WARM_STEPS:
        raise SystemExit(
            f"expected shards for more than {WARM_STEPS} steps of {BATCH_TOKENS} tokens, "
            f"found {batches.steps} in {shards}"
        )
    with on(implementation):
        learner = Learner(model, config, manifest.tokenizer["vocab_size"])
        seconds, losses = [], []
        for number in range(min(STEPS, batches.steps)):
            began = time.perf_counter()
            numbers, *_ = learner.step(number, batches.batch(number), 1e-3)  # ends with the loss on the host
            seconds.append(time.perf_counter() - began)
            losses.append(numbers["loss"])
        gpu_ms, share = gpu_time(learner, batches)
    step = statistics.median(seconds[WARM_STEPS:])
    size = sum(parameter.numel() for parameter in learner.network.parameters())
    rates = f"{BATCH_TOKENS / step:,.0f} | {1e3 * step:.2f} | {gpu_ms:.2f} | {100 * share:.0f} %"
    return f"| {name} | {size / 1e6:,.1f} M | {implementation} | {rates} | {losses[-1]:.3f} |"


@contextmanager
def on(implementation: str) -> Iterator[None]:
    """Expert layers of this implementation, where the model leaves the choice."""
    choose = layer.choose
    layer.choose = lambda x, w1, n_experts, _="auto": choose(x, w1, n_experts, implementation)
    try:
        yield
    finally:
        layer.choose = choose


def gpu_time(learner: Learner, batches: Batches) -> tuple[float, float]:
    """(GPU milliseconds of a step, the share of it inside the expert layers, forward and backward)."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for number in range(PROFILED):
            learner.step(number, batches.batch(number), 1e-3)
    # operators on the host, with the time of the kernels below them, and the kernels themselves
    events = trace.key_averages()
    # microseconds
    total = sum(event.self_device_time_total for event in events if event.device_type == DeviceType.CUDA)
    inside = sum(event.device_time_total for event in events if event.key in ("Experts", "ExpertsBackward"))
    return total / 1e3 / PROFILED, inside / max(total, 1)


if __name__ == "__main__":
    main()
