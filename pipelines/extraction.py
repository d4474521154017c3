"""A web page's main content as text: charset, blocks (markup.py), which of them to keep (content.py), and how they are written.

Headings begin with #, list items with - or their number, a table row is a line with ` | ` between its cells, code stands as
it stood. trafilatura, by choice, is some twenty times slower; it is given only pages that its recursive parser can bear.
"""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

import numpy as np
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from pipelines import content
from pipelines.markup import B_END, B_KIND, B_LEVEL, B_NUMBER, B_START, Markup, scan
from pipelines.tags import BULLET, CANONICAL, CELLS, HEADING, LANGUAGE, OG_TITLE, TERM, TITLE

MAX_TAGS = 1 << 19  # of a page: some 200 MB while it is worked on; the largest of 15,238 pages of manuals has 84,927
LOST = 0.01  # a page with a larger share of characters that cannot be decoded is none
TRAFILATURA_TAGS, TRAFILATURA_DEPTH = 50_000, 200
FACT_CHARS = 500  # of a title or address
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# Of the first bytes: <meta charset=...>, <meta ... content="text/html; charset=...">, <?xml encoding="..."?>
DECLARED = re.compile(rb"(?i)<(?:meta|\?xml)\b[^>]{0,300}?(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?\s{0,9}([a-z0-9_:-]{2,40})")
DECLARED_BYTES = 4096


LONG_NUMBER = re.compile(r"&#[0-9]{8,}")  # no character, and int() refuses the longest


class Page(NamedTuple):
    """Main content of a page, empty when there is none, and what the page says of itself: title, language, url."""

    text: str
    facts: tuple[tuple[str, str], ...]
    n_blocks: int
    deepest: int


def decode(data: bytes, label: str | None = None) -> tuple[str | None, str]:
    """(text, charset) of a page whose HTTP header says `label`; (None, why) when more than LOST of it cannot be decoded.

    Byte order mark, else UTF-8 when it is valid (no other charset's text is by chance), else the header, the page's own
    declaration, resiliparse's detector, in that order: the first by which little is lost.
    """
    for mark, name in BOMS:
        if data.startswith(mark):
            return _lossy(data[len(mark) :], name)
    if b"\0" not in data and b"\x1b" not in data:  # UTF-16 and ISO-2022 are valid UTF-8
        try:
            return data.decode(), "utf-8"
        except UnicodeDecodeError:
            pass
    declared = DECLARED.search(data, 0, DECLARED_BYTES)
    tried = []
    for name in (label, declared and declared[1].decode(), detect_encoding(data, html5_compatible=True), "utf-8"):
        known = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        if known and known not in tried:
            tried.append(known)
            text, charset = _lossy(data, known)
            if text is not None:
                return text, charset
    return None, f"more than {LOST:.0%} of the characters are lost as {', '.join(tried)}"


def _lossy(data: bytes, name: str) -> tuple[str | None, str]:
    try:
        text = data.decode(name, "replace")
    except (LookupError, UnicodeError):
        return None, f"charset {name} cannot be decoded"
    lost = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    return (None, f"more than {LOST:.0%} of the characters are lost as {name}") if lost > LOST * len(text) else (text, name)


def extract(html: bytes) -> Page:
    """Main content of a page in UTF-8, in time linear in its bytes. Blocks are kept by content.keep."""
    markup = scan(html)
    kept = content.keep(markup.elements, markup.blocks)
    return Page(_written(markup, kept), _facts(html, markup.spans), len(markup.blocks), markup.deepest)


def _written(markup: Markup, kept: np.ndarray) -> str:
    pieces: list[str] = []
    before = -1
    for block in markup.blocks[kept].tolist():
        text = markup.text[block[B_START] : block[B_END]].tobytes().decode("utf-8", "replace")
        kind = block[B_KIND]
        if kind >= HEADING:
            text = f"{'#' * (kind - HEADING + 1)} {text}"
        elif kind == BULLET and block[B_NUMBER]:
            text = f"{'  ' * max(block[B_LEVEL] - 1, 0)}{f'{block[B_NUMBER]}.' if block[B_NUMBER] > 0 else '-'} {text}"
        together = kind == before and kind in (BULLET, CELLS, TERM) or (before == TERM and kind == BULLET)
        pieces += ["\n" if together else "\n\n", text]
        before = kind
    return unescaped("".join(pieces[1:])).replace("\xa0", " ")


def unescaped(text: str) -> str:
    """Entities as characters; nonsensical ones as U+FFFD."""
    try:
        return unescape(text)
    except ValueError:
        return unescape(LONG_NUMBER.sub("\ufffd", text))


def _facts(html: bytes, spans: np.ndarray) -> tuple[tuple[str, str], ...]:
    found = {"title": _span(html, spans, OG_TITLE) or _span(html, spans, TITLE), "language": _span(html, spans, LANGUAGE)[:35],
             "url": _span(html, spans, CANONICAL)}  # fmt: skip
    return tuple((name, value) for name, value in found.items() if value)


def _span(html: bytes, spans: np.ndarray, which: int) -> str:
    data = html[spans[which] : spans[which + 1]][: 4 * FACT_CHARS]
    return " ".join(unescaped(data.decode("utf-8", "replace")).replace("\0", " ").split())[:FACT_CHARS]


def extract_slowly(html: str) -> str:
    """trafilatura's main content (Barbaresi, ACL 2021), its fast mode without comments; empty when there is none."""
    import trafilatura

    return trafilatura.extract(html, fast=True, include_comments=False, include_formatting=False) or ""
