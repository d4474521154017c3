"""Language of a document: lid.176 (Joulin et al., 1607.01759, 1612.03651), 176 languages, 938 KB, on its prose alone.

A text of up to 960 bytes is read whole, a longer one at six places from its head to its last bytes, so that neither an
English licence at the top decides nor a text in two languages passes for one. Two places are a window; the language is
the one that is most probable over the windows. FineWeb keeps English above a score of .65, FineWeb-2 other languages
by thresholds of their own. The prediction is fastText's, label for label; benchmarks/results/languages.md has speeds,
languages-accuracy.md accuracies.

What is read falls into passages where paragraphs end. One whose letters are mostly capitals, in any script that has
them, is read in small letters: lid.176 learnt from sentences, and takes capitals for other languages. `lang_mixed` is
the share that passages of another language have in the letters of all passages with PASSAGE_LETTERS or more: of
passages in which the document's language has a probability below OWN_CHANCE, and another one of OTHER_CHANCE at least.
So languages that lid.176 takes for one another (Norwegian and Danish, Croatian and Serbian) seldom make two. A long
text's share is told by six places, to .12 at a share of .1 and .17 at .24; a single paragraph may stand between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals import linear
from pipelines.signals.prose import BLANK_LINE, CLASSES, LETTER, LINE_END, LOWER, UPPER, write_prose
from pipelines.texts import fasttext_file
from pipelines.texts.characters import FOLD, Strings, decode, encode, utf8
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
        "double",
        "share of the letters that were read which stand in paragraphs of another language; 0 for und",
    ),
)
UNDETERMINED = "und"
MIN_LETTERS = 20  # bytes of letters: 20 Latin, 10 Cyrillic, 7 Chinese ones
PLACES, PLACE_BYTES, WINDOWS = 6, 160, 3  # of a long text; bytes of prose read at each; windows of two places
WHOLE_BYTES = PLACES * PLACE_BYTES  # of a text that is read whole
REACH_BYTES, TAIL_BYTES = 4 * PLACE_BYTES, 2 * PLACE_BYTES  # of text, in which a place finds its prose; of the last
# Bytes of letters from which a passage ends with a blank line, and with any line: a line of wrapped text has 60.
PASSAGE_LETTERS, LINE_LETTERS = 40, 100
PASSAGES = WHOLE_BYTES // PASSAGE_LETTERS + PLACES  # at most
OWN_CHANCE, OTHER_CHANCE = 0.1, 0.5


class Rooms(NamedTuple):
    """What is read of one document at a time."""

    prose: np.ndarray  # uint8, of a place
    small: np.ndarray  # uint8, of a passage that is lowered: that may take three bytes for two
    rows: np.ndarray  # int32, of a passage's features
    hidden: np.ndarray  # float32[PASSAGES, dim], their mean
    features: np.ndarray  # int64[PASSAGES], how many
    letters: np.ndarray  # int64[PASSAGES], bytes
    windows: np.ndarray  # float32[WINDOWS, dim], means of the windows
    shares: np.ndarray  # float64[WINDOWS], of the windows' letters
    stack: np.ndarray
    chances: np.ndarray  # both for linear.best


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    labels, scores, mixed = np.empty(len(texts), np.int32), np.empty(len(texts)), np.empty(len(texts))
    model = linear.classifier(context.language_model)
    _identify_batch(*utf8(texts), CLASSES, FOLD, model, _rooms(model), labels, scores, mixed)
    names = pa.array([*fasttext_file.read(context.language_model).labels, UNDETERMINED])  # the number -1 is the last
    return [names.take(pa.array(labels % len(names))), pa.array(scores), pa.array(mixed)]


def _rooms(model: linear.Classifier) -> Rooms:
    small, dim = WHOLE_BYTES * 3 // 2 + 8, model.inputs.shape[1]
    return Rooms(
        np.empty(WHOLE_BYTES + 8, np.uint8),
        np.empty(small, np.uint8),
        np.empty(4 * small, np.int32),
        np.empty((PASSAGES, dim), np.float32),
        np.empty(PASSAGES, np.int64),
        np.empty(PASSAGES, np.int64),
        np.empty((WINDOWS, dim), np.float32),
        np.empty(WINDOWS),
        np.empty(len(model.parents), np.int64),
        np.empty(len(model.parents)),
    )


@njit(cache=True, nogil=True)
def _identify_batch(data, offsets, classes, fold, model, r, labels, scores, mixed):
    for d in range(len(labels)):
        passages, windows = _read(data[offsets[d] : offsets[d + 1]], classes, fold, model, r)
        labels[d], scores[d] = _agree(model, r, windows)
        mixed[d] = _foreign(model, r, passages, labels[d]) if passages > 1 and windows else 0.0


@njit
def _read(text, classes, fold, model, r):
    """(passages, windows) that were read of a text; windows with too few letters are left out."""
    if len(text) <= WHOLE_BYTES:
        size = write_prose(text, 0, len(text), WHOLE_BYTES, classes, r.prose)
        passages = _passages(1, size + 1, classes, fold, model, r, 0)
        return passages, _window(r, 0, passages, 0)
    passages, windows, first, reach = 0, 0, 0, min(len(text) // PLACES, REACH_BYTES)
    for place in range(PLACES):
        begin, limit = place * (len(text) - reach) // (PLACES - 1), PLACE_BYTES
        if place == PLACES - 1:
            begin, limit = max(begin, len(text) - TAIL_BYTES), TAIL_BYTES
        size = write_prose(text, begin, min(begin + reach, len(text)), limit, classes, r.prose)
        at = max(1, size + 1 - PLACE_BYTES)  # at the tail the last of the prose is read
        while at <= size and r.prose[at] & 0xC0 == 0x80:
            at += 1
        passages = _passages(at, size + 1, classes, fold, model, r, passages)
        if (place + 1) * WINDOWS % PLACES == 0:
            windows, first = _window(r, first, passages, windows), passages
    return passages, windows


@njit
def _passages(i, end, classes, fold, model, r, n):
    """Read the passages of prose[i:end] behind the n that there are; how many there are."""
    prose, small, rows, hidden, features, letters = r.prose, r.small, r.rows, r.hidden, r.features, r.letters
    inputs = model.inputs
    while i < end:
        stop, letters[n], is_capital = _passage(prose, i, end, classes)
        if is_capital:
            features[n] = linear.features(small, _lower(prose[i:stop], fold, small), model, rows)
        else:
            features[n] = linear.features(prose[i - 1 :], stop - i, model, rows)
        linear.mean(inputs, rows, features[n], hidden[n])
        n, i = n + 1, stop + 1
    return n


@njit
def _passage(prose, i, end, classes):
    """(end, bytes of letters, whether there are more capitals than small letters) of the passage that begins at
    prose[i]."""
    letters, capitals = 0, 0
    while i < end:
        code, width = np.uint32(prose[i]), 1
        if code >= 128:
            code, width = decode(prose, i)
        kind = classes[code]
        letters += width * (kind & LETTER != 0)
        capitals += np.int64(kind & UPPER != 0) - np.int64(kind & LOWER != 0)
        if (code == BLANK_LINE and letters >= PASSAGE_LETTERS) or (code == LINE_END and letters >= LINE_LETTERS):
            break
        i += width
    return i, letters, capitals > 0


@njit
def _lower(passage, fold, room):
    """Write the passage in small letters to room[1:], with a space before and behind it; its bytes."""
    room[0], at, i = 32, 1, 0
    while i < len(passage):
        code, width = np.uint32(passage[i]), 1
        if code >= 128:
            code, width = decode(passage, i)
        at = encode(fold[code], room, at)
        i += width
    room[at] = 32
    return at - 1


@njit
def _window(r, first, end, windows):
    """Make the passages from `first` to `end` the window of this number, if they have letters enough; how many windows
    there are."""
    letters, features = r.letters[first:end].sum(), r.features[first:end].sum()
    if letters < MIN_LETTERS:
        return windows
    r.windows[windows] = 0
    for p in range(first, end):
        r.windows[windows] += r.hidden[p] * np.float32(r.features[p] / features)
    r.shares[windows] = letters
    return windows + 1


@njit
def _agree(model, r, n):
    """(label, score): of the n windows' languages the one that is most probable over all windows, by their letters;
    (-1, 0) without a window."""
    label, score, shares = -1, 0.0, r.shares[:n] / r.shares[:n].sum()
    for w in range(n):
        own, _ = linear.best(model, r.windows[w], r.stack, r.chances)
        if own == label:
            continue
        total = 0.0
        for v in range(n):
            total += shares[v] * linear.probability(model, r.windows[v], own)
        if total > score:
            label, score = own, total
    return label, min(score, 1.0)  # fastText's sums may pass 1 by 1e-5


@njit
def _foreign(model, r, n, label):
    """The share of the n passages' letters that stand in another language than the label's."""
    letters, foreign = 0, 0
    for p in range(n):
        if r.letters[p] >= PASSAGE_LETTERS:
            letters += r.letters[p]
            if linear.probability(model, r.hidden[p], label) < OWN_CHANCE:
                _, chance = linear.best(model, r.hidden[p], r.stack, r.chances)
                foreign += r.letters[p] * (chance >= OTHER_CHANCE)
    return foreign / max(letters, 1)
