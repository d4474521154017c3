"""The compiled scan for personal data: the few places of a text where something may begin.

One pass over the bytes names an @ between letters, digits enough for a phone number, -----BEGIN, a long run of token
characters that begins as a provider's do, what stands behind the = or : of a word that ends as those for passwords and
keys do. It may name too many places, never too few. It looks at a bounded neighbourhood of each byte, so that hostile
text costs time in proportion to its length.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.signals.personal_bytes import (
    AT,
    BEGIN_MARK,
    BEGIN_SSH2,
    BEHIND,
    CARD,
    CLASSES,
    CLOSE,
    COLON,
    DASH,
    DIGIT,
    DOT,
    EIGHT,
    EMAIL,
    EQUALS,
    GREATER,
    IBAN,
    IN_NUMBER,
    IPV4,
    IPV6,
    KEY,
    LETTER,
    LOCAL,
    LOCAL_BYTES,
    MARKS,
    MIN_CARD,
    MIN_PHONE,
    NUMBER_BYTES,
    OF_PHONE,
    OPEN,
    PHONE,
    PLUS,
    SAID,
    SEEN,
    SPACE,
    UPPER,
    URL_PASSWORD,
    ZERO,
    in_label,
    meaning_of,
    put,
)
from pipelines.signals.secrets_scan import assigned, may_assign, option, tokens, url_password
from pipelines.texts.find import stands


def places(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where something may begin: rows of document, byte in data, number in FINDERS; int64[n, 3]. Scans again if there
    was no room."""
    room, n = 0, len(data) // 64 + 64
    while n > room:
        room = n
        out = np.empty((room, 3), np.int64)
        n = _scan(data, offsets, out)
    return out[:n]


@njit(cache=True, nogil=True)
def _scan(data, offsets, out):
    n, marks = 0, np.empty(MARKS + 1, np.int64)
    for d in range(len(offsets) - 1):
        text = data[offsets[d] : offsets[d + 1]]
        first = n
        for begin in range(0, len(text), MARKS):
            n_marks = _marks(text, begin, marks)
            for mark in range(n_marks):
                n = _mark(text, marks[mark], out, n)
        n = tokens(text, out, n)
        for row in range(first, min(n, len(out))):
            out[row, 0] = d
            out[row, 1] += offsets[d]
    return n


@njit
def _marks(text, begin, marks):
    """Where in the next MARKS bytes something stands that may begin or give away what is looked for; how many. First by
    itself and the byte before it, without a branch: a mispredicted one costs as much as ten bytes. Then by what is
    around, here, as a call with arrays costs as much again."""
    n, last = 0, text[begin - 1] if begin else np.uint8(SPACE)
    for i in range(begin, min(begin + MARKS, len(text))):
        marks[n] = i
        n += SEEN[text[i]] & BEHIND[last] != 0
        last = text[i]
    kept = 0
    for mark in range(n):
        i = marks[mark]
        byte = text[i]
        marks[kept] = i
        if CLASSES[byte] & DIGIT:
            kept += _may_be_number(text, i)
        elif byte == GREATER or byte == EQUALS or byte == COLON:
            kept += may_assign(text, i)
        else:
            kept += 1
    return kept


@njit
def _mark(text, i, out, n):
    """What the byte at text[i] stands for."""
    byte = text[i]
    if CLASSES[byte] & DIGIT:
        return _number(text, i, out, n)
    if byte == AT:
        begin = _local(text, i)
        if begin < i and i + 1 < len(text) and in_label(text[i + 1]) and _has_dot(text, i + 1):
            n = put(out, n, begin, EMAIL)
        begin = url_password(text, i)
        return put(out, n, begin, URL_PASSWORD) if begin >= 0 else n
    if byte == PLUS:
        is_number = i + 1 < len(text) and CLASSES[text[i + 1]] & DIGIT and _digits_ahead(text, i + 1) >= MIN_PHONE
        return put(out, n, i, PHONE) if is_number else n
    if byte == OPEN:
        before = i > 0 and CLASSES[text[i - 1]] & (DIGIT | LETTER)
        if not before and _area_code(text, i) and _digits_ahead(text, i) >= MIN_PHONE:
            n = put(out, n, i, PHONE)
    elif byte == DASH:
        if (i < 2 or text[i - 2] != DASH) and (stands(text, i - 1, BEGIN_MARK) or stands(text, i - 1, BEGIN_SSH2)):
            n = put(out, n, i - 1, KEY)
        return option(text, i, out, n) if i + 1 < len(text) and CLASSES[text[i + 1]] & LETTER else n
    return assigned(text, i, out, n) if i > 2 else n


@njit(inline="always")
def _may_be_number(text, i):
    """Whether digits enough for a phone begin at text[i], or an address or the digits of an IBAN may."""
    end, last = i + 1, min(len(text), i + NUMBER_BYTES)
    while end < last and CLASSES[text[end]] & DIGIT:
        end += 1
    if end < len(text) and (text[end] == DOT or text[end] == COLON) or i > 0 and CLASSES[text[i - 1]] & UPPER:
        return True
    n_digits = end - i
    while end < last and n_digits < MIN_PHONE and CLASSES[text[end]] & IN_NUMBER:
        n_digits += CLASSES[text[end]] & DIGIT
        end += 1
    return n_digits >= MIN_PHONE or i + 4 < len(text) and text[i + 4] == COLON


