"""The steps that decide, between measuring and tokenising: duplicates, edits, verdicts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from flows import measuring
from flows.home import Home
from flows.job import Counts, Job
from flows.measuring import context, languages_file
from pipelines import ingest as intake
from pipelines import items, rules
from schemas import tables
from schemas.manifest import fingerprint, write_json
from schemas.recipe import Recipe
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame


def dedup(job: Job) -> Counts:
    from pipelines import dedup as duplicates
    from pipelines import matching

    store_pairs(job)
    sources = job.recipe.sources
    priority = {source.name: source.priority for source in sources}
    recency = {(source.name, snapshot): time for source in sources for time, snapshot in enumerate(source.snapshots)}
    lake, copies, exact = job.home.lake, pc.field("rank") > 1, pc.field("exact")
    n_pairs = lake.rows(tables.PAIRS)
    here = duplicates.fits_one_process(documents=lake.rows(tables.SIGNALS), pairs=n_pairs)
    if here:
        members = matching.members(lake.arrow(tables.SIGNALS, MEMBERS), priority, recency)
        found = matching.clusters(members, lake.arrow(tables.PAIRS, ["a", "b"]))
    else:
        found = duplicates.clusters(job.read(tables.SIGNALS), job.read(tables.PAIRS), priority, recency)
    rows = job.write(found, tables.CLUSTERS, "dedup")
    told = {
        "documents": rows,
        "pairs": n_pairs,
        "exact": lake.count(tables.CLUSTERS, copies & exact),
        "near": lake.count(tables.CLUSTERS, copies & ~exact),
    }
    return told if here else told | {"grouped in shuffles": rows}


MEMBERS = ["doc_id", "source", "snapshot", "text_hash", "quality"]


def store_pairs(job: Job) -> None:
    """Bring silver.pairs to what the signals hold: by the deliveries that it lacks, or anew."""
    from pipelines import dedup as duplicates

    near, lake = job.recipe.near_duplicates, job.home.lake
    settings = [measuring.REVISION, near.model_dump(), job.recipe.seed]  # not what quality is: fingerprints do not go by it
    wanted = {name: fingerprint([settings, job.deliveries[name]]) for name in job.known(tables.SIGNALS)}
    stored = job.known(tables.PAIRS)
    fresh = intake.undone(wanted, stored)
    if fresh == []:
        return
    held = list(map(intake.Delivery.named, stored if fresh else ()))
    rows = fingerprints(job, fresh if held else None)
    if rows is not None:
        known = lake.arrow(tables.PAIRS) if held else None
        found = duplicates.pairs_here(rows, known, lake.files(tables.DOCUMENTS), job.spark, near)
    else:
        known = (job.read(tables.PAIRS), intake.condition(held)) if held else None
        found = duplicates.pairs(job.read(tables.SIGNALS), job.read(tables.DOCUMENTS), near, known)
    job.write(found, tables.PAIRS, "dedup", deliveries=wanted)


def fingerprints(job: Job, fresh: list[intake.Delivery] | None) -> pa.Table | None:
    """The rows of `matching.changes` of all documents with words, or of those alone that the fresh deliveries' texts share a band's
    key with; None where they do not fit into this process."""
    from pipelines import matching
    from pipelines.dedup import FINGERPRINT, fits_one_process

    lake, columns = job.home.lake, ["doc_id", "source", "snapshot", "text_hash", *FINGERPRINT]
    n_fresh = lake.rows(tables.SIGNALS) if fresh is None else lake.count(tables.SIGNALS, intake.among(fresh))
    if not fits_one_process(fingerprints=n_fresh):
        return None
    if fresh is None:
        parts = lake.batches(tables.SIGNALS, columns, pc.field("n_shingles") > 0)
    else:
        marked = matching.marks(lake.batches(tables.SIGNALS, ["band_keys"], intake.among(fresh)))
        parts = (matching.touched(part, marked) for part in lake.batches(tables.SIGNALS, columns))
    rows, n = [], 0
    for part in parts:
        delivery = pc.binary_join_element_wise(part.column("source"), part.column("snapshot"), "/")
        new = pc.is_in(delivery, delivery if fresh is None else pa.array(map(str, fresh), pa.string()))
        rows.append(part.drop_columns(["source", "snapshot"]).append_column("new", new))
        n += len(part)
        if not fits_one_process(fingerprints=n):
            return None
    return pa.Table.from_batches(rows) if rows else pa.table({})


def edits(job: Job) -> Counts:
    from pipelines import edits as editing
    from pipelines.measure import signal_columns

    found = unmerged(job)
    rows = write_or_empty(job, editing.merge(found) if found else None, tables.EDITS, "edits")
    left = rests(job, job.read(tables.EDITS)) if rows and job.recipe.edits.shorten else None
    shortened = write_or_empty(job, left, tables.RESTS.extended(signal_columns()), "edits")
    n_bytes = job.home.lake.total(tables.EDITS, pc.field("end") - pc.field("start")) if rows else 0
    return {"edits": rows, "documents shortened": shortened, "bytes": n_bytes}


def write_or_empty(job: Job, rows: DataFrame | None, table: Table, step: str) -> int:
    """Write a table that not every recipe fills; without rows only one that is there is emptied, as each write takes seconds."""
    if rows is None and job.home.lake.version(table) is None:
        return 0
    return job.write(job.spark.createDataFrame([], table.ddl) if rows is None else rows, table, step)


def rests(job: Job, written: DataFrame) -> DataFrame:
    """What lines and passages leave of documents, measured as the documents were."""
    from pipelines import edits as editing

    return editing.rests(job.read(tables.DOCUMENTS), written, context(job))


def unmerged(job: Job) -> list[DataFrame]:
    """What the recipe leaves out or masks, found separately."""
    from pipelines import edits as editing

    spec, found = job.recipe.edits, []
    if spec.shorten or spec.personal:
        signals, clusters = job.read(tables.SIGNALS), job.read(tables.CLUSTERS)
    if spec.shorten:
        priority = {source.name: source.priority for source in job.recipe.sources}
        kept = editing.candidates(signals, clusters, domain_rules(job.recipe, job.home), priority)
        if (dropped := contaminated(job)) is not None:
            kept = kept.join(dropped, "doc_id", how="left_anti")
        found += editing.removals(job.read(tables.DOCUMENTS), kept, spec)
    if spec.personal:
        from pipelines.signals.personal import PLACEHOLDERS

        found.append(editing.masks(signals, clusters, spec.personal, PLACEHOLDERS))
    return found


def with_edits(job: Job, documents: DataFrame) -> DataFrame:
    """documents with the column `edits`, if the recipe edits any."""
    from pipelines import edits as editing

    spec = job.recipe.edits
    return editing.joined(documents, job.read(tables.EDITS)) if spec.shorten or spec.personal else documents


def learnt(job: Job, documents: DataFrame) -> DataFrame:
    """documents (doc_id, text, ...) with their text as it is learnt."""
    from pipelines import edits as editing

    found = with_edits(job, documents)
    return editing.applied(found) if "edits" in found.columns else found


def decontaminate(job: Job) -> Counts:
    from pyspark.sql import functions as F

    from pipelines import decontaminate as overlaps
    from pipelines.spark import ID_BYTES, sent

    spec = job.recipe.decontaminate
    if not spec.files:
        return {"matches": write_or_empty(job, None, tables.CONTAMINATION, "decontaminate")}
    keepers = sent(job.read(tables.CLUSTERS).where("rank = 1").select("doc_id"), F.lit(ID_BYTES))
    documents = job.read(tables.DOCUMENTS).select("doc_id", "text").join(keepers, "doc_id", how="left_semi")
    found = overlaps.suite(spec)
    rows = job.write(overlaps.contamination(documents, found), tables.CONTAMINATION, "decontaminate")
    n_keepers = job.home.lake.count(tables.CLUSTERS, pc.field("rank") == 1)
    return {"documents": n_keepers, "items": sum(len(file.items) for file in found.files), "matches": rows}


def decontamination_part(recipe: Recipe) -> dict:
    """What decides silver.contamination: the files' content and how they are searched, but no threshold. Raises RecipeError."""
    spec = recipe.decontaminate
    return {**spec.model_dump(mode="json", exclude={"threshold"}), "sha256": items.digests(spec)}


