"""What the readers share: files in a fixed order, and one text made into a record or a reject.

Links: a link to a file is read like the file (Hugging Face caches are made of them); a link to a folder is never
entered, so no loop can arise. It is listed instead and becomes one reject, as does a folder that cannot be opened:
nothing is left out in silence. Not entered either: the log of a Delta table, and the parts of a home of Millrace that
lies below a source, which every run would read anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, NamedTuple

from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source
from schemas.recipe import RecipeError

MAGIC = re.compile(r"[*?[]")
HOME_PARTS = ("lake", "models", "prefect", "report", "runs", "shards", "steps", "tmp")
HOME_FILES = "deliveries.json", "openlineage.jsonl", "published.jsonl", "lease", "mlflow.db", "mlflow.db-journal"
DELTA_LOG = "_delta_log"
# Why an input record did not become a document: the words in `bronze.rejects.reason`.
REASONS = {
    "broken_json": "the line, or the notebook, is not JSON",
    "not_an_object": "it is JSON, but not an object",
    "no_text": "the text field, or a notebook's cells, are missing, null or not text",
    "invalid_utf8": "bytes that are not UTF-8 (or a module's declared encoding), or lone surrogates",
    "nul": "the text holds NUL characters: binary data",
    "empty_text": "the text is empty or white space",
    "too_large": "the record is larger than max_document_bytes",
    "broken_record": "a web archive's record whose headers or length cannot be right",
    "no_page": "a web archive's response of another status than 200, or of another type than a page or plain text",
    "segmented": "a web archive's record of which other records hold the rest",
    "undecodable": "a page or text whose content encoding or charset cannot be undone",
    "too_many_tags": "a page with more or deeper tags than the extractor takes",
    "damaged": "the rest of the file cannot be decoded: truncated or corrupt gz, zst, parquet, zip or tar",
    "unreadable": "the file cannot be opened or read: permission, vanished, link loop, link to a folder, pipe; "
    "encrypted in an archive",
    "bad_turn": "a message of a chat lacks a known role or content, or holds other than text",
    "bad_order": "the turns of a chat are not user and assistant by turns, or one of the two says nothing",
    "nested_archive": "an archive inside an archive: unpack the outer one",
    "repeated_name": "a second member of an archive with the same name: only the first is read",
    "too_unpacked": "an archive unpacks to far more bytes or members than honest ones do: nothing after that is read",
}


class File(NamedTuple):
    """One file of a source. `uri` is its place in the source, `path` its place on this machine (never stored).

    `licence` and `facts` are what its tree says of it. A member of an archive is a file with an open `stream`, read
    once from front to end, and the archive's path; `open_stream` gives the stream of either kind. `removed` are the
    numbers of rows that a table holds no more.
    """

    path: str
    uri: str
    bytes: int
    mtime_ns: int
    licence: str | None = None
    facts: tuple[tuple[str, str], ...] = ()
    stream: BinaryIO | None = None
    removed: tuple[int, ...] = ()


class Record(NamedTuple):
    """One text. `text` has \\n line ends, no NUL, no lone surrogates.

    `facts` are pairs of what the reader knows of it besides, by these names (all optional):
    url, title; language: as the record declares it, or of a program's file name; charset: what the text was decoded
    from; truncated: why a page is not whole (length, time, disconnect, unspecified); vendored, generated: "1" for a
    file that its tree marks so; turns: how many a chat has, its system message not counted. And by their own names the
    columns that folders such as year=2024 stand for.
    """

    uri: str
    text: str
    licence: str | None
    facts: tuple[tuple[str, str], ...] = ()


class Reject(NamedTuple):
    """One input record that could not become a document. `n_bytes` as far as they could be read."""

    uri: str
    reason: str
    detail: str
    n_bytes: int


def document(uri: str, text: Any, licence: str | None, source: Source) -> Record | Reject:
    """The text as a record, with line ends as \\n and without a byte order mark, or why it is none."""
    if not isinstance(text, str):
        return Reject(uri, "no_text", f"expected text, found {type(text).__name__}", 0)
    try:
        n_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        return Reject(
            uri, "invalid_utf8", f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start}", len(text)
        )
    if "\0" in text:
        return Reject(
            uri, "nul", f"{text.count(chr(0)):,} NUL characters, the first at {text.index(chr(0)):,}", n_bytes
        )
    if n_bytes > source.max_document_bytes:
        return too_large(uri, n_bytes, source)
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        return Reject(uri, "empty_text", f"{len(text):,} characters of white space", n_bytes)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Record(uri, text, licence or source.licence)


def decode_document(uri: str, data: bytes, licence: str | None, source: Source) -> Record | Reject:
    """Like `document`, from UTF-8 bytes."""
    try:
        return document(uri, data.decode(), licence, source)
    except UnicodeDecodeError as error:
        return Reject(
            uri, "invalid_utf8", f"byte {data[error.start]:#04x} at {error.start:,}: {error.reason}", len(data)
        )


def too_large(uri: str, n_bytes: int, source: Source) -> Reject:
    return Reject(uri, "too_large", f"expected at most {source.max_document_bytes:,} bytes, found {n_bytes:,}", n_bytes)


def open_stream(file: File) -> AbstractContextManager[BinaryIO]:
    """The file's bytes. Raises OSError when it cannot be opened."""
    return nullcontext(file.stream) if file.stream else open(file.path, "rb")


def read_whole(file: File, source: Source) -> bytes | Reject:
    """The bytes of a file that is one record."""
    with open_stream(file) as stream:
        data = stream.read(source.max_document_bytes + 1)  # never more: the file may have grown since it was listed
    return data if len(data) <= source.max_document_bytes else too_large(file.uri, max(file.bytes, len(data)), source)


