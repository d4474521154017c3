"""HTTP responses as web archives hold them: status, type, and the payload without its encodings.

Archives differ in what they store: the bytes as they came, or decoded, unchunked or both, under the server's headers.
So the bytes have the last word: what does not begin as its headers say is taken as it is if it is text.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import zstandard
from fastwarc.stream_io import BrotliReader

from pipelines.readers.compressed import DAMAGE, chunks
from pipelines.readers.warc_records import GZIP, HEADER_BYTES, ZSTD, Broken, headers_of

MAX_ENCODINGS = 3
STEP_BYTES = 4096  # that the brotli reader unpacks at once: what it has made of a step that is cut is lost
LOOKS_LIKE_HTML = re.compile(  # the tags of MIME Sniffing, 7.1
    rb"(?i)(?:\xef\xbb\xbf)?\s{0,99}<(?:!--|(?:!doctype html|html|head|body|script|iframe|title|style|table|div|font|"
    rb"h1|br|a|b|p)\b)"
)
BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
TEXT_BYTES = 1000  # of a payload, that hold none of BINARY if it is text
CHUNK_SIZE = re.compile(rb"(?:\r?\n)?[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]{0,999})?\r?\n")
STATUS = re.compile(rb"\s{0,9}HTTP/\S{1,9}[ \t]{1,9}(\d{3})(?!\d)", re.IGNORECASE)
END = re.compile(rb"\r?\n\r?\n")
TYPE = re.compile(r"\s*([\w!#$&^.+-]+/[\w!#$&^.+-]+)")
CHARSET = re.compile(r"(?i)charset\s{0,9}=\s{0,9}[\"']?([\w:.-]{1,40})")
PLAIN_NAMES = ("", "identity", "none", "binary", "8bit", "utf-8")


class Response(NamedTuple):
    """The final response of a record: the interim ones before it (100 Continue, 103 Early Hints) are left out."""

    status: int
    headers: dict[str, str]
    payload: bytes


class Payload(NamedTuple):
    """Bytes without their encodings; `whole` is false when a stream of them ends before its end, or the bytes before
    their Content-Length."""

    data: bytes
    whole: bool


def parse_response(body: bytes) -> Response:
    """Raises Broken when the record's body begins with no HTTP response."""
    at = 0
    while True:
        status = STATUS.match(body, at)
        end = END.search(body, at, at + HEADER_BYTES)
        if not status or not end:
            expected = f"an HTTP response with headers of at most {HEADER_BYTES:,} bytes"
            raise Broken("broken_record", f"expected {expected}, found {body[at : at + 20]!r}")
        code = int(status[1])
        if code // 100 != 1 or code == 101:
            return Response(code, headers_of(body[at : end.start()]), body[end.end() :])
        at = end.end()


def type_and_charset(value: str) -> tuple[str, str | None]:
    """What Content-Type says, several headers or joined ones included: the last type, and its charset, which an equal
    type before it may have given (Fetch, "extract a MIME type")."""
    kind, charset = "", None
    for one in value.split(","):
        type_, named = TYPE.match(one), CHARSET.search(one)
        if type_ and type_[1] != "*/*":
            charset = charset if type_[1].lower() == kind and not named else named and named[1]
            kind = type_[1].lower()
        elif named and not charset:
            charset = named[1]
    return kind, charset


def decoded(data: bytes, headers: dict[str, str], limit: int) -> Payload:
    """The payload without transfer and content encodings, at most limit + 1 bytes of it. Raises Broken."""
    is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    payload = _unchunked(data, is_chunked)
    names = [name.strip() for name in headers.get("content-encoding", "").lower().split(",")]
    if len(names) > MAX_ENCODINGS:
        raise Broken("undecodable", f"expected at most {MAX_ENCODINGS} content encodings, found {len(names)}")
    # what is packed though no header says so is packed once or twice
    for name in (*reversed(names), "", ""):
        name = "zstd" if payload.data.startswith(ZSTD) else "gzip" if payload.data.startswith(GZIP) else name
        made = _undone(payload.data, name, limit)
        payload = Payload(made.data, made.whole and payload.whole)
    # With chunks the length does not count (RFC 9112, 6.3), nor for what was stored decoded.
    counts = not is_chunked and (payload.data is not data or all(name in PLAIN_NAMES for name in names))
    return Payload(payload.data, payload.whole and not (counts and _is_short(data, headers.get("content-length", ""))))


