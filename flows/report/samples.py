"""Texts to look at: kept ones of every tier, dropped ones of every rule, members of the largest clusters.

Which ones is decided by doc_id, a hash of the content: the first few in its order, so the choice is blind and repeats.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from flows.report.census import Rows, rows
from pipelines.edits.preview import SHOWN_BEHIND, beginnings
from pipelines.rules import Rule

KEPT = 2  # texts shown of every domain and tier
DROPPED = 2  # of every domain and reason
REJECTS = 3  # of every source and reason
CHARS = 600  # shown of a text
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # bidirectional classes


def choose_documents(verdicts: DataFrame, signals: DataFrame, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """The documents to show: doc_id, domain, group (tier or reason), verdict, and `values` of the signals that rules
    look at.

    A document that fails three rules can stand under each.
    """
    groups = F.explode(F.when(F.col("keep"), F.array("tier")).otherwise(F.col("reasons")))
    grouped = verdicts.where("not heldout").select(
        "doc_id", "domain", "keep", "reasons", "percentile", groups.alias("group")
    )
    first = first_of(grouped, F.when(F.col("keep"), KEPT).otherwise(DROPPED), "domain", "keep", "group")
    names = sorted({rule.signal for members in rules.values() for rule in members})
    values = F.struct(*[F.col(name).cast("double").alias(name) for name in names]).alias("values")
    return rows(signals.select("doc_id", values).join(F.broadcast(first), "doc_id", how="inner"))


def first_of(frame: DataFrame, count: Column, *group: str, by: str = "doc_id") -> DataFrame:
    order = Window.partitionBy(*group).orderBy(by)
    return frame.withColumn("place", F.row_number().over(order)).where(F.col("place") <= count).drop("place")


def rejects(table: DataFrame) -> Rows:
    """The first rejects of every source and reason, by place."""
    first = first_of(
        table.select("source", "reason", "uri", "detail", "n_bytes"), F.lit(REJECTS), "source", "reason", by="uri"
    )
    shown = rows(first, "source", "reason", "uri")
    return [{**row, "uri": printable(row["uri"]), "detail": printable(row["detail"])} for row in shown]


def texts(documents: DataFrame, doc_ids: set[str]) -> dict[str, dict[str, Any]]:
    """Beginning, personal data masked, and origin of the documents, by doc_id: one pass over the text, for all that the
    page shows."""
    if not doc_ids:
        return {}
    beginning = F.substring("text", 1, CHARS + SHOWN_BEHIND).alias("text")
    wanted = documents.where(F.col("doc_id").isin(sorted(doc_ids)))
    excerpts = rows(
        wanted.select(
            "doc_id", "source", "uri", "licence", "n_bytes", beginning, (F.length("text") > CHARS).alias("cut")
        )
    )
    masked = beginnings([row["text"] for row in excerpts], CHARS)
    excerpts = [{**row, "text": text} for row, text in zip(excerpts, masked, strict=True)]
    return {
        row["doc_id"]: {**row, **{name: printable(row[name] or "") for name in ("uri", "licence", "text")}}
        for row in excerpts
    }


def explain_documents(documents: Rows, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """Dropped documents, each with the value that it failed by; kept ones have a tier for a group and no values."""
    by_name = {(domain, rule.name): rule for domain, members in rules.items() for rule in members}
    table = []
    for row in sorted(documents, key=lambda row: (row["domain"], row["group"], row["doc_id"])):
        rule = None if row["keep"] else by_name.get((row["domain"], row["group"]))
        shown = {name: value for name, value in row.items() if name != "values"}
        if rule:
            value = row["values"][rule.signal]
            shown |= {"signal": rule.signal, "threshold": rule.threshold, "value": value, "side": rule.side}
        table.append(shown)
    return table


def printable(text: str) -> str:
    """The text with characters that act on a page or terminal, instead of standing there, made visible: \\x1b,
    \\u202e."""
    return "".join(_escape(c) if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    """Control characters, halves of pairs, and marks that turn the writing direction of what follows."""
    if character in "\n\t" or character.isalnum():
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in TURNS


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
