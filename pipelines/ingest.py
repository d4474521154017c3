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

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from pipelines.readers import READERS, File, Record, Reject
from schemas.recipe import Recipe, RecipeError, Source
from schemas.tables import DOCUMENTS

CHUNK_BYTES = 8 << 20  # of files on disk that one task reads; a larger file is a task of its own
CHUNK_FILES = 10_000  # and at most so many files: empty ones cost time too
MAX_CHUNKS = 20_000  # more tasks than that tire Spark's driver: above 160 GB tasks grow
BATCH_BYTES = 8 << 20  # of text in one Arrow batch: with the largest document, all that a worker holds
BATCH_ROWS = 10_000
UNPACKED = 50  # bytes that one byte of a compressed file may stand for; web pages of one site in zst: 30 (measured)
PACKED_SUFFIXES = (".gz", ".zst", ".parquet")

# Columns of `records`: a document's (all but source, snapshot, uri and n_bytes null for a reject) and a reject's.
TYPES = {"bigint": pa.int64(), "string": pa.string(), "map<string,string>": pa.map_(pa.string(), pa.string())}
SCHEMA = pa.schema([pa.field(c.name, TYPES[c.type]) for c in DOCUMENTS.columns]
                   + [pa.field("reason", pa.string()), pa.field("detail", pa.string())])
RECORDS = ", ".join([*(f"{column.name} {column.type}" for column in DOCUMENTS.columns), "reason string", "detail string"])
FILES = pa.schema([("path", pa.binary()), ("uri", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("licence", pa.string())])


def listing(recipe: Recipe) -> dict[str, list[File]]:
    """Files of each source, in their order. Raises RecipeError for an unknown reader or a path that cannot be read."""
    for source in recipe.sources:
        if source.reader not in READERS:
            raise RecipeError(f"sources.{source.name}.reader: expected one of {', '.join(sorted(READERS))}, found {source.reader!r}")
    return {source.name: READERS[source.reader].list_files(source, recipe.seed) for source in recipe.sources}


def check(recipe: Recipe) -> None:
    """Raise RecipeError, before Spark starts, when a source cannot be read or is certainly too small for the stages."""
    most = {name: sum(map(_most_tokens, files)) * recipe.max_epochs for name, files in listing(recipe).items()}
    wanted_in_all = sum(stage.tokens for stage in recipe.stages)
    if wanted_in_all > sum(most.values()):
        raise RecipeError(_too_small("stages", "all sources", sum(most.values()), recipe.max_epochs, wanted_in_all))
    for source in recipe.sources:
        shares = [stage.tokens * stage.mixture.weights.get(source.name, 0) for stage in recipe.stages]
        for i, wanted in enumerate(accumulate(shares)):
            if wanted > most[source.name]:
                place = f"stages[{i}].mixture.weights.{source.name}"
                raise RecipeError(_too_small(place, f"source {source.name}", most[source.name], recipe.max_epochs, wanted))


def _most_tokens(file: File) -> int:
    """A token is at least one byte."""
    return file.bytes * (UNPACKED if file.uri.endswith(PACKED_SUFFIXES) else 1)


def _too_small(place: str, what: str, most: float, epochs: float, wanted: float) -> str:
    return f"{place}: expected at most {most:,.0f} tokens, {what} read {epochs:g} times; found {wanted:,.0f}, all stages so far together"


def inputs_fingerprint(recipe: Recipe) -> str:
    """Hash of what the sources' files are called, how large they are and when they were written; no file is opened."""
    digest = blake2b(digest_size=16)
    for name, files in listing(recipe).items():
        digest.update("\n".join([name, *(f"{file.uri}\0{file.bytes}\0{file.mtime_ns}" for file in files), ""]).encode())
    return digest.hexdigest()


def records(spark: SparkSession, recipe: Recipe) -> DataFrame:
    """A row for every input record: the columns of `bronze.documents`, and `reason` and `detail`, null for documents.

    Files are listed now, read each time the frame is evaluated. Raises RecipeError like `check`.
    """
    sources = {source.name: source for source in recipe.sources}
    chunks = [(name, chunk) for name, files in listing(recipe).items() for chunk in chunked(files)]
    dealt = spark.createDataFrame(_chunk_table(chunks)).repartitionById(len(chunks), "chunk")
    return dealt.mapInArrow(lambda batches: _read_chunks(batches, sources), RECORDS)


def chunked(files: list[File]) -> Iterator[list[File]]:
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


def _chunk_table(chunks: list[tuple[str, list[File]]]) -> pa.Table:
    files = [[file._replace(path=os.fsencode(file.path))._asdict() for file in chunk] for _, chunk in chunks]
    names = pa.array([name for name, _ in chunks])
    columns = {"chunk": pa.array(range(len(chunks)), pa.int32()), "source": names, "files": pa.array(files, pa.list_(pa.struct(FILES)))}
    return pa.table(columns)


def _read_chunks(batches: Iterable[pa.RecordBatch], sources: dict[str, Source]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for chunk in batch.to_pylist():
            source = sources[chunk["source"]]
            files = (File(**file | {"path": os.fsdecode(file["path"])}) for file in chunk["files"])
            yield from batched(row(made, source) for file in files for made in read(file, source))


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """What the reader makes of the file; a file that cannot be opened, or not to its end, gives a reject."""
    try:
        if not stat.S_ISREG(os.stat(file.path).st_mode):
            yield Reject(file.uri, "unreadable", "expected a file, found a pipe, device, or folder that is a link or cannot be opened", 0)
        else:
            yield from READERS[source.reader].read(file, source)
    except OSError as error:
        yield Reject(file.uri, "unreadable", error.strerror or type(error).__name__, 0)  # its text holds the machine's path


def row(made: Record | Reject, source: Source) -> tuple:
    """One row of `records`."""
    if isinstance(made, Reject):
        return None, source.name, source.snapshot, made.uri, None, None, None, None, made.n_bytes, made.reason, made.detail
    text = made.text.encode()
    identity = doc_id(source.name, made.uri, text)
    return identity, source.name, source.snapshot, made.uri, source.domain, made.licence, made.facts, made.text, len(text), None, None


def doc_id(source: str, uri: str, text: bytes) -> str:
    """32 hex digits: blake2b-128 of source, uri and text, separated by NUL, which none of them holds."""
    digest = blake2b(f"{source}\0{uri}\0".encode(), digest_size=16)
    digest.update(text)
    return digest.hexdigest()


def batched(rows: Iterable[tuple]) -> Iterator[pa.RecordBatch]:
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
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
