"""Lines that many documents share: where they lie, as spans of bytes.

line      what lies between \\n, white space around it left out and runs of it inside taken as one space
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numba import njit
from pyspark.sql import DataFrame

from pipelines.edits.often import (
    CLASSES,
    FNV,
    FNV_START,
    LISTED,
    NEWLINE,
    NOTHING,
    SPACE,
    Batches,
    repeated_keys,
    rows_of,
    texts_of,
)
from pipelines.texts.characters import decode, mix64


def repeated_lines(texts: DataFrame, documents: int, min_chars: int) -> DataFrame:
    """(doc_id, start, end) of lines of at least `min_chars` characters that stand in more than so many documents of a
    source.

    texts: doc_id, source, text. All copies are found, the first too: what so many pages share belongs to none of them.
    A span ends behind the line's \\n.
    """
    line_hashes(NOTHING, 1)  # compiled here once: the workers of this machine find it on disk
    hashed = texts.select("doc_id", "source", "text").mapInArrow(_line_keys(min_chars), LISTED)
    mine = repeated_keys(hashed, documents)
    candidates = texts.select("doc_id", "text").join(mine, "doc_id", how="inner")
    return candidates.mapInArrow(_line_spans, "doc_id string, start bigint, end bigint")


def line_hashes(text: np.ndarray, min_chars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash (int64), first byte and the byte behind it of each line of at least `min_chars` characters; text: uint8."""
    keys = np.empty(len(text) + 1, np.uint64)
    begins, ends = np.empty((2, len(text) + 1), np.int64)
    n = _lines(text, CLASSES, min_chars, keys, begins, ends)
    return keys[:n].view(np.int64), begins[:n], ends[:n]


def _line_keys(min_chars: int) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            keys = pa.array(
                [np.unique(line_hashes(text, min_chars)[0]) for text in texts_of(batch)], pa.list_(pa.int64())
            )
            yield pa.RecordBatch.from_arrays(
                [batch.column("doc_id"), batch.column("source"), keys], ["doc_id", "group", "keys"]
            )

    return run


def _line_spans(batches: Batches) -> Batches:
    for batch in batches:
        for doc_id, text, keys in zip(batch.column("doc_id"), texts_of(batch), batch.column("keys"), strict=True):
            hashes, begins, ends = line_hashes(text, 1)
            chosen = np.isin(hashes, keys.values.to_numpy())
            yield rows_of({"doc_id": doc_id}, {"start": begins[chosen], "end": ends[chosen]})


@njit(cache=True, nogil=True)
def _lines(text, classes, min_chars, keys, begins, ends):
    n = i = begin = chars = 0
    key, gap = FNV_START, False
    while i < len(text):
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        i += width
        if classes[code] != SPACE:
            if gap and chars > 0:
                key = (key ^ np.uint64(32)) * FNV
                chars += 1
            key = (key ^ np.uint64(code)) * FNV
            chars += 1
        gap = classes[code] == SPACE
        if code == NEWLINE or i == len(text):
            if chars >= min_chars:
                keys[n], begins[n], ends[n] = mix64(key), begin, i
                n += 1
            key, begin, chars, gap = FNV_START, i, 0, False
    return n
