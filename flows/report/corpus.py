"""The census as tables: what became of every record, and what every rule cost. Plain Python."""

from __future__ import annotations

from typing import Any

from flows.report.census import Rows
from pipelines.rules import Rule

DUPLICATES = {"exact_duplicate": "exact", "near_duplicate": "near"}  # reasons of silver.verdicts that are no rules
CODES = {"any": 0, "only": 2, "first": 1}  # bits of a reason's code in the census
NO_RULE = {"signal": "", "side": "", "threshold": None, "why": "not the keeper of its cluster"}


def funnel(sources: list[tuple[str, str]], records: Rows, census: Rows) -> Rows:
    """What became of every source's records. sources: (name, domain).

    `complaints` says what does not add up: records = rejected + dropped + kept, and every kept document has its tokens.
    """
    table = []
    for name, domain in sources:
        judged = [row for row in census if row["kind"] == "outcome" and row["of"] == name]
        table.append(_of_source(name, domain, [row for row in records if row["source"] == name], judged))
    return table


def total(rows: Rows) -> dict[str, int]:
    return {name: sum(row[name] or 0 for row in rows) for name in ("documents", "bytes")}


def _of_source(name: str, domain: str, records: Rows, judged: Rows) -> dict[str, Any]:
    kept = [row for row in judged if row["name"] is None]
    training = sorted((row for row in kept if row["detail"] != "heldout"), key=lambda row: row["detail"])
    lost = [{"reason": row["name"], **total([row])} for row in judged if row["name"] is not None]
    source = {
        "source": name,
        "domain": domain,
        **total([row for row in records if row["reason"] is None]),
        "rejected": [{"reason": row["reason"], **total([row])} for row in records if row["reason"] is not None],
        "lost": sorted(lost, key=lambda row: (row["reason"] in DUPLICATES, -row["documents"], row["reason"])),
        "tiers": [{"tier": row["detail"], "tokens": row["tokens"] or 0, **total([row])} for row in training],
        "kept": total(kept),
        "heldout": total([row for row in kept if row["detail"] == "heldout"]),
        "tokenised": sum(row["tokenised"] for row in judged),
        "tokens": sum(row["tokens"] or 0 for row in training),
    }
    source["records"] = source["documents"] + total(source["rejected"])["documents"]
    source["outcomes"] = _outcomes(source)
    source["complaints"] = complaints(source)
    return source


def _outcomes(row: dict[str, Any]) -> Rows:
    """The six things that can happen to a record, best first; they partition the source."""
    kept, heldout = row["kept"], row["heldout"]
    outcomes = {"for training": {name: kept[name] - heldout[name] for name in kept}, "held out": heldout}
    outcomes["dropped by rules"] = total([one for one in row["lost"] if one["reason"] not in DUPLICATES])
    for reason, kind in reversed(DUPLICATES.items()):
        outcomes[f"{kind} duplicates"] = total([one for one in row["lost"] if one["reason"] == reason])
    outcomes["rejected"] = total(row["rejected"])
    return [{"outcome": outcome, **counts} for outcome, counts in outcomes.items()]


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


def totals(rows: Rows) -> dict[str, Any]:
    """The funnel's rows, summed over the sources."""
    outcomes = [one for row in rows for one in row["outcomes"]]
    names = list(dict.fromkeys(one["outcome"] for one in outcomes))
    lost = [one for row in rows for one in row["lost"]]
    reasons = {
        name: total([one for one in lost if one["reason"] == name])["documents"]
        for name in {one["reason"] for one in lost}
    }
    return {
        "reasons": sorted(reasons, key=lambda name: (name in DUPLICATES, -reasons[name], name)),
        **{name: sum(row[name] for row in rows) for name in ("records", "documents", "bytes", "tokens")},
        "kept": {name: sum(row["kept"][name] for row in rows) for name in ("documents", "bytes")},
        "outcomes": [{"outcome": name, **total([one for one in outcomes if one["outcome"] == name])} for name in names],
    }


def rule_table(census: Rows, rules: dict[str, tuple[Rule, ...]]) -> Rows:
    """Every rule, duplicates last: how many documents fail it at all, fail nothing else, and give it as their first
    reason."""
    failed = [row for row in census if row["kind"] == "reason"]
    table = []
    for domain, members in rules.items():
        known = {rule.name for rule in members} | set(DUPLICATES)
        others = sorted({row["name"] for row in failed if row["of"] == domain} - known)
        for entry in [
            *map(_described, members),
            *map(_other, others),
            *({"rule": name, **NO_RULE} for name in DUPLICATES),
        ]:
            mine = [row for row in failed if (row["of"], row["name"]) == (domain, entry["rule"])]
            counts = {
                name: total([row for row in mine if row["code"] & bit == bit])["documents"]
                for name, bit in CODES.items()
            }
            table.append({"domain": domain, **entry, **counts})
    return table


def _other(reason: str) -> dict[str, Any]:
    """A reason that is no rule on the document as it came."""
    why = {
        "contaminated": "holds an evaluation's item: see report/decontamination-*.json",
        "torso": "edits leave too little of it",
    }
    return {"rule": reason, **NO_RULE, "why": why.get(reason, "what edits leave of it fails the rule")}


def _described(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "signal": rule.signal,
        "side": rule.side,
        "threshold": rule.threshold,
        "why": rule.source,
    }
