"""Documents to signals; and the models that measure them: quality by domain and language, what is usual in a language.

Models learn from the first snapshot of each source and are kept while that stays the same: a later snapshot is measured
by them, so that what was measured before still holds and a new snapshot costs only itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows.job import Counts, Job
from pipelines import deliveries, rules
from schemas import tables
from schemas.files import fingerprint, write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

    from pipelines.signals.context import Context

NEEDS = ("ingest",)
TABLES = (tables.SIGNALS,)
REVISION = 4  # raised by hand when the signals of the same text become others


def part(recipe: Recipe) -> dict[str, Any]:
    """The part of the recipe that decides the signals."""
    fits = [asdict(rule) for rule in rules.load("multilingual") if rule.fit] if recipe.languages.trusted else []
    near = recipe.near_duplicates.model_dump(exclude={"threshold"})
    return {**recipe.part("seed", "quality", "routes", "languages"), "near_duplicates": near, "fit": fits}


def files(job: Job) -> list[Path]:
    """What the step leaves besides its table."""
    names = json.loads(job.home.quality_models.read_text())["sha256"] if job.recipe.quality else ()
    models = [path for name in names for path in (quality_file(job, name), quality_card(job, name))]
    return [
        *models,
        *[job.home.quality_models] * bool(names),
        *[job.home.languages] * bool(job.recipe.languages.trusted),
    ]


def run(job: Job) -> Counts:
    """Measures only the deliveries that silver.signals does not hold yet."""
    from pipelines.signals.measure import measure, signal_columns

    table, made = tables.SIGNALS.extended(signal_columns()), context(job)
    near = job.recipe.near_duplicates.model_dump(exclude={"threshold"})
    settings = [
        REVISION,
        near,
        job.recipe.part("seed", "routes"),
        sha256s(made.quality_models),
        made.stop_words,
        table.column_names,
    ]
    wanted = {name: fingerprint([settings, found]) for name, found in job.deliveries.items()}
    fresh = deliveries.undone(wanted, job.known(table))
    if fresh != []:
        chosen = list(map(deliveries.Delivery.named, wanted)) if fresh is None else fresh
        rows = measure(job.delivered(tables.DOCUMENTS, chosen), made)
        job.write(rows, table, "measure", append=fresh is not None, deliveries=wanted)
    cards = [json.loads(quality_card(job, name).read_text()) for name in made.quality_models]
    # a run that was stopped may have left them incomplete
    if cards and (fresh != [] or not all("corpus" in card for card in cards)):
        complete_cards(job, made.quality_models)
    counts = {"documents": job.home.lake.rows(table), "bytes": job.home.lake.total(tables.SIGNALS, pc.field("n_bytes"))}
    refused = json.loads(job.home.quality_models.read_text())["refused"] if job.recipe.quality else {}
    return counts | {"languages without a quality model of their own": len(refused)} if refused else counts


def context(job: Job) -> Context:
    """What the signals need besides the text; models are trained unless they are there."""
    from pipelines import assets
    from pipelines.signals.context import Context

    recipe, near, lid = job.recipe, job.recipe.near_duplicates, assets.LANGUAGE_MODEL.read_bytes()
    models = quality_models(job) if recipe.quality else {}
    stop_words = fit_languages(job, Context(lid))["stop_words"] if recipe.languages.trusted else {}
    return Context(lid, models, near.ngram, near.bands, near.rows, recipe.seed, recipe.routes, stop_words)


def first_deliveries(job: Job) -> list[deliveries.Delivery]:
    return [deliveries.Delivery(source.name, source.snapshots[0]) for source in job.recipe.sources]


def first_documents(job: Job) -> DataFrame:
    return job.read(tables.DOCUMENTS).where(deliveries.condition(first_deliveries(job)))


def learnt_from(job: Job, *names: str) -> str:
    """Fingerprint of the first snapshots and of the parts of the recipe that a model is made of."""
    first = {name: job.deliveries[name] for name in map(str, first_deliveries(job))}
    return fingerprint([REVISION, part(job.recipe)["fit"], job.recipe.part("seed", *names), first])


def quality_models(job: Job) -> dict[str, bytes]:
    """The quality models by name: domain, or domain.language. Trained unless those that are there are made of the
    same."""
    listed, made_of = job.home.quality_models, learnt_from(job, "quality")
    told = json.loads(listed.read_text()) if listed.is_file() else {}
    if told.get("made_of") == made_of:
        found = {name: quality_file(job, name) for name in told["sha256"]}
        models = {
            name: file.read_bytes()
            for name, file in found.items()
            if file.is_file() and quality_card(job, name).is_file()
        }
        if told["sha256"] == sha256s(models):
            return models
    models, refused = train_quality(job, first_documents(job))
    write_json(listed, {"made_of": made_of, "sha256": sha256s(models), "refused": refused})
    return models


def sha256s(models: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(model).hexdigest() for name, model in models.items()}


def train_quality(job: Job, documents: DataFrame) -> tuple[dict[str, bytes], dict[str, str]]:
    """Train and store the quality models with their cards: the models by name, domain or domain.language, and by name
    why there is none.

    Where a language's examples do not do, the domain's model serves it. Raises ValueError where those of a domain do
    not.
    """
    from pipelines import assets
    from pipelines.models.examples import by_language, examples

    models: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    for old in job.home.models.glob("quality-*"):
        old.unlink()
    for domain, spec in job.recipe.quality.items():
        good, pool = examples(documents, domain, spec, job.recipe.seed)
        for name, kinds in by_language(domain, good, pool, assets.LANGUAGE_MODEL.read_bytes()).items():
            try:
                models[name] = store_quality(job, domain, name, *kinds)
            except ValueError as error:
                if name == domain:
                    raise
                refused[name] = str(error)
    return models, refused


def store_quality(job: Job, domain: str, name: str, good: list[str], pool: list[str]) -> bytes:
    """Train one model and write it with its card. Raises ValueError where the examples do not do."""
    from pipelines.models import quality

    trained = quality.train(good, pool, job.recipe.seed, name)
    file = quality_file(job, name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(trained.model)
    sizes = {"positives": trained.n_positives, "pool": trained.n_pool, "heldout": trained.n_heldout}
    left_out = {"empty": trained.n_empty, "copies": trained.n_copies}
    recipe = job.recipe.quality[domain].model_dump(mode="json")
    card = {
        "domain": domain,
        "model": name,
        "auc": trained.auc,
        "auc_interval": trained.interval,
        **sizes,
        "left_out": left_out,
    }
    write_json(quality_card(job, name), {**card, "calibration": trained.calibration, "recipe": recipe})
    return trained.model


def quality_file(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.bin"


def quality_card(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.json"


def complete_cards(job: Job, names: Iterable[str]) -> None:
    """Add to each quality model's card what its scores go by in the corpus; null where it scored no document."""
    from pipelines.models.audit import audit

    found = audit(job.read(tables.SIGNALS), job.read(tables.DOCUMENTS))
    for name in names:
        card = quality_card(job, name)
        write_json(card, {**json.loads(card.read_text()), "corpus": found.get(name)})


def fit_languages(job: Job, context: Context) -> dict[str, Any]:
    """What is usual in the languages of the documents that the recipe trusts: the card of `languages.fit`, fitted
    unless it is there."""
    from pipelines.models import languages
    from pipelines.models.examples import trusted
    from pipelines.signals.measure import batch_of, measure_batch

    file, made_of = job.home.languages, learnt_from(job, "languages")
    if file.is_file() and (card := json.loads(file.read_text())).get("made_of") == made_of:
        return card
    texts = trusted(first_documents(job), job.recipe.languages, job.recipe.seed)
    if not texts:
        raise ValueError(
            "languages.trusted: expected documents of the first snapshots, found none; look at sources and uri patterns"
        )
    card = languages.fit(measure_batch(batch_of(texts), context), texts, rules.load("multilingual"))
    job.home.models.mkdir(exist_ok=True)
    write_json(file, card | {"made_of": made_of, "recipe": job.recipe.languages.model_dump(mode="json")})
    return card
