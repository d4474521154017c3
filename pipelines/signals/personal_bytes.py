"""What bytes, and the last bytes of words, mean to the scan for personal data (see `personal_scan`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numba import njit

from pipelines.signals import passwords, phones

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


@njit
def put(out, n, place, what):
    """Write row n, if there is room; the number of rows, written or not."""
    if n < len(out):
        out[n, 1], out[n, 2] = place, what
    return n + 1


@njit
def meaning_of(text, i):
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
def last_four(text, i):
    """The four bytes before text[i], i > 3, big-endian, each with 32 set."""
    high = np.uint32(text[i - 4] | 32) << np.uint32(24) | np.uint32(text[i - 3] | 32) << np.uint32(16)
    return np.uint32(high | np.uint32(text[i - 2] | 32) << np.uint32(8) | np.uint32(text[i - 1] | 32))


@njit(inline="always")
def ends_assigned(four):
    """Whether these may be the last four bytes of a word for a password or a key."""
    short = four & 0xFFFFFF
    return ASSIGNED[np.uint32(four * np.uint32(HASH)) >> np.uint32(20)] or short == WORD_KEY or short == WORD_PWD


@njit(inline="always")
def is_quote(byte):
    return byte == ord('"') or byte == ord("'") or byte == ord("`")


@njit(inline="always")
def in_label(byte):
    return CLASSES[byte] & (DIGIT | LETTER) != 0 or byte >= 128
