"""Checkpoints written by a thread while steps go on, from a copy in this host's memory.

The copy is all that a step may wait for. On a GPU it is made by a stream of its own into pages that are locked once,
as it is all of one size; the next update waits for it on the device (`AdamW.hold`), forward and backward do not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from model import checkpoint
from model.checkpoint import Owned
from model.parallel.ranks import Ranks
from schemas.training import TrainConfig, require

log = logging.getLogger("millrace.checkpoint")
LEAVING = 20.0  # seconds that a run which ends by an error gives to a save under way, where others may be gone


class Copy:
    """What a rank keeps, once more in the memory of its host. Raises ValueError for what is no fp32."""

    def __init__(self, owned: Owned):
        self.sources = [*owned.masters.values(), *owned.first.values(), *owned.second.values(), owned.done]
        require(all(one.dtype == torch.float32 for one in self.sources), "expected masters and moments in float32")
        flat = torch.empty(sum(map(Tensor.numel, self.sources)), dtype=torch.float32)
        self.flat, parts = flat, flat.split([one.numel() for one in self.sources])
        self.targets = [part.view(one.shape) for part, one in zip(parts, self.sources, strict=True)]
        names, kinds = list(owned.masters), iter(self.targets)
        masters, first, second = ({name: next(kinds) for name in names} for _ in range(3))
        self.owned = Owned(owned.shapes, owned.starts, masters, first, second, next(kinds))
        self.stream = torch.cuda.Stream() if owned.done.is_cuda else None
        if self.stream:
            self.lock_pages()

    @torch.no_grad()
    def take(self) -> torch.cuda.Event | None:
        """Copy all; on a GPU what is returned says when it is done, and nothing may change before."""
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # of a CPU: None, and nothing happens
            for target, source in zip(self.targets, self.sources, strict=True):
                target.copy_(source, non_blocking=self.stream is not None)
        return self.stream.record_event() if self.stream else None

    def lock_pages(self) -> None:
        """So that a GPU writes to them without a wait. (torch's own pinned memory comes in powers of two.)"""
        n_bytes = self.flat.numel() * self.flat.element_size()
        if int(torch.cuda.cudart().cudaHostRegister(self.flat.data_ptr(), n_bytes, 0)):
            log.warning("%.1f GB of the host's memory could not be locked: saves will hold steps up", n_bytes / 1e9)

    def unlock_pages(self) -> None:
        """Before they are given back: locked, they could not be locked again."""
        if self.stream:
            torch.cuda.cudart().cudaHostUnregister(self.flat.data_ptr())


class Writer:
    """Saves of a run, one at a time. Every rank has one, made at the same time, and calls it in the same steps."""

    def __init__(self, run: Path, owned: Owned, config: TrainConfig, ranks: Ranks):
        self.run, self.config, self.ranks = run, config, ranks.apart()
        self.copy = Copy(owned)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    def save(self, step: int, state: dict, settle: Callable[[], None]) -> torch.cuda.Event | None:
        """Begin to write the checkpoint of `step`, behind what rank 0 has to `settle` on disk; returns as `Copy.take`.
        Waits for the save before it, and raises what went wrong with that one."""
        self.wait()
        copied = self.copy.take()
        self._thread = threading.Thread(target=self._write, args=(step, state, settle, copied), daemon=True)
        self._thread.start()
        return copied

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises as `checkpoint.save`."""
        if self._thread:
            self._thread.join()
        failure, self._thread, self._failure = self._failure, None, None
        if failure:
            raise failure

    def leave(self) -> None:
        """End with the run; where that ends by an error a save under way may still come to its end."""
        if self._thread:
            self._thread.join(None if self.ranks.world == 1 else LEAVING)
        if not self._thread or not self._thread.is_alive():
            self.copy.unlock_pages()

    def _write(self, step: int, state: dict, settle: Callable[[], None], copied: torch.cuda.Event | None) -> None:
        try:
            if copied:
                copied.synchronize()
            keep = self.config.keep_last, self.config.keep_every
            checkpoint.save(self.run, step, self.copy.owned, state, self.ranks, keep, settle)
        except Exception as error:
            self._failure = error
