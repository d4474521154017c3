"""`flows`: the door. A command works in a process of its own, which this one watches.

Imports, compiled loops and Java do not let Python answer a signal, some for minutes. The process that watches does
nothing else: it heeds a stop at once, says so in one line, and leaves nothing behind, as little as `kill -9` loses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from flows.exits import Exit
from flows.scratch import WATCHER, HomeBusy, held, sweep

GRACE_SECONDS = 2.0  # for a stopped command to tell a Prefect server; what it wrote is whole at any moment
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


def app() -> NoReturn:
    """Run the command that the process was called with. Ends the process with one of `flows.exits`."""
    stops = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal that nobody handles may not be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, *stops])
    ours, theirs = socket.socketpair()
    command = os.fork()
    if command:
        theirs.close()
        sys.exit(_watch(command, ours, stops))
    ours.close()
    _work(theirs, stops)


def _work(watcher: socket.socket, stops: list[int]) -> NoReturn:
    """The command itself. It ends with the process that watches it."""
    os.environ[WATCHER] = f"{os.getppid()} {watcher.fileno()}"
    threading.Thread(target=_end_with, args=[watcher], daemon=True).start()
    for number in stops:
        signal.signal(number, _stop)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD, *stops])
    try:
        from flows.commands import app as commands

        sys.exit(commands())
    except KeyboardInterrupt:
        sys.exit(Exit.STOPPED)


def _end_with(watcher: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):  # so it ends where what was told was not read
        watcher.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_number: int, _frame: object) -> None:
    """Whatever is interrupted would say so, at length: from here on nothing that this process says is heard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    raise KeyboardInterrupt


def _watch(command: int, told: socket.socket, stops: list[int]) -> int:
    """Exit code of the command, which is stopped where this process is told to."""
    _adopt_orphans()
    code = None
    while code is None:
        number = signal.sigwait([signal.SIGCHLD, *stops])
        if number == signal.SIGCHLD:
            code = _ended(command)
        else:
            os.kill(command, signal.SIGINT)
            _ended(command, GRACE_SECONDS)
            code = Exit.STOPPED
    _clean(_homes(told), code)
    if code < 0 and code != -signal.SIGTERM:
        name = signal.Signals(-code).name
        why = ": memory was short, or someone ended it" if name == "SIGKILL" else ""
        print(f"\nThe command was ended by {name}{why}. The same command goes on from here.", file=sys.stderr)
        return Exit.FAULT
    if code < 0 or code == Exit.STOPPED:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return Exit.STOPPED
    return code


def _ended(process: int, seconds: float = 0.0) -> int | None:
    """How a process ended, or minus the signal that ended it; None if it goes on for longer."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.02)


def _homes(told: socket.socket) -> set[Path]:
    """Which homes the command held."""
    told.setblocking(False)
    try:
        return {Path(os.fsdecode(root)) for root in told.recv(1 << 16).split(b"\0") if root}
    except BlockingIOError:
        return set()


def _clean(homes: set[Path], code: int) -> None:
    """End all that the command started, and remove the scratch of the homes that it held. One that held none may have
    opened a browser."""
    ending, until = homes or code < 0 or code == Exit.STOPPED, time.monotonic() + GRACE_SECONDS
    while ending and (family := _descendants(os.getpid())) and time.monotonic() < until:
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _reap()
        time.sleep(0.02)
    for home in homes:
        with contextlib.suppress(HomeBusy), held(home):  # the next run may have begun
            sweep(home)
    if homes and sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)  # a progress bar hides the cursor


def _adopt_orphans() -> None:
    """What the command leaves behind becomes a child of this process (Linux), wherever it had put itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def _descendants(ancestor: int) -> set[int]:
    """Processes that it started, and those that they did (Linux), until they are waited for: a zombie's other threads
    may still hold a lock."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = file.read_text(errors="replace").rpartition(")")[2].split()[1]
            parents[int(file.parent.name)] = int(parent)
    family, size = {ancestor}, 0
    while len(family) > size:
        size = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    return family - {ancestor}


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    app()
