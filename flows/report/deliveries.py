"""What the gate decided of the deliveries, and how far each is from the last accepted one. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.recipe import Recipe

DRAWN = 3  # signals of a source whose PSI is drawn: as many as there are colours


def deliveries(decided: Mapping[tuple[str, str, str], dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """By source with several deliveries: their decisions, oldest first, and the PSI of the signals that moved most.

    decided: rows of ops.deliveries by source, snapshot and hash, the latest last.
    """
    newest = {(source, snapshot): row for (source, snapshot, _), row in decided.items()}
    sources = []
    for source in recipe.sources:
        rows = [newest[source.name, one] for one in source.snapshots if (source.name, one) in newest]
        if len(rows) > 1:
            told = {"source": source.name, "deliveries": [_row(one) for one in rows], "psi": _psi(rows)}
            sources.append({**told, "limit": recipe.drift.psi})
    return sources


def _row(row: dict[str, Any]) -> dict[str, Any]:
    beyond = [{"measure": name, "drift": row["drift"][name], "limit": limit} for name, limit in row["beyond"].items()]
    columns = "snapshot", "against", "at", "decision", "who", "why", "measured"
    return {**{name: row[name] for name in columns}, "beyond": beyond}


def _psi(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """By signal a value for each delivery, null for one that was compared with none; the largest signals first."""
    largest: dict[str, float] = {}
    for row in rows:
        for name, value in row["drift"].items():
            if name.startswith("psi:"):
                largest[name] = max(value, largest.get(name, 0.0))
    chosen = sorted(largest, key=lambda name: (-largest[name], name))[:DRAWN]
    return {name.removeprefix("psi:"): [row["drift"].get(name) for row in rows] for name in chosen}
