"""The main flow: every step in order, skipping what is done. Runs by hand, on a schedule, on Prefect's server or its
own.

Importing this module imports Prefect; `flows.cli` sets Prefect's environment before it does.
"""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import Flow, Task, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from flows.home import Home, Receipt
from flows.job import Job
from flows.preflight import Preflight, check
from flows.progress import Display, spark_tasks
from flows.status import pending, plain, states
from flows.steps import STEPS, Step
from schemas import tables


@flow(name="curriculum", persist_result=False)
def curriculum(recipe: str, only: str | None = None) -> None:
    """Run what is not done of a recipe (path to its YAML file), or the one step `only`.

    Raises RecipeError, HomeBusy or NotReady before anything is written; what a step raises is passed on.
    """
    checked = check(Path(recipe))
    home = Home(Path(checked.recipe.home))
    home.require_space()
    with home.held():
        home.sweep()
        run_steps(checked, only)


def curriculum_of(checked: Preflight) -> Flow:
    """The same flow of a recipe that was checked just now, so that its sources are not listed again."""
    return flow(name="curriculum", persist_result=False)(lambda recipe, only: run_steps(checked, only))


def run_steps(checked: Preflight, only: str | None) -> None:
    """What is not done, or the one step `only`, in the home folder of the recipe. To be called while that is held."""
    home = Home(Path(checked.recipe.home))
    remember_server(home)
    step_states = states(checked, home, models=True)
    job = Job(checked.recipe, home, {state.step.name: state.hash for state in step_states})
    job.files, job.deliveries = checked.files, checked.deliveries
    decided = {state.step.name: plain(state.part) for state in step_states}
    run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    job.run = run
    store_runs(job)
    display = Display()
    for step in pending(step_states, only):
        as_task(step)(step, job, decided[step.name], run, display)
    publish(job)
    store_runs(job)


def remember_server(home: Home) -> None:
    """So that the next run can end Prefect's temporary server if this one is killed. Without one its module is not
    loaded."""
    module = sys.modules.get("prefect.server.api.server")
    for server in module.SubprocessASGIServer._instances.values() if module else ():
        if server.server_process:
            home.remember_server(server.server_process.pid)


def as_task(step: Step) -> Task:
    """The step as a Prefect task. Its input and output are tables and files, so Prefect caches nothing."""
    return task(
        work, name=step.name, task_run_name=step.name, cache_policy=NO_CACHE, persist_result=False,
        retries=1, retry_delay_seconds=2, retry_condition_fn=is_transient,
    )  # fmt: skip


def is_transient(_task: Any, _run: Any, state: State) -> bool:
    """Lost workers and connections are worth a second try; a wrong recipe, bad data or a full disk are not."""
    from py4j.protocol import Py4JError

    return isinstance(state.result(raise_on_failure=False), Py4JError | ConnectionError | TimeoutError)


def work(step: Step, job: Job, part: Any, run: str, display: Display) -> None:
    """Do a step's work, shown on one line, and leave its receipt."""
    number = [one.name for one in STEPS].index(step.name) + 1
    started = time.monotonic()
    with display.step(step.name, number, len(STEPS)) as bar, spark_tasks(bar, lambda: vars(job).get("spark")):
        job.on_training = bar.training
        job.home.void(step.name)
        with job.home.space_named(step.name), job.home.tables_named():
            counts = step.run(job)
        seconds = time.monotonic() - started
        job.home.keep(receipt(step, job, part, run, counts, seconds))
        bar.finish(counts, seconds)


def receipt(step: Step, job: Job, part: Any, run: str, counts: dict[str, float], seconds: float) -> Receipt:
    sizes, sha256 = job.home.contents(step.files(job))
    changes = {table.name: job.home.lake.last_change(table.name) for table in step.tables}
    return Receipt(
        step=step.name,
        hash=job.hashes[step.name],
        part=part,
        inputs={need: job.hashes[need] for need in step.needs},
        tables={name: change and change.version for name, change in changes.items()},
        files=sizes,
        counts={name: float(value) for name, value in counts.items()},
        run=run,
        seconds=round(seconds, 3),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256=sha256,
    )


def store_runs(job: Job) -> None:
    """Bring into ops.runs the receipts that it lacks: this run's, and at its beginning those of one that was killed."""
    stored = stored_runs(job)
    receipts = [one for step in STEPS if (one := job.home.receipt(step.name)) and (one.run, one.step) not in stored]
    rows = [{**asdict(one), "fingerprint": one.hash, "recipe": job.recipe.hash} for one in receipts]
    if rows:
        columns = {name: pa.array([row[name] for row in rows]) for name in tables.RUNS.column_names if name not in MAPS}
        maps = {
            name: pa.array([list(row[name].items()) for row in rows], pa.map_(pa.string(), kind))
            for name, kind in MAPS.items()
        }
        job.store(pa.table(columns | maps), tables.RUNS, {}, append=True)


def stored_runs(job: Job) -> set[tuple[str, str]]:
    """(run, step) of ops.runs; one that has other columns is made anew when it is written."""
    if not job.home.lake.has(tables.RUNS):
        return set()
    rows = job.home.lake.arrow(tables.RUNS, ["run", "step"])
    return set(zip(rows.column("run").to_pylist(), rows.column("step").to_pylist(), strict=True))


MAPS = {"inputs": pa.string(), "tables": pa.int64(), "counts": pa.float64()}  # of ops.runs: what the values are


def publish(job: Job) -> None:
    """Prefect artifacts: the funnel as a table, and where the report is."""
    if job.home.receipt("report"):
        page = job.home.report_page().resolve()
        create_markdown_artifact(f"Report: `{page}`", key="report", description="the run as one HTML page")
    receipts = [job.home.receipt(step.name) for step in STEPS]
    rows = [{"step": one.step, "seconds": one.seconds, **one.counts} for one in receipts if one]
    if rows:
        create_table_artifact(rows, key="steps", description="what each step counted")
