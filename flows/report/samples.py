"""Texts to look at: kept ones of every tier, dropped ones of every rule, members of the largest clusters.

Which ones is decided by doc_id, a hash of the content: the first few in its order, so the choice is blind and repeats.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from flows.report.corpus import Rows, rows, side
from pipelines.rules import Rule

KEPT = 2  # texts shown of every domain and tier
DROPPED = 2  # of every domain and reason
REJECTS = 3  # of every source and reason
CHARS = 600  # shown of a text
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # bidirectional classes


def chosen(verdicts: DataFrame) -> tuple[Rows, Rows]:
    """(kept, dropped): doc_id and group of the documents to show. A document that fails three rules can stand under each."""
    kept = verdicts.where("keep and not heldout").select("doc_id", "source", "domain", "tier", "percentile")
    dropped = verdicts.where("not keep").select("doc_id", "source", "domain", "reasons", F.explode("reasons").alias("reason"))
    return first_of(kept, KEPT, "domain", "tier"), first_of(dropped, DROPPED, "domain", "reason")


def first_of(frame: DataFrame, count: int, *group: str, by: str = "doc_id") -> Rows:
    order = Window.partitionBy(*group).orderBy(by)
    ranked = frame.withColumn("place", F.row_number().over(order)).where(F.col("place") <= count)
    return rows(ranked.orderBy(*group, "place").drop("place"))


def rejects(table: DataFrame) -> Rows:
    """The first rejects of every source and reason, by place."""
    found = first_of(table.select("source", "reason", "uri", "detail", "n_bytes"), REJECTS, "source", "reason", by="uri")
    return [{**row, "uri": printable(row["uri"]), "detail": printable(row["detail"])} for row in found]


def texts(documents: DataFrame, doc_ids: set[str]) -> dict[str, dict[str, Any]]:
    """Beginning and origin of the documents, by doc_id: one pass over the text, for all that the page shows."""
    if not doc_ids:
        return {}
    beginning = F.substring("text", 1, CHARS).alias("text")
    wanted = documents.where(F.col("doc_id").isin(sorted(doc_ids)))
    found = rows(wanted.select("doc_id", "source", "uri", "licence", "n_bytes", beginning, (F.length("text") > CHARS).alias("cut")))
    return {row["doc_id"]: {**row, **{name: printable(row[name] or "") for name in ("uri", "licence", "text")}} for row in found}


def failing_values(signals: DataFrame, dropped: Rows, rules: dict[str, tuple[Rule, ...]]) -> dict[str, dict[str, Any]]:
    """The signals that rules look at, of the dropped documents, by doc_id."""
    names = sorted({rule.signal for members in rules.values() for rule in members})
    ids = sorted({row["doc_id"] for row in dropped})
    return {row["doc_id"]: row for row in rows(signals.where(F.col("doc_id").isin(ids)).select("doc_id", *_doubles(names)))}


def _doubles(names: list[str]) -> list[Column]:
    return [F.col(name).cast("double").alias(name) for name in names]


def explained(dropped: Rows, values: dict[str, dict], rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """The dropped documents, in the order of the rules, each with the value that it failed by."""
    found = []
    for domain, members in rules.items():
        by_name = {rule.name: rule for rule in members}
        order = {name: place for place, name in enumerate(by_name)}
        mine = [row for row in dropped if row["domain"] == domain]
        for row in sorted(mine, key=lambda row: (order.get(row["reason"], len(order)), row["reason"], row["doc_id"])):
            rule = by_name.get(row["reason"])
            why = {"signal": rule.signal, "threshold": rule.threshold, "value": values[row["doc_id"]][rule.signal]} if rule else {}
            found.append({**row, **why, "side": side(rule) if rule else ""})
    return found


def printable(text: str) -> str:
    """The text with characters that act on a page or terminal, instead of standing there, made visible: \\x1b, \\u202e."""
    return "".join(_escape(c) if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    """Control characters, halves of pairs, and marks that turn the writing direction of what follows."""
    if character in "\n\t" or character.isalnum():
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in TURNS


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
