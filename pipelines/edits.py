"""What must not be learnt from a kept document: spans of its text that are left out, or masked, when it is tokenised.

Text is never rewritten. An edit is a row: bytes start to end of the UTF-8 text give way to a replacement, and why. Lines and
passages that occur again are left out, personal data is masked by a placeholder. Where spans overlap, a line goes before a
passage, a passage before a mask; what the stronger leaves of the weaker stays an edit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.spark import ID_BYTES, sent
from schemas.tables import EDITS

if TYPE_CHECKING:
    from pipelines.measure import Context
    from pipelines.rules import Rule
    from schemas.recipe import Edits

Span = tuple[int, int, str, str]  # start, end, replacement, why

LINE, PASSAGE = REMOVALS = ("repeated_line", "repeated_passage")  # the strongest first; then all masks
EDIT_BYTES = 60  # of an edit in a row of Spark's
SHOWN_BEHIND = 20_000  # signals.patterns.AFTER: the longest that is looked for is a private key
TYPES = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string())  # of a row of silver.edits


class BrokenEdit(ValueError):
    """Edits that do not fit the text they are to be applied to."""


def candidates(signals: DataFrame, clusters: DataFrame, rules: dict[str, tuple[Rule, ...]], priority: dict[str, int]) -> DataFrame:
    """(doc_id, source, domain, n_bytes, priority) of documents that are kept so far: first of their cluster, failing no rule.

    Only these are compared, so that no passage is left out because it stands in a document that is dropped.
    """
    from pipelines.judge import failed

    ranks = F.create_map(*[F.lit(x) for item in priority.items() for x in item])
    passed = signals.where(F.expr(failed(rules)) == "")
    named = passed.select("doc_id", "source", "domain", "n_bytes", ranks[F.col("source")].alias("priority"))
    return named.join(clusters.where("rank = 1").select("doc_id"), "doc_id", how="left_semi")


def removals(documents: DataFrame, found: DataFrame, spec: Edits) -> list[DataFrame]:
    """Rows of silver.edits, not merged yet, of lines and passages that occur again; found: as `candidates` gives them."""
    from pipelines import repeats

    texts = documents.select("doc_id", "text").join(sent(found, F.lit(ID_BYTES)), "doc_id", how="inner")
    rows = []
    if lines := spec.repeated_lines:
        of_domains = texts.where(F.col("domain").isin(*lines.domains))
        rows.append(_left_out(repeats.repeated_lines(of_domains, lines.documents, lines.min_chars), LINE))
    if passages := spec.repeated_passages:
        of_domains = texts.where(F.col("domain").isin(*passages.domains))
        rows.append(_left_out(repeats.repeated_passages(of_domains, passages.words, spec.torso), PASSAGE))
    return rows


def _left_out(spans: DataFrame, why: str) -> DataFrame:
    return spans.select("doc_id", "start", "end", F.lit("").alias("replacement"), F.lit(why).alias("why"))


def masks(signals: DataFrame, clusters: DataFrame, kinds: tuple[str, ...], placeholders: dict[str, str]) -> DataFrame:
    """Rows of silver.edits, not merged yet, for the personal data of these kinds; signals: doc_id, personal."""
    keepers = clusters.where("rank = 1").select("doc_id")
    spans = signals.select("doc_id", F.explode("personal").alias("span")).where(F.col("span.kind").isin(*kinds))
    of_kind = F.create_map(*[F.lit(x) for kind in kinds for x in (kind, placeholders[kind])])[F.col("span.kind")]
    place = [F.col(f"span.{name}").cast("bigint").alias(name) for name in ("start", "end")]
    rows = spans.select("doc_id", *place, of_kind.alias("replacement"), F.col("span.kind").alias("why"))
    return rows.join(keepers, "doc_id", how="left_semi")


def merge(rows: list[DataFrame]) -> DataFrame:
    """Rows of silver.edits from spans that may overlap: each document's in order and apart."""
    columns = EDITS.column_names[1:]
    spans = reduce(DataFrame.union, rows).groupBy("doc_id").agg(F.collect_list(F.struct(*columns)).alias("spans"))

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            named = zip(batch.column("doc_id").to_pylist(), batch.column("spans").to_pylist(), strict=True)
            edits = [(doc_id, *edit) for doc_id, found in named for edit in merged([tuple(span.values()) for span in found])]
            columns = zip(*edits, strict=True) if edits else ([] for _ in TYPES)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, list(EDITS.column_names))

    return spans.mapInArrow(run, EDITS.ddl)


