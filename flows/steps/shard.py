"""Tokens and shares to packed windows in MDS shards, with the plan and the manifest beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.job import Counts, Job
from flows.steps import decontaminate, dedup, edits, ingest, judge, measure, mixture, tokenise
from flows.steps.tokenise import tokenizer_card
from schemas import tables
from schemas.manifest import load_manifest
from schemas.recipe import Recipe

NEEDS = ("tokenise", "mixture")
TABLES = (tables.SPANS,)
REVISION = 1
BEFORE = {
    "ingest": ingest, "measure": measure, "dedup": dedup, "decontaminate": decontaminate, "edits": edits,
    "judge": judge, "tokenise": tokenise, "mixture": mixture,
}  # fmt: skip


def part(recipe: Recipe) -> dict[str, Any]:
    """Seed, windows and stages."""
    return recipe.part("seed", "window_tokens", "stages")


def files(job: Job) -> list[Path]:
    """Manifest and plan; windows and their indexes. A window's hash stands in the manifest: the trainer compares it."""
    root = job.home.shards
    manifest = load_manifest(root / "manifest.json")
    windows = [root / window.file for window in manifest.windows]
    indexes = sorted({window.with_name("index.json") for window in windows})
    return [root / "manifest.json", root / "plan.json", *windows, *indexes]


def run(job: Job) -> Counts:
    """Writes the windows that the stages will draw."""
    from model.settings import write_settings
    from pipelines.shards.write import shard

    mix = [row.asDict() for row in job.read(tables.MIXTURE).orderBy("position", "stream").collect()]
    written_by = {table.name: job.hashes[name] for name, step in BEFORE.items() for table in step.TABLES}
    made = shard(job.read(tables.TOKENS), mix, job.recipe, job.home.shards, tokenizer_card(job), written_by)
    write_settings(job.home.shards, job.recipe.model, job.recipe.train)  # no output: a run is told them anew
    job.write(made.spans, tables.SPANS, "shard")
    windows = [window for folder in made.manifest.folders for window in folder.windows]
    return {"windows": len(windows), "samples": sum(w.samples for w in windows), "bytes": sum(w.bytes for w in windows)}
