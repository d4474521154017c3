"""Several processes of a run: how they are started, and how a run ends whose rank dies, hangs or raises. By real processes; what
they do between is a sum over all of them, as fast as it goes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from flows.exits import Exit
from flows.steps import train as train_step
from model.__main__ import make_folder
from model.parallel import watch
from model.parallel.launch import follow, launch
from model.settings import load_settings, write_settings
from model.train import train
from schemas import errors
from schemas import recipe as recipes
from schemas.errors import DataError
from schemas.files import read_json
from schemas.manifest import Draw, LearningRate, Stage
from schemas.training import TrainConfig, check_shares
from tests.mds import pack_documents, write_shards
from tests.tiny import TINY, VOCAB, heldout_documents

ROOT = Path(__file__).parents[1]
STAGES = (Stage("base", 0, 24, 16, (Draw("a", 24, 0),), LearningRate()),)
CONFIG = TrainConfig(batch_tokens=64, checkpoint_steps=2, peak_lr=1e-2)
SUMS = """
import os, signal, sys, time
from pathlib import Path
import torch
from model.__main__ import end, told_as_json
from model.parallel.ranks import join, leave
from model.parallel.watch import Limits, Watch
from model.train import Progress

run, code, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
watch = Watch(Limits(beat=0.2, silence=4.0, reading=2.0, grace=1.0))
try:
    ranks = join(watch.doing)
    rank = ranks.rank
    (run / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(steps):
        ranks.doing(step, "reading data")
        exec(code)
        ranks.doing(step, "computing")
        assert ranks.sum(torch.ones(1)).item() == ranks.world
        time.sleep(0.01)
        if rank == 0:
            told_as_json(Progress(step + 1, steps, "sums", 0.0, 0.0, 0, 0.0, 0.0, None, 0.0, 0.0, 0))
    watch.close()
    leave()
except Exception as error:
    end(error, watch)
"""


@pytest.fixture
def sums(tmp_path):
    (tmp_path / "sums.py").write_text(SUMS)
    return lambda code, steps=10_000: [str(tmp_path / "sums.py"), str(tmp_path), code, str(steps)]


def follow_until_it_ends(program, run, processes=2):
    """(what the end says, seconds since the last step that was told, last step)."""
    told = []
    with pytest.raises(RuntimeError) as raised:
        follow(program, run, lambda progress: told.append((progress.step, time.monotonic())), processes)
    return str(raised.value), time.monotonic() - told[-1][1], told[-1][0]


def at(step, rank, do):
    return f"if (step, rank) == ({step}, {rank}): {do}"


def test_a_rank_that_is_killed_is_named_with_its_step(sums, tmp_path):
    said, seconds, step = follow_until_it_ends(sums(at(30, 1, "os.kill(os.getpid(), signal.SIGKILL)")), tmp_path)
    assert said == "rank 1 was ended by SIGKILL in step 30: memory was short, or someone did it" and step == 30 and seconds < 20
    assert not running(tmp_path)


def running(folder):
    """Ranks that left their id in a folder and are still there."""
    ids = [int(file.read_text()) for file in folder.glob("pid-*")]
    return [pid for pid in ids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def wait_until(holds, seconds=60):
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    assert holds()


@pytest.mark.servers
def test_what_a_rank_raises_arrives_whole_and_it_is_not_started_again(sums, tmp_path):
    code = at(30, 1, "(run / 'starts').open('a').write('x'); raise FloatingPointError('loss not finite; documents [7]')")
    said, *_ = follow_until_it_ends(sums(code), tmp_path)
    assert said == "rank 1 in step 30: FloatingPointError: loss not finite; documents [7]" and (tmp_path / "starts").read_text() == "x"


@pytest.mark.servers
def test_all_start_again_where_a_rank_leaves_a_smaller_division_and_only_then(sums, tmp_path):
    """Here it fits the second time, and then the data are wrong."""
    code = "divided = (run / 'division.json').exists()\n"
    code += "if (step, rank, divided) == (3, 1, False): (run / 'division.json').write_text('2'); raise RuntimeError('memory ran out')\n"
    code += at(5, 1, "raise ValueError('window 3 was changed')")
    told = []
    with pytest.raises(ValueError, match=r"^window 3 was changed$"):
        follow(sums(code, steps=20), tmp_path, told.append, 2)
    assert [step.step for step in told] == [1, 2, 3, 1, 2, 3, 4, 5] and told[0].steps == 20 and told[0].stage == "sums"
    logs = sorted((tmp_path / "logs").rglob("1/stderr.log"))
    assert sorted("memory ran out" in log.read_text() for log in logs) == [False, True]


@pytest.mark.servers
def test_ranks_that_saved_and_ended_by_a_signal_are_no_fault(sums, tmp_path):
    with pytest.raises(errors.Stopped, match=r"the ranks of .* were asked to end by a signal, in step \d+: the same command goes on"):
        follow(sums("if step == 30: os._exit(14)"), tmp_path, lambda step: None, 2)


def torchrun(*arguments, **options):
    """(processes of) torch's own launcher, with what it says."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", r"^rank 1 gave no sign of life for 4 s in step 30; it was last seen (computing|reading data)$"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"^rank 0 was computing in step 30 when its launcher ended it$"),
        ("raise FloatingPointError('loss not finite')", r"^rank 1 in step 30: FloatingPointError: loss not finite$"),
        ("time.sleep(100)", r"^rank 1 has been reading data for [23] s in step 30; the others wait for it$"),
    ],
    ids=["stopped", "killed", "raises", "reads"],
)
def test_under_torchrun_rank_and_step_are_named(sums, tmp_path, code, said):
    """A stopped process heeds no SIGTERM, and torch's launcher would wait half a minute for it."""
    launcher = torchrun("--standalone", "--nproc-per-node", 2, *sums(at(30, 1, code)))
    wait_until(lambda: (tmp_path / "pid-0").exists() and (tmp_path / "pid-1").exists())
    began = time.monotonic()
    told = launcher.communicate(timeout=60)[0]
    assert len(re.findall(said, told, re.MULTILINE)) == 1 and re.search(r"rank      : 1 \(local_rank: 1\)", told), told
    assert launcher.returncode == 1 and not running(tmp_path) and time.monotonic() - began < 30


