"""ops.ledger, ops.metrics and MLflow while a run trains: every step once, whatever died when. Oracle: the trainer's own files."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import corpus
import numpy as np
import pyarrow.compute as pc
import pytest
from mlflow import MlflowClient

from flows import ui
from flows.home import Home
from flows.job import Job
from flows.ledger import LiveLedger
from flows.tracking import Tracking, store
from model.ledger import ROW, Journal, ledger_files
from pipelines.lake import from_rows
from schemas import recipe as recipes
from schemas import tables
from schemas.errors import DataError
from schemas.files import file_sha256, write_json

RUN = "a" * 32


@pytest.fixture
def job(spark, tmp_path) -> Job:
    recipe = recipes.Recipe.model_validate(corpus.recipe(tmp_path / "text", tmp_path / "home"))
    made = Job(recipe, Home(tmp_path / "home"), {"train": RUN})
    made.__dict__["spark"] = spark
    return made


def train(job: Job, first: int, last: int, told: float = 0.0) -> None:
    """What the trainer leaves that goes on from its checkpoint of step `first` and makes one after each fourth."""
    journal = Journal(job.run_folder, first)
    for step in range(first, last + 1):
        rows = np.array([(step, doc, 10 + doc, step + told, step == 5) for doc in (1, 2, 3)], ROW)
        line = {"step": step, "stage": "broad", "tokens": 100 * step, "loss": step + told, "balance": 1.0, "lr": 0.1, "grad_norm": 1.0}
        journal.add(line | {"load_entropy": 1.0, "load_max": 1.0}, {"seconds": 0.1, "waited": 0.0, "flops": 1.0, "memory": 5}, rows)
        if step % 4 == 3:
            journal.cut(step + 1)()
    journal.close()


def check(job: Job) -> None:
    """Both tables hold what the files of the checkpoints do, each step once."""
    expected = np.concatenate([rows for _, rows in ledger_files(job.run_folder)])
    found = job.home.lake.arrow(tables.LEDGER, where=pc.field("run") == RUN).sort_by([("step", "ascending"), ("doc_key", "ascending")])
    for name, column in (("step", "step"), ("doc", "doc_key"), ("tokens", "tokens"), ("loss", "loss"), ("skipped", "skipped")):
        assert found.column(column).to_pylist() == expected[name].tolist()
    lines = [json.loads(line) for line in (job.run_folder / "metrics.jsonl").read_text().splitlines()]
    metrics = job.home.lake.arrow(tables.METRICS, where=pc.field("run") == RUN).sort_by("step").to_pylist()
    assert [(row["step"], row["loss"], row["seconds"]) for row in metrics] == [
        (line["step"], line["loss"], 0.1) for line in lines[: expected["step"][-1] + 1]
    ]


def test_every_step_is_there_once_whatever_died_and_was_taken_back(job):
    train(job, 0, 9)
    with LiveLedger(job) as ledger:
        ledger.on_step(9)
        ledger.finish()
        assert ledger.next == 8  # the checkpoint behind step 7
    check(job)
    version = job.home.lake.version(tables.LEDGER)
    train(job, 8, 15)
    lake, write = job.home.lake, Job.store
    with pytest.raises(ZeroDivisionError), LiveLedger(job) as dying:  # between its two tables
        job.store = lambda rows, table, *rest, **named: 1 / 0 if table == tables.METRICS else write(job, rows, table, *rest, **named)
        dying.finish()
    del job.store
    assert lake.count(tables.LEDGER) == 36 and lake.count(tables.METRICS) == 8
    with LiveLedger(job) as ledger:
        ledger.finish()
    check(job)
    with LiveLedger(job) as ledger:
        ledger.finish()
    assert lake.version(tables.LEDGER) == version + 3  # nothing was written for nothing
    train(job, 4, 15, told=0.5)  # from an older checkpoint, with other losses
    with LiveLedger(job) as ledger:
        ledger.on_step(4)
        assert ledger.next == 4
        ledger.finish()
        check(job)
        train(job, 12, 19, told=0.25)  # within one process, as when memory ran out
        ledger.on_step(12)
        ledger.finish()
    check(job)


def test_a_commit_writes_what_is_new_alone(job):
    with LiveLedger(job) as ledger:
        for last in (3, 7, 11):
            train(job, last - 3, last)
            ledger.commit()
            assert job.home.lake.rows_written(tables.LEDGER) == 12 and job.home.lake.rows_written(tables.METRICS) == 4


@pytest.mark.parametrize("harm", ["rows of another", "a lost file"])
def test_tables_that_are_not_as_we_left_them_are_filled_again(job, harm):
    from deltalake import write_deltalake

    train(job, 0, 7)
    with LiveLedger(job) as ledger:
        ledger.finish()
    lake = job.home.lake
    if harm == "rows of another":
        row = {"run": RUN, "step": 3, "doc_key": 9, "tokens": 1, "loss": 1.0, "skipped": False}
        write_deltalake(lake.path(tables.LEDGER), from_rows([row], tables.LEDGER), mode="append")
    else:
        Path(lake.files(tables.METRICS)[0]).unlink()
    with LiveLedger(job) as ledger:
        ledger.finish()
    check(job)


def test_a_commit_that_failed_in_its_second_table_is_made_again_by_the_next(job):
    write, failing = Job.store, [tables.METRICS]

    def store(rows, table, *rest, **named):
        if table in failing and 4 in rows.column("step").to_pylist():
            failing.remove(table)
            raise OSError("away for a moment")
        write(job, rows, table, *rest, **named)

    job.store = store
    with LiveLedger(job) as ledger:
        train(job, 0, 3)
        ledger.commit()
        train(job, 4, 11)
        with pytest.raises(OSError, match="away for a moment"):
            ledger.commit()
        ledger.finish()
    check(job)


def test_other_runs_stay(job):
    train(job, 0, 3)
    with LiveLedger(job) as ledger:
        ledger.finish()
    job.hashes["train"] = other = "b" * 32
    train(job, 0, 7)
    with LiveLedger(job) as ledger:
        ledger.finish()
    shutil.rmtree(job.run_folder)
    train(job, 0, 3)
    with LiveLedger(job) as ledger:
        ledger.on_step(0)
        ledger.finish()
    told = job.home.lake.arrow(tables.METRICS, ["run"]).column("run").to_pylist()
    assert told.count(RUN) == told.count(other) == 4


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> str:
    """Where MLflow keeps what it is told; its tables are made once, which takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def told(job: Job, server: str, monkeypatch, result: dict | None = None) -> list[str]:
    """A process that trains nothing more: what it said to people."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    said = []
    job.tell = said.append
    with Tracking(job) as tracking, LiveLedger(job, tracking.tell) as ledger:
        ledger.finish()
        if result:
            tracking.finish(result)
    return said


def shards(job: Job) -> dict:
    """Files that a run's lineage names, and a result."""
    for file in ("manifest.json", "plan.json"):
        write_json(job.home.shards / file, {"name": file})
    return {"final": {"weights.safetensors": "f" * 64}}


