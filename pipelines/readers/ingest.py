"""Readers -> documents and rejects: one row for every input record, whatever is wrong with it.

Files are listed on the driver, dealt out in chunks of about equal bytes, and read in workers, one Arrow pass. Rows and
ids do not depend on the number of cores: a chunk is a partition, and a row is made of one record alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.deliveries import Delivery, deliveries_of
from pipelines.readers import READERS, File, Record, Reject, delta
from pipelines.readers.suffixes import has_suffix
from schemas.files import json_hash
from schemas.parts import Source
from schemas.recipe import Recipe, RecipeError
from schemas.tables import DOCUMENTS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

REVISION = 8  # raised by hand when the readers make other documents of the same files
CHUNK_BYTES = 8 << 20  # of files on disk that one task reads; a larger file is a task of its own
CHUNK_FILES = 10_000  # and at most so many files: empty ones cost time too
MAX_CHUNKS = 20_000  # more tasks than that tire Spark's driver: above 160 GB tasks grow
BATCH_BYTES = 8 << 20  # of text in one Arrow batch: with the largest document, all that a worker holds
BATCH_ROWS = 10_000
# bytes that one byte of a compressed file may stand for: readers.archives.RATIO, web pages of one site in zst: 30
UNPACKED = 200
PACKED_SUFFIXES = (".gz", ".zst", ".parquet", ".zip", ".tgz", ".bz2", ".xz")
# Columns of `read_records`: a document's (all but source, snapshot, uri and n_bytes null for a reject) and a reject's.
TYPES = {"bigint": pa.int64(), "string": pa.string(), "map<string,string>": pa.map_(pa.string(), pa.string())}
SCHEMA = pa.schema(
    [pa.field(c.name, TYPES[c.type]) for c in DOCUMENTS.columns]
    + [pa.field("reason", pa.string()), pa.field("detail", pa.string())]
)
RECORDS = f"{DOCUMENTS.ddl}, reason string, detail string"
Listing = dict[Delivery, list[File]]
HELD = "delivered_before"  # no reject: the document stands in the table
FILES = pa.schema(
    [
        ("path", pa.binary()),
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("licence", pa.string()),
        ("facts", pa.map_(pa.string(), pa.string())),
        ("removed", pa.list_(pa.int64())),
    ]
)


def listing(recipe: Recipe) -> Listing:
    """Files of each delivery, in their order. Raises RecipeError for an unknown reader or a path that cannot be
    read."""
    for source in recipe.sources:
        if source.reader not in READERS:
            raise RecipeError(
                f"sources.{source.name}.reader: expected one of {', '.join(sorted(READERS))}, found {source.reader!r}"
            )
    for source in recipe.sources:
        if source.reader not in ("parquet", "tree"):
            delta.refuse_table(source)
    return {
        delivery: READERS[one.reader].list_files(one, recipe.seed) for delivery, one in deliveries_of(recipe).items()
    }


def check(recipe: Recipe, listed: Listing) -> None:
    """Raise RecipeError, before Spark starts, when a source is certainly too small for the stages."""
    most = dict.fromkeys((source.name for source in recipe.sources), 0.0)
    for delivery, files in listed.items():
        most[delivery.source] += sum(map(_most_tokens, files)) * recipe.max_epochs
    wanted_in_all = sum(stage.tokens for stage in recipe.stages)
    if wanted_in_all > sum(most.values()):
        raise RecipeError(_too_small("stages", "all sources", sum(most.values()), recipe.max_epochs, wanted_in_all))
    for source in recipe.sources:
        shares = [stage.tokens * stage.mixture.weights.get(source.name, 0) for stage in recipe.stages]
        for i, wanted in enumerate(accumulate(shares)):
            if wanted > most[source.name]:
                place = f"stages[{i}].mixture.weights.{source.name}"
                raise RecipeError(
                    _too_small(place, f"source {source.name}", most[source.name], recipe.max_epochs, wanted)
                )


def _most_tokens(file: File) -> int:
    """A token is at least one byte."""
    return file.bytes * (UNPACKED if has_suffix(file.uri, PACKED_SUFFIXES) else 1)


def _too_small(place: str, what: str, most: float, epochs: float, wanted: float) -> str:
    return (
        f"{place}: expected at most {most:,.0f} tokens, {what} read {epochs:g} times; "
        f"found {wanted:,.0f}, all stages so far together"
    )


def hashes(recipe: Recipe, listed: Listing) -> dict[str, str]:
    """By delivery: hash of how its source is read, what its files are called, how large they are and when they were
    written, and what their trees or tables say of them.

    The snapshots before it count too: a record that they hold is not stored again.
    """
    sources, prints = {source.name: source for source in recipe.sources}, {}
    for delivery, files in listed.items():
        source = sources[delivery.source]
        settings = source.model_dump(mode="json", exclude={"path", "snapshots", "priority"})
        earlier = source.snapshots[: source.snapshots.index(delivery.snapshot)]
        digest = blake2b(json_hash([REVISION, SCHEMA.names, recipe.seed, settings, earlier]).encode(), digest_size=16)
        digest.update("\n".join("\0".join(map(str, file._replace(path="", stream=None))) for file in files).encode())
        prints[str(delivery)] = digest.hexdigest()
    return prints


def read_records(spark: SparkSession, recipe: Recipe, listed: Listing, held: np.ndarray | None = None) -> DataFrame:
    """A row for every input record of the listed files: the columns of `bronze.documents`, and `reason` and `detail`,
    null for documents.

    Documents whose ids are among `held` (in order, as bytes; few enough to be sent to every task) have the reason HELD.
    Files are read each time the frame is evaluated.
    """
    sources = deliveries_of(recipe)
    chunks = [(delivery, chunk) for delivery, files in listed.items() for chunk in chunk_files(files)]
    dealt = spark.createDataFrame(_chunk_table(chunks)).repartitionById(len(chunks), "chunk")
    if held is None:
        return dealt.mapInArrow(lambda batches: _read_chunks(batches, sources), RECORDS)
    return dealt.mapInArrow(
        lambda batches: (_told_if_held(batch, held) for batch in _read_chunks(batches, sources)), RECORDS
    )


def chunk_files(files: list[File]) -> Iterator[list[File]]:
    """Neighbouring files in groups of about CHUNK_BYTES, in order."""
    limit = max(CHUNK_BYTES, sum(file.bytes for file in files) // MAX_CHUNKS)
    chunk, n_bytes = [], 0
    for file in files:
        if chunk and (n_bytes + file.bytes > limit or len(chunk) == CHUNK_FILES):
            yield chunk
            chunk, n_bytes = [], 0
        chunk.append(file)
        n_bytes += file.bytes
    yield chunk


def _chunk_table(chunks: list[tuple[Delivery, list[File]]]) -> pa.Table:
    files = [[file._replace(path=os.fsencode(file.path))._asdict() for file in chunk] for _, chunk in chunks]
    names = {name: pa.array([getattr(delivery, name) for delivery, _ in chunks]) for name in Delivery._fields}
    columns = {
        "chunk": pa.array(range(len(chunks)), pa.int32()),
        **names,
        "files": pa.array(files, pa.list_(pa.struct(FILES))),
    }
    return pa.table(columns)


def _read_chunks(batches: Iterable[pa.RecordBatch], sources: dict[Delivery, Source]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for chunk in batch.to_pylist():
            source = sources[Delivery(chunk["source"], chunk["snapshot"])]
            files = map(_file, chunk["files"])
            yield from batch_rows(row(made, source) for file in files for made in read(file, source))


def _file(row: dict[str, Any]) -> File:
    sets = {name: tuple(row[name]) for name in ("facts", "removed")}
    return File(**row | sets | {"path": os.fsdecode(row["path"])})


def _told_if_held(batch: pa.RecordBatch, held: np.ndarray) -> pa.RecordBatch:
    ids = np.array(batch.column("doc_id").fill_null("").to_pylist(), "S32")  # a reject has none
    places = np.searchsorted(held, ids)
    again = held[np.minimum(places, len(held) - 1)] == ids if len(held) else np.zeros(len(ids), bool)
    reason = pc.if_else(pa.array(again), HELD, batch.column("reason"))
    return batch.set_column(batch.schema.get_field_index("reason"), SCHEMA.field("reason"), reason)


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """What the reader makes of the file; a file that cannot be opened, or not to its end, gives a reject."""
    try:
        if not stat.S_ISREG(os.stat(file.path).st_mode):
            yield Reject(
                file.uri,
                "unreadable",
                "expected a file, found a pipe, device, or folder that is a link or cannot be opened",
                0,
            )
        else:
            yield from READERS[source.reader].read(file, source)
    except OSError as error:
        # its text holds the machine's path
        yield Reject(file.uri, "unreadable", error.strerror or type(error).__name__, 0)


def row(made: Record | Reject, source: Source) -> tuple:
    """One row of `read_records`."""
    if isinstance(made, Reject):
        # it quotes what no column can hold: halves of surrogate pairs
        detail = made.detail.encode("utf-8", "backslashreplace").decode()
        return None, source.name, source.snapshot, made.uri, None, None, None, None, made.n_bytes, made.reason, detail
    text = made.text.encode()
    identity = doc_id(source.name, made.uri, text)
    return (
        identity,
        source.name,
        source.snapshot,
        made.uri,
        source.domain,
        made.licence,
        made.facts,
        made.text,
        len(text),
        None,
        None,
    )


def doc_id(source: str, uri: str, text: bytes) -> str:
    """32 hex digits: blake2b-128 of source, uri and text, separated by NUL, which none of them holds."""
    digest = blake2b(f"{source}\0{uri}\0".encode(), digest_size=16)
    digest.update(text)
    return digest.hexdigest()


def batch_rows(rows: Iterable[tuple]) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow batches of at most BATCH_ROWS rows and little more than BATCH_BYTES of text."""
    kept, n_bytes = [], 0
    text, size = SCHEMA.get_field_index("text"), SCHEMA.get_field_index("n_bytes")
    for values in rows:
        kept.append(values)
        n_bytes += values[size] if values[text] is not None else 0
        if n_bytes >= BATCH_BYTES or len(kept) == BATCH_ROWS:
            yield _batch(kept)
            kept, n_bytes = [], 0
    if kept:
        yield _batch(kept)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
