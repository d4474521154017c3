"""The census as distributions: signals beside their thresholds, languages, quality scores. Plain Python."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import accumulate
from typing import Any

from flows.report.census import QUALITY_BINS, Rows, decode_value
from flows.report.corpus import total
from pipelines.rules import Rule

BINS = 32  # bars of a signal's histogram
TAILS = (0.005, 0.995)  # a histogram spans these percentiles; what lies beyond is counted in its first and last bar
LANGUAGES = 12  # shown per domain


def signal_histograms(census: Rows, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """One histogram for every domain and signal that a rule of the domain looks at, the rules' thresholds with it."""
    marks, values = defaultdict(list), defaultdict(list)
    for domain, members in rules.items():
        for rule in members:
            marks[domain, rule.signal].append({"rule": rule.name, "side": rule.side, "value": float(rule.threshold)})
    for row in census:
        if row["kind"] == "signal":
            values[row["of"], row["name"]].append(
                (decode_value(row["code"]), row["documents"], row["detail"] == "failed")
            )
    return [{"domain": key[0], "signal": key[1], **histogram(values[key], marks[key])} for key in marks if values[key]]


def histogram(values: list[tuple[float, int, bool]], thresholds: Rows) -> dict[str, Any]:
    """Documents in every bar, and those of them that fail a rule. values: (value, documents, whether they fail)."""
    ends = scale([percentile(values, share) for share in TAILS], thresholds)
    counts, failed = [0] * BINS, [0] * BINS
    for value, documents, fails in values:
        number = min(BINS - 1, max(0, int(BINS * place(ends, value))))
        counts[number] += documents
        failed[number] += documents if fails else 0
    return {**ends, "thresholds": thresholds, "counts": counts, "failed": failed}


def percentile(values: list[tuple[float, int, bool]], share: float) -> float:
    values = sorted(values)
    upto = list(accumulate(documents for _, documents, _ in values))
    return next(value for (value, *_), n in zip(values, upto, strict=True) if n >= share * upto[-1])


def scale(tails: list[float], thresholds: Rows) -> dict[str, Any]:
    """From where to where a histogram reaches: most values, and every threshold; logarithmic (ln(1+x)) where that is
    wide."""
    values = [mark["value"] for mark in thresholds if math.isfinite(mark["value"])]
    low, high = min([tails[0], *values]), max([tails[1], *values])
    wide = high + 0.08 * (high - low) if high > low else low + 1  # a threshold is not drawn at the very edge
    high = 1.0 if low >= 0 and high <= 1 < wide else wide
    return {"low": low, "high": high, "log": low >= 0 and high > 50 and high > 20 * max(low, 1)}


def place(ends: dict[str, Any], value: float) -> float:
    """Where a value lies between the ends of a scale: 0 at low, 1 at high."""
    low, high, value = (math.log1p(max(0, v)) if ends["log"] else v for v in (ends["low"], ends["high"], value))
    return (value - low) / (high - low)


def languages(census: Rows) -> Rows:
    """The commonest languages of each domain; the rest as one."""
    rows = [{"domain": row["of"], "lang": row["name"], **total([row])} for row in census if row["kind"] == "language"]
    table = []
    for domain in sorted({row["domain"] for row in rows}):
        members = sorted(
            (row for row in rows if row["domain"] == domain), key=lambda row: (-row["bytes"], str(row["lang"]))
        )
        table += members[:LANGUAGES]
        if members[LANGUAGES:]:
            table.append({"domain": domain, "lang": f"{len(members) - LANGUAGES} others", **total(members[LANGUAGES:])})
    return table


def quality(census: Rows) -> Rows:
    """Histograms of the quality score, one for every domain and tier; dropped documents are a tier of their own."""
    counts = defaultdict(lambda: [0] * QUALITY_BINS)
    for row in census:
        if row["kind"] == "quality" and row["code"] is not None:
            counts[row["of"], row["name"]][row["code"]] += row["documents"]
    return [{"domain": domain, "tier": tier, "counts": bins} for (domain, tier), bins in sorted(counts.items())]
