"""A rank that dies, is stopped or reads data for ever ends the run within a minute, and is named with its step.

Every two seconds each process tells how it is, in the store through which torch's launcher brought the ranks together,
and looks at the next rank: the same little work for each in a run of any size. Whoever finds that rank silent, or
reading data while others wait for it, leaves a last word; whoever finds a last word ends. So does a process whose
launcher is gone, or that store with the launcher which keeps it. Ranks that compute or save are waited for: for
ten minutes on GPUs, two hours where hosts wait for one another.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import torch.distributed as dist

from model.parallel.ranks import READING, SAVING

MEETING = datetime.timedelta(minutes=10)  # until the first machine's store is there
LOST = dist.DistError, ConnectionError, RuntimeError  # what a store raises that is gone


@dataclass(frozen=True)
class Limits:
    """In seconds: between two beats, without one, of reading data while others wait, and from a signal until a rank has
    begun to save: torch's launcher kills after 30. Nothing that Python does holds
    its other threads for so long; a batch takes milliseconds."""

    beat: float = 2.0
    silence: float = 30.0
    reading: float = 45.0
    grace: float = 20.0


class Watch:
    """Of one rank, begun in the main thread of a process that torch's launcher started."""

    def __init__(self, limits: Limits = Limits()):
        env = os.environ
        self.rank, self.local, self.machine = (int(env[name]) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"))
        self.next = (self.rank + 1) % int(env["WORLD_SIZE"])
        self.limits, self._launcher = limits, os.getppid()
        self._rounds, self._done, self._ending = 0, False, threading.Lock()
        self._asked, self._is_alone = math.inf, False  # when a signal came; whether others were found not to answer
        store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), None, False, MEETING)
        self._store = dist.PrefixStore(f"watch-{env['TORCHELASTIC_RESTART_COUNT']}", store)
        self.doing(None, "starting")
        self._signals, told = socket.socketpair()
        told.setblocking(False)
        signal.set_wakeup_fd(told.detach())  # the main thread answers no signal while it waits for other ranks
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for work in (self._beat, self._guard):
            threading.Thread(target=work, daemon=True).start()

    def doing(self, step: int | None, what: str) -> None:
        """Tell what the main thread is about to do, and in which step."""
        self._now = step, what, time.monotonic()

    def is_stopping(self) -> bool:
        """Whether a signal asked this rank to end."""
        return self._asked < math.inf

    def close(self) -> None:
        """The rank has done its work."""
        self._done = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(*LOST):  # the others may be done, and their launcher
            self._store.set(str(self.rank), "done")

    def fail(self, sentence: str, code: int) -> NoReturn:
        """End the run by what went wrong here, unless another's last word came first."""
        self._end(f"rank {self.rank}{_in(self._now[0])}: {sentence}" if code == 1 else sentence, code)

    def wait_for_word(self) -> None:
        """To be called where others do not answer. The process ends as soon as it is known why."""
        self._is_alone = True
        time.sleep(self.limits.silence + 5 * self.limits.beat)

    def _beat(self) -> None:
        beat, silent = None, 0.0
        while not self._done:
            self._heed()
            try:
                last, (before, beat) = self._exchange(), (beat, self._read(str(self.next)))
            except LOST:
                return self._lost()
            silent = silent + self.limits.beat if beat == before else 0.0
            if last:
                self._obey(json.loads(last))
            elif said := fault(self.next, beat, silent, self._now[:2], self.limits):
                self._end(said, 1, json.loads(beat)["process"] if silent else None)

    def _guard(self) -> None:
        """A store on a machine that is gone may never answer, not even with an error."""
        rounds, silent = 0, 0.0
        while silent <= self.limits.silence:
            time.sleep(self.limits.beat)
            silent = silent + self.limits.beat if rounds == self._rounds else 0.0
            rounds = self._rounds
        self._lost()

    def _heed(self) -> None:
        """What the launcher says until the next beat, or that it is gone. Asked to end, a rank saves with all others,
        unless they do not answer."""
        if select.select([self._signals], [], [], self.limits.beat)[0]:
            self._signals.recv(64)
            self._asked = min(self._asked, time.monotonic())
        step, what, _ = self._now
        is_late = what != SAVING and time.monotonic() - self._asked > self.limits.grace
        if is_late or (self._is_alone and self.is_stopping()):
            self._leave(f"rank {self.rank} was {what}{_in(step)} when its launcher ended it", 1, told=False)
        if os.getppid() != self._launcher:
            self._end(f"the launcher of rank {self.rank} is gone{_in(step)}", 1)

    def _exchange(self) -> str | None:
        """Tell how this rank is; the last word, if there is one."""
        step, what, since = self._now
        beat = {"round": self._rounds, "step": step, "what": what, "seconds": time.monotonic() - since}
        self._store.set(str(self.rank), json.dumps(beat | {"process": [self.machine, os.getpid()]}))
        if self._done:  # meanwhile
            self._store.set(str(self.rank), "done")
        self._rounds += 1
        return self._read("last word")

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _lost(self) -> None:
        if not self._done:
            step = _in(self._now[0])
            self._leave(f"rank 0 or the launcher beside it is gone{step}: where the ranks meet nobody answers", 1)

    def _end(self, sentence: str, code: int, hung: list[int] | None = None) -> NoReturn:
        """Leave a last word and end. hung: (machine, process) that no signal but SIGKILL may end."""
        word = {"rank": self.rank, "machine": self.machine, "said": sentence, "code": code, "hung": hung}
        with contextlib.suppress(*LOST):
            word = json.loads(self._store.compare_set("last word", "", json.dumps(word)))
        self._obey(word)

    def _obey(self, word: dict[str, Any]) -> NoReturn:
        """End as the last word says. One process of a machine prints it."""
        if word["hung"] and word["hung"][0] == self.machine and word["hung"][1] not in (os.getpid(), 0, 1, -1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(word["hung"][1], signal.SIGKILL)  # its launcher would give it 30 s for SIGTERM
        prints = word["rank"] == self.rank if word["machine"] == self.machine else self.local == 0
        self._leave(word["said"], word["code"], prints=prints)

    def _leave(self, sentence: str, code: int, *, prints: bool = True, told: bool = True) -> NoReturn:
        """told: to the launcher too, as the reason why the rank failed."""
        self._ending.acquire()
        if told and "TORCHELASTIC_ERROR_FILE" in os.environ:
            write_reason(os.environ["TORCHELASTIC_ERROR_FILE"], sentence)
        if prints:
            print(sentence, file=sys.stderr, flush=True)
        os._exit(code)


def fault(rank: int, beat: str | None, silent: float, mine: tuple[int | None, str], limits: Limits) -> str | None:
    """What is wrong with a rank by its last beat, which came so many seconds ago; None if nothing is.

    mine: (step, what) of the one who asks: it soon waits in the step in which the other is.
    """
    if beat is None or beat == "done":
        return None
    told = json.loads(beat)
    if silent > limits.silence:
        return f"rank {rank} gave no sign of life for {silent:.0f} s{_in(mine[0])}; it was last seen {told['what']}"
    if told["what"] == READING != mine[1] and told["seconds"] > limits.reading:
        return f"rank {rank} has been {READING} for {told['seconds']:.0f} s{_in(told['step'])}; the others wait for it"
    return None


def write_reason(file: str, sentence: str) -> None:
    """As torch's launcher reads it."""
    extra = {"timestamp": str(int(time.time())), "py_callstack": sentence}
    with contextlib.suppress(OSError), open(file, "w") as opened:
        json.dump({"message": {"message": sentence, "extraInfo": extra}}, opened)


def _in(step: int | None) -> str:
    return "" if step is None else f" in step {step}"
