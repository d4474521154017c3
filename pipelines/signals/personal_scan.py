"""The compiled scan for personal data: the few places of a text where something may begin.

One pass over the bytes names an @ between letters, digits enough for a phone number, -----BEGIN, a long run of token
characters that begins as a provider's do, what stands behind the = or : of a word that ends as those for passwords and
keys do. It may name too many places, never too few. It looks at a bounded neighbourhood of each byte, so that hostile
text costs time in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numba import njit

from pipelines.signals import passwords, phones
from pipelines.texts.find import stands

# rows of personal.FINDERS
KEY, TOKEN, SECRET, PASSWORD, URL_PASSWORD, IBAN, CARD, EMAIL, IPV4, IPV6, PHONE = range(11)
DIGIT, LETTER, UPPER, HEX, LOCAL, IN_TOKEN, IN_NUMBER = (1 << bit for bit in range(7))
AT, DOT, COLON, DASH, PLUS, EQUALS, OPEN, CLOSE, ZERO, SPACE = (ord(character) for character in "@.:-+=()0 ")
SLASH, GREATER, EIGHT, WIDE_COLON = ord("/"), ord(">"), ord("8"), 0x9A  # the last byte of a full-width colon
MIN_TOKEN, MIN_PHONE, NUMBER_BYTES, MIN_CARD, LOCAL_BYTES = 20, 7, 48, 14, 64
MIN_SECRET, MIN_PASSWORD, VALUE_BYTES, URL_BYTES = 16, 6, 200, 300
PREFIXES = (
    "AKI ASI ABI ACC ghp gho ghu ghs ghr git glp gld glr glc glf gli glo gls gla xox xap AIz GOC sk_ rk_ sk- hf_ npm "
    "pyp eyJ key dop doo dor shp dap sq0 AKC gsk lin AGE NRA psc dck PuT"
)
# What ends a word: the bits of a phone's, of a password's and of a key's; SAID joins such a word and a number.
OF_PHONE, OF_PASSWORD, OF_KEY, SAID = 1, 2, 4, 8


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
    members |= {IN_TOKEN: letters + digits + "_-", IN_NUMBER: digits + " .-()/"}
    classes = np.zeros(256, np.uint8)
    for bit, characters in members.items():
        classes[np.frombuffer(characters.encode(), np.uint8)] |= bit
    classes[128:] |= IN_NUMBER
    return classes


def _endings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last four bytes of all words, big-endian, each with 32 set: where those begin that end in two bytes
    (int16[65536], -1 if none does), the four (uint32, less of a shorter word), and what each means (uint8)."""
    groups = (
        (
            OF_PHONE,
            [*phones.WORDS, *phones.JOINED_WORDS, *phones.WEAK_WORDS, *phones.WEAK_PHRASES, *phones.NUMBER_WORDS],
        ),
        (OF_PASSWORD, [*passwords.PASSWORD_WORDS, "pass"]),
        (OF_KEY, passwords.KEY_WORDS),
        (SAID, phones.SAID),
    )
    known: dict[int, int] = {}
    for bit, words in groups:
        for word in {*words, *map(str.upper, words)}:
            ending = int.from_bytes(bytes(byte | 32 for byte in word.encode()[-4:]), "big")
            known[ending] = known.get(ending, 0) | bit
    order = sorted(known, key=lambda ending: (ending & 0xFFFF, ending))
    starts = np.full(1 << 16, -1, np.int16)
    for i, ending in reversed(list(enumerate(order))):
        starts[ending & 0xFFFF] = i
    return starts, np.array(order, np.uint32), np.array([known[ending] for ending in order], np.uint8)


def _marks_and_before() -> tuple[np.ndarray, np.ndarray]:
    """Of each byte what it is a mark of, and of which marks it may stand before: uint8[256] twice. A bit a condition:
    always; no digit before; a letter that ends a word, or what stands behind one; such a letter; the two other bytes of
    a full-width colon; neither letter nor digit; a dash."""
    seen, before = np.zeros(256, np.uint8), np.ones(256, np.uint8)
    letters = np.zeros(256, np.bool_)
    letters[[code(ending & 255) for ending in ENDINGS.tolist() for code in (int, lambda byte: byte & ~32)]] = True
    alnum = CLASSES & (DIGIT | LETTER) != 0
    closing = np.isin(np.arange(256), np.frombuffer(b" \t\"'`])*!", np.uint8))
    conditions = (
        (b"0123456789", CLASSES & DIGIT == 0),
        (b":=", letters | closing | (np.arange(256) > 127)),
        (b">", letters),
        (bytes([WIDE_COLON]), np.arange(256) == 0xBC),
        (b"+", ~alnum),
        (b"-", np.arange(256) == DASH),
    )
    seen[np.frombuffer(b"@(", np.uint8)] = 1
    for bit, (marks, which) in enumerate(conditions, 1):
        seen[np.frombuffer(marks, np.uint8)] = 1 << bit
        before[which] |= 1 << bit
    return seen, before


