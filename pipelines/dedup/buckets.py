"""Candidates for near copies: buckets of band keys, windows in them, and what new documents change. Plain functions, no
Spark.

A *node* is a distinct text_hash: texts of one hash have the same words, so one signature and one set of shingles. Nodes
are numbered in the order of (n_shingles, text_hash). A *bucket* holds the nodes that share a band's key, in that order;
each meets the next `NEIGHBOURS`. The *support* of a pair is the number of buckets in which its ends meet.

A new node changes only the buckets that it falls into. There, a pair with a new end gains support, and a pair of old
nodes can only lose it, when new ones come to stand between them: so old supports plus these changes are the supports of
all nodes together, whatever the order in which they arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipelines.dedup.clusters import components
from pipelines.signals import fingerprints

# Each member of a bucket meets the next so many, in order of shingle count: linear cost for 10^5 copies of one licence,
# every pair in buckets up to this size. Similar texts have similar counts, so true pairs stand close together.
NEIGHBOURS = 16
# A pair is verified only if its estimated similarity is not this far below the threshold: 4 standard deviations of a
# 112-row estimate at 0.8 (0.038 each), measured to lose nothing.
SLACK = 0.15
# Shingles of the documents of one block, 16 MB. A Python worker holds two blocks at once.
BLOCK = 1 << 21
LEAST_BLOCKS = 8  # smaller ones where there is little to verify, so that it is dealt to several tasks
# The columns of `changes`.
CHANGES = pa.schema(
    [(name, pa.int32() if name == "change" else pa.string()) for name in ("a", "b", "change", "doc_a", "doc_b", "tile")]
)
MOVED = pa.schema([("a", pa.string()), ("b", pa.string()), ("change", pa.int32())])
PAIRS = pa.schema([("a", pa.string()), ("b", pa.string()), ("support", pa.int32())])
# Bits of the table in which new keys are marked, for each of them: fewer than 1 of 8 others that share no key are taken
# for touched.
MARK_BITS = 128


def changes(rows: pa.Table, threshold: float) -> pa.Table:
    """The columns of CHANGES: pairs (a < b, text_hash) whose support changes, by how much, and where they are verified.

    rows: doc_id, text_hash, n_shingles (above 0), signature, band_keys, new; copies may be among them, and a text is
    new if all of them are. Pairs that gain are those whose signatures do not rule the threshold out. doc_a, doc_b: the
    smallest doc_id of each end.
    """
    if not len(rows):
        return CHANGES.empty_table()
    rows = rows.combine_chunks()
    order = pc.sort_indices(rows, [("n_shingles", "ascending"), ("text_hash", "ascending"), ("doc_id", "ascending")])
    first = _first_of_each(rows.column("text_hash").take(order))
    new = np.logical_and.reduceat(rows.column("new").take(order).to_numpy(), np.flatnonzero(first))
    nodes = rows.take(order.filter(first)).combine_chunks()  # once: a row is half a kilobyte
    keys = band_keys(nodes)
    signatures = fingerprints.matrix(nodes.column("signature").combine_chunks())
    a, b, change = window_changes(keys, new, signatures, threshold - SLACK)
    tiles = place_in_tiles(a, b, change > 0, nodes.column("n_shingles").to_numpy())
    hashes, ids = nodes.column("text_hash"), nodes.column("doc_id")
    a, b = _by_hash(hashes, a, b)
    columns = [hashes.take(a), hashes.take(b), pa.array(change.astype(np.int32)), ids.take(a), ids.take(b), tiles]
    return pa.table(columns, names=CHANGES.names)


def mark_keys(parts: Iterable[pa.RecordBatch]) -> np.ndarray:
    """A table of bits in which the keys of new texts are marked: uint8, a power of two long, 1 MB at the least. parts:
    band_keys."""
    keys = [part.column("band_keys").flatten().to_numpy() for part in parts]
    marked = np.zeros(1 << max(20, (sum(map(len, keys)) * MARK_BITS // 8).bit_length()), np.uint8)
    for some in keys:
        _mark(some, marked)
    return marked


def mark(keys: np.ndarray) -> np.ndarray:
    """The same of keys (int64) of which a row has one: one in 16 others is taken for marked."""
    marked = np.zeros(1 << max(10, (2 * len(keys)).bit_length()), np.uint8)
    _mark(keys, marked)
    return marked


def select_marked(parts: Iterable[pa.RecordBatch], marked: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows whose `key` is marked, and few others."""
    for part in parts:
        keys = part.column("key").to_numpy()
        yield part.filter(pa.array(_any_marked(keys, np.arange(len(keys) + 1, dtype=np.int32), marked)))