@pytest.mark.servers
def test_of_two_machines_one_ends_where_the_other_s_launcher_is_gone(sums, tmp_path):
    free = subprocess.run([sys.executable, "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"], capture_output=True, text=True)
    nodes = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1", "--master-port", free.stdout.strip(), "--node-rank"]
    first, second = (torchrun(*nodes, n, *sums(at(30, 0, "(run / 'far').touch()"))) for n in (0, 1))
    wait_until((tmp_path / "far").exists)
    first.kill()
    began = time.monotonic()
    said = second.communicate(timeout=60)[0]
    assert re.search(r"^(rank 0 or the launcher beside it|the launcher of rank 0) is gone in step \d+", said, re.MULTILINE), said
    assert second.returncode == 1 and time.monotonic() - began < 30
    wait_until(lambda: not running(tmp_path))


@pytest.mark.servers
def test_ranks_end_with_the_process_that_called(sums, tmp_path):
    code = f"from pathlib import Path; from model.parallel.launch import follow; follow({sums('')!r}, Path({str(tmp_path)!r}), lambda step: Path({str(tmp_path / 'far')!r}).touch(), 2)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until((tmp_path / "far").exists)
    caller.kill()
    caller.wait()
    wait_until(lambda: not running(tmp_path), 10)


@pytest.mark.servers
def test_a_stop_of_the_call_ends_the_ranks(sums, tmp_path):
    class Stopped(BaseException):
        pass

    def stop(step):
        raise Stopped

    began = time.monotonic()
    with pytest.raises(Stopped):
        follow(sums("if step == 1: time.sleep(100)"), tmp_path, stop, 2)  # nothing is told that would find the pipe closed
    assert not running(tmp_path) and time.monotonic() - began < 60


BEAT = {"round": 3, "step": 7, "what": "saving", "seconds": 500.0, "process": [0, 1]}


@pytest.mark.parametrize(
    ("beat", "silent", "mine", "said"),
    [
        (None, 1000.0, (8, "computing"), None),  # it has not begun: torch's own patience is over after ten minutes
        ("done", 1000.0, (8, "computing"), None),
        (BEAT, 0.0, (8, "computing"), None),  # checkpoints, evaluations and compilers may take minutes
        (BEAT, 30.0, (8, "computing"), None),
        (BEAT, 32.0, (8, "computing"), "rank 5 gave no sign of life for 32 s in step 8; it was last seen saving"),
        (BEAT | {"what": "reading data", "seconds": 44.0}, 0.0, (8, "computing"), None),
        (BEAT | {"what": "reading data", "seconds": 46.0}, 0.0, (8, "reading data"), None),  # a slow disk is slow for all
        (BEAT | {"what": "reading data", "seconds": 46.0}, 0.0, (8, "computing"), "rank 5 has been reading data for 46 s in step 7; the others wait for it"),
    ],
)
def test_whose_fault_it_is(beat, silent, mine, said):
    told = json.dumps(beat) if isinstance(beat, dict) else beat
    assert watch.fault(5, told, silent, mine, watch.Limits()) == said


def test_a_run_ends_within_a_minute():
    """Found by the second look after the limit, read by the others at their next; launchers poll every tenth of a second."""
    limits = watch.Limits()
    assert max(limits.silence, limits.reading) + 3 * limits.beat < 60


# Settings, and the trainer alone



@pytest.fixture
def shards(tmp_path):
    documents = [np.arange(20) % (VOCAB - 1) + 1 for _ in range(40)]
    root = tmp_path / "shards"
    write_shards(root, {("a", 16): [pack_documents(documents, list(range(1, 41)), 16)]}, [{"doc": i, **d} for i, d in enumerate(heldout_documents())], STAGES, VOCAB)
    write_settings(root, TINY, CONFIG)
    return root


def python_m_model(*arguments, without=(), **env):
    """`python -m model` where some packages are not installed."""
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({without!r})); sys.argv[1:] = {list(map(str, arguments))!r}; runpy.run_module('model', run_name='__main__', alter_sys=True)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | env)


