"""Shards to a trained model; what its steps tell is in the lake, and with MLflow, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from flows.ledger import LiveLedger
from flows.tracking import Tracking
from schemas import tables
from schemas.errors import DataError
from schemas.recipe import Recipe
from schemas.training import PLACE

STEP = "train"
NEEDS = ("shard",)
TABLES = (tables.LEDGER, tables.METRICS)
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
    """The trainer's work, each checkpoint's ledger and metrics brought into the lake, and from there told to MLflow."""
    with Tracking(job) as tracking, LiveLedger(job, tracking.tell) as ledger:

        def on_step(progress: Any) -> None:
            job.on_training(progress)
            ledger.on_step(progress.step - 1)

        result = train_model(job, on_step)
        ledger.finish()
        tracking.finish(result)
    return {"steps": result["steps"], "tokens": result["tokens"], "loss": result["final_loss"]}


def train_model(job: Job, on_step: Callable[[Any], None]) -> dict[str, Any]:
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
            return launch(job.home.shards, job.run_folder, on_step, processes)
        return train(job.home.shards, job.run_folder, model, config, on_step)
    except ValueError as error:  # the trainer knows no exit codes: shards, plan and checkpoints are files
        raise DataError(str(error)) from error
