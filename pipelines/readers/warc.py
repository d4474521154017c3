"""Web archives: pages of WARC response and resource records (reader warc), text of WET conversion records (reader wet).

Plain, or packed in gzip members or zstd frames, of one record each as a rule. A record's uri is the file's, `#`, and the byte
at which its member begins, followed by `+` and its place in what the member unpacks to when it is not the first there.

Why not fastwarc's iterator (which was tried): a truncated member ends there in silence, a Content-Length that is too long
swallows the records of other members, and one broken record ends the archive. Here a record is trusted only when it ends
where the next begins; after anything else reading goes on at the next member, or at the next line that begins with `WARC/1.`.
Every step back costs: more than REREAD times the file is never read, so crossed claims cannot make it quadratic.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import zstandard
from fastwarc.stream_io import BrotliReader

from pipelines.extraction import decode
from pipelines.readers.files import File, Record, Reject, document, listed, too_large
from pipelines.readers.html import page
from pipelines.readers.packed import ZSTD_STEP_BYTES
from schemas.recipe import Source

WARC_SUFFIXES = (".warc", ".warc.gz", ".warc.zst")
WET_SUFFIXES = (".wet", ".wet.gz", ".wet.zst", *WARC_SUFFIXES)
STEP_BYTES = 1 << 16
HEADER_BYTES = 1 << 16  # of a record's, or a response's, headers
REREAD = 4
MAX_ENCODINGS = 3
MARK = b"\nWARC/1."
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
HTML_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml")
LOOKS_LIKE_HTML = re.compile(rb"(?i)\s{0,99}<(?:!doctype html|html|head|body)\b")
CHUNK_SIZE = re.compile(rb"(?:\r?\n)?[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]{0,999})?\r?\n")


class Broken(Exception):
    """What is wrong with a record: reason, detail."""


def list_warc(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WARC_SUFFIXES."""
    return listed(source, WARC_SUFFIXES)


