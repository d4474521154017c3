"""One line a step: a bar while it runs, counts, rate and time when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

POLL_SECONDS = 0.3
WIDTH = 10  # of the steps' names


class Display:
    """Draws on a terminal; elsewhere (logs, CI) prints one plain line when a step begins and one when it ends."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)

    @contextmanager
    def step(self, name: str, number: int, of: int) -> Iterator[Bar]:
        """Show a step while the block runs. The block calls `finish` on what it is given."""
        started = time.monotonic()
        bar = Bar()
        if not self.console.is_terminal:
            self.console.print(f"{number:>2}/{of} {name:<{WIDTH}} ...", soft_wrap=True)
            yield bar
        else:
            named, said = TextColumn(f"{number:>2}/{of} [bold]{name:<{WIDTH}}"), TextColumn("{task.description}")
            with Progress(
                named, BarColumn(30), said, TimeElapsedColumn(), console=self.console, transient=True
            ) as progress:
                bar.attach(progress)
                yield bar
        self.console.print(
            f"{number:>2}/{of} [bold]{name:<{WIDTH}}[/] {time.monotonic() - started:6.1f} s   {bar.summary}",
            soft_wrap=True,  # a log has no width
        )


class Bar:
    """The line of one step."""

    def __init__(self):
        self.summary = ""
        self._progress: Progress | None = None

    def attach(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("", total=None)

    def update(self, done: float, total: float | None, said: str = "") -> None:
        if self._progress:
            self._progress.update(self._task, completed=done, total=total, description=said)

    def training(self, step: Any) -> None:
        """Show an optimiser step of the trainer."""
        said = f"{step.stage}  loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s, "
        said += f"{100 * step.of_dense:.0f} % of dense" if step.mfu is None else f"MFU {100 * step.mfu:.0f} %"
        said += f"  busiest expert {step.busiest:.2f}" if step.busiest > 1 else ""
        said += f"  waits {100 * step.waited:.0f} % for data" if step.waited > 0.02 else ""
        self.update(step.step, step.steps, said)

    def finish(self, counts: dict[str, float], seconds: float) -> None:
        """Set the closing line from what the step counted."""
        said = [
            f"{value:,.2f} {name}" if value % 1 else f"{value:,.0f} {name}"
            for name, value in counts.items()
            if name != "bytes"
        ]
        if "bytes" in counts:
            said.append(f"{counts['bytes'] / 1e6:,.1f} MB at {counts['bytes'] / 1e6 / max(seconds, 1e-9):,.1f} MB/s")
        self.summary = ", ".join(said)


@contextmanager
def spark_tasks(bar: Bar, session: Callable[[], SparkSession | None]) -> Iterator[None]:
    """Move the bar with the tasks of Spark's running stages, once `session` returns a session."""
    from py4j.protocol import Py4JError  # `flows status` starts without it

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            spark = session()
            if spark is None:
                continue
            try:
                tracker = spark.sparkContext.statusTracker()
                stages = [info for stage in tracker.getActiveStageIds() if (info := tracker.getStageInfo(stage))]
            except (OSError, Py4JError):
                return  # Spark is gone: the step will say so
            if stages:
                done, total = sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
                bar.update(done, total, f"{done} of {total} tasks")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
