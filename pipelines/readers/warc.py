"""Web archives: pages of WARC response and resource records (reader warc), text of WET conversion records (reader wet).

Plain, or packed in gzip members or zstd frames, of one record each as a rule. A record's uri is the file's, `#`, and
the byte at which its member begins, followed by `+` and its place in what the member unpacks to when it is not the
first there.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator

import zstandard
from fastwarc.stream_io import BrotliReader

from pipelines.html.charset import decode
from pipelines.readers.files import File, Record, Reject, document, list_matching, too_large
from pipelines.readers.html import page
from pipelines.readers.warc_records import GZIP, HEADER_BYTES, ZSTD, Broken, Raw, headers_of, parse_archive
from schemas.parts import Source

WARC_SUFFIXES = (".warc", ".warc.gz", ".warc.zst")
WET_SUFFIXES = (".wet", ".wet.gz", ".wet.zst", *WARC_SUFFIXES)
MAX_ENCODINGS = 3
HTML_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml")
LOOKS_LIKE_HTML = re.compile(rb"(?i)\s{0,99}<(?:!doctype html|html|head|body)\b")
CHUNK_SIZE = re.compile(rb"(?:\r?\n)?[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]{0,999})?\r?\n")


def list_warc(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WARC_SUFFIXES."""
    return list_matching(source, WARC_SUFFIXES)


def list_wet(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WET_SUFFIXES."""
    return list_matching(source, WET_SUFFIXES)


def read_warc(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each response or resource with HTML or plain text and status 200. Raises OSError."""
    return _read(file, source, _web_page)


def read_wet(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each conversion. Raises OSError."""
    return _read(file, source, _conversion)


def _read(
    file: File, source: Source, make: Callable[[Raw, Source], Record | Reject | None]
) -> Iterator[Record | Reject]:
    with open(file.path, "rb") as stream:
        for raw in parse_archive(stream, file.uri, source.max_document_bytes, file.bytes):
            if isinstance(raw, Reject):
                yield raw
                continue
            try:
                made = make(raw, source)
            except Broken as error:
                made = Reject(raw.uri, *error.args, len(raw.body))
            if made is not None:
                yield made


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
    if kind not in ("response", "resource") or raw.headers.get("warc-target-uri", "").strip("<").startswith(
        ("dns:", "whois:")
    ):
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
        raise Broken(
            "broken_record",
            f"expected an HTTP response with headers of at most {HEADER_BYTES:,} bytes, found {body[:20]!r}",
        )
    head = body[: end.start()]
    return head.partition(b"\n")[0], headers_of(head), body[end.end() :]


def _decoded(data: bytes, headers: dict[str, str], limit: int) -> bytes:
    """The payload without its encodings, at most limit + 1 bytes of it. Raises Broken.

    Crawlers often store the decoded payload with the server's headers, so data that does not begin as it should is
    taken as it is.
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
        raise Broken(
            "undecodable", f"transfer encoding chunked: expected a chunk's size at {at:,}, found {data[at : at + 20]!r}"
        )
    return b"".join(pieces)