@njit
def _local(text, at):
    """Where the local part before the @ begins; the @ itself if there is none."""
    i = at
    while i > 0 and at - i <= LOCAL_BYTES:
        if CLASSES[text[i - 1]] & LOCAL:
            i -= 1
        elif text[i - 1] == DOT and i < at and text[i] != DOT and i > 1 and CLASSES[text[i - 2]] & LOCAL:
            i -= 1
        else:
            break
    return i


@njit
def _has_dot(text, i):
    """Whether a letter follows a dot in the domain at text[i:]."""
    while i + 2 < len(text) and (in_label(text[i]) or text[i] == DASH or text[i] == DOT):
        if text[i] == DOT and not in_label(text[i + 1]):
            return False
        if text[i] == DOT and CLASSES[text[i + 1]] & DIGIT == 0:
            return True
        i += 1
    return False


@njit
def _digits_ahead(text, i):
    """Digits up to the first byte that stands in no phone number, within the longest of them."""
    count, end = 0, min(len(text), i + NUMBER_BYTES)
    while i < end and CLASSES[text[i]] & IN_NUMBER:
        count += CLASSES[text[i]] & DIGIT
        i += 1
    return count


@njit(inline="always")
def _run(text, i):
    """Digits in a row at text[i:]."""
    end = i
    while end < len(text) and CLASSES[text[end]] & DIGIT:
        end += 1
    return end - i


@njit
def _area_code(text, at):
    size = _run(text, at + 1)
    return 2 <= size <= 5 and at + 1 + size < len(text) and text[at + 1 + size] == CLOSE


@njit
def _number(text, i, out, n):
    """What the number whose first digit is text[i] may be."""
    before = CLASSES[text[i - 1]] if i > 0 else np.uint8(0)
    if before & (DIGIT | LETTER) or i > 0 and text[i - 1] == ord("_"):
        if i >= 2 and before & UPPER and CLASSES[text[i - 2]] & UPPER and _run(text, i) >= 2:
            n = put(out, n, i - 2, IBAN)
        return n
    size = _run(text, i)
    # the rest of a fraction or an exponent
    tied = i > 0 and (text[i - 1] == DOT or text[i - 1] == DASH or text[i - 1] == PLUS)
    if size <= 3 and not tied and _four_parts(text, i):
        n = put(out, n, i, IPV4)
    if i + 4 < len(text) and text[i + 4] == COLON and (text[i] == ord("2") or text[i] == ord("3")):
        n = put(out, n, i, IPV6)
    ahead = _digits_ahead(text, i)
    if ahead >= MIN_CARD - 1 and not tied and (size == 4 or MIN_CARD <= size <= 19) and ord("2") <= text[i] <= ord("6"):
        n = put(out, n, i, CARD)
    tied |= i > 1 and text[i - 1] == SPACE and CLASSES[text[i - 2]] & DIGIT != 0  # the next of a row of numbers
    if ahead >= MIN_PHONE and (not tied and (_national(text, i, size) or _grouped(text, i)) or _after_word(text, i)):
        n = put(out, n, i, PHONE)
    return n


@njit
def _national(text, i, size):
    """Whether an area code with its 0 stands at text[i:], or the 1 of North America and three digits, or the 8 of
    Russia and three to five."""
    if text[i] == ZERO:
        return 2 <= size <= 5 and text[i + 1] != ZERO
    if size > 1 or text[i] != ZERO + 1 and text[i] != EIGHT:
        return False
    for gap in range(1, 5):
        if i + gap < len(text) and CLASSES[text[i + gap]] & DIGIT:
            area = _run(text, i + gap)
            return area == 3 or text[i] == EIGHT and 3 <= area <= 5
    return False


@njit
def _four_parts(text, i):
    for part in range(4):
        size = _run(text, i)
        if size == 0 or size > 3:
            return False
        i += size + 1
        if part < 3 and (i >= len(text) or text[i - 1] != DOT):
            return False
    return True


@njit
def _grouped(text, i):
    """Whether three digits stand at text[i:], and three more behind one to three bytes that are no digits."""
    if _run(text, i) != 3:
        return False
    for gap in range(1, 4):
        if i + 3 + gap < len(text) and CLASSES[text[i + 3 + gap]] & DIGIT:
            return _run(text, i + 3 + gap) == 3
    return False


@njit
def _after_word(text, i):
    """Whether the word before text[i], a few marks between, ends as one for phone does, or is not ASCII."""
    back = 0
    while i > 0 and back < 7 and CLASSES[text[i - 1]] & (LETTER | DIGIT) == 0:
        if text[i - 1] >= 128:
            return True
        i -= 1
        back += 1
    meaning = meaning_of(text, i)
    if meaning & SAID and not meaning & OF_PHONE:  # is, ist
        while i > 0 and CLASSES[text[i - 1]] & LETTER:
            i -= 1
        meaning = meaning_of(text, i - 1) if i > 0 and text[i - 1] < 128 else OF_PHONE
        if i > 1 and text[i - 2] >= 128:
            return True
    return meaning & OF_PHONE != 0
