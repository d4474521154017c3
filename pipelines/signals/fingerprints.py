"""Fingerprints: the hash that exact copies share, and the MinHash signature whose bands near copies share.

What words and shingles are, `pipelines.texts.words` says. The similarity of two documents is the Jaccard
index of their sets of shingles.

The signature is one-permutation hashing: each shingle falls into one of bands * rows bins, each bin keeps its least
value, and an empty bin takes that of another by optimal densification (Shrivastava 2017, ICML). Two signatures
agree in an entry with probability J; the share that agrees estimates J with a standard error of at most
sqrt(J (1 - J) / (bands * rows)): measured .037 at 112 entries where theory allows .040, at half the time of 112
permutations. `rows` entries hash to the key of a band; documents meet that share one, which happens with probability
1 - (1 - J^rows)^bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import xxhash
from numba import njit

from pipelines.texts.characters import Strings, mix64, utf8
from pipelines.texts.words import WORD_FOLD, fold_text, folded_room, hash_words, join_words, numbers, room
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column(
        "text_hash",
        "string",
        "32 hex digits: xxh3-128 of the text in lower case, white space folded to one space and trimmed",
    ),
    Column("n_shingles", "int", "shingles, repeats included; 0 only without words"),
    Column("signature", "binary", "MinHash, little-endian uint32[bands * rows]; all ones without words"),
    Column("band_keys", "array<bigint>", "one key a band, bands told apart by their hash; empty without words"),
)
EMPTY = np.uint32(0xFFFFFFFF)  # a bin without a shingle


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    data, offsets = utf8(texts)
    folded = np.empty(folded_room(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(texts) + 1, np.int64)
    n_shingles = np.zeros(len(texts), np.int32)
    signatures = np.empty((len(texts), context.bands * context.rows), np.uint32)
    keys = np.empty((len(texts), context.bands), np.int64)
    outputs = folded, ends, n_shingles, signatures, keys
    _fingerprint_batch(data, offsets, WORD_FOLD, *room(offsets), context.ngram, np.uint64(context.seed), *outputs)
    return [_text_hashes(folded, ends), pa.array(n_shingles), _binaries(signatures), _lists(keys, n_shingles > 0)]


def estimate(signatures_a: pa.BinaryArray, signatures_b: pa.BinaryArray) -> np.ndarray:
    """Estimated Jaccard index of each pair of signatures: the share of entries that agree, float64."""
    return (matrix(signatures_a) == matrix(signatures_b)).mean(axis=1)


def matrix(signatures: pa.BinaryArray) -> np.ndarray:
    """Signatures as uint32[documents, entries]; sliced or not."""
    values, bounds = numbers(signatures, np.dtype("<u4"))
    return values[bounds[0] : bounds[-1]].reshape(len(signatures), -1)


def collision_probability(j: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """Chance that two documents of Jaccard index j share a band."""
    return 1 - (1 - j**rows) ** bands


def _text_hashes(folded: np.ndarray, ends: np.ndarray) -> pa.Array:
    bounds, view = ends.tolist(), memoryview(folded)
    return pa.array(
        [xxhash.xxh3_128_hexdigest(view[begin:end]) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)],
        pa.string(),
    )


def _binaries(signatures: np.ndarray) -> pa.BinaryArray:
    n, width = signatures.shape
    offsets = np.arange(n + 1, dtype=np.int32) * (4 * width)
    return pa.BinaryArray.from_buffers(
        pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(signatures.astype("<u4", copy=False))]
    )


def _lists(keys: np.ndarray, has_words: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(has_words * keys.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys[has_words].ravel()))


@njit
def _sign(shingles, n, seed, signature):
    """One-permutation MinHash of n > 0 shingles."""
    bins = np.uint64(len(signature))
    signature[:] = EMPTY
    for i in range(n):
        x = mix64(shingles[i] ^ seed)
        at = (x >> np.uint64(32)) * bins >> np.uint64(32)
        signature[at] = min(signature[at], np.uint32(x))


@njit
def _densify(signature):
    """Fill the empty bins, at least one of which is not: bin k takes from the first full one of a random row of bins,
    the same row in every document, so that two documents with equal full bins agree in the empty ones too."""
    bins = np.uint64(len(signature))
    full = signature != EMPTY
    for k in range(len(signature)):
        source, attempt = np.uint64(k), np.uint64(k) << np.uint64(32)
        while not full[source]:
            attempt += np.uint64(1)
            source = (mix64(attempt) >> np.uint64(32)) * bins >> np.uint64(32)
        signature[k] = signature[source]


@njit
def _band_keys(signature, keys):
    rows = len(signature) // len(keys)
    for band in range(len(keys)):
        key = mix64(np.uint64(band + 1))
        for k in range(band * rows, (band + 1) * rows):
            key = mix64(key ^ np.uint64(signature[k]))
        keys[band] = np.int64(key)


@njit(cache=True, nogil=True)
def _fingerprint_batch(data, offsets, fold, edges, words, ngram, seed, folded, ends, n_shingles, signatures, keys):
    for d in range(len(offsets) - 1):
        ends[d + 1], n_words = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, ends[d], edges)
        hash_words(folded, ends[d], edges, n_words, words)
        n_shingles[d] = join_words(words, n_words, ngram)
        _sign(words, n_shingles[d], seed, signatures[d])
        if n_shingles[d] > 0:
            _densify(signatures[d])
            _band_keys(signatures[d], keys[d])
