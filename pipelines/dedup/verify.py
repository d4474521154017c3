"""Which candidates are near copies: the true Jaccard index of two texts' sets of shingles, read and decided in Spark's
workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import QueryBuilder
from numba import njit
from pyarrow.dataset import dataset

from pipelines.dedup import buckets
from pipelines.texts.characters import Strings, longest, read_only, utf8
from pipelines.texts.words import WORD_FOLD, fold_text, folded_room, hash_words, join_words, numbers, room
from schemas.parts import NearDuplicates
from schemas.store import files_at, is_url

if TYPE_CHECKING:  # `flows similar` starts without
    from pyspark.sql import SparkSession


def shingle_sets(texts: Strings, ngram: int) -> pa.BinaryArray:
    """The set of shingles of each text: distinct int64 in ascending order, as bytes."""
    data, offsets = utf8(texts)
    # one word needs two bytes, but for the last
    shingles = np.empty((offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64)
    bounds = np.zeros(len(texts) + 1, np.int64)
    folded = np.empty(folded_room(longest(offsets)), np.uint8)
    _shingle_batch(data, offsets, WORD_FOLD, *room(offsets), folded, ngram, shingles, bounds)
    sets = shingles.view(np.int64)
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        sets[begin:end].sort()  # NumPy's vector sort is several times numba's
    n = _distinct(sets, bounds)
    offsets = pa.py_buffer((8 * bounds).astype(np.int32))
    return pa.BinaryArray.from_buffers(pa.binary(), len(texts), [None, offsets, pa.py_buffer(sets[:n])])


def alike(sets: pa.BinaryArray, a: pa.Array, b: pa.Array, threshold: float) -> np.ndarray:
    """Whether the exact Jaccard index of each pair of sets reaches the threshold: bool; that of two empty ones is 0.

    sets: as `shingle_sets` gives them, sliced or not. a, b: int32, which of them are compared.
    """
    values, bounds = numbers(sets, np.int64)
    return _reaches(read_only(values), read_only(bounds), read_only(a.to_numpy()), read_only(b.to_numpy()), threshold)


@njit(cache=True, nogil=True)
def _shingle_batch(data, offsets, fold, edges, words, folded, ngram, shingles, bounds):
    for d in range(len(offsets) - 1):
        _, n_words = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        hash_words(folded, 0, edges, n_words, words)
        n = join_words(words, n_words, ngram)
        shingles[bounds[d] : bounds[d] + n] = words[:n]
        bounds[d + 1] = bounds[d] + n


@njit(cache=True, nogil=True)
def _distinct(sets, bounds):
    """Drop equal neighbours inside each set, in place; bounds follow. How many values are left."""
    n = begin = 0
    for d in range(len(bounds) - 1):
        end = bounds[d + 1]
        for i in range(begin, end):
            if i == begin or sets[i] != sets[i - 1]:
                sets[n] = sets[i]
                n += 1
        bounds[d + 1] = n
        begin = end
    return n


@njit(cache=True, nogil=True)
def _reaches(values, bounds, first, second, threshold):
    out = np.zeros(len(first), np.bool_)
    for pair in range(len(out)):
        a, b = first[pair], second[pair]
        out[pair] = merge_reaches(values[bounds[a] : bounds[a + 1]], values[bounds[b] : bounds[b + 1]], threshold)
    return out


@njit
def merge_reaches(a, b, threshold):
    """Whether |a and b| / |a or b| >= threshold of ascending values. A merge stops when what is left cannot reach
    it."""
    total = len(a) + len(b)
    needed = int(threshold / (1 + threshold) * total)
    while needed < total and needed / (total - needed) < threshold:  # exact, the line above but for rounding
        needed += 1
    while needed > 0 and (needed - 1) / (total - needed + 1) >= threshold:
        needed -= 1
    spare_a, spare_b = len(a) - needed, len(b) - needed  # how many values of each may go without a twin
    i = j = common = 0
    while i < len(a) and j < len(b) and i - common <= spare_a and j - common <= spare_b:
        x, y = a[i], b[j]
        common += x == y
        i += x <= y
        j += y <= x
    return total > 0 and common >= needed


def keep_near(pairs: pa.Table, sets: pa.Table, threshold: float) -> pa.Table:
    """The pairs (a, b, ...) whose true Jaccard index reaches the threshold. sets: end of pairs, shingles as int64 in
    ascending order."""
    names, shingles = sets.column("end"), sets.column("shingles").combine_chunks()
    a, b = (pc.index_in(pairs.column(side), names).combine_chunks() for side in ("a", "b"))
    return pairs.filter(pa.array(alike(shingles, a, b, threshold)))


READ_AT_A_TIME = 64  # texts that a worker holds while it makes their shingles: 1 GB at the most
TILES_AT_A_TIME = 4  # whose sets of shingles a worker holds: 130 MB


def verify_here(changes: pa.Table, texts: list[str], spark: SparkSession, near: NearDuplicates) -> pa.Table:
    """(a, b, support) of the pairs whose true Jaccard index reaches the threshold. changes: CHANGES.

    A task reads the texts of its tiles itself, so that no set of shingles is sent.
    """
    if not len(changes):
        return buckets.PAIRS.empty_table()
    task = task_of_each(changes.column("tile"), int(spark.conf.get("spark.sql.shuffle.partitions")))
    pairs = pa.table(
        {"task": task, "pair": np.arange(len(changes)), "a": changes.column("doc_a"), "b": changes.column("doc_b")}
    )
    tasks = spark.createDataFrame(pairs).repartitionById(int(task.max()) + 1, "task")
    alike = tasks.mapInArrow(alike_in_files(texts, near), "pair long").toArrow().column("pair")
    return changes.select(["a", "b", "change"]).take(alike).rename_columns(buckets.PAIRS.names)


def task_of_each(tiles: pa.ChunkedArray, tasks: int) -> np.ndarray:
    """The task of each pair, int32: neighbouring tiles, which may share texts, go together, a few to each of `tasks` or
    more tasks."""
    order = pc.unique(tiles).sort()
    tasks = max(min(tasks, len(order)), -(-len(order) // TILES_AT_A_TIME))
    return (pc.index_in(tiles, order).to_numpy().astype(np.int64) * tasks // len(order)).astype(np.int32)


def alike_in_files(
    files: list[str], near: NearDuplicates
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """An Arrow function: pair, a, b (doc_id) -> each pair whose texts' true Jaccard index reaches the threshold."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        read = list(batches)
        if read:
            pairs = pa.Table.from_batches(read)
            ends = pc.unique(pa.chunked_array([*pairs.column("a").chunks, *pairs.column("b").chunks]))
            made = [
                [texts.column("doc_id"), shingle_sets(texts.column("text"), near.ngram)]
                for texts in read_rows(files, ends, TEXTS)
            ]
            sets = pa.Table.from_batches([pa.record_batch(columns, names=["end", "shingles"]) for columns in made])
            yield from keep_near(pairs, sets, near.threshold).select(["pair"]).to_batches()

    return run


