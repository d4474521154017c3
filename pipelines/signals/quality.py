"""Quality of a document: a fastText classifier per domain, trained here on examples of what is wanted (DCLM,
2406.11794).

The positives are the user's, the negatives a sample of the domain's pool; what counts is the rank of a score among
those of the same model, never its value (a classifier across domains mostly sorts by domain). A language with examples
enough has a model of its own, named domain.language. The model reads the head, middle and tail of a text, 2,000 bytes
each, so that neither length nor boilerplate at the top decides (a scorer of the first 4 KB only was a real bug in the
wild); it averages over their words, so one prediction is the mean over the three.

fastText trains; a compiled pass predicts, several times as fast and without Python strings. With two labels the model
is linear in its features, the words and the hashed pairs of words: one weight each, and the probability is the logistic
function of their mean. fastText's own prediction is the oracle in the tests.

A score says how like the words of a text are to those of the positives, as far as these differ from the pool's. It does
not say that a text is good. What tells the two kinds apart may be a source's way of writing, which other sources do not
share; the order of words hardly counts, so that a page and its shuffled words score alike (`order` sees that); and what
is true, new or meant honestly is not seen at all. How far this holds of a model, its card says (`pipelines.models`:
audit, limits).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipelines.texts import fasttext_file
from pipelines.texts.characters import FOLD, Strings, decode, encode, read_only, utf8
from pipelines.texts.fasttext_file import END, PREFIX, fnv, row_of
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column(
        "quality",
        "double",
        "probability of being like the positives of its domain; null where the domain has no model",
        nullable=True,
    ),
    Column(
        "quality_model",
        "string",
        "the model that the score is of: a domain, or domain.language; null without one",
        nullable=True,
    ),
)
WINDOW_BYTES = 2000
EXCERPT_BYTES = 3 * (WINDOW_BYTES + 3) * 3 // 2 + 3  # lower case may take three bytes for two
WANTED, OTHER = "__label__wanted", "__label__other"


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document. known: `domain` and `lang` of every document."""
    names = models_of(known, context)
    logits = np.full(len(texts), np.nan)
    data, offsets = utf8(texts)
    for name, model in context.quality_models.items():
        chosen = np.flatnonzero(pc.equal(names, name).fill_null(False))
        _score_batch(data, offsets, chosen, FOLD, np.empty(EXCERPT_BYTES, np.uint8), weights_of(model), logits)
    return [pa.array(_logistic(logits), from_pandas=True), names]  # NaN is null


def models_of(known: dict[str, pa.Array], context: Context) -> pa.Array:
    """The name of the model that scores each document: its language's if there is one, else its domain's, else null."""
    names = pa.nulls(len(known["domain"]), pa.string())
    if not context.quality_models:
        return names
    domains = known["domain"].cast(pa.string())
    for exact in (domains, pc.binary_join_element_wise(domains, known["lang"].cast(pa.string()), ".")):
        names = pc.if_else(pc.is_in(exact, pa.array(list(context.quality_models))), exact, names)
    return names


def score(texts: Strings, model: bytes) -> np.ndarray:
    """Probability of being like the positives, float64, of each text."""
    logits = np.empty(len(texts))
    _score_batch(
        *utf8(texts), np.arange(len(texts)), FOLD, np.empty(EXCERPT_BYTES, np.uint8), weights_of(model), logits
    )
    return _logistic(logits)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def excerpt(text: str) -> str:
    """What training reads of a text: one line in lower case, without what fastText takes for a label or the end of a
    line."""
    room = np.empty(EXCERPT_BYTES, np.uint8)
    size = _excerpt(utf8(pa.array([text]))[0], FOLD, room)
    return room[:size].tobytes().decode().replace(PREFIX, " ").replace("</s>", " ")


class Weights(NamedTuple):
    """A two-label fastText model with word pairs as one weight a feature."""

    words: fasttext_file.Words
    weights: np.ndarray  # float32[words + buckets]: half a megabyte, which a core's own cache holds


@functools.lru_cache(maxsize=64)
def weights_of(model: bytes) -> Weights:
    """The weights of a model, from the bytes of its file."""
    file = fasttext_file.read(model)
    wanted = file.labels.index(WANTED.removeprefix(PREFIX))
    return Weights(
        fasttext_file.words_of(file.words), read_only(file.inputs @ (file.outputs[wanted] - file.outputs[1 - wanted]))
    )


@njit(cache=True, nogil=True)
def _excerpt(text, fold, out):
    """Write the folded text, or its three windows, to out; bytes written."""
    if len(text) <= 3 * WINDOW_BYTES:
        return _window(text, 0, len(text), fold, out, 0)
    at = 0
    for begin in (0, (len(text) - WINDOW_BYTES) // 2, len(text) - WINDOW_BYTES):
        at = _window(text, begin, begin + WINDOW_BYTES, fold, out, at)
    return at


@njit
def _window(text, i, end, fold, out, at):
    """Append the code points that begin in text[i:end], in lower case, a space for white space and one at the end."""
    while i < end and text[i] & 0xC0 == 0x80:
        i += 1
    while i < end:
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        at = encode(fold[code], out, at)
        i += width
    out[at] = 32
    return at + 1


@njit(cache=True, nogil=True)
def _score_batch(data, offsets, chosen, fold, out, model, logits):
    for d in chosen:
        size = _excerpt(data[offsets[d] : offsets[d + 1]], fold, out)
        logits[d] = _logit(out[:size], model)


@njit
def _logit(text, model):
    """Mean weight of the words, of </s> behind them, and of each two neighbours."""
    n_words = len(model.words.offsets) - 1
    total, n = 0.0, 0
    begin, previous, has_previous = 0, np.uint64(0), False
    for i in range(len(text) + 1):
        at_end = i == len(text)
        if at_end or text[i] == 32 or text[i] == 0:
            if i > begin or at_end:
                hash = fnv(END) if at_end else fnv(text[begin:i])
                row = row_of(model.words, hash, END) if at_end else row_of(model.words, hash, text[begin:i])
                if row >= 0:
                    total += model.weights[row]
                    n += 1
                signed = np.uint64(np.int64(np.int32(hash)))  # fastText widens the hash as a signed number
                if has_previous:
                    pair = (previous * np.uint64(116049371) + signed) % np.uint64(len(model.weights) - n_words)
                    total += model.weights[n_words + np.int64(pair)]
                    n += 1
                previous, has_previous = signed, True
            begin = i + 1
    return total / max(n, 1)
