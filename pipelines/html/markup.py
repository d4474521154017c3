"""HTML as flat arrays, in one compiled pass: elements in the order in which they open, blocks of text in the order of
the page.

No tree of objects and no recursion: whatever the nesting, time is linear in the bytes and memory is bounded by them
(elements deeper than DEPTH, as in browsers, are not opened; their text belongs to what holds them). Forgiving as
browsers are where it matters for text: end tags that are left out, crossed or stray, unquoted attributes, a `<` that
begins no tag.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.html.tags import (
    BARE,
    BLOCK,
    BODY,
    BREAK,
    BREAKS_ROWS,
    BULLET,
    CAPTION,
    CELL,
    CELLS,
    CLASS,
    END,
    HARD,
    HEAD_TAG,
    HTML,
    INLINE,
    ITEM,
    KIND,
    LI,
    LINK,
    LIST,
    OL,
    OTHER,
    OWN_FLAGS,
    PARA_TAG,
    PARAGRAPH,
    PRE,
    RAW,
    ROW,
    SKIP,
    START,
    TABLE,
    TD_TAG,
    TH_TAG,
    TITLE,
    TITLE_TAG,
    VOID,
    after,
    attributes,
    end_of_raw,
    is_space,
    lex,
    tag_at,
)

DEPTH = 512  # open elements; Chromium's bound
# a paragraph that ends in a table row shorter than this does not break the row, and a cell of at least so much is a
# block by itself: layout tables hold longer text
ROW_BYTES = 200
SEPARATOR = 31  # between the cells of a row, a space on either side: no text holds it but code, which has no cells
# Columns of elements and of blocks.
E_PARENT, E_TAG, E_FLAGS, E_TEXT, E_LINK = range(5)
B_START, B_END, B_OWNER, B_KIND, B_LINK, B_WORDS, B_MARKS, B_NUMBER, B_LEVEL, B_LINKS, B_ENDS, B_CAPS = range(12)
# Of the open elements, outermost first: element, tag, its CLASS, the kind of the blocks in it, items of an ordered list
# so far. (One array: every array that a function takes is seven arguments to the machine, and 80 of them cost a quarter
# of the speed.)
S_ELEMENT, S_TAG, S_WHAT, S_KIND, S_COUNTER = range(5)
# State of the pass: how many elements are open, were at most, are there, and blocks; the depth from which on text is
# left out, is verbatim, is a link's (-1: it is not); how many lists are open; from COUNT on, how many of each tag.
OPEN, DEEPEST, ELEMENTS, BLOCKS, SKIPPED, VERBATIM, LINKED, LISTS, COUNT = range(9)
CELL_ROW = 12  # the block that is being written, columns from here on: what it was when its row's last cell began


class Markup(NamedTuple):
    """`text` (uint8) holds the blocks' text, white space collapsed but in code, entities as they stand."""

    text: np.ndarray
    # int32[n, 5]: E_PARENT (-1 of the first, the page), E_TAG, E_FLAGS, E_TEXT and E_LINK (bytes, descendants' too)
    elements: np.ndarray
    # int32[n, 12]: B_START, B_END in `text`; B_OWNER, its element; B_KIND; B_LINK, bytes inside of links; counts;
    # B_NUMBER of a list item (-1: unordered), or how many empty cells stand before a row's first
    blocks: np.ndarray
    spans: np.ndarray  # int64[8]: begin and end in the page of TITLE, OG_TITLE, LANGUAGE, CANONICAL; 0, 0: none
    deepest: int  # elements that were open at once, at most DEPTH


def scan(page: bytes) -> Markup:
    """Elements and blocks of a page in UTF-8 (or anything that ASCII is a part of)."""
    data = np.frombuffer(page, np.uint8)
    n_tags = page.count(b"<") + 2
    text, spans = np.empty(len(data) + 64, np.uint8), np.zeros(8, np.int64)
    elements, blocks = np.empty((n_tags, 5), np.int32), np.empty((n_tags, 12), np.int32)
    n_elements, n_blocks, deepest = _scan(data, text, elements, blocks, spans)
    return Markup(text, elements[:n_elements], blocks[:n_blocks], spans, deepest)


