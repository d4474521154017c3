"""Shards to a trained model, and its ledger in the lake."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from schemas import tables
from schemas.errors import DataError
from schemas.recipe import Recipe
from schemas.training import PLACE

STEP = "train"
NEEDS = ("shard",)
TABLES = (tables.LEDGER,)
REVISION = 4


def part(recipe: Recipe) -> dict[str, Any]:
    """The model's shape and how it is optimised; not by how many processes."""
    both = recipe.part("model", "train")
    return {**both, "train": {name: value for name, value in both["train"].items() if name not in PLACE}}


def files(job: Job) -> list[Path]:
    """What the run ended with, and what it told on its way."""
    run = job.run_folder
    named = ["result.json", "evaluations.json", "metrics.jsonl", "seconds.jsonl"]
    named += ["final/weights.safetensors", "final/config.json"]
    some = (path for pattern in ("profile*", "ledger/steps-*.npy") for path in sorted(run.glob(pattern)))
    return [*(run / name for name in named), *some]


def run(job: Job) -> Counts:
    """The trainer's work, and its ledger brought into the lake."""
    result = train_model(job)
    store_ledger(job)
    return {"steps": result["steps"], "tokens": result["tokens"], "loss": result["final_loss"]}


def train_model(job: Job) -> dict[str, Any]:
    """What result.json holds. A run that was stopped, or lost what it ended with, goes on from its last checkpoint.

    Raises DataError for shards that are not those of the manifest, and for checkpoints that were made with others;
    RuntimeError naming the process of several that died, hung or raised.
    """
    from model.parallel.launch import launch, processes_here
    from model.settings import write_settings
    from model.train import train

    model, config = job.recipe.model, job.recipe.train
    last = job.home.last_receipt(STEP)
    if last and last.hash == job.hashes[STEP] and job.home.damage(last):
        (job.run_folder / "result.json").unlink(missing_ok=True)  # the trainer takes the run for finished while it lies
    try:
        processes = processes_here(config)
        write_settings(job.home.shards, model, config)
        if processes > 1:
            return launch(job.home.shards, job.run_folder, job.on_training, processes)
        return train(job.home.shards, job.run_folder, model, config, job.on_training)
    except ValueError as error:  # the trainer knows no exit codes: shards, plan and checkpoints are files
        raise DataError(str(error)) from error


def store_ledger(job: Job) -> None:
    """Bring the trainer's ledger into the lake: rows of this run only are replaced."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from model.ledger import ledger_files
    from pipelines.spark import escape_globs

    run = job.hashes["train"]
    staged = job.home.root / "tmp" / "ledger"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name, rows in ledger_files(job.run_folder):
        columns = {
            "step": rows["step"].astype(np.int64),
            "doc_key": rows["doc"],
            "tokens": rows["tokens"].astype(np.int64),
        }
        losses = rows["loss"].astype(np.float64)
        columns |= {"loss": pa.array(losses, mask=~np.isfinite(losses)), "skipped": rows["skipped"]}
        table = pa.table({"run": pa.array([run] * len(rows)), **columns})
        pq.write_table(table, staged / f"{name}.parquet")
    rows = job.spark.read.parquet(escape_globs(str(staged.resolve())))
    job.write(rows, tables.LEDGER, "train", where=f"run = '{run}'")
    shutil.rmtree(staged)