def _packed(words: Iterable[str], order: Literal["little", "big"] = "little") -> np.ndarray:
    return np.array(sorted(int.from_bytes(word.encode(), order) for word in words), np.uint32)


CLASSES, FIRST_THREE = _classes(), _packed(PREFIXES.split())
STARTS, ENDINGS, MEANINGS = _endings()
HASH = 2654435761  # Knuth's, of 32 bits
ASSIGNED = np.zeros(1 << 12, np.bool_)  # by a hash of the last four bytes of words for passwords and keys
ASSIGNED[[(ending * HASH & 0xFFFFFFFF) >> 20 for ending in ENDINGS[MEANINGS & (OF_PASSWORD | OF_KEY) > 0].tolist()]] = (
    True
)
WORD_KEY, WORD_PWD = (int.from_bytes(word, "big") for word in (b"key", b"pwd"))
BETWEEN = np.isin(np.arange(256), np.frombuffer(b" \t\"'`[])*0123456789", np.uint8))
SEEN, BEHIND = _marks_and_before()
MARKS = 4096  # bytes whose marks are kept at a time
SCHEMES = _packed(("arer", "asic", "oken", "ikey"), "big")
BEGIN_MARK, BEGIN_SSH2 = (np.frombuffer(mark, np.uint8) for mark in (b"-----BEGIN ", b"---- BEGIN "))


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
        n = _tokens(text, out, n)
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
            kept += _may_assign(text, i)
        else:
            kept += 1
    return kept


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


@njit(inline="always")
def _may_assign(text, i):
    """Whether a word for a password or a key may stand before text[i], a quote or a space between."""
    if i < 5:
        return True
    end = i if CLASSES[text[i - 1]] & LETTER else i - 1
    if CLASSES[text[end - 1]] & LETTER == 0:
        return text[end - 1] >= 128 or BETWEEN[text[end - 1]]
    return _ends_assigned(_last_four(text, end))


@njit(inline="always")
def _last_four(text, i):
    """The four bytes before text[i], i > 3, big-endian, each with 32 set."""
    high = np.uint32(text[i - 4] | 32) << np.uint32(24) | np.uint32(text[i - 3] | 32) << np.uint32(16)
    return np.uint32(high | np.uint32(text[i - 2] | 32) << np.uint32(8) | np.uint32(text[i - 1] | 32))


@njit(inline="always")
def _ends_assigned(four):
    """Whether these may be the last four bytes of a word for a password or a key."""
    short = four & 0xFFFFFF
    return ASSIGNED[np.uint32(four * np.uint32(HASH)) >> np.uint32(20)] or short == WORD_KEY or short == WORD_PWD


@njit
def _mark(text, i, out, n):
    """What the byte at text[i] stands for."""
    byte = text[i]
    if CLASSES[byte] & DIGIT:
        return _number(text, i, out, n)
    if byte == AT:
        begin = _local(text, i)
        if begin < i and i + 1 < len(text) and _in_label(text[i + 1]) and _has_dot(text, i + 1):
            n = _put(out, n, begin, EMAIL)
        begin = _url_password(text, i)
        return _put(out, n, begin, URL_PASSWORD) if begin >= 0 else n
    if byte == PLUS:
        is_number = i + 1 < len(text) and CLASSES[text[i + 1]] & DIGIT and _digits_ahead(text, i + 1) >= MIN_PHONE
        return _put(out, n, i, PHONE) if is_number else n
    if byte == OPEN:
        before = i > 0 and CLASSES[text[i - 1]] & (DIGIT | LETTER)
        if not before and _area_code(text, i) and _digits_ahead(text, i) >= MIN_PHONE:
            n = _put(out, n, i, PHONE)
    elif byte == DASH:
        if (i < 2 or text[i - 2] != DASH) and (stands(text, i - 1, BEGIN_MARK) or stands(text, i - 1, BEGIN_SSH2)):
            n = _put(out, n, i - 1, KEY)
        return _option(text, i, out, n) if i + 1 < len(text) and CLASSES[text[i + 1]] & LETTER else n
    return _separated(text, i, out, n) if i > 2 else n


