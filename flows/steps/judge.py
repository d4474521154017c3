"""All of silver to verdicts: every reason against a document, its quality tier, and which ones are held out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.job import Counts, Job
from flows.steps.decontaminate import contaminated
from flows.steps.edits import rules_part
from schemas import tables
from schemas.files import write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

NEEDS = ("measure", "dedup", "decontaminate", "edits")
TABLES = (tables.VERDICTS,)
REVISION = 2


def part(recipe: Recipe) -> dict[str, Any]:
    """Rules, tiers, what is held out, and from which cover on a document is contaminated."""
    contaminated = recipe.decontaminate.threshold
    return {**recipe.part("tiers", "heldout", "seed"), "rules": rules_part(recipe), "contaminated": contaminated}


def files(job: Job) -> list[Path]:
    """The decontamination record, if the recipe names evaluations: of the verdicts with this fingerprint."""
    return (
        [job.home.report / f"decontamination-{job.fingerprints['judge'][:12]}.json"]
        if job.recipe.decontaminate.files
        else []
    )


def run(job: Job) -> Counts:
    """Reads narrow columns only."""
    recipe, lake = job.recipe, job.home.lake
    rows = job.write(verdicts(job), tables.VERDICTS, "judge")
    for file in files(job):
        from pipelines.decontaminate.overlap import suite
        from pipelines.decontaminate.record import record

        spec = recipe.decontaminate
        write_json(file, record(job.read(tables.CONTAMINATION), job.read(tables.VERDICTS), suite(spec), spec))
    kept, heldout = (lake.count(tables.VERDICTS, pc.field(name)) for name in ("keep", "heldout"))
    return {"documents": rows, "kept": kept, "heldout": heldout}


def verdicts(job: Job) -> pa.Table | DataFrame:
    """Columns of silver.verdicts: judged in this process where the narrow columns fit, else by Spark."""
    from pipelines.dedup.dedup import fits_one_process
    from pipelines.rules import judge

    recipe, lake = job.recipe, job.home.lake
    by = job.rules, recipe.tiers, recipe.heldout, recipe.seed
    has_rests = recipe.edits.shorten and lake.version(tables.RESTS) is not None
    if not fits_one_process(documents=lake.rows(tables.SIGNALS)):
        rests = job.read(tables.RESTS) if has_rests else None
        found = job.read(tables.SIGNALS), job.read(tables.CLUSTERS)
        return judge.judge(*found, *by, rests=rests, torso=recipe.edits.torso, contaminated=contaminated(job))
    rests = lake.files(tables.RESTS) if has_rests else None
    beyond = pc.field("cover") >= recipe.decontaminate.threshold
    spoilt = lake.arrow(tables.CONTAMINATION, ["doc_id"], beyond) if recipe.decontaminate.files else None
    found = lake.files(tables.SIGNALS), lake.files(tables.CLUSTERS)
    return judge.judge_here(*found, *by, rests=rests, torso=recipe.edits.torso, contaminated=spoilt)