def select_touched(part: pa.RecordBatch, marked: np.ndarray) -> pa.RecordBatch:
    """Its rows without most of those that share no key with a new text, whose buckets therefore change nothing; none
    without words."""
    keys = part.column("band_keys")
    return part.filter(pa.array(_any_marked(keys.values.to_numpy(), keys.offsets.to_numpy(), marked)))


def band_keys(rows: pa.Table) -> np.ndarray:
    """int64[rows, bands] of rows with words."""
    return rows.column("band_keys").combine_chunks().flatten().to_numpy().reshape(len(rows), -1)


def update_support(known: pa.Table, lost: pa.Table, fresh: pa.Table) -> pa.Table:
    """The pairs (a, b, support) that were known, less the support that they lost, and the fresh ones. lost: a, b,
    change (below 0)."""
    joined = known.join(lost.select(["a", "b", "change"]), ["a", "b"], join_type="left outer")
    support = pc.add(joined.column("support"), pc.fill_null(joined.column("change"), 0))
    left = joined.select(["a", "b"]).append_column("support", support).filter(pc.greater(support, 0))
    return pa.concat_tables([left.cast(PAIRS), fresh.cast(PAIRS)])


def _first_of_each(values: pa.ChunkedArray) -> pa.Array:
    """True where a value differs from the one before it; values: one or more."""
    differs = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy()
    return pa.array(np.concatenate([[True], differs]))


def window_changes(
    keys: np.ndarray, new: np.ndarray, signatures: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, change): node numbers, a < b, and how the pair's support changes by the new nodes; pairs in ascending
    order.

    keys: int64[nodes, bands]; new: bool[nodes]; signatures: uint32[nodes, entries]. Pairs that gain and whose estimated
    similarity is below `least` are left out.
    """
    pairs, change, nodes = np.zeros(0, np.int64), np.zeros(0, np.int64), np.arange(len(keys))
    for band in range(keys.shape[1]):
        moved, by = bucket_changes(np.ascontiguousarray(keys[:, band]), nodes, new)
        fit = (by < 0) | likely(signatures, moved, least)
        pairs, change = summed(np.concatenate([pairs, moved[fit]]), np.concatenate([change, by[fit]]))
    return pairs >> 32, pairs & 0xFFFFFFFF, change


def bucket_changes(keys: np.ndarray, nodes: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a << 32 | b, change) of the buckets of some rows, a pair once for each bucket.

    keys, nodes: int64[rows], the key of a node; all rows of a key. new: bool[nodes].
    """
    order = np.argsort(keys)
    sorted_keys = keys[order]
    room = _room(sorted_keys, NEIGHBOURS)
    pairs, change = np.empty(room, np.int64), np.empty(room, np.int64)
    n = _windows(sorted_keys, nodes[order], new, NEIGHBOURS, pairs, change)
    return pairs[:n], change[:n]


def likely_pairs(rows: pa.RecordBatch, least: float) -> pa.RecordBatch:
    """The rows of pairs (signature_a, signature_b, ...) whose estimated similarity is at least `least`."""
    a, b = (fingerprints.matrix(rows.column(f"signature_{side}")) for side in ("a", "b"))
    pairs = np.arange(len(a)) << 32 | np.arange(len(a), 2 * len(a))
    return rows.filter(pa.array(likely(np.concatenate([a, b]), pairs, least)))


