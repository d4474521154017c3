"""Who works on a lake in a bucket: an object beside its tables that the run which writes them renews.

Two homes on one lake lose no commit (pipelines/ConditionalLogStore.java, delta-rs): they would do each other's work
again. The lease is there for the message. After Gray & Cheriton, "Leases" (1989): who stops renewing it, loses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.scratch import POLL_SECONDS, HomeBusy
from schemas.files import write_whole
from schemas.store import endpoint, store_error

RENEW_SECONDS = 30.0
EXPIRE_SECONDS = 180.0  # longer than a store is away for, and than a compiled loop keeps a thread from its turn
NAME = "lease.json"
REMEMBERED = "lease"  # file of the home: the id of the lease that it took last


@contextlib.contextmanager
def held(lake: str, home: Path, process: int, on_wait: Callable[[str], None] | None = None) -> Iterator[Lease]:
    """Hold the lake at an S3 URL for the run of `home`, which is held. Raises HomeBusy naming the run that has it, or
    with `on_wait` waits for that run, calling it with this message every POLL_SECONDS; OSError for a store that does
    not answer.

    One that a killed run left is taken over by its own home at once, by others EXPIRE_SECONDS after it was renewed
    last. No machine's clock is asked: the age is the store's `Date` less the object's `Last-Modified`, both by the
    store's own clock, and the seconds between renewals are monotonic ones. A clock that is off shows in the message
    alone, which says since when by the holder's.
    """
    lease = Lease(lake, home, process)
    while busy := lease.take():
        if on_wait is None:
            raise HomeBusy(busy)
        on_wait(busy)
        time.sleep(POLL_SECONDS)
    stop = threading.Event()
    renewing = threading.Thread(target=lease.renew_until, args=[stop], daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        stop.set()
        renewing.join(RENEW_SECONDS)
        lease.release()


@dataclass
class Lease:
    """The object, and what this process knows of it."""

    lake: str
    home: Path
    process: int
    lost_to: str | None = None  # who has taken it over
    _told: dict[str, Any] = field(default_factory=dict)
    _etag: str | None = None

    def __post_init__(self):
        self._object = Object(f"{self.lake}/{NAME}")

    def take(self) -> str | None:
        """Make it this run's; else who has it, as people are told."""
        remembered = self.home / REMEMBERED
        known = remembered.read_text() if remembered.is_file() else None
        told, self._etag, age = self._object.read()
        owner = told and told.get("id")
        if owner not in (None, known) and age < EXPIRE_SECONDS:
            frees = f"a run that was killed frees it after {EXPIRE_SECONDS / 60:g} minutes"
            return f"{self.lake} is in use by {_holder(told)}; wait for it, or stop it ({frees})"
        self._told = {
            "id": owner if owner and owner == known else uuid.uuid4().hex,
            "host": socket.gethostname(), "home": str(self.home.resolve()), "process": self.process,
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "renewed": 0,
        }  # fmt: skip
        write_whole(remembered, self._told["id"].encode())
        return None if self._put(self._told) else self.take()

    def require(self) -> None:
        """Raises HomeBusy where another run has taken it over."""
        if self.lost_to:
            raise HomeBusy(
                f"{self.lake} was taken over by {self.lost_to}, as this run did not renew its lease for "
                f"{EXPIRE_SECONDS:g} s (did the machine sleep?). What is done is safe: the same command goes on"
            )

    def renew_until(self, stop: threading.Event) -> None:
        """Renew it every RENEW_SECONDS until it is lost. A store that is away is asked again."""
        while not self.lost_to and not stop.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):
                if not self._put(self._told | {"renewed": self._told["renewed"] + 1}):
                    self.lost_to = _holder(self._object.read()[0] or {})

    def release(self) -> None:
        """Say that the run has ended. One that cannot be told expires."""
        with contextlib.suppress(OSError):
            self.lost_to or self._put(self._told | {"id": None})

    def _put(self, told: dict[str, Any]) -> bool:
        """Whether it is ours to write, and says this now. An answer that was lost on its way is known by what is
        there."""
        etag = self._object.put(told, self._etag)
        if etag is None:
            found, etag, _ = self._object.read()
            if found != told:
                return False
        self._told, self._etag = told, etag
        return True


def _holder(told: dict[str, Any]) -> str:
    process, host, home, since = (told.get(name, "?") for name in ("process", "host", "home", "since"))
    return f"process {process} on {host}, home {home}, since {since}"


class Object:
    """A JSON value in S3, put on the condition that it is still what was read. Raises OSError, naming it.

    By boto3, whose import takes a second: neither pyarrow.fs nor delta-rs has conditional puts for others.
    """

    def __init__(self, url: str):
        import boto3
        from botocore.config import Config

        parts = urlsplit(url)
        self.url, self.place = url, {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=10, read_timeout=20,
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint() else None,
        )  # fmt: skip
        region = os.environ.get("AWS_REGION") or "us-east-1"
        session = boto3.session.Session()  # not the process's, which keeps credentials that were good once
        self._client = session.client("s3", region_name=region, endpoint_url=endpoint(), config=config)

    def read(self) -> tuple[dict[str, Any] | None, str | None, float]:
        """(value, ETag, seconds since it was put by the store's clock); (None, None, 0) where there is none."""
        from botocore.exceptions import ClientError

        with self._named():
            try:
                answer = self._client.get_object(**self.place)
            except ClientError as error:
                if _status(error) != 404 or error.response["Error"]["Code"] == "NoSuchBucket":
                    raise
                return None, None, 0.0
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - answer["LastModified"]).total_seconds()
            return json.loads(answer["Body"].read()), answer["ETag"], age

    def put(self, value: dict[str, Any], etag: str | None) -> str | None:
        """Its new ETag; None where it is not the one of `etag` any more (None: where it is there)."""
        from botocore.exceptions import ClientError

        with self._named():
            condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
            try:
                return self._client.put_object(**self.place, Body=json.dumps(value).encode(), **condition)["ETag"]
            except ClientError as error:
                if _status(error) not in (404, 409, 412):  # 409: another put of it was under way
                    raise
                return None

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, ValueError, KeyError, OSError) as error:
            raise store_error(self.url, error) from None


def _status(error: Any) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]
