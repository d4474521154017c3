"""Questions along the ancestry: what became of a document, and what a training step was made of. Starts no Spark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import Lake
from pipelines.rules import Rule
from pipelines.shards.tokens import doc_key
from schemas import tables
from schemas.errors import DataError
from schemas.tables import Table

SHOWN = 5  # spans and steps named one by one; the rest is counted
PREVIEW_CHARACTERS = 200


def life(lake: Lake, doc_id: str) -> Iterator[tuple[str, list[str]]]:
    """A document's life as (heading, lines). `doc_id` may be the beginning of one.

    Raises DataError if no document, or more than one, begins so.
    """
    document = _only(lake, doc_id)
    doc_id = document["doc_id"]
    yield (
        "document",
        [f"{name}: {document[name]}" for name in ("doc_id", "source", "snapshot", "uri", "licence", "n_bytes")],
    )
    preview = " ".join(document["text"].split())[:PREVIEW_CHARACTERS]
    yield "text", [preview]
    yield (
        "signals",
        [
            f"{name}: {_shown(value)}"
            for name, value in _row(lake, tables.SIGNALS, doc_id).items()
            if _worth_showing(value)
        ],
    )
    cluster = _row(lake, tables.CLUSTERS, doc_id)
    yield "cluster", [_cluster(cluster)] if cluster else []
    yield "edits", _edits(lake, doc_id)
    yield "evaluation items", _contamination(lake, doc_id)
    verdict = _row(lake, tables.VERDICTS, doc_id)
    yield "verdict", [_verdict(verdict)] if verdict else []
    yield "spans in shards", _spans(lake, doc_id)
    yield "training steps", _steps(lake, doc_id)


def step(lake: Lake, run: str, number: int) -> list[dict[str, Any]]:
    """What a training step read: by document doc_id, source, uri, tokens that were predicted, `loss`, their mean
    cross-entropy in nats, the greatest first, and `skipped`. `run` may be the beginning of one.

    Raises DataError for a run or a step that ops.ledger does not tell of yet.
    """
    of_run = pc.starts_with(pc.field("run"), run)
    rows = _rows(lake, tables.LEDGER, (pc.field("step") == number) & of_run)
    if not rows:
        told = lake.count(tables.METRICS, of_run) if lake.has(tables.METRICS) else 0
        found = f"{told:,} steps from 0 on" if told else "none"
        raise DataError(f"expected step {number} of run {run}, found {found} in {tables.LEDGER.name}")
    documents = _documents(lake, [row["doc_key"] for row in rows])
    return sorted((_cost(row, documents.get(row["doc_key"], {})) for row in rows), key=lambda row: -row["loss"])


def _documents(lake: Lake, keys: list[int]) -> dict[int, dict[str, Any]]:
    """doc_id, source and uri by document key; those that are no longer tokenised are left out."""
    named = lake.arrow(tables.TOKENS, ["doc_id", "doc_key"], pc.field("doc_key").isin(pa.array(keys)))
    ids = pc.field("doc_id").isin(named.column("doc_id"))
    told = {row["doc_id"]: row for row in lake.arrow(tables.DOCUMENTS, ["doc_id", "source", "uri"], ids).to_pylist()}
    return {row["doc_key"]: told[row["doc_id"]] for row in named.to_pylist() if row["doc_id"] in told}


def _cost(row: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Of a row of the ledger; a loss that is not finite is infinite. Ledgers of before December 2026 know no skipped
    steps."""
    known = {"doc_id": None, "source": None, "uri": "no longer in the lake", **document}
    loss = math.inf if row["loss"] is None else row["loss"] / max(row["tokens"], 1)
    return {**known, "tokens": row["tokens"], "loss": loss, "skipped": row.get("skipped", False)}


def rules_of(lake: Lake, doc_id: str, rules: dict[str, tuple[Rule, ...]]) -> Iterator[tuple[Rule, Any, str, bool]]:
    """Each rule of a document's domain with the value of its signal, the condition in its language
    and which documents the rule is for, and whether the
    document fails.

    `doc_id` may be the beginning of one. Raises DataError if no document, or more than one, begins so.
    """
    signals = _row(lake, tables.SIGNALS, _only(lake, doc_id)["doc_id"])
    for rule in rules.get(signals.get("domain"), ()):
        condition = "; ".join([rule.condition(signals["lang"]), *rule.scope])
        yield rule, signals[rule.signal], condition, rule.fails(signals)


