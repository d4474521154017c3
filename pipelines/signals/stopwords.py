"""Stop words of a document's own language (FineWeb-2, Penedo et al. 2506.20920), by the lists that
pipelines.models.languages fits.

A word is a run of letters and digits here, in lower case code point by code point. Its list is that of the language
that the language family found; without one the document has no count, and fails no rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.texts.characters import FOLD, IS_ALNUM, Strings, decode, mix64, table, utf8
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column(
        "language_stop_words",
        "int",
        "how many stop words of its language's list occur; null without a list",
        nullable=True,
    ),
)
ALNUM = table(IS_ALNUM, 1)
SLOTS = 256  # of a list's table
MOST_WORDS = 64  # of a list: the bits of an integer


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The column of COLUMNS, one value a document. known: `lang` of every document."""
    places = {lang: place for place, lang in enumerate(sorted(context.stop_words))}
    lists = np.array([places.get(lang, -1) for lang in known["lang"].to_pylist()], np.int64)
    tables = (
        np.stack([_table(context.stop_words[lang]) for lang in places]) if places else np.zeros((1, SLOTS), np.uint64)
    )
    counts = _count(*utf8(texts), lists, tables, ALNUM, FOLD)
    return [pa.array(counts, pa.int32(), mask=lists < 0)]


def _table(words: tuple[str, ...]) -> np.ndarray:
    """Hashes of the words, uint64[SLOTS], each at its place or the next free one; 0 where there is none."""
    slots = np.zeros(SLOTS, np.uint64)
    for word in sorted(set(words))[:MOST_WORDS]:
        key = int(_hash_word(np.frombuffer(word.encode(), np.uint8), FOLD))
        slot = key % SLOTS
        while slots[slot]:
            slot = (slot + 1) % SLOTS
        slots[slot] = key
    return slots


@njit(cache=True)
def _hash_word(word, fold):
    key, i = np.uint64(0), 0
    while i < len(word):
        code, width = np.uint32(word[i]), 1
        if code >= 128:
            code, width = decode(word, i)
        key = mix64(key + np.uint64(fold[code]) + np.uint64(1))
        i += width
    return key


@njit(cache=True, nogil=True)
def _count(data, offsets, lists, tables, alnum, fold):
    out = np.zeros(len(lists), np.int64)
    for d in range(len(lists)):
        if lists[d] >= 0:
            out[d] = _distinct(data[offsets[d] : offsets[d + 1]], tables[lists[d]], alnum, fold)
    return out


@njit
def _distinct(text, slots, alnum, fold):
    """How many of a table's words occur."""
    met = np.zeros(len(slots), np.uint8)
    key, i = np.uint64(0), 0
    while i <= len(text):
        code, width = np.uint32(32), 1
        if i < len(text):
            code = np.uint32(text[i])
            if code >= 128:
                code, width = decode(text, i)
        if alnum[code]:
            key = mix64(key + np.uint64(fold[code]) + np.uint64(1))
        elif key:
            slot = np.int64(key % np.uint64(len(slots)))
            while slots[slot] and slots[slot] != key:
                slot = (slot + 1) % len(slots)
            met[slot] |= slots[slot] == key
            key = np.uint64(0)
        i += width
    return met.sum()