def list_wet(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WET_SUFFIXES."""
    return listed(source, WET_SUFFIXES)


def read_warc(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each response or resource with HTML or plain text and status 200. Raises OSError."""
    return _read(file, source, _web_page)


def read_wet(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each conversion. Raises OSError."""
    return _read(file, source, _conversion)


class Raw(NamedTuple):
    """A record as it stands: `headers` by lower-case name; of a body above the limit only the first HEADER_BYTES."""

    uri: str
    headers: dict[str, str]
    body: bytes
    n_bytes: int


def _read(file: File, source: Source, make) -> Iterator[Record | Reject]:
    with open(file.path, "rb") as stream:
        for raw in records(stream, file.uri, source.max_document_bytes, file.bytes):
            if isinstance(raw, Reject):
                yield raw
                continue
            try:
                made = make(raw, source)
            except Broken as error:
                made = Reject(raw.uri, *error.args, len(raw.body))
            if made is not None:
                yield made


def records(stream: BinaryIO, uri: str, limit: int, n_bytes: int) -> Iterator[Raw | Reject]:
    """Every record of an archive, whatever its type; a Reject for each that is broken.

    Raises OSError when the file cannot be read.
    """
    packed = _Packed(stream, REREAD * n_bytes + (64 << 20))
    searching = False
    try:
        while packed.more():
            member = _Member(packed)
            yield from _member_records(member, uri, limit)
            if member.damage and not (searching and member.at == 0):  # what only looked like a member is part of the damage before
                detail = f"{member.damage}, after {member.at:,} bytes of the member; read on at the next that can be unpacked"
                yield Reject(f"{uri}#{packed.begin}", "damaged", detail, 0)
            searching = bool(member.damage)
            if searching:
                packed.resynchronise()
    except _Spent:
        yield Reject(f"{uri}#{packed.begin}", "damaged", f"given up from here on: what it claims has been read {REREAD} times", 0)


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
    head = member.head()
    if head is None or not head.startswith(b"WARC/"):
        raise Broken("broken_record", f"expected WARC/ and headers of at most {HEADER_BYTES:,} bytes, found {bytes(member.buffer[:20])!r}")
    headers = _headers(head)
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


def _headers(head: bytes) -> dict[str, str]:
    """By lower-case name; the first of equal ones. Lines without a colon are left out."""
    pairs = (line.partition(":") for line in head.decode("utf-8", "replace").replace("\0", "").splitlines()[1:])
    found: dict[str, str] = {}
    for name, colon, value in pairs:
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


class _Spent(Exception):
    """More was read, rereading included, than a sound archive could ask for."""


class _Packed:
    """The file's bytes, from member to member. `kind` is GZIP, ZSTD or None (plain: one member); `begin` where the member begins."""

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
            found = joined.find(self.kind)
            if found >= 0:
                self.at, self.rest = self.at + found, joined[found:]
                return
            self.at, self.rest = self.at + len(joined) - 3, joined[-3:]
        self.rest = b""

    def pieces(self) -> Iterator[bytes]:
        """The present member unpacked, in bounded pieces. Raises zlib.error, ZstdError, or EOFError when the file ends inside."""
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
    """One member, read from front to back with a little give: what was taken can be given back once, to look for a mark in it."""

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
            ends = [end for end in (self.buffer.find(b"\r\n\r\n", seen) + 4, self.buffer.find(b"\n\n", seen) + 2) if end >= 4 or end == 3]
            if ends and min(ends) <= HEADER_BYTES:
                return self.take(min(ends))
            seen = max(len(self.buffer) - 3, 0)
            if len(self.buffer) > HEADER_BYTES or not self.fill():
                return None

    def seek_mark(self) -> None:
        """To the next record after an empty line, or to the member's end."""
        while True:
            found = self.buffer.find(MARK, 1)
            if found >= 0:
                self.take(found)
                return
            self.take(max(len(self.buffer) - len(MARK), 0))
            if not self.fill():
                self.take(len(self.buffer))
                return


def _conversion(raw: Raw, source: Source) -> Record | Reject | None:
    if raw.headers.get("warc-type") != "conversion":
        return None
    if len(raw.body) < raw.n_bytes:
        return too_large(raw.uri, raw.n_bytes, source)
    text, charset = decode(raw.body)
    if text is None:
        raise Broken("undecodable", charset)
    language = raw.headers.get("warc-identified-content-language", "").partition(",")[0]
    return _plain(raw, text, (*_url(raw), *((("language", language),) * bool(language)), ("charset", charset)), source)


def _plain(raw: Raw, text: str, facts: tuple[tuple[str, str], ...], source: Source) -> Record | Reject:
    made = document(raw.uri, text, None, source)
    return made._replace(facts=facts) if isinstance(made, Record) else made


def _url(raw: Raw) -> tuple[tuple[str, str], ...]:
    url = raw.headers.get("warc-target-uri", "").strip("<>")
    return (("url", url[:2000]),) * bool(url)


def _web_page(raw: Raw, source: Source) -> Record | Reject | None:
    """None for what is no page: other types of records, other statuses and other kinds of payloads."""
    kind = raw.headers.get("warc-type")
    if kind not in ("response", "resource") or raw.headers.get("warc-target-uri", "").strip("<").startswith(("dns:", "whois:")):
        return None
    if kind == "resource":
        headers, payload = {"content-type": raw.headers.get("content-type", "")}, raw.body
    else:
        line, headers, payload = _response(raw.body)
        if not re.match(rb"HTTP/\S{1,9} 200\b", line):
            return None
    mime, _, parameters = headers.get("content-type", "").partition(";")
    mime = mime.strip().lower()
    if mime not in (*HTML_TYPES, "text/plain", ""):
        return None
    if len(raw.body) < raw.n_bytes:
        return too_large(raw.uri, raw.n_bytes, source)
    payload = _decoded(payload, headers, source.max_document_bytes)
    if len(payload) > source.max_document_bytes:
        return too_large(raw.uri, len(payload), source)
    if not mime and not LOOKS_LIKE_HTML.match(payload):
        return None
    label = re.search(r"(?i)charset\s{0,9}=\s{0,9}[\"']?([\w:.-]{1,40})", parameters)
    if mime != "text/plain":
        return page(raw.uri, payload, None, source, label and label[1], _url(raw))
    text, charset = decode(payload, label and label[1])
    if text is None:
        raise Broken("undecodable", charset)
    return _plain(raw, text, (*_url(raw), ("charset", charset)), source)


def _response(body: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """(status line, headers, payload). Raises Broken."""
    end = re.compile(rb"\r?\n\r?\n").search(body, 0, HEADER_BYTES)
    if not body.startswith(b"HTTP/") or not end:
        raise Broken("broken_record", f"expected an HTTP response with headers of at most {HEADER_BYTES:,} bytes, found {body[:20]!r}")
    head = body[: end.start()]
    return head.partition(b"\n")[0], _headers(head), body[end.end() :]


def _decoded(data: bytes, headers: dict[str, str], limit: int) -> bytes:
    """The payload without its encodings, at most limit + 1 bytes of it. Raises Broken.

    Crawlers often store the decoded payload with the server's headers, so data that does not begin as it should is taken as it is.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower() and CHUNK_SIZE.match(data):
        data = _unchunked(data)
    names = headers.get("content-encoding", "").lower().split(",")
    if len(names) > MAX_ENCODINGS:
        raise Broken("undecodable", f"expected at most {MAX_ENCODINGS} content encodings, found {len(names)}")
    for name in reversed(names):
        name = name.strip()
        if name in ("gzip", "x-gzip") and data.startswith(GZIP[:2]):
            data = _inflated(data, 31, limit)
        elif name == "deflate":
            is_zlib = len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
            data = data if LOOKS_LIKE_HTML.match(data) else _inflated(data, 15 if is_zlib else -15, limit)
        elif name == "br" and not LOOKS_LIKE_HTML.match(data):
            try:
                data = BrotliReader(io.BytesIO(data)).read(limit + 1)
            except OSError as error:
                raise Broken("undecodable", f"content encoding br: {error}"[:200]) from None
        elif name == "zstd" and data.startswith(ZSTD):
            try:
                data = zstandard.ZstdDecompressor().stream_reader(data).read(limit + 1)
            except zstandard.ZstdError as error:
                raise Broken("undecodable", f"content encoding zstd: {error}"[:200]) from None
        elif name not in ("", "identity", "utf-8", "none", "gzip", "x-gzip", "br", "zstd"):
            raise Broken("undecodable", f"expected content encoding gzip, deflate, br or zstd, found {name[:40]!r}")
    return data


def _inflated(data: bytes, bits: int, limit: int) -> bytes:
    """Raises Broken. A stream that ends early gives what there is: crawlers cut long responses."""
    try:
        return zlib.decompressobj(bits).decompress(data, limit + 1)
    except zlib.error as error:
        raise Broken("undecodable", f"content encoding: {error}"[:200]) from None


def _unchunked(data: bytes) -> bytes:
    """The chunks' bytes together; what is cut off is left out. Raises Broken."""
    pieces, at = [], 0
    while at < len(data) and (size := CHUNK_SIZE.match(data, at)):
        length = int(size[1], 16)
        if not length:
            return b"".join(pieces)
        pieces.append(data[size.end() : size.end() + length])
        at = size.end() + length
    if at < len(data) and data[at:].strip():
        raise Broken("undecodable", f"transfer encoding chunked: expected a chunk's size at {at:,}, found {data[at : at + 20]!r}")
    return b"".join(pieces)
