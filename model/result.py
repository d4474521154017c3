"""What a run ends with: final/ (weights.safetensors, config.json) and, last of all, result.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
from pathlib import Path

import torch

from model import checkpoint
from model.checkpoint import State
from model.speed import peak_rate
from model.step import Learner
from model.transformer import parameter_counts
from schemas.files import file_sha256, json_hash, write_json
from schemas.manifest import Manifest, Plan
from schemas.training import ModelConfig

FINAL = "weights.safetensors", "config.json"
LAST_STEPS = 20  # that were not skipped, over which result.json's final loss is averaged


def finished(run: Path, made_with: dict) -> dict | None:
    """The result of a run with the same inputs, if there is one and the model that it ended with is there."""
    result = None
    with contextlib.suppress(FileNotFoundError, ValueError):
        result = json.loads((run / "result.json").read_text())
    same = result and result["inputs"] == json_hash(made_with)
    return result if same and not changed_files(run, result) else None


def changed_files(run: Path, result: dict) -> list[str]:
    """Those files of `run`/final that are missing, or not what the run left by its result.json."""
    told = result.get("final") or dict.fromkeys(FINAL)  # runs from before December 2026 tell no hashes
    files = {name: run / "final" / name for name in told}
    return [name for name, file in files.items() if not file.is_file() or told[name] not in (None, file_sha256(file))]


def finish(run: Path, learner: Learner, manifest: Manifest, plan: Plan, state: State, made_with: dict) -> dict:
    """Write final/ and, last, result.json."""
    network, vocab_size, ranks = learner.network, manifest.tokenizer["vocab_size"], learner.ranks
    (run / "final").mkdir(exist_ok=True)
    checkpoint.save_weights(run / "final" / "weights.safetensors", learner.adamw.owned, ranks)
    if ranks.rank > 0:
        return {}
    about = {
        "model": dataclasses.asdict(final_config(network.config, plan)),
        "vocab_size": vocab_size,
        "tokenizer": manifest.tokenizer,
    }
    write_json(run / "final" / "config.json", about)
    write_json(run / "evaluations.json", state.evaluations)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line["loss"] for line in lines if "skipped" not in line][-LAST_STEPS:]
    result = {
        "inputs": json_hash(made_with),
        "steps": state.step,
        "skipped": [line["step"] for line in lines if "skipped" in line],
        "tokens": state.step * learner.config.batch_tokens,
        "seconds": round(state.seconds, 1),
        "final_loss": math.fsum(last) / max(1, len(last)),
        "evaluations": state.evaluations,
        "expert_load": [[count / max(1, sum(layer)) for count in layer] for layer in state.load],
        "parameters": parameter_counts(network.config, vocab_size),
        "speed": speed(run, learner, state),
        "final": {name: file_sha256(run / "final" / name) for name in FINAL},
    }
    write_json(run / "result.json", result)
    return result


def final_config(model: ModelConfig, plan: Plan) -> ModelConfig:
    """That of the model that a run ends with: it turns positions as the last stage did."""
    last = [stage.rope_theta for stage in plan.stages if stage.samples][-1]
    return dataclasses.replace(model, rope_theta=last or model.rope_theta)


def speed(run: Path, learner: Learner, state: State) -> dict:
    """How fast the run was and how it was fitted into memory; rates are medians of its steps."""
    lines = [json.loads(line) for line in (run / "seconds.jsonl").read_text().splitlines()]
    rates = [line["flops"] / max(line["seconds"], 1e-4) for line in lines]  # seconds are told to four places
    world, peak = learner.ranks.world, peak_rate()
    return {
        "flops_per_second": statistics.median(rates),
        "dense_flops_per_second": state.dense * world,
        "peak_flops_per_second": peak and peak * world,
        "waited": sum(line["waited"] for line in lines) / sum(line["seconds"] for line in lines),
        "memory": max(line["memory"] for line in lines),
        "micro_batches": learner.division.micro_batches,
        "recompute": learner.division.recompute,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "ranks": world,
    }