def merged(spans: list[Span]) -> list[Span]:
    """The spans of one document, in any order, as edits in order and apart.

    A line beats a passage, a passage a mask; of two equally strong ones the one that begins first, then the longer, keeps its
    place. A weaker span is cut to what is free of it. Neighbours that are left out for the same reason are one edit.
    """
    taken: list[Span] = []
    for strength in (LINE, PASSAGE, None):
        mine = [span for span in spans if (span[3] if span[3] in REMOVALS else None) == strength]
        taken = sorted(taken + list(_free(sorted(mine, key=lambda span: (span[0], -span[1], *span[2:])), taken)))
    joined: list[Span] = []
    for span in taken:
        if joined and joined[-1][1] == span[0] and span[3] in REMOVALS and joined[-1][3] == span[3]:
            span = (joined.pop()[0], *span[1:])
        joined.append(span)
    return joined


def _free(spans: list[Span], taken: list[Span]) -> Iterator[Span]:
    """The parts of spans, in order of their beginnings, that lie in none of `taken` (in order, apart) and in no earlier span."""
    i = at = 0
    for start, end, *rest in spans:
        at = max(at, start)
        while at < end:
            while i < len(taken) and taken[i][1] <= at:
                i += 1
            stop = min(end, taken[i][0]) if i < len(taken) else end
            if at < stop:
                yield (at, stop, *rest)
            at = min(end, taken[i][1]) if i < len(taken) and stop < end else end


def apply(text: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    """The text with its edits (start, end, replacement). Raises BrokenEdit unless they are in order, apart, inside and on code points."""
    pieces, at = [], 0
    for start, end, replacement in edits:
        if not at <= start < end <= len(text):
            raise BrokenEdit(f"expected edits in order, apart and inside the text's {len(text)} bytes, found {start} to {end} behind {at}")
        if _inside_character(text, start) or _inside_character(text, end):
            raise BrokenEdit(f"expected an edit between characters, found {start} to {end} at bytes {text[start : end + 1][:16]!r}...")
        pieces += [text[at:start], replacement.encode()]
        at = end
    return b"".join([*pieces, text[at:]])


def _inside_character(text: bytes, at: int) -> bool:
    return at < len(text) and text[at] & 0xC0 == 0x80


def apply_batch(texts: pa.Array, edits: pa.ListArray) -> pa.Array:
    """Texts as they are learnt; edits: a list of structs (start, end, replacement) a text, null or empty where there are none."""
    has = pc.greater(pc.list_value_length(edits), 0).fill_null(False)
    if not has.true_count:
        return texts
    named = zip(texts.filter(has).cast(pa.binary()).to_pylist(), edits.filter(has).to_pylist(), strict=True)
    new = [apply(text, [tuple(edit.values()) for edit in found]) for text, found in named]
    return pc.replace_with_mask(texts, has, pa.array(new, pa.binary()).cast(texts.type))


def beginnings(texts: list[str], chars: int) -> list[str]:
    """The first characters of a few texts that people are shown, all personal data masked: a page travels further than the lake.

    texts: each with SHOWN_BEHIND characters more, if it has them, so that what is cut in two is still known for what it is.
    """
    from pipelines.signals import personal

    spans = personal.measure(pa.array(texts, pa.large_string()), None, None)[-1].to_pylist()
    edits = ([(span["start"], span["end"], personal.PLACEHOLDERS[span["kind"]]) for span in found] for found in spans)
    return [apply(text.encode(), found).decode()[:chars] for text, found in zip(texts, edits, strict=True)]


def joined(documents: DataFrame, edits: DataFrame) -> DataFrame:
    """documents with the column `edits`, as `apply_batch` takes it."""
    span = F.struct("start", "end", "replacement")
    lists = edits.groupBy("doc_id").agg(F.sort_array(F.collect_list(span)).alias("edits"))
    return documents.join(sent(lists, ID_BYTES + EDIT_BYTES * F.size("edits")), "doc_id", how="left")


def applied(documents: DataFrame) -> DataFrame:
    """documents (text, edits, ...) with their text as it is learnt; the column `edits` goes."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            place = batch.schema.get_field_index("text")
            learnt = apply_batch(batch.column("text"), batch.column("edits"))
            yield batch.set_column(place, batch.schema.field(place), learnt).drop_columns(["edits"])

    return documents.mapInArrow(run, documents.drop("edits").schema)


def rests(documents: DataFrame, edits: DataFrame, context: Context) -> DataFrame:
    """Columns of silver.rests: the signals of what lines and passages leave of a document, all its edits applied.

    documents: as pipelines.measure takes them.
    """
    from pipelines.measure import READ, measure

    shortened = sent(edits.where(F.col("why").isin(*REMOVALS)).select("doc_id").distinct(), F.lit(ID_BYTES))
    mine = edits.join(shortened, "doc_id", how="left_semi")  # most others are masks
    return measure(applied(joined(documents.select(*READ).join(shortened, "doc_id", how="left_semi"), mine)), context)
