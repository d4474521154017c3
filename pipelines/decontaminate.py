"""Documents that hold items of evaluations: one pass over the text of the keepers, and the record of what was found.

The pass reads no threshold and drops nothing: it writes how far each document covers each item, `judge` decides on that
column. What covering means is in `pipelines.overlap`, what an item is in `pipelines.items`.
"""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines import items, overlap
from pipelines.edits import beginnings
from pipelines.items import Item, Items
from schemas.recipe import Decontaminate
from schemas.tables import CONTAMINATION

EXCERPT_BYTES = 400  # of a match, kept in the table: enough to see what it is
SHOWN = 200  # matches in the record, both texts side by side
LISTED = 1000  # documents and items in the record by name
TYPES = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64()}
SCHEMA = pa.schema([(column.name, TYPES[column.type]) for column in CONTAMINATION.columns])
ALL = "all"  # the fields of an item together

NORMALISATION = (
    "Unicode lower case letter by letter; words are runs of letters, digits and _ (Python's \\w), all else separates them, and where "
    "a script puts no spaces between words every character of it is one; "
    "n-grams are compared by 64-bit hashes of their words"
)
BLIND_SPOTS = (
    "paraphrases, translations and summaries: no n-gram in common",
    "items whose words are split or joined by formatting, spelling or line-end hyphens",
    "passages of fewer words than an n-gram, and such as consist of n-grams that many items share: counted, not searched",
    "items spread over more than one document, or farther apart in one than the span",
    "documents that were dropped as duplicates are not read: their keeper is, which may hold less of an item",
)


class Holder(NamedTuple):
    """Whose text a passage is."""

    item: str
    file: str
    field: str


class Suite(NamedTuple):
    """All evaluation files, the index of their passages, and who holds each passage."""

    files: list[Items]
    index: overlap.Index
    holders: list[list[Holder]]


def suite(spec: Decontaminate) -> Suite:
    """Read and index the evaluation files. Raises RecipeError for one that is not what the recipe says."""
    files = items.read(spec)
    entries = [entry for file in files for item in file.items for entry in _parts(item, file)]
    hashes, bounds, n_words = overlap.grams(overlap.strings([text for text, _, _ in entries]), spec.ngram)
    texts, holders, numbers = [], [], {}
    for i, (text, holder, always) in enumerate(entries):
        if not always and n_words[i] < spec.short_tokens:
            continue
        same = hashes[bounds[i] : bounds[i + 1]].tobytes() or text
        if numbers.setdefault(same, len(texts)) == len(texts):
            texts.append(text)
            holders.append([])
        holders[numbers[same]].append(holder)
    return Suite(files, overlap.index(overlap.strings(texts), spec.ngram, spec.short_tokens), holders)


def _parts(item: Item, file: Items) -> Iterator[tuple[str, Holder, bool]]:
    """Passages of an item: text, holder, and whether it is searched even if short."""
    yield joined(item), Holder(item.name, file.path, ALL), True
    if len(item.texts) > 1:
        for number, (text, field) in enumerate(zip(item.texts, file.fields, strict=True)):
            yield text, Holder(item.name, file.path, field), number == 0


def joined(item: Item) -> str:
    return "\n".join(filter(None, item.texts))


def contamination(documents: DataFrame, found: Suite) -> DataFrame:
    """Columns of silver.contamination. documents: doc_id, text; one pass, the index travels with the Arrow function."""
    index, holders = found.index, found.holders
    overlap.Searcher(index).search(overlap.strings([joined(file.items[0]) for file in found.files]))  # compiled once, not in every worker

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        searcher = overlap.Searcher(index)
        return (covered(batch, searcher, holders) for batch in batches)

    return documents.select("doc_id", "text").mapInArrow(run, CONTAMINATION.ddl)


