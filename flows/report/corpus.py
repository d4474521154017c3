"""What the tables say of the corpus. Spark aggregates: what reaches the driver is bounded by sources, rules, bins and stages."""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.rules import Rule

Rows = list[dict[str, Any]]

DUPLICATES = {"exact_duplicate": "exact", "near_duplicate": "near"}  # reasons of silver.verdicts that are no rules
NO_RULE = {"signal": "", "side": "", "threshold": None, "why": "not the keeper of its cluster"}
LARGEST = 8  # clusters shown
MEMBERS = 4  # of such a cluster


def rows(frame: DataFrame) -> Rows:
    return [row.asDict() for row in frame.collect()]


def funnel(sources: list[tuple[str, str]], documents: DataFrame, rejects: DataFrame, verdicts: DataFrame, tokens: DataFrame) -> Rows:
    """What became of every source's records. sources: (name, domain).

    `complaints` says what does not add up: records = rejected + dropped + kept, and every kept document has its tokens.
    """
    read = {row["source"]: row for row in rows(documents.groupBy("source").agg(*size()))}
    refused = rows(rejects.groupBy("source", "reason").agg(*size()).orderBy("source", "reason"))
    judged = rows(
        verdicts.join(tokens.select("doc_id", "n_tokens"), "doc_id", how="left").groupBy("source", "reason", "tier", "heldout")
        .agg(*size(), F.count("n_tokens").alias("tokenised"), F.sum("n_tokens").alias("tokens"))
    )  # fmt: skip
    return [_of_source(name, domain, read.get(name), _of(refused, name), _of(judged, name)) for name, domain in sources]


def size() -> tuple[Column, Column]:
    return F.count("*").alias("documents"), F.sum("n_bytes").alias("bytes")


def _of(found: Rows, source: str) -> Rows:
    return [row for row in found if row["source"] == source]


def total(found: Rows) -> dict[str, int]:
    return {"documents": sum(row["documents"] for row in found), "bytes": sum(row["bytes"] or 0 for row in found)}


def _of_source(name: str, domain: str, read: dict | None, refused: Rows, judged: Rows) -> dict[str, Any]:
    kept = [row for row in judged if row["reason"] is None]
    lost = [{"reason": row["reason"], **total([row])} for row in judged if row["reason"] is not None]
    lost.sort(key=lambda row: (row["reason"] in DUPLICATES, -row["documents"], row["reason"]))
    tiers = [{"tier": row["tier"], "tokens": row["tokens"] or 0, **total([row])} for row in kept if not row["heldout"]]
    found = {
        "source": name,
        "domain": domain,
        "documents": read["documents"] if read else 0,
        "bytes": read["bytes"] if read else 0,
        "rejected": [{"reason": row["reason"], **total([row])} for row in refused],
        "lost": lost,
        "tiers": sorted(tiers, key=lambda row: row["tier"]),
        "kept": total(kept),
        "heldout": total([row for row in kept if row["heldout"]]),
        "tokenised": sum(row["tokenised"] for row in judged),
        "tokens": sum(row["tokens"] or 0 for row in kept if not row["heldout"]),
    }
    found["records"] = found["documents"] + total(found["rejected"])["documents"]
    found["outcomes"] = _outcomes(found)
    found["complaints"] = complaints(found)
    return found


def _outcomes(row: dict[str, Any]) -> Rows:
    """The six things that can happen to a record, best first; they partition the source."""
    kept, heldout = row["kept"], row["heldout"]
    found = {"for training": {name: kept[name] - heldout[name] for name in kept}, "held out": heldout}
    found["dropped by rules"] = total([one for one in row["lost"] if one["reason"] not in DUPLICATES])
    for reason, kind in reversed(DUPLICATES.items()):
        found[f"{kind} duplicates"] = total([one for one in row["lost"] if one["reason"] == reason])
    found["rejected"] = total(row["rejected"])
    return [{"outcome": outcome, **counts} for outcome, counts in found.items()]


