"""Texts cut into pieces, runs of ink, in one pass over the bytes: where each lies, what it is made of, its hash.

The pass has no branch that depends on where a piece begins or ends: every character writes its place where the next
edge would stand. What a piece is hashed by are its bytes, eight at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.texts.characters import IS_ALNUM, IS_LETTER, IS_SPACE, UNICODE, decode, is_ascii, load8, mix64, table

SPACE, LETTER, ALNUM, LINE_END, SENTENCE_END, CLOSING, COUNTED, UPPER, TECHNICAL, CODE_END = (
    1 << bit for bit in range(10)
)
DOT, HASH, BRACE, NEWLINE, DOLLAR, BACKSLASH, ELLIPSIS, REPLACEMENT = (
    ord(character) for character in ".#{\n$\\…\ufffd"
)
WIDE_ENDS = "。！？"
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
END, LINE_PHRASE, QUESTIONED, ITEMS_IN_CART, READ_MORE, SIGN_IN = (1 << bit for bit in range(6))  # flags of a piece


def _classes() -> np.ndarray:
    """The bits SPACE to CODE_END, uint16[code point]."""
    members = {SPACE: IS_SPACE, LETTER: IS_LETTER, ALNUM: IS_ALNUM, UPPER: np.strings.isupper(UNICODE)}
    classes = np.zeros(len(table(IS_SPACE, 1)), np.uint16)
    for bit, members_of in members.items():
        classes |= table(members_of, 1).astype(np.uint16) * np.uint16(bit)
    marks = {
        LINE_END: ".!?…\"'”’。！？؟।",
        SENTENCE_END: ".!?…؟।",
        CLOSING: "\"')]}”’»",
        COUNTED: "#{.…$\\\ufffd" + WIDE_ENDS,
    }
    marks |= {TECHNICAL: "0123456789{}+/()>", CODE_END: ";{}"}
    for bit, characters in marks.items():
        for character in characters:
            classes[ord(character)] |= bit
    return classes


def _stop_table() -> tuple[np.uint64, np.ndarray]:
    """A multiplier under which the eight words of Gopher fall into different ones of 16 slots, and the slots,
    uint64[16].

    A word is its bytes in small letters, zeros behind it.
    """
    words = [int.from_bytes(word.encode(), "little") for word in "the be to of and that have with".split()]
    random = np.random.default_rng(1)
    while True:
        multiplier = int(random.integers(1 << 63, dtype=np.uint64)) * 2 + 1
        places = [word * multiplier % 2**64 >> 60 for word in words]
        if len(set(places)) == len(words):
            slots = np.zeros(16, np.uint64)
            slots[places] = words
            return np.uint64(multiplier), slots


SMALL = np.uint64(0x2020202020202020)
STOP_MULTIPLIER, STOP_SLOTS = _stop_table()
LOREM, IPSUM = (np.uint64(int.from_bytes(word, "little")) for word in (b"lorem", b"ipsum"))
CLASSES = _classes()
MASKS = np.array([(1 << 8 * n) - 1 for n in range(8)] + [2**64 - 1], np.uint64)  # the first n bytes of eight
COUNTS = np.dtype([(name, np.int64) for name in (
    "chars", "ink", "pieces", "words", "word_ink", "letter_pieces", "newlines", "sentences", "stop_words",
    "lorem_ipsum", "replacements", "hashes", "braces", "ellipses", "latex", "lines", "bullet_lines",
    "ellipsis_lines", "ended_lines", "short_lines", "code_lines", "longest_piece", "c4_words", "ui_words",
    "questionable", "questionable_all", "dup_lines", "dup_line_ink", "paragraphs", "dup_paragraphs",
    "dup_paragraph_ink", "span_run", "char_run",
)] + [("top", np.int64, 3), ("dup", np.int64, 6)])  # fmt: skip
SEEN_BITS = 26  # 64 MB: only texts of more than 8 million pieces would have more of it


class Scratch(NamedTuple):
    """Arrays for the pieces of the longest document of a batch; pages that are not reached are never touched."""

    edge: np.ndarray  # int32, first byte of each piece and the byte after it, in turn
    char: np.ndarray  # int32, characters before each edge
    kind: np.ndarray  # uint16, classes of all characters of a piece
    hash: np.ndarray  # uint64, of its bytes
    ink: np.ndarray  # int32, ink before it; one more than pieces
    row: np.ndarray  # int32, newlines before it
    last: np.ndarray  # uint16, classes of its last character
    flag: np.ndarray  # uint8, END, and the phrases that begin in it
    key: np.ndarray  # uint64, of lines, paragraphs, n-grams in turn
    size: np.ndarray  # int32, ink of lines and paragraphs; of n-grams: whether met
    place: np.ndarray  # int32, row of a line; piece where an n-gram begins
    first: np.ndarray  # int32, index of the first equal key
    copies: np.ndarray  # int32, at that index: how many keys are equal
    slots: np.ndarray  # int32, hash table of indices
    seen: np.ndarray  # uint8[at most 1 << SEEN_BITS], how many keys fall into a place, at most 2


def scratch(longest_bytes: int) -> Scratch:
    """Room for the most pieces that so many bytes can hold: every other byte one."""
    n = longest_bytes // 2 + 2
    sizes = {
        "edge": 2 * n,
        "char": 2 * n,
        "slots": 2 << n.bit_length(),
        "seen": min(64 << n.bit_length(), 1 << SEEN_BITS),
    }
    kinds = {
        "hash": np.uint64,
        "key": np.uint64,
        "kind": np.uint16,
        "last": np.uint16,
        "flag": np.uint8,
        "seen": np.uint8,
    }
    return Scratch(**{name: np.empty(sizes.get(name, n), kinds.get(name, np.int32)) for name in Scratch._fields})


@njit(inline="always")
def first8(text, at, n):
    """The n bytes, at most 8, at text[at:] as a uint64, the first one lowest."""
    if at + 8 <= len(text):
        return load8(text, at) & MASKS[n]
    value = np.uint64(0)
    for i in range(n):
        value |= np.uint64(text[at + i]) << np.uint64(8 * i)
    return value


@njit
def split(text, classes, s, row):
    """Edges and kinds of the pieces to scratch, counts of characters to row; the place behind the last run of
    WIDE_ENDS."""
    if is_ascii(text):
        return _split_ascii(text, classes, s, row)
    i = chars = newlines = 0
    k, inside = np.uint64(0), np.uint64(0)
    kind = np.uint64(0)
    dots_end = dots = wide_end = -1  # where a run of dots, of wide ends stops
    while i < len(text):
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        here = np.uint64(classes[code])
        ink = here & np.uint64(SPACE) ^ np.uint64(1)
        s.edge[k], s.char[k] = i, chars
        k += ink ^ inside
        kind = kind & (np.uint64(0) - inside) | here
        s.kind[k >> np.uint64(1)] = kind
        inside = ink
        newlines += code == NEWLINE
        if here & np.uint64(COUNTED):
            if code == DOT:
                dots = dots + 1 if dots_end == i else 1
                dots_end = i + 1
                row.ellipses += dots % 3 == 0
            elif code == ELLIPSIS:
                row.ellipses += 1
            elif code < 128:
                _count_mark(text, i, row)
            elif code == REPLACEMENT:
                row.replacements += 1
            else:
                row.sentences += wide_end != i
                wide_end = i + width
        chars += 1
        i += width
    s.edge[k], s.char[k] = i, chars
    row.pieces, row.chars, row.newlines = (np.int64(k) + 1) >> 1, chars, newlines
    return wide_end


@njit
def _split_ascii(text, classes, s, row):
    """The same where every byte is a character."""
    k, inside, kind = np.uint64(0), np.uint64(0), np.uint64(0)
    newlines = 0
    dots_end = dots = -1
    for i in range(len(text)):
        here = np.uint64(classes[text[i]])
        ink = here & np.uint64(SPACE) ^ np.uint64(1)
        s.edge[k] = i
        k += ink ^ inside
        kind = kind & (np.uint64(0) - inside) | here
        s.kind[k >> np.uint64(1)] = kind
        inside = ink
        newlines += text[i] == NEWLINE
        if here & np.uint64(COUNTED):
            if text[i] == DOT:
                dots = dots + 1 if dots_end == i else 1
                dots_end = i + 1
                row.ellipses += dots % 3 == 0
            else:
                _count_mark(text, i, row)
    s.edge[k] = len(text)
    for i in range(np.int64(k) + 1):
        s.char[i] = s.edge[i]
    row.pieces, row.chars, row.newlines = (np.int64(k) + 1) >> 1, len(text), newlines
    return -1


@njit
def _count_mark(text, i, row):
    """Count #, {, $ and commands of LaTeX at text[i:]."""
    if text[i] == HASH:
        row.hashes += 1
    elif text[i] == BRACE:
        row.braces += 1
    elif text[i] == DOLLAR:
        row.latex += 1
    else:
        row.latex += is_command(text, i + 1)


