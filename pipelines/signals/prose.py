"""Prose of a text, for the language family: without links, code, numbers and markup, which look English or like nothing
at all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.texts.characters import IS_LETTER, IS_SPACE, UNICODE, decode, table, utf8

MARKUP_BYTES, SPAN_BYTES, ENTITY_BYTES = 256, 128, 10  # a longer tag, code between backticks or entity is text
SPACE, LETTER, MARK, CODE, SMALL, CAPITAL = 1, 2, 4, 8, 16, 32  # the last two of ASCII, as names in code have them
LOWER, UPPER = 64, 128  # of any script that has both
BLANK_LINE, LINE_END = 10, 13  # the space that stands for them; fastText takes either for a space


def _classes() -> np.ndarray:
    """uint8[CODES]: what a character says of the word that it stands in."""
    classes = table(IS_SPACE, SPACE) | table(IS_LETTER, LETTER)
    classes |= table(np.strings.islower(UNICODE), LOWER) | table(np.strings.isupper(UNICODE), UPPER)
    for letters, kind in (("*#[]<>|~`", MARK), ("0123456789_={}\\@$^&%+", CODE)):
        classes[list(letters.encode())] |= kind
    classes[97:123] |= SMALL
    classes[65:91] |= CAPITAL
    classes[0] = SPACE
    return classes


CLASSES = _classes()


def prose(text: str) -> str:
    """What is left of a text for the model to read, all places in one."""
    data, _ = utf8(pa.array([text]))
    room = np.empty(len(data) + 2, np.uint8)
    size = write_prose(data, 0, len(data), len(data), CLASSES, room)
    return room[1 : size + 1].tobytes().decode()


@njit
def write_prose(text, i, end, limit, classes, room):
    """Write the prose that begins in text[i:end] to room[1:], with a space before and behind it; its bytes.

    Left out are tags and entities, marks of Markdown, and runs of ASCII that look like links, code or numbers. White
    space becomes one space, or BLANK_LINE or LINE_END. At most `limit` bytes and a code point.
    """
    room[0] = 32
    at, run, gap, odd = 1, 1, 1, 0  # the place to write to; behind the last run's end, behind the last space
    while i < end and text[i] & 0xC0 == 0x80:
        i += 1
    while i < end and at <= limit:
        byte, width = text[i], 1
        if 97 <= byte <= 122:  # most of most texts
            room[at] = byte
            at, i = at + 1, i + 1
            continue
        if byte < 128:
            kind = classes[byte]
            skipped = _markup(text, i, end, classes) if byte == 60 or byte == 38 or byte == 96 else 0
            if byte == 91 and _after_letter(text, i, at > run, classes):
                odd = 2  # f[i]
            elif byte == 62 and at > run and text[i - 1] == 45:
                odd = 2  # p->x
            if kind & (SPACE | MARK) or skipped:
                if odd >= 2:
                    at = run
                if at > gap:
                    room[at] = 32
                    at += 1
                if byte == 10:
                    room[at - 1] = BLANK_LINE if room[at - 1] == BLANK_LINE or _blank(text, i) else LINE_END
                run, gap, odd = at, at, 0
                i += max(skipped, 1)
                continue
            odd += _oddness(text, i, end, at > run, classes)
        else:
            if odd >= 2:
                at = run
            odd = 0
            code, width = decode(text, i)
            kind = classes[code]
        if kind & SPACE:
            if at > gap:
                room[at] = 32
                at += 1
            gap = at
        else:
            for k in range(width):
                room[at + k] = text[i + k]
            at += width
        i += width
        if byte >= 128:
            run = at
    if odd >= 2:
        at = run
    room[at] = 32
    return at - 1


@njit
def _blank(text, i):
    """Whether the line that ends at text[i] is blank."""
    j = i - 1
    while j >= 0 and (text[j] == 32 or text[j] == 9 or text[j] == 13):
        j -= 1
    return j >= 0 and text[j] == 10


@njit
def _oddness(text, i, end, inside, classes):
    """How much an ASCII character makes its run look like no prose: 2 is enough.

    Digits and marks of code do; a second slash; a point before a letter (a name, a host), a double colon, a bracket
    behind a letter (a call), a capital behind a small letter.
    """
    byte, kind = text[i], classes[text[i]]
    if kind & CODE:
        return 2
    if byte == 47:
        return 1
    if kind & CAPITAL:
        return 2 if inside and classes[text[i - 1]] & SMALL else 0
    if byte == 40:
        return 2 if _after_letter(text, i, inside, classes) else 0
    if i + 1 < end and byte == 58:
        return 2 if text[i + 1] == 58 else 0
    if i + 1 < end and byte == 46 and not (inside and text[i - 1] == 46):
        return 2 if text[i + 1] < 128 and classes[text[i + 1]] & (SMALL | CAPITAL) else 0
    return 0


@njit
def _after_letter(text, i, inside, classes):
    """Whether an ASCII letter of the same run stands before text[i]."""
    return inside and text[i - 1] < 128 and classes[text[i - 1]] & (SMALL | CAPITAL) != 0


@njit
def _markup(text, i, end, classes):
    """Bytes of the tag, the entity or the code between backticks that begins at text[i]; 0 if none does."""
    if text[i] == 38:
        return _until(text, i, min(i + ENTITY_BYTES, end), 59, 32)
    if text[i] == 96:
        return _until(text, i, min(i + SPAN_BYTES, end), 96, 10)
    if i + 1 < end and (
        text[i + 1] == 47 or text[i + 1] == 33 or text[i + 1] == 63 or classes[text[i + 1]] & (SMALL | CAPITAL)
    ):
        return _until(text, i, min(i + MARKUP_BYTES, end), 62, 0)
    return 0


@njit
def _until(text, i, end, last, never):
    """Bytes of text[i:end] up to its first `last` behind i; 0 if it has none, or a `never` before."""
    for j in range(i + 1, end):
        if text[j] == last:
            return j + 1 - i
        if text[j] == never:
            return 0
    return 0
