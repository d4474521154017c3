"""New deliveries beside the last accepted ones of their sources: accepted, or the run stops before they are judged."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows.home import Home
from flows.job import Counts, Job
from flows.steps.edits import judged_tables, terms
from pipelines.deliveries import Delivery
from pipelines.lake import from_rows
from schemas import tables
from schemas.errors import DataError, GateClosed
from schemas.recipe import Recipe

NEEDS = ("ingest", "measure", "dedup", "decontaminate", "edits")
TABLES = (tables.DELIVERIES,)
REVISION = 1

ACCEPTED, CLOSED, BY_HAND = "accepted", "closed", "accepted by hand"
TOLD = 8  # measures of a closed delivery with their documents; more are a wall of text
MAPS = "measured", "drift", "beyond", "documents"
Row = dict[str, Any]


def part(recipe: Recipe) -> dict[str, Any]:
    """Nothing: the limits decide whether a run goes on, and no output."""
    return {}


def files(job: Job) -> list[Path]:
    """None."""
    return []


def run(job: Job) -> Counts:
    """Raises GateClosed where a delivery is beyond a limit, after its row is written."""
    known = latest(job.home)
    rows = list(decide(job, known))
    new = [row for row in rows if not _same(row, known.get((row["source"], row["snapshot"], row["hash"])))]
    if new:
        job.store(from_rows(new, tables.DELIVERIES), tables.DELIVERIES, {"step": "gate"}, append=True)
    closed = [row for row in rows if row["decision"] == CLOSED]
    if closed:
        raise GateClosed("\n".join([*(line for row in closed for line in complaint(job, row)), *ways_on(closed)]))
    return {"deliveries accepted": len(job.deliveries)}


def latest(home: Home) -> dict[tuple[str, str, str], Row]:
    """By source, snapshot and hash the row of ops.deliveries that holds, the oldest first; none without the table."""
    if not home.lake.has(tables.DELIVERIES):
        return {}
    rows = home.lake.arrow(tables.DELIVERIES).sort_by("at").to_pylist()
    holding: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row["source"], row["snapshot"], row["hash"]
        holding.pop(key, None)  # so that their order is that of the rows which hold
        holding[key] = {**row, **{name: dict(row[name]) for name in MAPS}}
    return holding


def decide(job: Job, known: dict[tuple[str, str, str], Row]) -> Iterator[Row]:
    """A row for each delivery that was not accepted as its files are now, those of a source in their order: each beside
    the last one before it that is accepted."""
    import duckdb

    from pipelines import drift

    names = {Delivery.named(name): print_ for name, print_ in job.deliveries.items()}
    accepted = {one for one, print_ in names.items() if _accepted(known.get((*one, print_)))}
    if len(accepted) == len(names):
        return
    with duckdb.connect() as db:
        drift.load(db, job.home.lake, judged_tables(job), terms(job), list(names))
        for one in names:
            if one in accepted:
                continue
            before = [other for other in names if other.source == one.source]
            before = [other for other in before[: before.index(one)] if other in accepted]
            new, old = drift.profile(db, one), drift.profile(db, before[-1]) if before else None
            told = drift.compare(db, new, old, job.recipe.drift) if old else drift.Comparison({}, {}, {})
            if not told.beyond:
                accepted.add(one)
            yield {
                "at": now(), "run": job.run, **one._asdict(), "hash": names[one],
                "against": old and old.delivery.snapshot, "decision": CLOSED if told.beyond else ACCEPTED,
                "who": None, "why": None, "measured": new.measured, **vars(told),
                "reference": old.measured if old else {},
            }  # fmt: skip


def _accepted(row: Row | None) -> bool:
    return row is not None and row["decision"] != CLOSED


def _same(row: Row, stored: Row | None) -> bool:
    """Whether a row says what the stored one does, so that it need not be written again."""
    return stored is not None and all(row[name] == stored[name] for name in ("decision", "against", "beyond"))


def complaint(job: Job, row: Row) -> Iterator[str]:
    """What is said of a closed delivery: a line for it, one for each measure, the farthest beyond its limit first."""
    yield f"gate closed: {row['source']}/{row['snapshot']} differs from {row['against']}, the last accepted delivery:"
    farthest = sorted(row["beyond"].items(), key=lambda one: -_excess(row["drift"][one[0]], *one))
    named = {one for measure, _ in farthest[:TOLD] for one in row["documents"].get(measure, [])}
    found = job.home.lake.arrow(tables.DOCUMENTS, ["doc_id", "uri"], pc.field("doc_id").isin(sorted(named))).to_pylist()
    uris = {one["doc_id"]: f"{one['doc_id'][:12]} ({one['uri']})" for one in found}
    for measure, limit in farthest[:TOLD]:
        values = "" if measure.startswith("psi:") else (
            f", {row['reference'].get(measure, 0):.4g} -> {row['measured'].get(measure, 0):.4g}"
        )  # fmt: skip
        shown = ", ".join(uris.get(one, one) for one in row["documents"].get(measure, [])) or "none"
        yield f"  {measure}: {row['drift'][measure]:+.3g}, limit {limit:g}{values}; such as {shown}"
    if len(farthest) > TOLD:
        yield f"  and {len(farthest) - TOLD} more: {', '.join(measure for measure, _ in farthest[TOLD:])}"


def _excess(change: float, measure: str, limit: float) -> float:
    """How many times its limit a change is; a size that fell to a tenth counts as one that grew tenfold."""
    size = max(change, 1 / change) if measure in ("documents", "bytes") else abs(change)
    return size / max(limit, 1e-9)


def ways_on(closed: list[Row]) -> Iterator[str]:
    """What can be done."""
    for row in closed:
        name = f"{row['source']}/{row['snapshot']}"
        yield (
            f"If {name} is as it should be: `flows accept {name} --why '...' -r RECIPE`; else take the snapshot out of "
            "the recipe"
        )


def accept(home: Home, name: str, why: str) -> None:
    """Accept a closed delivery (source/snapshot) by hand. Raises DataError where it is not closed, or without a why."""
    if not why.strip():
        raise DataError("--why: expected the reason for which the delivery is accepted, found none")
    newest = {f"{row['source']}/{row['snapshot']}": row for row in latest(home).values()}
    closed = {one: row for one, row in newest.items() if row["decision"] == CLOSED}
    if name not in closed:
        raise DataError(f"{name}: expected a closed delivery among {', '.join(closed) or 'none: no gate is closed'}")
    row = closed[name] | {"at": now(), "run": None, "decision": BY_HAND, "who": getpass.getuser(), "why": why.strip()}
    home.lake.write(from_rows([row], tables.DELIVERIES), tables.DELIVERIES, {"step": "gate"}, append=True)


def now() -> str:
    """UTC, to the microsecond, as the latest row holds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
