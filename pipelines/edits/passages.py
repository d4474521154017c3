"""Passages that occur again: where their further copies lie, as spans of bytes. No suffix array: hashes, counted in
Spark.

word      a run of ink; a letter, digit or mark of a script without spaces (`texts.scripts`) is a word by itself
passage   `words` words in a row, whatever white space lies between

Every repeat is found. A passage of W words holds W - k + 1 runs of k = W / 2 words; the least of their hashes is its
seed (winnowing: Schleimer, Wilkerson, Aiken 2003). Equal passages have equal seeds, at different places unless they
overlap, so a passage whose seed was met once in the corpus has no other copy. A text has about one seed in W / 4 words:
these are counted first, and only passages with a seed that repeats are hashed and compared. Two are equal when hash and
seed are, 64 bits each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
from numba import njit
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines import capacity
from pipelines.edits.often import (
    ALONE,
    CLASSES,
    FNV,
    FNV_START,
    LISTED,
    NOTHING,
    Batches,
    repeated_keys,
    rows_of,
    texts_of,
)
from pipelines.spark import in_whole_groups
from pipelines.texts.characters import decode, mix64
from pipelines.texts.words import join_words

# of a document, of each of its passages
GIVEN, EACH = ("doc_id", "priority", "n_bytes"), ("seed", "hash", "start", "end")
PASSAGES = "doc_id string, priority int, n_bytes bigint, part bigint, " + ", ".join(
    f"{name} array<bigint>" for name in EACH
)
SPANS = "doc_id string, n_bytes bigint, start bigint, end bigint"
# Which of two equal passages comes first.
PREFERRED = (("priority", "descending"), ("n_bytes", "descending"), ("doc_id", "ascending"))
CHUNK_ROWS = 1 << 16  # of passages that leave a worker at once


def repeated_passages(texts: DataFrame, words: int, torso: float) -> DataFrame:
    """(doc_id, start, end): what is covered by passages of `words` words that occur earlier; a span ends where the next
    word begins.

    texts: doc_id, priority, n_bytes, text. Earlier is: in a document of higher priority, a longer one, one of smaller
    doc_id, or before it in the same document, where copies that overlap their first one do not count. Each word of a
    span stands, outside of all spans, in an earlier copy. A document that loses more than the share `torso` will be
    dropped, so the others are compared again without such ones: what they hold is not lost with them, if one document
    that stays has it.
    """
    passages(NOTHING, words, seeds(NOTHING, words).view(np.uint64))  # compiled here once, as above
    repeated = repeated_keys(texts.select("doc_id", "text").mapInArrow(_seeds(words), LISTED), 1)
    candidates = texts.select("doc_id", "priority", "n_bytes", "text").join(repeated, "doc_id", how="inner")
    compared = candidates.mapInArrow(_passages(words), PASSAGES).localCheckpoint()  # read twice below
    n_passages = compared.agg(F.sum(F.size("seed"))).first()[0] or 0
    if capacity.fits(passages=n_passages):
        return in_whole_groups(
            compared, [], partial(further_copies, torso=torso), "doc_id string, start bigint, end bigint"
        )
    parts = capacity.parts(passages=n_passages)
    rows = compared.withColumn("one", F.explode(F.arrays_zip(*EACH))).select(*GIVEN, "one.*")
    spans = later_copies(rows, parts).localCheckpoint()
    lost = spans.groupBy("doc_id", "n_bytes").agg(F.sum(F.col("end") - F.col("start")).alias("lost"))
    torsos = lost.where(F.col("lost") > torso * F.col("n_bytes")).select("doc_id")
    others = later_copies(rows.join(torsos, "doc_id", how="left_anti"), parts)
    return others.union(spans.join(torsos, "doc_id", how="left_semi")).select("doc_id", "start", "end")


def later_copies(passages: DataFrame, parts: int) -> DataFrame:
    """(doc_id, n_bytes, start, end): the union of all passages but the first of each; passages: GIVEN, seed, hash,
    start, end. A part holds all copies of its passages, then all spans of its documents."""
    later = in_whole_groups(passages, ["seed", "hash"], later_of_each, SPANS, parts)
    return in_whole_groups(later, ["doc_id"], joined_spans, SPANS, parts)


def later_of_each(rows: pa.Table) -> pa.Table:
    """SPANS of all passages but the first of each; rows: GIVEN, seed, hash, start, end."""
    rows = rows.sort_by([*PREFERRED, ("start", "ascending")]).combine_chunks()
    later = _later(_codes(rows), *(rows.column(name).to_numpy() for name in EACH))
    return rows.select(["doc_id", "n_bytes", "start", "end"]).take(pa.array(later))


def joined_spans(rows: pa.Table) -> pa.Table:
    """SPANS whose neighbours that overlap or touch are one."""
    rows = rows.sort_by([("doc_id", "ascending"), ("start", "ascending")]).combine_chunks()
    ends = rows.column("end").to_numpy()
    begins, lasts = _islands(_codes(rows), rows.column("start").to_numpy(), ends)
    return rows.take(pa.array(begins)).set_column(3, "end", pa.array(ends[lasts]))


def further_copies(rows: pa.Table, torso: float) -> pa.Table:
    """(doc_id, start, end) of what `repeated_passages` finds; rows: PASSAGES, all of them."""
    rows = rows.sort_by([*PREFERRED, ("part", "ascending")]).combine_chunks()
    names = rows.column("doc_id").combine_chunks().dictionary_encode()
    n_bytes = np.empty(len(names.dictionary), np.int64)
    n_bytes[names.indices.to_numpy()] = rows.column("n_bytes").to_numpy()
    lists = [rows.column(name).combine_chunks() for name in EACH]
    documents = np.repeat(names.indices.to_numpy(), np.diff(lists[0].offsets.to_numpy()))
    spans = _but_torsos(documents, n_bytes, torso, *(one.values.to_numpy() for one in lists))
    return pa.table([names.dictionary.take(pa.array(spans[0])), *map(pa.array, spans[1:])], ["doc_id", "start", "end"])


def seeds(text: np.ndarray, words: int) -> np.ndarray:
    """The seeds of a text's passages, int64, one for each place that is the least of some passage; text: uint8."""
    hashes, _ = _split(text)
    return _choose(_rolled(hashes, words // 2), words - words // 2 + 1).view(np.int64)


def passages(text: np.ndarray, words: int, repeated: np.ndarray) -> tuple[np.ndarray, ...]:
    """Seed, hash, first byte and the byte behind each passage whose seed is in `repeated` (uint64, ascending): int64
    each."""
    hashes, begins = _split(text)
    return _select(_rolled(hashes, words // 2), _rolled(hashes, words), begins, words, repeated)


def _split(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each word, and its first byte with the length of the text behind the last."""
    room = len(text) // 2 + 2  # one word needs two bytes, but for the last
    hashes, begins = np.empty(room, np.uint64), np.empty(room, np.int64)
    n = _words(text, CLASSES, hashes, begins)
    return hashes[:n], begins[: n + 1]


def _seeds(words: int) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            keys = pa.array([seeds(text, words) for text in texts_of(batch)], pa.list_(pa.int64()))
            everywhere = pa.repeat("", len(batch))
            yield pa.RecordBatch.from_arrays([batch.column("doc_id"), everywhere, keys], ["doc_id", "group", "keys"])

    return run


def _passages(words: int) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            given = [
                dict(zip(GIVEN, values, strict=True))
                for values in zip(*(batch.column(name) for name in GIVEN), strict=True)
            ]
            for row, text, repeated in zip(given, texts_of(batch), batch.column("keys"), strict=True):
                columns = passages(text, words, np.sort(repeated.values.to_numpy().view(np.uint64)))
                for at in range(0, len(columns[0]), CHUNK_ROWS):
                    lists = ([column[at : at + CHUNK_ROWS]] for column in columns)
                    yield rows_of(row | {"part": pa.scalar(at)}, dict(zip(EACH, lists, strict=True)))

    return run


def _codes(rows: pa.Table) -> np.ndarray:
    """A number for each document."""
    return rows.column("doc_id").combine_chunks().dictionary_encode().indices.to_numpy()


def _but_torsos(
    documents: np.ndarray, n_bytes: np.ndarray, torso: float, *passages: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(documents, starts, ends) of further copies, torsos compared with none; passages: seeds, hashes, starts, ends, in
    the order of preference."""
    spans = _but_the_first(documents, *passages)
    torsos = np.bincount(spans[0], spans[2] - spans[1], len(n_bytes)) > torso * n_bytes
    others = _but_the_first(*(column[~torsos[documents]] for column in (documents, *passages)))
    of_torsos = torsos[spans[0]]
    return tuple(np.concatenate([column, one[of_torsos]]) for column, one in zip(others, spans, strict=True))


def _but_the_first(documents: np.ndarray, seeds: np.ndarray, hashes: np.ndarray, starts: np.ndarray, ends: np.ndarray):
    """(documents, starts, ends): the union of all passages but the first of each."""
    later = _later(documents, seeds, hashes, starts, ends)
    documents, starts, ends = documents[later], starts[later], ends[later]
    begins, lasts = _islands(documents, starts, ends)
    return documents[begins], starts[begins], ends[lasts]


def _later(documents: np.ndarray, seeds: np.ndarray, hashes: np.ndarray, starts: np.ndarray, ends: np.ndarray):
    """Places, ascending, of passages that are not the first of theirs, nor overlap it; in the order of preference."""
    order = np.lexsort((hashes, seeds))
    differs = (np.diff(seeds[order], prepend=0) != 0) | (np.diff(hashes[order], prepend=0) != 0)
    differs[:1] = True
    begins = np.flatnonzero(differs)
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[begins], np.diff(begins, append=len(order)))
    return np.flatnonzero((documents != documents[first]) | (starts >= ends[first]))


def _islands(documents: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first and last span of each run of spans of a document that overlap or touch. A document's spans
    stand together, by start; a later start has a later end, or the same."""
    apart = np.ones(len(starts), bool)
    apart[1:] = (documents[1:] != documents[:-1]) | (starts[1:] > ends[:-1])
    begins = np.flatnonzero(apart)
    return begins, np.append(begins[1:], len(starts))[: len(begins)] - 1


@njit(cache=True, nogil=True)
def _words(text, classes, hashes, begins):
    """Fill hashes[:n] and begins[: n + 1]; returns n."""
    n = i = 0
    key, inside = FNV_START, False
    while i < len(text):
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        here = classes[code]
        if inside and here != 0:
            hashes[n] = mix64(key)
            n += 1
        if not inside or here != 0:
            begins[n], key = i, FNV_START
        key = (key ^ np.uint64(code)) * FNV
        if here == ALONE:
            hashes[n] = mix64(key)
            n += 1
        inside = here == 0
        i += width
    if inside:
        hashes[n] = mix64(key)
        n += 1
    begins[n] = len(text)
    return n


@njit(cache=True, nogil=True)
def _rolled(hashes, size):
    """Hashes of `size` words in a row, of all places where so many begin."""
    joined = hashes.copy()
    return joined[: join_words(joined, len(joined), size) if len(joined) >= size else 0]


@njit(inline="always")
def _least(values, before, i, size):
    """Place of a least of values[i : i + size]: `before`, that of the window one place before (or -1), while it is one;
    then the last."""
    best = before
    if before < i:
        best = i
        for j in range(i + 1, i + size):
            if values[j] <= values[best]:
                best = j
    elif values[i + size - 1] < values[before]:
        best = i + size - 1
    return best


@njit(cache=True, nogil=True)
def _choose(values, size):
    """The least of each `size` values in a row, each place once."""
    out = np.empty(max(0, len(values) - size + 1), np.uint64)
    n, best = 0, -1
    for i in range(len(out)):
        least = _least(values, best, i, size)
        if least != best:
            out[n] = values[least]
            n += 1
        best = least
    return out[:n]


@njit(cache=True, nogil=True)
def _select(short, whole, begins, words, repeated):
    """Seed, hash, first byte, byte behind of the passages whose seed, the least of their hashes `short`, is in
    `repeated`."""
    out = np.empty((4, len(whole)), np.int64)
    n, best, known = 0, -1, False
    for i in range(len(whole)):
        least = _least(short, best, i, len(short) - len(whole) + 1)
        if least != best:
            best = least
            place = np.searchsorted(repeated, short[best])
            known = place < len(repeated) and repeated[place] == short[best]
        if known:
            out[0, n], out[1, n] = np.int64(short[best]), np.int64(whole[i])
            out[2, n], out[3, n] = begins[i], begins[i + words]
            n += 1
    return out[0, :n], out[1, :n], out[2, :n], out[3, :n]
