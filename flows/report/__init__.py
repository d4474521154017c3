"""The report of a run: what it found and did, as numbers (JSON) and as one self-contained page (HTML).

facts(job) asks tables and files; page(facts) draws. Nothing that the page says is not in the JSON.

    census         what the tables say of the corpus, in a handful of Spark aggregates
    corpus         the census as tables: what became of every record, what every rule cost
    distributions  the census as distributions: signals, languages, quality scores
    samples        texts to look at
    deliveries     what the gate decided, and how far deliveries drift
    training       what the run's own files say
    plots          plots as inline SVG, numbers as words
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.job import Job
from flows.numbers import FORMATS
from flows.report import census, corpus, deliveries, distributions, plots, samples, training
from flows.steps.gate import latest
from schemas import tables
from schemas.files import write_json, write_whole


class DoesNotAddUp(RuntimeError):
    """Records were lost or counted twice: the message says of which source and where."""


def write(job: Job, path: Path, data: Path) -> None:
    """Write the page, and all that it says as JSON.

    Raises DoesNotAddUp, after both are written, if a source's records are not its rejected, dropped and kept ones.
    """
    report = facts(job)
    write_json(data, report)
    write_whole(path, page(report).encode())
    complaints = [f"source {row['source']}: {said}" for row in report["funnel"] for said in row["complaints"]]
    if complaints:
        raise DoesNotAddUp(f"the counts do not add up: {'; '.join(complaints)}. The report says more: {path}")


def facts(job: Job) -> dict[str, Any]:
    """Everything that the report says, as JSON values. What is ordered is a list: JSON's objects are not."""
    rules = job.rules
    verdicts, signals = job.read(tables.VERDICTS), job.read(tables.SIGNALS)
    counted = census.census(verdicts, signals, job.read(tables.TOKENS), rules)
    records = census.count_records(job.read(tables.DOCUMENTS), job.read(tables.REJECTS))
    funnel = corpus.funnel([(source.name, source.domain) for source in job.recipe.sources], records, counted)
    return {
        "run": job.run_folder.name,
        "tiers": sorted(job.recipe.tiers, key=lambda tier: -job.recipe.tiers[tier]),
        "funnel": funnel,
        "totals": corpus.totals(funnel),
        "rules": corpus.rule_table(counted, rules),
        "signals": distributions.signal_histograms(counted, rules),
        "languages": distributions.languages(counted),
        "quality": distributions.quality(counted),
        "deliveries": deliveries.deliveries(latest(job.home), job.recipe),
        **with_texts(
            census.duplicates(job.read(tables.CLUSTERS), verdicts),
            samples.choose_documents(verdicts, signals, rules),
            job,
            rules,
        ),
        "packing": census.packing(job.read(tables.SPANS)),
        "stages": training.stages(job.home.lake.arrow(tables.MIXTURE).to_pylist(), job.recipe),
        "training": training.training(job.run_folder, job.recipe.train.batch_tokens),
        "evaluation": training.evaluation(job.run_folder),
        "models": training.models(job.home.models, job.recipe),
        "provenance": training.provenance(job.recipe, job.home, job.hashes),
    }


def with_texts(duplicates: dict[str, Any], chosen: list[dict], job: Job, rules: dict) -> dict[str, Any]:
    """The duplicates and samples with their texts, which are read in one pass."""
    members = {doc_id for cluster in duplicates["largest"] for doc_id in (cluster["doc_id"], *cluster["members"])}
    text = samples.texts(job.read(tables.DOCUMENTS), members | {row["doc_id"] for row in chosen})
    shown = [{**row, **text[row["doc_id"]]} for row in samples.explain_documents(chosen, rules)]
    place = {doc_id: {name: text[doc_id][name] for name in ("doc_id", "source", "uri")} for doc_id in members}
    largest = [
        {**one, **text[one["doc_id"]], "members": [place[doc_id] for doc_id in one["members"]]}
        for one in duplicates["largest"]
    ]
    return {
        "duplicates": {**duplicates, "largest": largest},
        "samples": {
            "kept": [row for row in shown if row["keep"]],
            "dropped": [row for row in shown if not row["keep"]],
            "rejects": samples.rejects(job.read(tables.REJECTS)),
        },
    }


def page(report: dict[str, Any]) -> str:
    """The page. Text of documents is hostile: autoescape is on, and plots are drawn from numbers and names of the
    recipe only."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FORMATS
    return environment.get_template("page.html.j2").render(facts=report, plots=plots)
