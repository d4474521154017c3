"""What the tables say of the corpus. Spark aggregates: what reaches the driver is bounded by sources, rules, bins and stages."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.rules import Rule

Rows = list[dict[str, Any]]

DUPLICATES = {"exact_duplicate": "exact", "near_duplicate": "near"}  # reasons of silver.verdicts that are no rules
BINS = 32  # bars of a signal's histogram
QUALITY_BINS = 25
TAILS = (0.005, 0.995)  # a histogram spans these percentiles; what lies beyond is counted in its first and last bar
LARGEST = 8  # clusters shown
LANGUAGES = 12  # shown per domain


def rows(frame: DataFrame) -> Rows:
    return [row.asDict() for row in frame.collect()]


def funnel(sources: list[tuple[str, str]], documents: DataFrame, rejects: DataFrame, verdicts: DataFrame, tokens: DataFrame) -> Rows:
    """What became of every source's records. sources: (name, domain).

    `complaints` says what does not add up: records = rejected + dropped + kept, and every kept document has its tokens.
    """
    read = {row["source"]: row for row in rows(documents.groupBy("source").agg(*_size()))}
    refused = rows(rejects.groupBy("source", "reason").agg(*_size()).orderBy("source", "reason"))
    judged = rows(
        verdicts.join(tokens.select("doc_id", "n_tokens"), "doc_id", how="left").groupBy("source", "reason", "tier", "heldout")
        .agg(*_size(), F.count("n_tokens").alias("tokenised"), F.sum("n_tokens").alias("tokens"))
    )  # fmt: skip
    return [_of_source(name, domain, read.get(name), _of(refused, name), _of(judged, name)) for name, domain in sources]


def _size() -> tuple[Column, Column]:
    return F.count("*").alias("documents"), F.sum("n_bytes").alias("bytes")


def _of(found: Rows, source: str) -> Rows:
    return [row for row in found if row["source"] == source]


def _total(found: Rows) -> dict[str, int]:
    return {"documents": sum(row["documents"] for row in found), "bytes": sum(row["bytes"] or 0 for row in found)}


def _of_source(name: str, domain: str, read: dict | None, refused: Rows, judged: Rows) -> dict[str, Any]:
    kept = [row for row in judged if row["reason"] is None]
    lost = [{"reason": row["reason"], **_total([row])} for row in judged if row["reason"] is not None]
    lost.sort(key=lambda row: (row["reason"] in DUPLICATES, -row["documents"], row["reason"]))
    tiers = [{"tier": row["tier"], "tokens": row["tokens"] or 0, **_total([row])} for row in kept if not row["heldout"]]
    found = {
        "source": name,
        "domain": domain,
        "documents": read["documents"] if read else 0,
        "bytes": read["bytes"] if read else 0,
        "rejected": [{"reason": row["reason"], **_total([row])} for row in refused],
        "lost": lost,
        "tiers": sorted(tiers, key=lambda row: row["tier"]),
        "kept": _total(kept),
        "heldout": _total([row for row in kept if row["heldout"]]),
        "tokenised": sum(row["tokenised"] for row in judged),
        "tokens": sum(row["tokens"] or 0 for row in kept if not row["heldout"]),
    }
    found["records"] = found["documents"] + _total(found["rejected"])["documents"]
    found["outcomes"] = _outcomes(found)
    found["complaints"] = complaints(found)
    return found


def _outcomes(row: dict[str, Any]) -> Rows:
    """The six things that can happen to a record, best first; they partition the source."""
    kept, heldout = row["kept"], row["heldout"]
    found = {"for training": {name: kept[name] - heldout[name] for name in kept}, "held out": heldout}
    found["dropped by rules"] = _total([one for one in row["lost"] if one["reason"] not in DUPLICATES])
    for reason, kind in reversed(DUPLICATES.items()):
        found[f"{kind} duplicates"] = _total([one for one in row["lost"] if one["reason"] == reason])
    found["rejected"] = _total(row["rejected"])
    return [{"outcome": outcome, **counts} for outcome, counts in found.items()]


def totals(found: Rows) -> dict[str, Any]:
    """The funnel's rows, summed over the sources."""
    outcomes = [one for row in found for one in row["outcomes"]]
    names = list(dict.fromkeys(one["outcome"] for one in outcomes))
    return {
        **{name: sum(row[name] for row in found) for name in ("records", "documents", "bytes", "tokens")},
        "kept": {name: sum(row["kept"][name] for row in found) for name in ("documents", "bytes")},
        "outcomes": [{"outcome": name, **_total([one for one in outcomes if one["outcome"] == name])} for name in names],
    }


def complaints(row: dict[str, Any]) -> list[str]:
    """What does not add up in a source's row of the funnel, in words."""
    dropped, kept = _total(row["lost"]), row["kept"]
    judged, judged_bytes = dropped["documents"] + kept["documents"], dropped["bytes"] + kept["bytes"]
    said = []
    if row["documents"] != judged:
        said.append(f"{row['documents']:,} documents were ingested, {judged:,} have a verdict")
    elif row["bytes"] != judged_bytes:
        said.append(f"{row['bytes']:,} bytes were ingested, {judged_bytes:,} have a verdict")
    if row["tokenised"] != kept["documents"]:
        said.append(f"{kept['documents']:,} documents were kept, {row['tokenised']:,} documents have tokens")
    return said


