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

from pipelines.decontaminate.plain import plain_batch
from pipelines.texts.characters import Strings, longest
from pipelines.texts.words import WORD_FOLD, fold_text, folded_room, hash_words, join_words, room

COMMON = 256  # passages: more than the questions on one text, fewer than the items of a benchmark that begin alike
FLOOR = 0.2  # covers below this are not told, so that lower thresholds than the recipe's can be tried
RUN_WORDS = 13  # a stretch of so many words is told whatever the cover (Brown et al. 2005.14165, GPT-3)
FILTER_BITS = 16  # a key, at least: some 2 % of other n-grams pass the filter
NEVER = np.int32(2**31 - 1)


class Index(NamedTuple):
    """What the compiled passes need: G n-grams of P passages, by hash.

    keys: uint64[G], ascending. buckets: int32, where the keys of each value of their highest `64 - shift` bits begin.
    filter: uint64, two bits of one word for each key. owners[owner_bounds[g] : owner_bounds[g + 1]]: int32, passages of
    n-gram g. grams[bounds[p] : bounds[p + 1]]: int32, the n-grams of passage p in order, numbered as in keys. n_words,
    distinct (n-grams that count), least (so many of these a document must hold to be looked at): int32[P]. is_short:
    bool[P].
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
    ngram: int


def grams(texts: Strings, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of the n-grams of each text in order (uint64, none below n words), their bounds, and the numbers of
    words."""
    data, offsets = plain_batch(texts)
    hashes = np.empty((offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64)
    bounds, n_words = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts), np.int32)
    folded = np.empty(folded_room(longest(offsets)), np.uint8)
    _gram_batch(data, offsets, WORD_FOLD, *room(offsets), folded, ngram, hashes, bounds, n_words)
    return hashes[: bounds[-1]].copy(), bounds, n_words


def build(texts: Strings, ngram: int, short: int, bucket_bits: int | None = None) -> Index:
    """Index the passages `texts`, all different. `bucket_bits` is for tests: few make keys meet in one bucket."""
    hashes, bounds, n_words = grams(texts, ngram)
    keys, places = np.unique(hashes, return_inverse=True)
    places = places.astype(np.int32)
    bits = max(1, len(keys).bit_length()) if bucket_bits is None else bucket_bits
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    buckets = np.append(np.searchsorted(keys, edges), len(keys)).astype(np.int32)
    owner_bounds, owners, distinct = _owners(places, bounds, len(keys))
    filter = np.zeros(1 << max(1, (len(keys) * FILTER_BITS // 64).bit_length()), np.uint64)
    _set_filter(keys, filter)
    is_short = n_words < short
    least = np.minimum(np.ceil(FLOOR * distinct), RUN_WORDS - ngram + 1).astype(np.int32)
    known = distinct >= np.where(is_short, 1, max(1, RUN_WORDS - ngram + 1))
    least = np.where(known, np.where(is_short, distinct, np.maximum(least, 1)), NEVER).astype(np.int32)
    return Index(
        keys,
        64 - bits,
        buckets,
        filter,
        owner_bounds,
        owners,
        bounds,
        places,
        n_words,
        distinct,
        least,
        is_short,
        ngram,
    )


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
def _gram_batch(data, offsets, fold, edges, words, folded, ngram, hashes, bounds, n_words):
    for d in range(len(offsets) - 1):
        _, n = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        n_words[d] = n
        hash_words(folded, 0, edges, n, words)
        n = join_words(words, n, ngram) if n >= ngram else 0
        hashes[bounds[d] : bounds[d] + n] = words[:n]
        bounds[d + 1] = bounds[d] + n


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


@njit
def number(hash, index):
    """The place of a hash among the keys, -1 where it is none of them."""
    bucket = hash >> np.uint64(index.shift)
    for i in range(index.buckets[bucket], index.buckets[bucket + np.uint64(1)]):
        if index.keys[i] == hash:
            return i
    return -1