@njit(cache=True, nogil=True)
def _scan(data, text, elements, blocks, spans):
    n, i = len(data), 0
    stack = np.zeros((DEPTH, 5), np.int64)
    state, now = np.zeros(COUNT + len(CLASS), np.int64), np.zeros(24, np.int64)  # now: the block that is being written
    state[SKIPPED:LISTS] = -1
    elements[0] = -1, 0, 0, 0, 0  # the page: never closed
    stack[0, S_WHAT], state[OPEN], state[ELEMENTS] = BLOCK, 1, 1
    while i < n:
        if data[i] != 60:
            i = _text(data, i, text, now, state)
            continue
        what_begins, name, end = lex(data, i)
        if what_begins < START:
            if what_begins == BARE and state[SKIPPED] < 0:
                text[now[B_END]] = 60
                now[B_END] += 1
            i = end
            continue
        tag = tag_at(data, name, end)
        what = CLASS[tag]
        i, flags, hidden, href = attributes(data, end, tag, spans)
        if what_begins == END:
            _end_tag(tag, text, blocks, now, state, stack)
        elif what & RAW:
            close = end_of_raw(data, i, name, end)
            if tag == TITLE_TAG and not spans[TITLE + 1]:
                spans[TITLE], spans[TITLE + 1] = i, close
            i = after(data, close)
        elif what & LINK:
            state[LINKED] = state[OPEN] if href else -1
            now[B_LINKS] += href
        elif what & BREAK:
            _line_break(text, blocks, now, state, stack)
        else:
            _start_tag(tag, flags, hidden, text, elements, blocks, now, state, stack)
    _flush(text, blocks, now, state, stack)
    _add_up(elements[: state[ELEMENTS]], blocks[: state[BLOCKS]])
    return state[ELEMENTS], state[BLOCKS], state[DEEPEST]


@njit
def _text(data, i, text, now, state):
    """Write a run of text; the place of the next <."""
    n, o = len(data), now[B_END]
    if state[SKIPPED] >= 0:
        while i < n and data[i] != 60:
            i += 1
        return i
    if state[VERBATIM] >= 0:
        while i < n and data[i] != 60:
            text[o] = data[i]
            i, o = i + 1, o + 1
    words = caps = marks = ends = 0
    space = o == now[B_START] or is_space(text[o - 1])
    while i < n and data[i] != 60:
        c = data[i]
        i += 1
        if c <= 32:
            if not space:
                text[o] = 32
                o += 1
                space = True
            continue
        if space:
            words += 1
            caps += 65 <= c <= 90
            space = False
        text[o] = c
        o += 1
        if c == 44 or c == 59 or c == 58:
            marks += 1
        elif c == 46 or c == 33 or c == 63:
            ends += i >= n or data[i] <= 32 or data[i] == 60 or data[i] == 34
        # the ideographic full stop
        elif c == 0x82 and o - now[B_START] > 2 and text[o - 2] == 0x80 and text[o - 3] == 0xE3:
            ends += 1
    if state[LINKED] >= 0:
        now[B_LINK] += o - now[B_END]
    now[B_END] = o
    now[B_WORDS] += words
    now[B_CAPS] += caps
    now[B_MARKS] += marks
    now[B_ENDS] += ends
    return i


@njit
def _end_tag(tag, text, blocks, now, state, stack):
    what = CLASS[tag]
    if what & LINK:
        state[LINKED] = -1
        return
    if what & BLOCK:
        _break(what, text, blocks, now, state, stack)
    if what & INLINE:
        if stack[state[OPEN] - 1, S_TAG] == tag:
            _close(state[OPEN] - 1, state, stack)
    elif state[COUNT + tag] and tag:
        _close(_opener(tag, what, False, state, stack), state, stack)


