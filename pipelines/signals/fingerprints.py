"""Fingerprints: the hash that exact copies share, and the MinHash signature whose bands near copies share.

Words are runs of letters, digits and _ (Python's \\w) in lower case; a shingle is the 64-bit hash of `ngram` words in a
row, of all words where there are fewer. The similarity of two documents is the Jaccard index of their shingle sets.

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

from pipelines.signals.characters import FOLD, IS_ALNUM, Strings, constant, decode, encode, longest, mix64, table, utf8
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.measure import Context

COLUMNS = (
    Column("text_hash", "string", "32 hex digits: xxh3-128 of the text in lower case, white space folded to one space and trimmed"),
    Column("n_shingles", "int", "shingles, repeats included; 0 only without words"),
    Column("signature", "binary", "MinHash, little-endian uint32[bands * rows]; all ones without words"),
    Column("band_keys", "array<bigint>", "one key a band, bands told apart by their hash; empty without words"),
)

EMPTY = np.uint32(0xFFFFFFFF)  # a bin without a shingle
FNV, FNV_START, COMBINE = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)


def _word_fold() -> np.ndarray:
    """FOLD with bit 31 set where a code point belongs to a word."""
    is_word = table(IS_ALNUM, 1)
    is_word[ord("_")] = 1
    return FOLD | is_word.astype(np.uint32) << np.uint32(31)


WORD_FOLD = _word_fold()


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    data, offsets = utf8(texts)
    folded = np.empty(3 * (offsets[-1] - offsets[0]) // 2 + 1, np.uint8)  # lower case may take three bytes for two: Ⱥ
    ends = np.zeros(len(texts) + 1, np.int64)
    n_shingles = np.zeros(len(texts), np.int32)
    signatures = np.empty((len(texts), context.bands * context.rows), np.uint32)
    keys = np.empty((len(texts), context.bands), np.int64)
    outputs = folded, ends, n_shingles, signatures, keys
    _fingerprint_batch(data, offsets, WORD_FOLD, _room(offsets), context.ngram, np.uint64(context.seed), *outputs)
    return [_text_hashes(folded, ends), pa.array(n_shingles), _binaries(signatures), _lists(keys, n_shingles > 0)]


def shingle_sets(texts: Strings, ngram: int) -> pa.BinaryArray:
    """The set of shingles of each text: distinct int64 in ascending order, as bytes."""
    data, offsets = utf8(texts)
    shingles = np.empty((offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64)  # one word needs two bytes, but for the last
    bounds = np.zeros(len(texts) + 1, np.int64)
    folded = np.empty(2 * longest(offsets) + 1, np.uint8)
    _shingle_batch(data, offsets, WORD_FOLD, _room(offsets), folded, ngram, shingles, bounds)
    sets = shingles.view(np.int64)
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        sets[begin:end].sort()  # NumPy's vector sort is several times numba's
    n = _distinct(sets, bounds)
    offsets = pa.py_buffer((8 * bounds).astype(np.int32))
    return pa.BinaryArray.from_buffers(pa.binary(), len(texts), [None, offsets, pa.py_buffer(sets[:n])])


def alike(sets: pa.BinaryArray, a: pa.Array, b: pa.Array, threshold: float) -> np.ndarray:
    """Whether the exact Jaccard index of each pair of sets reaches the threshold: bool; that of two empty ones is 0.

    sets: as `shingle_sets` gives them, sliced or not. a, b: int32, which of them are compared.
    """
    values, bounds = _values(sets, np.int64)
    return _reaches(constant(values), constant(bounds), constant(a.to_numpy()), constant(b.to_numpy()), threshold)


def estimate(signatures_a: pa.BinaryArray, signatures_b: pa.BinaryArray) -> np.ndarray:
    """Estimated Jaccard index of each pair of signatures: the share of entries that agree, float64."""
    return (matrix(signatures_a) == matrix(signatures_b)).mean(axis=1)


def matrix(signatures: pa.BinaryArray) -> np.ndarray:
    """Signatures as uint32[documents, entries]; sliced or not."""
    values, bounds = _values(signatures, np.dtype("<u4"))
    return values[bounds[0] : bounds[-1]].reshape(len(signatures), -1)


def collision_probability(j: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """Chance that two documents of Jaccard index j share a band."""
    return 1 - (1 - j**rows) ** bands


def _room(offsets: np.ndarray) -> np.ndarray:
    """Space for the word hashes of the longest document: at most every other byte begins a word."""
    return np.empty(longest(offsets) // 2 + 2, np.uint64)


def _text_hashes(folded: np.ndarray, ends: np.ndarray) -> pa.Array:
    bounds, view = ends.tolist(), memoryview(folded)
    return pa.array([xxhash.xxh3_128_hexdigest(view[begin:end]) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)], pa.string())


def _binaries(signatures: np.ndarray) -> pa.BinaryArray:
    n, width = signatures.shape
    offsets = np.arange(n + 1, dtype=np.int32) * (4 * width)
    return pa.BinaryArray.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(signatures.astype("<u4", copy=False))])


def _lists(keys: np.ndarray, has_words: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(has_words * keys.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys[has_words].ravel()))


def _values(items: pa.BinaryArray, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the kind in an array's buffer, and int64 bounds of each item's; sliced arrays keep their place."""
    _, offsets, data = items.buffers()
    bounds = np.frombuffer(offsets, np.int32 if items.type == pa.binary() else np.int64)[items.offset :][: len(items) + 1]
    size = np.dtype(kind).itemsize
    return np.frombuffer((data or b"")[: bounds[-1]], kind), bounds.astype(np.int64) // size


