"""Text statistics: the signals of Gopher (2112.11446), C4 (1910.10683), RefinedWeb (2306.01116), DCLM (2406.11794),
MADLAD-400 (2309.04662), FineWeb (2406.17557) and OLMo 3 (2512.13961), in few compiled passes over each document.

Published code disagrees on almost every one of them (datatrove's words are spaCy's and keep 26 % of technical text
where the paper's keep 75 %), so these are the definitions here; benchmarks/agreement.py counts what each difference
makes:

character  a Unicode code point; ink is every character that is not white space (str.isspace)
piece      what str.split() gives: a run of ink
word       a piece with a letter or digit (str.isalnum), so that "--" and "=>" are pieces but not words
line       what remains of a piece between \\n after stripping white space, if anything
paragraph  lines with no blank line between them
sentence   what ends in . ! ? … ؟ । and closing quotes or brackets before white space or the end, or in a run of 。！？
           anywhere; and what stands behind the last such end

Repetition counts repeats only, never the first copy, and in ink: a fraction is repeated ink / ink, so it does not
depend on indentation and reaches 1. (datatrove's divides words joined without spaces by the length with spaces.)
Two lines, paragraphs or n-grams are equal when their pieces are, case included, by 64-bit hashes: a false
repeat among a million of them has a chance of 3e-8. Every fraction of nothing is 0.

A line that C4 drops has under 3 pieces, a piece of over 1,000 characters, or one of C4's phrases. One that RefinedWeb
and DCLM drop is of over half upper-case characters, a counter ("3 likes") or a single piece (a number, too); of a short
line they take out "items in cart", "read more..." at its end, "sign-in" at its beginning. A sentence is questionable to
OLMo 3 if at least half of its words, 12 or more, begin with a capital, or if it holds one of MADLAD's phrases, nine
single characters in a row or a bar at its end; to MADLAD also if it has under 20 or over 500 characters, or more than
20 % of them are digits or one of {}+/()>. (MADLAD's first rule, sentences in another language than the document, takes
a model: `lang_mixed` has it, by paragraphs.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals.phrases import mark_phrases
from pipelines.signals.repeats import COMBINE, LEAST_CHARS, count_ngrams, longest_char_run, longest_span_run, repeats
from pipelines.texts.characters import Strings, decode, longest, mix64, utf8
from pipelines.texts.find import stands_in_any_case
from pipelines.texts.pieces import (
    ALNUM,
    CLASSES,
    CODE_END,
    COUNTS,
    DOT,
    END,
    ITEMS_IN_CART,
    LINE_END,
    LINE_PHRASE,
    QUESTIONED,
    READ_MORE,
    SIGN_IN,
    TECHNICAL,
    UPPER,
    describe,
    scratch,
    split,
)
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column("n_chars", "int", "Unicode code points"),
    Column("n_lines", "int", "lines that are not blank"),
    Column("n_words", "int", "white-space words with a letter or digit"),
    Column("n_sentences", "int", "sentences"),
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
    *(
        Column(f"top_{n}gram_char_frac", "double", f"ink of all copies of the commonest {n}-gram / ink, at most 1")
        for n in (2, 3, 4)
    ),
    *(
        Column(f"dup_{n}gram_char_frac", "double", f"ink of repeated {n}-grams that do not overlap / ink")
        for n in range(5, 11)
    ),
    Column("line_end_punct_frac", "double", "lines that end in punctuation / lines"),
    Column("short_line_frac", "double", "lines of fewer than 30 characters / lines"),
    Column("newline_ratio", "double", "newlines / words"),
    Column("curly_braces", "int", "{ characters"),
    Column("lorem_ipsum", "int", "occurrences of lorem ipsum, in any case"),
    Column("c4_line_frac", "double", "words in lines that C4 drops / words"),
    Column("ui_line_frac", "double", "words that RefinedWeb and DCLM drop with lines or out of them / words"),
    Column("questionable_frac", "double", "sentences that OLMo 3 questions / sentences"),
    Column("questionable_all_frac", "double", "sentences that MADLAD-400 questions / sentences"),
    Column("span_run", "int", "how often the same 1 to 13 pieces stand in a row at most; 0 for fewer than 32"),
    Column("char_run", "int", "characters of the longest run of one ASCII character; 0 for fewer than 32"),
    Column("code_line_frac", "double", "lines that end in ; { or } / lines"),
    Column("replacement_chars", "double", "U+FFFD, written for what could not be decoded / characters"),
    Column("latex_density", "double", "dollars and commands of LaTeX / 1,000 characters"),
)
SHORT_LINE_CHARS = 30  # FineWeb
C4_PIECES, C4_PIECE_CHARS = 3, 1000  # the fewest of a line, the most of a piece
UI_PIECES, COUNTER_PIECES = 10, 6  # of the longest line that phrases are taken out of; that is looked at as a counter
COUNTERS = "likes shares comments retweets reposts quotes bookmarks upvotes downvotes downloads views followers"
CASED_WORDS, SHORT_SENTENCE, LONG_SENTENCE, TECHNICAL_FRAC, SINGLES = 12, 20, 500, 0.2, 9  # MADLAD-400
COUNTER_WORDS = tuple(np.frombuffer(word.encode(), np.uint8) for word in COUNTERS.split())
BAR = ord("|")


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    data, offsets = utf8(texts)
    counts = np.zeros(len(texts), COUNTS)
    _count_batch(data, offsets, CLASSES, scratch(longest(offsets)), counts)
    values = _signals(counts)
    types = {"int": pa.int32(), "double": pa.float64()}
    return [pa.array(values[column.name]).cast(types[column.type]) for column in COLUMNS]


def _signals(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Counts to signals: here stands what is divided by what."""
    names = ("ink", "pieces", "words", "lines", "paragraphs", "sentences")
    ink, pieces, words, lines, paragraphs, sentences = (np.maximum(counts[name], 1) for name in names)
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
        "c4_line_frac": counts["c4_words"] / words,
        "ui_line_frac": counts["ui_words"] / words,
        "questionable_frac": counts["questionable"] / sentences,
        "questionable_all_frac": counts["questionable_all"] / sentences,
        "span_run": counts["span_run"],
        "char_run": counts["char_run"],
        "code_line_frac": counts["code_lines"] / lines,
        "replacement_chars": counts["replacements"] / np.maximum(counts["chars"], 1),
        "latex_density": 1000 * counts["latex"] / np.maximum(counts["chars"], 1),
    }  # fmt: skip


