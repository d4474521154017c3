"""The steps of the main job. A step is a module of this folder, and its name is the module's:

    ingest         sources -> documents and rejects
    learn          first snapshots -> quality models, what is usual in a language
    measure        documents -> signals
    dedup          signals, texts of candidates -> pairs and clusters
    decontaminate  keepers -> how far each covers each evaluation item
    edits          kept documents -> spans to leave out or mask, and what is left, measured
    gate           new deliveries, beside the last accepted ones -> accepted or closed
    judge          all of silver -> verdicts
    tokenise       kept documents, edits -> tokens
    mixture        sizes of streams -> shares of stages
    shard          tokens, shares -> windows, manifest and plan
    train          shards -> weights, metrics, ledger
    evaluate       held-out documents -> bits per byte beside references; continuations
    report         everything -> one HTML page
    publish        shards, training run, report -> an object store

Each has the same names:

    NEEDS         the steps whose output it reads
    part(recipe)  the part of the recipe that decides its output, as a JSON value. A step that reads only some
                  deliveries lists their names under `deliveries`: their files then count, not all that `ingest` stored
    TABLES        the tables that it writes
    files(job)    the files that it leaves besides
    REVISION      raised by hand when its code gives other output for the same input
    run(job)      its work; returns what it counted

A step may use those before it; what only one of them says is said there. Their order is that of `flows.STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import flows
from flows.job import Counts, Job
from schemas.recipe import Recipe
from schemas.tables import Table


@dataclass(frozen=True)
class Step:
    """One step: its module's names, as a value."""

    name: str
    needs: tuple[str, ...]
    part: Callable[[Recipe], Any]
    tables: tuple[Table, ...]
    files: Callable[[Job], list[Path]]
    revision: int
    run: Callable[[Job], Counts]

    @classmethod
    def named(cls, name: str) -> Step:
        module = import_module(f"flows.steps.{name}")
        return cls(name, module.NEEDS, module.part, module.TABLES, module.files, module.REVISION, module.run)


STEPS = tuple(map(Step.named, flows.STEPS))
