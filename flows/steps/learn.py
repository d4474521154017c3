"""First snapshots to what measuring needs: quality models by domain and language, what is usual in a language.

A model learns from the first snapshot of each source. A later one leaves this step done and is measured by the same
models: what was measured before still holds, and new data costs only itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.job import Counts, Job
from pipelines import deliveries, rules
from pipelines.deliveries import Delivery
from schemas import tables
from schemas.errors import DataError
from schemas.files import read_json, write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

    from pipelines.models.examples import Examples

NEEDS = ("ingest",)
TABLES = ()
REVISION = 2


def part(recipe: Recipe) -> dict[str, Any]:
    """Which documents are examples or trusted, what is fitted to them, and the deliveries that they are taken from."""
    from pipelines import signals

    fits = [asdict(rule) for rule in rules.load("multilingual") if rule.fit] if recipe.languages.trusted else []
    by = {"fit": fits, "signals": signals.REVISION, "deliveries": list(map(str, first_deliveries(recipe)))}
    return {**recipe.part("seed", "quality", "languages"), **by}


def first_deliveries(recipe: Recipe) -> list[Delivery]:
    """The first snapshot of each source."""
    return [Delivery(source.name, source.snapshots[0]) for source in recipe.sources]


def files(job: Job) -> list[Path]:
    """Models and their cards; which there are; the card of languages. As far as the recipe asks for them."""
    listed, paths = job.home.quality_models, []
    if job.recipe.quality:
        paths = [listed] + [
            path for name in _listed(job)["sha256"] for path in (model_file(job, name), card_file(job, name))
        ]
    return paths + [job.home.languages] * bool(job.recipe.languages.trusted)


def run(job: Job) -> Counts:
    """Trains and fits anew what the recipe asks for."""
    counts: Counts = {}
    if job.recipe.quality:
        models, refused = train_quality(job, first_documents(job))
        write_json(job.home.quality_models, {"sha256": models, "refused": refused})
        counts["quality models"] = len(models)
        counts |= {"languages without a quality model of their own": len(refused)} if refused else {}
    if job.recipe.languages.trusted:
        counts["languages fitted"] = len(fit_languages(job, first_documents(job))["documents"])
    return counts


def first_documents(job: Job) -> DataFrame:
    return job.read(tables.DOCUMENTS).where(deliveries.sql_condition(first_deliveries(job.recipe)))


def train_quality(job: Job, documents: DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Train and store the quality models with their cards: sha256 by name, domain or domain.language, and by name why
    there is none.

    Where a language's examples do not do, the domain's model serves it. Raises DataError where those of a domain do
    not.
    """
    from pipelines import assets
    from pipelines.models.examples import by_language, draw_elsewhere, draw_examples

    models: dict[str, str] = {}
    refused: dict[str, str] = {}
    for old in job.home.models.glob("quality-*"):
        old.unlink()
    for domain, spec in job.recipe.quality.items():
        good, pool = draw_examples(documents, domain, spec, job.recipe.seed)
        elsewhere = draw_elsewhere(documents, domain, job.recipe.seed)
        for name, kinds in by_language(domain, good, pool, assets.LANGUAGE_MODEL.read_bytes()).items():
            try:
                models[name] = store_quality(job, domain, name, kinds, elsewhere)
            except DataError as error:
                if name == domain:
                    raise
                refused[name] = str(error)
    return models, refused


def store_quality(job: Job, domain: str, name: str, examples: Examples, elsewhere: dict[str, list[str]]) -> str:
    """Train one model and write it with its card; its sha256. Raises DataError where the examples do not do.

    elsewhere: texts by source of other domains, on which it is tried.
    """
    from pipelines.models import quality
    from pipelines.models.limits import limits

    trained = quality.train(*[[text for _, text in kind] for kind in examples], job.recipe.seed, name)
    model_file(job, name).parent.mkdir(exist_ok=True)
    model_file(job, name).write_bytes(trained.model)
    told = trained.card | limits(trained, examples, elsewhere, job.recipe.seed)
    recipe = job.recipe.quality[domain].model_dump(mode="json")
    write_json(card_file(job, name), {"domain": domain, "model": name, **told, "recipe": recipe})
    return _sha256(trained.model)


def fit_languages(job: Job, documents: DataFrame) -> dict[str, Any]:
    """Store what is usual in the languages of the documents that the recipe trusts: the card of `languages.fit`."""
    from pipelines import assets
    from pipelines.models import languages
    from pipelines.models.examples import trusted_texts
    from pipelines.signals.context import Context
    from pipelines.signals.measure import batch_of, measure_batch

    texts = trusted_texts(documents, job.recipe.languages, job.recipe.seed)
    if not texts:
        raise DataError(
            "languages.trusted: expected documents of the first snapshots, found none; look at sources and uri patterns"
        )
    signals = measure_batch(batch_of(texts), Context(assets.LANGUAGE_MODEL.read_bytes()))
    card = languages.fit(signals, texts, rules.load("multilingual"))
    write_json(job.home.languages, card | {"recipe": job.recipe.languages.model_dump(mode="json")})
    return card


def quality_models(job: Job) -> dict[str, bytes]:
    """The quality models by name. Raises DataError for one that is not what the step left."""
    listed = _listed(job)["sha256"] if job.recipe.quality else {}
    models = {name: model_file(job, name).read_bytes() for name in listed}
    for name, model in models.items():
        if _sha256(model) != listed[name]:
            raise DataError(
                f"{model_file(job, name)}: expected the model with sha256 {listed[name]}, found {_sha256(model)}; "
                "`flows run learn` trains it again"
            )
    return models


def stop_words(job: Job) -> dict[str, list[str]]:
    """By language, where the recipe trusts documents."""
    return read_json(job.home.languages)["stop_words"] if job.recipe.languages.trusted else {}


def model_file(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.bin"


def card_file(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.json"


def _listed(job: Job) -> dict[str, Any]:
    return read_json(job.home.quality_models)


def _sha256(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()
