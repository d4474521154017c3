"""Text statistics: the signals of Gopher (2112.11446), C4 (1910.10683) and FineWeb (2406.17557), in one compiled pass.

Published code disagrees on almost every one of them (datatrove's words are spaCy's and keep 26 % of technical text
where the paper's keep 75 %), so these are the definitions here:

character  a Unicode code point; ink is every character that is not white space (str.isspace)
piece      what str.split() gives: a run of ink
word       a piece with a letter or digit (str.isalnum), so that "--" and "=>" are pieces but not words
line       what remains of a piece between \\n after stripping white space, if anything
paragraph  lines with no blank line between them
sentence   an end: . ! ? … ؟ । and closing quotes or brackets before white space or the end; or a run of 。！？ anywhere

Repetition counts repeats only, never the first copy, and in ink: a fraction is repeated ink / ink, so it does not
depend on indentation and reaches 1. (datatrove's divides words joined without spaces by the length with spaces.)
Two lines, paragraphs or n-grams are equal when their pieces are, case included, by 64-bit hashes: a false
repeat among a million of them has a chance of 3e-8. Every fraction of nothing is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals.characters import IS_ALNUM, IS_LETTER, IS_SPACE, Strings, decode, longest, mix64, table, utf8
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.measure import Context

COLUMNS = (
    Column("n_chars", "int", "Unicode code points"),
    Column("n_lines", "int", "lines that are not blank"),
    Column("n_words", "int", "white-space words with a letter or digit"),
    Column("n_sentences", "int", "sentence ends"),
    Column("mean_word_len", "double", "characters of a word, on average"),
    Column("hash_ratio", "double", "# characters / words"),
    Column("ellipsis_ratio", "double", "ellipses (... or …) / words"),
    Column("bullet_line_frac", "double", "lines that begin with -, * or • / lines"),
    Column("ellipsis_line_frac", "double", "lines that end in ... or … / lines"),
    Column("alpha_word_frac", "double", "pieces with a letter / pieces (words and what is not a word)"),
    Column("stop_words", "int", "how many of the, be, to, of, and, that, have, with occur, in any case"),
    Column("dup_line_frac", "double", "lines that repeat an earlier one / lines"),
    Column("dup_line_char_frac", "double", "their ink / ink"),
    Column("dup_para_frac", "double", "paragraphs that repeat an earlier one / paragraphs"),
    Column("dup_para_char_frac", "double", "their ink / ink"),
    *(Column(f"top_{n}gram_char_frac", "double", f"ink of all copies of the commonest {n}-gram / ink, at most 1") for n in (2, 3, 4)),
    *(Column(f"dup_{n}gram_char_frac", "double", f"ink of repeated {n}-grams that do not overlap / ink") for n in range(5, 11)),
    Column("line_end_punct_frac", "double", "lines that end in punctuation / lines"),
    Column("short_line_frac", "double", "lines of fewer than 30 characters / lines"),
    Column("newline_ratio", "double", "newlines / words"),
    Column("curly_braces", "int", "{ characters"),
    Column("lorem_ipsum", "int", "occurrences of lorem ipsum, in any case"),
)

SHORT_LINE_CHARS = 30  # FineWeb
SPACE, LETTER, ALNUM, LINE_END, SENTENCE_END, WIDE_END, CLOSING, COUNTED = (1 << bit for bit in range(8))
DOT, HASH, BRACE, NEWLINE, ELLIPSIS = (ord(character) for character in ".#{\n…")
MULTIPLIER = np.uint64(0x100000001B3)  # FNV-1a's, per code point of a piece
COMBINE = np.uint64(0x9E3779B97F4A7C15)  # of polynomials over pieces


def _classes() -> np.ndarray:
    """The bits above, uint8[code point]."""
    classes = table(IS_SPACE, SPACE) | table(IS_LETTER, LETTER) | table(IS_ALNUM, ALNUM)
    marks = {LINE_END: ".!?…\"'”’。！？؟।", SENTENCE_END: ".!?…؟।", WIDE_END: "。！？", CLOSING: "\"')]}”’»", COUNTED: "#{.…"}
    for bit, characters in marks.items():
        for character in characters:
            classes[ord(character)] |= bit
    return classes


def _stop_table() -> np.ndarray:
    """The eight words of Gopher, packed by `_short_word`, each at its remainder: uint32[smallest length without collisions]."""
    words = [int.from_bytes(word.encode(), "little") for word in ("the", "be", "to", "of", "and", "that", "have", "with")]
    length = next(n for n in range(len(words), 1000) if len({word % n for word in words}) == len(words))
    stop = np.zeros(length, np.uint32)
    stop[np.array(words) % length] = words
    return stop


CLASSES = _classes()
STOP_WORDS = _stop_table()
LOREM, IPSUM = (np.frombuffer(word, np.uint8) for word in (b"lorem", b"ipsum"))

COUNTS = np.dtype([(name, np.int64) for name in (
    "chars", "ink", "pieces", "words", "word_ink", "letter_pieces", "newlines", "sentences", "stop_words", "lorem_ipsum",
    "hashes", "braces", "ellipses", "lines", "bullet_lines", "ellipsis_lines", "ended_lines", "short_lines",
    "dup_lines", "dup_line_ink", "paragraphs", "dup_paragraphs", "dup_paragraph_ink",
)] + [("top", np.int64, 3), ("dup", np.int64, 6)])  # fmt: skip


class Scratch(NamedTuple):
    """Arrays for the pieces of the longest document of a batch; pages that are not reached are never touched."""

    hash: np.ndarray  # uint64, of the piece
    begin: np.ndarray  # int64, its first byte
    end: np.ndarray  # int64, the byte after it
    char: np.ndarray  # int64, characters before it
    ink: np.ndarray  # int64, ink before it; one more than pieces
    row: np.ndarray  # int64, newlines before it
    kind: np.ndarray  # uint8, classes of all its characters
    last: np.ndarray  # uint8, classes of its last character
    key: np.ndarray  # uint64, of lines, paragraphs, n-grams in turn
    size: np.ndarray  # int64, ink of lines and paragraphs; of n-grams: whether met
    place: np.ndarray  # int64, row of a line; piece where an n-gram begins
    first: np.ndarray  # int32, index of the first equal key
    copies: np.ndarray  # int32, at that index: how many keys are equal
    slots: np.ndarray  # int32, hash table of indices


def _scratch(longest_bytes: int) -> Scratch:
    """Room for the most pieces that so many bytes can hold: every other byte one."""
    n = longest_bytes // 2 + 2
    types = {"hash": np.uint64, "key": np.uint64, "kind": np.uint8, "last": np.uint8, "first": np.int32, "copies": np.int32}
    arrays = {name: np.empty(n, types.get(name, np.int64)) for name in Scratch._fields if name != "slots"}
    return Scratch(**arrays, slots=np.empty(2 << n.bit_length(), np.int32))


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    data, offsets = utf8(texts)
    counts = np.zeros(len(texts), COUNTS)
    _count_batch(data, offsets, CLASSES, _scratch(longest(offsets)), counts)
    values = _signals(counts)
    types = {"int": pa.int32(), "double": pa.float64()}
    return [pa.array(values[column.name]).cast(types[column.type]) for column in COLUMNS]


def _signals(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Counts to signals: here stands what is divided by what."""
    ink, pieces, words, lines, paragraphs = (np.maximum(counts[name], 1) for name in ("ink", "pieces", "words", "lines", "paragraphs"))
    top = {f"top_{n}gram_char_frac": np.minimum(counts["top"][:, n - 2] / ink, 1.0) for n in (2, 3, 4)}
    dup = {f"dup_{n}gram_char_frac": counts["dup"][:, n - 5] / ink for n in range(5, 11)}
    return top | dup | {
        "n_chars": counts["chars"],
        "n_lines": counts["lines"],
        "n_words": counts["words"],
        "n_sentences": counts["sentences"],
        "mean_word_len": counts["word_ink"] / words,
        "hash_ratio": counts["hashes"] / words,
        "ellipsis_ratio": counts["ellipses"] / words,
        "bullet_line_frac": counts["bullet_lines"] / lines,
        "ellipsis_line_frac": counts["ellipsis_lines"] / lines,
        "alpha_word_frac": counts["letter_pieces"] / pieces,
        "stop_words": counts["stop_words"],
        "dup_line_frac": counts["dup_lines"] / lines,
        "dup_line_char_frac": counts["dup_line_ink"] / ink,
        "dup_para_frac": counts["dup_paragraphs"] / paragraphs,
        "dup_para_char_frac": counts["dup_paragraph_ink"] / ink,
        "line_end_punct_frac": counts["ended_lines"] / lines,
        "short_line_frac": counts["short_lines"] / lines,
        "newline_ratio": counts["newlines"] / words,
        "curly_braces": counts["braces"],
        "lorem_ipsum": counts["lorem_ipsum"],
    }  # fmt: skip


