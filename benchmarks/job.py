"""The steps inside Spark, Arrow hop and Delta write included: their rates, how time grows with text, and the job's
memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import yaml

from benchmarks.scale import peak_memory
from flows.home import Home
from flows.job import Job
from flows.steps import STEPS, Step
from pipelines import assets, deliveries
from pipelines.readers import ingest
from pipelines.signals import TABLE
from pipelines.signals.context import Context
from pipelines.signals.measure import measure
from schemas import tables
from schemas.parts import Source
from schemas.recipe import Recipe

TEXT_BYTES = 50_000_000  # the smaller corpus; the larger one has twice as much
COPIES = 5  # of the larger corpus for the measuring pass: what a step costs before its first document is 1 % then
LEAST_MEASURING_MB, MOST_MEMORY_GB, MOST_GROWTH = 25.0, 6.0, 2.1
DATA_STEPS = ("ingest", "learn", "measure", "dedup", "judge", "tokenise", "mixture", "shard")


def rows() -> list[dict]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        steps(Path(folder), 10_000_000)  # so that Java and numba have compiled what they compile
        once, twice = (steps(Path(folder), size) for size in (TEXT_BYTES, 2 * TEXT_BYTES))
        figures = [measuring(job(Path(folder), 2 * TEXT_BYTES)), share(twice), duplicates(twice)]
        figures += [growth(name, once, twice) for name in DATA_STEPS]
        return [*figures, memory(Path(folder))]


def steps(folder: Path, size: int) -> dict[str, dict]:
    """Seconds and counts of every data step over `size` bytes of this machine's Python text."""
    one = job(folder, size)
    one.home.root.mkdir()
    one.spark  # noqa: B018 - started before the clock
    return {step.name: timed(step, one) for step in STEPS if step.name in DATA_STEPS}


def job(folder: Path, size: int) -> Job:
    file = corpus(folder / f"{size}.jsonl", size)
    value = {
        "home": str(folder / f"home-{size}"),
        "sources": [{"name": "code", "reader": "jsonl", "domain": "code", "path": str(file)}],
        "quality": {"code": {"positives": [{"source": "code", "uri": "*7"}]}},
        "stages": [{"name": "one", "tokens": size // 20, "seq_len": 512}],
        "window_tokens": 1 << 17,
    }
    recipe = Recipe.model_validate(value)
    return Job(recipe, Home.of(recipe), {step.name: step.name for step in STEPS})


def corpus(file: Path, size: int) -> Path:
    """A JSONL file with the first `size` bytes of the installed packages' modules, in seeded order. Raises ValueError
    if there is less."""
    if file.exists():
        return file
    source = Source(name="code", reader="python-code", domain="code")
    recipe = Recipe.model_validate(
        {"home": "x", "sources": [source.model_dump()], "stages": [{"name": "x", "tokens": 1, "seq_len": 16}]}
    )
    written = 0
    with open(file, "w") as out:
        for one in ingest.listing(recipe)[deliveries.Delivery("code", "1")]:
            for made in ingest.read(one, source):
                if written < size and hasattr(made, "text"):
                    written += len(made.text.encode())
                    out.write(json.dumps({"text": made.text}) + "\n")
    if written < size:
        raise ValueError(f"expected {size:,} bytes of modules on this machine, found {written:,}")
    return file


def timed(step: Step, job: Job) -> dict:
    started = time.perf_counter()
    counts = step.run(job)
    return {"seconds": time.perf_counter() - started, **counts}


def measuring(job: Job) -> dict:
    """All signals of the documents of a finished measure step, `COPIES` times over, from one Delta table to another.

    Wall time on all cores, so a core's rate is the quotient.
    """
    documents, near = job.read(tables.DOCUMENTS).crossJoin(job.spark.range(COPIES)), job.recipe.near_duplicates
    models = {"code": (job.home.models / "quality-code.bin").read_bytes()}
    context = Context(assets.LANGUAGE_MODEL.read_bytes(), models, near.ngram, near.bands, near.rows, job.recipe.seed)
    started = time.perf_counter()
    job.write(measure(documents, context), TABLE, "measure")
    seconds = time.perf_counter() - started
    value = job.home.lake.total(tables.SIGNALS, pc.field("n_bytes")) / 1e6 / seconds / os.cpu_count()
    work = "measuring pass, with Arrow hop and Delta write / the least we accept"
    ratio = value / LEAST_MEASURING_MB
    return {
        "work": work,
        "value": value,
        "unit": "MB/s a core",
        "reference": LEAST_MEASURING_MB,
        "ratio": ratio,
        "must": 1.0,
    }


def share(by_step: dict) -> dict:
    value = 100 * by_step["measure"]["seconds"] / sum(one["seconds"] for one in by_step.values())
    return {"work": "measure, quality training included: share of the data steps", "value": value, "unit": "%"}


def duplicates(by_step: dict) -> dict:
    value = by_step["dedup"]["documents"] / by_step["dedup"]["seconds"]
    return {"work": "exact and verified near duplicates", "value": value, "unit": "documents/s"}


def growth(name: str, once: dict, twice: dict) -> dict:
    small, large = once[name]["seconds"], twice[name]["seconds"]
    work = f"{name}: twice the text / once"
    return {
        "work": work,
        "value": large,
        "unit": "s",
        "reference": small,
        "ratio": large / small,
        "must": MOST_GROWTH,
        "at_most": True,
    }


def memory(folder: Path) -> dict:
    """Largest memory of the default run, all its processes together, shared pages counted once."""
    value = yaml.safe_load(Path("flows/recipes/local.yaml").read_text()) | {"home": str(folder / "home-local")}
    file = folder / "local.yaml"
    file.write_text(yaml.safe_dump(value))
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "curriculum", "--recipe", str(file)], stdout=subprocess.DEVNULL
    )
    with peak_memory(root=run.pid) as peak:
        if run.wait():
            raise RuntimeError(f"the default run failed with exit code {run.returncode}")
    return {
        "work": "the default run: peak memory / the most we accept", "value": peak() / 1e9, "unit": "GB",
        "reference": MOST_MEMORY_GB, "ratio": peak() / 1e9 / MOST_MEMORY_GB, "must": 1.0, "at_most": True,
    }  # fmt: skip
