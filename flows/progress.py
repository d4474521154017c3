"""What a run tells while it works: a line a step on the terminal, and logs and a moving bar on Prefect's server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows.numbers import size

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

POLL_SECONDS = 0.3
LOG_SECONDS = 30.0  # between two lines of a step's log
WIDTH = 10  # of the steps' names


class Page:
    """Where a step is told besides the terminal: here nowhere, in a run on Prefect's server (`flows.curriculum`)."""

    def log(self, said: str) -> None:
        """A line of the step's log."""

    def progress(self, percent: float) -> None:
        """Where the step's bar stands."""


class Display:
    """Draws on a terminal; elsewhere (logs, CI) prints one plain line when a step begins and one when it ends."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)

    @contextmanager
    def step(self, name: str, number: int, of: int, page: Page) -> Iterator[Bar]:
        """Show a step while the block runs. The block calls `finish` on what it is given."""
        started = time.monotonic()
        bar = Bar(page, self.console)
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

    def __init__(self, page: Page, console: Console):
        self.summary, self._console = "", console
        self._progress: Progress | None = None
        self._page, self._logged, self._moved = page, time.monotonic(), 0.0

    def attach(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("", total=None)

    def update(self, done: float, total: float | None, said: str = "") -> None:
        """Move the bar; on the server at most once a second, with a line in the log every LOG_SECONDS."""
        if self._progress:
            self._progress.update(self._task, completed=done, total=total, description=said)
        now = time.monotonic()
        if total and now - self._moved >= 1:
            self._moved = now
            self._page.progress(100 * done / total)
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._page.log(said)

    def training(self, step: Any) -> None:
        """Show an optimiser step of the trainer."""
        said = f"{step.stage}  loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s, "
        said += f"{100 * step.of_dense:.0f} % of dense" if step.mfu is None else f"MFU {100 * step.mfu:.0f} %"
        said += f"  busiest expert {step.busiest:.2f}" if step.busiest > 1 else ""
        said += f"  waits {100 * step.waited:.0f} % for data" if step.waited > 0.02 else ""
        self.update(step.step, step.steps, said)

    def sending(self, done: int, total: int) -> None:
        """Show how many bytes were sent."""
        self.update(done, total, f"{size(done)} of {size(total)}")

    def tell(self, said: str) -> None:
        """A line of its own: above the bar, and in the step's log."""
        self._console.print(said, markup=False, soft_wrap=True)
        self._page.log(said)

    def finish(self, counts: dict[str, float], seconds: float) -> None:
        """Set the closing line from what the step counted."""
        self.summary = counted(counts, seconds)
        self._page.progress(100)
        self._page.log(f"{seconds:.1f} s   {self.summary}")


def counted(counts: dict[str, float], seconds: float) -> str:
    """What a step counted, in words; bytes with their rate."""
    said = [
        f"{value:,.2f} {name}" if value % 1 else f"{value:,.0f} {name}"
        for name, value in counts.items()
        if name != "bytes"
    ]
    if "bytes" in counts:
        said.append(f"{counts['bytes'] / 1e6:,.1f} MB at {counts['bytes'] / 1e6 / max(seconds, 1e-9):,.1f} MB/s")
    return ", ".join(said)


@contextmanager
def spark_tasks(bar: Bar, session: Callable[[], SparkSession | None]) -> Iterator[None]:
    """Move the bar with the tasks of Spark's running stages, once `session` returns a session."""
    from py4j.protocol import Py4JError  # `flows status` starts without it

    def show(done: int, total: int) -> None:
        if total:
            bar.update(done, total, f"{done} of {total} tasks")

    def told(stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """As Spark Connect calls it."""
        stages = list(stages or ())
        show(sum(stage.num_completed_tasks for stage in stages), sum(stage.num_tasks for stage in stages))

    def look() -> bool:
        if (spark := session()) is None:
            return True
        if is_remote(spark):
            spark.registerProgressHandler(told)
            return False  # it tells by itself from now on
        try:
            tracker = spark.sparkContext.statusTracker()
            stages = [info for stage in tracker.getActiveStageIds() if (info := tracker.getStageInfo(stage))]
        except (OSError, Py4JError):
            return False  # Spark is gone: the step will say so
        show(sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages))
        return True

    with _repeated(look):
        yield
    if (spark := session()) and is_remote(spark):
        spark.clearProgressHandlers()


def is_remote(spark: SparkSession) -> bool:
    """Whether the session is one of Spark Connect."""
    return type(spark).__module__.startswith("pyspark.sql.connect.")


class TookTooLong(RuntimeError):
    """A step's Spark jobs were interrupted."""


@contextmanager
def spark_timeout(step: str, minutes: float | None, session: Callable[[], SparkSession | None]) -> Iterator[None]:
    """Interrupt the block's Spark jobs after so many minutes: Prefect's timeout waits until a call into Java returns.

    Raises TookTooLong instead of what Spark then says.
    """
    from py4j.protocol import Py4JError

    until, late = time.monotonic() + 60 * (minutes or 0), False

    def look() -> bool:
        nonlocal late
        late = time.monotonic() >= until
        if late and (spark := session()):
            from pyspark.errors import PySparkException  # loaded with the session

            with contextlib.suppress(OSError, Py4JError, PySparkException):  # Spark is gone: the step will say so
                spark.interruptAll()  # again and again: a step has many jobs
        return True

    with contextlib.ExitStack() as stack:
        stack.enter_context(_repeated(look) if minutes else contextlib.nullcontext())
        try:
            yield
        except Exception as error:
            if not late:
                raise
            raise TookTooLong(
                f"{step}: expected Spark to be done within spark.timeout_minutes, found it at work after {minutes:g}; "
                "its jobs were interrupted. What is done is safe: raise the limit or look at spark.log, then run again"
            ) from error


@contextmanager
def _repeated(look: Callable[[], bool]) -> Iterator[None]:
    """Call `look` every POLL_SECONDS beside the block, until it says that this is enough."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS) and look():
            pass

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