@njit(cache=True, nogil=True)
def _count_batch(data, offsets, classes, scratch, counts):
    for d in range(len(offsets) - 1):
        text, row = data[offsets[d] : offsets[d + 1]], counts[d]
        _split(text, classes, scratch, row)
        _count_words(text, scratch, row)
        _count_lines(text, scratch, row)
        _count_ngrams(scratch, row)


@njit
def _split(text, classes, s, row):
    """One pass over the bytes: pieces to scratch, counts of characters to row."""
    i = n = chars = ink = newlines = 0
    hash, kind, last = np.uint64(0), np.uint8(0), np.uint8(0)
    dots_end = dots = ended = -1  # where a run of dots, the end of a sentence, a run of wide ends stops
    wide_end = -1
    inside = False
    while i < len(text):
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        here = classes[code]
        if here & SPACE:
            if inside:
                s.hash[n], s.kind[n], s.last[n], s.end[n] = mix64(hash), kind, last, i
                row.sentences += ended == i
                inside = False
                n += 1
            newlines += code == NEWLINE
        else:
            if not inside:
                s.begin[n], s.char[n], s.ink[n], s.row[n] = i, chars, ink, newlines
                hash, kind, inside = np.uint64(0xCBF29CE484222325), np.uint8(0), True
            hash = (hash ^ np.uint64(code)) * MULTIPLIER
            kind |= here
            last = here
            ink += 1
            if here >= SENTENCE_END:
                if here & SENTENCE_END or here & CLOSING and ended == i:
                    ended = i + width
                if here & WIDE_END:
                    row.sentences += wide_end != i
                    wide_end = i + width
                if code == HASH:
                    row.hashes += 1
                elif code == BRACE:
                    row.braces += 1
                elif code == ELLIPSIS:
                    row.ellipses += 1
                elif code == DOT:
                    dots = dots + 1 if dots_end == i else 1
                    dots_end = i + 1
                    row.ellipses += dots % 3 == 0
        chars += 1
        i += width
    if inside:
        s.hash[n], s.kind[n], s.last[n], s.end[n] = mix64(hash), kind, last, i
        row.sentences += ended == i
        n += 1
    s.ink[n] = ink
    row.chars, row.ink, row.pieces, row.newlines = chars, ink, n, newlines


