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
from pipelines.html.markup import (
    B_END,
    B_KIND,
    B_LEVEL,
    B_NUMBER,
    B_OWNER,
    B_START,
    E_PARENT,
    E_TAG,
    SEPARATOR,
    Markup,
    scan,
)
from pipelines.html.tags import (
    BULLET,
    CANONICAL,
    CELLS,
    CODE,
    HEADING,
    HEADS,
    LANGUAGE,
    OG_TITLE,
    TABLE_TAG,
    TERM,
    TITLE,
)

MAX_TAGS = 1 << 19  # of a page: some 300 MB while it is worked on; the largest of 15,238 pages of manuals has 84,927
TRAFILATURA_TAGS, TRAFILATURA_DEPTH = 50_000, 200
BAR = chr(SEPARATOR)
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
    blocks = markup.blocks[kept].tolist()
    texts = [
        unescape_entities(markup.text[block[B_START] : block[B_END]].tobytes().decode("utf-8", "replace"))
        for block in blocks
    ]
    texts = _with_rows(markup.elements, blocks, texts)
    for block, text in zip(blocks, texts, strict=True):
        if not text:
            continue
        kind = block[B_KIND]
        if kind >= HEADING:
            text = f"{'#' * (kind - HEADING + 1)} {text}"
        elif kind == BULLET and block[B_NUMBER]:
            text = f"{'  ' * max(block[B_LEVEL] - 1, 0)}{f'{block[B_NUMBER]}.' if block[B_NUMBER] > 0 else '-'} {text}"
        together = kind == before and kind in (BULLET, CELLS, TERM) or (before == TERM and kind == BULLET)
        pieces += ["\n" if together else "\n\n", text]
        before = kind
    return "".join(pieces[1:]).replace("\xa0", " ")


def _with_rows(elements: np.ndarray, blocks: list[list[int]], texts: list[str]) -> list[str]:
    """The texts, rows of tables with bars between their cells. Empty cells stay where columns mean something: in tables
    with headings, and in those of two rows or more, one of them full and each of as many cells. Others lay out a page.
    """
    rows = {
        k: _cells(block, text)
        for k, (block, text) in enumerate(zip(blocks, texts, strict=True))
        if _is_row(block, text)
    }
    if not rows:
        return texts
    table_of = _tables(elements)
    tables: dict[int, list[int]] = {}
    for k in rows:
        tables.setdefault(table_of[blocks[k][B_OWNER]], []).append(k)
    headed = {table_of[e] for e in np.flatnonzero(np.isin(elements[:, E_TAG], HEADS)).tolist()}
    for table, members in tables.items():
        is_grid = len(members) > 1 and len({len(rows[k]) for k in members}) == 1 and any(all(rows[k]) for k in members)
        for k in members:
            texts[k] = _row(rows[k] if table in headed or is_grid else [cell for cell in rows[k] if cell])
    return texts


def _is_row(block: list[int], text: str) -> bool:
    return block[B_KIND] == CELLS or (BAR in text and block[B_KIND] != CODE)


def _cells(block: list[int], text: str) -> list[str]:
    before = block[B_NUMBER] if block[B_KIND] == CELLS else 0
    return [""] * before + [cell.strip() for cell in text.split(BAR)]


def _row(cells: list[str]) -> str:
    while cells and not cells[-1]:
        cells.pop()
    return " | ".join(cells).strip()


def _tables(elements: np.ndarray) -> list[int]:
    """Of each element the innermost table around it, -1 for none."""
    table_of: list[int] = []
    for e, (parent, tag) in enumerate(elements[:, (E_PARENT, E_TAG)].tolist()):
        table_of.append(e if tag == TABLE_TAG else table_of[parent] if parent >= 0 else -1)
    return table_of


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
