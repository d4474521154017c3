"""Chains, copies and pages of one template: what is kept of a component, and what 10^5 members cost.

    python -m benchmarks chains

Against single linkage (one document of each component is kept), against a naive loop over all pairs, and a tenth of the
members. Pages that share most of their text and are all kept take square time: how much. Sets of shingles are made
here: reading texts is no part of it.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from benchmarks.timing import row
from pipelines.dedup import clusters, keepers

THRESHOLD = 0.8
SHINGLES = 300  # of a text
WINDOWS, STEP = 60, 10  # neighbours have Jaccard .94, the first and the last share nothing
MEMBERS, TIMES = 100_000, 10
AT_A_TIME = 2000  # rows that come at a time, as a reader gives them
CHANGED = 12  # shingles of a near copy that are its own, at the most: any two have Jaccard .85 or more
COMMON = 0.75  # of a page is its template: Jaccard .6
MOST_GROWTH = 1.5 * TIMES


def rows() -> list[dict]:
    """Documents and shingles that are left of a chain; seconds of 10^5 members beside those of 10^4."""
    sets = chain(WINDOWS)
    keeper = keeper_of_each(sets)
    kept = np.flatnonzero(keeper == np.arange(WINDOWS))
    share = len(np.unique(np.concatenate([sets[i] for i in kept]))) / len(np.unique(np.concatenate(sets)))
    one = SHINGLES / len(np.unique(np.concatenate(sets)))
    table = [
        row(f"kept of {WINDOWS} windows / a naive loop", len(kept), "", len(naive(sets)), 1.0),
        row("share of their shingles that is left / single linkage", share, "", one, 1.0),
    ]
    for name, made in {"copies": copies, "a chain": chain}.items():
        (few, _), (many, n) = timed(made(MEMBERS // TIMES)), timed(made(MEMBERS))
        work = f"{MEMBERS:,} members, {name}, {n:,} kept / a tenth of them"
        must = MOST_GROWTH if name == "copies" else None  # many kept ones do not fit into the processor's cache
        table.append(row(work, many, "s", few, must) | {"at_most": True})
    spent, n = timed(pages(MEMBERS // TIMES))
    return [*table, row(f"{MEMBERS // TIMES:,} members, pages of a template, {n:,} kept: each meets all", spent, "s")]


def timed(sets: list[np.ndarray]) -> tuple[float, int]:
    """(CPU seconds, how many are kept)."""
    given = component(sets)
    parts = [given.slice(begin, AT_A_TIME) for begin in range(0, len(given), AT_A_TIME)]
    started = time.process_time()
    kept = pa.Table.from_batches(keepers.keep(parts, THRESHOLD), clusters.KEPT)
    spent = time.process_time() - started
    return spent, sum(a == b for a, b in zip(*(column.to_pylist() for column in kept.columns), strict=True))


def keeper_of_each(sets: list[np.ndarray]) -> np.ndarray:
    return keepers.choose(component(sets), 0, THRESHOLD)


def naive(sets: list[np.ndarray]) -> list[int]:
    kept: list[int] = []
    for i, one in enumerate(map(set, map(np.ndarray.tolist, sets))):
        others = (set(sets[k].tolist()) for k in kept)
        if all(len(one & other) < THRESHOLD * len(one | other) for other in others):
            kept.append(i)
    return kept


def component(sets: list[np.ndarray]) -> pa.Table:
    """One component of these sets, in this order, without pairs: the columns of `keepers.SETS`."""
    n = len(sets)
    bounds = np.append(0, np.cumsum([8 * len(one) for one in sets]))
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(np.concatenate(sets))]
    shingles = pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, buffers)
    known = pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], pa.int64()))
    names = pa.array([f"{i:09}" for i in range(n)])
    return pa.table([pa.array(["one"] * n), pa.array(np.arange(n)), names, known, shingles], schema=keepers.SETS)


# ---- sets: distinct int64, ascending ----


def chain(n: int) -> list[np.ndarray]:
    """Windows along one text, in random order."""
    chance = np.random.default_rng(1)
    text = numbers(chance, SHINGLES + STEP * n)
    return [np.sort(text[STEP * i : STEP * i + SHINGLES]) for i in chance.permutation(n)]


def copies(n: int) -> list[np.ndarray]:
    """One text with a few changes in each."""
    chance = np.random.default_rng(2)
    text = numbers(chance, SHINGLES)
    sets = []
    for _ in range(n):
        copy, changed = text.copy(), chance.integers(0, CHANGED + 1)
        copy[chance.integers(0, SHINGLES, changed)] = numbers(chance, changed)
        sets.append(np.unique(copy))
    return sets


def pages(n: int) -> list[np.ndarray]:
    """Texts of which a large part is the same, but too little to be near copies."""
    chance = np.random.default_rng(3)
    common = numbers(chance, int(COMMON * SHINGLES))
    return [np.sort(np.concatenate([common, numbers(chance, SHINGLES - len(common))])) for _ in range(n)]


def numbers(chance: np.random.Generator, n: int) -> np.ndarray:
    return chance.integers(-(1 << 63), (1 << 63) - 1, n)