def rule_table(verdicts: DataFrame, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """Every rule, duplicates last: how many documents fail it at all, fail nothing else, and give it as their first reason."""
    failed = verdicts.where("not keep").select("domain", "reason", "reasons", F.explode("reasons").alias("rule"))
    counts = failed.groupBy("domain", "rule").agg(
        F.count("*").alias("any"),
        F.count_if(F.size("reasons") == 1).alias("only"),
        F.count_if(F.col("reason") == F.col("rule")).alias("first"),
    )
    found = {(row["domain"], row["rule"]): row for row in rows(counts)}
    table = []
    for domain, members in rules.items():
        described = [
            {"rule": rule.name, "signal": rule.signal, "side": "above" if rule.below is None else "below",
             "threshold": rule.threshold, "why": rule.source} for rule in members
        ] + [{"rule": name, "signal": "", "side": "", "threshold": None, "why": "not the keeper of its cluster"} for name in DUPLICATES]  # fmt: skip
        for entry in described:
            count = found.get((domain, entry["rule"]), {"any": 0, "only": 0, "first": 0})
            table.append({"domain": domain, **entry, **{name: count[name] for name in ("any", "only", "first")}})
    return table


def duplicates(clusters: DataFrame, verdicts: DataFrame) -> dict[str, Any]:
    """Sizes of the clusters in doubling bins, and the largest ones: their sources and first members."""
    bins = F.ceil(F.log2("size")).cast("int")
    sizes = clusters.where("rank = 1").groupBy(bins.alias("bin")).agg(F.count("*").alias("clusters"), F.sum("size").alias("documents"))
    histogram = [
        {"from": (1 << row["bin"] - 1) + 1 if row["bin"] else 1, "to": 1 << row["bin"], "clusters": row["clusters"], "documents": row["documents"]}
        for row in rows(sizes.orderBy("bin"))
    ]
    return {"histogram": histogram, "largest": _largest(clusters, verdicts)}


def _largest(clusters: DataFrame, verdicts: DataFrame) -> Rows:
    top = clusters.where("rank = 1 and size > 1").orderBy(F.desc("size"), "cluster_id").limit(LARGEST).select("cluster_id", "size", "doc_id")
    found = {row["cluster_id"]: {**row, "sources": [], "members": []} for row in rows(top)}
    of_top = clusters.where(F.col("cluster_id").isin(list(found))).join(verdicts.select("doc_id", "source"), "doc_id", how="inner")
    counted = of_top.groupBy("cluster_id", "source").agg(
        F.count("*").alias("documents"), F.count_if("exact").alias("exact"), F.collect_list(F.when(F.col("rank") <= 4, F.col("doc_id"))).alias("members")
    )
    for row in rows(counted.orderBy("cluster_id", F.desc("documents"), "source")):
        cluster = found[row["cluster_id"]]
        cluster["sources"].append({name: row[name] for name in ("source", "documents", "exact")})
        cluster["members"] = sorted({*cluster["members"], *row["members"]} - {cluster["doc_id"]})
    return list(found.values())


def signal_histograms(signals: DataFrame, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """One histogram for every domain and signal that a rule of the domain looks at, the rules' thresholds with it."""
    marks = defaultdict(list)
    for domain, members in rules.items():
        for rule in members:
            marks[domain, rule.signal].append({"rule": rule.name, "side": "above" if rule.below is None else "below", "value": float(rule.threshold)})
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
    high = high + 0.08 * (high - low) if high > low else low + 1
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
    found = rows(signals.groupBy("domain", "lang").agg(*_size()).orderBy("domain", F.desc("bytes"), "lang"))
    table = []
    for domain in sorted({row["domain"] for row in found}):
        members = [row for row in found if row["domain"] == domain]
        table += members[:LANGUAGES]
        if members[LANGUAGES:]:
            table.append({"domain": domain, "lang": f"{len(members) - LANGUAGES} others", **_total(members[LANGUAGES:])})
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


def packing(spans: DataFrame) -> Rows:
    """How full the written samples are: what is not a document's token is padding."""
    pieces = spans.groupBy("stream", "seq_len", "window", "sample").agg(
        F.sum("n_tokens").alias("tokens"), F.count("*").alias("pieces"), F.count_if(F.col("doc_start") > 0).alias("continued")
    )
    totals = pieces.groupBy("stream", "seq_len").agg(
        F.count("*").alias("samples"), F.sum("tokens").alias("tokens"), F.sum("pieces").alias("pieces"), F.sum("continued").alias("continued")
    )
    return [{**row, "fill": row["tokens"] / (row["samples"] * row["seq_len"])} for row in rows(totals.orderBy("stream", "seq_len"))]