def summed(pairs: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair once, in ascending order, with the sum of its changes."""
    pairs, places = np.unique(pairs, return_inverse=True)
    return pairs, np.bincount(places, change, len(pairs)).astype(np.int64)


def _by_hash(hashes: pa.ChunkedArray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of pairs, that of the smaller hash first."""
    swap = pc.greater(hashes.take(a), hashes.take(b)).to_numpy()
    return np.where(swap, b, a), np.where(swap, a, b)


def place_in_tiles(a: np.ndarray, b: np.ndarray, wanted: np.ndarray, n_shingles: np.ndarray) -> pa.Array:
    """The tile in which each wanted pair is verified: the two blocks of about `BLOCK` shingles that its ends lie in.

    Blocks are cut from the nodes in order of component, then shingle count: components lie together, and so do, in one
    of 10^5 near copies, the neighbours in its buckets. A document's text is then in few tiles, however many its pairs.
    """
    component = components(a[wanted], b[wanted], len(n_shingles))
    ends = np.unique(np.concatenate([a[wanted], b[wanted]]))
    order = ends[np.argsort(component[ends], kind="stable")]
    block = np.zeros(len(n_shingles), np.int64)
    total = int(n_shingles[order].sum(dtype=np.int64))
    block[order] = _blocks(n_shingles[order], min(BLOCK, total // LEAST_BLOCKS + 1))
    sides = [pa.array(side(block[a], block[b])).cast(pa.string()) for side in (np.minimum, np.maximum)]
    return pc.binary_join_element_wise(*[pc.utf8_lpad(side, 8, "0") for side in sides], "-")


def blocks_of_components(ends: pa.Table) -> pa.Table:
    """(text_hash, doc_id, block) of ends of pairs: text_hash, doc_id, n_shingles, component, all ends of a component.

    The blocks of `place_in_tiles`; each is named by its first text.
    """
    ends = ends.sort_by([(name, "ascending") for name in ("component", "n_shingles", "text_hash")]).combine_chunks()
    block = _blocks(ends.column("n_shingles").to_numpy(), BLOCK)
    names = ends.column("text_hash").take(pa.array(np.searchsorted(block, block)))
    return ends.select(["text_hash", "doc_id"]).append_column("block", names)


def _blocks(n_shingles: np.ndarray, size: int) -> np.ndarray:
    """The number of the block of each text, in order: so many shingles a block."""
    return np.cumsum(n_shingles, dtype=np.int64) // size


@njit(cache=True)
def _mark(keys, marked):
    for key in keys:
        marked[(key >> 3) & (len(marked) - 1)] |= 1 << (key & 7)


@njit(cache=True)
def _any_marked(keys, bounds, marked):
    """Whether each row has a key whose bit is set; a row's keys are keys[bounds[i] : bounds[i + 1]]."""
    mask = np.zeros(len(bounds) - 1, np.bool_)
    for i in range(len(mask)):
        for key in keys[bounds[i] : bounds[i + 1]]:
            if marked[(key >> 3) & (len(marked) - 1)] >> (key & 7) & 1:
                mask[i] = True
                break
    return mask


@njit(cache=True)
def _room(keys, neighbours):
    """How many changes one band can make at most; keys: sorted."""
    room = begin = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            room += 2 * (end - begin) * min(end - begin - 1, neighbours)
            begin = end
    return room


@njit(cache=True)
def _windows(keys, nodes, new, neighbours, pairs, change):
    """Fill pairs and change with those of every bucket; how many there are. keys: sorted, of the `nodes`."""
    n = begin = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            if end - begin > 1:
                n = _bucket(np.sort(nodes[begin:end]), new, neighbours, pairs, change, n)
            begin = end
    return n


@njit
def _bucket(members, new, neighbours, pairs, change, n):
    old = np.empty(len(members), np.int64)  # places of old members
    n_old = 0
    for i in range(len(members)):
        if not new[members[i]]:
            old[n_old] = i
            n_old += 1
    if n_old == len(members):
        return n
    for i in range(len(members)):
        for j in range(i + 1, min(i + 1 + neighbours, len(members))):
            if new[members[i]] or new[members[j]]:
                pairs[n], change[n] = members[i] << 32 | members[j], 1
                n += 1
    for i in range(n_old):
        for j in range(i + 1, min(i + 1 + neighbours, n_old)):
            if old[j] - old[i] > neighbours:
                pairs[n], change[n] = members[old[i]] << 32 | members[old[j]], -1
                n += 1
    return n


@njit(cache=True)
def likely(signatures, pairs, least):
    """Whether the share of entries that agree is at least `least`, of each pair a << 32 | b of rows: bool[pairs]."""
    fit = np.empty(len(pairs), np.bool_)
    for i in range(len(pairs)):
        first, second, equal = signatures[pairs[i] >> 32], signatures[pairs[i] & 0xFFFFFFFF], 0
        for k in range(len(first)):
            equal += first[k] == second[k]
        fit[i] = equal / len(first) >= least
    return fit
