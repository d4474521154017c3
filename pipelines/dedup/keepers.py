"""Which texts of a component are kept: true Jaccard with those kept before, read in the order of preference.

A text drops for the most preferred kept one that it has a pair with; without such, for the most preferred kept one that
is near to it by the exact Jaccard index of both texts' shingles; else it is kept. A pair is near by that index too, so
what is kept is the first maximal independent set of the whole graph of similarity, whatever pairs LSH proposed.

Only kept texts are held: a component of 10^5 copies of a licence takes memory for a few. They are met by the least of
their shingles (prefix filter: Chaudhuri et al., A Primitive Operator for Similarity Joins, 2006), so that in a chain,
of which thousands are kept, a text meets few. Pages of one template meet all that are kept, by sketches of two bits a
shingle (Sandes et al., Bitmap Filter, 2017) that tell of most that they are not near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipelines.dedup.buckets import BLOCK
from pipelines.dedup.clusters import KEPT
from pipelines.dedup.verify import TEXTS, merge_reaches, read_rows, shingle_sets
from pipelines.texts.characters import read_only
from pipelines.texts.words import numbers
from schemas.parts import NearDuplicates

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MIX = 0x9E3779B97F4A7C15  # odd: multiplied by it, the upper bits of a number depend on all of them
AT_A_TIME = 4 * BLOCK  # shingles of texts that are read and compared together, 64 MB, beside those of kept ones
# UNDECIDED with each text's shingles, as `verify.shingle_sets` gives them.
SETS = pa.schema([
    ("component", pa.string()), ("place", pa.int64()), ("text_hash", pa.string()), ("known", pa.list_(pa.int64())),
    ("shingles", pa.large_binary()),
])  # fmt: skip


def keep(parts: Iterable[pa.Table], threshold: float) -> Iterator[pa.RecordBatch]:
    """KEPT of the rows of SETS, whole components in the order of UNDECIDED.

    Of a component that goes on in the next rows, the sets of kept texts are held. What is read at a time is as large as
    they are, so that they are gone through again seldom.
    """
    held, n_kept = SETS.empty_table(), 0
    for part in parts:
        held = pa.concat_tables([held, part])
        if _n_bytes(held) >= max(8 * AT_A_TIME, 2 * _n_bytes(held.slice(0, n_kept))):
            yield from _kept(held, keeper := choose(held, n_kept, threshold), n_kept)
            held, n_kept = _of_last_component(held, keeper)
    if len(held) > n_kept:
        yield from _kept(held, choose(held, n_kept, threshold), n_kept)


def choose(sets: pa.Table, n_kept: int, threshold: float) -> np.ndarray:
    """For each row of SETS that of its keeper, itself where it is kept: int64. The first n_kept are kept, as they are
    known to be."""
    shingles, bounds = numbers(sets.column("shingles").combine_chunks(), np.int64)
    component = pc.index_in(sets.column("component"), pc.unique(sets.column("component"))).to_numpy().astype(np.int64)
    known, known_bounds = _known_rows(sets, component)
    return _choose(read_only(shingles), bounds, component, known, known_bounds, n_kept, threshold)


def _n_bytes(sets: pa.Table) -> int:
    return pc.sum(pc.binary_length(sets.column("shingles"))).as_py() or 0


def _kept(sets: pa.Table, keeper: np.ndarray, n_kept: int) -> list[pa.RecordBatch]:
    hashes = sets.column("text_hash")
    return pa.table([hashes.slice(n_kept), hashes.take(pa.array(keeper[n_kept:]))], schema=KEPT).to_batches()


def _of_last_component(sets: pa.Table, keeper: np.ndarray) -> tuple[pa.Table, int]:
    """The rows that are kept in the last component, and how many they are."""
    last = pc.equal(sets.column("component"), sets.column("component")[-1]).to_numpy()
    kept = sets.take(pa.array(np.flatnonzero(last & (keeper == np.arange(len(keeper))))))
    return kept, len(kept)


def _known_rows(sets: pa.Table, component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, bounds): of each row those, of these rows, that it has a pair with; what is gone is not kept."""
    lists = sets.column("known").combine_chunks()
    of = pc.list_parent_indices(lists).to_numpy()
    keys = component << 32 | sets.column("place").to_numpy()
    wanted = component[of] << 32 | lists.flatten().to_numpy()
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    there = keys[rows] == wanted
    return rows[there], np.searchsorted(of[there], np.arange(len(keys) + 1))