@njit(inline="always")
def _has(text, at, word):
    """Whether the ASCII word stands at text[at:], in any case."""
    if at < 0 or at + len(word) > len(text):
        return False
    for i in range(len(word)):
        if text[at + i] | 32 != word[i]:
            return False
    return True


@njit(inline="always")
def _short_word(text, begin, end):
    """A piece of two to four bytes as one integer, ASCII letters in lower case; 0 for any other. No branch depends on the bytes."""
    size = end - begin
    if size < 2 or size > 4:
        return np.uint32(0)
    third = np.uint32(text[begin + 2] | 32) if size > 2 else np.uint32(0)
    fourth = np.uint32(text[begin + 3] | 32) if size > 3 else np.uint32(0)
    first, second = np.uint32(text[begin] | 32), np.uint32(text[begin + 1] | 32)
    return first | second << np.uint32(8) | third << np.uint32(16) | fourth << np.uint32(24)


@njit
def _count_words(text, s, row):
    """Words, their ink, letters, stop words, lorem ipsum."""
    found = words = word_ink = letter_pieces = 0
    for i in range(row.pieces):
        ink = s.ink[i + 1] - s.ink[i]
        is_word = s.kind[i] & ALNUM != 0
        words += is_word
        word_ink += ink * is_word
        letter_pieces += s.kind[i] & LETTER != 0
        packed = _short_word(text, s.begin[i], s.end[i])
        place = packed % len(STOP_WORDS)
        found |= np.int64(packed != 0 and STOP_WORDS[place] == packed) << place
        if i > 0 and text[s.end[i - 1] - 1] | 32 == LOREM[-1] and _has(text, s.begin[i], IPSUM) and _has(text, s.end[i - 1] - 5, LOREM):
            row.lorem_ipsum += 1
    row.words, row.word_ink, row.letter_pieces = words, word_ink, letter_pieces
    while found:
        row.stop_words += 1
        found &= found - 1


@njit(inline="always")
def _is_mark(text, at, tail):
    """Whether the general punctuation U+20xx with this last byte (• A2, … A6) stands at text[at:]."""
    return 0 <= at <= len(text) - 3 and text[at] == 0xE2 and text[at + 1] == 0x80 and text[at + 2] == tail


@njit(inline="always")
def _is_dots(text, begin, end):
    return end - begin >= 3 and text[end - 1] == DOT and text[end - 2] == DOT and text[end - 3] == DOT


