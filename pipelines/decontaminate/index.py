"""An index of evaluation items' word n-grams.

Words and their hashes are those of the fingerprints (runs of letters, digits and _, in lower case), so neither case nor
punctuation nor white space tells texts apart. A **passage** is what is searched of an item: all its fields together,
and apart its first field (the question) and every other one of at least `short` words; equal passages of several items
are one.

Passages of fewer than n words are not searched, and n-grams that more than COMMON passages share count for none: they
are of a template, and so is a passage with too few others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.decontaminate.plain import inner, plain_batch
from pipelines.texts.characters import Strings, longest
from pipelines.texts.words import WORD_FOLD, fold_text, folded_room, hash_words, join_words, room

COMMON = 256  # passages: more than the questions on one text, fewer than the items of a benchmark that begin alike
FLOOR = 0.2  # covers below this are not told, so that lower thresholds than the recipe's can be tried
LOOKED_AT = 32  # a document that holds one in so many of a passage's n-grams is looked at
RUN_WORDS = 13  # a stretch of so many words is told whatever the cover (Brown et al. 2005.14165, GPT-3)
FILTER_BITS = 16  # a key, at least: some 2 % of other n-grams pass the filter
NEVER = np.int32(2**31 - 1)


class Index(NamedTuple):
    """What the compiled passes need: G n-grams of P passages, by hash.

    keys: uint64[G], ascending. buckets: int32, where the keys of each value of their highest `64 - shift` bits begin.
    filter: uint64, two bits of one word for each key. owners[owner_bounds[g] : owner_bounds[g + 1]]: int32, passages of
    n-gram g. grams[bounds[p] : bounds[p + 1]]: int32, the n-grams of passage p in order, numbered as in keys. n_words,
    distinct (n-grams that count), least (so many of these a document must hold to be looked at): int32[P]. is_short:
    bool[P]. words[word_bounds[p] : word_bounds[p + 1]]: uint64, the words of passage p, ascending; weights: float32,
    what each of them counts among the passage's, 1 in all.
    """

    keys: np.ndarray
    shift: int
    buckets: np.ndarray
    filter: np.ndarray
    owner_bounds: np.ndarray
    owners: np.ndarray
    bounds: np.ndarray
    grams: np.ndarray
    n_words: np.ndarray
    distinct: np.ndarray
    least: np.ndarray
    is_short: np.ndarray
    words: np.ndarray
    word_bounds: np.ndarray
    weights: np.ndarray
    ngram: int


def grams(texts: Strings, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of the n-grams of each text in order (uint64, none below n words), their bounds, and the numbers of
    words."""
    words, word_bounds = hashed_words(texts)
    return *join_grams(words, word_bounds, ngram), np.diff(word_bounds).astype(np.int32)


def hashed_words(texts: Strings) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each word of each plain text, uint64, and their bounds."""
    data, offsets = plain_batch(texts)
    words, bounds = (
        np.empty((offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64),
        np.zeros(len(texts) + 1, np.int64),
    )
    folded, (edges, _) = np.empty(folded_room(longest(offsets)), np.uint8), room(offsets)
    _word_batch(data, offsets, WORD_FOLD, edges, folded, words, bounds)
    return words[: bounds[-1]].copy(), bounds


def join_grams(words: np.ndarray, bounds: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each n-gram of each text's words, and their bounds."""
    hashes, gram_bounds = np.empty_like(words), np.zeros_like(bounds)
    _join_batch(words, bounds, ngram, hashes, gram_bounds)
    return hashes[: gram_bounds[-1]], gram_bounds


