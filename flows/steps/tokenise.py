"""Kept documents, as edited, to token ids; and the tokenizer that they are made by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from flows.job import Counts, Job
from flows.steps.edits import apply_edits, attach_edits
from schemas import tables
from schemas.files import read_json, write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame

NEEDS = ("ingest", "edits", "judge")
TABLES = (tables.TOKENS,)
REVISION = 2


def part(recipe: Recipe) -> dict[str, Any]:
    """The tokenizer, and the seed of the sample that it is trained on."""
    return recipe.part("tokenizer", "seed")


def files(job: Job) -> list[Path]:
    """The tokenizer's ranks, beside the shards, where a trainer finds them; its card, with the other models' cards."""
    return [job.home.shards / "tokenizer.ranks", job.home.models / "tokenizer.json"]


def run(job: Job) -> Counts:
    """Trains the tokenizer if the recipe asks for one, then one pass over the kept text."""
    from pyspark.sql import functions as F

    from pipelines.shards import tokens
    from pipelines.spark import ID_BYTES, broadcast_small

    verdicts = job.read(tables.VERDICTS)  # starts Spark where this is the first step to run: expressions need it
    stream = F.when(F.col("heldout"), F.lit("heldout")).otherwise(F.concat_ws(".", "source", "tier"))
    kept = verdicts.where("keep").select("doc_id", stream.alias("stream"), "domain", "n_bytes", "heldout")
    texts = (
        job.read(tables.DOCUMENTS)
        .select("doc_id", "text")
        .join(broadcast_small(kept, F.lit(2 * ID_BYTES)), "doc_id", how="inner")
    )
    ranks = tokenizer_ranks(job, texts.where("not heldout"))
    store_tokenizer(job, ranks)
    rows = job.write(
        tokens.tokenise(attach_edits(job, texts), ranks, job.recipe.tokenizer.name), tables.TOKENS, "tokenise"
    )
    return {"documents": rows, "tokens": job.home.lake.total(tables.TOKENS, pc.field("n_tokens"))}


def tokenizer_ranks(job: Job, texts: DataFrame) -> bytes:
    """The tokenizer's ranks file: GPT-4's, or trained on a sample of the kept documents."""
    from pipelines.shards import tokens

    spec = job.recipe.tokenizer
    if spec.name == "cl100k_base":
        return tokens.cl100k_ranks()
    sample = tokens.training_sample(texts, job.recipe.seed, spec.sample_bytes)
    return tokens.train_bpe((row.text for row in apply_edits(job, sample).toLocalIterator()), spec.vocab_size)


def store_tokenizer(job: Job, ranks: bytes) -> None:
    """Write the step's files."""
    from pipelines.shards import tokens

    file, card = files(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(ranks)
    write_json(card, tokens.about(ranks, job.recipe.tokenizer.name, file.name))


def tokenizer_card(job: Job) -> dict[str, Any]:
    """The manifest's words on the tokenizer: `tokens.about`."""
    _, card = files(job)
    return read_json(card)
