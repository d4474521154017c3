"""Text as folded bytes and words, hashed: what fingerprints, repeated passages' neighbours and evaluation items are
compared by.

Folded is a text in lower case, its white space one space each, none at the ends. Words are runs of letters, digits and
_ (Python's \\w). Where a script puts no spaces between words (`scripts`), every letter, digit or mark of it is a word
of its own: there a shingle of five words is one of five characters, and no label of the language is needed. A shingle
is the 64-bit hash of `ngram` words in a row, of all words where there are fewer.

Code is treated alike. Punctuation as words of their own would make more of it near copies, not fewer: among 12,000
pieces of Python packages 511 would go instead of 181, as functions of one shape with other names agree in it; of 816
pairs found without it 3, all near the threshold, are not found with it.

The pass takes eight bytes of ASCII at a time in one register and stores where words begin and end without a branch on
either: branches at word ends are what bounds a pass that goes byte by byte.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.texts.characters import FOLD, IS_ALNUM, decode, encode, load8, longest, mix64, store8, table
from pipelines.texts.scripts import IS_ALONE

# bits beside the code point: of a run of word characters, a word by itself
WORD, ALONE = np.uint32(1 << 31), np.uint32(1 << 30)
COMBINE = np.uint64(0x9E3779B97F4A7C15)
EVERY = np.uint64(0x0101010101010101)  # times a byte: that byte in each of a register's eight
HIGH, BLANKS = EVERY * np.uint64(0x80), EVERY * np.uint64(0x20)
# times a register of 0 and 1 bytes: the first byte's bit in bit 56, the last one's in bit 63
GATHER = np.uint64(0x0102040810204080)


def word_fold() -> np.ndarray:
    """FOLD with the bits WORD and ALONE, uint32 by code point."""
    is_word = table(IS_ALNUM, 1)
    is_word[ord("_")] = 1
    fold = FOLD | is_word.astype(np.uint32) * WORD
    alone = table(IS_ALONE, 1) > 0
    fold[alone] = fold[alone] & ~WORD | ALONE
    return fold


def _edges() -> tuple[np.ndarray, np.ndarray]:
    """By a byte that `GATHER` makes: the places of its bits in ascending order, and how many they are."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    places = np.argsort(1 - bits, axis=1, kind="stable").astype(np.uint32)
    return places, bits.sum(axis=1).astype(np.int64)


WORD_FOLD = word_fold()
PLACES, COUNTS = _edges()


def numbers(items: pa.BinaryArray, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the kind in an array's buffer, and int64 bounds of each item's; sliced arrays keep their place."""
    _, offsets, data = items.buffers()
    bounds = np.frombuffer(offsets, np.int32 if items.type == pa.binary() else np.int64)[items.offset :][
        : len(items) + 1
    ]
    size = np.dtype(kind).itemsize
    return np.frombuffer((data or b"")[: bounds[-1]], kind), bounds.astype(np.int64) // size


def room(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Space for the edges and hashes of the words of the longest document: at most every other byte begins one (three
    bytes make a word that stands alone), and eight edges are written at a time."""
    n = longest(offsets) // 2 + 2
    return np.empty(2 * n + 8, np.uint32), np.empty(n, np.uint64)


def folded_room(n_bytes: int) -> int:
    """Bytes that so many may become: lower case may take three for two (Ⱥ); and eight are read at a time."""
    return 3 * n_bytes // 2 + 16


@njit(inline="always")
def _within(x, first, last):
    """Bit 7 of each byte of x that lies between first and last; every byte of x is below 128."""
    return (x + EVERY * np.uint64(128 - first)) & ~(x + EVERY * np.uint64(127 - last)) & HIGH


@njit
def fold_text(text, fold, folded, at, edges):
    """Write the folded text to folded[at:], and to edges where each word begins and ends in it, counted from `at`.

    Returns the place behind the folded text and the number of words.
    """
    begin, i, k = at, 0, 0
    # 0x80: a word is open; the last character is a space, or there is none
    inside, spaced = np.uint64(0), np.uint64(0x80)
    while i < len(text):
        if i + 8 <= len(text):
            x = load8(text, i)
            space = _within(x, 9, 13) | _within(x, 28, 32)
            if x & HIGH == 0 and space & (space << np.uint64(8) | spaced) == 0:
                small = x | _within(x, 65, 90) >> np.uint64(2)
                word = _within(small, 97, 122) | _within(x, 48, 57) | _within(x, 95, 95)
                blank = space | space - (space >> np.uint64(7))
                store8(folded, at, small & ~(blank | space) | BLANKS & blank)
                turns = (word ^ (word << np.uint64(8) | inside)) >> np.uint64(7)
                turns = turns * GATHER >> np.uint64(56)
                for j in range(8):
                    edges[k + j] = np.uint32(at - begin) + PLACES[turns, j]
                k += COUNTS[turns]
                inside, spaced = word >> np.uint64(56), space >> np.uint64(56)
                at += 8
                i += 8
                continue
        stop = min(i + 8, len(text))
        while i < stop:
            code, width = np.uint32(text[i]), 1
            if code >= 128:
                code, width = decode(text, i)
            entry = fold[code]
            small = entry & ~(WORD | ALONE)
            is_word, is_alone = entry & WORD != 0, entry & ALONE != 0
            edges[k] = at - begin
            k += inside != 0 and not is_word
            edges[k] = at - begin
            k += is_alone or is_word and inside == 0
            if small < 128:
                folded[at] = small
                at += small != 32 or spaced == 0
            else:
                at = encode(small, folded, at)
            edges[k] = at - begin
            k += is_alone
            inside, spaced = np.uint64(is_word) << np.uint64(7), np.uint64(small == 32) << np.uint64(7)
            i += width
    edges[k] = at - begin
    k += inside != 0
    return at - (at > begin and spaced != 0), k >> 1


@njit
def hash_words(folded, begin, edges, n, words):
    """The hash of each word, from eight bytes at a time; folded: with eight bytes to spare."""
    for w in range(n):
        at, size = begin + np.int64(edges[2 * w]), np.int64(edges[2 * w + 1]) - np.int64(edges[2 * w])
        hash = load8(folded, at) & (~np.uint64(0) >> np.uint64(64 - 8 * min(size, 8)))
        while size > 8:
            at += 8
            size -= 8
            hash = (hash ^ hash >> np.uint64(29)) * COMBINE
            hash ^= load8(folded, at) & (~np.uint64(0) >> np.uint64(64 - 8 * min(size, 8)))
        words[w] = mix64(hash)


@njit
def join_words(words, n_words, ngram):
    """Replace the hashes of words by those of `ngram` in a row, of all where there are fewer; how many there are. A
    rolling polynomial, mixed at its end."""
    if n_words == 0:
        return 0
    size = min(ngram, n_words)
    oldest = np.uint64(1)  # weight of the first word of a shingle
    for _ in range(size - 1):
        oldest *= COMBINE
    total = np.uint64(0)
    for i in range(size - 1):
        total = total * COMBINE + words[i]
    for begin in range(n_words - size + 1):
        total = total * COMBINE + words[begin + size - 1]
        first = words[begin]
        words[begin] = mix64(total)
        total -= first * oldest
    return n_words - size + 1
