"""Shards, training run and report to the object store that the recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from schemas.recipe import Recipe

NEEDS = ("shard", "train", "evaluate", "report")
TABLES = ()
REVISION = 1


def part(recipe: Recipe) -> dict[str, Any]:
    """Where they go."""
    return recipe.part("publish")


def files(job: Job) -> list[Path]:
    """None in the home."""
    return []


def run(job: Job) -> Counts:
    """Sends what is not there; nothing where the recipe names no store."""
    from flows.publish import publish

    if job.recipe.publish is None:
        return {"files": 0}
    return publish(job.home, job.run_folder, job.recipe.publish, job.on_bytes)
