"""What a run tells of itself, step by step: metrics, seconds, and the ledger of what each document cost.

A run's folder holds `metrics.jsonl` (a line a step; the same bytes when a run is repeated), `seconds.jsonl` (wall
clock, which is not) and `ledger/steps-<first>-<last>.npy`, one file for each checkpoint. Steps count from 0, as in
`Batches.batch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import to_disk
from model.data import Batch

# a document in a step: its 64-bit key, how many of its tokens were predicted there, and their cross-entropies' sum in
# nats
ROW = np.dtype([("step", "<u4"), ("doc", "<i8"), ("tokens", "<u4"), ("loss", "<f4")])


def document_losses(step: int, batch: Batch, targets_BL: Tensor, losses_T: Tensor) -> np.ndarray:
    """Ledger rows of one step, by document key; documents of which nothing is predicted have 0 tokens, padding has no
    row."""
    docs, document_of_segment = np.unique(batch.docs_S.numpy(), return_inverse=True)
    document = document_of_segment[batch.segments_BL.flatten().numpy()]
    tokens = np.bincount(document, weights=(targets_BL.flatten() >= 0).numpy(), minlength=len(docs))
    losses = np.bincount(document, weights=losses_T.double().cpu().numpy(), minlength=len(docs))
    rows = np.zeros(len(docs), ROW)
    rows["step"], rows["doc"], rows["tokens"], rows["loss"] = step, docs, tokens, losses
    return rows[docs != 0]


def load_metrics(load: Tensor) -> dict[str, float]:
    """Evenness of the experts, load [layers, E]: entropy as a share of its maximum (mean of layers), busiest over mean
    (worst layer)."""
    shares = load.double() / load.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(shares, shares).sum(1) / np.log(max(2, load.shape[1]))
    return {
        "load_entropy": round(entropy.mean().item(), 6),
        "load_max": round((shares.max(1).values * load.shape[1]).max().item(), 6),
    }


class Journal:
    """Appends to a run's files. Opened at a checkpoint's step: what the run told after it is taken back."""

    def __init__(self, run: Path, step: int):
        self.folder, self.first, self.rows = run / "ledger", step, []
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("steps-*.npy"):
            if int(path.stem.split("-")[2]) >= step:
                path.unlink()
        self.metrics, self.seconds = (_reopen(run / name, step) for name in ("metrics.jsonl", "seconds.jsonl"))

    def add(self, line: dict, seconds: float, rows: np.ndarray) -> None:
        """Tell of one step."""
        for file, content in (
            (self.metrics, line),
            (self.seconds, {"step": line["step"], "seconds": round(seconds, 4)}),
        ):
            file.write(json.dumps(content) + "\n")
            file.flush()
        self.rows.append(rows)

    def settle(self, step: int) -> None:
        """Bring everything to disk before the checkpoint of `step`."""
        if self.rows:
            path = self.folder / f"steps-{self.first:07d}-{step - 1:07d}.npy"
            np.save(path, np.concatenate(self.rows))
            to_disk(path)
        self.first, self.rows = step, []
        for file in (self.metrics, self.seconds):
            to_disk(Path(file.name))

    def close(self) -> None:
        self.metrics.close()
        self.seconds.close()


def ledger_files(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, rows) of each file of a run's ledger, in order of steps: a long run's do not fit in memory together."""
    for path in sorted((run / "ledger").glob("steps-*.npy")):
        yield path.stem, np.load(path, allow_pickle=False)


def recorded_steps(run: Path) -> int:
    """How many steps, from the first on, metrics, seconds and ledger all tell of without a gap."""
    lines = [
        len(path.read_text().splitlines()) if path.exists() else 0
        for path in (run / "metrics.jsonl", run / "seconds.jsonl")
    ]
    told = 0
    for path in sorted((run / "ledger").glob("steps-*.npy")):
        first, last = map(int, path.stem.split("-")[1:])
        told = last + 1 if first <= told else told
    return min(told, *lines)


def _reopen(path: Path, lines: int):
    """Cut a file to its first `lines` lines, which a killed run had on disk by then, and open it for more."""
    kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
    path.write_text("".join(kept))
    return path.open("a")
