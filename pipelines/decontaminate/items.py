"""Items of evaluation files: the questions, answers and passages that no model may have been trained on.

JSONL (.jsonl, .ndjson or .json, an object a line) and Parquet (a row) hold an item each, made of the fields that the
recipe names; any other file is text, an item a line or, with `whole`, one in all. JSONL and text may be .gz or .zst.
They are small and wanted whole: read on the driver, within bounds.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.readers import jsonl
from pipelines.readers.compressed import DAMAGE, chunks
from pipelines.readers.files import MAGIC
from pipelines.readers.suffixes import has_suffix
from schemas.files import file_sha256
from schemas.parts import Decontaminate, EvaluationFile
from schemas.recipe import RecipeError

LINE_BYTES = 16 << 20  # a longer line is no item
TOLD = 20  # records of a file that are no items, with the reason
FILE_BYTES = 1 << 30  # of one file, unpacked: bounds what a damaged or hostile archive can do


class Item(NamedTuple):
    """One item: `name` is its file and number (lines from 1, rows from 0), `texts` go with the file's fields; `parts`
    are the question and what goes with it, the members of lists and objects apart."""

    name: str
    texts: tuple[str, ...]
    parts: tuple[str, ...]


class Items(NamedTuple):
    """What one file holds. `fields` name the texts of an item; `broken` records were no items, the first TOLD of them
    in `why`, and `empty` ones had no text."""

    path: str
    sha256: str
    n_bytes: int
    fields: tuple[str, ...]
    items: tuple[Item, ...]
    broken: int
    empty: int
    why: tuple[str, ...] = ()


class Broken(NamedTuple):
    """A line or row that is no item, and why."""

    why: str


def read(spec: Decontaminate) -> list[Items]:
    """The items of every file, in order. Raises RecipeError for a file that is not what the recipe says."""
    return [_file(path, file, place) for place, path, file in _listed(spec)]


def digests(spec: Decontaminate) -> dict[str, str]:
    """SHA-256 of every file by path: what a step's hash is made of. Raises RecipeError for one that cannot be
    read."""
    return {path: _digest(path, place) for place, path, _ in _listed(spec)}


def _listed(spec: Decontaminate) -> Iterator[tuple[str, str, EvaluationFile]]:
    for i, file in enumerate(spec.files):
        place = f"decontaminate.files[{i}]"
        paths = sorted(glob.glob(file.path, recursive=True)) if MAGIC.search(file.path) else [file.path]
        if not paths:
            raise RecipeError(f"{place}.path: expected files that match, found none at {file.path!r}")
        yield from ((place, path, file) for path in paths)


def _digest(path: str, place: str) -> str:
    try:
        if not os.path.isfile(path):
            raise RecipeError(
                f"{place}.path: expected a file, found {'a folder' if os.path.isdir(path) else 'none'} at {path!r}"
            )
        return file_sha256(Path(path))
    except OSError as error:
        raise RecipeError(f"{place}.path: expected a file that can be read, found {path!r}: {error.strerror}") from None


def _file(path: str, file: EvaluationFile, place: str) -> Items:
    digest, structured = _digest(path, place), has_suffix(path, (*jsonl.SUFFIXES, ".parquet"))
    if structured != bool(file.fields) or (structured and file.whole):
        wanted = (
            "the fields of an item, the question first, and not `whole`"
            if structured
            else "none: a text file has no fields"
        )
        raise RecipeError(f"{place}.fields: expected {wanted}; found {list(file.fields)} for {path!r}")
    kind = _rows if has_suffix(path, ".parquet") else _objects if structured else _whole if file.whole else _lines
    try:
        records = list(kind(path, file.fields, place))
    except (*DAMAGE, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{place}.path: expected a whole file, found damage in {path!r}: {str(error).splitlines()[0]:.200}"
        ) from None
    broken = [made for made in records if isinstance(made, Broken)]
    items = [made for made in records if isinstance(made, Item) and any(map(str.split, made.texts))]
    if not items:
        why = (
            f"the first of {len(broken):,} broken records: {broken[0].why}"
            if broken
            else f"{len(records):,} empty ones"
        )
        raise RecipeError(f"{place}: expected items in {path!r}, found none; {why}")
    fields = file.fields or ("text",)
    n_empty = len(records) - len(broken) - len(items)
    why = tuple(made.why for made in broken[:TOLD])
    return Items(path, digest, os.path.getsize(path), fields, tuple(items), len(broken), n_empty, why)


def _objects(path: str, fields: tuple[str, ...], place: str) -> Iterator[Item | Broken]:
    unseen = set(fields)
    for number, line in _numbered(path, place):
        name = f"{path}#{number}"
        try:
            value = _value(line) if line is not None else None
            made = _long(name) if line is None else _item(name, value, fields)
            unseen -= value.keys() if isinstance(made, Item) else set()
        except (ValueError, RecursionError) as error:
            made = Broken(f"{name}: {error}")
        yield made
    _require(fields, unseen, path, place)


def _value(line: bytes) -> Any:
    """What a line says, as the reader jsonl takes it: NaN, Infinity and lone surrogates do no harm. Raises ValueError,
    RecursionError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as refusal:
        try:
            return json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}") from None
        except ValueError:
            raise refusal from None


