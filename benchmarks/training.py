"""The trainer: a step with experts against the same step with a dense layer of equal active size; our shard reader
against Streaming.

    python -m benchmarks.training

Steps alternate between the two models, on one core and in CPU seconds, since the machine may be shared. Reading is in
wall time.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model.data import Batch, make_batch
from model.shards import Shards
from model.step import Learner
from model.train import keep_memory
from schemas.manifest import Draw, LearningRate, Stage
from schemas.training import ModelConfig, TrainConfig
from tests.mds import write_shards

VOCAB, SEQ_LEN = 4096, 256
WARM_STEPS, STEPS = 5, 12
READ_SAMPLES, READ_LEN = 4000, 2048


def rows() -> list[dict]:
    """`must` is the least ratio of value to reference."""
    torch.set_num_threads(1)
    keep_memory()
    config, batch = TrainConfig(), random_batch(TrainConfig().batch_tokens)
    model = ModelConfig()
    glu = dataclasses.replace(model, experts=1, top_k=1, d_expert=model.top_k * model.d_expert)
    sparse, dense = (Learner(one, config, VOCAB) for one in (model, glu))
    sparse_seconds, dense_seconds = alternate(
        lambda n: sparse.step(n, batch, 1e-3).read(), lambda n: dense.step(n, batch, 1e-3).read()
    )
    tokens = config.batch_tokens
    figures = [
        row(
            "step with experts / dense of equal active size",
            tokens / sparse_seconds,
            "tokens/s",
            tokens / dense_seconds,
            0.6,
        )
    ]
    return [*figures, reading()]


def random_batch(tokens: int) -> Batch:
    """Documents of 20 to 400 tokens."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(tokens // SEQ_LEN):
        starts = np.unique([0, *random.integers(1, SEQ_LEN, 2)])
        samples.append(
            {"tokens": random.integers(1, VOCAB, SEQ_LEN), "starts": starts, "docs": np.arange(1, len(starts) + 1)}
        )
    return make_batch(0, samples)


def alternate(first: Callable[[int], object], second: Callable[[int], object]) -> tuple[float, float]:
    """Median CPU seconds of each."""
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_STEPS + STEPS):
        for work, seconds in zip((first, second), spent, strict=True):
            start = time.process_time()
            work(number)
            seconds.append(time.process_time() - start)
    return statistics.median(spent[0][WARM_STEPS:]), statistics.median(spent[1][WARM_STEPS:])


def reading() -> dict:
    """Samples in order, all columns decoded: ours against iterating a StreamingDataset over the same shards."""
    from streaming import StreamingDataset

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        random = np.random.default_rng(0)
        samples = [
            {"tokens": random.integers(0, VOCAB, READ_LEN), "starts": [0, 700], "docs": [i + 1, i + 2]}
            for i in range(READ_SAMPLES)
        ]
        stage = Stage("s", 0, READ_SAMPLES, READ_LEN, (Draw("a", READ_SAMPLES, 0),), LearningRate())
        manifest, _ = write_shards(root, {("a", READ_LEN): [samples[i::4] for i in range(4)]}, [], (stage,), VOCAB)
        shards, windows = Shards(root, manifest), manifest.folders[0].windows
        theirs = StreamingDataset(local=str(root / f"a/{READ_LEN}"), shuffle=False, batch_size=1)
        ours = rate(lambda: sum(int(shards.sample(w.file, i)["tokens"][-1]) for w in windows for i in range(w.samples)))
        return row(
            "shards read / StreamingDataset",
            ours,
            "samples/s",
            rate(lambda: sum(int(s["tokens"][-1]) for s in theirs)),
            4.0,
        )


def rate(read: Callable[[], int]) -> float:
    """Samples a second, the best of three passes."""
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        read()
        best = max(best, READ_SAMPLES / (time.perf_counter() - start))
    return best


def row(work: str, value: float, unit: str, reference: float, must: float) -> dict:
    return {
        "work": work,
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": value / reference,
        "must": must,
    }


def main() -> None:
    print(f"{'work':48}{'value':>12} {'unit':12}{'reference':>12}{'ratio':>8}{'must':>8}")
    for line in rows():
        print("{work:48}{value:12,.0f} {unit:12}{reference:12,.0f}{ratio:8.2f}{must:8.1f}".format(**line))


if __name__ == "__main__":
    main()
