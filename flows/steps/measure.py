"""Documents to signals, in one pass over the text of the deliveries that silver.signals does not hold yet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows.home import Home
from flows.job import Counts, Job
from flows.steps import learn
from pipelines import assets, deliveries
from pipelines.deliveries import Delivery
from schemas import tables
from schemas.files import json_hash, write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pipelines.signals.context import Context

NEEDS = ("ingest", "learn")
TABLES = (tables.SIGNALS,)
REVISION = 1  # that of the signals themselves is in `pipelines.signals`


def part(recipe: Recipe) -> dict[str, Any]:
    """Routes, seed and how fingerprints are made; the signals there are, and the model that tells languages."""
    from pipelines import signals

    columns = {column.name: column.type for column in signals.COLUMNS}
    made_of = {"revision": signals.REVISION, "columns": columns, "language_model": assets.SHA256[assets.LANGUAGE_MODEL]}
    near = recipe.near_duplicates.model_dump(exclude={"threshold"})
    return {**recipe.part("seed", "routes"), "near_duplicates": near, "signals": made_of}


def files(job: Job) -> list[Path]:
    """What the scores of the quality models go by in the corpus, if the recipe has any."""
    return [job.home.models / "audit.json"] * bool(job.recipe.quality)


def run(job: Job) -> Counts:
    """Measures, then audits the quality models' scores."""
    from pipelines.models.audit import audit
    from pipelines.signals.measure import TABLE, measure

    made = context(job)
    wanted = {name: json_hash([settings(job.recipe, made), one]) for name, one in job.deliveries.items()}
    fresh = deliveries.missing_deliveries(wanted, job.known(TABLE))
    if fresh != []:
        chosen = list(map(Delivery.named, wanted)) if fresh is None else fresh
        rows = measure(job.delivered(tables.DOCUMENTS, chosen), made)
        job.write(rows, TABLE, "measure", append=fresh is not None, deliveries=wanted)
    for file in files(job):
        write_json(file, audit(job.read(TABLE), job.read(tables.DOCUMENTS)))
    n_bytes = job.home.lake.total(tables.SIGNALS, pc.field("n_bytes"))
    return {"documents": job.home.lake.rows(TABLE), "bytes": n_bytes}


def settings(recipe: Recipe, made: Context) -> list[Any]:
    """What decides a document's signals besides its text: JSON values."""
    models = {name: hashlib.sha256(model).hexdigest() for name, model in made.quality_models.items()}
    return [REVISION, part(recipe), models, made.stop_words]


def context(job: Job) -> Context:
    """What the signals need besides the text."""
    from pipelines.signals.context import Context

    recipe, near, lid = job.recipe, job.recipe.near_duplicates, assets.LANGUAGE_MODEL.read_bytes()
    models, words = learn.quality_models(job), learn.stop_words(job)
    return Context(lid, models, near.ngram, near.bands, near.rows, recipe.seed, recipe.routes, words)


def fingerprint_context(home: Home) -> Context:
    """What the fingerprints of a home were made with, whatever its recipe says by now. Raises FileNotFoundError if
    nothing was measured yet."""
    from pipelines.signals.context import Context

    receipt = home.receipt("measure")
    if receipt is None:
        raise FileNotFoundError(f"{home.root} holds no {tables.SIGNALS.name} yet: `flows run curriculum` writes it")
    return Context(b"", seed=receipt.part["seed"], **receipt.part["near_duplicates"])
