"""Phrases that mark lines and sentences as a page's furniture, all searched for in one pass over the bytes.

Every phrase has an anchor, three bytes of it that are rare elsewhere. A table says of three bytes in a row, ASCII
letters in any case, whether they may be an anchor; only there the phrases are compared.

C4 (its code, c4_utils.py) and MADLAD-400 (2309.04662, appendix on filters) give the lists; of MADLAD's expressions
those that look at a sentence's end mark are left out, for its sentences and ours end before and after it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.texts.find import stands, stands_in_any_case
from pipelines.texts.pieces import ITEMS_IN_CART, LINE_PHRASE, QUESTIONED, READ_MORE, SIGN_IN

ANY_CASE, WHOLE = 1, 2  # letters in any case; white space, or the text's end, on both sides
# (phrase, its anchor, the flag that it gives to the piece it begins in, how it is compared)
PHRASES = (
    *((phrase, anchor, LINE_PHRASE, ANY_CASE) for phrase, anchor in (
        ("javascript", "vas"), ("terms of use", "f u"), ("privacy policy", "icy"), ("cookie policy", "icy"),
        ("uses cookies", "oki"), ("use of cookies", "oki"), ("use cookies", "oki"),
    )),
    ("items in cart", "ems", ITEMS_IN_CART, ANY_CASE), ("read more...", "re.", READ_MORE, ANY_CASE),
    ("sign-in", "gn-", SIGN_IN, ANY_CASE),
    *((phrase, anchor, QUESTIONED, 0) for phrase, anchor in (
        ("mp3", "mp3"), ("ownload", "wnl"), ("Vol.", "ol."), ("Episode", "pis"), ("Develop", "lop"),
        ("Facebook", "ceb"),
        ("\ufffd" * 3, "\ufffd"), ("黄色电影", "黄"), ("aute irure dolor ", "iru"), (" sunt in culpa qui ", "ulp"),
        ("orem ipsum ", "psu"), (" quis nostrud ", "rud"), (" adipisicing ", "dip"),
        (" dolore eu ", "lor"), (" cupidatat ", "pid"), ("autem vel eum", "eum"), ("wisi enim ad", "nim"),
        (" №", "№"), (" Ep.", "ep."),
    )),
    *((phrase, anchor, QUESTIONED, WHOLE) for phrase, anchor in (
        ("sex", "sex"), ("porn", "orn"), ("crusher", "ush"), ("xxx", "xxx"),
    )),
)  # fmt: skip
BITS = 14  # of the table
SPREAD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def _code(anchor: bytes) -> int:
    return int.from_bytes(bytes(byte | 32 for byte in anchor), "little")


def _slot(code: int) -> int:
    return code * SPREAD % 2**64 >> (64 - BITS)


def _compiled() -> tuple[np.ndarray, ...]:
    """The table, uint8[2^BITS]: 1 + the first phrase whose anchor falls there; bytes of all phrases; of each, in the
    order of slots, its first byte, the byte after it, its anchor's place and code, flag, how, slot.
    """
    table, rows, texts = np.zeros(1 << BITS, np.uint8), [], b""
    for phrase, anchor, flag, how in sorted(PHRASES, key=lambda entry: _slot(_code(entry[1].encode()))):
        raw, mark = phrase.encode(), anchor.encode()
        slot = _slot(_code(mark))
        table[slot] = table[slot] or len(rows) + 1
        rows.append((len(texts), len(texts) + len(raw), raw.lower().index(mark), _code(mark), flag, how, slot))
        texts += raw
    return table, np.frombuffer(texts, np.uint8), np.array(rows, np.int64)


TABLE, TEXTS, ROWS = _compiled()


@njit
def mark_phrases(text, s, pieces):
    """Give the pieces in which phrases begin their flags."""
    small, multiplier, shift = np.uint64(0x202020), np.uint64(SPREAD), np.uint64(64 - BITS)
    for at in range(len(text) - 2):
        code = (
            np.uint64(text[at]) | np.uint64(text[at + 1]) << np.uint64(8) | np.uint64(text[at + 2]) << np.uint64(16)
        ) | small
        first = TABLE[code * multiplier >> shift]
        if first:
            _compare(text, s, pieces, at, np.int64(code), np.int64(first) - 1)


@njit
def _compare(text, s, pieces, at, code, first):
    """Flag the phrases, from the first in this code's slot on, whose anchor stands at text[at:]."""
    for p in range(first, len(ROWS)):
        if ROWS[p, 6] != ROWS[first, 6]:
            break
        begin = at - ROWS[p, 2]
        if ROWS[p, 3] == code and begin >= 0 and _stands(text, begin, p):
            s.flag[_piece_at(s, pieces, begin)] |= np.uint8(ROWS[p, 4])


@njit
def _stands(text, begin, p):
    """Whether a phrase stands at text[begin:], compared as it wants to be."""
    how, phrase = ROWS[p, 5], TEXTS[ROWS[p, 0] : ROWS[p, 1]]
    if how == ANY_CASE:
        return stands_in_any_case(text, begin, phrase)
    if not stands(text, begin, phrase):
        return False
    return how != WHOLE or (_is_gap(text, begin - 1) and _is_gap(text, begin + len(phrase)))


@njit
def _is_gap(text, at):
    return at < 0 or at >= len(text) or text[at] == 32 or 9 <= text[at] <= 13


@njit
def _piece_at(s, pieces, at):
    """The piece that holds byte `at`, or the next one if none does."""
    low, high = 0, pieces - 1
    while low < high:
        middle = (low + high) >> 1
        if s.edge[2 * middle + 1] > at:
            high = middle
        else:
            low = middle + 1
    return low