def covered(batch: pa.RecordBatch, searcher: overlap.Searcher, holders: list[list[Holder]]) -> pa.RecordBatch:
    """Documents (doc_id, text) to a row for every item that one covers, by its passage that is covered most."""
    rows = []
    for number, matches in searcher.search(batch.column("text")):
        doc_id, text = batch.column("doc_id")[number].as_py(), batch.column("text")[number].as_buffer().to_pybytes()
        best: dict[str, tuple[Holder, overlap.Match]] = {}
        for match in sorted(matches, key=lambda match: (match.cover, match.run, -match.passage)):
            best |= {holder.item: (holder, match) for holder in holders[match.passage]}
        for item, (holder, match) in sorted(best.items()):
            excerpt = text[match.start : min(match.end, match.start + EXCERPT_BYTES)].decode(errors="ignore")
            rows.append((doc_id, item, holder.file, holder.field, match.cover, match.matched, match.run, match.start, match.end, excerpt))
    columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
    return pa.record_batch([pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def beyond(rows: DataFrame, spec: Decontaminate) -> DataFrame | None:
    """doc_id of the documents that cover an item as far as the threshold; None where the recipe names no evaluation."""
    return rows.where(F.col("cover") >= spec.threshold).select("doc_id").distinct() if spec.files else None


def record(rows: DataFrame, verdicts: DataFrame, found: Suite, spec: Decontaminate) -> dict[str, Any]:
    """The decontamination record, as JSON values. rows: silver.contamination; verdicts: as judged with `spec`.

    What reaches the driver is bounded by the items, which are there, and by SHOWN and LISTED.
    """
    by_item = {row.item: row.cover for row in rows.groupBy("item").agg(F.max("cover").alias("cover")).collect()}
    of = kinds(found)
    dropped = verdicts.where(F.array_contains("reasons", "contaminated"))
    alone = F.sum((F.size("reasons") == 1).cast("int")).alias("for_this_alone")
    sizes = dropped.groupBy("source").agg(F.count("*").alias("documents"), F.sum("n_bytes").alias("bytes"), alone)
    return {
        "method": _method(spec),
        "files": [_told(file, of, by_item, spec.threshold) for file in found.files],
        "documents": {
            "dropped": sorted((row.asDict() for row in sizes.collect()), key=lambda row: row["source"]),
            "would_be_dropped": _at_thresholds(rows),
            f"with_a_run_of_{overlap.RUN_WORDS}_words": rows.where(F.col("run") >= overlap.RUN_WORDS).select("doc_id").distinct().count(),
            "first_ids": [row.doc_id for row in dropped.select("doc_id").orderBy("doc_id").limit(LISTED).collect()],
        },
        "matches": _shown(rows, verdicts, found),
        "blind_spots": list(BLIND_SPOTS),
        "versions": {"python": platform.python_version(), "unicode": unicodedata.unidata_version,
                     **{name: version(name) for name in ("millrace", "numba", "pyarrow")}},
    }  # fmt: skip


def _method(spec: Decontaminate) -> dict[str, Any]:
    return {
        "rule": "dropped: what covers `threshold` of a passage's n-grams within `span` times its length, or a short one whole",
        "normalisation": NORMALISATION,
        "ngram": spec.ngram, "threshold": spec.threshold, "short_tokens": spec.short_tokens, "unit": "word",
        "span": overlap.SPAN, "shared_by_more_than_does_not_count": overlap.COMMON,
        "passages": "all fields of an item together; apart its first field, and others of at least short_tokens words",
        "searched": "documents that are no duplicates' copies, whether or not a rule drops them", "removed": "whole documents",
    }  # fmt: skip


def _told(file: Items, of: dict[str, str], by_item: dict[str, float], threshold: float) -> dict[str, Any]:
    """A file's part of the record: what it is, what could be searched, what was found."""
    counts = {kind: sum(of[item.name] == kind for item in file.items) for kind in ("long", "short", "too_short", "shared")}
    hit = sorted(item.name for item in file.items if by_item.get(item.name, 0) >= threshold)
    searched = counts["long"] + counts["short"]
    return {
        "path": file.path, "sha256": file.sha256, "bytes": file.n_bytes, "fields": list(file.fields),
        "items": {"read": len(file.items), **counts, "empty": file.empty, "broken": file.broken},
        "contaminated": {"items": len(hit), "share_of_searched": len(hit) / searched if searched else 0.0, "first": hit[:LISTED]},
    }  # fmt: skip


def kinds(found: Suite) -> dict[str, str]:
    """By item: long or short, as its searched passages are; too_short or shared where none is searched."""
    names = "too_short", "shared", "short", "long"
    index, best = found.index, {}
    for passage, holders in enumerate(found.holders):
        searched = index.least[passage] != overlap.NEVER
        rank = 3 - int(index.is_short[passage]) if searched else int(index.n_words[passage] >= index.ngram)
        for holder in holders:
            best[holder.item] = max(best.get(holder.item, 0), rank)
    return {item: names[rank] for item, rank in best.items()}


def _at_thresholds(rows: DataFrame) -> list[dict[str, Any]]:
    """How many documents other thresholds would drop."""
    steps = [tenth / 10 for tenth in range(2, 11)]
    most = rows.groupBy("doc_id").agg(F.max("cover").alias("cover"))
    counted = most.agg(*[F.count(F.when(F.col("cover") >= step, 1)).alias(f"{step}") for step in steps]).first()
    return [{"threshold": step, "documents": counted[f"{step}"]} for step in steps]


def _shown(rows: DataFrame, verdicts: DataFrame, found: Suite) -> list[dict[str, Any]]:
    """The matches that cover most, both texts side by side."""
    texts = {item.name: joined(item) for file in found.files for item in file.items}
    chosen = rows.orderBy(F.desc("cover"), F.desc("matched"), "item", "doc_id").limit(SHOWN)
    named = chosen.join(verdicts.select("doc_id", "source", "keep"), "doc_id", how="left").collect()
    named.sort(key=lambda row: (-row.cover, -row.matched, row.item, row.doc_id))
    masked = beginnings([row.excerpt for row in named], EXCERPT_BYTES)
    shown = zip(named, masked, strict=True)
    return [{**row.asDict(), "excerpt": excerpt, "item_text": texts[row["item"]][:EXCERPT_BYTES]} for row, excerpt in shown]