def _long(name: str) -> Broken:
    return Broken(f"{name}: a line of more than {LINE_BYTES:,} bytes")


def _item(name: str, value: Any, fields: tuple[str, ...]) -> Item | Broken:
    if not isinstance(value, dict):
        return Broken(f"{name}: expected an object on a line, found {type(value).__name__}")
    if not any(field in value for field in fields):
        return Broken(f"{name}: expected fields {', '.join(fields)}, found {', '.join(map(repr, list(value)[:20]))}")
    return _made(name, [value.get(field) for field in fields])


def _made(name: str, values: list[Any]) -> Item:
    question, *others = values
    parts = [flatten(question), *(text for value in others for text in _members(value))]
    return Item(name, tuple(map(flatten, values)), tuple(parts))


def _members(value: Any) -> Iterator[str]:
    """Its texts that are more than a letter or digit: these stand behind every question."""
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _members(member)
    elif len(flatten(value).strip()) > 1:
        yield flatten(value)


def flatten(value: Any) -> str:
    """The text in a field: numbers as they are written, members of lists and values of objects one a line."""
    if isinstance(value, dict | list):
        return "\n".join(map(flatten, value.values() if isinstance(value, dict) else value))
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return "" if value is None else str(value).encode("utf-8", "replace").decode()  # lone surrogates


def _require(fields: tuple[str, ...], unseen: set[str], path: str, place: str) -> None:
    missing = [field for field in fields if field in unseen]
    if missing and len(missing) < len(fields):  # none of them at all is told with what the first line holds
        raise RecipeError(
            f"{place}.fields: expected every field in some item of {path!r}, {', '.join(missing)} is in none"
        )


def _rows(path: str, fields: tuple[str, ...], place: str) -> Iterator[Item]:
    parquet = pq.ParquetFile(path)
    missing = [field for field in fields if field not in parquet.schema_arrow.names]
    if missing:
        names = ", ".join(parquet.schema_arrow.names)
        raise RecipeError(f"{place}.fields: expected columns {', '.join(missing)} in {path!r}, found {names:.200}")
    size = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
    _bounded(size, path, place)
    number = 0
    for batch in parquet.iter_batches(1024, columns=list(fields)):
        for row in batch.to_pylist():
            yield _made(f"{path}#{number}", [row[field] for field in fields])
            number += 1


def _lines(path: str, fields: tuple[str, ...], place: str) -> Iterator[Item | Broken]:
    for number, line in _numbered(path, place):
        yield _long(f"{path}#{number}") if line is None else _text(f"{path}#{number}", line, place)


def _whole(path: str, fields: tuple[str, ...], place: str) -> Iterator[Item | Broken]:
    yield _text(path, b"\n".join(line or b"" for _, line in _numbered(path, place)), place)


def _text(name: str, data: bytes, place: str) -> Item | Broken:
    if b"\0" in data:
        raise RecipeError(f"{place}.path: expected text, found binary data (a NUL) in {name!r}")
    try:
        return _made(name, [data.decode()])
    except UnicodeDecodeError as error:
        return Broken(f"{name}: not UTF-8 at byte {error.start}")


def _numbered(path: str, place: str) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) of the lines that are not blank; the line is None where it is too long."""
    total = 0
    with open(path, "rb") as stream:
        for number, (line, n_bytes) in enumerate(jsonl.lines(chunks(stream, path), LINE_BYTES), 1):
            _bounded(total := total + n_bytes, path, place)
            line = line.removeprefix(jsonl.BOM_UTF8) if number == 1 and line else line
            if line is None or line.strip():
                yield number, line


def _bounded(n_bytes: int, path: str, place: str) -> None:
    if n_bytes > FILE_BYTES:
        raise RecipeError(
            f"{place}.path: expected at most {FILE_BYTES:,} bytes unpacked, found more in {path!r}: split it"
        )
