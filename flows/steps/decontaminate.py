"""Keepers of clusters, to how far each covers each item of the recipe's evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows.job import Counts, Job
from pipelines.decontaminate import items
from schemas import tables
from schemas.recipe import Recipe

NEEDS = ("ingest", "dedup")
TABLES = (tables.CONTAMINATION,)
REVISION = 4


def part(recipe: Recipe) -> dict[str, Any]:
    """The files' content and how they are searched, but no threshold. Raises RecipeError."""
    spec = recipe.decontaminate
    return {**spec.model_dump(mode="json", exclude={"threshold"}), "sha256": items.digests(spec)}


def files(job: Job) -> list[Path]:
    """None; the record is of the verdicts, so `judge` writes it."""
    return []


def run(job: Job) -> Counts:
    """One pass over the keepers' texts, if the recipe names evaluations."""
    from pyspark.sql import functions as F

    from pipelines.decontaminate import overlap
    from pipelines.spark import ID_BYTES, broadcast_small

    spec = job.recipe.decontaminate
    if not spec.files:
        return {"matches": job.write_or_empty(None, tables.CONTAMINATION, "decontaminate")}
    keepers = broadcast_small(job.read(tables.CLUSTERS).where("rank = 1").select("doc_id"), F.lit(ID_BYTES))
    documents = job.read(tables.DOCUMENTS).select("doc_id", "text").join(keepers, "doc_id", how="left_semi")
    suite = overlap.suite(spec)
    rows = job.write(overlap.contamination(documents, suite), tables.CONTAMINATION, "decontaminate")
    n_keepers = job.home.lake.count(tables.CLUSTERS, pc.field("rank") == 1)
    counts = {"documents": n_keepers, "items": sum(len(file.items) for file in suite.files), "matches": rows}
    n_others = sum(file.broken + file.empty for file in suite.files)
    return counts | ({"no items": n_others} if n_others else {})
