"""fastText's files, read without it (Joulin et al., 1607.01759, 1612.03651): what language and quality share."""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.texts.characters import read_only
from pipelines.texts.find import equal

PREFIX = "__label__"
MAGIC, VERSION = 793_712_314, 12
ARGUMENTS = (
    "dim",
    "ws",
    "epoch",
    "minCount",
    "neg",
    "wordNgrams",
    "loss",
    "model",
    "bucket",
    "minn",
    "maxn",
    "lrUpdateRate",
)


class File(NamedTuple):
    """What a fastText model holds."""

    arguments: dict[str, int]
    words: list[bytes]
    labels: list[str]  # in the order of their counts, the most frequent first
    counts: np.ndarray  # int64, of the labels
    # int32, of the hashed features that were kept, in the order of their rows; None: all of them
    buckets: np.ndarray | None
    inputs: np.ndarray  # float32[words + kept buckets, dim]
    outputs: np.ndarray  # float32[labels, dim]


@functools.lru_cache(maxsize=16)
def read(model: bytes) -> File:
    """The content of a model's file, .bin or .ftz (product quantisation is undone: row = norm * centroids).

    Raises ValueError for other content. Remembered: a Python worker that Spark uses again, batch after batch, reads
    once.
    """
    magic, version, *numbers = struct.unpack_from("<14i", model.ljust(64, b"\0"))
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(
            f"expected a fastText model of version {VERSION}, found {len(model):,} bytes that begin with {model[:8]!r}"
        )
    reader = _Reader(model, 64)  # behind the twelve arguments stands t, a double
    n_entries, n_words, _, _, n_pruned = reader.take("<3i2q")
    entries = [reader.entry() for _ in range(n_entries)]
    buckets = reader.array("<i4", 2 * n_pruned).reshape(-1, 2) if n_pruned >= 0 else None
    inputs = reader.matrix(*reader.take("<?"))
    outputs = reader.matrix(*reader.take("<?"))
    return File(
        dict(zip(ARGUMENTS, numbers, strict=True)),
        [word for word, _ in entries[:n_words]],
        [label.decode().removeprefix(PREFIX) for label, _ in entries[n_words:]],
        np.array([count for _, count in entries[n_words:]], np.int64),
        None if buckets is None else buckets[np.argsort(buckets[:, 1]), 0],
        inputs,
        outputs,
    )


class _Reader:
    """A place in the bytes of a file."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def array(self, kind: str, n: int) -> np.ndarray:
        values = np.frombuffer(self.data, kind, n, self.at)
        self.at += values.nbytes
        return values

    def entry(self) -> tuple[bytes, int]:
        """A word or label and its count."""
        end = self.data.index(b"\0", self.at)
        word, self.at = self.data[self.at : end], end + 1
        return word, self.take("<qb")[0]

    def matrix(self, quantised: bool) -> np.ndarray:
        if not quantised:
            rows, columns = self.take("<2q")
            return self.array("<f4", rows * columns).reshape(rows, columns)
        has_norms, rows, _, n_codes = self.take("<?2qi")
        codes = self.array("u1", n_codes)
        matrix = self.centroids(codes.reshape(rows, -1))
        return matrix * self.centroids(self.array("u1", rows).reshape(rows, 1)) if has_norms else matrix

    def centroids(self, codes: np.ndarray) -> np.ndarray:
        """float32[rows, dim] that uint8[rows, parts] stand for."""
        dim, parts, width, last = self.take("<4i")
        table = self.array("<f4", 256 * dim)
        whole = 256 * width * (parts - 1)  # the last part of a row may be narrower
        first = (
            table[:whole].reshape(parts - 1, 256, width)[np.arange(parts - 1), codes[:, :-1]].reshape(len(codes), -1)
        )
        return np.concatenate([first, table[whole:].reshape(256, last)[codes[:, -1]]], axis=1)


# ---- words ----


class Words(NamedTuple):
    """A vocabulary as a hash table, at most half full."""

    hashes: np.ndarray  # uint32[slots]
    rows: np.ndarray  # int32[slots], the words' rows; -1 in free slots
    data: np.ndarray  # uint8, the words one behind the other: two words can have one hash
    offsets: np.ndarray  # int64[words + 1]


def words_of(words: list[bytes]) -> Words:
    """The table of a vocabulary; a word's row is its place."""
    n_slots = 2 << len(words).bit_length()
    hashes, rows = np.zeros(n_slots, np.uint32), np.full(n_slots, -1, np.int32)
    data, offsets = np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)], dtype=np.int64)
    table = Words(hashes, rows, read_only(data), read_only(offsets))
    _enter(table)
    return Words(read_only(hashes), read_only(rows), table.data, table.offsets)


@njit
def fnv(text):
    """fastText's hash of a word: FNV-1a of bytes as signed numbers."""
    hash = np.uint32(2166136261)
    for byte in text:
        hash = np.uint32((hash ^ np.uint32(np.int8(byte))) * np.uint32(16777619))  # numba widens the product
    return hash


@njit(cache=True)
def _enter(words):
    for row in range(len(words.offsets) - 1):
        hash = fnv(words.data[words.offsets[row] : words.offsets[row + 1]])
        slot = np.int64(hash) & (len(words.rows) - 1)
        while words.rows[slot] >= 0:
            slot = (slot + 1) & (len(words.rows) - 1)
        words.hashes[slot], words.rows[slot] = hash, row


@njit
def row_of(words, hash, text):
    """The row of a word, given with its hash; -1 where the vocabulary lacks it."""
    slot = np.int64(hash) & (len(words.rows) - 1)
    while words.rows[slot] >= 0:
        row = words.rows[slot]
        if words.hashes[slot] == hash and equal(words.data[words.offsets[row] : words.offsets[row + 1]], text):
            return row
        slot = (slot + 1) & (len(words.rows) - 1)
    return -1


END = np.frombuffer(b"</s>", np.uint8)  # the word that ends each text
