"""All of silver to verdicts: every reason against a document, its quality tier, and which ones are held out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.job import Counts, Job
from flows.steps.edits import judged_tables, rules_part, terms
from pipelines import capacity
from schemas import tables
from schemas.errors import DataError
from schemas.files import write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

NEEDS = ("measure", "dedup", "decontaminate", "edits", "gate")
TABLES = (tables.VERDICTS,)
REVISION = 2


def part(recipe: Recipe) -> dict[str, Any]:
    """Rules, tiers, what is held out, and from which cover on a document is contaminated."""
    contaminated = recipe.decontaminate.threshold
    return {**recipe.part("tiers", "heldout", "seed"), "rules": rules_part(recipe), "contaminated": contaminated}


def files(job: Job) -> list[Path]:
    """The decontamination record, if the recipe names evaluations: of the verdicts with this hash."""
    return (
        [job.home.report / f"decontamination-{job.hashes['judge'][:12]}.json"] if job.recipe.decontaminate.files else []
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
    require_kept(job, rows, kept, heldout)
    return {"documents": rows, "kept": kept, "heldout": heldout}


def require_kept(job: Job, documents: int, kept: int, heldout: int) -> None:
    """Raises DataError, with what drops most, where nothing is left to train on."""
    if kept and kept > heldout:
        return
    if kept:
        raise DataError(
            f"heldout: expected documents to train on, found all {kept:,} that are kept held out; lower "
            "heldout.fraction or heldout.max_bytes, or add sources"
        )
    batches = job.home.lake.batches(tables.VERDICTS, ["reason"])
    reasons = Counter(reason for batch in batches for reason in batch.column("reason").to_pylist())
    most = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common(3))
    raise DataError(
        f"rules: expected documents to be kept, found none of {documents:,}: {most} (first reasons); `flows rules try` "
        "shows what other thresholds keep"
    )


def verdicts(job: Job) -> pa.Table | DataFrame:
    """Columns of silver.verdicts: judged in this process where the narrow columns fit, else by Spark."""
    from pipelines.rules.judge import judge, judge_here

    lake, read = job.home.lake, judged_tables(job)
    if capacity.fits(documents=lake.rows(tables.SIGNALS)):
        return judge_here(lake, read, terms(job))
    return judge({name: job.read(table) for name, table in read.items()}, terms(job))