@njit
def _start_tag(tag, flags, hidden, text, elements, blocks, now, state, stack):
    """Close what the tag closes by coming, and open its element."""
    what = CLASS[tag]
    if what & BLOCK:
        _break(what, text, blocks, now, state, stack)
        if state[COUNT + PARA_TAG]:
            _close(_open_paragraph(state, stack), state, stack)
    if what & VOID:
        return
    if tag == BODY and state[COUNT + HEAD_TAG]:
        _close(_opener(HEAD_TAG, SKIP, False, state, stack), state, stack)
    if what & (ITEM | ROW | CELL):
        _close(_opener(0, what & (ITEM | ROW | CELL), True, state, stack), state, stack)
    if what & CELL and state[SKIPPED] < 0:
        _cell(text, now, state, stack)
    # Inline elements matter only to find the end of a hidden one.
    if what & (BLOCK | CELL | SKIP) or (tag and (hidden or stack[state[OPEN] - 1, S_WHAT] & INLINE)):
        if state[OPEN] < DEPTH:
            _open(tag, flags, hidden, elements, now, state, stack)


@njit
def _cell(text, now, state, stack):
    """A cell begins: behind a separator, or as the first of its row that is not empty."""
    o, top = now[B_END], state[OPEN] - 1
    if o == now[B_START]:
        now[B_NUMBER] = stack[top, S_COUNTER]
    else:
        while o > now[B_START] and text[o - 1] == 32:
            o -= 1
        text[o], text[o + 1], text[o + 2] = 32, SEPARATOR, 32
        now[B_END] = o + 3
        now[CELL_ROW:] = now[:CELL_ROW]
        now[CELL_ROW + B_OWNER] = stack[top, S_ELEMENT]
    stack[top, S_COUNTER] += 1


@njit
def _open(tag, flags, hidden, elements, now, state, stack):
    what, depth = CLASS[tag], state[OPEN]
    is_page = tag == BODY or tag == HTML
    e = state[ELEMENTS]
    elements[e, E_PARENT], elements[e, E_TAG] = stack[depth - 1, S_ELEMENT], tag
    elements[e, E_TEXT], elements[e, E_LINK] = 0, 0
    elements[e, E_FLAGS] = OWN_FLAGS[tag] | (0 if is_page else flags)
    own, above = KIND[tag], stack[depth - 1, S_KIND]
    if own == OTHER and not what & (LIST | TABLE):
        own = above
    elif own == PARAGRAPH and (above == BULLET or above == CELLS or above == CAPTION):
        own = above
    stack[depth, S_ELEMENT], stack[depth, S_TAG], stack[depth, S_WHAT] = e, tag, what
    stack[depth, S_KIND], stack[depth, S_COUNTER] = own, 0
    if tag == LI:
        ordered = stack[depth - 1, S_TAG] == OL
        stack[depth - 1, S_COUNTER] += ordered
        now[B_NUMBER] = stack[depth - 1, S_COUNTER] if ordered else -1
    elif what & (ITEM | ROW):
        now[B_NUMBER] = 0
    if state[SKIPPED] < 0 and (what & SKIP or hidden and not is_page):
        state[SKIPPED] = depth
    if state[VERBATIM] < 0 and what & PRE:
        state[VERBATIM] = depth
    state[LISTS] += what & LIST != 0
    state[COUNT + tag] += 1
    state[ELEMENTS] += 1
    state[OPEN] += 1
    state[DEEPEST] = max(state[DEEPEST], state[OPEN])


@njit
def _close(to, state, stack):
    """Close the elements from place `to` of the stack on, if it is one."""
    if to < 1:
        return
    for k in range(to, state[OPEN]):
        state[COUNT + stack[k, S_TAG]] -= 1
        state[LISTS] -= stack[k, S_WHAT] & LIST != 0
    state[OPEN] = to
    for mode in (SKIPPED, VERBATIM):
        if state[mode] >= to:
            state[mode] = -1
    if state[LINKED] > to:
        state[LINKED] = -1


@njit
def _opener(tag, what, coming, state, stack):
    """The place on the stack of what the end tag closes, or of the item, row or cell that one like it closes by coming;
    -1: none."""
    table_part = what & (CELL | ROW | TABLE | HARD)
    barrier = (LIST if what & ITEM else TABLE) if coming else (0 if table_part else CELL | TABLE)
    k = state[OPEN] - 1
    while k > 0:
        if (stack[k, S_WHAT] & what) if coming else (stack[k, S_TAG] == tag):
            return k
        if stack[k, S_WHAT] & barrier:
            return -1
        k -= 1
    return -1


