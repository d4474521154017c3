"""The nearest documents of a text, by the fingerprints that a run left: no Spark, no Java.

Who shares a band's key with the text is a candidate; datasketch estimates their similarity from the stored signatures;
the true Jaccard index decides among those that the estimate does not rule out. Signatures and texts are read of
candidates only, so that a million documents take a second or two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedup.buckets import SLACK
from pipelines.dedup.verify import TEXTS, read_rows, shingle_sets
from pipelines.lake import Lake
from pipelines.signals import fingerprints
from pipelines.signals.context import Context
from schemas import tables
from schemas.errors import DataError

MOST_BYTES = 256 << 20  # of a text: as large as a document can be (schemas.parts.Source)
# Candidates whose texts are read at the most: of 10^5 copies of one licence, those that are estimated nearest.
MOST_TEXTS = 1000
SIGNATURES = pa.schema([("doc_id", pa.string()), ("signature", pa.binary())])
ORIGINS = pa.schema([("doc_id", pa.string()), ("source", pa.string()), ("uri", pa.string()), ("text", pa.string())])
DECISIONS = pa.schema([("doc_id", pa.string()), ("keep", pa.bool_()), ("reason", pa.string())])


@dataclass(frozen=True)
class Query:
    """A text whose nearest documents are sought; doc_id: which document it is itself, which is not near to itself."""

    text: str
    doc_id: str | None = None


@dataclass(frozen=True)
class Neighbour:
    """A document near to a query: Jaccard index of both texts' word n-grams, and what the signatures estimated of it.

    keep, reason: as in silver.verdicts, None before anything is judged.
    """

    doc_id: str
    jaccard: float
    estimate: float
    source: str
    uri: str
    text: str
    keep: bool | None = None
    reason: str | None = None


def read_query(lake: Lake, what: str, standard_input: BinaryIO) -> Query:
    """The text that `what` names: - is standard input, else a file, else a document by the beginning of its id.

    Raises FileNotFoundError if it is none of these, and DataError if no document or more than one begins so, or for
    what is too large or not UTF-8.
    """
    if what == "-":
        return Query(_decoded(standard_input.read(MOST_BYTES + 1), "standard input"))
    if Path(what).is_file():
        with open(what, "rb") as file:
            return Query(_decoded(file.read(MOST_BYTES + 1), what))
    if not re.fullmatch("[0-9a-fA-F]{1,32}", what):
        raise FileNotFoundError(
            f"expected a text file, the beginning of a doc_id (hex digits), or - for standard input; found {what}"
        )
    return _document(lake, what.lower())


def nearest(lake: Lake, query: Query, context: Context, most: int = 10) -> list[Neighbour]:
    """The nearest documents of those that share a band with the query, nearest first; none without a common n-gram.

    context: ngram, bands, rows and seed that the lake's documents were measured with. `most`: so many at the most.
    Raises FileNotFoundError if nothing was measured yet and DataError if the text holds no words.
    """
    require_signals(lake)
    signature, keys = _measured(query.text, context)
    estimates = _estimates(lake, candidates(lake, keys, but=query.doc_id), signature, context.seed)
    chosen = _possible(estimates, most)
    index = _jaccard(lake, query.text, chosen, context.ngram)
    best = sorted((doc_id for doc_id in index if index[doc_id] > 0), key=lambda i: (-index[i], i))[:most]
    origins, decisions = _rows(lake, tables.DOCUMENTS, best, ORIGINS), _rows(lake, tables.VERDICTS, best, DECISIONS)
    return [Neighbour(jaccard=index[i], estimate=estimates[i], **decisions.get(i, {}) | origins[i]) for i in best]


def require_signals(lake: Lake) -> None:
    """Raises FileNotFoundError if nothing was measured yet."""
    if lake.version(tables.SIGNALS) is None:
        raise FileNotFoundError(f"{lake.root} holds no {tables.SIGNALS.name} yet: `flows run curriculum` writes it")


def candidates(lake: Lake, keys: np.ndarray, but: str | None = None) -> pa.Array:
    """The doc_id of every document that shares a band with these keys, int64[bands]; `but` one.

    Only ids and keys are read, a part at a time: 0.2 KB a document.
    """
    met = [pa.array([], pa.string())]
    for part in lake.batches(tables.SIGNALS, ["doc_id", "band_keys"]):
        lists = part.column("band_keys")
        with_words = np.flatnonzero(pc.list_value_length(lists))  # the others have no keys
        equal = pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, len(keys)) == keys
        met.append(part.column("doc_id").take(with_words[np.unique(np.flatnonzero(equal) // len(keys))]))
    ids = pa.concat_arrays(met)
    return ids.filter(pc.not_equal(ids, but)) if but else ids


def even_chance(bands: int, rows: int) -> float:
    """The Jaccard index at which two documents share a band in one case of two (`collision_probability` is 1/2)."""
    return (1 - 0.5 ** (1 / bands)) ** (1 / rows)


def _decoded(data: bytes, name: str) -> str:
    if len(data) > MOST_BYTES:
        raise DataError(f"{name}: expected a text of at most {MOST_BYTES:,} bytes, as documents are; found more")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: expected UTF-8, found the byte 0x{data[error.start]:02x} at {error.start:,}"
        ) from None


def _document(lake: Lake, beginning: str) -> Query:
    require_signals(lake)
    ids = lake.arrow(tables.DOCUMENTS, ["doc_id"], pc.starts_with(pc.field("doc_id"), beginning)).column("doc_id")
    if len(ids) != 1:
        raise DataError(f"expected one document whose id begins with {beginning}, found {len(ids)}")
    doc_id = ids[0].as_py()
    return Query(_rows(lake, tables.DOCUMENTS, [doc_id], ORIGINS)[doc_id]["text"], doc_id)


def _measured(text: str, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """(signature, uint32[bands * rows]; band keys, int64[bands])."""
    _, n_shingles, signatures, keys = fingerprints.measure(pa.array([text], pa.large_string()), {}, context)
    if n_shingles[0].as_py() == 0:
        raise DataError(f"expected a text with words, found none in its {len(text):,} characters")
    return fingerprints.matrix(signatures)[0], keys.flatten().to_numpy()


def _estimates(lake: Lake, ids: pa.Array, signature: np.ndarray, seed: int) -> dict[str, float]:
    """datasketch's estimate of each document's Jaccard index with the query, by doc_id."""
    from datasketch import LeanMinHash  # imports SciPy: a second

    def sketch(entries: np.ndarray) -> LeanMinHash:
        # The scheme says what is stored, 32 bits an entry; entries of one permutation agree as those of many do.
        return LeanMinHash(seed=seed, hashvalues=entries, scheme="affine32")

    own, estimates = sketch(signature), {}
    for part in read_rows(lake.files(tables.SIGNALS), ids, SIGNATURES):
        entries = fingerprints.matrix(part.column("signature"))
        for doc_id, row in zip(part.column("doc_id").to_pylist(), entries, strict=True):
            estimates[doc_id] = own.jaccard(sketch(row))
    return estimates


def _possible(estimates: dict[str, float], most: int) -> list[str]:
    """Those that may be among the nearest `most`: none whose estimate is SLACK, 4 standard deviations, below that of
    the last of these."""
    ordered = sorted(estimates, key=lambda doc_id: (-estimates[doc_id], doc_id))
    least = estimates[ordered[min(most, len(ordered)) - 1]] - SLACK if ordered else 0.0
    return [doc_id for doc_id in ordered[: max(most, MOST_TEXTS)] if estimates[doc_id] >= least]


def _jaccard(lake: Lake, text: str, ids: list[str], ngram: int) -> dict[str, float]:
    """The true Jaccard index of each document's text with this one, by doc_id."""
    (own,) = _sets(pa.array([text], pa.large_string()), ngram)
    similarities = {}
    for part in read_rows(lake.files(tables.DOCUMENTS), pa.array(ids, pa.string()), TEXTS):
        for doc_id, other in zip(part.column("doc_id").to_pylist(), _sets(part.column("text"), ngram), strict=True):
            common = len(np.intersect1d(own, other, assume_unique=True))
            similarities[doc_id] = common / (len(own) + len(other) - common)
    return similarities


def _sets(texts: pa.Array, ngram: int) -> list[np.ndarray]:
    return [np.frombuffer(shingles.as_buffer(), np.int64) for shingles in shingle_sets(texts, ngram)]


def _rows(lake: Lake, table: tables.Table, ids: list[str], columns: pa.Schema) -> dict[str, dict]:
    """A few rows of a table by doc_id; none if there is no table."""
    if lake.version(table) is None or not ids:
        return {}
    parts = read_rows(lake.files(table), pa.array(ids, pa.string()), columns)
    return {row["doc_id"]: row for part in parts for row in part.to_pylist()}
