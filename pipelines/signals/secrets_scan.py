"""Of the scan for personal data: where keys, tokens and passwords may begin (see `personal_scan`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.signals.personal_bytes import (
    AT,
    BETWEEN,
    CLASSES,
    COLON,
    DASH,
    DIGIT,
    DOT,
    EQUALS,
    FIRST_THREE,
    GREATER,
    IN_TOKEN,
    KEY,
    LETTER,
    MIN_PASSWORD,
    MIN_SECRET,
    MIN_TOKEN,
    OF_KEY,
    OF_PASSWORD,
    PASSWORD,
    PLUS,
    SCHEMES,
    SECRET,
    SLASH,
    SPACE,
    TOKEN,
    URL_BYTES,
    VALUE_BYTES,
    WIDE_COLON,
    ends_assigned,
    is_quote,
    last_four,
    meaning_of,
    put,
)


@njit
def assigned(text, i, out, n):
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
    meaning = meaning_of(text, end)
    if text[i] == EQUALS and end == i and text[i - 1] == ord("y") and text[i - 3] == ord("K"):
        n = put(out, n, i + 1, TOKEN)  # AccountKey=
    return _value(text, _value_begin(text, i), meaning, out, n) if meaning & (OF_PASSWORD | OF_KEY) else n


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
        if i + prefix < len(text) and is_quote(text[i + prefix]):
            return i + prefix + 1
    return i


@njit
def _value(text, begin, meaning, out, n):
    """Name the place, if what begins there is long enough and has a digit or a mark of passwords."""
    end, has_digit, has_mark, opaque = begin, False, False, 0
    while end < len(text) and end - begin < VALUE_BYTES:
        byte = text[end]
        if byte <= SPACE or byte >= 127 or is_quote(byte):
            break
        has_digit |= CLASSES[byte] & DIGIT != 0
        has_mark |= CLASSES[byte] & IN_TOKEN == 0
        if CLASSES[byte] & IN_TOKEN or byte == PLUS or byte == SLASH or byte == DOT or byte == EQUALS or byte == 126:
            opaque += opaque == end - begin
        end += 1
    if meaning & OF_PASSWORD and end - begin >= MIN_PASSWORD and (has_digit or has_mark):
        n = put(out, n, begin, PASSWORD)
    if meaning & OF_KEY and opaque >= MIN_SECRET and has_digit:
        n = put(out, n, begin, SECRET)
    return n


@njit
def option(text, at, out, n):
    """What stands behind --password and its like: text[at] is the second dash or a later one."""
    end = at + 1
    while end < len(text) and end - at < 32 and (CLASSES[text[end]] & LETTER or text[end] == DASH):
        end += 1
    if end < len(text) and text[end] == SPACE and end > at + 3:
        return _value(text, end + 1, meaning_of(text, end), out, n)
    return n


@njit(inline="always")
def may_assign(text, i):
    """Whether a word for a password or a key may stand before text[i], a quote or a space between."""
    if i < 5:
        return True
    end = i if CLASSES[text[i - 1]] & LETTER else i - 1
    if CLASSES[text[end - 1]] & LETTER == 0:
        return text[end - 1] >= 128 or BETWEEN[text[end - 1]]
    return ends_assigned(last_four(text, end))


@njit
def url_password(text, at):
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
def tokens(text, out, n):
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
                n = put(out, n, begin, SECRET)
            place = _token_begin(text, begin, end)
            if place >= 0:
                n = put(out, n, place, KEY if text[place] == ord("P") and text[place + 2] == ord("T") else TOKEN)
            place = _hook_begin(text, begin)
            if place >= 0:
                n = put(out, n, place, TOKEN)
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
    while i >= 7 and begin - i < 400 and text[i] > SPACE and text[i] < 127 and not is_quote(text[i]):
        if text[i] == ord("o") and text[i + 1] == ord("o") and text[i - 1] == ord("h"):
            seen = True  # hook
        if text[i] == ord("k") and text[i + 1] == ord("f") and text[i - 1] == ord("r"):
            seen = True  # workflows
        if text[i] == SLASH and text[i - 1] == SLASH and text[i - 2] == COLON:
            return i - 7 if seen and text[i - 3] == ord("s") else -1
        i -= 1
    return -1
