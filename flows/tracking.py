"""The training run on MLflow: what ops.metrics tells, what it was made of, the model that it ended with.

The server is that of MLFLOW_TRACKING_URI, else mlflow.db in the home. All of it happens in a thread, from the lake's
tables: a server that is away slows nothing, is told once, and hears the rest from the next run of the step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pyarrow.compute as pc

from flows.home import Home
from flows.job import Job
from schemas import tables
from schemas.files import file_sha256, read_json

if TYPE_CHECKING:  # imports pandas and a web framework: 9 s of a processor, in the thread
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

RUN_TAG = "millrace.run"  # the training step's hash: by it a run that was stopped is found again
STEPS = 80  # that one batch tells: MLflow takes 1,000 metrics
LAST_SECONDS = 60.0  # that a run's end waits for the server
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
READ = tables.TOKENS, tables.MIXTURE, tables.SPANS  # what the trainer's shards were made of
METRICS = [column.name for column in tables.METRICS.columns if column.type in ("double", "bigint")]


class Tracking:
    """Tells MLflow of a training run while it goes on. A run that goes on after a stop goes on there, too.

    Each step is told once, all its metrics in one batch: the last step that is there says where to go on. (MLflow
    cannot take back what a run takes back that returns to an older checkpoint: there, such steps stay as they were.)
    """

    def __init__(self, job: Job):
        self.job, self.run = job, job.hashes["train"]
        self.place = os.environ.get("MLFLOW_TRACKING_URI") or store(job.home)
        self._client: MlflowClient | None = None
        self._machine: SystemMetricsMonitor | None = None
        self._id, self._next, self._evaluated, self._dead = "", 0, 0, False
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._told: Future = self._thread.submit(self._alive, self._open)

    def tell(self) -> None:
        """What is new in ops.metrics; without waiting, and nothing while it is still at the last."""
        if self._told.done():
            self._told = self._thread.submit(self._alive, self._sync)

    def finish(self, result: dict[str, Any]) -> None:
        """The rest, and the model. Waits so long for it."""
        last = self._thread.submit(self._alive, self._end, result)
        if not wait([last], LAST_SECONDS).done and not self._dead:
            self._give_up(f"did not answer within {LAST_SECONDS:.0f} s")

    def _alive(self, work: Any, *arguments: Any) -> None:
        """Do something for the server, unless it is given up."""
        if self._dead:
            return
        try:
            work(*arguments)
        except Exception as error:  # whatever a server, a proxy or a database does: it is not worth a run
            said = re.sub(r"://[^/@\s]*@", "://", " ".join(str(error).split()))  # requests names the password, too
            self._give_up(f"{type(error).__name__}: {said[:200]}")

    def _give_up(self, why: str) -> None:
        self._dead = True
        host = urlsplit(self.place).hostname  # without its password
        named = f"{host} (MLFLOW_TRACKING_URI)" if host else "mlflow.db in the home"
        self.job.tell(
            f"MLflow at {named} is not told any more: {why}. ops.metrics has everything, the next run tells it"
        )

    def _open(self) -> None:
        """Find or make the experiment of the home, and the run."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow").setLevel(logging.ERROR)  # which its import sets

        self._client = client = MlflowClient(self.place)
        there = client.get_experiment_by_name(self.job.home.key)
        experiment = there.experiment_id if there else client.create_experiment(self.job.home.key)
        found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self.run}'", max_results=1)
        run = found[0] if found else self._create(experiment)
        self._id = run.info.run_id
        client.update_run(self._id, status="RUNNING")
        self._next, self._evaluated = (int(run.data.metrics.get(name, -1)) + 1 for name in ("step", "evaluated"))
        self._machine = SystemMetricsMonitor(self._id, resume_logging=bool(found), tracking_uri=self.place)
        self._machine.start()
        self._sync()

    def _create(self, experiment: str) -> Any:
        """A run with its parameters, its origin and the tables that it reads."""
        from mlflow.entities import Param

        job, told = self.job, lineage(self.job)
        made = self._client.create_run(experiment, run_name=job.run_folder.name, tags={RUN_TAG: self.run, **told})
        params = [Param(name, str(value)[:6000]) for name, value in flat(job.recipe.part("model", "train", "stages"))]
        for first in range(0, len(params), 100):
            self._client.log_batch(made.info.run_id, params=params[first : first + 100])
        self._client.log_inputs(made.info.run_id, datasets=list(self._datasets(told)))
        return made

    def _datasets(self, told: dict[str, str]) -> Any:
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        lake = self.job.home.lake
        for table in READ:
            source = DeltaDatasetSource(path=lake.path(table), delta_table_version=lake.version(table))
            made = MetaDataset(source=source, name=table.name, digest=told["millrace.manifest"][:32])
            yield DatasetInput(made._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])

    def _sync(self) -> None:
        """Metrics of the steps that are not there yet, and evaluations."""
        from mlflow.entities import Metric

        asked = (pc.field("run") == self.run) & (pc.field("step") >= self._next)
        rows = self.job.home.lake.arrow(tables.METRICS, where=asked).sort_by("step").to_pylist()
        now = int(time.time() * 1000)
        for first in range(0, len(rows), STEPS):
            part = rows[first : first + STEPS]
            told = [
                Metric(name, float(row[name]), now, row["step"])
                for row in part
                for name in METRICS
                if row[name] is not None
            ]
            self._client.log_batch(self._id, metrics=told)
            self._next = part[-1]["step"] + 1
        for one in self._evaluations():
            told = [
                Metric(f"bits_per_byte.{domain}", value["bits_per_byte"], now, one["step"])
                for domain, value in one["domains"].items()
            ]
            self._client.log_batch(self._id, metrics=[*told, Metric("evaluated", one["step"], now, one["step"])])
            self._evaluated = one["step"] + 1

    def _evaluations(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):  # none yet
            told = read_json(self.job.run_folder / "evaluations.json")
            return [one for one in told if one["step"] >= self._evaluated]
        return []

    def _end(self, result: dict[str, Any]) -> None:
        """The last steps, and the model in the registry, once, with what it was made of."""
        from mlflow.exceptions import MlflowException

        self._sync()
        name, final = self.job.home.key, self.job.run_folder / "final"
        with contextlib.suppress(MlflowException):  # it is there
            self._client.create_registered_model(name)
        told = {**lineage(self.job), "millrace.weights": result["final"]["weights.safetensors"]}
        there = self._client.search_model_versions(f"run_id = '{self._id}'")
        if not any(one.tags.get("millrace.weights") == told["millrace.weights"] for one in there):
            self._client.create_model_version(name, final.resolve().as_uri(), self._id, tags=told)
        self._close("FINISHED")

    def _close(self, status: str) -> None:
        self._machine.finish()
        self._machine = None
        self._client.set_terminated(self._id, status)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        if self._machine and raised:
            self._thread.submit(self._alive, self._close, "FAILED" if issubclass(raised, Exception) else "KILLED")
        self._thread.shutdown(wait=not self._dead, cancel_futures=self._dead)


def store(home: Home) -> str:
    """MLflow's own, as SQLAlchemy's address of a file of any name."""
    return f"sqlite:///file:{quote(str(home.root.resolve() / 'mlflow.db'))}?uri=true"


def lineage(job: Job) -> dict[str, str]:
    """What the shards were made of: hashes of recipe, plan and manifest, and each table with its version."""
    lake, shards = job.home.lake, job.home.shards
    versions = {table.name: str(lake.version(table)) for table in READ}
    return {
        "millrace.version": version("millrace"),
        "millrace.home": str(job.home.root.resolve()),
        "millrace.recipe": job.recipe.hash,
        "millrace.manifest": file_sha256(shards / "manifest.json"),
        "millrace.plan": file_sha256(shards / "plan.json"),
        "millrace.sources": json.dumps(sorted(source.name for source in job.recipe.sources)),
        **{f"millrace.table.{name}": number for name, number in versions.items()},
    }


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested maps and lists, by their paths: stages.0.tokens."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in items for leaf in flat(inner, f"{name}.{key}".lstrip("."))]
    return [(name, value)]
