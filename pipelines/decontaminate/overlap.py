"""Documents that hold items of evaluations: one pass over the text of the keepers.

The pass reads no threshold and drops nothing: it writes how far each document covers each item, `judge` decides on that
column. What covering means is in `search`, what an item is in `items`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame

from pipelines.decontaminate import items
from pipelines.decontaminate.index import Index, build, grams, strings
from pipelines.decontaminate.items import Item, Items
from pipelines.decontaminate.phrases import Phrases
from pipelines.decontaminate.phrases import build as build_phrases
from pipelines.decontaminate.search import Match, Searcher
from schemas.parts import Decontaminate
from schemas.tables import CONTAMINATION

EXCERPT_BYTES = 400  # of a match, kept in the table: enough to see what it is
TYPES = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64()}
SCHEMA = pa.schema([(column.name, TYPES[column.type]) for column in CONTAMINATION.columns])
ALL = "all"  # the fields of an item together
BEHIND = "question and answers"  # a short question, and what stands behind it


class Holder(NamedTuple):
    """Whose text a passage is."""

    item: str
    file: str
    field: str


class Suite(NamedTuple):
    """All evaluation files, the index of their passages, the phrases, and who holds each passage and, behind these,
    each phrase."""

    files: list[Items]
    index: Index
    phrases: Phrases
    holders: list[list[Holder]]


def suite(spec: Decontaminate) -> Suite:
    """Read and index the evaluation files. Raises RecipeError for one that is not what the recipe says."""
    files = items.read(spec)
    entries = [entry for file in files for item in file.items for entry in _parts(item, file)]
    hashes, bounds, n_words = grams(strings([text for text, _, _ in entries]), spec.ngram)
    texts, holders, numbers = [], [], {}
    for i, (text, holder, always) in enumerate(entries):
        if not always and n_words[i] < spec.short_tokens:
            continue
        same = hashes[bounds[i] : bounds[i + 1]].tobytes() or text
        if numbers.setdefault(same, len(texts)) == len(texts):
            texts.append(text)
            holders.append([])
        holders[numbers[same]].append(holder)
    known = build(strings(texts), spec.ngram, spec.short_tokens)
    short = build_phrases([item.parts for file in files for item in file.items], spec.ngram)
    behind = [[Holder(item.name, file.path, BEHIND)] for file in files for item in file.items]
    return Suite(files, known, short, holders + behind)


def _parts(item: Item, file: Items) -> Iterator[tuple[str, Holder, bool]]:
    """Passages of an item: text, holder, and whether it is searched even if short."""
    yield item_text(item), Holder(item.name, file.path, ALL), True
    if len(item.texts) > 1:
        for number, (text, field) in enumerate(zip(item.texts, file.fields, strict=True)):
            yield text, Holder(item.name, file.path, field), number == 0


def fields(file: Items) -> tuple[str, ...]:
    """What the passages of a file's items are called, the one that asks first."""
    return (*file.fields, ALL, BEHIND) if len(file.fields) > 1 else (ALL, BEHIND)


def item_text(item: Item) -> str:
    return "\n".join(filter(None, item.texts))


def contamination(documents: DataFrame, evaluation: Suite) -> DataFrame:
    """Columns of silver.contamination. documents: doc_id, text; one pass, the index travels with the Arrow function."""
    index, phrases, holders = evaluation.index, evaluation.phrases, evaluation.holders
    # compiled once, not in every worker
    Searcher(index, phrases).search(strings([item_text(file.items[0]) for file in evaluation.files]))

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        searcher = Searcher(index, phrases)
        return (match_batch(batch, searcher, holders) for batch in batches)

    return documents.select("doc_id", "text").mapInArrow(run, CONTAMINATION.ddl)


def match_batch(batch: pa.RecordBatch, searcher: Searcher, holders: list[list[Holder]]) -> pa.RecordBatch:
    """Documents (doc_id, text) to a row for every item that one covers, by its passage that is covered most."""
    rows = []
    for number, matches in searcher.search(batch.column("text")):
        doc_id, text = batch.column("doc_id")[number].as_py(), batch.column("text")[number].as_buffer().to_pybytes()
        best: dict[str, tuple[Holder, Match]] = {}
        for match in sorted(matches, key=lambda match: (match.cover, match.near, match.run, -match.passage)):
            best |= {holder.item: (holder, match) for holder in holders[match.passage]}
        for item, (holder, match) in sorted(best.items()):
            excerpt = text[match.start : min(match.end, match.start + EXCERPT_BYTES)].decode(errors="ignore")
            rows.append((doc_id, item, holder.file, holder.field, *match[1:], excerpt))
    columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
    return pa.record_batch(
        [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
