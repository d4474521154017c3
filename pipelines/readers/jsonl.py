"""One JSON object a line; plain, .gz or .zst. A record's uri is the file's and the number of its line, from 1.

A line is measured as it stands, other fields included, against max_document_bytes. Blank lines are no records.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from pipelines.readers.archives import read_each
from pipelines.readers.compressed import DAMAGE, chunks
from pipelines.readers.files import (
    File,
    Record,
    Reject,
    decode_document,
    document,
    list_matching,
    open_stream,
    too_large,
)
from pipelines.readers.hive import with_facts, with_folder_columns
from pipelines.readers.html import is_page, page
from pipelines.readers.members import ARCHIVES
from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source

SUFFIXES = tuple(name + packed for name in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst"))

ONE_A_LINE = "of a file of JSON one whole object a line is read (JSON Lines)"
BEGUN = b"{", b"[", b"[{"  # the first line of a value that is printed over several
OVER_LINES = f"expected an object, found the beginning of one or of an array: {ONE_A_LINE}"


def is_wanted(name: str) -> bool:
    """Whether a file of this name, in a folder or an archive, holds JSON lines, or is an archive."""
    return has_suffix(name, SUFFIXES + ARCHIVES)


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of SUFFIXES, and no archive."""
    return [with_folder_columns(file, source) for file in list_matching(source, SUFFIXES, is_wanted)]


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each line; one reject for all that follows damage. Raises OSError when the file cannot
    be read."""
    return read_each(file, source, is_wanted, lambda member, source: objects(member, source, record))


def objects(
    file: File, source: Source, made: Callable[[str, dict, Source], Record | Reject]
) -> Iterator[Record | Reject]:
    """What is `made` (uri, object, source) of each line that holds an object, or why it holds none."""
    number, source = 0, source.model_copy(update={"licence": file.licence or source.licence})
    with open_stream(file) as stream:
        try:
            for number, (line, n_bytes) in enumerate(lines(chunks(stream, file.uri), source.max_document_bytes), 1):
                uri = f"{file.uri}#{number}"
                if line is None:
                    yield too_large(uri, n_bytes, source)
                elif line.strip():
                    one = parse_object(uri, line.removeprefix(BOM_UTF8) if number == 1 else line, source)
                    one = one if isinstance(one, Reject) else made(uri, one, source)
                    yield one._replace(n_bytes=len(line)) if isinstance(one, Reject) else with_facts(one, file)
        except DAMAGE as error:
            yield Reject(
                f"{file.uri}#{number + 1}",
                "damaged",
                f"{type(error).__name__}: {error}, after {number:,} whole lines",
                0,
            )


def lines(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[bytes | None, int]]:
    """(line, its bytes); the line is None above `limit` bytes, and no more of it than `limit` and a chunk is ever
    held."""
    kept, n_bytes = [], 0
    for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            n_bytes += len(piece)
            yield (b"".join(kept) + piece if n_bytes <= limit else None), n_bytes
            kept, n_bytes = [], 0
        n_bytes += len(rest)
        if n_bytes <= limit:
            kept.append(rest)
        else:
            kept.clear()
    if n_bytes:
        yield (b"".join(kept) if n_bytes <= limit else None), n_bytes


def parse_object(uri: str, line: bytes, source: Source) -> dict | Reject:
    """One line's object. `json` is asked when orjson refuses: NaN and lone surrogates in other fields do no harm."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as refusal:
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError:
            return decode_document(uri, line, None, source)
        except (ValueError, RecursionError):
            detail = OVER_LINES if line.strip() in BEGUN else str(refusal)
            return Reject(uri, "broken_json", detail, len(line))
    if not isinstance(value, dict):
        hint = f": {ONE_A_LINE}" if isinstance(value, list) else ""
        return Reject(uri, "not_an_object", f"expected an object, found {type(value).__name__}{hint}", len(line))
    return value


def record(uri: str, value: dict[str, Any], source: Source) -> Record | Reject:
    """The text field of one line's object."""
    if source.text_field not in value:
        names = ", ".join(map(repr, list(value)[:20]))
        return Reject(uri, "no_text", f"expected field {source.text_field!r}, found {names:.200}", 0)
    text = value[source.text_field]
    make = page if is_page(text, source) else document
    return make(uri, text, licence_text(value.get(source.licence_field)), source)


def licence_text(value: Any) -> str | None:
    """A licence field as text; lists and the like as JSON, so that nothing is lost, but for what is nested too deep for
    `json`."""
    try:
        text = value if isinstance(value, str) else None if value is None else json.dumps(value, default=str)
    except RecursionError:  # orjson reads 1,023 levels, `json` writes fewer than 1,000
        return None
    return text.encode("utf-8", "backslashreplace").decode() if text else None
