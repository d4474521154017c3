"""The compiled scan for personal data: the few places of a text where something may begin.

One pass over the bytes names an @ between letters, digits enough for a phone number, -----BEGIN, a long run of token
characters that begins as a provider's do. It may name too many places, never too few. It looks at a bounded
neighbourhood of each byte, so that hostile text costs time in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

from pipelines.texts.find import stands

KEY, TOKEN, IBAN, CARD, EMAIL, IPV4, IPV6, PHONE = range(8)  # rows of personal.FINDERS
DIGIT, LETTER, UPPER, HEX, LOCAL, IN_TOKEN, TRIGGER, IN_NUMBER = (1 << bit for bit in range(8))
AT, DOT, COLON, DASH, PLUS, EQUALS, OPEN, CLOSE, ZERO, SPACE = (ord(character) for character in "@.:-+=()0 ")
MIN_TOKEN, MIN_PHONE, NUMBER_BYTES, MIN_CARD, LOCAL_BYTES = 20, 7, 48, 14, 64
PREFIXES = (
    "AKI ASI ghp gho ghu ghs ghr git glp gld glr glc glf gls gla xox xap AIz GOC sk_ rk_ sk- hf_ npm pyp eyJ key dop "
    "doo dor shp dap"
)
# The last two letters of words for phone, and of "no", "number" behind them (contacts.DIALLED).
ENDINGS = "ne es el le on no ax ob il ll re dy sm lf fn uh pp nr um er rs"


def _classes() -> np.ndarray:
    """The bits DIGIT to IN_NUMBER of each byte, uint8[256]."""
    digits, upper = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    letters = upper + upper.lower()
    members = {
        DIGIT: digits,
        LETTER: letters,
        UPPER: upper,
        HEX: digits + "abcdefABCDEF",
        LOCAL: letters + digits + "_%+-",
    }
    members |= {IN_TOKEN: letters + digits + "_-", TRIGGER: digits + "@+-=(", IN_NUMBER: digits + " .-()/"}
    classes = np.zeros(256, np.uint8)
    for bit, characters in members.items():
        classes[np.frombuffer(characters.encode(), np.uint8)] |= bit
    classes[128:] |= IN_NUMBER
    return classes


def _packed(words: Iterable[str]) -> np.ndarray:
    return np.array(sorted(int.from_bytes(word.encode(), "little") for word in words), np.uint32)


CLASSES, FIRST_THREE, LAST_TWO = _classes(), _packed(PREFIXES.split()), _packed(ENDINGS.split())
BEGIN_MARK = np.frombuffer(b"-----BEGIN ", np.uint8)


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
    n = 0
    for d in range(len(offsets) - 1):
        text = data[offsets[d] : offsets[d + 1]]
        first = n
        n = _tokens(text, out, _marks(text, out, n))
        for row in range(first, min(n, len(out))):
            out[row, 0] = d
            out[row, 1] += offsets[d]
    return n


@njit
def _put(out, n, place, what):
    """Write row n, if there is room; the number of rows, written or not."""
    if n < len(out):
        out[n, 1], out[n, 2] = place, what
    return n + 1


@njit
def _marks(text, out, n):
    """All but tokens: what @ + - = ( and the first digit of a number stand for."""
    for i in range(len(text)):
        byte = text[i]
        if CLASSES[byte] & TRIGGER == 0:
            continue
        if CLASSES[byte] & DIGIT:
            if i == 0 or CLASSES[text[i - 1]] & DIGIT == 0:
                n = _number(text, i, out, n)
        elif byte == AT:
            begin = _local(text, i)
            if begin < i and i + 1 < len(text) and CLASSES[text[i + 1]] & (DIGIT | LETTER) and _has_dot(text, i + 1):
                n = _put(out, n, begin, EMAIL)
        elif byte == PLUS:
            before = i > 0 and CLASSES[text[i - 1]] & (DIGIT | LETTER)
            if (
                not before
                and i + 1 < len(text)
                and CLASSES[text[i + 1]] & DIGIT
                and _digits_ahead(text, i + 1) >= MIN_PHONE
            ):
                n = _put(out, n, i, PHONE)
        elif byte == OPEN:
            if (
                (i == 0 or CLASSES[text[i - 1]] & (DIGIT | LETTER) == 0)
                and _area_code(text, i)
                and _digits_ahead(text, i) >= MIN_PHONE
            ):
                n = _put(out, n, i, PHONE)
        elif byte == DASH:
            if (i == 0 or text[i - 1] != DASH) and stands(text, i, BEGIN_MARK):
                n = _put(out, n, i, KEY)
        elif byte == EQUALS:
            if i >= 3 and text[i - 1] == ord("y") and text[i - 2] == ord("e") and text[i - 3] == ord("K"):
                n = _put(out, n, i + 1, TOKEN)
    return n


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
    while i + 2 < len(text) and (CLASSES[text[i]] & (DIGIT | LETTER) or text[i] == DASH or text[i] == DOT):
        if text[i] == DOT and CLASSES[text[i + 1]] & (DIGIT | LETTER) == 0:
            return False
        if text[i] == DOT and CLASSES[text[i + 1]] & LETTER:
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
            n = _put(out, n, i - 2, IBAN)
        return n
    size = _run(text, i)
    # the rest of a fraction or an exponent
    tied = i > 0 and (text[i - 1] == DOT or text[i - 1] == DASH or text[i - 1] == PLUS)
    if size <= 3 and not tied and _four_parts(text, i):
        n = _put(out, n, i, IPV4)
    if i + 4 < len(text) and text[i + 4] == COLON and (text[i] == ord("2") or text[i] == ord("3")):
        n = _put(out, n, i, IPV6)
    tied |= i > 1 and text[i - 1] == SPACE and CLASSES[text[i - 2]] & DIGIT != 0  # the next of a row of numbers
    ahead = _digits_ahead(text, i)
    if ahead >= MIN_CARD - 1 and not tied and (size == 4 or MIN_CARD <= size <= 19) and ord("2") <= text[i] <= ord("6"):
        n = _put(out, n, i, CARD)
    if ahead >= MIN_PHONE and (not tied and (_national(text, i, size) or _grouped(text, i)) or _after_word(text, i)):
        n = _put(out, n, i, PHONE)
    return n


@njit
def _national(text, i, size):
    """Whether an area code with its 0 stands at text[i:], or the 1 of North America and three digits."""
    if text[i] == ZERO:
        return 2 <= size <= 5 and text[i + 1] != ZERO
    if size > 1 or text[i] != ZERO + 1:
        return False
    for gap in range(1, 5):
        if i + gap < len(text) and CLASSES[text[i + gap]] & DIGIT:
            return _run(text, i + gap) == 3
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
    if i < 2 or CLASSES[text[i - 1]] & LETTER == 0:
        return False
    last = np.uint32(text[i - 2] | 32) | np.uint32(text[i - 1] | 32) << np.uint32(8)
    for ending in LAST_TWO:
        if ending == last:
            return True
    return False


@njit
def _tokens(text, out, n):
    """Runs of at least MIN_TOKEN token characters cover a multiple of it: one byte in so many is looked at, and what is
    around."""
    end = 0
    for probe in range(0, len(text), MIN_TOKEN):
        if probe < end or CLASSES[text[probe]] & IN_TOKEN == 0:
            continue
        begin, end = probe, probe
        while begin > 0 and CLASSES[text[begin - 1]] & IN_TOKEN:
            begin -= 1
        while end < len(text) and CLASSES[text[end]] & IN_TOKEN:
            end += 1
        if end - begin >= MIN_TOKEN:
            place = _token_begin(text, begin, end)
            if place >= 0:
                n = _put(out, n, place, TOKEN)
    return n


@njit
def _token_begin(text, begin, end):
    """Where a token may begin that holds the run text[begin:end], or -1."""
    if begin >= 3 and text[begin - 1] == DOT and text[begin - 2] == ord("G") and text[begin - 3] == ord("S"):
        return begin - 3
    if begin >= 8 and text[begin - 1] == COLON:
        digits = begin - 1
        while digits > 0 and digits > begin - 12 and CLASSES[text[digits - 1]] & DIGIT:
            digits -= 1
        if digits < begin - 8:
            return digits
    if end < len(text) and text[end] == DOT and ord("M") <= text[begin] <= ord("O") and end - begin <= 28:
        return begin
    first = (
        np.uint32(text[begin])
        | np.uint32(text[begin + 1]) << np.uint32(8)
        | np.uint32(text[begin + 2]) << np.uint32(16)
    )
    for prefix in FIRST_THREE:
        if prefix == first:
            return begin
    return -1