def test_mlflow_hears_every_step_once_over_stops_and_the_model_with_its_origin(job, server, monkeypatch):
    result = shards(job)
    train(job, 0, 5)
    write_json(job.run_folder / "evaluations.json", [{"step": 0, "domains": {"docs": {"bits_per_byte": 5.0}}}])
    assert told(job, server, monkeypatch) == []
    train(job, 4, 99)
    evaluations = [{"step": step, "domains": {"docs": {"bits_per_byte": 5.0 - step / 50}}} for step in (0, 50, 100)]
    write_json(job.run_folder / "evaluations.json", evaluations)
    assert told(job, server, monkeypatch, result) == told(job, server, monkeypatch, result) == []
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(job.home.key)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["stages.0.tokens"] == "16384"
    for name, expected in (("loss", range(100)), ("bits_per_byte.docs", (5.0, 4.0, 3.0))):
        history = client.get_metric_history(run.info.run_id, name)
        assert [one.value for one in history] == list(expected)
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"silver.tokens", "gold.mixture", "gold.spans"}
    (version,) = client.search_model_versions(f"name = '{job.home.key}'")
    assert version.tags["millrace.weights"] == "f" * 64 and version.tags["millrace.manifest"] == file_sha256(job.home.shards / "manifest.json")
    assert version.run_id == run.info.run_id and version.source == (job.run_folder / "final").as_uri()


def test_a_server_that_is_away_is_told_once_without_its_password(job, monkeypatch):
    result = shards(job)
    train(job, 0, 7)
    began = time.monotonic()
    (said,) = told(job, "http://me:very-secret@127.0.0.1:9", monkeypatch, result)
    assert said.startswith("MLflow at 127.0.0.1 (MLFLOW_TRACKING_URI) is not told any more: ") and "very-secret" not in said
    assert time.monotonic() - began < 60
    check(job)


def test_the_home_has_a_store_of_its_own(job, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job.home = Home(job.home.root.parent / "a home of 100 % #1?")
    shards(job)
    train(job, 0, 3)
    monkeypatch.setattr(job, "tell", pytest.fail)
    with Tracking(job) as tracking, LiveLedger(job, tracking.tell) as ledger:
        ledger.finish()
    assert MlflowClient(store(job.home)).get_experiment_by_name(job.home.key)
    assert (job.home.root / "mlflow.db").is_file()


def test_the_page_is_of_runs_in_the_home(tmp_path, monkeypatch):
    home = Home(tmp_path)
    with pytest.raises(DataError, match="found MLFLOW_TRACKING_URI: they are on that server"):
        ui.serve(home, 5000, print)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(DataError, match=r"holds no mlflow\.db yet: `flows run curriculum` makes it"):
        ui.serve(home, 5000, print)
