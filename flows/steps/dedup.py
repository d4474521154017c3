"""Signals, and the texts of candidates, to pairs of near copies and clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.job import Counts, Job
from pipelines import capacity, deliveries
from pipelines.deliveries import Delivery
from schemas import tables
from schemas.files import json_hash
from schemas.recipe import Recipe

NEEDS = ("ingest", "measure")
TABLES = (tables.PAIRS, tables.CLUSTERS)
REVISION = 3


def part(recipe: Recipe) -> dict[str, Any]:
    """How near copies are told, and which of them is preferred."""
    preference = {source.name: [source.priority, *source.snapshots] for source in recipe.sources}
    return {**recipe.part("near_duplicates"), "preference": preference}


def files(job: Job) -> list[Path]:
    """None."""
    return []


def run(job: Job) -> Counts:
    """Near copies by the deliveries that silver.pairs lacks; clusters of everything."""
    from pipelines.dedup import clusters, dedup, keepers

    store_pairs(job)
    sources, near = job.recipe.sources, job.recipe.near_duplicates
    priority = {source.name: source.priority for source in sources}
    recency = {(source.name, snapshot): time for source in sources for time, snapshot in enumerate(source.snapshots)}
    lake, copies, exact = job.home.lake, pc.field("rank") > 1, pc.field("exact")
    n_pairs = lake.rows(tables.PAIRS)
    here = capacity.fits(documents=lake.rows(tables.SIGNALS), pairs=n_pairs)
    if here:
        members = clusters.members(lake.arrow(tables.SIGNALS, [*dedup.MEMBERS]), priority, recency)
        grouped = clusters.group(members, lake.arrow(tables.PAIRS, ["a", "b"]))
        asked = clusters.undecided(grouped)
        kept = keepers.keep_here(asked, lake.files(tables.DOCUMENTS), lambda: job.spark, near)
        clustered = clusters.clusters(grouped, kept)
    else:
        read = map(job.read, (tables.SIGNALS, tables.PAIRS, tables.DOCUMENTS))
        clustered = dedup.group_clusters(*read, near, priority, recency)
    rows = job.write(clustered, tables.CLUSTERS, "dedup")
    told = {
        "documents": rows,
        "pairs": n_pairs,
        "exact": lake.count(tables.CLUSTERS, copies & exact),
        "near": lake.count(tables.CLUSTERS, copies & ~exact),
    }
    return told if here else told | {"grouped in shuffles": rows}


def store_pairs(job: Job) -> None:
    """Bring silver.pairs to what the signals hold: by the deliveries that it lacks, or anew."""
    from pipelines import signals
    from pipelines.dedup import dedup

    near, lake = job.recipe.near_duplicates, job.home.lake
    # not what quality is: fingerprints do not go by it
    settings = [signals.REVISION, near.model_dump(), job.recipe.seed]
    wanted = {name: json_hash([settings, job.deliveries[name]]) for name in job.known(signals.TABLE)}
    stored = job.known(tables.PAIRS)
    fresh = deliveries.missing_deliveries(wanted, stored)
    if fresh == []:
        return
    held = list(map(Delivery.named, stored if fresh else ()))
    rows = fingerprints(job, fresh if held else None)
    if rows is not None:
        known = lake.arrow(tables.PAIRS) if held else None
        pairs = dedup.pairs_here(rows, known, lake.files(tables.DOCUMENTS), job.spark, near)
    else:
        known = (job.read(tables.PAIRS), deliveries.sql_condition(held)) if held else None
        pairs = dedup.pairs(job.read(tables.SIGNALS), job.read(tables.DOCUMENTS), near, known)
    job.write(pairs, tables.PAIRS, "dedup", deliveries=wanted)


def fingerprints(job: Job, fresh: list[Delivery] | None) -> pa.Table | None:
    """The rows of `buckets.changes` of all documents with words, or of those alone that the fresh deliveries' texts
    share a band's key with; None where they do not fit into this process."""
    from pipelines.dedup import buckets
    from pipelines.dedup.dedup import FINGERPRINT

    lake, columns = job.home.lake, ["doc_id", "source", "snapshot", "text_hash", *FINGERPRINT]
    n_fresh = (
        lake.rows(tables.SIGNALS) if fresh is None else lake.count(tables.SIGNALS, deliveries.arrow_condition(fresh))
    )
    if not capacity.fits(fingerprints=n_fresh):
        return None
    if fresh is None:
        parts = lake.batches(tables.SIGNALS, columns, pc.field("n_shingles") > 0)
    else:
        marked = buckets.mark_keys(lake.batches(tables.SIGNALS, ["band_keys"], deliveries.arrow_condition(fresh)))
        parts = (buckets.select_touched(part, marked) for part in lake.batches(tables.SIGNALS, columns))
    rows, n = [], 0
    for part in parts:
        delivery = pc.binary_join_element_wise(part.column("source"), part.column("snapshot"), "/")
        new = pc.is_in(delivery, delivery if fresh is None else pa.array(map(str, fresh), pa.string()))
        rows.append(part.drop_columns(["source", "snapshot"]).append_column("new", new))
        n += len(part)
        if not capacity.fits(fingerprints=n):
            return None
    return pa.Table.from_batches(rows) if rows else pa.table({})
