"""What must not be learnt from a kept document: spans of its text that are left out, or masked, when it is tokenised.

Text is never rewritten. An edit is a row: bytes start to end of the UTF-8 text give way to a replacement, and why.
Lines and passages that occur again are left out, personal data is masked by a placeholder.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.edits.spans import LINE, PASSAGE, REMOVALS, apply_to_batch, merge_spans
from pipelines.spark import ID_BYTES, broadcast_small
from schemas.tables import EDITS

if TYPE_CHECKING:
    from pipelines.rules import Rule
    from pipelines.signals.context import Context
    from schemas.parts import Edits

EDIT_BYTES = 60  # of an edit in a row of Spark's
TYPES = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string())  # of a row of silver.edits


def select_candidates(
    signals: DataFrame, clusters: DataFrame, rules: dict[str, tuple[Rule, ...]], priority: dict[str, int]
) -> DataFrame:
    """(doc_id, source, domain, n_bytes, priority) of documents that are kept so far: first of their cluster, failing no
    rule.

    Only these are compared, so that no passage is left out because it stands in a document that is dropped.
    """
    from pipelines.rules.judge import failed_rules

    ranks = F.create_map(*[F.lit(x) for item in priority.items() for x in item])
    passed = signals.where(F.expr(failed_rules(rules)) == "")
    named = passed.select("doc_id", "source", "domain", "n_bytes", ranks[F.col("source")].alias("priority"))
    return named.join(clusters.where("rank = 1").select("doc_id"), "doc_id", how="left_semi")


def find_removals(documents: DataFrame, candidates: DataFrame, spec: Edits) -> list[DataFrame]:
    """Rows of silver.edits, not merged yet, of lines and passages that occur again; candidates: as `select_candidates`
    gives them."""
    from pipelines.edits.lines import repeated_lines
    from pipelines.edits.passages import repeated_passages

    texts = documents.select("doc_id", "text").join(broadcast_small(candidates, F.lit(ID_BYTES)), "doc_id", how="inner")
    rows = []
    if lines := spec.repeated_lines:
        of_domains = texts.where(F.col("domain").isin(*lines.domains))
        rows.append(_left_out(repeated_lines(of_domains, lines.documents, lines.min_chars), LINE))
    if passages := spec.repeated_passages:
        of_domains = texts.where(F.col("domain").isin(*passages.domains))
        rows.append(_left_out(repeated_passages(of_domains, passages.words, spec.torso), PASSAGE))
    return rows


def _left_out(spans: DataFrame, why: str) -> DataFrame:
    return spans.select("doc_id", "start", "end", F.lit("").alias("replacement"), F.lit(why).alias("why"))


def find_masks(
    signals: DataFrame, clusters: DataFrame, kinds: tuple[str, ...], placeholders: dict[str, str]
) -> DataFrame:
    """Rows of silver.edits, not merged yet, for the personal data of these kinds; signals: doc_id, personal."""
    keepers = clusters.where("rank = 1").select("doc_id")
    spans = signals.select("doc_id", F.explode("personal").alias("span")).where(F.col("span.kind").isin(*kinds))
    of_kind = F.create_map(*[F.lit(x) for kind in kinds for x in (kind, placeholders[kind])])[F.col("span.kind")]
    place = [F.col(f"span.{name}").cast("bigint").alias(name) for name in ("start", "end")]
    rows = spans.select("doc_id", *place, of_kind.alias("replacement"), F.col("span.kind").alias("why"))
    return rows.join(keepers, "doc_id", how="left_semi")


def merge_edits(rows: list[DataFrame]) -> DataFrame:
    """Rows of silver.edits from spans that may overlap: each document's in order and apart."""
    columns = EDITS.column_names[1:]
    spans = reduce(DataFrame.union, rows).groupBy("doc_id").agg(F.collect_list(F.struct(*columns)).alias("spans"))

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            named = zip(batch.column("doc_id").to_pylist(), batch.column("spans").to_pylist(), strict=True)
            edits = [
                (doc_id, *edit)
                for doc_id, its_spans in named
                for edit in merge_spans([tuple(span.values()) for span in its_spans])
            ]
            columns = zip(*edits, strict=True) if edits else ([] for _ in TYPES)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, list(EDITS.column_names))

    return spans.mapInArrow(run, EDITS.ddl)


def attach_edits(documents: DataFrame, edits: DataFrame) -> DataFrame:
    """documents with the column `edits`, as `apply_batch` takes it."""
    span = F.struct("start", "end", "replacement")
    lists = edits.groupBy("doc_id").agg(F.sort_array(F.collect_list(span)).alias("edits"))
    return documents.join(broadcast_small(lists, ID_BYTES + EDIT_BYTES * F.size("edits")), "doc_id", how="left")


def apply_edits(documents: DataFrame) -> DataFrame:
    """documents (text, edits, ...) with their text as it is learnt; the column `edits` goes."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            place = batch.schema.get_field_index("text")
            learnt = apply_to_batch(batch.column("text"), batch.column("edits"))
            yield batch.set_column(place, batch.schema.field(place), learnt).drop_columns(["edits"])

    return documents.mapInArrow(run, documents.drop("edits").schema)


def measure_rests(documents: DataFrame, edits: DataFrame, context: Context) -> DataFrame:
    """Columns of silver.rests: the signals of what lines and passages leave of a document, all its edits applied.

    documents: as pipelines.signals.measure takes them.
    """
    from pipelines.signals.measure import READ, measure

    shortened = broadcast_small(edits.where(F.col("why").isin(*REMOVALS)).select("doc_id").distinct(), F.lit(ID_BYTES))
    mine = edits.join(shortened, "doc_id", how="left_semi")  # most others are masks
    return measure(
        apply_edits(attach_edits(documents.select(*READ).join(shortened, "doc_id", how="left_semi"), mine)), context
    )
