"""How the measurements are spread: signals beside their thresholds, languages, quality scores. Spark aggregates, as in corpus.py."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flows.report.corpus import Rows, rows, side, size, total
from pipelines.rules import Rule

BINS = 32  # bars of a signal's histogram
QUALITY_BINS = 25
TAILS = (0.005, 0.995)  # a histogram spans these percentiles; what lies beyond is counted in its first and last bar
LANGUAGES = 12  # shown per domain


def signal_histograms(signals: DataFrame, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """One histogram for every domain and signal that a rule of the domain looks at, the rules' thresholds with it."""
    marks = defaultdict(list)
    for domain, members in rules.items():
        for rule in members:
            marks[domain, rule.signal].append({"rule": rule.name, "side": side(rule), "value": float(rule.threshold)})
    if not marks:
        return []
    names = sorted({signal for _, signal in marks})
    pairs = F.explode(F.array(*[F.struct(F.lit(name).alias("signal"), F.col(name).cast("double").alias("value")) for name in names]))
    values = signals.select("domain", pairs.alias("pair")).select("domain", "pair.signal", "pair.value").where("value is not null")
    spans = rows(values.groupBy("domain", "signal").agg(
        F.percentile_approx("value", list(TAILS), 1000).alias("tails"), F.count("*").alias("documents")
    ))  # fmt: skip
    scales = {}
    for row in spans:
        if (key := (row["domain"], row["signal"])) in marks:
            scales[key] = {**scale(row["tails"], marks[key]), "thresholds": marks[key]}
    counts = _binned(values, scales) if scales else {}
    order = [key for key in marks if key in scales]
    return [{"domain": d, "signal": s, **scales[d, s], "counts": counts[d, s][0], "failed": counts[d, s][1]} for d, s in order]


def scale(tails: list[float], thresholds: Rows) -> dict[str, Any]:
    """From where to where a histogram reaches: most values, and every threshold; logarithmic (ln(1+x)) where that is wide."""
    values = [mark["value"] for mark in thresholds if math.isfinite(mark["value"])]
    low, high = min([tails[0], *values]), max([tails[1], *values])
    wide = high + 0.08 * (high - low) if high > low else low + 1  # a threshold is not drawn at the very edge
    high = 1.0 if low >= 0 and high <= 1 < wide else wide
    return {"low": low, "high": high, "log": low >= 0 and high > 50 and high > 20 * max(low, 1)}


def _binned(values: DataFrame, scales: dict[tuple[str, str], dict]) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    """Documents in every bar, and those of them that fail a rule on the signal."""
    ends = [(*key, _end(s["low"], s["log"]), _end(s["high"], s["log"]), s["log"], *_bounds(s["thresholds"])) for key, s in scales.items()]
    columns = "domain string, signal string, low double, high double, log boolean, below double, above double"
    placed = values.join(F.broadcast(values.sparkSession.createDataFrame(ends, columns)), ["domain", "signal"], how="inner")
    at = F.when(F.col("log"), F.log1p("value")).otherwise(F.col("value"))
    number = F.least(F.greatest(F.width_bucket(at, "low", "high", F.lit(BINS)), F.lit(1)), F.lit(BINS)) - 1
    failed = F.count_if((F.col("value") < F.col("below")) | (F.col("value") > F.col("above")))
    counts = {key: ([0] * BINS, [0] * BINS) for key in scales}
    for row in placed.groupBy("domain", "signal", number.alias("bin")).agg(F.count("*").alias("all"), failed.alias("failed")).collect():
        found, dropped = counts[row.domain, row.signal]
        found[row.bin], dropped[row.bin] = row["all"], row.failed
    return counts


def _end(value: float, log: bool) -> float:
    return math.log1p(value) if log else value


def _bounds(thresholds: Rows) -> tuple[float | None, float | None]:
    """What a value must not be below, and not above: the stricter one of several rules."""
    below = [mark["value"] for mark in thresholds if mark["side"] == "below"]
    above = [mark["value"] for mark in thresholds if mark["side"] == "above"]
    return max(below, default=None), min(above, default=None)


def languages(signals: DataFrame) -> Rows:
    """The commonest languages of each domain; the rest as one."""
    found = rows(signals.groupBy("domain", "lang").agg(*size()).orderBy("domain", F.desc("bytes"), "lang"))
    table = []
    for domain in sorted({row["domain"] for row in found}):
        members = [row for row in found if row["domain"] == domain]
        table += members[:LANGUAGES]
        if members[LANGUAGES:]:
            table.append({"domain": domain, "lang": f"{len(members) - LANGUAGES} others", **total(members[LANGUAGES:])})
    return table


def quality(signals: DataFrame, verdicts: DataFrame) -> Rows:
    """Histograms of the quality score, one for every domain and tier; dropped documents are a tier of their own."""
    scored = signals.where("quality is not null").select("doc_id", "quality")
    number = F.least(F.floor(F.col("quality") * QUALITY_BINS), F.lit(QUALITY_BINS - 1)).cast("int")
    joined = verdicts.select("doc_id", "domain", F.coalesce("tier", F.lit("dropped")).alias("tier")).join(scored, "doc_id", how="inner")
    counts = defaultdict(lambda: [0] * QUALITY_BINS)
    for row in joined.groupBy("domain", "tier", number.alias("bin")).count().collect():
        counts[row.domain, row.tier][row.bin] = row["count"]
    return [{"domain": domain, "tier": tier, "counts": found} for (domain, tier), found in sorted(counts.items())]
