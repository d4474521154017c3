"""What a new snapshot costs: a tenth more text, against a run from nothing over both, step by step to the verdicts.

    python -m benchmarks.snapshots FOLDER

FOLDER holds JSONL (plain, .gz, .zst; field `text`). The two kept sets must be equal. Wall time, Spark's start apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.anchors import documents
from flows.home import Home
from flows.job import Job
from flows.steps import STEPS
from schemas import tables
from schemas.recipe import Recipe

DOCUMENTS = 40_000
SHARE = 0.1  # of them are the new snapshot
DECIDING = ("ingest", "measure", "dedup", "decontaminate", "edits", "judge")
MOST = 0.15  # of the time of a run from nothing


def rows(folder: str | None = None) -> list[dict]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        place = Path(scratch)
        deliver(place / "in", folder)
        run(place, "warm", ["old"])  # Java and numba compile what they compile
        run(place, "grown", ["old"])
        new, kept = run(place, "grown", ["old", "new"])
        whole, expected = run(place, "whole", ["old", "new"])
    if kept != expected:
        raise RuntimeError(f"expected the same kept documents; {len(kept ^ expected)} of {len(expected):,} differ")
    told = [row(f"{name}: {SHARE:.0%} new text / all from nothing", new[name], whole[name]) for name in DECIDING]
    return [*told, row("all of them, the same kept set", sum(new.values()), sum(whole.values())) | {"must": MOST, "at_most": True}]


def row(work: str, value: float, reference: float) -> dict:
    return {"work": work, "value": value, "unit": "s", "reference": reference, "ratio": value / reference}


def deliver(folder: Path, origin: str | None) -> None:
    """Two snapshots of the documents of `origin`, dealt by turns."""
    texts = documents(origin, DOCUMENTS)
    every = round(1 / SHARE)
    for name, chosen in (("old", [t for i, t in enumerate(texts) if i % every]), ("new", texts[::every])):
        (folder / name).mkdir(parents=True)
        with open(folder / name / "texts.jsonl", "w") as out:
            out.writelines(json.dumps({"text": text}) + "\n" for text in chosen)


def run(place: Path, home: str, snapshots: list[str]) -> tuple[dict[str, float], set[str]]:
    """Seconds of each step, and the hashes of the kept texts."""
    source = {"name": "texts", "reader": "jsonl", "domain": "docs", "path": f"{place}/in/{{snapshot}}", "snapshots": snapshots}
    value = {"home": str(place / home), "sources": [source], "stages": [{"name": "one", "tokens": 1, "seq_len": 512}]}
    job = Job(Recipe.model_validate(value), Home(place / home), {step.name: step.name for step in STEPS})
    job.home.root.mkdir(exist_ok=True)
    job.spark  # noqa: B018 - started before the clock
    seconds = {}
    for step in [step for step in STEPS if step.name in DECIDING]:
        started = time.perf_counter()
        step.work(job)
        seconds[step.name] = time.perf_counter() - started
    lake = job.home.lake
    kept = lake.arrow(tables.VERDICTS, ["doc_id", "keep"])
    return seconds, {one["doc_id"] for one in kept.to_pylist() if one["keep"]}


def main() -> None:
    for found in rows(*sys.argv[1:2]):
        print(f"{found['work']:60}{found['value']:9.1f} s {found['reference']:9.1f} s {found['ratio']:7.3f}")


if __name__ == "__main__":
    main()
