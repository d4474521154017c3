"""The steps of the main job: what each reads, which part of the recipe decides it, what it writes, and its work."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.home import Home
from pipelines import dedup as duplicates
from pipelines import ingest as intake
from pipelines import judge as judging
from pipelines import rules
from schemas import tables
from schemas.manifest import fingerprint, write_json
from schemas.recipe import Recipe
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame, SparkSession

    from pipelines.measure import Context

Counts = dict[str, float]
MEASURING = 2  # raised by hand when the signals of the same text become others


@dataclass(frozen=True)
class Step:
    """One step. `needs` are the steps whose output it reads; `part` is the part of the recipe that decides its output.

    `revision` is raised by hand when the step's code gives other output for the same input.
    """

    name: str
    work: Callable[[Job], Counts]
    needs: tuple[str, ...]
    part: Callable[[Recipe], Any]
    tables: tuple[Table, ...] = ()
    files: Callable[[Job], list[Path]] = lambda job: []
    revision: int = 1


@dataclass
class Job:
    """What a step works with. `fingerprints` are those of all steps; `on_training` is told of every optimiser step."""

    recipe: Recipe
    home: Home
    fingerprints: dict[str, str]
    on_training: Callable[[Any], None] = lambda step: None

    @cached_property
    def spark(self) -> SparkSession:
        from pipelines.spark import session

        return session(self.recipe.spark, str(self.home.root.resolve()))

    @property
    def run_folder(self) -> Path:
        """Folder of the training run: its name is what it is made of, so a resumed run finds its checkpoints."""
        return self.home.runs / self.fingerprints["train"][:12]

    @cached_property
    def deliveries(self) -> dict[str, str]:
        """By delivery, the fingerprint of its files and of how they are read."""
        return intake.fingerprints(self.recipe)

    def known(self, table: Table) -> dict[str, str]:
        """By delivery, the fingerprint of what the table holds of it; empty where it does not say."""
        return self.home.lake.ancestry(table).get("deliveries", {})

    def read(self, table: Table) -> DataFrame:
        return self.home.lake.read(self.spark, table)

    def write(self, rows: DataFrame, table: Table, step: str, where: str | None = None, deliveries: dict[str, str] | None = None) -> int:
        """Write a table with its ancestry; `deliveries` are those that it holds afterwards. Returns the rows written."""
        ancestry = {"step": step, "fingerprint": self.fingerprints[step], "deliveries": deliveries or {}}
        self.home.lake.write(rows, table, ancestry, where)
        return self.home.lake.rows_written(table)


def ingest(job: Job) -> Counts:
    """Reads only the deliveries that the tables do not hold yet, a round for each snapshot of a source."""
    lake = job.home.lake
    stored, rounds = intake.rounds(job.deliveries, job.known(tables.DOCUMENTS), job.known(tables.REJECTS))
    again = 0
    for chosen in rounds:
        held = stored | {str(one): job.deliveries[str(one)] for one in chosen}
        again += store_records(job, chosen, stored, held)
        stored = held
    held = {"documents": lake.rows(tables.DOCUMENTS), "rejects": lake.rows(tables.REJECTS)}
    return {**held, "bytes": total(job.read(tables.DOCUMENTS), "n_bytes"), "delivered before": again}


def store_records(job: Job, chosen: list[intake.Delivery], stored: dict[str, str], held: dict[str, str]) -> int:
    """Add the deliveries' documents and rejects to the tables; returns how many of the documents had been delivered before."""
    from pyspark import StorageLevel

    where = intake.condition(chosen) if stored else None  # with nothing stored, what the tables hold goes
    # Text and rejects come out of one reading of the sources: kept on disk between the two writes.
    records = intake.records(job.spark, job.recipe, chosen).persist(StorageLevel.DISK_ONLY)
    try:
        documents = new = records.where("reason is null")
        if stored:
            others = job.read(tables.DOCUMENTS).where(f"not ({where})").select("doc_id")
            new = documents.join(others, "doc_id", how="left_anti")
        written = job.write(new, tables.DOCUMENTS, "ingest", where, held)
        job.write(records.where("reason is not null"), tables.REJECTS, "ingest", where, held)
        return documents.count() - written if stored else 0
    finally:
        records.unpersist()


