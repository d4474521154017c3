"""Everything to one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from schemas.recipe import Recipe

NEEDS = ("ingest", "learn", "measure", "dedup", "gate", "judge", "tokenise", "mixture", "shard", "train", "evaluate")
TABLES = ()
REVISION = 3


def part(recipe: Recipe) -> dict[str, Any]:
    """All of the recipe that decides the result: the page shows it."""
    return recipe.model_dump(mode="json", exclude={"home", "lake", "spark", "publish"})


def files(job: Job) -> list[Path]:
    """The page, and all that it says as JSON."""
    page = job.home.report / f"{job.run_folder.name}.html"
    return [page, page.with_suffix(".json")]


def run(job: Job) -> Counts:
    """Asks tables and files, and draws."""
    from flows.report import write

    page, facts = files(job)
    write(job, page, facts)
    return {"bytes": page.stat().st_size}