def build(texts: Strings, ngram: int, short: int, bucket_bits: int | None = None) -> Index:
    """Index the passages `texts`, all different. `bucket_bits` is for tests: few make keys meet in one bucket."""
    words, word_bounds = hashed_words(texts)
    (hashes, bounds), n_words = join_grams(words, word_bounds, ngram), np.diff(word_bounds).astype(np.int32)
    keys, places = np.unique(hashes, return_inverse=True)
    places = places.astype(np.int32)
    bits = max(1, len(keys).bit_length()) if bucket_bits is None else bucket_bits
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    buckets = np.append(np.searchsorted(keys, edges), len(keys)).astype(np.int32)
    owner_bounds, owners, distinct = _owners(places, bounds, len(keys))
    is_short = n_words < short
    # below FLOOR, so that edited items are seen; two, as one n-gram over and over meets too many passages
    least = np.minimum(np.clip(distinct // LOOKED_AT, 2, RUN_WORDS - ngram + 1), distinct)
    known = distinct >= np.where(is_short, 1, max(1, RUN_WORDS - ngram + 1))
    least = np.where(known, least, NEVER).astype(np.int32)
    return Index(
        keys,
        64 - bits,
        buckets,
        filter_of(keys),
        owner_bounds,
        owners,
        bounds,
        places,
        n_words,
        distinct,
        least,
        is_short,
        *_weighed(words, word_bounds),
        ngram,
    )


def _weighed(words: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """words, word_bounds and weights of an index: a word weighs as it is rare, log(1 + P / passages that hold it)."""
    of = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    order = np.lexsort((words, of))
    words = words[order]
    known, places = np.unique(words, return_inverse=True)
    pairs = np.unique(np.stack([places, of]), axis=1)
    held = np.bincount(pairs[0], minlength=len(known))
    weights = np.log1p((len(bounds) - 1) / held)[places]
    total = np.bincount(of, weights, len(bounds) - 1)
    return words, bounds, (weights / total[of]).astype(np.float32)


def filter_of(keys: np.ndarray) -> np.ndarray:
    """uint64: two bits of one word for each key."""
    filter = np.zeros(1 << max(1, (len(keys) * FILTER_BITS // 64).bit_length()), np.uint64)
    _set_filter(keys, filter)
    return filter


def _owners(places: np.ndarray, bounds: np.ndarray, n_keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """owner_bounds and owners of an index, n-grams of too many passages left out; and `distinct`, what that leaves of
    each passage."""
    passages = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    pairs = np.unique(places.astype(np.int64) * len(bounds) + passages)
    of_key, owners = pairs // len(bounds), (pairs % len(bounds)).astype(np.int32)
    rare = (np.bincount(of_key, minlength=n_keys) <= COMMON)[of_key]
    of_key, owners = of_key[rare], owners[rare]
    ends = np.cumsum(np.bincount(of_key, minlength=n_keys))
    return np.append(0, ends).astype(np.int64), owners, np.bincount(owners, minlength=len(bounds) - 1).astype(np.int32)


def strings(texts: Sequence[str]) -> pa.Array:
    """Texts as the passes take them."""
    return pa.array(texts, pa.large_string())


@njit(cache=True, nogil=True)
def _word_batch(data, offsets, fold, edges, folded, words, bounds):
    for d in range(len(offsets) - 1):
        _, n = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        hash_words(folded, 0, edges, n, words[bounds[d] :])
        bounds[d + 1] = bounds[d] + n


@njit(cache=True, nogil=True)
def _join_batch(words, bounds, ngram, hashes, gram_bounds):
    for d in range(len(bounds) - 1):
        at, n_words = gram_bounds[d], bounds[d + 1] - bounds[d]
        for w in range(n_words):
            hashes[at + w] = words[bounds[d] + w]
        gram_bounds[d + 1] = at + (join_words(hashes[at:], n_words, ngram) if n_words >= ngram else 0)


@njit(inline="always")
def filter_bits(hash, filter):
    """Where in the filter a hash has its bits, and which: two of one word, so that a look-up is one load."""
    bits = np.uint64(1) << (hash >> np.uint64(26) & np.uint64(63)) | np.uint64(1) << (
        hash >> np.uint64(32) & np.uint64(63)
    )
    return hash & np.uint64(len(filter) - 1), bits


@njit(cache=True, nogil=True)
def _set_filter(keys, filter):
    for key in keys:
        word, bits = filter_bits(key, filter)
        filter[word] |= bits


@inner
def number(hash, index):
    """The place of a hash among the keys, -1 where it is none of them."""
    bucket = hash >> np.uint64(index.shift)
    for i in range(index.buckets[bucket], index.buckets[bucket + np.uint64(1)]):
        if index.keys[i] == hash:
            return i
    return -1
