"""What lines and passages share: keys that stand in more than so many places, counted whole or in parts; words by
hash."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines import capacity
from pipelines.spark import ID_BYTES, broadcast_small, in_whole_groups
from pipelines.texts.characters import IS_SPACE, read_only, table, utf8
from pipelines.texts.scripts import IS_ALONE

Batches = Iterator[pa.RecordBatch]
FNV, FNV_START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
SPACE, ALONE, NEWLINE = 1, 2, ord("\n")
CLASSES = table(IS_SPACE, SPACE) | table(IS_ALONE, ALONE)  # 0 for other ink: uint8[code point]
NOTHING = read_only(np.zeros(0, np.uint8))
LISTED = "doc_id string, group string, keys array<bigint>"
MET = "doc_id string, keys array<bigint>"


def repeated_keys(listed: DataFrame, more_than: int) -> DataFrame:
    """(doc_id, keys): of each document the keys that stand in more than so many places of its group; those without any
    are left out.

    listed: doc_id, group, keys. What does not fit is dealt by keys: a part holds all places of its own.
    """
    listed = listed.where(F.size("keys") > 0).localCheckpoint()  # read twice below
    n_keys = listed.agg(F.sum(F.size("keys"))).first()[0] or 0
    count = partial(repeated_keys_here, more_than=more_than)
    if capacity.fits(keys=n_keys):
        met = in_whole_groups(listed, [], count, MET)
    else:
        rows = listed.select("doc_id", "group", F.explode("keys").alias("key")).withColumn("keys", F.array("key"))
        met = in_whole_groups(rows, ["group", "key"], count, MET, capacity.parts(keys=n_keys))
        met = met.groupBy("doc_id").agg(F.flatten(F.collect_list("keys")).alias("keys"))
    return broadcast_small(met, ID_BYTES + 8 * F.size("keys"))


def repeated_keys_here(rows: pa.Table, more_than: int) -> pa.Table:
    """(doc_id, keys) as `repeated_keys`, of doc_id, group, keys: lists of all keys, or all places of some keys."""
    rows = rows.combine_chunks()
    groups, lists = rows.column("group").combine_chunks().dictionary_encode(), rows.column("keys").combine_chunks()
    met = is_repeated(groups.indices.to_numpy(), lists.offsets.to_numpy(), lists.values.to_numpy(), more_than)
    bounds = np.concatenate([[0], np.cumsum(met)])[lists.offsets.to_numpy()]
    keys = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), lists.values.filter(pa.array(met)))
    return pa.table([rows.column("doc_id"), keys], ["doc_id", "keys"]).filter(pa.array(np.diff(bounds) > 0))


def is_repeated(groups: np.ndarray, offsets: np.ndarray, keys: np.ndarray, more_than: int) -> np.ndarray:
    """Whether each key stands in more than so many places of its group: bool[keys]. keys[offsets[i] : offsets[i + 1]]
    are of groups[i]."""
    group, met = np.repeat(groups, np.diff(offsets)), np.zeros(len(keys), bool)
    for one in np.unique(groups):
        mine = np.flatnonzero(group == one)
        _, places, counts = np.unique(keys[mine], return_inverse=True, return_counts=True)
        met[mine] = counts[places] > more_than
    return met


def texts_of(batch: pa.RecordBatch) -> Iterator[np.ndarray]:
    """The bytes of each text of a batch."""
    data, offsets = utf8(batch.column("text"))
    return (data[begin:end] for begin, end in zip(offsets[:-1], offsets[1:], strict=True))


def rows_of(same: dict[str, pa.Scalar], columns: dict[str, np.ndarray | list[np.ndarray]]) -> pa.RecordBatch:
    """The columns, with what is the same in every row before them."""
    n = len(next(iter(columns.values())))
    repeated = {name: pa.repeat(value, n) for name, value in same.items()}
    return pa.RecordBatch.from_pydict(repeated | {name: pa.array(column) for name, column in columns.items()})
