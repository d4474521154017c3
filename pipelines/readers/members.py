"""A member of an archive, and what one archive may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
# What one archive may cost. deflate reaches 1,032:1 and zstd 30,000:1 on zeros; text 3-10:1, pages of one site in zstd
# 30:1 (measured), logs 100:1: above 200:1 it is a bomb or not worth reading.
RATIO = 200
FREE_BYTES = 64 << 20  # which small archives may unpack to at any ratio: half a second
UNPACKED_BYTES = 256 << 30  # an hour of one task at 75 MB/s; larger archives should be several


class Member(NamedTuple):
    """One name in an archive; `trouble` says why it cannot be read."""

    name: str
    bytes: int
    trouble: str | None
    opened: Callable[[], BinaryIO]


class TooUnpacked(Exception):
    """An archive that unpacks to more than it may."""


def allowed_bytes(n_bytes: int) -> int:
    """Bytes that an archive of `n_bytes` may unpack to."""
    return min(UNPACKED_BYTES, max(FREE_BYTES, RATIO * n_bytes))


def too_unpacked(limit: int, n_bytes: int) -> TooUnpacked:
    return TooUnpacked(f"expected at most {limit:,} bytes unpacked of {n_bytes:,}: {RATIO} to 1, or {FREE_BYTES:,}")
