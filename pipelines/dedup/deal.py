"""Band keys dealt to parts that hold whole buckets, and what changes in each. Plain functions, no Spark.

To Spark the sixteen keys of a text are sixteen rows, of 100 bytes and a microsecond or two each. Here they are records
of 29 bytes, and what a task has for a part is one value; of a part's keys only those that two texts share are sorted by
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipelines.dedup.buckets import MOVED, band_keys, bucket_changes, summed
from pipelines.texts.characters import utf8
from pipelines.texts.words import numbers

# A key of a text: the text_hash as two numbers, which are in the order of the hashes.
RECORD = np.dtype([("key", "<i8"), ("high", "<u8"), ("low", "<u8"), ("n_shingles", "<i4"), ("new", "?")])
DEALT = "part int, records binary"
AT_A_TIME = 1 << 16  # rows that are dealt together: 30 MB of records
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplied by it, the upper bits of a number depend on all of them
DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def deal(batches: Iterable[pa.RecordBatch], parts: int) -> Iterator[pa.RecordBatch]:
    """DEALT of rows: text_hash (32 hex digits), n_shingles, new, band_keys."""
    held, n = [], 0
    for batch in batches:
        held, n = [*held, batch], n + len(batch)
        if n >= AT_A_TIME:
            yield _dealt(pa.Table.from_batches(held), parts)
            held, n = [], 0
    if n:
        yield _dealt(pa.Table.from_batches(held), parts)


def _dealt(rows: pa.Table, parts: int) -> pa.RecordBatch:
    rows = rows.combine_chunks()
    keys = band_keys(rows)
    records = np.empty(keys.shape, RECORD)
    records["key"] = keys
    for name, column in zip(("high", "low"), hash_numbers(rows.column("text_hash").combine_chunks()), strict=True):
        records[name] = column[:, None]
    for name in "n_shingles", "new":
        records[name] = rows.column(name).to_numpy()[:, None]
    part = ((keys.ravel().view(np.uint64) * MIX) >> np.uint64(32)) % np.uint64(parts)
    part = part.astype(np.uint16 if parts <= 1 << 16 else np.uint32)  # of two bytes NumPy's sort is linear
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(parts + 1, dtype=np.int64))
    data = [None, pa.py_buffer((bounds * RECORD.itemsize).astype(np.int32)), pa.py_buffer(records.ravel()[order])]
    values = pa.BinaryArray.from_buffers(pa.binary(), parts, data)
    dealt = pa.record_batch([pa.array(np.arange(parts, dtype=np.int32)), values], names=["part", "records"])
    return dealt.filter(pa.array(np.diff(bounds) > 0))


def changes_of_part(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """MOVED by the buckets of a part; batches: its DEALT. Texts of one hash are one node.

    Signatures are not asked: a row of theirs is wider than all else, and would travel once for each band.
    """
    values = [numbers(batch.column("records"), RECORD) for batch in batches]
    if not values:
        return
    records = _of_shared_keys(np.concatenate([some[bounds[0] : bounds[-1]] for some, bounds in values]))
    high, low, n_shingles = (np.ascontiguousarray(records[name]) for name in ("high", "low", "n_shingles"))
    order = np.lexsort((low, high, n_shingles))
    records, high, low = records[order], high[order], low[order]
    first = np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1]))[: len(order)]
    if not len(first):
        return
    starts = np.flatnonzero(first)
    new = np.logical_and.reduceat(records["new"], starts)
    keys, nodes = _distinct(np.ascontiguousarray(records["key"]), np.cumsum(first) - 1)
    pairs, change = summed(*bucket_changes(keys, nodes, new))
    a, b, high, low = pairs >> 32, pairs & 0xFFFFFFFF, high[starts], low[starts]
    swap = (high[a] > high[b]) | (high[a] == high[b]) & (low[a] > low[b])
    ends = [hash_texts(high[side], low[side]) for side in (np.where(swap, b, a), np.where(swap, a, b))]
    yield from pa.table([*ends, change.astype(np.int32)], schema=MOVED).to_batches(max_chunksize=100_000)


def _of_shared_keys(records: np.ndarray) -> np.ndarray:
    """Those of which another has the same key."""
    keys = np.ascontiguousarray(records["key"])
    order = np.argsort(keys)
    keys = keys[order]
    same = np.append(keys[1:] == keys[:-1], False)[: len(keys)]
    same[1:] |= same[:-1].copy()
    return records[order[same]]


def _distinct(keys: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each node once in a bucket: copies of a text have the same keys."""
    order = np.lexsort((nodes, keys))
    keys, nodes = keys[order], nodes[order]
    first = np.append(True, (keys[1:] != keys[:-1]) | (nodes[1:] != nodes[:-1]))
    return keys[first], nodes[first]


def hash_numbers(hashes: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The upper and lower 64 bits of 32 hex digits: uint64 each."""
    data, offsets = utf8(hashes)
    digits = data[offsets[0] : offsets[-1]]
    values = ((digits & 15) + 9 * (digits >> 6)).reshape(-1, 2)
    numbers = (values[:, 0] << 4 | values[:, 1]).view(">u8").reshape(-1, 2).astype(np.uint64)
    return numbers[:, 0], numbers[:, 1]


def hash_texts(high: np.ndarray, low: np.ndarray) -> pa.Array:
    """`hash_numbers`, back."""
    values = np.stack([high, low], axis=1).astype(">u8").view(np.uint8).ravel()
    digits = DIGITS[np.stack([values >> 4, values & 15], axis=1).ravel()]
    offsets = np.arange(len(high) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(high), pa.py_buffer(offsets), pa.py_buffer(digits))