def totals(found: Rows) -> dict[str, Any]:
    """The funnel's rows, summed over the sources."""
    outcomes = [one for row in found for one in row["outcomes"]]
    names = list(dict.fromkeys(one["outcome"] for one in outcomes))
    reasons = {one["reason"] for row in found for one in row["lost"]}
    return {
        "reasons": [*sorted(reasons - DUPLICATES.keys()), *(name for name in DUPLICATES if name in reasons)],
        **{name: sum(row[name] for row in found) for name in ("records", "documents", "bytes", "tokens")},
        "kept": {name: sum(row["kept"][name] for row in found) for name in ("documents", "bytes")},
        "outcomes": [{"outcome": name, **total([one for one in outcomes if one["outcome"] == name])} for name in names],
    }


def complaints(row: dict[str, Any]) -> list[str]:
    """What does not add up in a source's row of the funnel, in words."""
    dropped, kept = total(row["lost"]), row["kept"]
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
        for entry in [*map(_described, members), *({"rule": name, **NO_RULE} for name in DUPLICATES)]:
            count = found.get((domain, entry["rule"]), {"any": 0, "only": 0, "first": 0})
            table.append({"domain": domain, **entry, **{name: count[name] for name in ("any", "only", "first")}})
    return table


def _described(rule: Rule) -> dict[str, Any]:
    return {"rule": rule.name, "signal": rule.signal, "side": side(rule), "threshold": rule.threshold, "why": rule.source}


def side(rule: Rule) -> str:
    """On which side of its threshold the rule drops."""
    return "above" if rule.below is None else "below"


def duplicates(clusters: DataFrame, verdicts: DataFrame) -> dict[str, Any]:
    """Sizes of the clusters in doubling bins, and the largest ones: their sources and first members."""
    bins = F.ceil(F.log2("size")).cast("int")
    sizes = clusters.where("rank = 1").groupBy(bins.alias("bin")).agg(F.count("*").alias("clusters"), F.sum("size").alias("documents"))
    found = rows(sizes.orderBy("bin"))
    histogram = [{**row, "from": (1 << row["bin"]) // 2 + 1, "to": 1 << row["bin"]} for row in found]
    return {"histogram": histogram, "largest": _largest(clusters, verdicts)}


def _largest(clusters: DataFrame, verdicts: DataFrame) -> Rows:
    keepers = clusters.where("rank = 1 and size > 1").orderBy(F.desc("size"), "cluster_id").limit(LARGEST)
    found = {row["cluster_id"]: {**row, "sources": [], "members": []} for row in rows(keepers.select("cluster_id", "size", "doc_id"))}
    of_top = clusters.where(F.col("cluster_id").isin(list(found))).join(verdicts.select("doc_id", "source"), "doc_id", how="inner")
    counted = of_top.groupBy("cluster_id", "source").agg(
        F.count("*").alias("documents"),
        F.count_if("exact").alias("exact"),
        F.collect_list(F.when(F.col("rank").between(2, MEMBERS), F.col("doc_id"))).alias("members"),
    )
    for row in rows(counted.orderBy("cluster_id", F.desc("documents"), "source")):
        cluster = found[row["cluster_id"]]
        cluster["sources"].append({name: row[name] for name in ("source", "documents", "exact")})
        cluster["members"] = sorted(cluster["members"] + row["members"])
    return list(found.values())


def packing(spans: DataFrame) -> Rows:
    """How full the written samples are: what is not a document's token is padding."""
    pieces = spans.groupBy("stream", "seq_len", "window", "sample").agg(
        F.sum("n_tokens").alias("tokens"), F.count("*").alias("pieces"), F.count_if(F.col("doc_start") > 0).alias("continued")
    )
    summed = [F.sum(name).alias(name) for name in ("tokens", "pieces", "continued")]
    folders = rows(pieces.groupBy("stream", "seq_len").agg(F.count("*").alias("samples"), *summed).orderBy("stream", "seq_len"))
    return [{**row, "fill": row["tokens"] / (row["samples"] * row["seq_len"])} for row in folders]
