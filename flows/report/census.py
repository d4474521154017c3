"""What the tables say of the corpus, in a handful of Spark aggregates.

Every document tells what it counts for (an outcome, its reasons, its language, the value of every signal), and one
group-by counts it all. What reaches the driver is bounded by sources, rules, languages and codes (`encode_values`).
"""

from __future__ import annotations

import math
from functools import reduce
from operator import or_
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.rules import Rule

Rows = list[dict[str, Any]]

QUALITY_BINS = 25
CODES_TO_ONE, CODES_PER_E = 256, 100  # steps of `encode_values` from 0 to 1, and above it in every factor of e: 1 %
LARGEST = 8  # clusters shown
MEMBERS = 4  # of such a cluster


def size() -> tuple[Column, Column]:
    return F.count("*").alias("documents"), F.sum("n_bytes").alias("bytes")


def rows(frame: DataFrame, *by: str) -> Rows:
    """The few rows of an aggregate, in order of columns: sorted here, since a sort in Spark is two more jobs."""
    return sorted(
        (row.asDict() for row in frame.collect()), key=lambda row: [(row[name] is not None, row[name]) for name in by]
    )


def census(verdicts: DataFrame, signals: DataFrame, tokens: DataFrame, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """(kind, of, name, detail, code, documents, bytes, tokenised, tokens): how many documents count for what.

    kind      of      name      detail                             code
    outcome   source  reason    tier, or heldout
    reason    domain  rule                                         2 if the only reason + 1 if the first
    language  domain  language
    quality   domain  tier, or dropped                             bin
    signal    domain  signal    failed: beyond a rule's threshold  `encode_values` value
    """
    names = sorted(
        {name for members in rules.values() for rule in members for name in rule.columns}
        - {"n_bytes", "quality", "lang"}
    )
    measured = signals.select("doc_id", "lang", "quality", *names)
    documents = verdicts.join(measured, "doc_id", how="left").join(
        tokens.select("doc_id", "n_tokens"), "doc_id", how="left"
    )
    entries = F.concat(F.array(*_once()), F.transform("reasons", _reason), F.array_compact(F.array(*_measured(rules))))
    told = documents.select("n_bytes", "n_tokens", F.explode(entries).alias("entry")).select(
        "n_bytes", "n_tokens", "entry.*"
    )
    code = (
        F.when(F.col("kind") == "signal", encode_values(F.col("value")))
        .otherwise(F.col("value"))
        .cast("int")
        .alias("code")
    )
    counted = told.groupBy("kind", "of", "name", "detail", code)
    return rows(counted.agg(*size(), F.count("n_tokens").alias("tokenised"), F.sum("n_tokens").alias("tokens")))


def _entry(kind: str, of: str, name: Column, detail: Column | None = None, value: Column | None = None) -> Column:
    nothing = F.lit(None)
    return F.struct(
        F.lit(kind).alias("kind"),
        F.col(of).alias("of"),
        name.alias("name"),
        (nothing if detail is None else detail).cast("string").alias("detail"),
        (nothing if value is None else value).cast("double").alias("value"),
    )


def _once() -> list[Column]:
    """What every document counts for once."""
    grade = F.when(F.col("heldout"), F.lit("heldout")).otherwise(F.col("tier"))
    tier = F.coalesce("tier", F.lit("dropped"))
    number = F.least(F.floor(F.col("quality") * QUALITY_BINS), F.lit(QUALITY_BINS - 1))
    return [
        _entry("outcome", "source", F.col("reason"), grade),
        _entry("language", "domain", F.col("lang")),
        _entry("quality", "domain", tier, value=number),
    ]


def _reason(name: Column) -> Column:
    code = F.when(F.size("reasons") == 1, 2).otherwise(0) + F.when(F.col("reason") == name, 1).otherwise(0)
    return _entry("reason", "domain", name, value=code)


def _measured(rules: dict[str, tuple[Rule, ...]]) -> list[Column]:
    """Signals that a rule of the document's domain looks at."""
    entries = []
    for domain, members in rules.items():
        for signal in dict.fromkeys(rule.signal for rule in members):
            value = F.col(signal).cast("double")
            beyond = [F.expr(rule.sql) for rule in members if rule.signal == signal]
            failed = F.when(reduce(or_, beyond), F.lit("failed"))
            finite = value.between(-1e300, 1e300)  # null and NaN are not
            entry = _entry("signal", "domain", F.lit(signal), failed, value)
            entries.append(F.when((F.col("domain") == domain) & finite, entry))
    return entries


def encode_values(value: Column) -> Column:
    """A number to about 1 %, as one of a few thousand integers: the driver gets counts by code, never values."""
    size = F.abs(value)
    code = F.when(size <= 1, F.round(size * CODES_TO_ONE)).otherwise(CODES_TO_ONE + F.round(F.log(size) * CODES_PER_E))
    return F.signum(value) * code


def decode_value(code: int) -> float:
    size = abs(code)
    return math.copysign(
        size / CODES_TO_ONE if size <= CODES_TO_ONE else math.exp((size - CODES_TO_ONE) / CODES_PER_E), code
    )


def count_records(documents: DataFrame, rejects: DataFrame) -> Rows:
    """(source, reason, documents, bytes) of all records; reason is null for those that became documents."""
    taken = documents.select("source", F.lit(None).cast("string").alias("reason"), "n_bytes")
    both = taken.union(rejects.select("source", "reason", "n_bytes"))
    return rows(both.groupBy("source", "reason").agg(*size()), "source", "reason")


def duplicates(clusters: DataFrame, verdicts: DataFrame) -> dict[str, Any]:
    """Sizes of the clusters in doubling bins, and the largest ones: their sources and first members."""
    bins = F.ceil(F.log2("size")).cast("int")
    sizes = (
        clusters.where("rank = 1")
        .groupBy(bins.alias("bin"))
        .agg(F.count("*").alias("clusters"), F.sum("size").alias("documents"))
    )
    histogram = [{**row, "from": (1 << row["bin"]) // 2 + 1, "to": 1 << row["bin"]} for row in rows(sizes, "bin")]
    return {"histogram": histogram, "largest": _largest(clusters, verdicts)}


def _largest(clusters: DataFrame, verdicts: DataFrame) -> Rows:
    keepers = clusters.where("rank = 1 and size > 1").orderBy(F.desc("size"), "cluster_id").limit(LARGEST)
    largest = {
        row["cluster_id"]: {**row, "sources": [], "members": []}
        for row in rows(keepers.select("cluster_id", "size", "doc_id"))
    }
    of_top = clusters.where(F.col("cluster_id").isin(list(largest))).join(
        verdicts.select("doc_id", "source"), "doc_id", how="inner"
    )
    counted = of_top.groupBy("cluster_id", "source").agg(
        F.count("*").alias("documents"),
        F.count_if("exact").alias("exact"),
        F.collect_list(F.when(F.col("rank").between(2, MEMBERS), F.col("doc_id"))).alias("members"),
    )
    for row in rows(counted, "cluster_id", "source"):
        cluster = largest[row["cluster_id"]]
        cluster["sources"].append({name: row[name] for name in ("source", "documents", "exact")})
        cluster["members"] = sorted(cluster["members"] + row["members"])
    return list(largest.values())


def packing(spans: DataFrame) -> Rows:
    """How full the written samples are: what is not a document's token is padding."""
    pieces = spans.groupBy("stream", "seq_len", "window", "sample").agg(
        F.sum("n_tokens").alias("tokens"),
        F.count("*").alias("pieces"),
        F.count_if(F.col("doc_start") > 0).alias("continued"),
    )
    summed = [F.sum(name).alias(name) for name in ("tokens", "pieces", "continued")]
    folders = pieces.groupBy("stream", "seq_len").agg(F.count("*").alias("samples"), *summed)
    return [
        {**row, "fill": row["tokens"] / (row["samples"] * row["seq_len"])} for row in rows(folders, "stream", "seq_len")
    ]