def contaminated(job: Job) -> DataFrame | None:
    """doc_id of the documents that go because they hold evaluation items; None if the recipe names no evaluations."""
    from pipelines import decontaminate as overlaps

    return overlaps.beyond(job.read(tables.CONTAMINATION), job.recipe.decontaminate) if job.recipe.decontaminate.files else None


def judge(job: Job) -> Counts:
    from pipelines import decontaminate as overlaps

    recipe, lake = job.recipe, job.home.lake
    rows = job.write(verdicts(job), tables.VERDICTS, "judge")
    for file in decontamination_files(job):
        spec = recipe.decontaminate
        file.parent.mkdir(exist_ok=True)
        write_json(file, overlaps.record(job.read(tables.CONTAMINATION), job.read(tables.VERDICTS), overlaps.suite(spec), spec))
    kept, heldout = (lake.count(tables.VERDICTS, pc.field(name)) for name in ("keep", "heldout"))
    return {"documents": rows, "kept": kept, "heldout": heldout}


def verdicts(job: Job) -> pa.Table | DataFrame:
    """Columns of silver.verdicts: judged in this process where the narrow columns fit, else by Spark."""
    from pipelines import judge as judging
    from pipelines.dedup import fits_one_process

    recipe, lake = job.recipe, job.home.lake
    by = domain_rules(recipe, job.home), recipe.tiers, recipe.heldout, recipe.seed
    has_rests = recipe.edits.shorten and lake.version(tables.RESTS) is not None
    if not fits_one_process(documents=lake.rows(tables.SIGNALS)):
        rests = job.read(tables.RESTS) if has_rests else None
        found = job.read(tables.SIGNALS), job.read(tables.CLUSTERS)
        return judging.judge(*found, *by, rests=rests, torso=recipe.edits.torso, contaminated=contaminated(job))
    rests = lake.files(tables.RESTS) if has_rests else None
    beyond = pc.field("cover") >= recipe.decontaminate.threshold
    spoilt = lake.arrow(tables.CONTAMINATION, ["doc_id"], beyond) if recipe.decontaminate.files else None
    found = lake.files(tables.SIGNALS), lake.files(tables.CLUSTERS)
    return judging.judge_here(*found, *by, rests=rests, torso=recipe.edits.torso, contaminated=spoilt)


