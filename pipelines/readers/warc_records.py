"""The records of a web archive, each trusted only when it ends where the next begins.

Why not fastwarc's iterator (which was tried): a truncated member ends there in silence, a Content-Length that is too
long swallows the records of other members, and one broken record ends the archive. Here reading goes on after it: at
the next gzip member or zstd frame, or at the next line that begins with `WARC/1.`. Every step back costs: more than
REREAD times the file is never read, so crossed claims cannot make it quadratic.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import zstandard

from pipelines.readers.compressed import ZSTD_STEP_BYTES
from pipelines.readers.files import Reject

STEP_BYTES = 1 << 16
HEADER_BYTES = 1 << 16  # of a record's, or a response's, headers
REREAD = 4
SLACK_BYTES = 64 << 20  # that may be read again besides
MARK = b"\nWARC/1."
FOLD, LINE_END = re.compile(rb"\r?\n[ \t]+"), re.compile(r"\r\n|\n|\r")
LISTS = ("content-type", "content-encoding", "transfer-encoding")  # several headers are one, joined by commas
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"


class Broken(Exception):
    """What is wrong with a record: reason, detail."""


class Raw(NamedTuple):
    """A record as it stands: `headers` by lower-case name; of a body above the limit only the first HEADER_BYTES."""

    uri: str
    headers: dict[str, str]
    body: bytes
    n_bytes: int

    @property
    def kind(self) -> str:
        return self.headers.get("warc-type", "").lower()


def parse_archive(stream: BinaryIO, uri: str, limit: int, n_bytes: int) -> Iterator[Raw | Reject]:
    """Every record of an archive, whatever its type; a Reject for each that is broken.

    Raises OSError when the file cannot be read.
    """
    packed = _Packed(stream, REREAD * n_bytes + SLACK_BYTES)
    searching = False
    try:
        while packed.more():
            member = _Member(packed)
            yield from _member_records(member, uri, limit)
            # what only looked like a member is part of the damage before
            if member.damage and not (searching and member.at == 0):
                after = f"after {member.at:,} bytes of the member"
                detail = f"{member.damage}, {after}; read on at the next that can be unpacked"
                yield Reject(f"{uri}#{packed.begin}", "damaged", detail, 0)
            searching = bool(member.damage)
            if searching:
                packed.resynchronise()
    except _Spent:
        yield Reject(
            f"{uri}#{packed.begin}", "damaged", f"given up from here on: what it claims has been read {REREAD} times", 0
        )


def _member_records(member: _Member, file_uri: str, limit: int) -> Iterator[Raw | Reject]:
    begin, packed = member.packed.begin, member.packed.kind is not None
    while member.skip_blank():
        at = member.at
        uri = f"{file_uri}#{begin}+{at}" if at and packed else f"{file_uri}#{begin + at}"
        try:
            yield _record(member, uri, limit)
        except Broken as error:
            if not member.damage:  # else one reject says it
                yield Reject(uri, *error.args, member.at - at)
            member.seek_mark()


def _record(member: _Member, uri: str, limit: int) -> Raw:
    """The record that begins here. Raises Broken, the member somewhere after its begin."""
    begin = member.ahead(20)
    head = member.head() if begin.startswith(b"WARC/") else None
    if head is None:
        detail = f"expected WARC/ and headers of at most {HEADER_BYTES:,} bytes, found {begin!r}"
        raise Broken("broken_record", detail)
    headers = headers_of(head)
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise Broken("broken_record", f"expected a Content-Length, found {length[:40]!r}")
    length = int(length)
    if length > limit + HEADER_BYTES:
        raw = Raw(uri, headers, member.ahead(HEADER_BYTES), length)
        member.seek_mark()
        return raw
    body = member.take(length)
    if len(body) < length:
        member.give_back(body)
        reason = "broken_record" if MARK in body else "damaged"
        raise Broken(reason, f"expected {length:,} bytes as its Content-Length says, found {len(body):,} to the end")
    if not member.at_boundary():
        member.give_back(body)
        raise Broken("broken_record", f"Content-Length {length:,}, but the record does not end there")
    return Raw(uri, headers, body, length)


def headers_of(head: bytes) -> dict[str, str]:
    """By lower-case name; the first of equal ones, those of LISTS joined. Lines without a colon are left out, those
    that begin with a space go on with the line before."""
    unfolded = FOLD.sub(b" ", head).decode("utf-8", "replace").replace("\0", "")
    pairs = (line.partition(":") for line in LINE_END.split(unfolded)[1:])
    headers: dict[str, str] = {}
    for name, colon, value in pairs:
        name, value = name.strip().lower(), value.strip()
        if colon and name in headers and name in LISTS:
            headers[name] += f", {value}"
        elif colon:
            headers.setdefault(name, value)
    return headers


class _Spent(Exception):
    """More was read, rereading included, than a sound archive could ask for."""


class _Packed:
    """The file's bytes, from member to member. `kind` is GZIP, ZSTD or None (plain: one member); `begin` where the
    member begins."""

    def __init__(self, stream: BinaryIO, budget: int):
        self.stream, self.budget, self.rest, self.begin = stream, budget, b"", 0
        self.rest = stream.read(STEP_BYTES)
        self.kind = next((magic for magic in (GZIP, ZSTD) if self.rest.startswith(magic)), None)
        self.at = 0  # in the file, of the first byte of `rest`

    def spend(self, n_bytes: int) -> None:
        self.budget -= n_bytes
        if self.budget < 0:
            raise _Spent

    def fill(self) -> bool:
        self.rest = self.rest or self.stream.read(STEP_BYTES)
        return bool(self.rest)

    def more(self) -> bool:
        """Whether there is another member; `begin` is then its place. Zeros between members are padding."""
        while self.fill():
            stripped = self.rest.lstrip(b"\0") if self.kind else self.rest
            self.at += len(self.rest) - len(stripped)
            self.rest = stripped
            if stripped:
                self.begin = self.at
                return True
        return False

    def resynchronise(self) -> None:
        """Go to the next place after the broken member's begin that looks like a member."""
        self.stream.seek(self.begin + 1)
        self.at, self.rest = self.begin + 1, b""
        while block := self.stream.read(STEP_BYTES):
            joined = self.rest + block
            place = joined.find(self.kind)
            if place >= 0:
                self.at, self.rest = self.at + place, joined[place:]
                return
            self.at, self.rest = self.at + len(joined) - 3, joined[-3:]
        self.rest = b""

    def pieces(self) -> Iterator[bytes]:
        """The present member unpacked, in bounded pieces. Raises zlib.error, ZstdError, or EOFError when the file ends
        inside."""
        if not self.kind:
            while self.fill():
                data, self.rest = self.rest, b""
                self.at += len(data)
                self.spend(len(data))
                yield data
            return
        unpack = zlib.decompressobj(31) if self.kind == GZIP else zstandard.ZstdDecompressor().decompressobj()
        while self.fill():
            data = self.rest[: STEP_BYTES if self.kind == GZIP else ZSTD_STEP_BYTES]
            try:
                made = unpack.decompress(data, STEP_BYTES * 4) if self.kind == GZIP else unpack.decompress(data)
            except (zlib.error, zstandard.ZstdError):
                self.spend(len(data))
                raise
            left = unpack.unused_data or (unpack.unconsumed_tail if self.kind == GZIP else b"")
            used = len(data) - len(left)
            self.spend(used)
            self.rest = self.rest[used:]
            self.at += used
            yield made
            if unpack.eof:
                return
        raise EOFError("the file ends inside a member")


