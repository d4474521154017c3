"""Held-out figures of the trained model beside two references on the same documents, and what it writes."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.job import Counts, Job
from flows.steps import tokenise
from flows.steps.edits import apply_edits
from schemas import tables
from schemas.errors import DataError
from schemas.files import read_json, write_json
from schemas.recipe import Recipe

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    import pyarrow as pa
    from pyspark.sql import DataFrame

NEEDS = ("ingest", "edits", "tokenise", "train")
TABLES = ()
REVISION = 1
CONTINUATION_TOKENS = 80
TEMPERATURE, TOP_K = 0.8, 50


def part(recipe: Recipe) -> dict[str, Any]:
    """The prompts that are continued, and the seed of the sampling."""
    return recipe.part("prompts", "seed")


def files(job: Job) -> list[Path]:
    """The figures and continuations, as JSON."""
    return [job.run_folder / "evaluation.json"]


def run(job: Job) -> Counts:
    """Reads the held-out texts as they are learnt."""
    from pyspark.sql import functions as F

    from pipelines.spark import ID_BYTES, broadcast_small

    ranks, _ = tokenise.files(job)
    rows = job.read(tables.TOKENS)
    chosen = broadcast_small(rows.where("stream = 'heldout'").select("doc_id"), F.lit(ID_BYTES))
    heldout = job.read(tables.DOCUMENTS).join(chosen, "doc_id", how="left_semi")
    texts, tokenizer = apply_edits(job, heldout.select("doc_id", "text")), tokenise.tokenizer_card(job)
    evaluated = figures(rows, texts, job.recipe, job.run_folder, tokenizer, ranks.read_bytes())
    write_json(*files(job), evaluated)
    return {f"bits/byte {domain}": told["final"] for domain, told in evaluated["domains"].items()}


def figures(
    tokens: DataFrame, documents: DataFrame, recipe: Recipe, run_folder: Path, tokenizer: dict, ranks: bytes
) -> dict[str, Any]:
    """Figures of a finished training run: bits per byte of every domain before training, after each stage, and of the
    references `unigram` and `gzip`; continuations of the recipe's prompts."""
    result = read_json(run_folder / "result.json")
    held = tokens.where("stream = 'heldout'")
    check_final(run_folder, result)
    known = references(held, documents, tokenizer["vocab_size"])
    domains = {}
    for evaluation in result["evaluations"]:
        for domain, told in evaluation["domains"].items():
            size = {name: told[name] for name in ("documents", "bytes")}
            entry = domains.setdefault(domain, {**size, "stages": {}, **known[domain]})
            entry["stages"][evaluation["stage"]] = entry["final"] = told["bits_per_byte"]
    return {"domains": domains, "generations": continuations(recipe, run_folder, tokenizer, ranks)}


def check_final(run_folder: Path, result: dict[str, Any]) -> None:
    """Raises DataError naming the files of the trained model that are not what the run left."""
    from model.result import changed_files

    if changed := changed_files(run_folder, result):
        raise DataError(
            f"{run_folder / 'final'}: expected what the run ended with, found {' and '.join(changed)} missing or "
            "changed: `flows run train` writes it again"
        )


def references(held: DataFrame, documents: DataFrame, vocab_size: int) -> dict[str, dict[str, float]]:
    """Bits per byte of each domain's held-out documents under two models that know them beforehand or not at all.

    unigram: entropy of the domain's own token frequencies times tokens, a bound that no unigram model can beat.
    gzip: `gzip -9` of each document alone.
    """
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import functions as F

    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for domain, blob, text in zip(
                *(batch.column(name).to_pylist() for name in ("domain", "tokens", "text")), strict=True
            ):
                ids, counts = np.unique(np.frombuffer(blob, dtype), return_counts=True)
                data = text.encode()
                packed = len(gzip.compress(data, 9, mtime=0))
                yield pa.RecordBatch.from_pydict({
                    "domain": [domain] * (len(ids) + 1),
                    "token": [-1, *ids.tolist()],
                    "n": [0, *counts.tolist()],
                    "bytes": [len(data)] + [0] * len(ids),
                    "packed": [packed] + [0] * len(ids),
                })  # fmt: skip

    texts = documents.select("doc_id", "text").join(
        F.broadcast(held.select("doc_id", "domain", "tokens")), "doc_id", how="inner"
    )
    schema = "domain string, token bigint, n bigint, bytes bigint, packed bigint"
    counted = texts.select("domain", "tokens", "text").mapInArrow(count, schema)
    by_token = counted.groupBy("domain", "token").agg(*[F.sum(name).alias(name) for name in ("n", "bytes", "packed")])
    rows = by_token.collect()  # at most one row a vocabulary entry and domain
    return {
        domain: _bits_per_byte([row for row in rows if row.domain == domain])
        for domain in sorted({row.domain for row in rows})
    }


def _bits_per_byte(rows: list) -> dict[str, float]:
    total, size, packed = (sum(getattr(row, name) for row in rows) for name in ("n", "bytes", "packed"))
    bits = -sum(row.n * math.log2(row.n / total) for row in sorted(rows, key=lambda row: row.token) if row.n)
    return {"unigram": bits / size, "gzip": 8 * packed / size}


def continuations(recipe: Recipe, run_folder: Path, tokenizer: dict, ranks: bytes) -> list[dict[str, str]]:
    """What the trained model writes after each prompt."""
    from model.generate import load, sample
    from pipelines.shards.tokens import encoding

    words = encoding(ranks, tokenizer["name"])
    model = load(run_folder / "final")
    generations = []
    for prompt in recipe.prompts:
        ids = [tokenizer["eot"], *words.encode_ordinary(prompt)]
        more = sample(model, ids, CONTINUATION_TOKENS, TEMPERATURE, TOP_K, recipe.seed, tokenizer["eot"])
        generations.append(
            {"prompt": prompt, "text": words.decode([token for token in more if token != tokenizer["eot"]])}
        )
    return generations
