"""Phrases that mark lines and sentences as a page's furniture, all searched for in one pass over the bytes.

Every phrase has an anchor, three bytes of it that are rare elsewhere. A table says of three bytes in a row, ASCII letters in any
case, whether they may be an anchor; only there the phrases are compared.

C4 (its code, c4_utils.py) and MADLAD-400 (2309.04662, appendix on filters) give the lists; of MADLAD's expressions those that look at
a sentence's end mark are left out, for its sentences and ours end before and after it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.signals.pieces import ITEMS_IN_CART, LINE_PHRASE, QUESTIONED, READ_MORE, SIGN_IN

ANY_CASE, WHOLE = 1, 2  # letters in any case; white space, or the text's end, on both sides
# (phrase, its anchor, the flag that it gives to the piece it begins in, how it is compared)
PHRASES = (
    *((phrase, anchor, LINE_PHRASE, ANY_CASE) for phrase, anchor in (
        ("javascript", "vas"), ("terms of use", "f u"), ("privacy policy", "icy"), ("cookie policy", "icy"),
        ("uses cookies", "oki"), ("use of cookies", "oki"), ("use cookies", "oki"),
    )),
    ("items in cart", "ems", ITEMS_IN_CART, ANY_CASE), ("read more...", "re.", READ_MORE, ANY_CASE), ("sign-in", "gn-", SIGN_IN, ANY_CASE),
    *((phrase, anchor, QUESTIONED, 0) for phrase, anchor in (
        ("mp3", "mp3"), ("ownload", "wnl"), ("Vol.", "ol."), ("Episode", "pis"), ("Develop", "lop"), ("Facebook", "ceb"),
        ("\ufffd" * 3, "\ufffd"), ("黄色电影", "黄"), ("aute irure dolor ", "iru"), (" sunt in culpa qui ", "ulp"),
        ("orem ipsum ", "psu"), (" quis nostrud ", "rud"), (" adipisicing ", "dip"),
        (" dolore eu ", "e e"), (" cupidatat ", "pid"), ("autem vel eum", "eum"), ("wisi enim ad", "nim"),
        (" №", "№"), (" Ep.", "ep."),
    )),
    *((phrase, anchor, QUESTIONED, WHOLE) for phrase, anchor in (("sex", "sex"), ("porn", "orn"), ("crusher", "ush"), ("xxx", "xxx"))),
)  # fmt: skip
BITS = 12  # of the table


def _code(anchor: bytes) -> int:
    return int.from_bytes(bytes(byte | 32 for byte in anchor), "big")


def _slot(code: int) -> int:
    return (code * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - BITS)


def _compiled() -> tuple[np.ndarray, ...]:
    """The table, uint8[2^BITS]; bytes of all phrases; of each its first byte, the byte after it, its anchor's place and code, flag, how."""
    table, rows, texts = np.zeros(1 << BITS, np.uint8), [], b""
    for phrase, anchor, flag, how in PHRASES:
        raw, mark = phrase.encode(), anchor.encode()
        place = raw.lower().index(mark)
        table[_slot(_code(mark))] = 1
        rows.append((len(texts), len(texts) + len(raw), place, _code(mark), flag, how))
        texts += raw
    return table, np.frombuffer(texts, np.uint8), np.array(rows, np.int64)


TABLE, TEXTS, ROWS = _compiled()


@njit
def mark_phrases(text, s, pieces):
    """Give the pieces in which phrases begin their flags."""
    code = np.uint64(0)
    for i in range(len(text)):
        code = (code << np.uint64(8) | np.uint64(text[i]) | np.uint64(32)) & np.uint64(0xFFFFFF)
        if TABLE[(code * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)) >> np.uint64(32 - BITS)]:
            _compare(text, s, pieces, i - 2, code)


@njit
def _compare(text, s, pieces, at, code):
    """Flag the phrases whose anchor, with this code, stands at text[at:]."""
    for p in range(len(ROWS)):
        if ROWS[p, 3] == np.int64(code):
            begin, end = at - ROWS[p, 2], at - ROWS[p, 2] + ROWS[p, 1] - ROWS[p, 0]
            if begin >= 0 and end <= len(text) and _equal(text, begin, p):
                s.flag[_piece_at(s, pieces, begin)] |= np.uint8(ROWS[p, 4])


@njit
def _equal(text, begin, p):
    how, size = ROWS[p, 5], ROWS[p, 1] - ROWS[p, 0]
    for i in range(size):
        wanted, found = TEXTS[ROWS[p, 0] + i], text[begin + i]
        if wanted != found and not (how == ANY_CASE and wanted == found | 32 and found >= 65 and found <= 90):
            return False
    return how != WHOLE or (_is_gap(text, begin - 1) and _is_gap(text, begin + size))


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
