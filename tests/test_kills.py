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
import yaml

KILLED = ("learn", "measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate", "report")
SPARK_STARTS = 5  # seconds that a step begins with where it is the first of a run
ALL = ("ingest", *KILLED)
LONGEST = 10  # seconds of a step, at most; where the first run of a checkout compiled in it, it took longer than it will again


def run_until(step: str, file, delay: float, env: dict[str, str]) -> bool:
    """Start a run and kill its whole process group `delay` seconds after `step` begins, or a later one where the last kill came behind
    it; whether it was still running."""
    wanted = ALL[ALL.index(step) :]
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "curriculum", "--recipe", str(file)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen(command, cwd=conftest.ROOT, env=env, start_new_session=True, **pipes)
    for line in run.stdout:
        if line.split()[2:3] == ["..."] and line.split()[1] in wanted:
            break
    time.sleep(delay)
    alive = run.poll() is None
    os.killpg(run.pid, signal.SIGKILL) if alive else None
    run.wait()
    return alive


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Killed:
    """A home whose run was killed in every step: which kills met a running step, the server that the first left, the last run."""

    home: Path
    met: list[str]
    orphan: int
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
    met = [step for step in KILLED if run_until(step, file, chance.random() * (SPARK_STARTS + seconds[step]), os.environ)]
    return Killed(home, met, orphan, conftest.flows("run", "curriculum", "--recipe", str(file)))


def test_a_run_that_is_killed_in_every_step_ends_as_one_that_is_not(finished_home, kills):
    """The kills themselves go on beside all other tests (`conftest.kills`)."""
    killed = kills()
    assert len(killed.met) > len(KILLED) // 2, killed.met
    assert not running(killed.orphan)
    assert killed.done.returncode == 0, killed.done.stdout + killed.done.stderr
    homes = killed.home, finished_home.home.root
    for name in ("manifest.json", "plan.json"):
        texts = [(root / "shards" / name).read_text() for root in homes]
        assert texts[0] == texts[1]
    results = [json.loads(next(root.glob("runs/*/result.json")).read_text()) for root in homes]
    assert results[0]["final_loss"] == results[1]["final_loss"] and results[0]["evaluations"] == results[1]["evaluations"]
