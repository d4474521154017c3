"""One trainer at a time in a run's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from model.parallel.ranks import Ranks
from schemas.errors import RunBusy


@contextlib.contextmanager
def held(run: Path, ranks: Ranks) -> Iterator[None]:
    """Hold a run's folder, by rank 0. Raises RunBusy on all ranks, naming the process that has it.

    The kernel lets go of the lock when that process ends, however it ends. Where a file system knows no locks, nobody
    is refused.
    """
    run.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        holder = None
        if ranks.rank == 0:
            file = stack.enter_context((run / "lock").open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            except BlockingIOError:
                file.seek(0)
                holder = file.read() or "another process"
            except OSError:
                pass
        holder = ranks.every(holder)[0]
        if holder is not None:
            raise RunBusy(f"{run} is in use by {holder}, which trains there: wait for it, or stop it")
        yield
