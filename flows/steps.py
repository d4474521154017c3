"""The steps of the main job: what each reads, which part of the recipe decides it, what it writes, and its work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
from schemas.manifest import write_json
from schemas.recipe import Recipe
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame, SparkSession

    from pipelines.measure import Context

Counts = dict[str, float]


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

    def read(self, table: Table) -> DataFrame:
        return self.home.lake.read(self.spark, table)

    def write(self, rows: DataFrame, table: Table, step: str, where: str | None = None) -> int:
        """Write a table with its ancestry; returns the rows written."""
        self.home.lake.write(rows, table, {"step": step, "fingerprint": self.fingerprints[step]}, where)
        return self.home.lake.rows_written(table)


def ingest(job: Job) -> Counts:
    from pyspark import StorageLevel

    # Text and rejects come out of one reading of the sources: kept on disk between the two writes.
    records = intake.records(job.spark, job.recipe).persist(StorageLevel.DISK_ONLY)
    try:
        documents = job.write(records.where("reason is null"), tables.DOCUMENTS, "ingest")
        rejects = job.write(records.where("reason is not null"), tables.REJECTS, "ingest")
    finally:
        records.unpersist()
    return {"documents": documents, "rejects": rejects, "bytes": total(job.read(tables.DOCUMENTS), "n_bytes")}


def total(rows: DataFrame, column: str) -> int:
    from pyspark.sql import functions as F

    return rows.agg(F.sum(column)).first()[0] or 0


def measure(job: Job) -> Counts:
    from pipelines.measure import measure as measured
    from pipelines.measure import signal_columns

    documents = job.read(tables.DOCUMENTS)
    models = train_quality(job, documents)
    rows = job.write(measured(documents, context(job, models)), tables.SIGNALS.extended(signal_columns()), "measure")
    return {"documents": rows, "bytes": total(job.read(tables.SIGNALS), "n_bytes")}


def context(job: Job, models: dict[str, bytes]) -> Context:
    """What the signals need besides the text; models: of quality, by domain."""
    from pipelines import assets
    from pipelines.measure import Context

    near = job.recipe.near_duplicates
    return Context(assets.LANGUAGE_MODEL.read_bytes(), models, near.ngram, near.bands, near.rows, job.recipe.seed)


def train_quality(job: Job, documents: DataFrame) -> dict[str, bytes]:
    """Train and store each domain's quality model with its card; returns the models by domain."""
    from pipelines.examples import examples
    from pipelines.signals import quality

    models = {}
    for domain, spec in job.recipe.quality.items():
        good, pool = examples(documents, domain, spec, job.recipe.seed)
        trained = quality.train(good, pool, job.recipe.seed)
        job.home.models.mkdir(exist_ok=True)
        (job.home.models / f"quality-{domain}.bin").write_bytes(trained.model)
        sizes = {"positives": trained.n_positives, "pool": trained.n_pool, "heldout": trained.n_heldout}
        card = {"domain": domain, "auc": trained.auc, **sizes, "recipe": spec.model_dump(mode="json")}
        write_json(job.home.models / f"quality-{domain}.json", card)
        models[domain] = trained.model
    return models


def dedup(job: Job) -> Counts:
    priority = {source.name: source.priority for source in job.recipe.sources}
    found = duplicates.clusters(job.read(tables.SIGNALS), job.read(tables.DOCUMENTS), job.recipe.near_duplicates, priority)
    rows = job.write(found, tables.CLUSTERS, "dedup")
    clusters = job.read(tables.CLUSTERS)
    return {
        "documents": rows,
        "exact": clusters.where("rank > 1 and exact").count(),
        "near": clusters.where("rank > 1 and not exact").count(),
    }


def domain_rules(recipe: Recipe) -> dict[str, tuple[rules.Rule, ...]]:
    return {domain: rules.load(domain, recipe.rules.get(domain)) for domain in sorted({source.domain for source in recipe.sources})}


def edits(job: Job) -> Counts:
    from pipelines import edits as editing
    from pipelines.measure import signal_columns

    found = unmerged(job)
    rows = write_or_empty(job, editing.merge(found) if found else None, tables.EDITS)
    left = rests(job, job.read(tables.EDITS)) if rows and job.recipe.edits.shorten else None
    shortened = write_or_empty(job, left, tables.RESTS.extended(signal_columns()))
    n_bytes = total(job.read(tables.EDITS).selectExpr("end - start as n_bytes"), "n_bytes") if rows else 0
    return {"edits": rows, "documents shortened": shortened, "bytes": n_bytes}


def write_or_empty(job: Job, rows: DataFrame | None, table: Table) -> int:
    """Write a table of the step edits; without rows only a table that is there is emptied, as each write takes seconds."""
    if rows is None and job.home.lake.version(table) is None:
        return 0
    return job.write(job.spark.createDataFrame([], ddl(table)) if rows is None else rows, table, "edits")


