"""Web pages: one document a file, its main content. `page` makes one of bytes or text, for the other readers too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.html.charset import decode
from pipelines.readers.archives import read_each
from pipelines.readers.files import File, Record, Reject, document, list_matching, read_whole, too_large
from pipelines.readers.members import ARCHIVES
from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source

SUFFIXES = (".html", ".htm", ".xhtml")
HEAD = 1000  # bytes or characters in which a page's first tag stands
# Possessive: many comments are never divided in another way, in which time would double with each.
BEGINNING = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->\s*))*+<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)


def list_files(source: Source, seed: int) -> list[File]:
    """Raises RecipeError when the path holds no file with one of SUFFIXES, and no archive."""
    return list_matching(source, SUFFIXES, _wanted)


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """The page's main content, or that of each page in an archive. Raises OSError when the file cannot be read."""
    return read_each(file, source, _wanted, _read)


def _wanted(name: str) -> bool:
    return has_suffix(name, SUFFIXES + ARCHIVES)


def _read(file: File, source: Source) -> Iterator[Record | Reject]:
    data = read_whole(file, source)
    yield data if isinstance(data, Reject) else page(file.uri, data, file.licence, source)


def is_page(value: Any, source: Source) -> bool:
    """Whether a field's value is a page: as the recipe says, or where it holds both, if it begins as one."""
    if source.content != "mixed":
        return source.content == "html"
    head = value[:HEAD] if isinstance(value, bytes | str) else b""
    return bool(BEGINNING.match(head if isinstance(head, bytes) else head.encode("utf-8", "replace")))


def page(
    uri: str,
    html: bytes | str,
    licence: str | None,
    source: Source,
    label: str | None = None,
    facts: tuple[tuple[str, str], ...] = (),
) -> Record | Reject:
    """A page's main content as a record. `label` is the charset that came with the bytes, `facts` win over the page's
    own."""
    from pipelines.html.extract import (
        MAX_TAGS,
        TRAFILATURA_DEPTH,
        TRAFILATURA_TAGS,
        extract,
        extract_slowly,  # numba: 1 s, for pages only
    )

    if not isinstance(html, bytes | str):
        return document(uri, html, licence, source)
    if len(html) > source.max_document_bytes:
        return too_large(uri, len(html), source)
    text, charset = (html.removeprefix("\ufeff"), "utf-8") if isinstance(html, str) else decode(html, label)
    if text is None:
        return Reject(uri, "undecodable", charset, len(html))
    data = text.encode("utf-8", "replace").replace(b"\0", b"")  # HTML's parser ignores NUL
    n_tags = data.count(b"<")
    if n_tags > MAX_TAGS:
        return Reject(uri, "too_many_tags", f"expected at most {MAX_TAGS:,} tags, found {n_tags:,}", len(data))
    extracted = extract(data)
    main = extracted.text
    if source.extractor == "trafilatura":
        if n_tags > TRAFILATURA_TAGS or extracted.deepest > TRAFILATURA_DEPTH:
            most = f"at most {TRAFILATURA_TAGS:,} tags, {TRAFILATURA_DEPTH} deep"
            detail = f"trafilatura: expected {most}; found {n_tags:,}, {extracted.deepest}"
            return Reject(uri, "too_many_tags", detail, len(data))
        main = extract_slowly(data.decode("utf-8", "replace"))
    if not main or main.isspace():
        return Reject(uri, "empty_text", f"no main content among {extracted.n_blocks:,} blocks of text", len(data))
    made = document(uri, main, licence, source)
    known = dict(extracted.facts) | dict(facts) | {"charset": charset}
    return made._replace(facts=tuple(known.items())) if isinstance(made, Record) else made._replace(n_bytes=len(data))