class _Member:
    """One member, read from front to back with a little give: what was taken can be given back once, to look for a mark
    in it."""

    def __init__(self, packed: _Packed):
        self.packed, self.pieces = packed, packed.pieces()
        self.buffer, self.at, self.damage = bytearray(), 0, ""

    def fill(self) -> bool:
        try:
            piece = next(self.pieces, None)
        except (zlib.error, zstandard.ZstdError, EOFError) as error:
            self.damage, piece = f"{type(error).__name__}: {error}"[:150], None
        self.buffer += piece or b""
        return piece is not None

    def take(self, n_bytes: int) -> bytes:
        """So many bytes, or what there is."""
        while len(self.buffer) < n_bytes and self.fill():
            pass
        data = bytes(self.buffer[:n_bytes])
        del self.buffer[:n_bytes]
        self.at += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        self.packed.spend(len(data) + len(self.buffer))
        self.buffer[:0] = data
        self.at -= len(data)

    def skip_blank(self) -> bool:
        """To the next byte that ends no line; whether there is one."""
        while True:
            ahead = bytes(self.buffer[:64])
            n_blank = len(ahead) - len(ahead.lstrip(b"\r\n"))
            self.take(n_blank)
            if n_blank < len(ahead):
                return True
            if not self.buffer and not self.fill():
                return False

    def at_boundary(self) -> bool:
        """Whether a record may end here: an empty line, the member's end, or the next record."""
        return self.ahead(4) == b"\r\n\r\n" or not self.skip_blank() or self.ahead(5) == b"WARC/"

    def ahead(self, n_bytes: int) -> bytes:
        while len(self.buffer) < n_bytes and self.fill():
            pass
        return bytes(self.buffer[:n_bytes])

    def head(self) -> bytes | None:
        """Headers up to their empty line, or None when there is none within HEADER_BYTES."""
        seen = 0
        while True:
            places = {blank: self.buffer.find(blank, seen) for blank in (b"\r\n\r\n", b"\n\n")}
            ends = [place + len(blank) for blank, place in places.items() if place >= 0]
            if ends and min(ends) <= HEADER_BYTES:
                return self.take(min(ends))
            seen = max(len(self.buffer) - 3, 0)
            if len(self.buffer) > HEADER_BYTES or not self.fill():
                return None

    def seek_mark(self) -> None:
        """To the next record after an empty line, or to the member's end."""
        while True:
            place = self.buffer.find(MARK, 1)
            if place >= 0:
                self.take(place)
                return
            self.take(max(len(self.buffer) - len(MARK), 0))
            if not self.fill():
                self.take(len(self.buffer))
                return
