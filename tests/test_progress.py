"""What a run tells while it works, and the limit on its Spark jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from flows import progress
from flows.progress import Bar, Page, TookTooLong, counted, spark_timeout


@dataclass
class Told(Page):
    lines: list[str] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)

    def log(self, said: str) -> None:
        self.lines.append(said)

    def progress(self, percent: float) -> None:
        self.moves.append(percent)


def test_a_bar_moves_once_a_second_and_says_a_line_every_thirty(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = Told()
    bar = Bar(told, Console(quiet=True))
    for tick in range(650):  # 65 seconds
        now = 1000.0 + tick / 10
        bar.update(tick, 650, f"at {tick}")
    assert told.lines == ["at 300", "at 600"]
    assert 60 <= len(told.moves) <= 65 and told.moves == sorted(told.moves) and told.moves[-1] > 95
    bar.finish({"documents": 1234, "bytes": 5e6}, 2.0)
    assert told.moves[-1] == 100 and told.lines[-1] == "2.0 s   1,234 documents, 5.0 MB at 2.5 MB/s"


def test_counts_in_words():
    assert counted({"loss": 5.4321, "steps": 32.0}, 1.0) == "5.43 loss, 32 steps"


def test_sparks_jobs_are_interrupted_at_the_limit(spark):
    began = time.monotonic()
    with pytest.raises(TookTooLong, match=r"measure: expected Spark to be done within spark.timeout_minutes, found it at work after 0\.03"):
        with spark_timeout("measure", 0.03, lambda: spark):
            spark.range(10**13).selectExpr("sum(hash(id, id + 1))").collect()  # hours
    assert time.monotonic() - began < 15
    assert spark.range(10).count() == 10  # the session goes on


def test_what_ends_in_time_or_fails_by_itself_is_left_alone(spark):
    with spark_timeout("measure", 1.0, lambda: spark):
        assert spark.range(10).count() == 10
    with pytest.raises(ZeroDivisionError), spark_timeout("measure", 1.0, lambda: spark):
        1 / 0  # noqa: B018
    with spark_timeout("measure", None, lambda: spark):
        time.sleep(progress.POLL_SECONDS)
