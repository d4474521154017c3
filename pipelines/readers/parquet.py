"""One record a row; the text is a column of strings or of UTF-8 bytes. A record's uri is the file's and its row, from
0."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.readers.files import File, Record, Reject, decode_document, list_matching
from pipelines.readers.html import is_page, page
from pipelines.readers.jsonl import licence_text
from schemas.parts import Source
from schemas.recipe import RecipeError

SUFFIXES = (".parquet",)
BATCH_BYTES = 8 << 20  # rows are read in batches of about so many bytes
BATCH_ROWS = 4096


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when there is no such file, or when the first that can be opened lacks the text column."""
    files = list_matching(source, SUFFIXES)
    schema = next((schema for file in files if (schema := _schema(file)) is not None), None)
    for field in ("text_field", "licence_field") if schema is not None else ():
        wrong = _wrong_column(schema, getattr(source, field), must_be_text=field == "text_field")
        if wrong:
            raise RecipeError(f"sources.{source.name}.{field}: {wrong}")
    return files


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
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if must_be_text and not (
        pa.types.is_string(kind) or pa.types.is_binary(kind) or kind in (pa.large_string(), pa.large_binary())
    ):
        return f"expected column {name!r} to hold text, found {kind}"
    return None


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each row; one reject for all that follows damage. Raises OSError when the file cannot be
    read."""
    number = 0
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
                make = page if is_page(data, source) else decode_document
                yield (
                    make(uri, data, licence, source)
                    if data is not None
                    else Reject(uri, "no_text", "expected text, found null", 0)
                )
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
    return (
        column.cast(pa.large_binary())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        else column
    )
