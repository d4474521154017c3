"""Web archives: pages of WARC response and resource records (reader warc), text of WET conversion records (reader wet).

Plain, or packed in gzip members or zstd frames, of one record each as a rule. A record's uri is the file's, `#`, and
the byte at which its member begins, followed by `+` and its place in what the member unpacks to when it is not the
first there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.html.charset import decode
from pipelines.readers.files import File, Record, Reject, document, list_matching, too_large
from pipelines.readers.html import page
from pipelines.readers.responses import LOOKS_LIKE_HTML, decoded, parse_response, type_and_charset
from pipelines.readers.warc_records import Broken, Raw, parse_archive
from schemas.parts import Source

WARC_SUFFIXES = (".warc", ".warc.gz", ".warc.zst")
WET_SUFFIXES = (".wet", ".wet.gz", ".wet.zst", *WARC_SUFFIXES)
PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml", "text/plain")
READ_TYPES = ("response", "resource", "conversion")
UNKNOWN_TYPES = ("", "unknown/unknown", "application/unknown")  # MIME Sniffing, 7: looked at


def list_warc(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WARC_SUFFIXES."""
    return list_matching(source, WARC_SUFFIXES)


def list_wet(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of WET_SUFFIXES."""
    return list_matching(source, WET_SUFFIXES)


def read_warc(file: File, source: Source) -> Iterator[Record | Reject]:
    """A record or a reject for each response or resource: a page or plain text with status 200 is a record. Raises
    OSError."""
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
                made = make(raw, source) if _checked(raw) else None
            except Broken as error:
                made = Reject(raw.uri, *error.args, len(raw.body))
            if made is not None:
                yield made


def _checked(raw: Raw) -> bool:
    """Whether the record may be one to read. Raises Broken when it is a part of one, or when nobody can say what it
    is."""
    if not raw.kind:
        raise Broken("broken_record", "expected a WARC-Type, found none")
    if raw.kind in READ_TYPES and (segment := raw.headers.get("warc-segment-number")):
        raise Broken("segmented", f"expected a whole record, found segment {segment[:20]} of several")
    return raw.kind in READ_TYPES


def _conversion(raw: Raw, source: Source) -> Record | Reject | None:
    if raw.kind != "conversion":
        return None
    if len(raw.body) < raw.n_bytes:
        return too_large(raw.uri, raw.n_bytes, source)
    text, charset = decode(raw.body)
    if text is None:
        raise Broken("undecodable", charset)
    language = raw.headers.get("warc-identified-content-language", "").partition(",")[0]
    facts = (*_url(raw), *((("language", language),) * bool(language)), *_truncated(raw, True), ("charset", charset))
    return _plain(raw, text, facts, source)


def _plain(raw: Raw, text: str, facts: tuple[tuple[str, str], ...], source: Source) -> Record | Reject:
    made = document(raw.uri, text, None, source)
    return made._replace(facts=facts) if isinstance(made, Record) else made


def _url(raw: Raw) -> tuple[tuple[str, str], ...]:
    url = raw.headers.get("warc-target-uri", "").strip("<>")
    return (("url", url[:2000]),) * bool(url)


def _truncated(raw: Raw, is_whole: bool) -> tuple[tuple[str, str], ...]:
    """Why the document is not whole: WARC's reasons (length, time, disconnect), unspecified where only its encoding
    tells."""
    why = raw.headers.get("warc-truncated", "").lower()[:40] or "unspecified" * (not is_whole)
    return (("truncated", why),) * bool(why)


def _web_page(raw: Raw, source: Source) -> Record | Reject | None:
    """A record or a reject of every response and resource; None for records of other types."""
    if raw.kind == "resource":
        headers, payload = {"content-type": raw.headers.get("content-type", "")}, raw.body
    elif raw.kind == "response":
        if raw.headers.get("warc-target-uri", "").strip("<").startswith(("dns:", "whois:")):
            raise Broken("no_page", f"expected an HTTP response, found {raw.headers['warc-target-uri'][:40]!r}")
        status, headers, payload = parse_response(raw.body)
        if status != 200:
            raise Broken("no_page", f"expected status 200, found {status}")
    else:
        return None
    mime, label = type_and_charset(headers.get("content-type", ""))
    if mime not in (*PAGE_TYPES, *UNKNOWN_TYPES):
        raise Broken("no_page", f"expected a page or plain text, found {mime[:80]!r}")
    if len(raw.body) < raw.n_bytes:
        return too_large(raw.uri, raw.n_bytes, source)
    payload, is_whole = decoded(payload, headers, source.max_document_bytes)
    if len(payload) > source.max_document_bytes:
        return too_large(raw.uri, len(payload), source)
    if mime in UNKNOWN_TYPES and payload and not LOOKS_LIKE_HTML.match(payload):
        raise Broken("no_page", f"expected a page where no type is given, found {payload[:20]!r}")
    facts = (*_url(raw), *_truncated(raw, is_whole))
    if mime != "text/plain":
        return page(raw.uri, payload, None, source, label, facts)
    text, charset = decode(payload, label)
    if text is None:
        raise Broken("undecodable", charset)
    return _plain(raw, text, (*facts, ("charset", charset)), source)
