"""What a training run tells of its steps, brought into the lake while it goes on: ops.ledger and ops.metrics."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.job import Job
from pipelines.lake import from_rows
from schemas import tables

TABLES = tables.LEDGER, tables.METRICS  # in the order of their commits: a step that METRICS tells is in both
LOOK_SECONDS = 1.0  # between two looks for a new checkpoint


class LiveLedger:
    """Commits what the trainer left at its checkpoints, each once, in a thread: a commit takes .1 s.

    A checkpoint's files do not change, unless a run goes back to an older checkpoint and writes others. So the first
    commit of a process, or behind such a step back, replaces what the tables hold of the run from its first step on:
    what a process that died left in one table and not in the other, what was taken back. The others append, so a
    commit costs what it writes. Tables that another changed, or with a damaged file, are filled from the first step.
    """

    def __init__(self, job: Job, on_commit: Callable[[], None] = lambda: None):
        self.job, self.run, self.folder, self.on_commit = job, job.hashes["train"], job.run_folder, on_commit
        self.ancestry = {"step": "train", "hash": self.run, "deliveries": {}}
        self._places: dict[str, tuple[int, int]] = {}  # by file of lines, the next line and where it begins
        self._appends, self._looked, self._last = False, time.monotonic(), Future()
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._last.set_result(None)
        self.next = self._begin()

    def _begin(self) -> int:
        """The first step that is to be committed. Tables that are not as we left them are emptied of the run."""
        lake = self.job.home.lake
        if not all(lake.ancestry(table) for table in TABLES):
            for table in TABLES:
                self.job.store(from_rows([], table), table, self.ancestry, f"run = '{self.run}'")
        steps = lake.arrow(tables.METRICS, ["step"], pc.field("run") == self.run).column("step")
        return pc.max(steps).as_py() + 1 if len(steps) else 0

    def on_step(self, number: int) -> None:
        """To be called behind each step; number: it, from 0."""
        if number < self.next:
            self._wait()
            self._go_back(number)
        if self._last.done() and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._last = self._thread.submit(self.commit)

    def _go_back(self, step: int) -> None:
        self.next, self._appends = min(self.next, step), False
        self._places.clear()

    def commit(self) -> None:
        """Bring in what is there by now."""
        from model.ledger import steps_of_files

        for path, (first, last) in steps_of_files(self.folder).items():
            if first >= self.next:
                self._commit(np.load(path, allow_pickle=False), first, last)
                self.on_commit()

    def _commit(self, rows: np.ndarray, first: int, last: int) -> None:
        where = None if self._appends else f"run = '{self.run}' and step >= {first}"
        losses = pa.array(rows["loss"], mask=~np.isfinite(rows["loss"]))
        lost = pa.array([self.run] * len(rows)), rows["step"], rows["doc"], rows["tokens"], losses, rows["skipped"]
        ledger = pa.table(dict(zip(tables.LEDGER.column_names, lost, strict=True)))
        try:
            for table, told in zip(TABLES, (ledger, self._metrics(first, last)), strict=True):
                told = told.cast(from_rows([], table).schema)
                self.job.store(told, table, self.ancestry, where, append=self._appends)
        except Exception:
            self._go_back(first)  # one table may have it
            raise
        self.next, self._appends = last + 1, True

    def _metrics(self, first: int, last: int) -> pa.Table:
        parts = [self._lines(self.folder / name, first, last) for name in ("metrics.jsonl", "seconds.jsonl")]
        return from_rows([{"run": self.run, **one, **other} for one, other in zip(*parts, strict=True)], tables.METRICS)

    def _lines(self, path: Path, first: int, last: int) -> list[dict[str, Any]]:
        """Of a file with a line a step those of some steps, read from where the last ones ended."""
        number, place = self._places.get(path.name, (0, 0))
        with path.open("rb") as file:
            file.seek(place)
            lines = [file.readline() for _ in range(number, last + 1)][first - number :]
            self._places[path.name] = last + 1, file.tell()
        return [json.loads(line) for line in lines]

    def _wait(self) -> None:
        """For the commit that is under way. One that failed is tried again by the next."""
        with contextlib.suppress(Exception):
            self._last.result()

    def finish(self) -> None:
        """Bring in what is left. Raises what a commit raises."""
        self._wait()
        self.commit()

    def __enter__(self) -> LiveLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