@njit
def _scan(text, fold, words, folded, at):
    """Write the folded text to folded[at:] and the hashes of its words; the place behind it and the number of words."""
    begin, n, i = at, 0, 0
    hash, inside = FNV_START, False
    while i < len(text):
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        entry = fold[code]
        code = entry & np.uint32(0x7FFFFFFF)
        if code < 128:
            folded[at] = code
            at += code != 32 or at > begin and folded[at - 1] != 32
        else:
            at = encode(code, folded, at)
        is_word = entry != code
        words[n] = hash
        n += inside and not is_word
        hash = (hash ^ np.uint64(code)) * FNV if is_word else FNV_START
        inside = is_word
        i += width
    words[n] = hash
    n += inside
    return at - (at > begin and folded[at - 1] == 32), n


@njit
def _shingles(words, n_words, ngram):
    """Replace the hashes of words by those of shingles; how many there are. A rolling polynomial, mixed at its end."""
    if n_words == 0:
        return 0
    size = min(ngram, n_words)
    oldest = np.uint64(1)  # weight of the first word of a shingle
    for _ in range(size - 1):
        oldest *= COMBINE
    total = np.uint64(0)
    for i in range(n_words):
        words[i] = mix64(words[i])
        total = total * COMBINE + words[i]
        if i >= size - 1:
            begin = i - size + 1
            first = words[begin]
            words[begin] = mix64(total)
            total -= first * oldest
    return n_words - size + 1


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
    """Fill the empty bins, at least one of which is not: bin k takes from the first full one of a random row of bins, the same
    row in every document, so that two documents with equal full bins agree in the empty ones too."""
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
def _fingerprint_batch(data, offsets, fold, words, ngram, seed, folded, ends, n_shingles, signatures, keys):
    for d in range(len(offsets) - 1):
        ends[d + 1], n_words = _scan(data[offsets[d] : offsets[d + 1]], fold, words, folded, ends[d])
        n_shingles[d] = _shingles(words, n_words, ngram)
        _sign(words, n_shingles[d], seed, signatures[d])
        if n_shingles[d] > 0:
            _densify(signatures[d])
            _band_keys(signatures[d], keys[d])


@njit(cache=True, nogil=True)
def _shingle_batch(data, offsets, fold, words, folded, ngram, shingles, bounds):
    for d in range(len(offsets) - 1):
        _, n_words = _scan(data[offsets[d] : offsets[d + 1]], fold, words, folded, 0)
        n = _shingles(words, n_words, ngram)
        shingles[bounds[d] : bounds[d] + n] = words[:n]
        bounds[d + 1] = bounds[d] + n


@njit(cache=True, nogil=True)
def _distinct(sets, bounds):
    """Drop equal neighbours inside each set, in place; bounds follow. How many values are left."""
    n = begin = 0
    for d in range(len(bounds) - 1):
        end = bounds[d + 1]
        for i in range(begin, end):
            if i == begin or sets[i] != sets[i - 1]:
                sets[n] = sets[i]
                n += 1
        bounds[d + 1] = n
        begin = end
    return n


@njit(cache=True, nogil=True)
def _reaches(values, bounds, first, second, threshold):
    out = np.zeros(len(first), np.bool_)
    for pair in range(len(out)):
        a, b = first[pair], second[pair]
        out[pair] = _merge(values[bounds[a] : bounds[a + 1]], values[bounds[b] : bounds[b + 1]], threshold)
    return out


@njit
def _merge(a, b, threshold):
    """Whether |a and b| / |a or b| >= threshold of ascending values. A merge stops when what is left cannot reach it."""
    total = len(a) + len(b)
    needed = int(threshold / (1 + threshold) * total)
    while needed < total and needed / (total - needed) < threshold:  # exact, the line above but for rounding
        needed += 1
    while needed > 0 and (needed - 1) / (total - needed + 1) >= threshold:
        needed -= 1
    spare_a, spare_b = len(a) - needed, len(b) - needed  # how many values of each may go without a twin
    i = j = common = 0
    while i < len(a) and j < len(b) and i - common <= spare_a and j - common <= spare_b:
        x, y = a[i], b[j]
        common += x == y
        i += x <= y
        j += y <= x
    return total > 0 and common >= needed
