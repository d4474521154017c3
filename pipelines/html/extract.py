"""A web page's main content as text: blocks (markup.py), which of them to keep (content.py), and how they are written.

Headings begin with #, list items with - or their number, a table row is a line with ` | ` between its cells, code
stands as it stood. trafilatura, by choice, is some twenty times slower; it is given only pages that its recursive
parser can bear.
"""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

import numpy as np

from pipelines.html import content
from pipelines.html.markup import B_END, B_KIND, B_LEVEL, B_NUMBER, B_START, Markup, scan
from pipelines.html.tags import BULLET, CANONICAL, CELLS, HEADING, LANGUAGE, OG_TITLE, TERM, TITLE

MAX_TAGS = 1 << 19  # of a page: some 300 MB while it is worked on; the largest of 15,238 pages of manuals has 84,927
TRAFILATURA_TAGS, TRAFILATURA_DEPTH = 50_000, 200
FACT_CHARS = 500  # of a title or address
LONG_NUMBER = re.compile(r"&#[0-9]{8,}")  # no character, and int() refuses the longest


class Page(NamedTuple):
    """Main content of a page, empty when there is none, and what the page says of itself: title, language, url."""

    text: str
    facts: tuple[tuple[str, str], ...]
    n_blocks: int
    deepest: int


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
    return unescape_entities("".join(pieces[1:])).replace("\xa0", " ")


def unescape_entities(text: str) -> str:
    """Entities as characters; nonsensical ones as U+FFFD."""
    try:
        return unescape(text)
    except ValueError:
        return unescape(LONG_NUMBER.sub("\ufffd", text))


def _facts(html: bytes, spans: np.ndarray) -> tuple[tuple[str, str], ...]:
    facts = {
        "title": _span(html, spans, OG_TITLE) or _span(html, spans, TITLE),
        "language": _span(html, spans, LANGUAGE)[:35],
        "url": _span(html, spans, CANONICAL),
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _span(html: bytes, spans: np.ndarray, which: int) -> str:
    data = html[spans[which] : spans[which + 1]][: 4 * FACT_CHARS]
    return " ".join(unescape_entities(data.decode("utf-8", "replace")).replace("\0", " ").split())[:FACT_CHARS]


def extract_slowly(html: str) -> str:
    """trafilatura's main content (Barbaresi, ACL 2021), its fast mode without comments; empty when there is none."""
    import trafilatura

    return trafilatura.extract(html, fast=True, include_comments=False, include_formatting=False) or ""
