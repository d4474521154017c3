"""Language of a document: lid.176 (Joulin et al., 1607.01759, 1612.03651), 176 languages, 938 KB, on its prose alone.

Links, code, numbers and markup look English or like nothing at all: they are left out first. A long text is read in
three windows, at its head, in its middle and at its tail, so that neither an English licence at the top decides nor a
text in two languages passes for one. FineWeb keeps English above a score of .65, FineWeb-2 other languages by
thresholds of their own. The prediction is fastText's, label for label; benchmarks/results/languages.md has speeds,
languages-accuracy.md accuracies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals import linear
from pipelines.texts import fasttext_file
from pipelines.texts.characters import IS_LETTER, IS_SPACE, Strings, decode, table, utf8
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column("lang", "string", "language code of lid.176, or und: too few letters of prose to judge by"),
    Column(
        "lang_score",
        "double",
        "its probability, the mean over the windows that were read, weighted by their letters; 0 for und",
    ),
    Column(
        "lang_mixed",
        "int",
        "1 if some window of an eighth of the letters or more is likely in another language, else 0",
    ),
)
UNDETERMINED = "und"
MIN_LETTERS = 20  # bytes of letters: 20 Latin, 10 Cyrillic, 7 Chinese ones
WINDOW_BYTES = 320  # of prose; a text up to three times as long is one window
MIXED_SHARE = 1 / 8  # of the letters read: what little is left of a window of code is no second language
REACH_BYTES = 4 * WINDOW_BYTES  # of text, in which a window looks for its prose
MARKUP_BYTES, SPAN_BYTES, ENTITY_BYTES = 256, 128, 10  # a longer tag, code between backticks or entity is text
SPACE, LETTER, MARK, CODE, SMALL, CAPITAL = 1, 2, 4, 8, 16, 32


def _classes() -> np.ndarray:
    """uint8[CODES]: what a character says of the word that it stands in."""
    classes = table(IS_SPACE, SPACE) | table(IS_LETTER, LETTER)
    for letters, kind in (("*#[]<>|~`", MARK), ("0123456789_={}\\@$^&%+", CODE)):
        classes[list(letters.encode())] |= kind
    classes[97:123] |= SMALL
    classes[65:91] |= CAPITAL
    classes[0] = SPACE
    return classes


CLASSES = _classes()


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    labels, scores, mixed = np.empty(len(texts), np.int32), np.empty(len(texts)), np.empty(len(texts), np.int32)
    model = linear.classifier(context.language_model)
    _identify_batch(*utf8(texts), CLASSES, model, labels, scores, mixed)
    names = pa.array([*fasttext_file.read(context.language_model).labels, UNDETERMINED])  # the number -1 is the last
    return [names.take(pa.array(labels % len(names))), pa.array(scores), pa.array(mixed)]


def prose(text: str) -> str:
    """What is left of a text for the model to read, windows apart."""
    data, _ = utf8(pa.array([text]))
    room = np.empty(len(data) + 2, np.uint8)
    size, _ = _prose(data, 0, len(data), len(data), CLASSES, room)
    return room[1 : size + 1].tobytes().decode()


@njit(cache=True, nogil=True)
def _identify_batch(data, offsets, classes, model, labels, scores, mixed):
    room, rows = np.empty(3 * WINDOW_BYTES + 8, np.uint8), np.empty(4 * 3 * WINDOW_BYTES + 32, np.int32)
    hidden, letters = np.empty((3, model.inputs.shape[1]), np.float32), np.empty(3)
    stack, chances = np.empty(len(model.parents), np.int64), np.empty(len(model.parents))
    for d in range(len(labels)):
        n = _windows(data[offsets[d] : offsets[d + 1]], classes, model, room, rows, hidden, letters)
        labels[d], scores[d], mixed[d] = _agree(model, hidden[:n], letters[:n] / letters[:n].sum(), stack, chances)


@njit
def _windows(text, classes, model, room, rows, hidden, letters):
    """Fill `hidden` with the mean of each window that has letters enough, and `letters`; how many have."""
    n_windows, limit, reach = 1, 3 * WINDOW_BYTES, len(text)
    if len(text) > 3 * WINDOW_BYTES:
        n_windows, limit, reach = 3, WINDOW_BYTES, min(len(text) // 3, REACH_BYTES)
    n = 0
    for window in range(n_windows):
        begin = window * (len(text) - reach) // 2
        size, letters[n] = _prose(text, begin, begin + reach, limit, classes, room)
        if letters[n] >= MIN_LETTERS:
            linear.mean(model.inputs, rows, linear.features(room, size, model, rows), hidden[n])
            n += 1
    return n


@njit
def _agree(model, hidden, shares, stack, chances):
    """(label, score, mixed): of the windows' languages the one that is most probable over all windows, by their shares.

    Mixed: another language has a probability of one half or more in a window of some share.
    """
    label, score, own, sure = -1, 0.0, np.empty(3, np.int64), np.empty(3)
    for w in range(len(hidden)):
        own[w], sure[w] = linear.best(model, hidden[w], stack, chances)
        total = 0.0
        for v in range(len(hidden)):
            total += shares[v] * linear.probability(model, hidden[v], own[w])
        if total > score:
            label, score = own[w], total
    mixed = 0
    for w in range(len(hidden)):
        mixed |= own[w] != label and sure[w] >= 0.5 and shares[w] >= MIXED_SHARE
    return label, min(score, 1.0), mixed  # fastText's sums may pass 1 by 1e-5


@njit
def _prose(text, i, end, limit, classes, room):
    """(bytes, bytes of letters) of the prose that begins in text[i:end], written to room[1:], with a space before and
    behind.

    Left out are tags and entities, marks of Markdown, and runs of ASCII that look like links, code or numbers. White
    space becomes one space. At most `limit` bytes and a code point.
    """
    room[0] = 32
    at, letters, run, letters_before, odd = 1, 0, 1, 0, 0
    while i < end and text[i] & 0xC0 == 0x80:
        i += 1
    while i < end and at <= limit:
        byte, width = text[i], 1
        if 97 <= byte <= 122:  # most of most texts
            room[at] = byte
            at, letters, i = at + 1, letters + 1, i + 1
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
                    at, letters = run, letters_before
                if room[at - 1] != 32:
                    room[at] = 32
                    at += 1
                run, letters_before, odd = at, letters, 0
                i += max(skipped, 1)
                continue
            odd += _oddness(text, i, end, at > run, classes)
        else:
            if odd >= 2:
                at, letters = run, letters_before
            odd = 0
            code, width = decode(text, i)
            kind = classes[code]
        if kind & SPACE:
            if room[at - 1] != 32:
                room[at] = 32
                at += 1
        else:
            for k in range(width):
                room[at + k] = text[i + k]
            at += width
        letters += width * (kind & LETTER != 0)
        i += width
        if byte >= 128:
            run, letters_before = at, letters
    if odd >= 2:
        at, letters = run, letters_before
    room[at] = 32
    return at - 1, letters


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