def read_rows(files: list[str], ids: pa.Array, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """These columns, doc_id among them, of the documents wanted, a few at a time, from Parquet files that have them.

    DataFusion, which comes with delta-rs, sends the ids into its scan and decompresses those pages only that hold one
    of them: texts of 14,500 of 396,000 documents, 3.7 GB of text, take a core 0.9 s, Polars 1.0; DuckDB, which reads
    all pages, 2.9. Files in an object store Arrow reads, those groups of rows that hold one of them.
    """
    if files and is_url(files[0]):
        yield from remote_rows(files, ids, columns)
        return
    with tempfile.TemporaryDirectory() as folder:  # its tables are files and folders of files
        pq.write_table(pa.table({"doc_id": ids}), Path(folder, "wanted.parquet"))
        stored = Path(folder, "stored")
        stored.mkdir()
        for i, file in enumerate(files):
            Path(stored, f"{i}.parquet").symlink_to(file)
        query = QueryBuilder(SCAN)
        query.execute(f"create external table wanted stored as parquet location '{folder}/wanted.parquet'")
        query.execute(f"create external table stored stored as parquet location '{stored}/'")
        rows = query.execute(f"select {', '.join(columns.names)} from wanted join stored using (doc_id)")
        yield from pa.RecordBatchReader.from_stream(rows).cast(columns)


def remote_rows(files: list[str], ids: pa.Array, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same of files of one table in an object store. No statistics tell where a hash is not: the ids are read, a
    hundredth of the texts, and then the groups of rows that have some of those wanted."""
    folder = files[0].rpartition("/")[0]  # Delta's tables without partitions have one
    names = [file.removeprefix(f"{folder}/") for file in files]
    source = dataset(names, filesystem=files_at(folder), format="parquet")
    for file in source.get_fragments():
        wanted = pc.is_in(file.to_table(columns=["doc_id"]).column("doc_id"), value_set=ids)
        ends = np.cumsum([group.num_rows for group in file.row_groups])
        groups = np.unique(np.searchsorted(ends, np.flatnonzero(wanted), side="right")).tolist()
        if groups:
            parts = file.subset(row_group_ids=groups).to_batches(
                columns=columns.names, filter=pc.field("doc_id").isin(ids), batch_size=READ_AT_A_TIME
            )
            yield from (part.cast(columns) for part in parts if part.num_rows)


TEXTS = pa.schema([("doc_id", pa.string()), ("text", pa.string())])
SCAN = {
    "datafusion.execution.parquet.pushdown_filters": "true",
    "datafusion.optimizer.join_reordering": "false",  # the ids are the side that is held
    "datafusion.execution.target_partitions": "1",
    "datafusion.execution.batch_size": str(READ_AT_A_TIME),
}
SETS = "tile string, end string, shingles binary"


def sets_of(texts: pa.RecordBatch, ngram: int) -> pa.RecordBatch:
    """text_hash, tiles, text -> SETS: the sorted distinct shingles of each text (end: its hash), a row for every tile
    that it is in."""
    tiles, sets = texts.column("tiles"), shingle_sets(texts.column("text"), ngram)
    rows = pc.list_parent_indices(tiles)
    columns = [tiles.flatten(), texts.column("text_hash").take(rows), sets.take(rows)]
    return pa.RecordBatch.from_arrays(columns, names=["tile", "end", "shingles"])
