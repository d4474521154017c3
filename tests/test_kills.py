"""kill -9 in every step, on one core: the last run ends with the manifest and, bit for bit, the loss of two cores unkilled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import conftest
import corpus
import psutil
import pytest
import yaml

import flows
from flows.home import Home
from schemas import tables

pytestmark = pytest.mark.servers

KILLED = ("measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate", "report")
SPARK_STARTS = 5  # seconds that a step begins with where it is the first of a run
ALL = ("ingest", "learn", *KILLED)
SLOWED = 3  # this test's machine also runs all others
LONGEST = 10  # seconds of a step, at most; where the first run of a checkout compiled in it, it took longer than it will again


def start_until(step: str, file, delay: float, env: dict[str, str]) -> subprocess.Popen:
    """A run, `delay` seconds after `step` began, or a later one where the last kill came behind it."""
    wanted = ALL[ALL.index(step) :]
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "curriculum", "--recipe", str(file)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen(command, cwd=conftest.ROOT, env=env, start_new_session=True, **pipes)
    for line in run.stdout:
        if line.split()[2:3] == ["..."] and line.split()[1] in wanted:
            break
    time.sleep(delay)
    return run


def run_until(step: str, file, delay: float, env: dict[str, str]) -> bool:
    """Kill a run's whole process group; whether it was still running."""
    run = start_until(step, file, delay, env)
    alive = run.poll() is None
    os.killpg(run.pid, signal.SIGKILL) if alive else None
    run.wait()
    return alive


def command_line(process: psutil.Process) -> str:
    """Empty of one that has ended since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def stop_in(step: str, file, delay: float, env: dict[str, str]) -> Stopped:
    """Ask a run to end, as a scheduler does, while Java and Prefect's server work for it."""
    run = start_until(step, file, delay, env)
    family = psutil.Process(run.pid).children(recursive=True)
    names = {word for one in family for word in ("java", "prefect.server") if word in command_line(one)}
    began = time.monotonic()
    run.terminate()
    said = run.communicate(timeout=100)[0]
    seconds = time.monotonic() - began
    return Stopped(run.returncode, said, seconds, names, [one.pid for one in family if running(one.pid)])


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Stopped:
    """How a run ended that was asked to: what it said, what worked for it, which processes it left."""

    code: int
    said: str
    seconds: float
    names: set[str]
    left: list[int]


@dataclass(frozen=True)
class Killed:
    """A home whose run was killed in every step: which kills met a running step, the server that the first left, the run that was
    stopped and the scratch that it left, the last run."""

    home: Path
    met: list[str]
    orphan: int
    stopped: Stopped
    scratch: list[str]
    done: subprocess.CompletedProcess


def kill_in_every_step(finished: conftest.Finished, folder: Path) -> Killed:
    """Needs a Prefect server in the environment, which all but the first run use. A step's first seconds are Spark's start here."""
    home = folder / "home"
    one_core = {"master": "local[1]", "driver_memory": "1g"}
    value = yaml.safe_load(finished.file.read_text()) | {"home": str(home), "spark": one_core}
    file = corpus.save(value, folder / "killed.yaml")
    seconds = {step: min(finished.home.receipt(step).seconds, LONGEST) for step in ALL}
    chance = random.Random(int(os.environ.get("MILLRACE_SEED", time.time())))
    own_server = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    assert run_until("ingest", file, chance.random() * seconds["ingest"] / 2, own_server)
    orphan = int((home / "tmp" / "prefect-server.pid").read_text())
    stopped = stop_in("learn", file, SPARK_STARTS, own_server)
    scratch = [entry.name for entry in (home / "tmp").iterdir()]
    met = [step for step in KILLED if run_until(step, file, chance.random() * (SPARK_STARTS + seconds[step]), os.environ)]
    return Killed(home, met, orphan, stopped, scratch, conftest.flows("run", "curriculum", "--recipe", str(file)))


def test_a_run_that_is_killed_in_every_step_ends_as_one_that_is_not(finished_home, prefect_server, tmp_path):
    killed = kill_in_every_step(finished_home, tmp_path)
    assert len(killed.met) > len(KILLED) // 2, killed.met
    assert not running(killed.orphan)
    assert killed.done.returncode == 0, killed.done.stdout + killed.done.stderr
    assert (killed.stopped.code, killed.stopped.left) == (14, []) and killed.stopped.seconds < 5 * SLOWED, killed.stopped
    assert killed.stopped.said.endswith("\nStopped. The same command goes on from here.\n") and "Traceback" not in killed.stopped.said
    assert killed.stopped.names == {"java", "prefect.server"} and killed.scratch == ["spark.log"]
    told = Home(killed.home).lake.arrow(tables.RUNS, ["run", "step"]).to_pylist()
    receipts = [Home(killed.home).receipt(step) for step in flows.STEPS]
    assert {(one.run, one.step) for one in receipts} <= {(row["run"], row["step"]) for row in told} and len({one.run for one in receipts}) > 3
    assert len({(row["run"], row["step"]) for row in told}) == len(told)
    homes = killed.home, finished_home.home.root
    for name in ("manifest.json", "plan.json"):
        texts = [(root / "shards" / name).read_text() for root in homes]
        assert texts[0] == texts[1]
    results = [json.loads(next(root.glob("runs/*/result.json")).read_text()) for root in homes]
    assert results[0]["final_loss"] == results[1]["final_loss"] and results[0]["evaluations"] == results[1]["evaluations"]