def list_matching(
    source: Source, suffixes: tuple[str, ...], wanted: Callable[[str], bool] | None = None, skip: Collection[str] = ()
) -> list[File]:
    """Files of a source with a path, by uri: the file, all with one of the suffixes in the folder, or all that the glob
    matches.

    `wanted` chooses a folder's files instead of the suffixes; folders named in `skip` are not entered.
    Raises RecipeError when the path is missing, cannot be opened, or holds no such file or only empty ones.
    """
    wanted = wanted or (lambda uri: has_suffix(uri, suffixes))
    return require_text(source, suffixes, matching_files(source, wanted, skip))


def matching_files(source: Source, wanted: Callable[[str], bool], skip: Collection[str] = ()) -> list[File]:
    """The same, though it be none. Raises RecipeError when the path is missing or cannot be opened."""
    field = f"sources.{source.name}.path"
    if not source.path:
        raise RecipeError(f"{field}: expected a file, folder or glob for reader {source.reader}, found none")
    try:
        return sorted(_matching(os.path.abspath(source.path), wanted, skip), key=lambda file: file.uri)
    except OSError as error:
        raise RecipeError(
            f"{field}: expected a file, folder or glob that can be read, found {source.path!r}: {error.strerror}"
        ) from None


def require_text(source: Source, suffixes: tuple[str, ...], files: list[File]) -> list[File]:
    """The files of a source. Raises RecipeError when there are none, or only empty ones."""
    if not any(file.bytes for file in files):
        expected = "files that match" if MAGIC.search(source.path) else f"files ending in {', '.join(suffixes)}"
        raise RecipeError(
            f"sources.{source.name}.path: expected {expected}, "
            f"found {f'{len(files)} empty ones' if files else 'none'} at {source.path!r}"
        )
    return files


def _matching(path: str, wanted: Callable[[str], bool], skip: Collection[str]) -> Iterator[File]:
    if os.path.isdir(path):
        yield from walk(path, wanted, skip=skip)
    elif os.path.lexists(path) or not MAGIC.search(path):
        os.stat(path)  # raises what is wrong with it
        yield file_at(path, uri_of(os.path.basename(path)))
    else:
        folder = fixed_part(path)
        pattern = path[len(folder) :].lstrip("/")
        matches = re.compile(glob_regex(pattern)).fullmatch
        yield from walk(
            folder,
            lambda uri: matches(uri) is not None,
            depth=None if "**" in pattern else pattern.count("/"),
            skip=skip,
        )


def fixed_part(path: str) -> str:
    """The folder that a glob's matches lie below; a path without wildcards as it is."""
    magic = None if os.path.lexists(path) else MAGIC.search(path)
    return (path[: magic.start()].rpartition("/")[0] or path[: path.startswith("/")] or ".") if magic else path


def glob_regex(pattern: str) -> str:
    """`*` and `?` within a folder, `**/` over any number of them, `[a-z]` and `[!a-z]`: as in a shell."""
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern):
        is_set = piece.startswith("[") and piece.endswith("]")
        regex += known.get(piece) or (piece.replace("[!", "[^") if is_set else re.escape(piece))
    return f"(?s:{regex})"


def walk(
    root: str, wanted: Callable[[str], bool], prefix: str = "", depth: int | None = None, skip: Collection[str] = ()
) -> Iterator[File]:
    """Files below `root` whose place (prefix and relative path) is `wanted`, at most `depth` folders down.

    Folders named in `skip` are left out. Raises OSError when the root itself cannot be opened.
    """
    folders = [(root, prefix, 0)]
    while folders:
        folder, place, level = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            if folder == root:
                raise
            yield file_at(folder, uri_of(place.rstrip("/")))
            continue
        names = [entry.name for entry in entries]
        left_out = (DELTA_LOG, *skip, *home_parts(folder, names))
        notes = home_files(folder, names)
        for entry in (one for one in entries if one.name not in notes):
            name = place + entry.name
            enter = entry.name not in left_out and (depth is None or level < depth)
            if entry.is_dir(follow_symlinks=False):
                folders += [(entry.path, name + "/", level + 1)] * enter
            elif wanted(name) or (enter and entry.is_symlink() and os.path.isdir(entry.path)):
                yield file_at(entry.path, uri_of(name))


def home_parts(folder: str, names: Collection[str]) -> tuple[str, ...]:
    """The folders of runs in a folder with entries of these names, if one of Millrace has held its lock there
    (flows.home)."""
    if "lock" not in names or "tmp" not in names:
        return ()
    try:
        with open(f"{folder}/lock", "rb") as lock:
            return HOME_PARTS if lock.read(8) == b"process " else ()
    except OSError:
        return ()


def home_files(folder: str, names: Collection[str]) -> tuple[str, ...]:
    """What a home notes besides, in files that some reader would take for text; one that has seen deliveries and no run
    yet has no lock of runs."""
    return HOME_FILES if "deliveries.lock" in names or home_parts(folder, names) else ()


def uri_of(name: str) -> str:
    """A file's name as valid Unicode: bytes that are not UTF-8 become \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def file_at(path: str, uri: str) -> File:
    """What is known of a file; one that cannot be looked at has 0 bytes and becomes a reject when it is read."""
    try:
        stat = os.stat(path)
    except OSError:
        return File(path, uri, 0, 0)
    return File(path, uri, stat.st_size, stat.st_mtime_ns)
