"""kill -9 in every step: the next run completes with the same manifest and, bit for bit, the same final loss."""

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
import yaml

KILLED = ("ingest", "measure", "dedup", "judge", "tokenise", "mixture", "shard", "train", "train", "evaluate", "report")


def run_until(step: str, file, delay: float) -> bool:
    """Start a run and kill its whole process group `delay` seconds after `step` begins; whether it was still running."""
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "curriculum", "--recipe", str(file)]
    run = subprocess.Popen(command, cwd=conftest.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    for line in run.stdout:
        if line.split()[1:3] == [step, "..."]:
            break
    time.sleep(delay)
    alive = run.poll() is None
    os.killpg(run.pid, signal.SIGKILL) if alive else None
    run.wait()
    return alive


def test_a_run_that_is_killed_in_every_step_ends_as_one_that_is_not(finished_home, tmp_path):
    home = tmp_path / "home"
    value = yaml.safe_load(finished_home.file.read_text()) | {"home": str(home)}
    file = corpus.save(value, tmp_path / "r.yaml")
    seconds = {step: finished_home.home.receipt(step).seconds for step in KILLED}
    chance = random.Random(int(os.environ.get("MILLRACE_SEED", time.time())))
    killed = [step for step in KILLED if run_until(step, file, chance.random() * seconds[step])]
    assert len(killed) > len(KILLED) // 2, killed
    done = conftest.flows("run", "curriculum", "--recipe", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("manifest.json", "plan.json"):
        texts = [(root / "shards" / name).read_text() for root in (home, finished_home.home.root)]
        assert texts[0] == texts[1]
    results = [json.loads(next(root.glob("runs/*/result.json")).read_text()) for root in (home, finished_home.home.root)]
    assert results[0]["final_loss"] == results[1]["final_loss"] and results[0]["evaluations"] == results[1]["evaluations"]