def total(rows: DataFrame, column: str) -> int:
    from pyspark.sql import functions as F

    return rows.agg(F.sum(column)).first()[0] or 0


def measure(job: Job) -> Counts:
    from pipelines import assets
    from pipelines.measure import Context, signal_columns
    from pipelines.measure import measure as measured

    documents = job.read(tables.DOCUMENTS)
    models = quality_models(job, documents) if job.recipe.quality else {}
    near = job.recipe.near_duplicates
    lid, first = assets.LANGUAGE_MODEL.read_bytes(), documents.where(intake.condition(first_deliveries(job)))
    stop_words = fit_languages(job, first, Context(lid)) if job.recipe.languages.trusted else {}
    context = Context(lid, models, near.ngram, near.bands, near.rows, job.recipe.seed, job.recipe.routes, stop_words)
    table = tables.SIGNALS.extended(signal_columns())
    decided = job.recipe.part("seed", "routes") | near.model_dump(exclude={"threshold"})
    settings = [MEASURING, decided, sha256s(models), stop_words, table.column_names]
    wanted = {name: fingerprint([settings, found]) for name, found in job.deliveries.items()}
    fresh = intake.undone(wanted, job.known(table))
    if fresh is None:
        job.write(measured(documents, context), table, "measure", None, wanted)
    elif fresh:
        where = intake.condition(fresh)
        job.write(measured(documents.where(where), context), table, "measure", where, wanted)
    if models and fresh != []:
        complete_cards(job, models)
    return {"documents": job.home.lake.rows(table), "bytes": total(job.read(tables.SIGNALS), "n_bytes")}


def first_deliveries(job: Job) -> list[intake.Delivery]:
    return [intake.Delivery(source.name, source.snapshots[0]) for source in job.recipe.sources]


def quality_models(job: Job, documents: DataFrame) -> dict[str, bytes]:
    """The quality models by name. They learn from the first snapshot of each source and are kept while it stays the same: a later
    snapshot is scored by them, so that what was measured before still holds."""
    first = first_deliveries(job)
    made_of = fingerprint([MEASURING, job.recipe.part("quality", "seed"), {str(one): job.deliveries[str(one)] for one in first}])
    listed = job.home.models / "quality.json"
    if listed.is_file() and (told := json.loads(listed.read_text()))["made_of"] == made_of:
        files = {name: quality_file(job, name) for name in told["sha256"]}
        models = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
        if told["sha256"] == sha256s(models):
            return models
    models = train_quality(job, documents.where(intake.condition(first)))
    write_json(listed, {"made_of": made_of, "sha256": sha256s(models)})
    return models


def sha256s(models: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(model).hexdigest() for name, model in models.items()}


def train_quality(job: Job, documents: DataFrame) -> dict[str, bytes]:
    """Train and store the quality models with their cards; returns the models by name: domain, or domain.language."""
    from pipelines import assets
    from pipelines.examples import by_language, examples

    models: dict[str, bytes] = {}
    for old in job.home.models.glob("quality-*"):
        old.unlink()
    for domain, spec in job.recipe.quality.items():
        good, pool = examples(documents, domain, spec, job.recipe.seed)
        for name, kinds in by_language(domain, good, pool, assets.LANGUAGE_MODEL.read_bytes()).items():
            models |= store_quality(job, domain, name, *kinds)
    return models