def _is_short(data: bytes, length: str) -> bool:
    return length.isascii() and length.isdigit() and len(data) < int(length[:18])


def _undone(data: bytes, name: str, limit: int) -> Payload:
    if name in PLAIN_NAMES or LOOKS_LIKE_HTML.match(data):
        return Payload(data, True)
    try:
        made, why = _unpacked(data, name, limit), f"expected gzip, deflate, br or zstd, found {name[:40]!r}"
    except (zlib.error, zstandard.ZstdError, OSError) as error:
        made, why = None, f"{name}: {error}"
    if (made and made.whole) or not _is_text(data):
        if not made:
            raise Broken("undecodable", f"content encoding: {why}"[:200])
        return made
    return Payload(data, True)


def _unpacked(data: bytes, name: str, limit: int) -> Payload | None:
    """None for an encoding of another name. Raises zlib.error, ZstdError or OSError."""
    if name in ("gzip", "x-gzip"):
        return _inflated(data, 31, limit)
    if name == "deflate":
        is_zlib = len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
        return _inflated(data, 15 if is_zlib else -15, limit)
    if name == "br":
        stream = BrotliReader(io.BytesIO(data))
        return _joined(iter(lambda: stream.read(STEP_BYTES), b""), limit)
    return _joined(chunks(io.BytesIO(data), ".zst"), limit) if name == "zstd" else None


def _is_text(data: bytes) -> bool:
    return data.startswith((b"\xff\xfe", b"\xfe\xff")) or not BINARY.search(data, 0, TEXT_BYTES)


def _inflated(data: bytes, bits: int, limit: int) -> Payload:
    """All members of gzip (RFC 1952, 2.2), or the one stream of deflate; what stands behind is left out, as browsers
    do. Raises zlib.error."""
    pieces, left = [], limit + 1
    while left > 0:
        stream = zlib.decompressobj(bits)
        pieces.append(stream.decompress(data, left))
        left -= len(pieces[-1])
        data = stream.unused_data.lstrip(b"\0")
        if not stream.eof or not data.startswith(GZIP) or bits < 31:
            return Payload(b"".join(pieces), stream.eof or left <= 0)
    return Payload(b"".join(pieces), True)


def _joined(pieces: Iterator[bytes], limit: int) -> Payload:
    """What could be unpacked before the stream ended or broke. Raises what `pieces` does when that is nothing."""
    joined = bytearray()
    try:
        for piece in pieces:
            joined += piece
            if len(joined) > limit:
                return Payload(bytes(joined[: limit + 1]), True)
    except (*DAMAGE, OSError):
        if not joined:
            raise
        return Payload(bytes(joined), False)
    return Payload(bytes(joined), True)


def _unchunked(data: bytes, said: bool) -> Payload:
    """The chunks' bytes together, if these are chunks: they are said to be, or a page or what is packed begins behind
    the first size. Raises Broken where the size of another must stand."""
    first = CHUNK_SIZE.match(data)
    sure = first is not None and _is_page_or_packed(data, first.end())
    if not first or not (said or sure):
        return Payload(data, True)
    pieces, at = [], 0
    while size := CHUNK_SIZE.match(data, at):
        length = int(size[1], 16)
        if not length:
            return Payload(b"".join(pieces), True)
        pieces.append(data[size.end() : size.end() + length])
        at = size.end() + length
    if not data[at:].strip():
        return Payload(b"".join(pieces), False)
    if len(pieces) == 1 and not sure:  # a text that begins with a number
        return Payload(data, True)
    detail = f"expected a chunk's size at {at:,}, found {data[at : at + 20]!r}"
    raise Broken("undecodable", f"transfer encoding chunked: {detail}")


def _is_page_or_packed(data: bytes, at: int) -> bool:
    return bool(LOOKS_LIKE_HTML.match(data, at)) or data.startswith((GZIP, ZSTD), at)