@njit
def _open_paragraph(state, stack):
    """The place on the stack of the paragraph that a block closes by coming, or -1."""
    k = state[OPEN] - 1
    while k > 0 and not stack[k, S_WHAT] & (CELL | TABLE):
        if stack[k, S_WHAT] & BLOCK:
            return k if stack[k, S_TAG] == PARA_TAG else -1
        k -= 1
    return -1


@njit
def _line_break(text, blocks, now, state, stack):
    """A <br> is a line's end; the second of two ends the block."""
    o = now[B_END]
    if state[SKIPPED] >= 0 or o == now[B_START]:
        return
    if state[VERBATIM] < 0:
        while o > now[B_START] and text[o - 1] == 32:
            o -= 1
        now[B_END] = o
        if o > now[B_START] and text[o - 1] == 10:
            _break(BLOCK, text, blocks, now, state, stack)
            return
    text[o] = 10
    now[B_END] = o + 1


@njit
def _break(what, text, blocks, now, state, stack):
    """A block ends here, unless it is a short cell of a table row and what comes belongs into it."""
    o = now[B_END]
    if (
        o - max(now[B_START], now[CELL_ROW + B_END]) < ROW_BYTES
        and state[COUNT + TD_TAG] + state[COUNT + TH_TAG]
        and not what & BREAKS_ROWS
    ):
        if o > now[B_START] and not is_space(text[o - 1]):
            text[o] = 32
            now[B_END] = o + 1
    else:
        _flush(text, blocks, now, state, stack)


@njit
def _flush(text, blocks, now, state, stack):
    """The block that is being written, if it holds anything, joins the blocks; a new one begins."""
    begin, o = now[B_START], now[B_END]
    while o > begin and (text[o - 1] == 10 or state[VERBATIM] < 0 and is_space(text[o - 1])):
        o -= 1
    number = now[B_NUMBER]
    if o > begin:
        top = state[OPEN] - 1
        now[B_KIND], now[B_LEVEL] = stack[top, S_KIND], state[LISTS]
        if now[CELL_ROW + B_END] > begin and o - now[CELL_ROW + B_END] >= ROW_BYTES:
            _split(blocks, now, state)
        now[B_END], now[B_OWNER] = o, stack[top, S_ELEMENT]
        _store(now, blocks, state)
        number = 0
    now[:] = 0
    now[B_START], now[B_END], now[B_NUMBER], now[B_LINKS] = o, o, number, state[LINKED] >= 0


@njit
def _split(blocks, now, state):
    """The cells before the last one of the row become a block of their own."""
    row = now[CELL_ROW:].copy()
    now[CELL_ROW:] = 0
    row[B_KIND], row[B_LEVEL] = now[B_KIND], now[B_LEVEL]
    now[B_START], now[B_NUMBER] = row[B_END], 0
    for column in (B_LINK, B_WORDS, B_MARKS, B_LINKS, B_ENDS, B_CAPS):
        now[column] -= row[column]
    row[B_END] -= 3
    _store(row, blocks, state)


@njit
def _store(block, blocks, state):
    block[B_LINK] = min(block[B_LINK], block[B_END] - block[B_START])
    for column in range(12):
        blocks[state[BLOCKS], column] = block[column]
    state[BLOCKS] += 1


@njit
def _add_up(elements, blocks):
    for k in range(len(blocks)):
        elements[blocks[k, B_OWNER], E_TEXT] += blocks[k, B_END] - blocks[k, B_START]
        elements[blocks[k, B_OWNER], E_LINK] += blocks[k, B_LINK]
    for e in range(len(elements) - 1, 0, -1):
        elements[elements[e, E_PARENT], E_TEXT] += elements[e, E_TEXT]
        elements[elements[e, E_PARENT], E_LINK] += elements[e, E_LINK]
