"""One document a file, UTF-8."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.readers.files import File, Record, Reject, decoded, listed, whole
from schemas.recipe import Source


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of the source's suffixes."""
    return listed(source, source.suffixes)


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """The file's text. Raises OSError when it cannot be read."""
    data = whole(file, source)
    yield data if isinstance(data, Reject) else decoded(file.uri, data, file.licence, source)
