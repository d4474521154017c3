"""Several ranks on this machine, started by torch's elastic launcher in a process of its own, so that it has its main
thread and its signals to itself whoever calls. What the ranks say lies in `run`/logs.

The launcher's standard output carries one line of JSON a step, which rank 0 prints, and why a run failed; its standard
input nothing: it closes when the process that called is gone, and the ranks end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import LaunchConfig, elastic_launch

from model.settings import load_settings
from schemas.errors import BUSY, DATA, STOPPED, RunBusy, Stopped
from schemas.files import read_json
from schemas.manifest import load_plan
from schemas.training import TrainConfig, check_shares, require

if TYPE_CHECKING:
    from model.train import Progress

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # that the launcher passes on to its ranks
RESTARTS = 8  # as often as a step may be divided further because memory ran out


def launch(shards: Path, run: Path, on_step: Callable[[Progress], None], processes: int) -> dict[str, Any]:
    """`model.train.train`, by `shards`/settings.json, in so many processes of this machine. Returns the content of
    `run`/result.json.

    Raises ValueError for data that do not fit, RunBusy and Stopped, as `train` does, and RuntimeError for any other end
    of a rank, naming rank and step. Nothing is started again but steps that did not fit into memory; a second call goes
    on from the last checkpoint.
    """
    lengths = [stage.seq_len for stage in load_plan(shards / "plan.json").stages]
    check_shares(load_settings(shards)[1].batch_tokens, lengths, processes)
    follow(["-m", "model", "--json", str(shards), str(run)], run, on_step, processes)
    return read_json(run / "result.json")


def processes_here(config: TrainConfig) -> int:
    """How many are to train on this machine. Raises ValueError for more than it has GPUs, if it has some."""
    gpus = torch.cuda.device_count()
    found = f"found {config.processes}, and {gpus} GPUs: start fewer, or 0 for one on each GPU"
    require(not gpus or config.processes <= gpus, f"train.processes: expected one for each GPU at most; {found}")
    return config.processes or max(1, gpus)


def follow(program: list[str], run: Path, on_step: Callable[[Progress], None], processes: int) -> None:
    """Run a program of Python's as so many ranks, and pass on what rank 0 tells of its steps."""
    from model.train import Progress  # the launcher's process starts without

    logs, step, failed = run / "logs", 0, None
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    command = [sys.executable, "-m", "model.parallel.launch", str(processes), str(run), *program]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": threads | os.environ}
    with (logs / "launcher.log").open("w") as log, subprocess.Popen(command, stderr=log, **pipes) as launcher:
        for told in filter(None, map(_parsed, launcher.stdout)):
            if "failed" in told:
                failed = told
            elif "step" in told:
                step = told["step"]
                on_step(Progress(**told))
    if STOPPED in (launcher.returncode, failed and failed["code"]):
        raise Stopped(f"the ranks of {run} were asked to end by a signal, in step {step}: the same command goes on")
    if failed:
        said = failed["failed"] or f"rank {failed['rank']} {_ended(failed['code'], step)}"
        raise {DATA: ValueError, BUSY: RunBusy}.get(failed["code"], RuntimeError)(said)
    if launcher.returncode:
        raise RuntimeError(f"the launcher of {processes} ranks {_ended(launcher.returncode, step)}; {logs} says more")


def _parsed(line: str) -> dict[str, Any] | None:
    """What a line tells. Libraries print others."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _ended(code: int, step: int) -> str:
    """How a process ended after so many steps, in words."""
    if code >= 0:
        return f"ended with exit code {code} in step {step}"
    name = signal.Signals(-code).name
    return f"was ended by {name} in step {step}" + (
        ": memory was short, or someone did it" if name == "SIGKILL" else ""
    )


def main(processes: int, run: Path, program: list[str]) -> NoReturn:
    """The launcher's process."""
    threading.Thread(target=_end_with_caller, daemon=True).start()
    for _ in range(RESTARTS + 1):
        division = _division(run)
        try:
            elastic_launch(_config(processes, run), sys.executable)(*program)
            sys.exit(0)
        except ChildFailedError as error:
            failed = error
            if _division(run) == division:
                break
        except SignalException:
            sys.exit(STOPPED)
    print("\n" + json.dumps(_reason(failed)), flush=True)
    sys.exit(1)


def _config(processes: int, run: Path) -> LaunchConfig:
    """One machine, which needs no name; logs of all, but for what rank 0 tells."""
    redirects = {rank: Std.ALL if rank else Std.ERR for rank in range(processes)}
    return LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex[:8], max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(str(run / "logs"), redirects), signals_to_handle=SIGNALS,
    )  # fmt: skip


def _reason(error: ChildFailedError) -> dict[str, Any]:
    """Which rank failed first and what it said; one that says something knows more than one that a signal ended."""
    silent = lambda rank: not isinstance(error.failures[rank].message, dict)  # noqa: E731
    rank = min(error.failures, key=lambda rank: (silent(rank), error.failures[rank].timestamp))
    failure = error.failures[rank]
    said = None if silent(rank) else failure.message["message"]
    return {"failed": said, "rank": rank, "code": failure.exitcode}


def _division(run: Path) -> bytes | None:
    """How a step is divided to fit into memory, as a rank leaves it that ran out of it."""
    file = run / "division.json"
    return file.read_bytes() if file.exists() else None


def _end_with_caller() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