def rests(job: Job, written: DataFrame) -> DataFrame:
    """What lines and passages leave of documents, measured as the documents were."""
    from pipelines import edits as editing

    models = {domain: (job.home.models / f"quality-{domain}.bin").read_bytes() for domain in job.recipe.quality}
    return editing.rests(job.read(tables.DOCUMENTS), written, context(job, models))


def unmerged(job: Job) -> list[DataFrame]:
    """What the recipe leaves out or masks, found separately."""
    from pipelines import edits as editing

    spec, found = job.recipe.edits, []
    if spec.shorten or spec.personal:
        signals, clusters = job.read(tables.SIGNALS), job.read(tables.CLUSTERS)
    if spec.shorten:
        priority = {source.name: source.priority for source in job.recipe.sources}
        kept = editing.candidates(signals, clusters, domain_rules(job.recipe), priority)
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


def judge(job: Job) -> Counts:
    recipe = job.recipe
    rests = job.read(tables.RESTS) if recipe.edits.shorten and job.home.lake.version(tables.RESTS) is not None else None
    verdicts = judging.judge(
        job.read(tables.SIGNALS), job.read(tables.CLUSTERS), domain_rules(recipe), recipe.tiers, recipe.heldout, recipe.seed,
        rests, recipe.edits.torso,
    )  # fmt: skip
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
    rows = job.write(tokens.tokenise(with_edits(job, texts), ranks, job.recipe.tokenizer.name), tables.TOKENS, "tokenise")
    return {"documents": rows, "tokens": total(job.read(tables.TOKENS), "n_tokens")}


def tokenizer_ranks(job: Job, texts: DataFrame) -> bytes:
    """The tokenizer's ranks file: GPT-4's, or trained on a sample of the kept documents."""
    from pipelines import tokens

    spec = job.recipe.tokenizer
    if spec.name == "cl100k_base":
        return tokens.cl100k_ranks()
    sample = tokens.training_sample(texts, job.recipe.seed, spec.sample_bytes)
    return tokens.train_bpe((row.text for row in learnt(job, sample).toLocalIterator()), spec.vocab_size)


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
    rows = mixing.mix(recipe.stages, streams, recipe.max_epochs, recipe.train.batch_tokens)
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
    rows = job.read(tables.TOKENS)
    heldout = job.read(tables.DOCUMENTS).join(rows.where("stream = 'heldout'").select("doc_id"), "doc_id", how="left_semi")
    found = evaluated(rows, learnt(job, heldout.select("doc_id", "text")), job.recipe, job.run_folder, tokenizer, ranks.read_bytes())
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


def rules_part(recipe: Recipe) -> dict:
    """The rules as they apply, so that a change of the default ones counts too."""
    return {domain: {rule.name: asdict(rule) for rule in members} for domain, members in domain_rules(recipe).items()}


def edits_part(recipe: Recipe) -> dict:
    """Lines and passages are compared among documents that fail no rule, so that rules count where these are looked for."""
    if not recipe.edits.shorten:
        return {"edits": recipe.edits.model_dump(include={"personal"}, mode="json")}
    priority = {source.name: source.priority for source in recipe.sources}
    return {**recipe.part("edits"), "rules": rules_part(recipe), "priority": priority}


STEPS = (
    Step("ingest", ingest, (), lambda r: r.part("sources", "seed"), (tables.DOCUMENTS, tables.REJECTS)),
    Step(
        "measure", measure, ("ingest",),
        lambda r: {**r.part("seed", "quality"), "near_duplicates": r.near_duplicates.model_dump(exclude={"threshold"})},
        (tables.SIGNALS,), lambda job: [job.home.models / f"quality-{domain}.bin" for domain in job.recipe.quality],
    ),
    Step(
        "dedup", dedup, ("ingest", "measure"),
        lambda r: {**r.part("near_duplicates"), "priority": {source.name: source.priority for source in r.sources}},
        (tables.CLUSTERS,),
    ),
    Step("edits", edits, ("ingest", "measure", "dedup"), edits_part, (tables.EDITS, tables.RESTS)),
    Step(
        "judge", judge, ("measure", "dedup", "edits"),
        lambda r: {**r.part("tiers", "heldout", "seed"), "rules": rules_part(r)}, (tables.VERDICTS,),
    ),
    Step(
        "tokenise", tokenise, ("ingest", "edits", "judge"), lambda r: r.part("tokenizer", "seed"), (tables.TOKENS,),
        lambda job: tokenizer_files(job.home),
    ),
    Step(
        "mixture", mixture, ("tokenise",), lambda r: {**r.part("stages", "max_epochs"), "batch_tokens": r.train.batch_tokens},
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
        "evaluate", evaluate, ("ingest", "edits", "tokenise", "train"), lambda r: r.part("prompts", "seed"), (),
        lambda job: [evaluation_file(job)],
    ),
    Step(
        "report", report, ("ingest", "measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate"),
        lambda r: r.fingerprint, (), lambda job: [report_file(job), report_file(job).with_suffix(".json")],
    ),
)  # fmt: skip