@njit(inline="always")
def is_command(text, at):
    """Whether a backslash before text[at:] begins a command of LaTeX: two letters at least, ( or [. \\n is none."""
    if at >= len(text):
        return False
    if text[at] == 40 or text[at] == 91:
        return True
    return at + 1 < len(text) and _is_ascii_letter(text[at]) and _is_ascii_letter(text[at + 1])


@njit(inline="always")
def _is_ascii_letter(byte):
    return np.uint8((byte | np.uint8(32)) - np.uint8(97)) < 26


@njit
def describe(text, classes, s, row, wide_end):
    """Hash, place, last character and END of each piece; words and sentences, stop words and lorem ipsum."""
    ink = newlines = at = words = word_ink = letter_pieces = longest = 0
    stops = np.uint64(0)
    ended = True
    for n in range(row.pieces):
        begin, end = s.edge[2 * n], s.edge[2 * n + 1]
        while at < begin:
            newlines += text[at] == NEWLINE
            at += 1
        at = end
        s.row[n], s.ink[n] = newlines, ink
        here = s.char[2 * n + 1] - s.char[2 * n]
        ink += here
        is_word = s.kind[n] & ALNUM != 0
        words += is_word
        word_ink += here * is_word
        letter_pieces += s.kind[n] & LETTER != 0
        longest = max(longest, end - begin)
        head = first8(text, begin, min(end - begin, 8))
        s.hash[n] = _hash_rest(text, begin, end, head)
        small = head | SMALL & MASKS[min(end - begin, 8)]
        slot = small * STOP_MULTIPLIER >> np.uint64(60)
        stops |= np.uint64(STOP_SLOTS[slot] == small) << slot
        if small & MASKS[5] == IPSUM and n > 0:
            row.lorem_ipsum += end - begin >= 5 and ends_in_lorem(text, s.edge[2 * n - 1])
        last = classes[text[end - 1]] if text[end - 1] < 128 else classes[code_before(text, end)]
        s.last[n] = last
        ended = last & (SENTENCE_END | CLOSING) != 0 and is_end(text, classes, begin, end)
        s.flag[n] = END * ended
        row.sentences += ended
    s.ink[row.pieces] = ink
    row.ink, row.words, row.word_ink = ink, words, word_ink
    row.letter_pieces, row.longest_piece = letter_pieces, longest
    row.sentences += row.pieces > 0 and not ended and wide_end != at
    while stops:
        row.stop_words += 1
        stops &= stops - np.uint64(1)


@njit(inline="always")
def _hash_rest(text, begin, end, head):
    """Hash of text[begin:end], of which the first eight bytes are known."""
    size = end - begin
    value = (head ^ np.uint64(size)) * MULTIPLIER
    while size > 8:
        begin, size = begin + 8, size - 8
        value = (value ^ value >> np.uint64(32) ^ first8(text, begin, min(size, 8))) * MULTIPLIER
    return mix64(value)


@njit
def ends_in_lorem(text, end):
    return end >= 5 and (first8(text, end - 5, 5) | SMALL & MASKS[5]) == LOREM


@njit(inline="always")
def code_before(text, end):
    """The code point that ends at text[:end]."""
    at = end - 1
    while text[at] & 0xC0 == 0x80 and at > 0:
        at -= 1
    return np.uint32(text[at]) if text[at] < 128 else decode(text, at)[0]


@njit
def is_end(text, classes, begin, end):
    """Whether text[begin:end] ends in the end of a sentence and what closes it."""
    while end > begin:
        code = code_before(text, end)
        if classes[code] & SENTENCE_END:
            return True
        if classes[code] & CLOSING == 0:
            return False
        end -= 1 if code < 0x80 else 2 if code < 0x800 else 3
    return False
