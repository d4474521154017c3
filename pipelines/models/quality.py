"""Training a domain's quality model: fastText, positives against the pool, tested on a held-out tenth (DCLM,
2406.11794).

The positives are the user's, the negatives a sample of the domain's pool. `pipelines.signals.quality` says what the
model reads of a text, predicts with it, and what its scores do not tell; `pipelines.models.limits` measures that.
"""

from __future__ import annotations

import contextlib
import ctypes
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedup.clusters import components
from pipelines.models import audit
from pipelines.signals.quality import OTHER, WANTED, excerpt, score
from schemas.errors import DataError

MIN_EXAMPLES = 20  # of each kind: below, a held-out tenth has no two texts to compare
# Small, so that training takes seconds and a model 7 MB; word pairs are worth 1 point of CORE in DCLM's table.
SETTINGS = {"dim": 16, "wordNgrams": 2, "bucket": 100_000, "lr": 0.5, "minCount": 2, "thread": 1, "verbose": 0}
# DCLM's rate of .1 and 5 epochs are for 400,000 examples. Told apart pieces of the standard library and of two packages
# from 100 / 400 / 1,200 examples of each: AUC .80 / .83 / .88 as in DCLM, .93 / .99 / .99 with .5 and this rule.
MIN_EPOCHS, MAX_EPOCHS, EXAMPLES_SEEN = 5, 25, 20_000
M_PERTURB = -6  # malloc.h of glibc


@dataclass(frozen=True)
class Trained:
    """A quality model: the bytes of its file, and what its card says.

    `auc` is the chance that a held-out positive scores above a held-out text of the pool, .5 is guessing; `interval`
    has the true one with 95 % confidence. `heldout`: the places of the positives and of the pool's texts that it was
    tested on. `n_empty` examples had no words, `n_copies` of the pool were near copies of positives: neither are used.
    """

    model: bytes
    auc: float
    interval: tuple[float, float]
    calibration: dict[str, Any]
    n_positives: int
    n_pool: int
    heldout: tuple[tuple[int, ...], tuple[int, ...]]
    n_empty: int
    n_copies: int

    @property
    def n_heldout(self) -> int:
        return sum(map(len, self.heldout))

    @property
    def card(self) -> dict[str, Any]:
        """What is told of the model beside it, as JSON values."""
        return {
            "auc": self.auc,
            "auc_interval": self.interval,
            "positives": self.n_positives,
            "pool": self.n_pool,
            "heldout": self.n_heldout,
            "left_out": {"empty": self.n_empty, "copies": self.n_copies},
            "calibration": self.calibration,
        }


def train(positives: list[str], pool: list[str], seed: int, name: str = "model") -> Trained:
    """Train on nine tenths, test on the rest. Equal texts and seed give equal bytes (one thread, seeded order).

    Near copies of one another stand on one side, so the test is of texts that were not seen. Raises DataError for
    fewer than 20 usable positives or pool texts, or too few that differ; `name` stands in its message.
    """
    read = [excerpt(text) for text in (*positives, *pool)]
    wanted, worded = np.arange(len(read)) < len(positives), np.array([bool(line.strip(" \0")) for line in read], bool)
    groups = near_copies(read)
    copied = worded & ~wanted & np.isin(groups, groups[wanted & worded])
    for kind, which, left_out in (("positives", wanted, ~worded), ("pool texts", ~wanted, ~worded | copied)):
        _require(name, kind, int(which.sum()), int((which & left_out).sum()))
    kinds = [np.flatnonzero(which & worded & ~copied) for which in (wanted, ~wanted)]
    heldout = [_heldout(name, members, groups[members], seed + i) for i, members in enumerate(kinds)]
    lines = [
        f"{label} {read[i]}"
        for label, members, out in zip((WANTED, OTHER), kinds, heldout, strict=True)
        for i in members[~out]
    ]
    np.random.default_rng(seed).shuffle(lines)  # fastText reads in the order of the file
    model = _fit(lines, seed)
    tested = [members[out] for members, out in zip(kinds, heldout, strict=True)]
    scores = [score(pa.array([read[i] for i in members]), model) for members in tested]
    sizes, auc = [len(one) for one in scores], audit.auc(*scores)
    calibration = audit.calibration(np.concatenate(scores), np.repeat([1.0, 0.0], sizes))
    places = tuple(tested[0].tolist()), tuple((tested[1] - len(positives)).tolist())
    counts = (*map(len, kinds), places, int((~worded).sum()), int(copied.sum()))
    return Trained(model, auc, audit.auc_interval(auc, *sizes), calibration, *counts)


def near_copies(texts: list[str]) -> np.ndarray:
    """int64[texts]: equal numbers for texts that share a MinHash band, or are connected by others that do."""
    from pipelines.signals import fingerprints
    from pipelines.signals.context import Context

    keys = fingerprints.measure(pa.array(texts, pa.string()), None, Context(b""))[3]
    owner = np.repeat(np.arange(len(texts)), pc.list_value_length(keys))
    _, first, band = np.unique(keys.flatten().to_numpy(), return_index=True, return_inverse=True)
    return components(owner, owner[first[band]], len(texts))


def _require(name: str, kind: str, given: int, left_out: int) -> None:
    if given - left_out >= MIN_EXAMPLES:
        return
    if kind == "positives":
        why, how = "without words", "let `positives` match more documents"
    else:
        why, how = "without words or near copies of positives", "let `positives` match fewer documents of the domain"
    without = f" of {given} ({left_out} are {why})" if left_out else ""
    raise DataError(
        f"quality.{name}: expected at least {MIN_EXAMPLES} {kind}, found {given - left_out}{without}; {how}"
    )


def _heldout(name: str, members: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """bool[members]: whole groups of near copies in seeded order, as long as they are no more than a tenth together."""
    numbers, sizes = np.unique(groups, return_counts=True)
    order, most = np.random.default_rng(seed).permutation(len(numbers)), len(members) // 10
    order = order[sizes[order] <= most]
    drawn = np.isin(groups, numbers[order[np.cumsum(sizes[order]) <= most]])
    if not drawn.any():
        raise DataError(
            f"quality.{name}: expected examples that differ, found {len(members)} in {len(numbers)} groups of near "
            "copies, none small enough to test on; let `positives` match other documents"
        )
    return drawn


def _fit(lines: list[str], seed: int) -> bytes:
    epochs = min(max(EXAMPLES_SEEN // len(lines), MIN_EPOCHS), MAX_EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        examples, model = Path(folder, "examples.txt"), Path(folder, "model.bin")
        examples.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with _zeroed_memory():
            fasttext.train_supervised(str(examples), seed=seed, epoch=epochs, **SETTINGS).save_model(str(model))
        return model.read_bytes()


@contextlib.contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Let malloc hand out zeros.

    fastText 0.9.3 with one thread starts nine tenths of its matrix from whatever stood in that memory (densematrix.cc:
    the random start fills a tenth a thread, aligned.h does not clear): no two runs agree, some end in "Encountered
    NaN". glibc fills what it hands out with the complement of M_PERTURB's byte. Other C libraries have no mallopt;
    there blocks of this size come fresh from the kernel, which is zeros too.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: None)
    mallopt(M_PERTURB, 0xFF)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)
