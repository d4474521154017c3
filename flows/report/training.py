"""What the run's own files say: curriculum, training, evaluation, and what it all was made of and on."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from flows.home import Home
from flows.report.census import Rows
from flows.report.samples import printable
from schemas.files import read_json
from schemas.recipe import Recipe

POINTS = 400  # of a curve; longer ones are averaged in equal groups of steps
# averaged in a group; of others the last is taken
MEANT = ("loss", "balance", "lr", "grad_norm", "load_entropy", "seconds", "flops")
TOLD = ("steps", "tokens", "seconds", "final_loss", "parameters", "expert_load", "speed")  # of result.json
REFERENCES = ("unigram", "gzip")
PACKAGES = ("pyspark", "delta-spark", "torch", "mosaicml-streaming", "gigatoken", "prefect")


def stages(mixture: Rows, recipe: Recipe) -> Rows:
    """The curriculum: every stage with what it draws of each stream, and its `rope_theta` where stages differ in it."""
    curriculum, thetas = [], [theta or recipe.model.rope_theta for theta in recipe.rope_thetas]
    best_first = sorted(recipe.tiers, key=lambda tier: -recipe.tiers[tier])
    ordered = sorted(
        mixture, key=lambda row: (row["position"], row["source"], best_first.index(row["stream"].split(".", 1)[1]))
    )
    drawn = (list(members) for _, members in groupby(ordered, lambda row: row["position"]))
    for stage, theta, members in zip(recipe.stages, thetas, drawn, strict=False):
        told = [{**row, "drawn_so_far": row["epochs"] * row["unique_tokens"]} for row in members]
        lr = stage.lr
        curriculum.append({
            "stage": stage.name,
            "seq_len": stage.seq_len,
            "tokens": sum(row["tokens"] for row in members),
            "lr": {"shape": lr.shape, "start": lr.start, "end": lr.end, "warmup_tokens": lr.warmup_tokens},
            "method": stage.mixture.method,
            **({"rope_theta": theta} if len(set(thetas)) > 1 else {}),
            "streams": told,
        })  # fmt: skip
    return curriculum


def training(run_folder: Path, batch_tokens: int) -> dict[str, Any]:
    """Curves, cost, evaluations and expert load of a finished training run. Raises FileNotFoundError if there is
    none."""
    result = read_json(run_folder / "result.json")
    steps, seconds = _lines(run_folder / "metrics.jsonl"), _lines(run_folder / "seconds.jsonl")
    timed = [{**step, **second} for step, second in zip(steps, seconds, strict=False)]
    taken = [step for step in timed if "skipped" not in step]
    spans = [(name, list(members)) for name, members in groupby(timed, lambda step: step["stage"])]
    return {
        **{name: result[name] for name in TOLD},
        "profile": read_json(profile) if (profile := run_folder / "profile.json").is_file() else None,
        "tokens_per_second": batch_tokens * len(timed) / max(1e-9, sum(step["seconds"] for step in timed)),
        "stages": [
            {"stage": name, "first": members[0]["step"], "last": members[-1]["step"]} for name, members in spans
        ],
        "curve": [
            {
                **point,
                "tokens_per_second": batch_tokens / max(1e-9, point["seconds"]),
                "of_dense": point["flops"] / max(1e-9, point["seconds"]) / result["speed"]["dense_flops_per_second"],
            }
            for point in thin_curve(taken, POINTS)
        ],
    }


def thin_curve(steps: Rows, points: int) -> Rows:
    """At most about `points` steps, each the mean of its group; a group never spans two stages."""
    size = max(1, -(-len(steps) // points))
    curve = []
    for _, members in groupby(steps, lambda step: step["stage"]):
        members = list(members)
        for group in (members[i : i + size] for i in range(0, len(members), size)):
            curve.append(
                {**group[-1], **{name: sum(s[name] for s in group) / len(group) for name in MEANT if name in group[-1]}}
            )
    return curve


def evaluation(run_folder: Path) -> dict[str, Any]:
    """Held-out bits per byte of every domain: before training, after each stage, and the two references."""
    evaluations = read_json(run_folder / "result.json")["evaluations"]
    evaluated = read_json(run_folder / "evaluation.json")
    domains = []
    for domain, figures in sorted(evaluated["domains"].items()):
        told = [
            {"stage": one["stage"], "bits_per_byte": one["domains"][domain]["bits_per_byte"]} for one in evaluations
        ]
        final = told[-1]["bits_per_byte"]
        domains.append({
            "domain": domain,
            **{name: figures[name] for name in ("documents", "bytes", *REFERENCES)},
            "final": final,
            "stages": told,
            "beats": {name: final < figures[name] for name in REFERENCES},
        })  # fmt: skip
    said = [{"prompt": printable(one["prompt"]), "text": printable(one["text"])} for one in evaluated["generations"]]
    return {
        "domains": domains,
        "generations": said,
        "beats_both": bool(domains) and all(all(d["beats"].values()) for d in domains),
    }


def models(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The cards of the recipe's quality models, by domain, with what their scores go by in the corpus, and of the
    tokenizer. Models of a recipe that asked for others may lie beside them."""
    names = sorted(read_json(folder / "quality.json")["sha256"]) if recipe.quality else []
    audit = read_json(folder / "audit.json") if names else {}
    cards = [read_json(folder / f"quality-{name}.json") for name in names]
    cards = [{**card, "corpus": audit.get(card["model"])} for card in cards]
    for one in (one for card in cards if card["corpus"] for side in ("top", "bottom") for one in card["corpus"][side]):
        one["text"] = printable(one["text"])
    tokenizer = folder / "tokenizer.json"
    return {"quality": cards, "tokenizer": read_json(tokenizer) if tokenizer.is_file() else None}


def provenance(recipe: Recipe, home: Home, hashes: dict[str, str]) -> dict[str, Any]:
    """Recipe, steps, table versions, and the machine that the report was made on."""
    receipts = [receipt for step in hashes if (receipt := home.receipt(step)) and step != "report"]
    steps = [
        {
            "step": one.step,
            "seconds": one.seconds,
            "finished_at": one.finished_at,
            "hash": one.hash,
            "counts": one.counts,
        }
        for one in receipts
    ]
    return {
        "recipe": yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
        "hash": recipe.hash,
        "steps": steps,
        "seconds": sum(one.seconds for one in receipts),
        "tables": [
            {"table": name, "version": number, "step": one.step}
            for one in receipts
            for name, number in one.tables.items()
        ],
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        },
    }


def _lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]
