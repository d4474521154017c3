"""What a run tells of itself, step by step: metrics, seconds, and the ledger of what each document cost.

A run's folder holds `metrics.jsonl` (a line a step; the same bytes when a run is repeated), `seconds.jsonl` (wall
clock, which is not) and `ledger/steps-<first>-<last>.npy`, one file for each checkpoint. Steps count from 0, as in
`Batches.batch`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import to_disk
from model.data import Batch

# a document in a step: its 64-bit key, how many of its tokens were predicted there, their cross-entropies' sum in nats,
# and whether the step was skipped, so that nothing was learnt of it
ROW = np.dtype([("step", "<u4"), ("doc", "<i8"), ("tokens", "<u4"), ("loss", "<f4"), ("skipped", "?")])


NO_ROWS = np.zeros(0, ROW)


def segments(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Document key of each segment of a batch, and how many of its tokens are predicted."""
    segment_T, is_predicted_T = batch.packing.segments_BL.flatten().numpy(), (batch.targets_BL.flatten() >= 0).numpy()
    return batch.docs_S.numpy(), np.bincount(segment_T, weights=is_predicted_T, minlength=len(batch.docs_S))


def document_losses(step: int, docs_S: np.ndarray, predicted_S: np.ndarray, nats_S: np.ndarray) -> np.ndarray:
    """Ledger rows of one step from each segment's document, predicted tokens and nats, by document key; documents of
    which nothing is predicted have 0 tokens, padding has no row."""
    docs, document_S = np.unique(docs_S, return_inverse=True)
    rows = np.zeros(len(docs), ROW)
    rows["step"], rows["doc"] = step, docs
    for name, values_S in (("tokens", predicted_S), ("loss", nats_S)):
        rows[name] = np.bincount(document_S, weights=values_S, minlength=len(docs))
    return rows[docs != 0]


def load_metrics(load: Tensor) -> dict[str, float]:
    """Evenness of the experts, load [layers, E]: entropy as a share of its maximum (mean of layers), busiest over mean
    (worst layer)."""
    shares = load.double() / load.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(shares, shares).sum(1) / np.log(load.shape[1]) if load.shape[1] > 1 else shares
    return {
        "load_entropy": round(entropy.mean().item(), 6),
        "load_max": round((shares.max(1).values * load.shape[1]).max().item(), 6),
    }


class Journal:
    """Appends to a run's files. Opened at a checkpoint's step: what the run told after it is taken back."""

    def __init__(self, run: Path, step: int):
        self.folder, self.first, self.rows = run / "ledger", step, []
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, (_, last) in steps_of_files(run).items():
            if last >= step:
                path.unlink()
        self.metrics, self.seconds = (_reopen(run / name, step) for name in ("metrics.jsonl", "seconds.jsonl"))

    def add(self, line: dict, seconds: dict, rows: np.ndarray) -> None:
        """Tell of one step: what is the same whenever it is repeated, and what is not. Of numbers that are not finite,
        which JSON cannot say, nothing."""
        told = {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in line.items()
        }
        for file, content in ((self.metrics, told), (self.seconds, {"step": line["step"], **seconds})):
            file.write(json.dumps(content) + "\n")
            file.flush()
        self.rows.append(rows)

    def cut(self, step: int) -> Callable[[], None]:
        """Begin another file of the ledger. What is returned brings everything before to disk, which is to happen
        before the checkpoint of `step` is there; a thread may."""
        first, rows = self.first, self.rows
        self.first, self.rows = step, []
        return lambda: self._settle(first, step, rows)

    def _settle(self, first: int, step: int, rows: list[np.ndarray]) -> None:
        if rows:
            path = self.folder / f"steps-{first:07d}-{step - 1:07d}.npy"
            with (half := path.with_suffix(".half")).open("wb") as file:  # others read the folder while the run goes on
                np.save(file, np.concatenate(rows))
            to_disk(half)
            half.replace(path)
            to_disk(self.folder)
        for file in (self.metrics, self.seconds):
            to_disk(Path(file.name))

    def close(self) -> None:
        self.metrics.close()
        self.seconds.close()


def ledger_files(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, rows) of each file of a run's ledger, in order of steps: a long run's do not fit in memory together."""
    for path in steps_of_files(run):
        yield path.stem, np.load(path, allow_pickle=False)


def recorded_steps(run: Path) -> int:
    """How many steps, from the first on, metrics, seconds and ledger all tell of without a gap."""
    files = run / "metrics.jsonl", run / "seconds.jsonl"
    lines = [path.read_bytes().count(b"\n") if path.exists() else 0 for path in files]
    told = 0
    for first, last in steps_of_files(run).values():
        told = last + 1 if first <= told else told
    return min(told, *lines)


def steps_of_files(run: Path) -> dict[Path, tuple[int, int]]:
    """First and last step of each file of the ledger, in order."""
    return {path: tuple(map(int, path.stem.split("-")[1:])) for path in sorted((run / "ledger").glob("steps-*.npy"))}


def _reopen(path: Path, lines: int) -> TextIO:
    """Cut a file to its first `lines` lines, which a killed run had on disk by then, and open it for more.

    It is cut where it lies: a kill leaves it as it was, or cut.
    """
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(sum(map(len, itertools.islice(file, lines))))
    return path.open("a")
