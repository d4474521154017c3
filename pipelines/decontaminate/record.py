"""The decontamination record: files, items and matches, both texts side by side, and what such a search cannot see."""

from __future__ import annotations

import platform
import unicodedata
from collections import Counter
from importlib.metadata import version
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.decontaminate.index import COMMON, NEVER, RUN_WORDS
from pipelines.decontaminate.items import Items
from pipelines.decontaminate.overlap import EXCERPT_BYTES, Suite, fields, item_text
from pipelines.decontaminate.phrases import ALONE_BYTES, SAFE_BYTES, SAFE_WORDS
from pipelines.decontaminate.search import NEAR, SPAN
from pipelines.edits.preview import beginnings
from schemas.parts import Decontaminate

SHOWN = 200  # matches in the record, both texts side by side
PHRASE = "phrase"
SEARCHED = "long", "short", PHRASE
UNSEARCHED = "too_short", "shared"
KINDS = SEARCHED + UNSEARCHED
REACHES = "by_question", "by_short_question", "by_other_passages"
LISTED = 1000  # documents and items in the record by name
NORMALISATION = (
    "escapes of JSON, Python and HTML undone, tags and what has no width dropped, hyphens at line ends joined, "
    "compatibility forms and combining marks folded, labels of options blank; Unicode lower case letter by "
    "letter; words are runs of letters, digits and _ (Python's \\w), all else separates them; where a script puts no "
    "spaces between words every character of it is one; n-grams are compared by 64-bit hashes of their words"
)
BLIND_SPOTS = (
    "paraphrases, translations and summaries: no n-gram in common",
    "items whose words are split or joined by spelling, by numbers' commas, or by a hyphen at a line's end that "
    "belongs to the word; URL and quoted-printable escapes",
    "short questions without their answers or options close behind, unless they are safe by themselves; passages that "
    "consist of n-grams that many items share: counted, not searched",
    "edited items are flagged, not dropped, and only where an n-gram of theirs is left",
    "items spread over more than one document, or farther apart in one than the span",
    "documents that were dropped as duplicates are not read: their keeper is, which may hold less of an item",
)


def record(rows: DataFrame, verdicts: DataFrame, suite: Suite, spec: Decontaminate) -> dict[str, Any]:
    """The decontamination record, as JSON values. rows: silver.contamination; verdicts: as judged with `spec`.

    What reaches the driver is bounded by the items, which are there, and by SHOWN and LISTED.
    """
    by_item = {row.item: row.cover for row in rows.groupBy("item").agg(F.max("cover").alias("cover")).collect()}
    of = kinds(suite)
    flagged = edited_items(rows, spec.threshold)
    dropped = verdicts.where(F.array_contains("reasons", "contaminated"))
    alone = F.sum((F.size("reasons") == 1).cast("int")).alias("for_this_alone")
    with_run = rows.where(F.col("run") >= RUN_WORDS).select("doc_id").distinct().count()
    sizes = dropped.groupBy("source").agg(F.count("*").alias("documents"), F.sum("n_bytes").alias("bytes"), alone)
    return {
        "method": _method(spec),
        "files": [_told(file, of, by_item, spec.threshold, fields(file)) for file in suite.files],
        "documents": {
            "dropped": sorted((row.asDict() for row in sizes.collect()), key=lambda row: row["source"]),
            "would_be_dropped": _at_thresholds(rows),
            f"with_a_run_of_{RUN_WORDS}_words": with_run,
            "first_ids": [row.doc_id for row in dropped.select("doc_id").orderBy("doc_id").limit(LISTED).collect()],
        },
        "flagged": {
            "rule": f"not dropped: `near` of at least {NEAR} where no item is covered",
            "documents": flagged.select("doc_id").distinct().count(),
            "items": flagged.select("item").distinct().count(),
            "matches": _shown(flagged, verdicts, suite),
        },
        "matches": _shown(rows, verdicts, suite),
        "blind_spots": list(BLIND_SPOTS),
        "versions": {"python": platform.python_version(), "unicode": unicodedata.unidata_version,
                     **{name: version(name) for name in ("millrace", "numba", "pyarrow")}},
    }  # fmt: skip


def edited_items(rows: DataFrame, threshold: float) -> DataFrame:
    """Rows of items that stand in a document all but for some words, of documents that cover none."""
    covering = rows.where(F.col("cover") >= threshold).select("doc_id").distinct()
    return rows.where(F.col("near") >= NEAR).join(covering, "doc_id", how="left_anti")


