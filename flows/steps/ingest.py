"""Sources to documents and rejects: only the deliveries that the tables do not hold yet are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows.job import Counts, Job
from pipelines import deliveries
from pipelines.deliveries import Delivery
from pipelines.readers import ingest
from schemas import tables
from schemas.errors import DataError
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    import numpy as np

NEEDS = ()
TABLES = (tables.DOCUMENTS, tables.REJECTS)
REVISION = ingest.REVISION


def part(recipe: Recipe) -> dict[str, Any]:
    """Sources and all of their deliveries."""
    sources = [source.model_dump(mode="json", exclude={"priority"}) for source in recipe.sources]
    return {"seed": recipe.seed, "sources": sources, "deliveries": list(map(str, deliveries.deliveries_of(recipe)))}


def files(job: Job) -> list[Path]:
    """None."""
    return []


def run(job: Job) -> Counts:
    """A round for each snapshot of a source, the oldest first."""
    lake = job.home.lake
    stored, rounds = deliveries.plan_rounds(job.deliveries, job.known(tables.DOCUMENTS), job.known(tables.REJECTS))
    again = 0
    for chosen in rounds:
        held = stored | {str(one): job.deliveries[str(one)] for one in chosen}
        again += store_records(job, chosen, stored, held)
        stored = held
    held = {"documents": lake.rows(tables.DOCUMENTS), "rejects": lake.rows(tables.REJECTS)}
    require_documents(job, **held)
    return {**held, "bytes": lake.total(tables.DOCUMENTS, pc.field("n_bytes")), "delivered before": again}


def require_documents(job: Job, documents: int, rejects: int) -> None:
    """Raises DataError, with the first reason and its place, where no record became a document."""
    if documents:
        return
    if not rejects:
        names = ", ".join(source.name for source in job.recipe.sources)
        raise DataError(f"sources: expected records in the files of {names}, found none; look at path and reader")
    row = next(job.home.lake.batches(tables.REJECTS, ["uri", "reason", "detail"])).slice(0, 1).to_pylist()[0]
    raise DataError(
        f"sources: expected documents, found none: every record ({rejects:,}) was rejected, such as {row['uri']}: "
        f"{row['reason']}, {row['detail']}; the others are in {tables.REJECTS.name}"
    )


def store_records(job: Job, chosen: list[Delivery], stored: dict[str, str], held: dict[str, str]) -> int:
    """Add the deliveries' documents and rejects to the tables; returns how many of the documents had been delivered
    before."""
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    where, append = deliveries.sql_condition(chosen), bool(stored)  # with nothing stored, what the tables hold goes
    # a run was stopped between the two tables
    halfway = append and not job.known(tables.DOCUMENTS).keys().isdisjoint(map(str, chosen))
    ids = few_ids(job, chosen) if stored else None
    # Text and rejects come out of one reading of the sources: kept on disk between the two writes.
    listed = {one: job.files[one] for one in chosen}
    records = ingest.read_records(job.spark, job.recipe, listed, ids).persist(StorageLevel.DISK_ONLY)
    try:
        documents, rejected = (
            records.where("reason is null"),
            F.col("reason").isNotNull() & (F.col("reason") != ingest.HELD),
        )
        if stored and ids is None:
            others = job.read(tables.DOCUMENTS).where(f"not ({where})")
            documents = documents.join(others.select("doc_id"), "doc_id", how="left_anti")
        instead = where if halfway else None
        written = job.write(
            documents, tables.DOCUMENTS, "ingest", where=instead, append=append and not halfway, deliveries=held
        )
        n, n_rejects = records.agg(F.count("*"), F.count_if(rejected)).first()
        rejects = records.where(rejected) if n_rejects else ingest.SCHEMA.empty_table()
        job.write(rejects, tables.REJECTS, "ingest", append=append, deliveries=held)
        return n - n_rejects - written
    finally:
        records.unpersist()


def few_ids(job: Job, chosen: list[Delivery]) -> np.ndarray | None:
    """Ids, in order, of the documents that other deliveries of the same sources hold; None where they are too many to
    be sent to tasks."""
    import numpy as np

    from pipelines.spark import ID_BYTES, SENT_BYTES

    if job.home.lake.rows(tables.DOCUMENTS) * ID_BYTES > SENT_BYTES:
        return None
    others = pc.field("source").isin([one.source for one in chosen]) & ~deliveries.arrow_condition(chosen)
    return np.sort(
        np.array(job.home.lake.arrow(tables.DOCUMENTS, ["doc_id"], others).column("doc_id").to_pylist(), "S32")
    )