@njit(cache=True, nogil=True)
def _count_batch(data, offsets, classes, s, counts):
    for d in range(len(offsets) - 1):
        text, row = data[offsets[d] : offsets[d + 1]], counts[d]
        wide_end = split(text, classes, s, row)
        describe(text, classes, s, row, wide_end)
        mark_phrases(text, s, row.pieces)
        _count_sentences(text, classes, s, row)
        row.span_run = longest_span_run(s, row.pieces)
        row.char_run = longest_char_run(text, s, row.pieces) if row.longest_piece >= LEAST_CHARS else 0
        _count_lines(text, classes, s, row)
        count_ngrams(s, row)


@njit(inline="always")
def _is_mark(text, at, tail):
    """Whether the general punctuation U+20xx with this last byte (• A2, … A6) stands at text[at:]."""
    return 0 <= at <= len(text) - 3 and text[at] == 0xE2 and text[at + 1] == 0x80 and text[at + 2] == tail


@njit(inline="always")
def _is_dots(text, begin, end):
    return end - begin >= 3 and text[end - 1] == DOT and text[end - 2] == DOT and text[end - 3] == DOT


@njit
def _count_sentences(text, classes, s, row):
    """Sentences, of whole pieces here, that OLMo 3 and MADLAD-400 question."""
    begin = words = capitals = technical = singles = flags = 0
    most_singles = 0
    for i in range(row.pieces):
        kind, flag, ink = s.kind[i], s.flag[i], s.ink[i + 1] - s.ink[i]
        is_word = kind & ALNUM != 0
        words += is_word
        capitals += kind & UPPER != 0 and is_word and _begins_with_capital(text, classes, s.edge[2 * i])
        technical += ink if kind & TECHNICAL else 0
        singles = singles + 1 if ink == 1 else 0
        most_singles = max(most_singles, singles)
        flags |= flag
        if flag & END or i == row.pieces - 1:
            cased = words >= CASED_WORDS and 2 * capitals >= words
            barred = text[s.edge[2 * i + 1] - 1] == BAR
            first = cased or barred or most_singles >= SINGLES or flags & QUESTIONED != 0
            size = s.char[2 * i + 1] - s.char[2 * begin]
            other = size < SHORT_SENTENCE or size > LONG_SENTENCE
            if not other and technical > TECHNICAL_FRAC * size:
                other = _count(text, classes, s.edge[2 * begin], s.edge[2 * i + 1], TECHNICAL) > TECHNICAL_FRAC * size
            row.questionable += first
            row.questionable_all += first or other
            begin = i + 1
            words = capitals = technical = singles = most_singles = flags = 0


