"""Order of a document's words: whether neighbours stand as they do in running text.

Rules and quality models go by which words a text has, and hardly by their order: shuffled, a page scores as before.
Here each pair of neighbouring words, hashed to a bucket of its language's table, has a weight, the logarithm of how
much oftener pairs of the bucket stand in text than in the same text with its words shuffled; `word_order` is the mean
over the pairs of head, middle and tail, in nats. Prose that the tables were not fitted to has .1 to .3, its words
shuffled -.5 to -.3 (AUC .96 to 1; of pages of commands .83 to .99: benchmarks/results/order.md), a list of names about
nothing. Words are those of fingerprints; two make a pair with nothing but white space between them, in scripts without
spaces with nothing.

It tells text from words in disorder and from lists of keywords. It cannot tell good text from bad, true from false, ham
from spam: these have the same grammar; and sentences or lines in another order are the same to it.

The tables are fitted by `pipelines.models.order` and lie here, rather than being trained for each home: so a value
means the same everywhere, rules can hold it against a threshold, and it needs neither examples nor a network.
"""

from __future__ import annotations

import functools
import io
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.texts.characters import Strings, mix64, read_only, utf8
from pipelines.texts.words import COMBINE, WORD_FOLD, fold_text, folded_room, hash_words, room
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column(
        "word_order",
        "double",
        "mean weight of two neighbouring words, text against shuffled words, in nats; "
        "null in a language without a table, or for fewer than 32 pairs",
        nullable=True,
    ),
)
FILE = "order.npy"  # of TABLE
BITS = 15
BUCKETS = 1 << BITS
TABLE = np.dtype([("lang", "S3"), ("weights", np.int8, BUCKETS)])
STEPS = 32  # of a weight, to the nat: from -4 to 4
WINDOW_BYTES = 1000  # at head, middle and tail; a text up to three times as long is read whole
LEAST_PAIRS = 32


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The column of COLUMNS, one value a document. known: `lang` of every document."""
    languages, weights = tables()
    places = {lang: place for place, lang in enumerate(languages)}
    chosen = np.array([places.get(lang, -1) for lang in known["lang"].to_pylist()], np.int64)
    return [pa.array(score(texts, chosen, weights), from_pandas=True)]  # NaN is null


@functools.lru_cache(maxsize=1)
def tables() -> tuple[tuple[str, ...], np.ndarray]:
    """The languages that have a table, and their weights, int8[languages, BUCKETS]."""
    stored = np.load(io.BytesIO(files(__package__).joinpath(FILE).read_bytes()))
    return tuple(lang.decode() for lang in stored["lang"]), read_only(np.ascontiguousarray(stored["weights"]))


def score(texts: Strings, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64: the mean weight of each text's pairs, by the table of the number in `chosen` (int64, -1 for none); NaN
    where there are too few."""
    scores = np.full(len(texts), np.nan)
    _score_batch(*utf8(texts), WORD_FOLD, *_rooms(), chosen, weights, scores)
    return scores


def count(texts: Strings) -> np.ndarray:
    """int64[BUCKETS]: how often each bucket's pairs stand in what is read of the texts."""
    counts = np.zeros(BUCKETS, np.int64)
    _count_batch(*utf8(texts), WORD_FOLD, *_rooms(), counts)
    return counts


def _rooms() -> tuple[np.ndarray, ...]:
    n_bytes = 3 * WINDOW_BYTES + 8
    return np.empty(folded_room(n_bytes), np.uint8), *room(np.array([0, n_bytes])), np.empty(n_bytes, np.int64)


@njit(cache=True, nogil=True)
def _score_batch(data, offsets, fold, folded, edges, words, pairs, chosen, weights, scores):
    for d in range(len(scores)):
        if chosen[d] < 0:
            continue
        n, table = _pairs(data[offsets[d] : offsets[d + 1]], fold, folded, edges, words, pairs), weights[chosen[d]]
        total = 0
        for i in range(n):
            total += table[pairs[i]]
        if n >= LEAST_PAIRS:
            scores[d] = total / (n * STEPS)


@njit(cache=True, nogil=True)
def _count_batch(data, offsets, fold, folded, edges, words, pairs, counts):
    for d in range(len(offsets) - 1):
        n = _pairs(data[offsets[d] : offsets[d + 1]], fold, folded, edges, words, pairs)
        for i in range(n):
            counts[pairs[i]] += 1


@njit
def _pairs(text, fold, folded, edges, words, pairs):
    """Write the buckets of a text's pairs, or of those in its three windows; how many."""
    if len(text) <= 3 * WINDOW_BYTES:
        return _window(text, fold, folded, edges, words, pairs, 0)
    n = 0
    for begin in (0, (len(text) - WINDOW_BYTES) // 2, len(text) - WINDOW_BYTES):
        end = begin + WINDOW_BYTES
        while text[begin] & 0xC0 == 0x80:
            begin += 1
        n = _window(text[begin:end], fold, folded, edges, words, pairs, n)
    return n


@njit
def _window(text, fold, folded, edges, words, pairs, n):
    """Append the buckets of the pairs in text; how many there are."""
    _, n_words = fold_text(text, fold, folded, 0, edges)
    hash_words(folded, 0, edges, n_words, words)
    for w in range(n_words - 1):
        end, begin = edges[2 * w + 1], edges[2 * w + 2]
        pairs[n] = (mix64(words[w] * COMBINE + words[w + 1])) >> np.uint64(64 - BITS)
        n += begin == end or (begin == end + 1 and folded[end] == 32)
    return n
