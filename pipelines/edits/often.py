"""What lines and passages share: keys that stand in more than so many places, counted in one task or in shuffles, and
words by hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.spark import ID_BYTES, sent
from pipelines.texts.characters import IS_SPACE, constant, table, utf8
from pipelines.texts.scripts import IS_ALONE

Batches = Iterator[pa.RecordBatch]
FNV, FNV_START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
SPACE, ALONE, NEWLINE = 1, 2, ord("\n")
CLASSES = table(IS_SPACE, SPACE) | table(IS_ALONE, ALONE)  # 0 for other ink: uint8[code point]
NOTHING = constant(np.zeros(0, np.uint8))
LISTED = "doc_id string, group string, keys array<bigint>"
# Measured at these limits, beside what comes in (0.1 and 0.3 GB, up to three times): counting takes 0.7 GB, comparing
# 0.4.
KEYS_IN_ONE_TASK = 1 << 23


def often(listed: DataFrame, more_than: int) -> DataFrame:
    """(doc_id, keys): of each document the keys that stand in more than so many places of its group; those without any
    are left out.

    listed: doc_id, group, keys.
    """
    listed = listed.where(F.size("keys") > 0).localCheckpoint()  # read twice below
    if (listed.agg(F.sum(F.size("keys"))).first()[0] or 0) <= KEYS_IN_ONE_TASK:
        found = listed.coalesce(1).mapInArrow(_often(more_than), "doc_id string, keys array<bigint>")
    else:
        rows = listed.select("doc_id", "group", F.explode("keys").alias("key"))
        wanted = rows.groupBy("group", "key").agg(F.count("*").alias("n")).where(F.col("n") > more_than)
        found = (
            rows.join(wanted, ["group", "key"], how="left_semi")
            .groupBy("doc_id")
            .agg(F.collect_list("key").alias("keys"))
        )
    return sent(found, ID_BYTES + 8 * F.size("keys"))


def _often(more_than: int) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        read = list(batches)
        if read:
            rows = pa.Table.from_batches(read).combine_chunks()
            groups, lists = (
                rows.column("group").combine_chunks().dictionary_encode(),
                rows.column("keys").combine_chunks(),
            )
            met = met_often(groups.indices.to_numpy(), lists.offsets.to_numpy(), lists.values.to_numpy(), more_than)
            bounds = np.concatenate([[0], np.cumsum(met)])[lists.offsets.to_numpy()]
            keys = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), lists.values.filter(pa.array(met)))
            found = pa.table([rows.column("doc_id"), keys], ["doc_id", "keys"]).filter(pa.array(np.diff(bounds) > 0))
            yield from found.to_batches(max_chunksize=10_000)

    return run


def met_often(groups: np.ndarray, offsets: np.ndarray, keys: np.ndarray, more_than: int) -> np.ndarray:
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
