"""One document a file: UTF-8, or what its bytes make most sense in, as of a page without a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.html.charset import decode
from pipelines.readers.archives import read_each
from pipelines.readers.files import File, Record, Reject, document, list_matching, read_whole
from pipelines.readers.members import ARCHIVES
from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of the source's suffixes, and no archive."""
    return list_matching(source, source.suffixes, _wanted(source))


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """The file's text, or that of each such file in an archive. Raises OSError when it cannot be read."""
    return read_each(file, source, _wanted(source), _read)


def _wanted(source: Source) -> Callable[[str], bool]:
    return lambda name: has_suffix(name, source.suffixes + ARCHIVES)


def _read(file: File, source: Source) -> Iterator[Record | Reject]:
    data = read_whole(file, source)
    yield data if isinstance(data, Reject) else _document(file, data, source)


def _document(file: File, data: bytes, source: Source) -> Record | Reject:
    text, charset = decode(data)
    if text is None:
        return Reject(file.uri, "undecodable", charset, len(data))
    made = document(file.uri, text, file.licence, source)
    known = (("charset", charset),) * (charset != "utf-8")
    return made._replace(facts=known) if isinstance(made, Record) else made
