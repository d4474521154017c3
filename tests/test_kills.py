"""kill -9 in every step, on one core: the last run ends with the manifest and, bit for bit, the loss of two cores unkilled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import conftest
import corpus
import psutil
import yaml

KILLED = ("measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "evaluate", "report")


def run_until(step: str, file, delay: float, env: dict[str, str]) -> bool:
    """Start a run and kill its whole process group `delay` seconds after `step` begins; whether it was still running."""
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "curriculum", "--recipe", str(file)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen(command, cwd=conftest.ROOT, env=env, start_new_session=True, **pipes)
    for line in run.stdout:
        if line.split()[1:3] == [step, "..."]:
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


def test_a_run_that_is_killed_in_every_step_ends_as_one_that_is_not(finished_home, prefect_server, tmp_path):
    home = tmp_path / "home"
    one_core = {"master": "local[1]", "driver_memory": "1g"}
    value = yaml.safe_load(finished_home.file.read_text()) | {"home": str(home), "spark": one_core}
    file = corpus.save(value, tmp_path / "r.yaml")
    seconds = {step: finished_home.home.receipt(step).seconds for step in ("ingest", *KILLED)}
    chance = random.Random(int(os.environ.get("MILLRACE_SEED", time.time())))
    own_server = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    assert run_until("ingest", file, chance.random() * seconds["ingest"] / 2, own_server)
    orphan = int((home / "tmp" / "prefect-server.pid").read_text())
    killed = [step for step in KILLED if run_until(step, file, chance.random() * seconds[step], os.environ)]
    assert len(killed) > len(KILLED) // 2, killed
    assert not running(orphan)
    done = conftest.flows("run", "curriculum", "--recipe", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("manifest.json", "plan.json"):
        texts = [(root / "shards" / name).read_text() for root in (home, finished_home.home.root)]
        assert texts[0] == texts[1]
    results = [json.loads(next(root.glob("runs/*/result.json")).read_text()) for root in (home, finished_home.home.root)]
    assert results[0]["final_loss"] == results[1]["final_loss"] and results[0]["evaluations"] == results[1]["evaluations"]
