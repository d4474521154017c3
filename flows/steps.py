"""The steps of the main job: what each reads, which part of the recipe decides it, what it writes, and its work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows import measuring
from flows.home import Home
from flows.job import Counts, Job
from flows.judging import (
    decontaminate,
    decontamination_files,
    decontamination_part,
    dedup,
    edits,
    edits_part,
    judge,
    learnt,
    rules_part,
    with_edits,
)  # fmt: skip
from pipelines import ingest as intake
from schemas import tables
from schemas.manifest import write_json
from schemas.recipe import Recipe
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    import numpy as np
    from pyspark.sql import DataFrame


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
    return {**held, "bytes": lake.total(tables.DOCUMENTS, pc.field("n_bytes")), "delivered before": again}


def store_records(job: Job, chosen: list[intake.Delivery], stored: dict[str, str], held: dict[str, str]) -> int:
    """Add the deliveries' documents and rejects to the tables; returns how many of the documents had been delivered before."""
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    where, append = intake.condition(chosen), bool(stored)  # with nothing stored, what the tables hold goes
    halfway = append and not job.known(tables.DOCUMENTS).keys().isdisjoint(map(str, chosen))  # a run was stopped between the two tables
    ids = few_ids(job, chosen) if stored else None
    # Text and rejects come out of one reading of the sources: kept on disk between the two writes.
    records = intake.records(job.spark, job.recipe, chosen, ids).persist(StorageLevel.DISK_ONLY)
    try:
        documents, rejected = records.where("reason is null"), F.col("reason").isNotNull() & (F.col("reason") != intake.HELD)
        if stored and ids is None:
            others = job.read(tables.DOCUMENTS).where(f"not ({where})")
            documents = documents.join(others.select("doc_id"), "doc_id", how="left_anti")
        instead = where if halfway else None
        written = job.write(documents, tables.DOCUMENTS, "ingest", where=instead, append=append and not halfway, deliveries=held)
        n, n_rejects = records.agg(F.count("*"), F.count_if(rejected)).first()
        rejects = records.where(rejected) if n_rejects else intake.SCHEMA.empty_table()
        job.write(rejects, tables.REJECTS, "ingest", append=append, deliveries=held)
        return n - n_rejects - written
    finally:
        records.unpersist()


def few_ids(job: Job, chosen: list[intake.Delivery]) -> np.ndarray | None:
    """Ids, in order, of the documents that other deliveries of the same sources hold; None where they are too many to be sent to tasks."""
    import numpy as np

    from pipelines.spark import ID_BYTES, SENT_BYTES

    if job.home.lake.rows(tables.DOCUMENTS) * ID_BYTES > SENT_BYTES:
        return None
    others = pc.field("source").isin([one.source for one in chosen]) & ~intake.among(chosen)
    return np.sort(np.array(job.home.lake.arrow(tables.DOCUMENTS, ["doc_id"], others).column("doc_id").to_pylist(), "S32"))


def tokenise(job: Job) -> Counts:
    from pyspark.sql import functions as F

    from pipelines import tokens
    from pipelines.spark import ID_BYTES, sent

    verdicts = job.read(tables.VERDICTS)  # starts Spark where this is the first step to run: expressions need it
    stream = F.when(F.col("heldout"), F.lit("heldout")).otherwise(F.concat_ws(".", "source", "tier"))
    kept = verdicts.where("keep").select("doc_id", stream.alias("stream"), "domain", "n_bytes", "heldout")
    texts = job.read(tables.DOCUMENTS).select("doc_id", "text").join(sent(kept, F.lit(2 * ID_BYTES)), "doc_id", how="inner")
    ranks = tokenizer_ranks(job, texts.where("not heldout"))
    store_tokenizer(job, ranks)
    rows = job.write(tokens.tokenise(with_edits(job, texts), ranks, job.recipe.tokenizer.name), tables.TOKENS, "tokenise")
    return {"documents": rows, "tokens": job.home.lake.total(tables.TOKENS, pc.field("n_tokens"))}


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
    rows = mixing.mix(recipe.stages, streams, recipe.max_epochs, recipe.train.batch_tokens, recipe.tiers)
    frame = job.spark.createDataFrame([tuple(row[c] for c in tables.MIXTURE.column_names) for row in rows], tables.MIXTURE.ddl)
    job.write(frame, tables.MIXTURE, "mixture")
    return {"stages": len(recipe.stages), "tokens": sum(row["tokens"] for row in rows)}


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
    from pyspark.sql import functions as F

    from flows.evaluation import evaluate as evaluated
    from pipelines.spark import ID_BYTES, sent

    ranks, card = tokenizer_files(job.home)
    tokenizer = json.loads(card.read_text())
    rows = job.read(tables.TOKENS)
    chosen = sent(rows.where("stream = 'heldout'").select("doc_id"), F.lit(ID_BYTES))
    heldout = job.read(tables.DOCUMENTS).join(chosen, "doc_id", how="left_semi")
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


def ingest_part(recipe: Recipe) -> dict:
    """`flows.status` adds the fingerprints of the deliveries."""
    return {"seed": recipe.seed, "sources": [source.model_dump(mode="json", exclude={"priority"}) for source in recipe.sources]}


STEPS = (
    Step("ingest", ingest, (), ingest_part, (tables.DOCUMENTS, tables.REJECTS), revision=intake.REVISION),
    Step("measure", measuring.measure, ("ingest",), measuring.part, (tables.SIGNALS,), measuring.files, measuring.REVISION),
    Step(
        "dedup", dedup, ("ingest", "measure"),
        lambda r: {**r.part("near_duplicates"), "preference": {source.name: [source.priority, *source.snapshots] for source in r.sources}},
        (tables.PAIRS, tables.CLUSTERS), revision=2,
    ),
    Step("decontaminate", decontaminate, ("ingest", "dedup"), decontamination_part, (tables.CONTAMINATION,)),
    Step("edits", edits, ("ingest", "measure", "dedup", "decontaminate"), edits_part, (tables.EDITS, tables.RESTS)),
    Step(
        "judge", judge, ("measure", "dedup", "decontaminate", "edits"),
        lambda r: {**r.part("tiers", "heldout", "seed"), "rules": rules_part(r), "contaminated": r.decontaminate.threshold},
        (tables.VERDICTS,), decontamination_files, revision=2,
    ),
    Step(
        "tokenise", tokenise, ("ingest", "edits", "judge"), lambda r: r.part("tokenizer", "seed"), (tables.TOKENS,),
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
        "evaluate", evaluate, ("ingest", "edits", "tokenise", "train"), lambda r: r.part("prompts", "seed"), (),
        lambda job: [evaluation_file(job)],
    ),
    Step(
        "report", report, ("ingest", "measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate"),
        lambda r: r.fingerprint, (), lambda job: [report_file(job), report_file(job).with_suffix(".json")],
    ),
)  # fmt: skip
