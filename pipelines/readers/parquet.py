"""One record a row; the text is a column of strings or of UTF-8 bytes. A record's uri is the file's and its row, from
0.

A folder that is a Delta table, or holds some, is read as what the tables hold (`delta.py`), as are files that lie in
one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.readers.delta import table_files, table_folders, table_of
from pipelines.readers.files import (
    File,
    Record,
    Reject,
    decode_document,
    fixed_part,
    matching_files,
    require_text,
    uri_of,
)
from pipelines.readers.hive import with_facts, with_folder_columns
from pipelines.readers.html import is_page, page
from pipelines.readers.jsonl import licence_text
from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source
from schemas.recipe import RecipeError

SUFFIXES = (".parquet",)
BATCH_BYTES = 8 << 20  # rows are read in batches of about so many bytes
BATCH_ROWS = 4096
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when there is no such file, or when the first that can be opened lacks the text column."""
    matching = matching_files(source, lambda uri: has_suffix(uri, SUFFIXES))
    tables = table_folders(source)
    whole = [file._replace(uri=_place(root, file, source)) for root in tables for file in table_files(root, source)]
    plain = list(_plain(matching, tables, source))
    files = sorted((with_folder_columns(file, source) for file in whole + plain), key=lambda file: file.uri)
    files = require_text(source, SUFFIXES, files)
    schema = next((schema for file in files if (schema := _schema(file)) is not None), None)
    by_folder = {name for file in files for name, _ in file.facts}
    for field in ("text_field", "licence_field") if schema is not None else ():
        wrong = _wrong_column(schema, getattr(source, field), must_be_text=field == "text_field")
        if wrong and not (field == "licence_field" and source.licence_field in by_folder):
            raise RecipeError(f"sources.{source.name}.{field}: {wrong}")
    return files


def _place(root: str, file: File, source: Source) -> str:
    """A table's file as a file of the source."""
    above = os.path.relpath(root, os.path.abspath(fixed_part(source.path)))
    return file.uri if above == "." else f"{uri_of(above)}/{file.uri}"


def _plain(files: list[File], tables: list[str], source: Source) -> Iterator[File]:
    """Those of the files that are in no Delta table, or that are part of what one holds that is not among `tables`."""
    known: dict[str, str | None] = {}
    live: dict[str, dict[str, File]] = {}
    for file in files:
        root = table_of(os.path.dirname(file.path), known)
        if root is None:
            yield file
        elif root not in tables:
            if root not in live:
                live[root] = {os.path.realpath(one.path): one for one in table_files(root, source)}
            one = live[root].get(os.path.realpath(file.path))
            yield from [one._replace(uri=file.uri)] if one else []
    if source.version is not None and not (tables or live):
        raise RecipeError(f"sources.{source.name}.version: expected a Delta table at {source.path!r}, found none")


def _schema(file: File) -> pa.Schema | None:
    try:
        return pq.read_schema(file.path)
    except (pa.ArrowException, OSError):
        return None  # the file becomes a reject when it is read


def _wrong_column(schema: pa.Schema, name: str | None, must_be_text: bool = True) -> str | None:
    if name is None:
        return None
    if name not in schema.names:
        return f"expected a column {name!r}, found {', '.join(schema.names)}"
    kind = schema.field(name).type
    if must_be_text and not _is_text(kind, TEXTS + BYTES):
        return f"expected column {name!r} to hold text, found {kind}"
    return None


def _is_text(kind: pa.DataType, texts: tuple[pa.DataType, ...]) -> bool:
    """Whether a type, or what a dictionary or an extension such as arrow.json keeps it in, is one of `texts`."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in texts


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each row; one reject for all that follows damage. Raises OSError when the file cannot be
    read."""
    number, removed = 0, frozenset(file.removed)
    with open(file.path, "rb") as stream:
        try:
            parquet = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
            wrong = _wrong_column(parquet.schema_arrow, source.text_field)
            if wrong:
                yield Reject(file.uri, "no_text", wrong, file.bytes)
                return
            for data, licence in _rows(parquet, source):
                uri = f"{file.uri}#{number}"
                number += 1
                if number - 1 in removed:
                    continue
                if data is None:
                    yield Reject(uri, "no_text", "expected text, found null", 0)
                    continue
                make = page if is_page(data, source) else decode_document
                yield with_facts(make(uri, data, licence or file.licence, source), file)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            yield Reject(
                f"{file.uri}#{number}", "damaged", f"{str(error).splitlines()[0]:.200}, after {number:,} rows", 0
            )


def _rows(parquet: pq.ParquetFile, source: Source) -> Iterator[tuple[bytes | None, str | None]]:
    """(text as bytes, licence) of each row; Arrow would trust that strings are UTF-8, so they are taken as bytes.

    By row groups: a batch never spans two, so damage in one does not cost the rows before it.
    """
    names = [source.text_field] + [source.licence_field] * (source.licence_field in parquet.schema_arrow.names)
    for i in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(i)
        rows = BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)
        for batch in parquet.iter_batches(max(1, min(rows, BATCH_ROWS)), row_groups=[i], columns=names):
            texts = batch.column(source.text_field).cast(pa.large_binary())
            licences = _licences(batch.column(source.licence_field)) if len(names) > 1 else pa.nulls(len(texts))
            for text, licence in zip(texts, licences, strict=True):
                named = licence.as_py()
                yield (
                    text.as_py(),
                    licence_text(named.decode("utf-8", "backslashreplace") if isinstance(named, bytes) else named),
                )


def _licences(column: pa.Array) -> pa.Array:
    """Strings as bytes, as the texts: one that is not UTF-8 costs no row."""
    return column.cast(pa.large_binary()) if _is_text(column.type, TEXTS) else column