@njit(cache=True, nogil=True)
def _choose(shingles, bounds, component, known, known_bounds, n_kept, threshold):
    n, size = len(component), bounds[-1] - bounds[0]
    keeper, met = np.arange(n), np.full(n, -1)
    kept, begin, end = np.empty(n, np.int64), 0, 0  # rows; those of this component are kept[begin:end]
    sketches = np.zeros((n + 1, 2 * size // (64 * max(n, 1)) + 1), np.uint64)  # of kept rows: two bits a shingle
    slots = 1
    while slots < size // 4:
        slots *= 2
    # Prefixes of kept texts: the newest posting of each slot, the older one in the same slot, and its place in `kept`.
    newest, older, owner = np.full(slots, -1), np.empty(size + n, np.int64), np.empty(size + n, np.int32)
    n_postings = 0
    for i in range(n):
        if i > 0 and component[i] != component[i - 1]:
            begin = end
        if i >= n_kept:
            for j in known[known_bounds[i] : known_bounds[i + 1]]:
                if keeper[j] == j:
                    keeper[i] = min(keeper[i], j)
        if keeper[i] < i:
            continue
        own = shingles[bounds[i] : bounds[i + 1]]
        # Two texts this similar share threshold * |own| shingles at the least: not all of these lie behind the prefix.
        prefix = own[: len(own) - int(threshold * len(own)) + 1]
        _sketch(own, sketches[end])
        if i >= n_kept:
            postings, texts = (newest, older, owner), (shingles, bounds, kept, sketches)
            first = _first_near(own, prefix, begin, end, postings, texts, met, i, threshold)
            if first < end:
                keeper[i] = kept[first]
                sketches[end] = 0
                continue
        for value in prefix:
            slot = _slot(value, slots)
            older[n_postings], owner[n_postings], newest[slot] = newest[slot], end, n_postings
            n_postings += 1
        kept[end] = i
        end += 1
    return keeper


@njit
def _first_near(own, prefix, begin, end, postings, texts, met, i, threshold):
    """The first place in kept[begin:end] of a text that is near to the one whose sketch is sketches[end]; `end` if none
    is. By the postings of its prefix, or by all sketches where these are fewer. met: the last i that asked."""
    newest, older, owner = postings
    shingles, bounds, kept, sketches = texts
    first, left = end, end - begin
    for value in prefix:
        posting = newest[_slot(value, len(newest))]
        while posting >= 0 and owner[posting] >= begin and left >= 0:
            k, posting, left = owner[posting], older[posting], left - 1
            if k < first and met[k] != i:
                met[k] = i
                other = shingles[bounds[kept[k]] : bounds[kept[k] + 1]]
                if _near(own, other, sketches[end], sketches[k], threshold):
                    first = k
    if left < 0:
        for k in range(begin, first):
            other = shingles[bounds[kept[k]] : bounds[kept[k] + 1]]
            if met[k] != i and _near(own, other, sketches[end], sketches[k], threshold):
                return k
    return first


@njit(inline="always")
def _slot(value, slots):
    return ((np.uint64(value) * np.uint64(MIX)) >> np.uint64(32)) & np.uint64(slots - 1)


@njit
def _sketch(values, bits):
    """Flip a bit for each value: what differs in two sketches is at most what differs in the sets."""
    for value in values:
        bit = ((np.uint64(value) * np.uint64(MIX)) >> np.uint64(32)) * np.uint64(64 * len(bits)) >> np.uint64(32)
        bits[bit >> np.uint64(6)] ^= np.uint64(1) << (bit & np.uint64(63))


@njit
def _near(a, b, bits_a, bits_b, threshold):
    """Whether the Jaccard index of two sets reaches the threshold. Sketches tell of most that it does not: two sets
    this similar differ in (1 - threshold) / (1 + threshold) of their values at the most."""
    most = (1 - threshold) / (1 + threshold) * (len(a) + len(b)) + 1  # and one, for rounding
    return _differing(bits_a, bits_b) <= most and merge_reaches(a, b, threshold)


@njit
def _differing(a, b):
    """Bits that differ: LLVM makes of this the processor's instruction."""
    n = np.uint64(0)
    for k in range(len(a)):
        x = a[k] ^ b[k]
        x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
        x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        n += (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return n


def keep_here(
    undecided: pa.Table, texts: list[str], spark: Callable[[], SparkSession], near: NearDuplicates
) -> pa.Table:
    """KEPT of UNDECIDED that fit into this process; texts: paths as `dedup.pairs_here` takes them.

    Tasks of Spark read the texts of whole components themselves; of few they are read here, and Spark is not asked for.
    """
    n_shingles = pc.sum(undecided.column("n_shingles")).as_py() or 0
    keep = keep_in_files(texts, near)
    if n_shingles <= BLOCK:
        return pa.Table.from_batches(keep(undecided.to_batches()), KEPT)
    session = spark()
    n = n_tasks(n_shingles, int(session.conf.get("spark.sql.shuffle.partitions")))
    tasks = session.createDataFrame(undecided.append_column("task", pa.array(task_of_each(undecided, n))))
    return tasks.repartitionById(n, "task").mapInArrow(keep, "text_hash string, keeper string").toArrow()


def n_tasks(n_shingles: int, most: int) -> int:
    """Into how many tasks so many shingles are dealt: `most`, or more where each would read more than once."""
    return max(min(most, n_shingles // BLOCK + 1), n_shingles // AT_A_TIME + 1)


def task_of_each(undecided: pa.Table, n: int) -> np.ndarray:
    """The task of each text, int32: that of its component; the same number of shingles in each as far as that goes."""
    n_shingles, component = undecided.column("n_shingles").to_numpy(), undecided.column("component")
    before = np.cumsum(n_shingles) - n_shingles
    begins = pc.index_in(component, component).to_numpy()
    return (before[begins] * n // n_shingles.sum()).astype(np.int32)


def keep_in_files(
    files: list[str], near: NearDuplicates
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """An Arrow function: UNDECIDED, whole components -> KEPT, by the texts in Parquet files (doc_id, text)."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        read = list(batches)
        if read:
            rows = pa.Table.from_batches(read).sort_by([("component", "ascending"), ("place", "ascending")])
            yield from keep(read_sets(rows, files, near.ngram), near.threshold)

    return run


def read_sets(undecided: pa.Table, files: list[str], ngram: int) -> Iterator[pa.Table]:
    """The rows as SETS, AT_A_TIME shingles at a time."""
    number = np.cumsum(undecided.column("n_shingles").to_numpy()) // AT_A_TIME
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(number)], strict=True):
        rows = undecided.slice(start, stop - start)
        made = [
            [part.column("doc_id"), shingle_sets(part.column("text"), ngram)]
            for part in read_rows(files, rows.column("doc_id").combine_chunks(), TEXTS)
        ]
        sets = pa.Table.from_batches([pa.record_batch(columns, names=["doc_id", "shingles"]) for columns in made])
        shingles = sets.column("shingles").cast(pa.large_binary())
        places = pc.index_in(rows.column("doc_id"), sets.column("doc_id"))
        yield rows.append_column("shingles", shingles.take(places)).select(SETS.names)