def _method(spec: Decontaminate) -> dict[str, Any]:
    return {
        "rule": "dropped: what covers `threshold` of a passage's n-grams within `span` times its length, "
        "or a short one whole",
        "normalisation": NORMALISATION,
        "ngram": spec.ngram, "threshold": spec.threshold, "short_tokens": spec.short_tokens, "unit": "word",
        "span": SPAN, "shared_by_more_than_does_not_count": COMMON,
        "passages": "all fields of an item together; apart its first field, and others of at least short_tokens words",
        "short_questions": f"of fewer words than an n-gram: whole, with answers or options whole behind it, in all "
        f"{SAFE_WORDS} words of {SAFE_BYTES} bytes; or alone from {SAFE_WORDS} words of {ALONE_BYTES} bytes on",
        "searched": "documents that are no duplicates' copies, whether or not a rule drops them",
        "removed": "whole documents",
    }  # fmt: skip


def _told(
    file: Items, of: dict[tuple[str, str], str], by_item: dict[str, float], threshold: float, fields: tuple[str, ...]
) -> dict[str, Any]:
    """A file's part of the record: what it is, what could be searched, what was found. fields: those of its passages,
    the one that asks first."""
    kinds_of = {field: [of.get((item.name, field), "too_short") for item in file.items] for field in fields}
    passages = {field: {kind: told.count(kind) for kind in KINDS if kind in told} for field, told in kinds_of.items()}
    counts = Counter(map(_reach, zip(*kinds_of.values(), strict=True)))
    hit = sorted(item.name for item in file.items if by_item.get(item.name, 0) >= threshold)
    searched = sum(counts[reach] for reach in REACHES)
    return {
        "path": file.path, "sha256": file.sha256, "bytes": file.n_bytes, "fields": list(file.fields),
        "items": {"read": len(file.items), **{kind: counts[kind] for kind in (*REACHES, *UNSEARCHED)},
                  "empty": file.empty, "broken": file.broken, "first_broken": list(file.why)},
        "passages": passages,
        "contaminated": {
            "items": len(hit), "share_of_searched": len(hit) / searched if searched else 0.0, "first": hit[:LISTED],
        },
    }  # fmt: skip


def _reach(kinds: tuple[str, ...]) -> str:
    """By what an item can be found, given the kinds of its passages, the question's first."""
    question, *others = kinds
    if question in SEARCHED:
        return "by_question"
    searched = [kind for kind in others if kind in SEARCHED]
    return "by_short_question" if PHRASE in searched else "by_other_passages" if searched else question


def kinds(suite: Suite) -> dict[tuple[str, str], str]:
    """By item and field what its passage is: long, short or a phrase, as it is searched; else too_short or shared."""
    index, told = suite.index, {}
    for passage, holders in enumerate(suite.holders):
        if passage >= len(index.n_words):
            if not suite.phrases.known[passage - len(index.n_words)]:
                continue
            kind = PHRASE
        elif index.least[passage] != NEVER:
            kind = "short" if index.is_short[passage] else "long"
        else:
            kind = "shared" if index.n_words[passage] >= index.ngram else "too_short"
        told |= {(holder.item, holder.field): kind for holder in holders}
    return told


def _at_thresholds(rows: DataFrame) -> list[dict[str, Any]]:
    """How many documents other thresholds would drop."""
    steps = [tenth / 10 for tenth in range(2, 11)]
    most = rows.groupBy("doc_id").agg(F.max("cover").alias("cover"))
    counted = most.agg(*[F.count(F.when(F.col("cover") >= step, 1)).alias(f"{step}") for step in steps]).first()
    return [{"threshold": step, "documents": counted[f"{step}"]} for step in steps]


def _shown(rows: DataFrame, verdicts: DataFrame, suite: Suite) -> list[dict[str, Any]]:
    """The matches that cover most, both texts side by side."""
    texts = {item.name: item_text(item) for file in suite.files for item in file.items}
    chosen = rows.orderBy(F.desc("cover"), F.desc("matched"), "item", "doc_id").limit(SHOWN)
    named = chosen.join(verdicts.select("doc_id", "source", "keep"), "doc_id", how="left").collect()
    named.sort(key=lambda row: (-row.cover, -row.matched, row.item, row.doc_id))
    masked = beginnings([row.excerpt for row in named], EXCERPT_BYTES)
    shown = zip(named, masked, strict=True)
    return [
        {**row.asDict(), "excerpt": excerpt, "item_text": texts[row["item"]][:EXCERPT_BYTES]} for row, excerpt in shown
    ]