def store_quality(job: Job, domain: str, name: str, good: list[str], pool: list[str]) -> dict[str, bytes]:
    """Train one model and write it with its card. None for a language whose examples do not do: the domain's model serves it."""
    from pipelines.signals import quality

    try:
        trained = quality.train(good, pool, job.recipe.seed, name)
    except ValueError:
        if name == domain:
            raise
        return {}
    file = quality_file(job, name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(trained.model)
    sizes = {"positives": trained.n_positives, "pool": trained.n_pool, "heldout": trained.n_heldout}
    left_out = {"empty": trained.n_empty, "copies": trained.n_copies}
    recipe = job.recipe.quality[domain].model_dump(mode="json")
    card = {"domain": domain, "model": name, "auc": trained.auc, "auc_interval": trained.interval, **sizes, "left_out": left_out}
    write_json(quality_card(job, name), {**card, "calibration": trained.calibration, "recipe": recipe})
    return {name: trained.model}


def quality_file(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.bin"


def quality_card(job: Job, name: str) -> Path:
    return job.home.models / f"quality-{name}.json"


def complete_cards(job: Job, names: Iterable[str]) -> None:
    """Add to each quality model's card what its scores go by in the corpus; null where it scored no document."""
    from pipelines.audit import audit

    found = audit(job.read(tables.SIGNALS), job.read(tables.DOCUMENTS))
    for name in names:
        card = quality_card(job, name)
        write_json(card, {**json.loads(card.read_text()), "corpus": found.get(name)})


def fit_languages(job: Job, documents: DataFrame, context: Context) -> dict[str, list[str]]:
    """Measure the documents that the recipe trusts, store what is usual in their languages; returns stop words by language."""
    from pipelines import languages
    from pipelines.examples import trusted
    from pipelines.measure import batch_of, measure_batch

    texts = trusted(documents, job.recipe.languages, job.recipe.seed)
    card = languages.fit(measure_batch(batch_of(texts), context), texts, rules.load("multilingual"))
    job.home.models.mkdir(exist_ok=True)
    write_json(languages_file(job.home), card | {"recipe": job.recipe.languages.model_dump(mode="json")})
    return card["stop_words"]


def languages_file(home: Home) -> Path:
    return home.models / "languages.json"


def dedup(job: Job) -> Counts:
    store_pairs(job)
    sources = job.recipe.sources
    priority = {source.name: source.priority for source in sources}
    recency = {(source.name, snapshot): time for source in sources for time, snapshot in enumerate(source.snapshots)}
    found = duplicates.clusters(job.read(tables.SIGNALS), job.read(tables.PAIRS), priority, recency)
    rows = job.write(found, tables.CLUSTERS, "dedup")
    clusters = job.read(tables.CLUSTERS)
    return {
        "documents": rows,
        "pairs": job.home.lake.rows(tables.PAIRS),
        "exact": clusters.where("rank > 1 and exact").count(),
        "near": clusters.where("rank > 1 and not exact").count(),
    }


def store_pairs(job: Job) -> None:
    """Bring silver.pairs to what the signals hold: by the deliveries that it lacks, or anew."""
    near, signals = job.recipe.near_duplicates, job.read(tables.SIGNALS)
    wanted = {name: fingerprint([near.model_dump(), measured]) for name, measured in job.known(tables.SIGNALS).items()}
    stored = job.known(tables.PAIRS)
    fresh = intake.undone(wanted, stored)
    if fresh != []:
        hashes = signals.where(intake.condition(map(intake.Delivery.named, stored))).select("text_hash") if fresh else None
        known = (job.read(tables.PAIRS), hashes) if fresh else None
        job.write(duplicates.pairs(signals, job.read(tables.DOCUMENTS), near, known), tables.PAIRS, "dedup", None, wanted)


def domain_rules(recipe: Recipe, home: Home | None = None) -> dict[str, tuple[rules.Rule, ...]]:
    """The rules of the recipe's domains; with those thresholds that were fitted to languages in this home, if any."""
    fitted = json.loads(languages_file(home).read_text())["thresholds"] if home and recipe.languages.trusted else {}
    return {domain: rules.load(domain, recipe.rules.get(domain), fitted) for domain in sorted(recipe.domains)}


def judge(job: Job) -> Counts:
    recipe = job.recipe
    verdicts = judging.judge(
        job.read(tables.SIGNALS), job.read(tables.CLUSTERS), domain_rules(recipe, job.home), recipe.tiers, recipe.heldout, recipe.seed
    )
    rows = job.write(verdicts, tables.VERDICTS, "judge")
    verdicts = job.read(tables.VERDICTS)
    return {"documents": rows, "kept": verdicts.where("keep").count(), "heldout": verdicts.where("heldout").count()}


def tokenise(job: Job) -> Counts:
    from pyspark.sql import functions as F

    from pipelines import tokens

    verdicts = job.read(tables.VERDICTS)  # starts Spark where this is the first step to run: expressions need it
    stream = F.when(F.col("heldout"), F.lit("heldout")).otherwise(F.concat_ws(".", "source", "tier"))
    kept = verdicts.where("keep").select("doc_id", stream.alias("stream"), "domain", "n_bytes", "heldout")
    texts = job.read(tables.DOCUMENTS).select("doc_id", "text").join(kept, "doc_id", how="inner")
    ranks = tokenizer_ranks(job, texts.where("not heldout"))
    store_tokenizer(job, ranks)
    rows = job.write(tokens.tokenise(texts, ranks, job.recipe.tokenizer.name), tables.TOKENS, "tokenise")
    return {"documents": rows, "tokens": total(job.read(tables.TOKENS), "n_tokens")}


def tokenizer_ranks(job: Job, texts: DataFrame) -> bytes:
    """The tokenizer's ranks file: GPT-4's, or trained on a sample of the kept documents."""
    from pipelines import tokens

    spec = job.recipe.tokenizer
    if spec.name == "cl100k_base":
        return tokens.cl100k_ranks()
    sample = tokens.training_sample(texts, job.recipe.seed, spec.sample_bytes)
    return tokens.train_bpe((row.text for row in sample.toLocalIterator()), spec.vocab_size)


def tokenizer_files(home: Home) -> list[Path]:
    return [home.shards / "tokenizer.ranks", home.models / "tokenizer.json"]


def store_tokenizer(job: Job, ranks: bytes) -> None:
    """Beside the shards, where a trainer finds it; its card with the other models' cards."""
    from pipelines import tokens

    file, card = tokenizer_files(job.home)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(ranks)
    write_json(card, tokens.about(ranks, job.recipe.tokenizer.name, file.name))


def mixture(job: Job) -> Counts:
    from pipelines import mixture as mixing
    from pipelines.sequences import stream_sizes

    recipe = job.recipe
    sizes = stream_sizes(job.read(tables.TOKENS)).collect()
    streams = [(row.stream, *row.stream.split(".", 1), row.tokens) for row in sizes]
    rows = mixing.mix(recipe.stages, streams, recipe.max_epochs, recipe.train.batch_tokens, recipe.tiers)
    frame = job.spark.createDataFrame([tuple(row[c] for c in tables.MIXTURE.column_names) for row in rows], ddl(tables.MIXTURE))
    job.write(frame, tables.MIXTURE, "mixture")
    return {"stages": len(recipe.stages), "tokens": sum(row["tokens"] for row in rows)}


def ddl(table: Table) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in table.columns)


def shard(job: Job) -> Counts:
    from pipelines import shards

    mix = [row.asDict() for row in job.read(tables.MIXTURE).orderBy("position", "stream").collect()]
    tokenizer = json.loads(tokenizer_files(job.home)[1].read_text())
    data_steps = STEPS[: [step.name for step in STEPS].index("shard")]
    written_by = {table.name: job.fingerprints[step.name] for step in data_steps for table in step.tables}
    made = shards.shard(job.read(tables.TOKENS), mix, job.recipe, job.home.shards, tokenizer, written_by)
    job.write(made.spans, tables.SPANS, "shard")
    windows = [window for folder in made.manifest.folders for window in folder.windows]
    return {"windows": len(windows), "samples": sum(w.samples for w in windows), "bytes": sum(w.bytes for w in windows)}


def shard_files(home: Home) -> list[Path]:
    return [home.shards / "manifest.json", home.shards / "plan.json"]


def train(job: Job) -> Counts:
    from model.train import train as run_training

    result = run_training(job.home.shards, job.run_folder, job.recipe.model, job.recipe.train, job.on_training)
    store_ledger(job)
    return {"steps": result["steps"], "tokens": result["tokens"], "loss": result["final_loss"]}


def store_ledger(job: Job) -> None:
    """Bring the trainer's ledger into the lake: rows of this run only are replaced."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from model.ledger import ledger_files

    run = job.fingerprints["train"]
    staged = job.home.root / "tmp" / "ledger"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name, rows in ledger_files(job.run_folder):
        columns = {"step": rows["step"].astype(np.int64), "doc_key": rows["doc"], "tokens": rows["tokens"].astype(np.int64)}
        table = pa.table({"run": pa.array([run] * len(rows)), **columns, "loss": rows["loss"].astype(np.float64)})
        pq.write_table(table, staged / f"{name}.parquet")
    job.write(job.spark.read.parquet(str(staged)), tables.LEDGER, "train", where=f"run = '{run}'")
    shutil.rmtree(staged)


def evaluate(job: Job) -> Counts:
    """Beside the trainer's held-out figures: two references on the same documents, and continuations of the prompts."""
    from flows.evaluation import evaluate as evaluated

    ranks, card = tokenizer_files(job.home)
    tokenizer = json.loads(card.read_text())
    found = evaluated(job.read(tables.TOKENS), job.read(tables.DOCUMENTS), job.recipe, job.run_folder, tokenizer, ranks.read_bytes())
    write_json(evaluation_file(job), found)
    return {f"bits/byte {domain}": figures["final"] for domain, figures in found["domains"].items()}


def evaluation_file(job: Job) -> Path:
    return job.run_folder / "evaluation.json"


def report(job: Job) -> Counts:
    from flows.report import write

    page = write(job)
    return {"bytes": page.stat().st_size}


def report_file(job: Job) -> Path:
    return job.home.report / f"{job.run_folder.name}.html"


def ingest_part(recipe: Recipe) -> dict:
    """`flows.status` adds the fingerprints of the deliveries."""
    return {"seed": recipe.seed, "sources": [source.model_dump(mode="json", exclude={"priority"}) for source in recipe.sources]}


def rules_part(recipe: Recipe) -> dict:
    """The rules as they apply, so that a change of the default ones counts too."""
    return {domain: {rule.name: asdict(rule) for rule in members} for domain, members in domain_rules(recipe).items()}


STEPS = (
    Step("ingest", ingest, (), ingest_part, (tables.DOCUMENTS, tables.REJECTS), revision=intake.REVISION),
    Step(
        "measure", measure, ("ingest",),
        lambda r: {
            **r.part("seed", "quality", "routes", "languages"), "near_duplicates": r.near_duplicates.model_dump(exclude={"threshold"}),
            "fit": [asdict(rule) for rule in rules.load("multilingual") if rule.fit] if r.languages.trusted else [],
        },
        (tables.SIGNALS,), lambda job: [quality_file(job, domain) for domain in job.recipe.quality]
        + [languages_file(job.home)] * bool(job.recipe.languages.trusted), revision=MEASURING,
    ),
    Step(
        "dedup", dedup, ("ingest", "measure"),
        lambda r: {**r.part("near_duplicates"), "preference": {source.name: [source.priority, *source.snapshots] for source in r.sources}},
        (tables.PAIRS, tables.CLUSTERS),
    ),
    Step(
        "judge", judge, ("measure", "dedup"),
        lambda r: {**r.part("tiers", "heldout", "seed"), "rules": rules_part(r)}, (tables.VERDICTS,),
    ),
    Step(
        "tokenise", tokenise, ("ingest", "judge"), lambda r: r.part("tokenizer", "seed"), (tables.TOKENS,),
        lambda job: tokenizer_files(job.home),
    ),
    Step(
        "mixture", mixture, ("tokenise",), lambda r: {**r.part("stages", "max_epochs", "tiers"), "batch_tokens": r.train.batch_tokens},
        (tables.MIXTURE,),
    ),
    Step(
        "shard", shard, ("tokenise", "mixture"), lambda r: r.part("seed", "window_tokens", "stages"), (tables.SPANS,),
        lambda job: shard_files(job.home),
    ),
    Step(
        "train", train, ("shard",), lambda r: r.part("model", "train"), (tables.LEDGER,),
        lambda job: [job.run_folder / "result.json"],
    ),
    Step(
        "evaluate", evaluate, ("ingest", "tokenise", "train"), lambda r: r.part("prompts", "seed"), (),
        lambda job: [evaluation_file(job)],
    ),
    Step(
        "report", report, ("ingest", "measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate"),
        lambda r: r.fingerprint, (), lambda job: [report_file(job), report_file(job).with_suffix(".json")],
    ),
)  # fmt: skip