@njit
def _begins_with_capital(text, classes, at):
    """Whether the first letter or digit at text[at:] is a capital; there is one."""
    while True:
        code, width = np.uint32(text[at]), 1
        if code >= 128:
            code, width = decode(text, at)
        if classes[code] & ALNUM:
            return classes[code] & UPPER != 0
        at += width


@njit
def _count(text, classes, begin, end, bit):
    """Characters of a class in text[begin:end]."""
    n = 0
    while begin < end:
        code, width = np.uint32(text[begin]), 1
        if code >= 128:
            code, width = decode(text, begin)
        n += classes[code] & bit != 0
        begin += width
    return n


@njit
def _count_lines(text, classes, s, row):
    """Lines: their first and last characters, what C4 and DCLM drop, their repeats; then the same of paragraphs."""
    lines = 0
    i = 0
    while i < row.pieces:
        begin, key = i, np.uint64(0)
        words = flags = longest_piece = upper = 0
        while i < row.pieces and s.row[i] == s.row[begin]:
            key = key * COMBINE + s.hash[i]
            ink = s.ink[i + 1] - s.ink[i]
            words += s.kind[i] & ALNUM != 0
            upper += ink if s.kind[i] & UPPER else 0
            longest_piece = max(longest_piece, ink)
            flags |= s.flag[i]
            i += 1
        at, end = s.edge[2 * begin], s.edge[2 * i - 1]
        size = s.char[2 * i - 1] - s.char[2 * begin]
        row.bullet_lines += text[at] == 45 or text[at] == 42 or _is_mark(text, at, 0xA2)
        row.ellipsis_lines += _is_mark(text, end - 3, 0xA6) or _is_dots(text, s.edge[2 * i - 2], end)
        row.ended_lines += s.last[i - 1] & LINE_END != 0
        row.code_lines += s.last[i - 1] & CODE_END != 0
        row.short_lines += size < SHORT_LINE_CHARS
        if i - begin < C4_PIECES or longest_piece > C4_PIECE_CHARS or flags & LINE_PHRASE:
            row.c4_words += words
        if i - begin == 1 or (2 * upper > size and 2 * _count(text, classes, at, end, UPPER) > size):
            row.ui_words += words
        elif i - begin <= UI_PIECES:
            counter = words == 2 and i - begin <= COUNTER_PIECES and _is_counter(text, s, begin, i)
            row.ui_words += words if counter else _ui_words(s, begin, i, flags)
        s.key[lines], s.size[lines], s.place[lines] = mix64(key), s.ink[i] - s.ink[begin], s.row[begin]
        lines += 1
    row.lines = lines
    row.dup_lines, row.dup_line_ink = repeats(s, lines)
    row.paragraphs = _paragraphs(s, lines)
    row.dup_paragraphs, row.dup_paragraph_ink = repeats(s, row.paragraphs)


@njit
def _ui_words(s, begin, end, flags):
    """Words that DCLM takes out of a short line."""
    words = 3 * (flags & ITEMS_IN_CART != 0)
    words += 2 * (end - begin >= 2 and s.flag[end - 2] & READ_MORE != 0)
    return words + (s.flag[begin] & SIGN_IN != 0)


@njit
def _is_counter(text, s, begin, end):
    """Whether the two words of a line are a number and what it counts, as in "1,204 views"."""
    while s.kind[begin] & ALNUM == 0:
        begin += 1
    last = begin + 1
    while s.kind[last] & ALNUM == 0:
        last += 1
    if last != begin + 1:
        return False
    at, stop = s.edge[2 * begin], s.edge[2 * begin + 1]
    while at < stop and not 48 <= text[at] <= 57:
        if text[at] >= 128 or text[at] == 95 or 97 <= text[at] | 32 <= 122:
            return False
        at += 1
    while at < stop and (48 <= text[at] <= 57 or text[at] == 44 or text[at] == DOT):
        at += 1
    if at < stop and (text[at] | 32 == 107 or text[at] | 32 == 109 or text[at] | 32 == 98):
        at += 1
    return at == stop and _counts(text, s.edge[2 * last], s.edge[2 * last + 1])


@njit
def _counts(text, begin, end):
    """Whether text[begin:end] is one of COUNTERS, in any case, and perhaps marks behind it."""
    stop = begin
    while stop < end and 97 <= text[stop] | 32 <= 122:
        stop += 1
    for at in range(stop, end):
        if text[at] >= 128 or text[at] == 95 or 48 <= text[at] <= 57 or 97 <= text[at] | 32 <= 122:
            return False
    for word in COUNTER_WORDS:
        if stop - begin == len(word) and stands_in_any_case(text, begin, word):
            return True
    return False


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
