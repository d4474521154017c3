"""The one pass over the text: every signal of every document, as narrow columns that all later decisions run on."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from pipelines.signals import COLUMNS, FAMILIES, TABLE, quality
from pipelines.signals.context import Context
from pipelines.signals.routes import route_domains

READ = ("doc_id", "source", "snapshot", "domain", "facts", "text")  # of bronze.documents


def measure_batch(batch: pa.RecordBatch, context: Context) -> pa.RecordBatch:
    """Documents (the columns READ) to their signals."""
    texts, domains = batch.column("text"), batch.column("domain")
    n_bytes = pc.binary_length(texts).cast(pa.int64())
    given = [batch.column(name) for name in ("doc_id", "source", "snapshot")]
    facts = batch.column("facts")
    marked = [pc.equal(fact(facts, name), "1").fill_null(False).cast(pa.int32()) for name in ("vendored", "generated")]
    known = {"domain": domains}  # a family may go by what was measured before it: quality by language and domain
    for family in FAMILIES:
        if family is quality:  # the first that goes by the domain
            known["domain"] = route_domains(domains, known, context.routes)
        known |= zip((column.name for column in family.COLUMNS), family.measure(texts, known, context), strict=True)
    signals = [known[column.name] for column in COLUMNS]
    return pa.RecordBatch.from_arrays(
        [*given, known["domain"], fact(facts, "language"), *marked, n_bytes, *signals], names=TABLE.column_names
    )


def fact(facts: pa.MapArray, name: str) -> pa.Array:
    """The value of one of a document's facts, null where the reader did not know it."""
    return pc.map_lookup(facts, pa.scalar(name), "first")


def measure(documents: DataFrame, context: Context) -> DataFrame:
    """Measure documents (the columns READ): the columns of silver.signals.

    One document is measured here first: a broken model fails at once, and the workers of this machine find the
    passes compiled on disk (about 15 s, once) instead of each compiling them.
    """
    measure_batch(batch_of(["one"]), context)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return (measure_batch(batch, context) for batch in batches)

    return documents.select(*READ).mapInArrow(run, TABLE.ddl)


def batch_of(texts: list[str], domains: list[str] | None = None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    """Texts that stand in no table, in the columns READ: to try signals on them. Their ids are 0, 1, 2, ..."""
    n = len(texts)
    ids, names = [f"{i:032x}" for i in range(n)], [""] * n
    facts = pa.array([[]] * n, pa.map_(pa.string(), pa.string()))
    columns = [
        pa.array(ids),
        pa.array(names),
        pa.array(names),
        pa.array(domains or names),
        facts,
        pa.array(texts, kind or pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(READ))
