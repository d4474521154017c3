"""Files in an object store, by URL. Imported for such URLs alone: `pyarrow.fs` knows s3, gs and abfs, takes credentials
and endpoint from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION, ...), and
asks again where a store answers with 5xx or cuts a body.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from schemas.errors import DataError
from schemas.files import file_sha256

if TYPE_CHECKING:
    from pyarrow.fs import SubTreeFileSystem

URL = re.compile(r"(s3|gs|gcs|abfss?)://[^/?#\s]+(/[^?#\s]*)?")
PART = 16 << 20  # bytes read or sent at a time


def is_url(place: str) -> bool:
    """Whether it is an object store's, rather than a path of this machine."""
    return URL.fullmatch(place) is not None


def endpoint() -> str | None:
    """Where the environment says that S3 is, if not at AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def files_at(place: str) -> SubTreeFileSystem:
    """Arrow's file system of what is below a URL, or a path of this machine. Raises OSError or ValueError."""
    from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

    if not is_url(place):
        return SubTreeFileSystem(place, LocalFileSystem())
    uri = place
    if place.startswith("s3://") and endpoint():  # its scheme pyarrow does not take from the environment
        parts = urlsplit(endpoint())
        uri = f"{place}?endpoint_override={parts.netloc}&scheme={parts.scheme}"
    system, path = FileSystem.from_uri(uri)
    return SubTreeFileSystem(path, system)


class Store:
    """The files below a URL. Every method raises OSError, naming the URL, for a store that does not answer as it
    should."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    @cached_property
    def _files(self) -> SubTreeFileSystem:
        with self._named(""):
            return files_at(self.url)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            place = f"{self.url}/{name}".rstrip("/")
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"{place} is missing") from None
            raise OSError(f"{place}: expected the object store to answer, found {error}") from None

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of every file, by name."""
        from pyarrow.fs import FileSelector

        with self._named(below):
            listed = self._files.get_file_info(FileSelector(below, allow_not_found=True, recursive=True))
            return {info.path: info.size for info in listed if info.is_file}

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError."""
        with self._named(name), self._files.open_input_stream(name) as stream:
            return stream.read()

    def get(self, name: str, to: Path, sha256: str | None = None) -> None:
        """Fetch a file: `to` is whole or not there. Raises FileNotFoundError, and DataError if it is not what its hash
        says."""
        to.parent.mkdir(parents=True, exist_ok=True)
        scratch = to.with_name(f".{to.name}.{uuid.uuid4().hex}.tmp")
        try:
            with self._named(name), self._files.open_input_stream(name) as stream, scratch.open("wb") as file:
                shutil.copyfileobj(stream, file, PART)
            if sha256 and (found := file_sha256(scratch)) != sha256:
                raise DataError(f"{self.url}/{name}: expected the file with SHA-256 {sha256}, found {found}")
            scratch.replace(to)
        finally:
            scratch.unlink(missing_ok=True)

    def put(self, file: Path, name: str) -> None:
        """Send a file: readers see it whole or as it was, as stores show an object when its last part came."""
        with file.open("rb") as source:
            first = source.read(PART)
            with self._named(name):
                stream = self._files.open_output_stream(name)
                # Not `with`: it closes after an error too, and what is closed is there.
                while part := first:
                    stream.write(part)
                    first = source.read(PART)
                stream.close()

    def delete(self, name: str) -> None:
        """Take a file away, if it is there."""
        with self._named(name):
            if self._files.get_file_info(name).is_file:
                self._files.delete_file(name)
