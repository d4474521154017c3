"""Documents that are kept so far, to what is left out of them or masked; and what that leaves, measured again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows.job import Counts, Job, domain_rules
from flows.steps.measure import context
from schemas import tables
from schemas.recipe import Recipe
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

    from pipelines.rules.judge import Terms

NEEDS = ("ingest", "measure", "dedup", "decontaminate")
TABLES = (tables.EDITS, tables.RESTS)
REVISION = 2


def part(recipe: Recipe) -> dict[str, Any]:
    """Lines and passages are compared among documents that fail no rule, so that rules count where these are looked
    for."""
    if not recipe.edits.shorten:
        return {"edits": recipe.edits.model_dump(include={"personal"}, mode="json")}
    priority = {source.name: source.priority for source in recipe.sources}
    return {
        **recipe.part("edits"),
        "rules": rules_part(recipe),
        "priority": priority,
        "contaminated": recipe.decontaminate.threshold,
    }


def rules_part(recipe: Recipe) -> dict[str, Any]:
    """The rules as they apply, so that a change of the default ones counts too."""
    return {domain: {rule.name: asdict(rule) for rule in members} for domain, members in domain_rules(recipe).items()}


def judged_tables(job: Job) -> dict[str, Table]:
    """The tables that verdicts are made of."""
    recipe, lake = job.recipe, job.home.lake
    read = {"signals": tables.SIGNALS, "clusters": tables.CLUSTERS}
    read |= {"rests": tables.RESTS} if recipe.edits.shorten and lake.version(tables.RESTS) is not None else {}
    return read | ({"contamination": tables.CONTAMINATION} if recipe.decontaminate.files else {})


def terms(job: Job) -> Terms:
    """By what documents are judged."""
    from pipelines.rules.judge import Terms

    recipe = job.recipe
    limits = recipe.edits.torso, recipe.decontaminate.threshold
    return Terms(job.rules, recipe.tiers, recipe.heldout, recipe.seed, *limits)


def files(job: Job) -> list[Path]:
    """None."""
    return []


def run(job: Job) -> Counts:
    """Reads text only where the recipe asks for lines or passages."""
    from pipelines.edits import edits
    from pipelines.signals import COLUMNS

    changes = find_edits(job)
    rows = job.write_or_empty(edits.merge_edits(changes) if changes else None, tables.EDITS, "edits")
    left = measure_rests(job, job.read(tables.EDITS)) if rows and job.recipe.edits.shorten else None
    shortened = job.write_or_empty(left, tables.RESTS.extended(COLUMNS), "edits")
    n_bytes = job.home.lake.total(tables.EDITS, pc.field("end") - pc.field("start")) if rows else 0
    return {"edits": rows, "documents shortened": shortened, "bytes": n_bytes}


def measure_rests(job: Job, written: DataFrame) -> DataFrame:
    """What lines and passages leave of documents, measured as the documents were."""
    from pipelines.edits import edits

    return edits.measure_rests(job.read(tables.DOCUMENTS), written, context(job))


def find_edits(job: Job) -> list[DataFrame]:
    """What the recipe leaves out or masks, found separately."""
    from pipelines.edits import edits
    from pipelines.rules.judge import contaminated_documents

    spec, changes = job.recipe.edits, []
    if spec.shorten or spec.personal:
        signals, clusters = job.read(tables.SIGNALS), job.read(tables.CLUSTERS)
    if spec.shorten:
        priority = {source.name: source.priority for source in job.recipe.sources}
        kept = edits.select_candidates(signals, clusters, job.rules, priority)
        if job.recipe.decontaminate.files:
            rows = job.read(tables.CONTAMINATION)
            items = job.spark.sql(contaminated_documents(job.recipe.decontaminate.threshold), contamination=rows)
            kept = kept.join(items, "doc_id", how="left_anti")
        changes += edits.find_removals(job.read(tables.DOCUMENTS), kept, spec)
    if spec.personal:
        from pipelines.signals.personal import PLACEHOLDERS

        changes.append(edits.find_masks(signals, clusters, spec.personal, PLACEHOLDERS))
    return changes


def attach_edits(job: Job, documents: DataFrame) -> DataFrame:
    """documents with the column `edits`, if the recipe edits any."""
    from pipelines.edits import edits

    spec = job.recipe.edits
    return edits.attach_edits(documents, job.read(tables.EDITS)) if spec.shorten or spec.personal else documents


def apply_edits(job: Job, documents: DataFrame) -> DataFrame:
    """documents (doc_id, text, ...) with their text as it is learnt."""
    from pipelines.edits import edits

    with_edits = attach_edits(job, documents)
    return edits.apply_edits(with_edits) if "edits" in with_edits.columns else with_edits
