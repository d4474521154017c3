"""What a receipt says holds only while it is so: other content of the same size, other rows, a step that was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from rich.console import Console

from flows.curriculum import receipt, work
from flows.home import Home, Receipt
from flows.progress import Display
from flows.status import _state, pending
from flows.steps import Step, evaluate, train
from pipelines.lake import Lake
from schemas import tables
from schemas.errors import DataError
from schemas.manifest import Draw, LearningRate, Stage
from schemas.parts import Spark
from schemas.training import TrainConfig
from tests.mds import pack_documents, write_shards
from tests.tiny import TINY, VOCAB

NAME = tables.PAIRS.name
OURS = {"step": "dedup", "hash": "h", "deliveries": {"web/1": "x"}}


def commit(lake: Lake, n_rows: int, told: str | None = None, mode: str = "append") -> None:
    """Rows by delta-rs, ours where the commit carries an ancestry."""
    properties = CommitProperties(custom_metadata={"userMetadata": told}) if told else None
    rows = pa.table({"a": ["x"] * n_rows}, schema=pa.schema({"a": pa.string()}))
    write_deltalake(lake.path(tables.PAIRS), rows, mode=mode, commit_properties=properties)


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path / "lake")
    commit(made, 3, json.dumps(OURS))
    commit(made, 3, json.dumps(OURS))
    return made


def test_a_table_is_what_our_last_commit_left(tmp_path, lake):
    assert lake.last_change(NAME).version == 1 and lake.damage(NAME, 1) is None and lake.ancestry(tables.PAIRS) == OURS
    assert lake.damage(NAME, 0) == f"table {NAME} is at version 1, the step left 0"
    nothing = Lake(tmp_path / "nothing")
    assert nothing.damage(NAME, None) is None and nothing.ancestry(tables.PAIRS) == {}
    assert nothing.damage(NAME, 2) == f"table {NAME} is at version None, the step left 2"
    commit(lake, 0, json.dumps(OURS | {"hash": "i"}))  # no row came or went
    assert lake.damage(NAME, 2) is None and lake.ancestry(tables.PAIRS)["hash"] == "i"


@pytest.mark.parametrize("told", [None, "cleaned by Bob", "[1]", '{"ticket": 7}', "null"])
def test_rows_of_another_are_seen_whatever_it_writes_into_its_commit(lake, told):
    commit(lake, 1, told)
    DeltaTable(lake.path(tables.PAIRS)).optimize.compact()  # hides nothing
    assert lake.damage(NAME, 1).startswith(f"table {NAME} was changed by another: version 2, WRITE by delta-rs")
    assert lake.ancestry(tables.PAIRS) == {}
    commit(lake, 1, json.dumps(OURS))  # stands on the other's rows
    assert "changed by another: version 2" in lake.damage(NAME, 4) and lake.ancestry(tables.PAIRS) == {}
    commit(lake, 1, json.dumps(OURS), mode="overwrite")
    assert lake.damage(NAME, 5) is None


def test_commits_of_others_that_change_no_rows_are_no_damage(lake):
    table = DeltaTable(lake.path(tables.PAIRS))
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
    table.create_checkpoint()
    assert lake.version(tables.PAIRS) == 5
    assert lake.damage(NAME, 1) is None and lake.ancestry(tables.PAIRS) == OURS


def test_files_that_are_cut_or_gone_are_named_with_their_table(lake):
    file = Path(lake.files(tables.PAIRS)[0])
    data = file.read_bytes()
    file.write_bytes(data[:-9])
    assert lake.damage(NAME, 1) == f"table {NAME}: expected {file.name} with {len(data):,} bytes, found {len(data) - 9:,} bytes"
    with pytest.raises(ValueError, match=rf"table {NAME}: expected Parquet files, found .*{file.name}.*`flows run curriculum` makes the table again"):
        lake.arrow(tables.PAIRS)
    with pytest.raises(DataError, match=f"table {NAME}: expected Parquet files"):
        lake.total(tables.PAIRS, pc.binary_length(pc.field("a")))
    file.unlink()
    assert lake.damage(NAME, 1) == f"table {NAME}: expected {file.name} with {len(data):,} bytes, found no file"
    assert lake.ancestry(tables.PAIRS) == {}
    log = sorted(Path(lake.path(tables.PAIRS), "_delta_log").glob("*.json"))[-1]
    log.write_bytes(log.read_bytes()[:80])
    assert f"table {NAME}: " in lake.damage(NAME, 1) and f"{log.name}: expected a commit of Delta" in lake.damage(NAME, 1)
    assert lake.ancestry(tables.PAIRS) == {} and not lake.has(tables.PAIRS)


def step(files: list[Path]) -> Step:
    return Step("judge", (), lambda recipe: None, (tables.PAIRS,), lambda job: files, 1, lambda job: {})


class Job:
    """As much of a job as a receipt is made from, and a tiny model."""

    def __init__(self, home: Home, run: str = "r"):
        self.home, self.run, self.hashes = home, run, {"judge": "h", "train": "t"}
        self.run_folder, self.on_training = home.runs / "t", None
        self.recipe = SimpleNamespace(model=TINY, train=TrainConfig(batch_tokens=64, checkpoint_steps=2), spark=Spark())


@pytest.mark.parametrize("name", ["plan.json", "index.html", "bpe.ranks"])
def test_what_small_files_hold_is_compared_and_what_large_ones_weigh(tmp_path, lake, name):
    home = Home(tmp_path)
    small, large = tmp_path / name, tmp_path / "window.mds"
    small.write_text("[1, 2]")
    large.write_bytes(b"12345")
    DeltaTable(lake.path(tables.PAIRS)).optimize.compact()  # by another, behind our commit 1
    made = receipt(step([small, large]), Job(home), None, {}, 1.0)
    home.keep(made)
    told = home.receipt("judge")
    assert told == made and told.tables == {NAME: 1} and home.damage(told) is None
    small.write_text("[1, 3]")
    assert f"{name} was changed" in home.damage(told)
    small.write_text("[1, 2]")
    large.write_bytes(b"123")
    assert home.damage(told) == "file window.mds has 3 bytes, the step left 5"
    large.unlink()
    assert home.damage(told) == "file window.mds is missing"


def test_receipts_that_tell_sizes_alone_are_read(tmp_path):
    home, file = Home(tmp_path), tmp_path / "plan.json"
    file.write_text("[1, 2]")
    old = asdict(Receipt("judge", "h", None, {}, {}, {"plan.json": 6}, {}, "r", 1.0, ""))
    del old["sha256"]
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/judge.json").write_text(json.dumps(old))
    assert home.damage(home.receipt("judge")) is None
    file.write_text("[1]")
    assert home.damage(home.receipt("judge")) == "file plan.json has 3 bytes, the step left 6"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"3", b"\xff", b'{"step": "judge"}'])
def test_a_receipt_that_cannot_be_read_is_none(tmp_path, data):
    home = Home(tmp_path)
    home.void("judge")
    home.receipt_file("judge").write_bytes(data)
    assert home.receipt("judge") is home.last_receipt("judge") is None
    state = _state(step([]), "h", None, {}, home)
    assert (state.state, state.why) == ("missing", f"{home.receipt_file('judge')} cannot be read")


def test_a_receipt_is_void_while_its_step_writes(tmp_path):
    home, one = Home(tmp_path), step([])
    def told() -> tuple[str, str]:
        state = _state(one, "h", None, {}, home)
        return state.state, state.why
    assert told() == ("missing", "never finished")
    home.void("judge")
    assert told() == ("missing", "stopped half way, or running")
    made = Receipt("judge", "h", None, {}, {}, {}, {}, "r", 1.0, "")
    home.keep(made)
    assert told() == ("done", "")
    home.void("judge")
    home.void("judge")  # a second try
    assert told() == ("missing", "stopped half way, or running")
    assert home.receipt("judge") is None and home.last_receipt("judge") == made
    home.keep(made)
    assert told() == ("done", "") and not list((tmp_path / "steps").glob("*void*"))


def test_a_step_runs_under_a_void_receipt_and_leaves_a_new_one(tmp_path):
    home, seen = Home(tmp_path), []
    home.keep(Receipt("judge", "h", None, {}, {}, {}, {}, "old", 1.0, ""))
    def run(job) -> dict:
        seen.append(home.receipt("judge"))
        return {"documents": 3}
    work(replace(step([]), run=run), Job(home, run="new"), None, Display(Console(quiet=True)))
    assert seen == [None] and home.receipt("judge").run == "new"


# --- what is larger


@pytest.fixture
def job(tmp_path) -> Job:
    """Shards of four steps."""
    made = Job(Home(tmp_path))
    documents = [np.array([0, *range(1, 20)]) for _ in range(40)]
    stages = (Stage("base", 0, 16, 16, (Draw("a", 16, 0),), LearningRate()),)
    write_shards(made.home.shards, {("a", 16): [pack_documents(documents, list(range(1, 41)), 16)]}, [], stages, VOCAB)
    return made


def flip(path: Path) -> bytes:
    """Another last byte, the same size; returns what the file held."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return data


