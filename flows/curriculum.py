"""The main flow: every step in order, skipping what is done. Runs by hand, on a schedule, on Prefect's server or its
own.

Importing this module imports Prefect; `flows.cli` sets Prefect's environment before it does.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prefect import Flow, Task, flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from rich.console import Console

from flows import openlineage
from flows.home import Home, Receipt
from flows.job import Job
from flows.preflight import Preflight, check, check_home
from flows.progress import Display, Page, counted, spark_tasks, spark_timeout
from flows.status import State as StepState
from flows.status import pending, plain, states
from flows.steps import STEPS, Step
from flows.summary import funnel_rows, markdown
from pipelines.lake import from_rows
from schemas import tables
from schemas.errors import GateClosed
from schemas.files import read_json
from schemas.recipe import load

RUNS = 2  # of one flow run: an automation starts it again after a crash (flows.deploy)


@flow(name="curriculum", persist_result=False)
def curriculum(recipe: str, folder: str | None = None, only: str | None = None) -> State:
    """Run what is not done of a recipe (path to its YAML file), or the one step `only`, as if called in `folder`.

    A home that is in use is waited for. Raises RecipeError or NotReady before any step; what a step raises
    is passed on, but a closed gate ends the run in a state of its own.
    """
    if flow_run.run_count > RUNS:
        raise RuntimeError(
            f"the run crashed {RUNS} times; its log and spark.log in the home's tmp/ say how far it came"
        )
    os.chdir(folder or ".")
    loaded = load(Path(recipe))
    check_home(loaded)
    home = Home.of(loaded)
    home.require_space()
    with home.held(on_wait=patience(get_run_logger().info)) as require_lake:
        home.sweep()
        home.hold_scratch()
        try:
            return run_steps(check(Path(recipe)), only, Display(Console(quiet=True)), require_lake)
        except GateClosed as closed:
            return Failed(name="GateClosed", message=str(closed))
        finally:
            end_spark()
            home.sweep()


def end_spark() -> None:
    """Its scratch lies in the home. Where no step needed it, its module was not loaded."""
    if "pipelines.spark" in sys.modules:
        sys.modules["pipelines.spark"].end()


def patience(log: Callable[[str], None]) -> Callable[[str], None]:
    """Logs what is waited for once, and every ten minutes."""
    logged = -math.inf

    def wait(busy: str) -> None:
        nonlocal logged
        if time.monotonic() - logged > 600:
            log(busy)
            logged = time.monotonic()

    return wait


def curriculum_of(checked: Preflight, require_lake: Callable[[], None]) -> Flow:
    """The same flow of a recipe that was checked just now, so that its sources are not listed again, in a home that is
    held. It shows its steps on the terminal."""
    return flow(name="curriculum", persist_result=False)(
        lambda recipe, only: run_steps(checked, only, Display(), require_lake)
    )


def run_steps(checked: Preflight, only: str | None, display: Display, require_lake: Callable[[], None]) -> State:
    """What is not done, or the one step `only`, in the home folder of the recipe. To be called while that is held;
    require_lake: what `Home.held` gives, called before each step."""
    home = Home.of(checked.recipe)
    remember_server(home)
    step_states = states(checked, home, models=True)
    job = Job(checked.recipe, home, {state.step.name: state.hash for state in step_states})
    job.files, job.deliveries = checked.files, checked.deliveries
    by_name = {state.step.name: state for state in step_states}
    job.run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    store_runs(job)
    tell_skipped(step_states, get_run_logger().info)
    ended: dict[str, State] = {}
    for step in pending(step_states, only):
        require_lake()
        before = [ended[need] for need in step.needs if need in ended]
        ended[step.name] = as_task(step)(step, job, by_name[step.name], display, wait_for=before, return_state=True)
        if not ended[step.name].is_completed():
            ended[step.name].result()  # raises what the step raised
    publish(job)
    store_runs(job)
    return Completed(message=result(job, list(ended)))


def tell_skipped(step_states: list[StepState], log: Callable[[str], None]) -> None:
    """Which steps have nothing to do, and what they counted when they last ran."""
    for state in step_states:
        if state.state == "done" and state.receipt:
            counts = counted(state.receipt.counts, state.receipt.seconds)
            log(f"{state.step.name} is done, of {state.receipt.finished_at}: {counts}")


def result(job: Job, ran: list[str]) -> str:
    """One sentence of what the run did."""
    if not ran:
        return "Nothing to do: every step is done"
    judged, trained = (job.home.receipt(step) for step in ("judge", "train"))
    said = f"{len(ran)} steps: {', '.join(ran)}"
    said += f". Kept {judged.counts['kept']:,.0f} of {judged.counts['documents']:,.0f} documents" if judged else ""
    return said + (f", final loss {trained.counts['loss']:.3f}" if trained else "")


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
        told_work, name=step.name, task_run_name=step.name, cache_policy=NO_CACHE, persist_result=False,
        retries=1, retry_delay_seconds=2, retry_condition_fn=is_transient,
    )  # fmt: skip


def is_transient(_task: Any, _run: Any, state: State) -> bool:
    """Lost workers and connections are worth a second try; a wrong recipe, bad data or a full disk are not."""
    from py4j.protocol import Py4JError

    return isinstance(state.result(raise_on_failure=False), Py4JError | ConnectionError | TimeoutError)


def told_work(step: Step, job: Job, state: StepState, display: Display) -> None:
    """`work`, told on the server too: why it is done, what it counts, how far it is."""
    page = ServerPage(f"{job.home.key}-{step.name}", f"how far `{step.name}` of {job.home.root} is")
    page.log(f"{step.name}: {state.state}, {state.why}")
    work(step, job, plain(state.part), display, page)


def work(step: Step, job: Job, part: Any, display: Display, page: Page | None = None) -> None:
    """Do a step's work, shown on one line, and leave its receipt."""
    number = [one.name for one in STEPS].index(step.name) + 1
    started = time.monotonic()
    session, minutes = lambda: vars(job).get("spark"), job.recipe.spark.timeout_minutes
    with display.step(step.name, number, len(STEPS), page or Page()) as bar, spark_tasks(bar, session):
        job.on_training, job.on_bytes, job.tell = bar.training, bar.sending, bar.tell
        job.home.void(step.name)
        with job.home.space_named(step.name), job.home.tables_named(), spark_timeout(step.name, minutes, session):
            counts = step.run(job)
        seconds = time.monotonic() - started
        job.home.keep(receipt(step, job, part, counts, seconds))
        openlineage.emit(job, step)
        bar.finish(counts, seconds)