def decontamination_files(job: Job) -> list[Path]:
    """The decontamination record, if the recipe names evaluations: of the verdicts with this fingerprint."""
    return [job.home.report / f"decontamination-{job.fingerprints['judge'][:12]}.json"] if job.recipe.decontaminate.files else []


def domain_rules(recipe: Recipe, home: Home | None = None) -> dict[str, tuple[rules.Rule, ...]]:
    """The rules of the recipe's domains; with those thresholds that were fitted to languages in this home, if any."""
    fitted = {}
    if home and recipe.languages.trusted:
        if not languages_file(home).is_file():
            raise FileNotFoundError(f"{languages_file(home)} is missing: `flows run measure` fits thresholds to languages")
        fitted = json.loads(languages_file(home).read_text())["thresholds"]
    return {domain: rules.load(domain, recipe.rules.get(domain), fitted) for domain in sorted(recipe.domains)}


def rules_part(recipe: Recipe) -> dict:
    """The rules as they apply, so that a change of the default ones counts too."""
    return {domain: {rule.name: asdict(rule) for rule in members} for domain, members in domain_rules(recipe).items()}


def edits_part(recipe: Recipe) -> dict:
    """Lines and passages are compared among documents that fail no rule, so that rules count where these are looked for."""
    if not recipe.edits.shorten:
        return {"edits": recipe.edits.model_dump(include={"personal"}, mode="json")}
    priority = {source.name: source.priority for source in recipe.sources}
    return {**recipe.part("edits"), "rules": rules_part(recipe), "priority": priority, "contaminated": recipe.decontaminate.threshold}
