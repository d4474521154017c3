"""Sizes of streams to the shares in which each stage draws from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from schemas import tables
from schemas.recipe import Recipe

NEEDS = ("tokenise",)
TABLES = (tables.MIXTURE,)
REVISION = 1


def part(recipe: Recipe) -> dict[str, Any]:
    """The stages, what caps repetition, and the batch that a stage is rounded up to."""
    return {**recipe.part("stages", "max_epochs", "tiers"), "batch_tokens": recipe.train.batch_tokens}


def files(job: Job) -> list[Path]:
    """None."""
    return []


def run(job: Job) -> Counts:
    """Reads a few rows, writes a few."""
    from pipelines.shards import mixture
    from pipelines.shards.sequences import stream_sizes

    recipe = job.recipe
    sizes = stream_sizes(job.read(tables.TOKENS)).collect()
    streams = [(row.stream, *row.stream.split(".", 1), row.tokens) for row in sizes]
    rows = mixture.mix(recipe.stages, streams, recipe.max_epochs, recipe.train.batch_tokens, recipe.tiers)
    frame = job.spark.createDataFrame(
        [tuple(row[c] for c in tables.MIXTURE.column_names) for row in rows], tables.MIXTURE.ddl
    )
    job.write(frame, tables.MIXTURE, "mixture")
    return {"stages": len(recipe.stages), "tokens": sum(row["tokens"] for row in rows)}