def _only(lake: Lake, beginning: str) -> dict[str, Any]:
    if lake.version(tables.DOCUMENTS) is None:
        raise DataError(f"{lake.root} holds no {tables.DOCUMENTS.name} yet: `flows run curriculum` writes it")
    rows = _rows(lake, tables.DOCUMENTS, pc.starts_with(pc.field("doc_id"), beginning.lower()))
    if len(rows) != 1:
        raise DataError(f"expected one document whose id begins with {beginning}, found {len(rows)}")
    return rows[0]


def _rows(lake: Lake, table: Table, where: pc.Expression) -> list[dict[str, Any]]:
    return lake.arrow(table, where=where).to_pylist() if lake.version(table) is not None else []


def _row(lake: Lake, table: Table, doc_id: str) -> dict[str, Any]:
    return next(iter(_rows(lake, table, pc.field("doc_id") == doc_id)), {})


def _worth_showing(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cluster(row: dict[str, Any]) -> str:
    if row["size"] == 1:
        return "no duplicates"
    kind = "kept" if row["rank"] == 1 else f"{'exact' if row['exact'] else 'near'} duplicate of {row['keeper']}"
    return f"number {row['rank']} of {row['size']} in cluster {row['cluster_id']}: {kind}"


def _edits(lake: Lake, doc_id: str) -> list[str]:
    rows = sorted(_rows(lake, tables.EDITS, pc.field("doc_id") == doc_id), key=lambda r: r["start"])
    done = [f"masked as {r['replacement']}" if r["replacement"] else "left out" for r in rows]
    return _first([f"bytes {r['start']}-{r['end'] - 1} {how}: {r['why']}" for r, how in zip(rows, done, strict=True)])


def _verdict(row: dict[str, Any]) -> str:
    if not row["keep"]:
        return f"dropped: {', '.join(row['reasons'])}"
    place = "held out for evaluation" if row["heldout"] else f"stream {row['source']}.{row['tier']}"
    return f"kept, {place}" + (f", quality percentile {row['percentile']:.2f}" if row["percentile"] is not None else "")


def _contamination(lake: Lake, doc_id: str) -> list[str]:
    rows = _rows(lake, tables.CONTAMINATION, pc.field("doc_id") == doc_id)
    rows.sort(key=lambda r: (-r["cover"], r["item"]))
    return _first(
        [
            f"{r['item']} ({r['field']}): {r['cover']:.0%} covered by bytes {r['start']}-{r['end']}, "
            f"{r['near']:.0%} of its words, "
            f"{r['run']} words in a row: {' '.join(r['excerpt'].split())[:PREVIEW_CHARACTERS]}"
            for r in rows
        ]
    )


def _spans(lake: Lake, doc_id: str) -> list[str]:
    rows = _rows(lake, tables.SPANS, pc.field("doc_id") == doc_id)
    rows.sort(key=lambda r: (r["stream"], r["seq_len"], r["window"], r["sample"], r["slot"]))
    return _first(
        [
            f"tokens {r['doc_start']}-{r['doc_start'] + r['n_tokens'] - 1} in {r['stream']}/{r['seq_len']} "
            f"window {r['window']}, sample {r['sample']} from token {r['start']}"
            for r in rows
        ]
    )


def _steps(lake: Lake, doc_id: str) -> list[str]:
    rows = _rows(lake, tables.LEDGER, pc.field("doc_key") == doc_key(doc_id))
    rows.sort(key=lambda r: (r["run"], r["step"]))
    return _first(
        [
            f"run {r['run'][:12]} step {r['step']}: {r['tokens']} tokens, "
            + (f"{cost['loss']:.3f} nats a token" if math.isfinite(cost["loss"]) else "a loss that is not finite")
            + (", skipped" if cost["skipped"] else "")
            for r, cost in ((row, _cost(row, {})) for row in rows)
        ]
    )


def _first(lines: list[str]) -> list[str]:
    return lines[:SHOWN] + ([f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []) or ["none"]