@pytest.mark.servers
def test_the_trainer_alone_needs_shards_and_torch_only(shards, tmp_path):
    absent = ("pyspark", "py4j", "delta", "deltalake", "prefect", "pydantic", "pyarrow", "streaming", "rich", "typer", "yaml", "flows", "pipelines")
    done = python_m_model(shards, tmp_path / "run", without=absent)
    assert done.returncode == 0, done.stderr
    train(shards, tmp_path / "here", TINY, CONFIG)
    assert read_json(tmp_path / "run/result.json")["final"] == read_json(tmp_path / "here/result.json")["final"]
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"step 1 of 6  base  loss \d\.\d{3}  [\d,]+ tokens/s, \d+ % of dense", lines[0]) and lines[-1].startswith("step 6 of 6 ")
    (shards / "plan.json").unlink()
    failed = python_m_model(shards, tmp_path / "run")
    assert (failed.returncode, failed.stderr) == (11, f"{shards}/plan.json is missing: `flows run shard` writes it\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["model"].pop("layers"), r"model\.layers is missing$"),
        (lambda s: s["train"].update(batchtokens=3, lr=1) or s["train"].pop("seed"), r"train\.batchtokens is unknown; train\.lr is unknown; train\.seed is missing$"),
        (lambda s: s.pop("train"), "train is missing$"),
        (lambda s: s.update(train=[]), r"train is \[\], expected one like \{\}$"),
        (lambda s: s["train"].update(batch_tokens="64"), r"train\.batch_tokens is '64', expected one like 2048$"),
        (lambda s: s["train"].update(peak_lr=True), r"train\.peak_lr is True, expected one like 0.003$"),
        (lambda s: s["train"].update(peak_lr=-1), r"settings\.json: peak_lr must be above 0, found -1$"),
        (lambda s: s["train"].update(parallel="both"), r"parallel must be one of auto, replicate, shard, experts, found 'both'$"),
    ],
)
def test_settings_that_are_none_are_refused_in_one_message(tmp_path, change, said):
    write_settings(tmp_path, TINY, CONFIG)
    assert load_settings(tmp_path) == (TINY, CONFIG)
    settings = read_json(tmp_path / "settings.json")
    change(settings)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=said):
        load_settings(tmp_path)


def test_settings_that_are_not_there_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"settings\.json is missing: `flows run shard` writes it"):
        load_settings(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DataError, match="expected whole JSON"):
        load_settings(tmp_path)


@pytest.mark.parametrize(("ranks", "fits"), [(1, True), (2, True), (4, True), (3, False), (8, False)])
def test_every_rank_needs_as_many_sequences(shards, tmp_path, ranks, fits):
    """64 tokens are four sequences of 16."""
    if fits:
        return check_shares(64, [16], ranks)
    with pytest.raises(ValueError, match=rf"batch_tokens \(64\) must divide by {16 * ranks}, so that each of {ranks} processes takes whole"):
        launch(shards, tmp_path / "run", lambda step: None, ranks)
    assert not (tmp_path / "run").exists()


def test_the_batch_to_choose_fits_every_stage():
    with pytest.raises(ValueError, match=r"\(32,768\) must divide by 196,608, so that each of 3 processes"):
        check_shares(32_768, [4_096, 65_536, 16_384], 3)
    check_shares(196_608, [4_096, 65_536, 16_384], 3)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"expected a folder for the run that can be made, found .*file/run: Not a directory"):
        make_folder(tmp_path / "file/run")


def test_exit_codes_are_those_of_flows():
    assert (errors.FAULT, errors.DATA, errors.BUSY, errors.DISK, errors.STOPPED) == (Exit.FAULT, Exit.DATA, Exit.BUSY, Exit.DISK, Exit.STOPPED)


def test_where_a_run_is_made_decides_nothing():
    recipe = recipes.load(ROOT / "flows/recipes/local.yaml")
    there = recipe.model_copy(update={"train": dataclasses.replace(recipe.train, processes=2, parallel="shard")})
    other = recipe.model_copy(update={"train": dataclasses.replace(recipe.train, seed=recipe.train.seed + 1)})
    assert there.hash == recipe.hash != other.hash and train_step.part(there) == train_step.part(recipe) != train_step.part(other)


def test_a_recipe_whose_batch_cannot_be_shared_is_refused():
    value = recipes.load(ROOT / "flows/recipes/local.yaml").model_dump()
    with pytest.raises(ValueError, match=r"train\.batch_tokens \([\d,]+\) must divide by [\d,]+, so that each of 3 processes takes"):
        recipes.Recipe.model_validate(value | {"train": value["train"] | {"processes": 3}})


@pytest.mark.servers
def test_two_processes_train_as_one_does(shards, tmp_path):
    steps = []
    told = launch(shards, tmp_path / "two", lambda step: steps.append(step.step), 2)
    alone = train(shards, tmp_path / "one", TINY, CONFIG)
    assert steps == [1, 2, 3, 4, 5, 6] and told["steps"] == alone["steps"] and abs(told["final_loss"] - alone["final_loss"]) < 0.02