@njit
def _separated(text, i, out, n):
    """What is assigned by the : = ( > at text[i], or by the full-width colon whose last byte that is, if a word for a
    password or a key stands before it, a few marks between."""
    end = i
    if text[i] == WIDE_COLON:
        end = i - 2
    elif text[i - 1] == ord("!"):
        end = i - 1
    for _ in range(14):
        byte = text[end - 1]
        if end < 3 or not BETWEEN[byte]:
            break
        end -= 1
    meaning = _meaning(text, end)
    if text[i] == EQUALS and end == i and text[i - 1] == ord("y") and text[i - 3] == ord("K"):
        n = _put(out, n, i + 1, TOKEN)  # AccountKey=
    return _value(text, _value_begin(text, i), meaning, out, n) if meaning & (OF_PASSWORD | OF_KEY) else n


@njit(inline="always")
def _in_label(byte):
    return CLASSES[byte] & (DIGIT | LETTER) != 0 or byte >= 128


@njit
def _url_password(text, at):
    """Where the password before the @ of a URL begins, or -1."""
    i, begin = at - 1, -1
    while i > 1 and at - i < URL_BYTES:
        byte = text[i]
        if byte <= SPACE or byte == AT or byte == ord('"') or byte == ord("'") or byte == GREATER:
            return -1
        if byte == COLON:
            if begin >= 0:
                return -1
            begin = i + 1
        if byte == SLASH:
            return begin if text[i - 1] == SLASH and text[i - 2] == COLON else -1
        i -= 1
    return -1


@njit
def _meaning(text, i):
    """What the word before text[i] may mean; a short word for phone stands alone."""
    row = STARTS[(np.uint32(text[i - 2]) | 32) << 8 | (np.uint32(text[i - 1]) | 32)] if i > 1 else np.int16(-1)
    if row < 0:
        return 0
    last, meaning = np.uint32(0), 0
    for j in range(max(i - 4, 0), i):
        last = last << np.uint32(8) | np.uint32(text[j] | 32)
    while row < len(ENDINGS) and ENDINGS[row] & 0xFFFF == last & 0xFFFF:
        size = 4 if ENDINGS[row] > 0xFFFFFF else 3 if ENDINGS[row] > 0xFFFF else 2
        if ENDINGS[row] == last & np.uint32((1 << 8 * size) - 1):
            alone = i == size or CLASSES[text[i - size - 1]] & LETTER == 0
            meaning |= MEANINGS[row] if size == 4 or alone else MEANINGS[row] & ~OF_PHONE
        row += 1
    return meaning


@njit(inline="always")
def _is_quote(byte):
    return byte == ord('"') or byte == ord("'") or byte == ord("`")


@njit
def _value_begin(text, at):
    """Where what is assigned begins, behind spaces, marks of a string and its quote."""
    i = at + 1
    while i < len(text) and i < at + 3 and (text[i] == EQUALS or text[i] == GREATER):
        i += 1
    while i < len(text) and i < at + 10:
        byte = text[i]
        if byte == SPACE or byte == 9 or byte == ord("*") or byte == 0xC2 or byte == 0xA0:
            i += 1
        else:
            break
    for prefix in range(3):
        if i + prefix < len(text) and _is_quote(text[i + prefix]):
            return i + prefix + 1
    return i


@njit
def _value(text, begin, meaning, out, n):
    """Name the place, if what begins there is long enough and has a digit or a mark of passwords."""
    end, has_digit, has_mark, opaque = begin, False, False, 0
    while end < len(text) and end - begin < VALUE_BYTES:
        byte = text[end]
        if byte <= SPACE or byte >= 127 or _is_quote(byte):
            break
        has_digit |= CLASSES[byte] & DIGIT != 0
        has_mark |= CLASSES[byte] & IN_TOKEN == 0
        if CLASSES[byte] & IN_TOKEN or byte == PLUS or byte == SLASH or byte == DOT or byte == EQUALS or byte == 126:
            opaque += opaque == end - begin
        end += 1
    if meaning & OF_PASSWORD and end - begin >= MIN_PASSWORD and (has_digit or has_mark):
        n = _put(out, n, begin, PASSWORD)
    if meaning & OF_KEY and opaque >= MIN_SECRET and has_digit:
        n = _put(out, n, begin, SECRET)
    return n