@njit
def _count_lines(text, s, row):
    """Lines: their first and last characters, their repeats; then the same of paragraphs."""
    lines = 0
    i = 0
    while i < row.pieces:
        begin, key = i, np.uint64(0)
        while i < row.pieces and s.row[i] == s.row[begin]:
            key = key * COMBINE + s.hash[i]
            i += 1
        at, end = s.begin[begin], s.end[i - 1]
        row.bullet_lines += text[at] == 45 or text[at] == 42 or _is_mark(text, at, 0xA2)
        row.ellipsis_lines += _is_mark(text, end - 3, 0xA6) or _is_dots(text, s.begin[i - 1], end)
        row.ended_lines += s.last[i - 1] & LINE_END != 0
        row.short_lines += s.char[i - 1] + s.ink[i] - s.ink[i - 1] - s.char[begin] < SHORT_LINE_CHARS
        s.key[lines], s.size[lines], s.place[lines] = mix64(key), s.ink[i] - s.ink[begin], s.row[begin]
        lines += 1
    row.lines = lines
    row.dup_lines, row.dup_line_ink = _repeats(s, lines)
    row.paragraphs = _paragraphs(s, lines)
    row.dup_paragraphs, row.dup_paragraph_ink = _repeats(s, row.paragraphs)


@njit
def _paragraphs(s, lines):
    """Join the keys and sizes of neighbouring lines, in place; how many paragraphs there are."""
    n = 0
    for i in range(lines):
        if i > 0 and s.place[i] == s.place[i - 1] + 1:
            s.key[n - 1] = mix64(s.key[n - 1] * COMBINE + s.key[i])
            s.size[n - 1] += s.size[i]
        else:
            s.key[n], s.size[n] = s.key[i], s.size[i]
            n += 1
    return n


@njit
def _group(s, n):
    """Fill first[:n] and copies[:n] from key[:n]: open addressing, at most half full."""
    size = 2
    while size < 2 * n:
        size *= 2
    s.slots[:size] = -1
    s.copies[:n] = 0
    for i in range(n):
        slot = np.int64(s.key[i] & np.uint64(size - 1))
        while s.slots[slot] >= 0 and s.key[s.slots[slot]] != s.key[i]:
            slot = (slot + 1) & (size - 1)
        if s.slots[slot] < 0:
            s.slots[slot] = i
        s.first[i] = s.slots[slot]
        s.copies[s.first[i]] += 1


@njit
def _repeats(s, n):
    """How many of key[:n] repeat an earlier one, and the sum of their sizes."""
    _group(s, n)
    repeats = size = 0
    for i in range(n):
        if s.first[i] != i:
            repeats += 1
            size += s.size[i]
    return repeats, size


@njit
def _count_ngrams(s, row):
    """Ink of the commonest 2-, 3- and 4-gram and of repeated 5- to 10-grams.

    An n-gram repeats only if both (n-1)-grams in it do, so after the first round few places are left, often none.
    """
    n_keys = row.pieces
    for i in range(n_keys):
        s.place[i], s.key[i] = i, s.hash[i]
    for n in range(2, 11):
        n_keys = _extend(s, n_keys, n)
        _group(s, n_keys)
        if n <= 4:
            row.top[n - 2] = _top(s, n_keys, n)
        else:
            row.dup[n - 5] = _dup(s, n_keys, n)
        n_keys = _keep_repeated(s, n_keys)
        if n_keys == 0:
            break


@njit
def _extend(s, n_keys, n):
    """Repeated (n-1)-grams to the n-grams that may repeat: those whose second (n-1)-gram is in the list too."""
    kept = 0
    for i in range(n_keys - 1):
        at = s.place[i]
        if s.place[i + 1] == at + 1:
            s.place[kept], s.key[kept] = at, s.key[i] * COMBINE + s.hash[at + n - 1]
            kept += 1
    return kept


@njit
def _keep_repeated(s, n_keys):
    kept = 0
    for i in range(n_keys):
        if s.copies[s.first[i]] > 1:
            s.place[kept], s.key[kept] = s.place[i], s.key[i]
            kept += 1
    return kept


@njit
def _top(s, n_keys, n):
    """Copies times ink of the n-gram that occurs most often, overlaps counted, the longest of equals; 0 if none repeats."""
    copies = 1
    ink = 0
    for i in range(n_keys):
        if s.copies[i] > 1 and s.copies[i] >= copies:  # copies stand at the first of equal keys, 0 at the others
            here = s.ink[s.place[i] + n] - s.ink[s.place[i]]
            ink = here if s.copies[i] > copies else max(ink, here)
            copies = s.copies[i]
    return copies * ink


@njit
def _dup(s, n_keys, n):
    """Ink of n-grams that were met before, from left to right; after one, on behind it (datatrove's rule)."""
    s.size[:n_keys] = 0
    ink = free = 0
    for i in range(n_keys):
        at, first = s.place[i], s.first[i]
        if at >= free and s.size[first] == 1:
            ink += s.ink[at + n] - s.ink[at]
            free = at + n
        elif at >= free:
            s.size[first] = 1
    return ink
