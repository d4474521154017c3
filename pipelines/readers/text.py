"""One document a file, UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.readers.archives import read_each
from pipelines.readers.files import File, Record, Reject, decode_document, list_matching, read_whole
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
    yield data if isinstance(data, Reject) else decode_document(file.uri, data, file.licence, source)
