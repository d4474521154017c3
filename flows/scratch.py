"""What a run has in its home folder only while it works: the lock, scratch files, Prefect's temporary server.

Light: the process that watches a command (`flows.cli`) cleans up by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

WATCHER = "MILLRACE_WATCHER"  # variable of the environment: the process that watches this one, a socket to it
KEPT = ("spark.log",)  # what Java said is read when a run has failed
POLL_SECONDS = 2.0  # while a home is waited for


class HomeBusy(RuntimeError):
    """Another run works in this home folder."""


@contextlib.contextmanager
def held(root: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[int]:
    """Hold the home folder `root` for one run. Raises HomeBusy naming the run that has it, or with `on_wait` waits for
    that run, calling it with this message every POLL_SECONDS.

    Gives the process that is to be stopped where this run is to end. The kernel lets go of the lock when the process
    ends, however it ends.
    """
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "a+") as file:
        while holder := _holder(file):
            busy = f"{root} is in use by {holder}; wait for it, or stop it"
            if on_wait is None:
                raise HomeBusy(busy)
            on_wait(busy)
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        process = _tell_watcher(root)
        file.write(f"process {process}")
        file.flush()
        yield process


def _holder(lock: TextIO) -> str | None:
    """Which run has the lock; None if it is ours now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        lock.seek(0)
        return lock.read().strip() or "another run"


def _tell_watcher(root: Path) -> int:
    """Say which home is held to the process that watches this one; the process to be stopped, itself if it is alone."""
    watcher, _, told = os.environ.get(WATCHER, "").partition(" ")
    if watcher != str(os.getppid()):
        return os.getpid()
    os.write(int(told), os.fsencode(root.resolve()) + b"\0")
    return int(watcher)


def sweep(root: Path) -> None:
    """End and remove what a stopped run left. To be called while the folder is held."""
    end_orphaned_server(root)
    for entry in (root / "tmp").iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def server_file(root: Path) -> Path:
    return root / "tmp" / "prefect-server.pid"


def end_orphaned_server(root: Path) -> None:
    """End Prefect's temporary server of a run that was killed."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int(server_file(root).read_text())
        # the number may be another process's by now
        if b"prefect.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
