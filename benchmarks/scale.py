"""What more text costs, step by step to the verdicts: ten times the documents, and a new snapshot of a tenth; memory of
Python workers.

    python -m benchmarks scale FOLDER

FOLDER holds JSONL (plain, .gz, .zst; field `text`), of which texts of 200 characters or more are taken, each once, and
no pages. The recipe has no edits, evaluations and quality models. Wall time, Spark's start apart, Java and compiled
passes warm (a small run and an increment of it went before). The kept set of the run that had the new snapshot added
must be that of a run from nothing over both. The same on a standalone cluster of two workers, which is started here,
beside local[2]: each in a process of its own, after a small run.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.anchors import documents
from benchmarks.standalone import cluster
from benchmarks.timing import row
from flows.home import Home
from flows.job import Job
from flows.steps import STEPS
from pipelines import workers
from pipelines.spark import end
from schemas import tables
from schemas.recipe import Recipe

TIMES = 10  # the new snapshot is one document in so many, and the small run is over it alone
FILE_DOCUMENTS = 3000
WARMING = 2000
DECIDING = ("ingest", "learn", "measure", "dedup", "decontaminate", "edits", "judge")
# of a worker's 1,500 MB; as many tasks as local[2] has
SPREAD = {"spark.executor.memory": "1g", "spark.sql.shuffle.partitions": 4, "spark.default.parallelism": 4}
MOST_SHARE, MOST_GROWTH, MOST_MEMORY_GB, LEAST_MB = 0.15, 1.05 * TIMES, 2.0, 25.0


def rows(folder: str | None = None) -> list[dict]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        place = Path(scratch)
        texts, size = deliver(place / "in", folder)
        run(place, "warm", ["few"])
        run(place, "warm", ["few", "new"])
        small, _, few = run(place, "small", ["new"])
        run(place, "grown", ["old"])
        new, kept, _ = run(place, "grown", ["old", "new"])
        whole, expected, many = run(place, "whole", ["old", "new"])
        end()  # Java: memory for the cluster
        local, on_local = apart(place, "local", {"master": "local[2]"})
        with cluster(place / "servers") as address:
            spread, on_cluster = apart(place, "cluster", {"master": address, "settings": SPREAD})
    for one in kept, on_local, on_cluster:
        if one != expected:
            raise RuntimeError(f"expected the same kept documents; {len(one ^ expected)} of {len(expected):,} differ")
    given = [row("documents", texts, ""), row("size", size / 1e6, "MB")]
    steps = [row(f"{name}: all / a tenth", whole[name], "s", small[name]) for name in DECIDING]
    steps += [row(f"{name}: a tenth added / all", new[name], "s", whole[name]) for name in DECIDING]
    steps += [row(f"{name}: standalone cluster / local[2]", spread[name], "s", local[name]) for name in DECIDING]
    rate = size / 1e6 / whole["measure"] / os.cpu_count()
    measuring = row("measuring pass, Delta write included / the least we accept", rate, "MB/s a core", LEAST_MB, 1.0)
    limit = {"at_most": True}
    growth = row("to the verdicts: all / a tenth", sum(whole.values()), "s", sum(small.values()), MOST_GROWTH) | limit
    share = (
        row(
            "to the verdicts: a tenth added / all, the same kept set",
            sum(new.values()),
            "s",
            sum(whole.values()),
            MOST_SHARE,
        )
        | limit
    )
    memory = row("Python workers, peak of all / the most we accept", many / 1e9, "GB", MOST_MEMORY_GB, 1.0) | limit
    return [
        *given,
        *steps,
        measuring,
        growth,
        share,
        row("Python workers, peak: all / a tenth", many / 1e9, "GB", few / 1e9),
        memory,
    ]


def deliver(folder: Path, origin: str | None) -> tuple[int, int]:
    """Two snapshots of the documents of `origin`, dealt by turns, and a few of the old ones; how many there are, and
    their bytes."""
    texts = documents(origin, most=None, cut=None)
    old = [text for i, text in enumerate(texts) if i % TIMES]
    for name, chosen in (("old", old), ("new", texts[::TIMES]), ("few", old[:WARMING])):
        (folder / name).mkdir(parents=True)
        for begin in range(0, len(chosen), FILE_DOCUMENTS):
            with open(folder / name / f"{begin:08d}.jsonl", "w") as out:
                out.writelines(json.dumps({"text": text}) + "\n" for text in chosen[begin : begin + FILE_DOCUMENTS])
    return len(texts), sum(len(text.encode()) for text in texts)


def apart(place: Path, home: str, spark: dict) -> tuple[dict[str, float], set[str]]:
    """Seconds of each step and the kept documents of everything, with these fields of `spark:`, in a new process."""
    with get_context("spawn").Pool(1) as pool:
        pool.apply(run, (place, f"{home}-warm", ["few"], spark))
        return pool.apply(run, (place, home, ["old", "new"], spark))[:2]


def run(
    place: Path, home: str, snapshots: list[str], spark: dict | None = None
) -> tuple[dict[str, float], set[str], int]:
    """Seconds of each step, the kept documents, and the most bytes that all Python workers together held."""
    source = {
        "name": "texts",
        "reader": "jsonl",
        "domain": "docs",
        "path": f"{place}/in/{{snapshot}}",
        "snapshots": snapshots,
    }
    value = {"home": str(place / home), "sources": [source], "stages": [{"name": "one", "tokens": 1, "seq_len": 512}]}
    value |= {"spark": spark} if spark else {}
    job = Job(Recipe.model_validate(value), Home(place / home), {step.name: step.name for step in STEPS})
    job.home.root.mkdir(exist_ok=True)
    job.spark  # noqa: B018 - started before the clock
    seconds = {}
    with peak_memory(is_worker) as peak:
        for step in [step for step in STEPS if step.name in DECIDING]:
            started = time.perf_counter()
            step.run(job)
            seconds[step.name] = time.perf_counter() - started
    kept = job.home.lake.arrow(tables.VERDICTS, ["doc_id", "keep"])
    return seconds, {one["doc_id"] for one in kept.to_pylist() if one["keep"]}, peak()


def is_worker(process: psutil.Process) -> bool:
    return workers.__name__ in process.cmdline()


@contextmanager
def peak_memory(wanted: Callable[[psutil.Process], bool] = lambda process: True, root: int | None = None):
    """A function that gives the most bytes which processes below `root` (this one) held together, shared pages counted
    once.

    Sampled twice a second.
    """
    above, most, done = psutil.Process(root), 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not done.wait(0.5):
            with suppress(psutil.NoSuchProcess):  # the last sample may come late
                most = max(most, sum(_pss(process, wanted) for process in [above, *above.children(recursive=True)]))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: most
    finally:
        done.set()
        sampler.join()


def _pss(process: psutil.Process, wanted: Callable[[psutil.Process], bool]) -> int:
    try:
        return process.memory_full_info().pss if wanted(process) else 0
    except psutil.Error:
        return 0  # it ended meanwhile