@njit
def _option(text, at, out, n):
    """What stands behind --password and its like: text[at] is the second dash or a later one."""
    end = at + 1
    while end < len(text) and end - at < 32 and (CLASSES[text[end]] & LETTER or text[end] == DASH):
        end += 1
    if end < len(text) and text[end] == SPACE and end > at + 3:
        return _value(text, end + 1, _meaning(text, end), out, n)
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
    while i + 2 < len(text) and (_in_label(text[i]) or text[i] == DASH or text[i] == DOT):
        if text[i] == DOT and not _in_label(text[i + 1]):
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
    meaning = _meaning(text, i)
    if meaning & SAID and not meaning & OF_PHONE:  # is, ist
        while i > 0 and CLASSES[text[i - 1]] & LETTER:
            i -= 1
        meaning = _meaning(text, i - 1) if i > 0 and text[i - 1] < 128 else OF_PHONE
        if i > 1 and text[i - 2] >= 128:
            return True
    return meaning & OF_PHONE != 0


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
            if _after_scheme(text, begin):
                n = _put(out, n, begin, SECRET)
            place = _token_begin(text, begin, end)
            if place >= 0:
                n = _put(out, n, place, KEY if text[place] == ord("P") and text[place + 2] == ord("T") else TOKEN)
            place = _hook_begin(text, begin)
            if place >= 0:
                n = _put(out, n, place, TOKEN)
    return n


@njit
def _after_scheme(text, begin):
    """Whether Bearer, Basic, Token or ApiKey stands before it, by its last letters."""
    if begin < 7 or text[begin - 1] != SPACE:
        return False
    last, end = np.uint32(0), begin - 1 if text[begin - 2] != SPACE else begin - 2
    for i in range(end - 4, end):
        last = last << np.uint32(8) | np.uint32(text[i] | 32)
    for scheme in SCHEMES:
        if scheme == last:
            return True
    return False


@njit
def _token_begin(text, begin, end):
    """Where a token may begin that holds the run text[begin:end], or -1."""
    if begin >= 3 and text[begin - 1] == DOT:
        place = _dotted_begin(text, begin)
        if place >= 0:
            return place
    if begin >= 8 and text[begin - 1] == COLON:
        digits = begin - 1
        while digits > 0 and digits > begin - 12 and CLASSES[text[digits - 1]] & DIGIT:
            digits -= 1
        if digits < begin - 8:
            return digits
    if end < len(text) and text[end] == DOT and ord("M") <= text[begin] <= ord("O") and end - begin <= 28:
        return begin
    if end - begin >= 34 and (text[begin] == ord("A") and text[begin + 1] == ord("C") or text[begin] == ord("S")):
        return begin  # Twilio's
    if end - begin >= 36 and text[begin + 32] == DASH and text[begin + 33] == ord("u"):
        return begin  # Mailchimp's
    first = (
        np.uint32(text[begin])
        | np.uint32(text[begin + 1]) << np.uint32(8)
        | np.uint32(text[begin + 2]) << np.uint32(16)
    )
    for prefix in FIRST_THREE:
        if prefix == first:
            return begin
    return -1


@njit
def _dotted_begin(text, begin):
    """Where SG. hvs. ya29. dp.pt. or a token with .atlasv1. begins whose last part is at begin, or -1."""
    last = text[begin - 2]
    if last == ord("G") and text[begin - 3] == ord("S"):
        return begin - 3
    if begin >= 4 and last == ord("s") and text[begin - 3] == ord("v"):
        return begin - 4
    if begin >= 5 and last == ord("9") and text[begin - 3] == ord("2"):
        return begin - 5
    if begin >= 6 and last == ord("t") and text[begin - 3] == ord("p"):
        return begin - 6
    if begin >= 23 and last == ord("1") and text[begin - 3] == ord("v"):
        return begin - 23
    return -1


@njit
def _hook_begin(text, begin):
    """Where the https:// of a webhook or of a workflow begins whose secret is at begin, or -1."""
    if begin < 20 or text[begin - 1] != SLASH and text[begin - 1] != EQUALS:
        return -1
    i, seen = begin - 1, False
    while i >= 7 and begin - i < 400 and text[i] > SPACE and text[i] < 127 and not _is_quote(text[i]):
        if text[i] == ord("o") and text[i + 1] == ord("o") and text[i - 1] == ord("h"):
            seen = True  # hook
        if text[i] == ord("k") and text[i + 1] == ord("f") and text[i - 1] == ord("r"):
            seen = True  # workflows
        if text[i] == SLASH and text[i - 1] == SLASH and text[i - 2] == COLON:
            return i - 7 if seen and text[i - 3] == ord("s") else -1
        i -= 1
    return -1
