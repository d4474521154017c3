"""Texts as they are compared: what formats put between the same words is undone, in items and documents alike.

Escapes of JSON, Python and HTML are undone, tags and soft hyphens dropped, words joined that a hyphen parts at a line's
end, compatibility forms (full width, ligatures, superscripts) and combining marks folded as NFKC does; the letters and
numbers of options, and _ at a word's edge, are blank. No rule is right for every text, and none need be: what it does
to a formula's `\\nu` it does wherever the formula stands.

Every pass takes the bytes, where each byte began and ended in the text, and writes the same; without places (none in
`begins`) it is a pass over documents that mostly hold nothing of a suite.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.decontaminate.forms import FORMS, HYPHEN, MAP, MARK, next_hash
from pipelines.texts.characters import Strings, decode, encode, load8, longest, read_only, store8, utf8
from pipelines.texts.words import EVERY, HIGH

ROUNDS = 3  # escapes within escapes, as in a page's source in JSON
TAG_BYTES = 500  # a longer tag is none
NAME_BYTES = 32  # of an entity or a tag
SPARE = 16  # bytes more than texts have: eight are written at a time
BACKSLASH, AMPERSAND, LESS, GREATER, DASH = 92, 38, 60, 62, 45
LOW = ~HIGH
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # of what compiled code alone calls: a tenth less to make
ZERO = np.int64(0)  # a literal 0 is a type of its own to numba, which compiles what is called with it twice


def plain_batch(texts: Strings) -> tuple[np.ndarray, np.ndarray]:
    """The plain bytes of all texts, one behind the other, and their offsets, as `utf8` gives those of the texts."""
    data, offsets = utf8(texts)
    out, bounds = _plain(data, offsets, np.zeros((4, 0), np.int64))
    return read_only(out), read_only(bounds)


def plain_places(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plain bytes of one text, and where in it each of them begins and ends (int64)."""
    begins = np.arange(len(text))
    places = np.stack([begins, begins + 1, begins, begins])
    out, (_, n) = _plain(text, read_only(np.array([0, len(text)])), places)
    return read_only(out[:n]), places[2, :n], places[3, :n]