class ServerPage(Page):
    """A step's page on Prefect's server: its log and a progress artifact. Made in the task, told from any thread."""

    def __init__(self, key: str, description: str):
        self._logger = get_run_logger()
        self._bar = create_progress_artifact(0.0, key=key, description=description)

    def log(self, said: str) -> None:
        self._logger.info(said)

    def progress(self, percent: float) -> None:
        with contextlib.suppress(httpx.HTTPError, PrefectHTTPStatusError):  # a bar is not worth a run
            update_progress_artifact(self._bar, progress=min(percent, 100.0))


def receipt(step: Step, job: Job, part: Any, counts: dict[str, float], seconds: float) -> Receipt:
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
        run=job.run,
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
        job.store(from_rows(rows, tables.RUNS), tables.RUNS, {}, append=True)


def stored_runs(job: Job) -> set[tuple[str, str]]:
    """(run, step) of ops.runs; one that has other columns is made anew when it is written."""
    if not job.home.lake.has(tables.RUNS):
        return set()
    rows = job.home.lake.arrow(tables.RUNS, ["run", "step"])
    return set(zip(rows.column("run").to_pylist(), rows.column("step").to_pylist(), strict=True))


def publish(job: Job) -> None:
    """Prefect artifacts under the home's own keys: what each step counted, the funnel, the report's summary."""
    key, receipts = job.home.key, [job.home.receipt(step.name) for step in STEPS]
    rows = [{"step": one.step, "seconds": one.seconds, **one.counts} for one in receipts if one]
    if rows:
        create_table_artifact(rows, key=f"{key}-steps", description=f"what each step of {job.home.root} counted")
    if job.home.receipt("report"):
        page = job.home.report_page()
        facts = read_json(page.with_suffix(".json"))
        create_table_artifact(
            funnel_rows(facts), key=f"{key}-funnel", description=f"what came through, of {job.home.root}"
        )
        create_markdown_artifact(
            markdown(facts, page), key=f"{key}-summary", description=f"the report of {job.home.root}, in short"
        )
