"""Language of a document: lid.176 (Joulin et al., 1607.01759, 1612.03651), 176 languages, 938 KB, on its prose alone.

Links, code, numbers and markup look English or like nothing at all: they are left out first. A long text is read in
three windows, at its head, in its middle and at its tail, so that neither an English licence at the top decides nor a
text in two languages passes for one. FineWeb keeps English above a score of .65, FineWeb-2 other languages by thresholds
of their own. The prediction is fastText's, label for label; benchmarks/results/languages.md has speeds and accuracies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals import linear
from pipelines.signals.characters import IS_LETTER, IS_SPACE, Strings, decode, table, utf8
from pipelines.signals.linear import Classifier
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.measure import Context

COLUMNS = (
    Column("lang", "string", "language code of lid.176, or und: too few letters of prose to judge by"),
    Column("lang_score", "double", "its probability, the mean over the windows that were read; 0 for und"),
    Column("lang_mixed", "int", "1 if some window is more likely than not in another language, else 0"),
)

UNDETERMINED = "und"
MIN_LETTERS = 20  # bytes of letters: 20 Latin, 10 Cyrillic, 7 Chinese ones
WINDOW_BYTES = 320  # of prose; a text up to three times as long is one window
REACH_BYTES = 4 * WINDOW_BYTES  # of text, in which a window looks for its prose
MARKUP_BYTES = 256  # a longer tag is text
ENTITY_BYTES = 10
SPACE, LETTER, MARK, CODE, SMALL, CAPITAL = 1, 2, 4, 8, 16, 32


def _classes() -> np.ndarray:
    """uint8[CODES]: what a character says of the word that it stands in."""
    classes = table(IS_SPACE, SPACE) | table(IS_LETTER, LETTER)
    for letters, kind in (("*#[]>|~`", MARK), ("0123456789_={}\\@$^&%+", CODE)):
        classes[list(letters.encode())] |= kind
    classes[97:123] |= SMALL
    classes[65:91] |= CAPITAL
    classes[0] = SPACE
    return classes


CLASSES = _classes()


def measure(texts: Strings, domains: pa.Array, context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    labels, scores, mixed = np.empty(len(texts), np.int32), np.empty(len(texts)), np.empty(len(texts), np.int32)
    model = linear.classifier(context.language_model)
    _identify_batch(*utf8(texts), CLASSES, model, labels, scores, mixed)
    names = pa.array([*linear.read(context.language_model).labels, UNDETERMINED])  # the number -1 is the last
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
    hidden = np.empty((3, model.inputs.shape[1]), np.float32)
    stack, chances = np.empty(len(model.parents), np.int64), np.empty(len(model.parents))
    for d in range(len(labels)):
        n = _windows(data[offsets[d] : offsets[d + 1]], classes, model, room, rows, hidden)
        labels[d], scores[d], mixed[d] = _agree(model, hidden[:n], stack, chances)


@njit
def _windows(text, classes, model, room, rows, hidden):
    """Fill `hidden` with the mean of each window that has letters enough; how many have."""
    n_windows, limit, reach = 1, 3 * WINDOW_BYTES, len(text)
    if len(text) > 3 * WINDOW_BYTES:
        n_windows, limit, reach = 3, WINDOW_BYTES, min(len(text) // 3, REACH_BYTES)
    n = 0
    for window in range(n_windows):
        begin = window * (len(text) - reach) // 2
        size, letters = _prose(text, begin, begin + reach, limit, classes, room)
        if letters >= MIN_LETTERS:
            linear.mean(model.inputs, rows, linear.features(room, size, model, rows), hidden[n])
            n += 1
    return n


@njit
def _agree(model, hidden, stack, chances):
    """(label, score, mixed): of the windows' languages the one with the greatest mean probability over all windows.

    Mixed: another language has a probability of one half or more in some window.
    """
    label, score, own, sure = -1, 0.0, np.empty(3, np.int64), np.empty(3)
    for w in range(len(hidden)):
        own[w], sure[w] = linear.best(model, hidden[w], stack, chances)
        total = 0.0
        for v in range(len(hidden)):
            total += linear.probability(model, hidden[v], own[w])
        if total / len(hidden) > score:
            label, score = own[w], total / len(hidden)
    mixed = 0
    for w in range(len(hidden)):
        mixed |= own[w] != label and sure[w] >= 0.5
    return label, min(score, 1.0), mixed  # fastText's sums may pass 1 by 1e-5


@njit
def _prose(text, i, end, limit, classes, room):
    """(bytes, bytes of letters) of the prose that begins in text[i:end], written to room[1:], with a space before and behind.

    Left out are tags and entities, marks of Markdown, and runs of ASCII that look like links, code or numbers. White
    space becomes one space. At most `limit` bytes and a code point.
    """
    room[0] = 32
    at, letters, run, letters_before, odd = 1, 0, 1, 0, 0
    while i < end and text[i] & 0xC0 == 0x80:
        i += 1
    while i < end and at <= limit:
        byte, width = text[i], 1
        if byte < 128:
            kind = classes[byte]
            skipped = _markup(text, i, end, classes) if byte == 60 or byte == 38 else 0
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
            room[at : at + width] = text[i : i + width]
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

    Digits and marks of code do; a second slash; a point between letters (a name, a host), a double colon, a bracket behind
    a letter (a call), a capital behind a small letter.
    """
    byte, kind = text[i], classes[text[i]]
    if kind & CODE:
        return 2
    if byte == 47:
        return 1
    if not inside:
        return 0
    after_letter = classes[text[i - 1]] & (SMALL | CAPITAL) != 0 and text[i - 1] < 128
    if kind & CAPITAL:
        return 2 if classes[text[i - 1]] & SMALL else 0
    if byte == 40:
        return 2 if after_letter else 0
    if i + 1 < end and (byte == 46 or byte == 58):
        following = text[i + 1]
        if byte == 58:
            return 2 if following == 58 else 0
        return 2 if after_letter and following < 128 and classes[following] & (SMALL | CAPITAL) else 0
    return 0


@njit
def _markup(text, i, end, classes):
    """Bytes of the tag or the entity that begins at text[i], < or &; 0 if none does."""
    if text[i] == 38:
        for j in range(i + 1, min(i + ENTITY_BYTES, end)):
            if text[j] == 59:
                return j + 1 - i
            if text[j] != 35 and text[j] < 128 and not classes[text[j]] & (SMALL | CAPITAL) and not 48 <= text[j] <= 57:
                return 0
        return 0
    if i + 1 >= end or not (text[i + 1] == 47 or text[i + 1] == 33 or text[i + 1] == 63 or classes[text[i + 1]] & (SMALL | CAPITAL)):
        return 0
    for j in range(i + 1, min(i + MARKUP_BYTES, end)):
        if text[j] == 62:
            return j + 1 - i
    return 0
