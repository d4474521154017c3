"""Documents to packed sequences: a stream's seeded order, its windows, and best-fit packing inside a window.

Everything here is narrow: it needs the lengths of documents, never their tokens.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

HELDOUT = "heldout"  # the stream that is evaluated on; a source's stream has a dot in its name
MARKS = 2  # end-of-text before and after each document
# A stream is summed in so many pieces: 10^9 documents make pieces of 250,000, and 100 streams a table of 400,000 sums.
BUCKET_BITS = 12


def order_key(seed: int) -> Column:
    """Where a document stands in its stream: Spark's xxhash64 of (seed, doc_id), a signed 64-bit number.

    Held-out documents stand in order of doc_id: the sign bit of its first 64 bits is turned, so that signed order is
    theirs.
    """
    first_bits = F.conv(F.substring("doc_id", 1, 16), 16, -10).cast("bigint").bitwiseXOR(F.lit(-(1 << 63)))
    return F.when(F.col("stream") == HELDOUT, first_bits).otherwise(
        F.xxhash64(F.lit(seed).cast("bigint"), F.col("doc_id"))
    )


def in_seeded_order(documents: DataFrame, seed: int) -> DataFrame:
    """documents (doc_id, stream, cost, ...) with `offset`: the summed cost of those before it in (order_key, doc_id).

    A prefix sum on two levels, so that no task holds a whole stream: inside buckets of neighbouring keys, and over the
    buckets' sums.
    """
    keyed = documents.withColumn("order_key", order_key(seed)).withColumn(
        "bucket", F.shiftright("order_key", 64 - BUCKET_BITS)
    )
    earlier = Window.partitionBy("stream").orderBy("bucket").rowsBetween(Window.unboundedPreceding, -1)
    inside = (
        Window.partitionBy("stream", "bucket").orderBy("order_key", "doc_id").rowsBetween(Window.unboundedPreceding, -1)
    )
    sums = keyed.groupBy("stream", "bucket").agg(F.sum("cost").alias("cost"))
    before = sums.select("stream", "bucket", F.coalesce(F.sum("cost").over(earlier), F.lit(0)).alias("before"))
    summed = keyed.withColumn("within", F.coalesce(F.sum("cost").over(inside), F.lit(0)))
    placed = summed.join(F.broadcast(before), ["stream", "bucket"], how="inner")
    return placed.withColumn("offset", F.col("before") + F.col("within")).drop(
        "bucket", "within", "before", "order_key"
    )


def assign_windows(tokens: DataFrame, seed: int, window_tokens: int) -> DataFrame:
    """doc_id, doc_key, stream, window, position, n_tokens of every document that has tokens.

    `position` is the token of the stream at which the document begins, `window` that divided by `window_tokens`. A
    document longer than a window counts as a whole one: so windows have no gaps, each begins at least one document.
    """
    cost = F.least(F.col("n_tokens") + MARKS, F.lit(window_tokens))
    documents = tokens.where(F.col("n_tokens") > 0).select(
        "doc_id", "doc_key", "stream", "n_tokens", cost.alias("cost")
    )
    window = F.floor(F.col("offset") / window_tokens).cast("int")
    placed = in_seeded_order(documents, seed).withColumn("window", window)
    return placed.select("doc_id", "doc_key", "stream", "window", F.col("offset").alias("position"), "n_tokens")


def stream_sizes(tokens: DataFrame) -> DataFrame:
    """stream, documents, tokens (marks included) of every stream that is trained on: a few rows."""
    learnt = tokens.where((F.col("stream") != HELDOUT) & (F.col("n_tokens") > 0))
    sums = learnt.groupBy("stream").agg(
        F.count("*").alias("documents"), F.sum(F.col("n_tokens") + MARKS).alias("tokens")
    )
    return sums.select("stream", "documents", "tokens")


class Packing(NamedTuple):
    """Segments in order of (sample, start); arrays of one entry a segment.

    doc is the row of the document in the window, doc_start and n_tokens count its tokens with the marks, start is the
    token of the sample at which the segment begins.
    """

    samples: int
    sample: np.ndarray
    start: np.ndarray
    doc: np.ndarray
    doc_start: np.ndarray
    n_tokens: np.ndarray

    @property
    def slot(self) -> np.ndarray:
        """Number of each segment in its sample."""
        return np.arange(len(self.sample)) - np.searchsorted(self.sample, self.sample)


def pack(lengths: np.ndarray, seq_len: int) -> Packing:
    """Best-fit-decreasing packing of documents into sequences (Ding et al. 2404.10830).

    lengths: int64, tokens of each document with its marks, all positive. Only documents longer than a sequence are cut,
    into whole sequences and a rest. Of equally long pieces the earlier document's is placed first.
    """
    pieces = -(-lengths // seq_len)
    doc = np.repeat(np.arange(len(lengths)), pieces)
    doc_start = (np.arange(len(doc)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * seq_len
    n_tokens = np.minimum(lengths[doc] - doc_start, seq_len)
    order = np.argsort(-n_tokens, kind="stable")
    sample, start, samples = best_fit(n_tokens[order], seq_len)
    by_sample = np.argsort(sample, kind="stable")  # segments were placed left to right
    order = order[by_sample]
    return Packing(int(samples), sample[by_sample], start[by_sample], doc[order], doc_start[order], n_tokens[order])


@numba.njit(cache=True)
def best_fit(sizes, capacity):
    """Put each size, in the order given, into the open bin with the least room that has enough; else open a bin.

    Among bins of equal room the one changed last is taken. Bins of equal room form a stack; a tree of flags over rooms
    0 to capacity finds the least that is enough: O(n log capacity). Returns bin and start of each, number of bins.
    """
    leaves = 1
    while leaves < capacity + 1:
        leaves *= 2
    occupied = np.zeros(2 * leaves, np.bool_)  # occupied[leaves + room]; an inner node is the or of its children
    top = np.full(capacity + 1, -1, np.int64)  # top[room]: the bin changed last, below[bin]: the one under it
    below = np.full(len(sizes), -1, np.int64)
    bins = np.empty(len(sizes), np.int64)
    starts = np.empty(len(sizes), np.int64)
    count = 0
    for i in range(len(sizes)):
        room = _least(occupied, leaves, sizes[i])
        if room < 0:
            chosen, room = count, capacity
            count += 1
        else:
            chosen = top[room]
            top[room] = below[chosen]
            if top[room] < 0:
                _clear(occupied, leaves + room)
        bins[i], starts[i] = chosen, capacity - room
        left = room - sizes[i]
        if left > 0:
            below[chosen] = top[left]
            top[left] = chosen
            _mark(occupied, leaves + left)
    return bins, starts, count


@numba.njit(cache=True)
def _least(occupied, leaves, size):
    """The least occupied room of at least `size`, or -1."""
    node = leaves + size
    while not occupied[node]:
        while node & 1:  # up while a right child: nothing greater below this parent
            node >>= 1
        if node == 0:
            return -1
        node += 1  # the subtree of the next greater rooms
    while node < leaves:
        node = 2 * node if occupied[2 * node] else 2 * node + 1
    return node - leaves


@numba.njit(cache=True)
def _mark(occupied, node):
    while node and not occupied[node]:
        occupied[node] = True
        node >>= 1


@numba.njit(cache=True)
def _clear(occupied, node):
    occupied[node] = False
    node >>= 1
    while node and not occupied[2 * node] and not occupied[2 * node + 1]:
        occupied[node] = False
        node >>= 1


def shuffle_samples(packing: Packing, seed: int, stream: str, seq_len: int, window: int) -> Packing:
    """The same samples in the window's own seeded order. RandomState is the generator whose stream NumPy has frozen
    (NEP 19)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{seq_len}/{window}".encode(), digest_size=32).digest()
    place = np.random.RandomState(np.frombuffer(digest, "<u4")).permutation(packing.samples)
    order = np.argsort(place[packing.sample], kind="stable")
    return Packing(packing.samples, place[packing.sample][order], *(column[order] for column in packing[2:]))


WINDOW_SAMPLES = {
    "stream": "string",
    "seq_len": "int",
    "window": "int",
    "documents": "bigint",
    "samples": "bigint",
    "tokens": "bigint",
}


def window_samples(assigned: DataFrame, seq_lens: list[int]) -> DataFrame:
    """What each window of each stream gives at each length: stream, seq_len, window, documents, samples, tokens (with
    marks)."""

    def run(key: tuple, table: pa.Table) -> pa.Table:
        stream, window = (part.as_py() for part in key)
        lengths = table.column("n_tokens").to_numpy() + MARKS
        counts = [(stream, n, window, len(lengths), pack(lengths, n).samples, int(lengths.sum())) for n in seq_lens]
        types = [pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.int64(), pa.int64()]
        columns = [pa.array(column, kind) for column, kind in zip(zip(*counts, strict=True), types, strict=True)]
        return pa.table(columns, list(WINDOW_SAMPLES))

    learnt = assigned.where(F.col("stream") != HELDOUT).select("stream", "window", "n_tokens")
    return learnt.groupBy("stream", "window").applyInArrow(
        run, ", ".join(f"{name} {kind}" for name, kind in WINDOW_SAMPLES.items())
    )
