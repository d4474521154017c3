"""Files in an object store, by URL. Imported for such URLs alone: `pyarrow.fs` knows s3, gs and abfs, takes credentials
and endpoint from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION, ...), and
asks again where a store answers with 5xx or cuts a body.

A store that is away for a minute ends no run: `Store` says so once and asks again, what reads tables asks silently.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from schemas.errors import DataError
from schemas.files import file_sha256

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem, SubTreeFileSystem

URL = re.compile(r"(s3|gs|gcs|abfss?)://[^/?#\s]+(/[^?#\s]*)?")
PART = 16 << 20  # bytes read or sent at a time
PATIENCE_SECONDS = 120.0  # in which a store that does not answer is asked again
PAUSE_SECONDS = 3.0
ATTEMPTS = 7  # of a request of those who read tables: the SDK waits 2, 4, 8, 16, 20 and 20 s between them
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # in which not a byte came; the SDK gives up after 3, so that no slow listing ever ended
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# What Arrow, delta-rs, boto3 and Hadoop quote of a store that refuses, and what is to be renewed. To a HEAD there is no
# body that says why: S3 answers it with 400 where a token has expired.
REFUSALS = {
    r"(?i)expired.?token|token.?refresh.?required|token.{1,20}expired|invalid.?token\b": f"AWS_SESSION_TOKEN, {KEYS}",
    r"status 400\) during Head\w+": f"AWS_SESSION_TOKEN, {KEYS}",
    r"(?i)invalid.?access.?key.?id": "AWS_ACCESS_KEY_ID",
    r"(?i)signature.?does.?not.?match": "AWS_SECRET_ACCESS_KEY",
    r"(?i)request.?time.?too.?skewed": "this machine's clock",
    r"(?i)unable to locate credentials|no credentials": KEYS,
    r"(?i)access.?denied|403 forbidden|status code: 403|status 403": f"{KEYS}, or their right to the bucket",
}
FINAL = re.compile("(?i)no.?such.?bucket|bucket .* not found")  # waiting does not mend it
T = TypeVar("T")


def is_url(place: str) -> bool:
    """Whether it is an object store's, rather than a path of this machine."""
    return URL.fullmatch(place) is not None


def endpoint() -> str | None:
    """Where the environment says that S3 is, if not at AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def files_at(place: str, attempts: int = ATTEMPTS) -> SubTreeFileSystem:
    """Arrow's file system of what is below a URL, or a path of this machine; an S3 is asked so often. Raises OSError or
    ValueError."""
    from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

    if not is_url(place):
        return SubTreeFileSystem(place, LocalFileSystem())
    if place.startswith("s3://"):
        return SubTreeFileSystem(unquote(place.removeprefix("s3://")), _s3(urlsplit(place).netloc, attempts))
    system, path = FileSystem.from_uri(place)
    return SubTreeFileSystem(path, system)


def _s3(bucket: str, attempts: int) -> S3FileSystem:
    """Arrow's, for a bucket. The endpoint's scheme it does not take from the environment."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    parts = urlsplit(endpoint() or "")
    return S3FileSystem(
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or "https",
        region=region or (None if endpoint() else resolve_s3_region(bucket)),
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
    )


def refusal(said: str) -> str | None:
    """What to do, where an error of any library says that a store did not take the credentials."""
    for pattern, renewed in REFUSALS.items():
        if matched := re.search(pattern, said):
            return (
                f"expected credentials that the object store takes, found {matched[0]!r}: renew {renewed}. What is "
                "done is safe: the same command goes on"
            )
    return None


def store_error(place: str, error: Exception) -> OSError:
    """An error of a store as people are told it, in one sentence."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{place} is missing")
    if advice := refusal(str(error)):
        return PermissionError(f"{place}: {advice}")
    said = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())  # delta-rs paints lines
    return OSError(f"{place}: expected the object store to answer, found {said}")


def told_on_stderr(said: str) -> None:
    print(said, file=sys.stderr, flush=True)


def ask_again(
    place: str,
    ask: Callable[[], T],
    tell: Callable[[str], None] = told_on_stderr,
    closed: threading.Event | None = None,
) -> T:
    """What `ask` returns, which is called again while the store at `place` does not answer, for PATIENCE_SECONDS or
    until `closed` is set. Raises `store_error`; at once for credentials that are refused and for files and buckets that
    are missing.

    tell: is told once that the store is waited for.
    """
    until, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            return ask()
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) and not isinstance(error, FileNotFoundError):
                raise  # of a file here
            wrong = store_error(place, error)
            is_final = isinstance(error, ValueError) or FINAL.search(str(error)) or type(wrong) is not OSError
        if is_final or time.monotonic() > until or (closed or threading.Event()).wait(PAUSE_SECONDS):
            raise wrong
        if not told:
            tell(f"{wrong}; asking again for {PATIENCE_SECONDS:g} s")
        told = True


class Store:
    """The files below a URL. Every method raises OSError, naming the URL, for a store that does not answer as it
    should in PATIENCE_SECONDS, PermissionError at once for one that refuses the credentials.

    tell, closed: as `ask_again` takes them.
    """

    def __init__(self, url: str, tell: Callable[[str], None] = told_on_stderr):
        self.url, self.closed = url.rstrip("/"), threading.Event()
        self._tell = tell

    @cached_property
    def _files(self) -> SubTreeFileSystem:
        return files_at(self.url, attempts=2)

    def _ask(self, name: str, ask: Callable[[], T]) -> T:
        return ask_again(f"{self.url}/{name}".rstrip("/"), ask, self._tell, self.closed)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of every file, by name."""
        from pyarrow.fs import FileSelector

        chosen = FileSelector(below, allow_not_found=True, recursive=True)
        listed = self._ask(below, lambda: self._files.get_file_info(chosen))
        return {info.path: info.size for info in listed if info.is_file}

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError."""

        def ask() -> bytes:
            with self._files.open_input_stream(name) as stream:
                return stream.read()

        return self._ask(name, ask)

    def get(self, name: str, to: Path, sha256: str | None = None) -> None:
        """Fetch a file: `to` is whole or not there. Raises FileNotFoundError, and DataError if it is not what its hash
        says."""
        to.parent.mkdir(parents=True, exist_ok=True)
        scratch = to.with_name(f".{to.name}.{uuid.uuid4().hex}.tmp")
        try:
            with scratch.open("wb") as file:
                self._ask(name, lambda: self._copy(name, file))
            if sha256 and (found := file_sha256(scratch)) != sha256:
                raise DataError(f"{self.url}/{name}: expected the file with SHA-256 {sha256}, found {found}")
            scratch.replace(to)
        finally:
            scratch.unlink(missing_ok=True)

    def _copy(self, name: str, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        with self._files.open_input_stream(name) as stream:
            shutil.copyfileobj(stream, file, PART)

    def put(self, file: Path, name: str) -> None:
        """Send a file: readers see it whole or as it was, as stores show an object when its last part came."""

        def ask() -> None:
            stream = self._files.open_output_stream(name)
            # Not `with`: it closes after an error too, and what is closed is there.
            while part := source.read(PART):
                stream.write(part)
            stream.close()

        with file.open("rb") as source:
            self._ask(name, lambda: (source.seek(0), ask()))

    def delete(self, name: str) -> None:
        """Take a file away, if it is there."""

        def ask() -> None:
            if self._files.get_file_info(name).is_file:
                self._files.delete_file(name)

        self._ask(name, ask)
