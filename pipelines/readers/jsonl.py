"""One JSON object a line; plain, .gz or .zst. A record's uri is the file's and the number of its line, from 1.

A line is measured as it stands, other fields included, against max_document_bytes. Blank lines are no records.
"""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import orjson
import zstandard

from pipelines.readers.files import File, Record, Reject, decoded, document, listed, too_large
from pipelines.readers.html import page
from schemas.recipe import Source

SUFFIXES = tuple(name + packed for name in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst"))
CHUNK_BYTES = 1 << 18
# 4 bytes of zstd can stand for a block of 128 KiB: a step of 512 bytes gives at most 16 MiB, whatever the file claims.
ZSTD_STEP_BYTES = 512
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of SUFFIXES."""
    return listed(source, SUFFIXES)


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each line; one reject for all that follows damage. Raises OSError when the file cannot be read."""
    number = 0
    with open(file.path, "rb") as stream:
        try:
            for number, (line, n_bytes) in enumerate(lines(_chunks(stream, file.path), source.max_document_bytes), 1):
                uri = f"{file.uri}#{number}"
                if line is None:
                    yield too_large(uri, n_bytes, source)
                elif line.strip():
                    yield record(uri, line.removeprefix(BOM_UTF8) if number == 1 else line, source)
        except DAMAGE as error:
            yield Reject(f"{file.uri}#{number + 1}", "damaged", f"{type(error).__name__}: {error}, after {number:,} whole lines", 0)


def lines(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[bytes | None, int]]:
    """(line, its bytes); the line is None above `limit` bytes, and no more of it than `limit` and a chunk is ever held."""
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


def record(uri: str, line: bytes, source: Source) -> Record | Reject:
    """One line's record. `json` is asked when orjson refuses: NaN and lone surrogates in other fields do no harm."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as refusal:
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError:
            return decoded(uri, line, None, source)
        except (ValueError, RecursionError):
            return Reject(uri, "broken_json", str(refusal), len(line))
    if not isinstance(value, dict):
        return Reject(uri, "not_an_object", f"expected an object, found {type(value).__name__}", len(line))
    if source.text_field not in value:
        found = ", ".join(map(repr, list(value)[:20]))
        return Reject(uri, "no_text", f"expected field {source.text_field!r}, found {found:.200}", len(line))
    make = page if source.content == "html" else document
    made = make(uri, value[source.text_field], licence_text(value.get(source.licence_field)), source)
    return made._replace(n_bytes=len(line)) if isinstance(made, Reject) else made


def licence_text(value: Any) -> str | None:
    """A licence field as text; lists and the like as JSON, so that nothing is lost."""
    text = value if isinstance(value, str) else None if value is None else json.dumps(value, default=str)
    return text.encode("utf-8", "backslashreplace").decode() if text else None


def _chunks(stream: BinaryIO, path: str) -> Iterator[bytes]:
    """The file unpacked, in pieces of bounded size. Raises one of DAMAGE after the last that could be had."""
    if path.endswith(".zst"):
        return _zstd_chunks(stream)
    plain = gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
    return iter(lambda: plain.read1(CHUNK_BYTES), b"")


def _zstd_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """zstandard's own stream reader ends in silence inside a truncated frame; this does not."""
    frame = None
    while data := stream.read(ZSTD_STEP_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the file ends inside a zstd frame")
