"""The one pass over the text: every signal of every document, as narrow columns that all later decisions run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from pipelines.signals import FAMILIES
from schemas.tables import SIGNALS, Column

BASE = SIGNALS.columns  # doc_id, source, domain, n_bytes


@dataclass(frozen=True)
class Context:
    """What the signals need besides the text. It travels inside the Arrow function, so a cluster needs no shared files.

    `quality_models` holds one model a domain (bytes of a fastText file); a domain without one has no quality.
    16 bands of 7 rows let pairs of Jaccard .8 meet with a chance of .98, of .5 with .12 (datatrove's 14 of 8: .92, .05);
    the exact check of every pair that meets makes the extra candidates harmless.
    """

    language_model: bytes = field(repr=False)
    quality_models: dict[str, bytes] = field(default_factory=dict, repr=False)
    ngram: int = 5
    bands: int = 16
    rows: int = 7
    seed: int = 1


def signal_columns() -> tuple[Column, ...]:
    """The columns of all families, in their order."""
    return tuple(column for family in FAMILIES for column in family.COLUMNS)


def measure_batch(batch: pa.RecordBatch, context: Context) -> pa.RecordBatch:
    """Documents (doc_id, source, domain, text) to their signals."""
    texts, domains = batch.column("text"), batch.column("domain")
    n_bytes = pc.binary_length(texts).cast(pa.int64())
    base = [batch.column("doc_id"), batch.column("source"), domains, n_bytes]
    signals = [column for family in FAMILIES for column in family.measure(texts, domains, context)]
    names = [column.name for column in (*BASE, *signal_columns())]
    return pa.RecordBatch.from_arrays(base + signals, names=names)


def measure(documents: DataFrame, context: Context) -> DataFrame:
    """Measure documents (doc_id, source, domain, text): doc_id, source, domain, n_bytes and all signals.

    One document is measured here first: a broken model fails at once, and the workers of this machine find the
    passes compiled on disk (about 15 s, once) instead of each compiling them.
    """
    measure_batch(pa.RecordBatch.from_pydict({"doc_id": [""], "source": [""], "domain": [""], "text": ["one"]}), context)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return (measure_batch(batch, context) for batch in batches)

    schema = ", ".join(f"{column.name} {column.type}" for column in (*BASE, *signal_columns()))
    return documents.select("doc_id", "source", "domain", "text").mapInArrow(run, schema)
