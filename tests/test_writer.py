"""Checkpoints beside steps, what is kept of them, one trainer a folder, and stops that save."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import STATE, checkpoints, owned, same
from test_faults import in_processes
from test_training import CONFIG as ROUNDED
from test_training import apart, outcome, shards, train_until  # noqa: F401 - shards is a fixture

from model import __main__ as door
from model import checkpoint, tensors
from model.ledger import ledger_files
from model.lock import held
from model.parallel.ranks import ALONE, Ranks
from model.settings import write_settings
from model.step import Learner
from model.train import train
from model.writer import Writer
from schemas.errors import RunBusy, Stopped
from schemas.manifest import Draw, LearningRate, Plan, Stage, load_plan, save
from schemas.training import TrainConfig
from tests.tiny import TINY

CONFIG = dataclasses.replace(ROUNDED, precision="fp32")  # bf16 takes a CPU four times as long


def test_steps_go_on_while_a_checkpoint_is_written_as_it_was(tmp_path, monkeypatch):
    kept, go_on, write = owned(ALONE, 4), threading.Event(), tensors.write
    monkeypatch.setattr(tensors, "write", lambda *given: go_on.wait(30) and write(*given))
    settled = []
    writer = Writer(tmp_path, kept, TrainConfig(), ALONE)
    writer.save(4, STATE | {"step": 4}, lambda: settled.append(checkpoint.newest(tmp_path)))
    for kind in (kept.masters, kept.first, kept.second):  # the next step
        for values in kind.values():
            values += 1
    kept.done += 1
    assert checkpoint.newest(tmp_path) is None
    go_on.set()
    writer.wait()
    found = owned(ALONE)
    folder, _ = checkpoint.load_newest(tmp_path, 99, STATE["made_with"], found, ALONE)
    assert folder.name == "step-0000004" and same(found, owned(ALONE, 4)) and settled == [None]


def test_what_goes_wrong_with_a_save_is_raised_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "write", full)
    writer = Writer(tmp_path, owned(ALONE, 1), TrainConfig(), ALONE)
    writer.save(1, STATE, lambda: None)
    with pytest.raises(OSError, match=r"checkpoint of step 1 could not be written .*No space left.* goes on from its beginning") as raised:
        writer.wait()
    assert raised.value.errno == 28
    writer.wait()


def test_masters_of_another_kind_are_refused(tmp_path):
    kept = owned(ALONE, 1)
    with pytest.raises(ValueError, match="expected masters and moments in float32"):
        Writer(tmp_path, dataclasses.replace(kept, masters={n: v.double() for n, v in kept.masters.items()}), TrainConfig(), ALONE)


@pytest.mark.parametrize(("keep", "left"), [((2, 0), [8, 9]), ((1, 0), [9]), ((3, 4), [4, 7, 8, 9]), ((1, 3), [3, 6, 9])])
def test_the_newest_are_kept_and_every_so_manyth(tmp_path, keep, left):
    for step in range(1, 10):
        checkpoint.save(tmp_path, step, owned(ALONE, step), STATE, ALONE, keep)
    assert checkpoints(tmp_path) == [f"step-{step:07d}" for step in left]


def test_what_is_kept_decides_nothing(shards, tmp_path):  # noqa: F811
    train_until(shards, tmp_path, 9, dataclasses.replace(CONFIG, keep_last=1))
    train(shards, tmp_path, TINY, dataclasses.replace(CONFIG, keep_last=3, keep_every=4))
    assert checkpoints(tmp_path) == ["step-0000008", "step-0000010"]


def test_a_run_killed_between_its_last_save_and_its_pruning_prunes(shards, tmp_path, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_superfluous", lambda *_: [])
        train(shards, tmp_path, TINY, CONFIG)
    assert len(checkpoints(tmp_path)) == 5
    (tmp_path / "result.json").unlink()
    train(shards, tmp_path, TINY, CONFIG)
    assert checkpoints(tmp_path) == ["step-0000008", "step-0000010"]


def test_what_a_killed_run_was_writing_is_swept(shards, tmp_path):  # noqa: F811
    for name in (".writing-0000004-abc", ".deleting-step-0000002"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    train(shards, tmp_path, TINY, CONFIG)
    assert checkpoints(tmp_path) == ["step-0000008", "step-0000010"]


def test_a_second_trainer_in_a_folder_is_refused_and_the_first_goes_on(shards, tmp_path):  # noqa: F811
    refused = []

    def again(progress):
        with pytest.raises(RunBusy, match=rf"{tmp_path} is in use by process {os.getpid()} on .*, which trains there"):
            train(shards, tmp_path, TINY, CONFIG)
        refused.append(progress.step)

    train(shards, tmp_path, TINY, CONFIG, again)
    assert refused == list(range(1, 11))
    with held(tmp_path, ALONE):  # it is free again
        assert train(shards, tmp_path, TINY, CONFIG)["steps"] == 10  # and what is done needs nobody


def test_a_full_disk_is_told_at_the_next_step(shards, tmp_path, monkeypatch):  # noqa: F811
    write, steps = tensors.write, []

    def full(path, parts):
        if "0000002" in str(path):
            raise OSError(28, "No space left on device")
        write(path, parts)

    monkeypatch.setattr(tensors, "write", full)
    with pytest.raises(OSError, match=r"checkpoint of step 2 could not be written"):
        train(shards, tmp_path, TINY, dataclasses.replace(CONFIG, checkpoint_steps=2), lambda one: (steps.append(one.step), time.sleep(0.2)))
    assert steps[-1] <= 4


# Stops


def main_slowly(shards, run):  # noqa: F811
    """`python -m model`, whose steps take a while."""
    step = Learner.step
    Learner.step = lambda *given: (time.sleep(0.1), step(*given))[1]
    sys.argv = ["model", str(shards), str(run)]
    door.main()


def lines(run):
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_steps(run, number):
    until = time.monotonic() + 100
    while lines(run) < number and time.monotonic() < until:
        time.sleep(0.01)
    assert lines(run) >= number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_with_a_code_of_its_own_and_the_run_goes_on(shards, tmp_path, number):  # noqa: F811
    config = dataclasses.replace(CONFIG, checkpoint_steps=100)
    write_settings(shards, TINY, config)
    pid = os.fork()
    if not pid:
        try:
            torch.set_num_threads(1)
            main_slowly(shards, tmp_path / "run")
            os._exit(0)
        except SystemExit as left:
            os._exit(left.code)
    wait_for_steps(tmp_path / "run", 2)
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 14
    stopped = lines(tmp_path / "run")
    assert 2 <= stopped <= 4 and checkpoint.newest(tmp_path / "run").name == f"step-{stopped:07d}"
    for name in ("run", "whole"):  # on as many threads: sums are in their order
        assert apart(train, shards, tmp_path / name, TINY, config) == 0
    for name in ("metrics.jsonl", "final/weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def one_stage(shards):  # noqa: F811
    plan = load_plan(shards / "plan.json")
    save(Plan(plan.seed, (Stage("base", 0, 24, 16, (Draw("a", 16, 0), Draw("b", 8, 0)), LearningRate(warmup_tokens=64)),)), shards / "plan.json")


def train_until_asked(ranks, shards, run, config, stop):  # noqa: F811
    """The last rank alone is asked to end, in step `stop`."""
    now = []
    asked = lambda: stop is not None and ranks.rank == ranks.world - 1 and now[-1] >= stop - 1  # noqa: E731
    told = Ranks(ranks.rank, ranks.world, ranks.rank, lambda step, what: now.append(step), asked)
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks.world)
    try:
        train(shards, run, TINY, config, None, told)
    except Stopped as stopped:
        return str(stopped)


LIVES = [(1, "auto", 1), (2, "replicate", 2), (2, "shard", 3), (4, "experts", 4), (2, "shard", 5), (1, "auto", None)]


def test_a_run_moves_over_ranks_and_parallelisms_with_the_same_batches(shards, tmp_path):  # noqa: F811
    """1 -> 2 -> 4 -> 2 -> 1 ranks, of which one was asked to end and all did in the same step."""
    one_stage(shards)
    config = dataclasses.replace(CONFIG, checkpoint_steps=100, precision="fp32")
    for world, kind, stop in LIVES:
        told = in_processes(world, train_until_asked, shards, tmp_path / "run", dataclasses.replace(config, parallel=kind), stop)
        assert told == [stop and f"{tmp_path}/run is saved at step {stop}, and the same command goes on"] * world
    train(shards, tmp_path / "whole", TINY, config)
    found, wanted = ([json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in ("run", "whole"))
    np.testing.assert_allclose([line["loss"] for line in found], [line["loss"] for line in wanted], rtol=1e-4)
    rows, rows_too = (np.concatenate([rows for _, rows in ledger_files(tmp_path / run)]) for run in ("run", "whole"))
    assert all(np.array_equal(rows[name], rows_too[name]) for name in ("step", "doc", "tokens"))
    weights, wanted = (load_file(tmp_path / run / "final/weights.safetensors") for run in ("run", "whole"))
    for name, values in wanted.items():
        torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-3)


@pytest.mark.servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_under_a_launcher_every_rank_saves_the_same_step(shards, tmp_path, number):  # noqa: F811
    plan = load_plan(shards / "plan.json")
    stage = dataclasses.replace(plan.stages[0], samples=2400, draws=(Draw("a", 1600, 0), Draw("b", 800, 0)))
    save(Plan(plan.seed, (stage,)), shards / "plan.json")
    config = dataclasses.replace(CONFIG, checkpoint_steps=10_000, precision="fp32")
    write_settings(shards, TINY, config)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--signals-to-handle", "SIGTERM,SIGUSR1", "--nproc-per-node", "2", "-m", "model", str(shards), str(run)]
    launcher = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    wait_for_steps(run, 3)
    launcher.send_signal(number)
    said = launcher.communicate(timeout=100)[1]
    stopped = lines(run)
    assert re.search(rf"^Stopped: {run} is saved at step {stopped}, and the same command goes on$", said, re.MULTILINE), said
    assert 3 <= stopped < 600 and checkpoints(run) == [f"step-{stopped:07d}"]
    assert {path.name for path in (run / "ledger").iterdir()} == {f"steps-0000000-{stopped - 1:07d}.npy"}