def _plain(data: np.ndarray, offsets: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out, bounds = np.empty(offsets[-1] - offsets[0] + SPARE, np.uint8), np.zeros(len(offsets), np.int64)
    _write_plain(data, offsets, FORMS, out, np.empty(longest(offsets) + SPARE, np.uint8), bounds, places)
    return out, bounds


@njit(cache=True, nogil=True)
def _write_plain(data, offsets, forms, out, spare, bounds, places):
    """Write the plain texts to out, and where they end to bounds. spare: room for as many bytes as a text has."""
    for d in range(len(offsets) - 1):
        text, mine = data[offsets[d] : offsets[d + 1]], out[bounds[d] :]
        n, rounds = _copy(text, spare), ROUNDS if has_escapes(text) else 0
        while rounds > 0:
            n, again = unescape(spare[:n], forms, mine, places)
            _copy(mine[:n], spare)
            for i in range(min(n, places.shape[1])):
                places[0, i], places[1, i] = places[2, i], places[3, i]
            rounds = rounds - 1 if again else 0
        n = smooth(spare[:n], forms, mine, places)
        blank_labels(mine[:n])
        bounds[d + 1] = bounds[d] + n


@inner
def _copy(text, out):
    for i in range(len(text)):
        out[i] = text[i]
    return len(text)


@inner
def has_escapes(text):
    """Whether a byte is \\ or &. Without an early exit the loop runs on many bytes at once."""
    is_there = np.uint8(0)
    for i in range(len(text)):
        is_there |= np.uint8(text[i] == BACKSLASH) | np.uint8(text[i] == AMPERSAND)
    return is_there > 0


@njit(inline="always")
def _equal(x, byte):
    """Bit 7 of each byte of x that is `byte`, of those below 128."""
    return ~((x & LOW ^ EVERY * np.uint64(byte)) + LOW | x) & HIGH


@inner
def unescape(text, forms, out, places):
    """Write the text with its escapes undone; its bytes, and whether what came out may be an escape again."""
    at, i, again, told = ZERO, ZERO, False, places.shape[1] > 0
    while i < len(text):
        if i + 8 <= len(text) and not told:
            x = load8(text, i)
            if _equal(x, BACKSLASH) | _equal(x, AMPERSAND) == 0:
                store8(out, at, x)
                at, i = at + 8, i + 8
                continue
        stop = min(i + 8, len(text))
        while i < stop:
            code, width = np.uint32(text[i]), 0
            if code == BACKSLASH:
                code, width = _backslashes(text, i)
            elif code == AMPERSAND:
                code, width = _entity(text, i, forms.entities, forms.codes)
            end = at
            if width == 0:
                out[at] = text[i]
                end, width = at + 1, 1
            elif code > 0:
                again |= code == AMPERSAND or code == BACKSLASH
                end = encode(code, out, at)
            if told:
                _place(places, at, end, i, i + width)
            at = end
            i += width
    return at, again


@inner
def _place(places, at, end, begin, stop):
    """Bytes at to end of what is written stem from begin to stop of what is read; a byte copied is itself."""
    for j in range(at, end):
        places[2, j], places[3, j] = places[0, begin], places[1, stop - 1]


@inner
def _backslashes(text, i):
    """Code point and width of the escape at i, however often its backslash is escaped; code 0: the backslashes go."""
    j = i
    while j < len(text) and text[j] == BACKSLASH:
        j += 1
    if j == len(text):
        return np.uint32(0), j - i
    letter = text[j]
    if letter == 110 or letter == 114:  # n, r
        return np.uint32(10), j + 1 - i
    if letter == 116 or letter == 98 or letter == 102 or letter == 118:  # t, b, f, v
        return np.uint32(32), j + 1 - i
    if letter == 117 or letter == 120 or letter == 85:  # u, x, U
        digits = 4 if letter == 117 else 2 if letter == 120 else 8
        code = _hex(text, j + 1, digits)
        if code >= 0:
            return _surrogates(text, j + 1 + digits, code, j + 1 + digits - i)
    if letter < 128 and not _is_word(letter) and letter > 32:
        return np.uint32(0), j - i  # Markdown's, LaTeX's and JSON's quotes: what follows stands for itself
    return np.uint32(32), j - i


@inner
def _surrogates(text, j, code, width):
    """The code point that `code` begins, with the other half of a pair at j; a space for what is none."""
    if 0xD800 <= code < 0xDC00:
        k = j
        while k < len(text) and text[k] == BACKSLASH:
            k += 1
        low = _hex(text, k + 1, 4) if k > j and k < len(text) and text[k] == 117 else np.int64(-1)
        if 0xDC00 <= low < 0xE000:
            return np.uint32(0x10000 + (code - 0xD800 << 10) + low - 0xDC00), width + k + 5 - j
    is_none = code < 32 or 0xD800 <= code < 0xE000 or code > 0x10FFFF
    return np.uint32(32 if is_none else code), width


@inner
def _hex(text, i, digits):
    """The number that so many hexadecimal digits spell, -1 where they are none."""
    total = np.int64(0)
    if i + digits > len(text):
        return np.int64(-1)
    for j in range(i, i + digits):
        digit = np.int64(text[j])
        if 48 <= digit < 58:
            total = total * 16 + digit - 48
        elif 97 <= digit | 32 < 103:
            total = total * 16 + (digit | 32) - 87
        else:
            return np.int64(-1)
    return total


@inner
def _entity(text, i, entities, codes):
    """Code point and width of the entity at i; width 0 where it is none."""
    j, hash, number = i + 1, ZERO, ZERO
    is_number = j < len(text) and text[j] == 35  # #
    is_hex = is_number and j + 1 < len(text) and text[j + 1] | 32 == 120
    j += is_number + is_hex
    first = j
    while j < len(text) and j < i + NAME_BYTES and _is_word(text[j]):
        digit = np.int64(text[j])
        digit = digit - 48 if digit < 58 else (digit | 32) - 87
        number = min(number * (16 if is_hex else 10) + digit, 1 << 32)
        hash = next_hash(hash, np.int64(text[j]))
        j += 1
    if j == first or j == len(text) or text[j] != 59:  # ;
        return np.uint32(0), 0
    if is_number:
        is_none = number < 32 or 0xD800 <= number < 0xE000 or number > 0x10FFFF
        return np.uint32(32 if is_none else number), j + 1 - i
    place = bisect(entities, hash)
    if place == len(entities) or entities[place] != hash:
        return np.uint32(0), 0
    return codes[place], j + 1 - i


@inner
def bisect(keys, key):
    """The place of the first of the ascending keys that is not below `key`."""
    first, end = 0, len(keys)
    while first < end:
        middle = (first + end) >> 1
        if keys[middle] < key:
            first = middle + 1
        else:
            end = middle
    return first


@inner
def _is_word(byte):
    """Whether the byte is a letter or a digit of ASCII."""
    return 48 <= byte < 58 or 97 <= byte | 32 < 123


@inner
def smooth(text, forms, out, places):
    """Write the text without tags, what is not seen, and hyphens at line ends, its characters folded; its bytes."""
    at, i, told = ZERO, ZERO, places.shape[1] > 0
    while i < len(text):
        if i + 8 <= len(text) and not told:
            x = load8(text, i)
            if x & HIGH | _equal(x, LESS) | _equal(x, DASH) == 0:
                store8(out, at, x)
                at, i = at + 8, i + 8
                continue
        stop = min(i + 8, len(text))
        while i < stop:
            byte, width = text[i], 0
            if not forms.leads[byte]:
                pass
            elif byte == LESS:
                width, parts = _tag(text, i, forms.tags, forms.parts)
                if width > 0 and parts:
                    out[at] = 10
                    if told:
                        _place(places, at, at + 1, i, i + width)
                    at += 1
            elif byte == DASH:
                width = _line_end(text, i, i + 1, out, at)
            else:
                code, size = decode(text, i)
                if forms.kinds[code] > 0:  # seldom: what many arguments a call has, it has to pass
                    at, width = _character(text, i, code, size, forms, out, at, places)
            if width == 0:
                out[at] = byte
                if told:
                    _place(places, at, at + 1, i, i + 1)
                at, width = at + 1, 1
            i += width
    return at


@inner
def _tag(text, i, tags, parts):
    """Width of the tag at i, 0 where it is none, and whether it parts words."""
    j, hash = i + 1, ZERO
    j += j < len(text) and text[j] == 47  # /
    first = j
    while j < len(text) and j < i + NAME_BYTES and _is_word(text[j]):
        hash = next_hash(hash, np.int64(text[j] | 32 if text[j] > 64 else text[j]))
        j += 1
    place = bisect(tags, hash)
    if j == first or place == len(tags) or tags[place] != hash:
        return 0, False
    is_bare, has_equal, end = True, False, min(len(text), i + TAG_BYTES)
    while j < end and text[j] != GREATER and text[j] != LESS:
        is_bare &= text[j] <= 32 or text[j] == 47
        has_equal |= text[j] == 61
        j += 1
    # what is no attribute is text: a <b and c> d
    is_tag = j < end and text[j] == GREATER and (is_bare or has_equal)
    return (j + 1 - i if is_tag else 0), parts[place]


@inner
def _line_end(text, i, j, out, at):
    """Bytes from the hyphen at i, which ends at j, to the rest of the word on the next line; 0 where there is none."""
    if at == 0 or not _is_letter(out[at - 1]):
        return 0
    lines = 0
    while j < len(text) and text[j] <= 32:
        lines += text[j] == 10
        j += 1
    is_rest = lines == 1 and j < len(text) and (text[j] >= 128 or 97 <= text[j] < 123)
    return j - i if is_rest else 0


@inner
def _is_letter(byte):
    return byte >= 128 or 97 <= byte | 32 < 123


@inner
def _character(text, i, code, width, forms, out, at, places):
    """Of the character at i, not of ASCII: the place behind what it becomes, and its width; 0 where it is itself."""
    kind = forms.kinds[code]
    if kind == MARK:
        last = at - 1
        while last > 0 and out[last] & 0xC0 == 0x80:
            last -= 1
        whole = _composed(out, last, code, forms) if last >= 0 else np.uint32(0)
        if whole == 0:
            return at, 0
        end = encode(whole, out, last)
        if places.shape[1] > 0:
            for j in range(last, end):
                places[2, j], places[3, j] = places[2, last], places[1, i + width - 1]
        return end, width
    if kind == HYPHEN:
        rest = _line_end(text, i, i + width, out, at)
        return (at, rest) if rest > 0 else (at, width if code == 0xAD else 0)
    first, packed = at, forms.mapped[code] if kind == MAP else np.uint32(0)
    while packed > 0:
        out[at] = packed & np.uint32(255)
        packed >>= np.uint32(8)
        at += 1
    if places.shape[1] > 0:
        _place(places, first, at, i, i + width)
    return at, width


@inner
def _composed(out, last, mark, forms):
    """What the character at out[last] is together with a mark, 0 where it takes none."""
    base = np.uint32(out[last])
    if base >= 128:
        base, _ = decode(out, last)
    if 0x1100 <= base < 0x1113 and 0x1161 <= mark < 0x1176:
        return np.uint32(0xAC00 + ((base - 0x1100) * 21 + mark - 0x1161) * 28)
    if 0xAC00 <= base < 0xD7A4 and 0x11A8 <= mark < 0x11C3:
        return np.uint32(base + mark - 0x11A7 if (base - 0xAC00) % 28 == 0 else 0)
    key = np.int64(base) << 21 | np.int64(mark)
    place = bisect(forms.pairs, key)
    return forms.composed[place] if place < len(forms.pairs) and forms.pairs[place] == key else np.uint32(0)


@inner
def blank_labels(text):
    """Write a space for the letter or number of an option, as in (a) b. 3: [D], and for each _ at a word's edge."""
    i = margin = ZERO  # nothing but marks stands between margin's line's beginning and margin
    while i < len(text):
        if i + 8 <= len(text):
            x = load8(text, i)
            ends = _equal(x, 46) | _equal(x, 41) | _equal(x, 10) | _equal(x, 58) | _equal(x, 93) | _equal(x, 95)
            if ends == 0:
                i += 8
                continue
        stop = min(i + 8, len(text))
        while i < stop:
            if text[i] == 95:
                i = _blank_edge(text, i)
                continue
            if i > 0 and not _is_word(text[i]) and _is_label(text, i - 1, margin):
                margin = i if text[i - 1] < 58 and (text[i] == 46 or text[i] == 58) else margin
                text[i - 1] = 32
            i += 1


@inner
def _blank_edge(text, i):
    """Blank the run of _ that begins at i where it stands at the edge of a word or between two; the place behind it."""
    j = i
    while j < len(text) and text[j] == 95:
        j += 1
    if i == 0 or _is_edge(text, i - 1) or j == len(text) or _is_edge(text, j):
        for k in range(i, j):
            text[k] = 32
    return j


@inner
def _is_edge(text, i):
    """Whether no word goes on at byte i; general punctuation (U+2000 to U+203F) is all of what is not ASCII here."""
    if text[i] < 128:
        return not _is_word(text[i]) and text[i] != 95
    first = i
    while first > 0 and text[first] & 0xC0 == 0x80:
        first -= 1
    return text[first] == 0xE2 and first + 1 < len(text) and text[first + 1] == 0x80


@inner
def _is_label(text, i, margin):
    """Whether the letter or digit at i stands for an option: what opens it before, what closes it behind, and no word
    after that; a number with a full stop or colon only where a line begins, as it ends sentences elsewhere."""
    is_digit = 48 < text[i] < 58
    if not is_digit and not 97 <= text[i] | 32 < 107:
        return False
    before, after = text[i - 1] if i > 0 else np.uint8(10), text[i + 1]
    if after == 10:
        return before == 10 and not is_digit
    stop = after == 46 or after == 58  # . :
    if not stop and after != 41 and after != 93:  # ) ]
        return False
    is_open = before == 40 or before == 91  # ( [
    if not (is_open or before <= 32 or before == 42 or before == 124):  # * |
        return False
    if is_open and i > 1 and not _is_edge(text, i - 2):  # f(a), x[1]
        return False
    if i + 2 < len(text) and (_is_word(text[i + 2]) or text[i + 2] == 95):
        return False
    return not (stop and is_digit) or _begins_line(text, i, margin)


@inner
def _begins_line(text, i, margin):
    """Whether nothing but blanks and marks of lists stands before byte i in its line, as before the margin: of many
    numbers in a line the next is looked at from the last on."""
    j = i - 1
    while j >= margin and text[j] != 10 and text[j] < 128 and not _is_word(text[j]):
        j -= 1
    return j < margin or text[j] == 10
