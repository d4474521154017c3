"""Deliveries: one snapshot of a source each. Which of them a table holds, which it lacks, and the condition that picks
their rows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import zip_longest
from operator import or_
from typing import NamedTuple

import pyarrow.compute as pc

from schemas.parts import Source
from schemas.recipe import Recipe


class Delivery(NamedTuple):
    """One snapshot of a source."""

    source: str
    snapshot: str

    @classmethod
    def named(cls, name: str) -> Delivery:
        return cls(*name.split("/"))

    def __str__(self) -> str:
        return f"{self.source}/{self.snapshot}"


def deliveries_of(recipe: Recipe) -> dict[Delivery, Source]:
    """The recipe's deliveries, the snapshots of a source oldest first."""
    return {Delivery(source.name, one.snapshot): one for source in recipe.sources for one in source.deliveries}


def plan_rounds(
    wanted: dict[str, str], documents: dict[str, str], rejects: dict[str, str]
) -> tuple[dict[str, str], list[list[Delivery]]]:
    """(deliveries that are stored, deliveries to read): in each round one of every source, the oldest first.

    wanted: as the files are now; documents, rejects: those that the two tables hold. What is stored stays if all of it
    is wanted.
    """
    stored = rejects if rejects.items() <= documents.items() <= wanted.items() else {}  # documents are written first
    queues: dict[str, list[Delivery]] = {}
    for delivery in (Delivery.named(name) for name in wanted if name not in stored):
        queues.setdefault(delivery.source, []).append(delivery)
    return stored, [[one for one in together if one] for together in zip_longest(*queues.values())]


def missing_deliveries(wanted: dict[str, str], known: dict[str, str]) -> list[Delivery] | None:
    """The deliveries that a table which holds `known` lacks; None where it must be made anew, as it holds nothing or
    something else."""
    return (
        [Delivery.named(name) for name in wanted if name not in known]
        if known and known.items() <= wanted.items()
        else None
    )


def sql_condition(chosen: Iterable[Delivery]) -> str:
    """SQL: the rows of these deliveries. Their names hold no quotes (schemas.recipe)."""
    listed = {source: "', '".join(snapshots) for source, snapshots in by_source(chosen).items()}
    return " or ".join(f"(source = '{source}' and snapshot in ('{snapshots}'))" for source, snapshots in listed.items())


def arrow_condition(chosen: Iterable[Delivery]) -> pc.Expression:
    """The same for Arrow."""
    named = by_source(chosen).items()
    return reduce(
        or_, [(pc.field("source") == source) & pc.field("snapshot").isin(snapshots) for source, snapshots in named]
    )


def by_source(chosen: Iterable[Delivery]) -> dict[str, list[str]]:
    """Snapshots by source: a condition on these is no deeper than there are sources."""
    snapshots: dict[str, list[str]] = {}
    for one in chosen:
        snapshots.setdefault(one.source, []).append(one.snapshot)
    return snapshots