def test_files_that_are_not_what_a_step_needs_are_a_fault_of_data(job):
    """So that a scheduler is told 11: shards for the trainer, the trained model for the evaluation."""
    window = job.home.shards / "a/16/window-00000.mds"
    data = flip(window)
    with pytest.raises(DataError, match=r"window-00000\.mds was changed"):
        train.train_model(job, job.on_training)
    window.write_bytes(data)
    result = train.train_model(job, job.on_training)
    flip(job.run_folder / "final/weights.safetensors")
    with pytest.raises(DataError, match=r"final: .* found weights\.safetensors missing or changed"):
        evaluate.check_final(job.run_folder, result)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_another_byte_in_the_trained_model_is_seen_when_a_run_begins_and_put_right(job, name):
    """`flows status` compares what small files hold, a run models too; the last checkpoint has the weights."""
    train.train_model(job, job.on_training)
    home, one = job.home, replace(step([]), name="train", tables=(), files=train.files)
    home.keep(receipt(one, job, None, {}, 1.0))
    data = flip(file := job.run_folder / "final" / name)
    told = [_state(one, "t", None, {}, home, models) for models in (False, True)]
    assert [state.state for state in told] == ["done" if name.startswith("weights") else "stale", "stale"]
    assert told[1].why == f"file runs/t/final/{name} was changed: its SHA-256 is not that of what the step left"
    assert pending(told[1:]) == [one]
    train.train_model(job, job.on_training)
    assert file.read_bytes() == data and _state(one, "t", None, {}, home, True).state == "done"
