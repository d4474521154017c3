"""Train a model on shards, stage by stage as their plan says; killed at any instant and started again, it ends in the
same bits.

The folder of a run holds: checkpoints/ (model/checkpoint.py), metrics.jsonl, seconds.jsonl and ledger/
(model/ledger.py), evaluations.json, final/ (weights.safetensors, config.json) and, last of all, result.json.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from model import checkpoint
from model.data import Batch, Batches
from model.evaluate import bits_per_byte
from model.ledger import Journal, document_losses, load_metrics, recorded_steps
from model.loss import MeanLoss, targets
from model.optim import learning_rate, moments, optimiser, set_learning_rate, set_moments
from model.transformer import Transformer, parameter_counts
from schemas.files import file_sha256, json_hash, write_json
from schemas.manifest import Manifest, load_manifest, load_plan
from schemas.training import ModelConfig, TrainConfig

FINAL = "weights.safetensors", "config.json"
LAST_STEPS = 20  # over which result.json's final loss is averaged


@dataclass(frozen=True)
class Progress:
    """A step that was just done: `step` of `steps`, counted from 1."""

    step: int
    steps: int
    stage: str
    loss: float
    lr: float
    tokens: int
    tokens_per_second: float


@dataclass
class State:
    """What a checkpoint keeps besides weights and moments. `load` counts rows per expert over the current stage,
    [layers][E]."""

    step: int
    load: list[list[int]]
    evaluations: list[dict]
    seconds: float


class Learner:
    """Model and optimiser, and what a step does to them."""

    def __init__(self, model: ModelConfig, config: TrainConfig, vocab_size: int):
        self.config, self.device = config, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = Transformer(model, vocab_size, config.seed).to(self.device)
        self.adamw = optimiser(self.network, config)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def step(self, number: int, batch: Batch, rate: float) -> tuple[dict, np.ndarray, Tensor]:
        """(metrics, ledger rows, rows per expert [layers, E]). Raises FloatingPointError before it would spoil the
        weights."""
        tokens, segments, positions = (
            t.to(self.device) for t in (batch.tokens_BL, batch.segments_BL, batch.positions_BL)
        )
        targets_BL = targets(tokens, segments, batch.docs_S.to(self.device))
        with self.autocast():
            hidden = self.network(tokens, segments, positions)
            loss, losses_T = MeanLoss.apply(hidden.states_BLD.flatten(0, 1), self.network.head, targets_BL.flatten())
        (loss + self.network.config.balance_weight * hidden.balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        rows = document_losses(number, batch, targets_BL.cpu(), losses_T)
        numbers = {"loss": loss.item(), "balance": hidden.balance.item(), "lr": rate, "grad_norm": norm.item()}
        _check_finite(number, numbers, rows)
        set_learning_rate(self.adamw, rate)
        self.adamw.step()
        self.adamw.zero_grad()
        return numbers, rows, hidden.load.cpu()

    def evaluate(self, documents: list[dict], seq_len: int) -> dict[str, dict]:
        with self.autocast():
            return bits_per_byte(self.network, documents, seq_len, self.config.batch_tokens)


def train(
    shards: Path, run: Path, model: ModelConfig, config: TrainConfig, on_step: Callable[[Progress], None] | None = None
) -> dict:
    """Train, or go on where a killed run stopped, and return the content of `run`/result.json.

    `shards` holds manifest.json, plan.json and what they name. Raises ValueError if the plan does not fit shards or
    batch, or if `run` holds a checkpoint made with other inputs; FloatingPointError on a loss that is not finite;
    OSError on a full disk.
    """
    manifest, plan = load_manifest(shards / "manifest.json"), load_plan(shards / "plan.json")
    identity = checkpoint.identity(manifest, plan, model, config)
    if (done := _finished(run, identity)) is not None:
        return done
    keep_memory()
    batches = Batches(shards, manifest, plan, config.batch_tokens)
    learner = Learner(model, config, manifest.tokenizer["vocab_size"])
    state = _resume(run, learner, identity)
    documents = list(batches.shards.heldout())
    journal = Journal(run, state.step)
    with contextlib.closing(journal):
        _run(run, learner, batches, documents, state, journal, identity, on_step or (lambda progress: None))
    return _finish(run, learner, manifest, state, identity)


def _run(
    run: Path,
    learner: Learner,
    batches: Batches,
    documents: list[dict],
    state: State,
    journal: Journal,
    identity: dict,
    on_step: Callable[[Progress], None],
) -> None:
    """All steps that are left, with the evaluations and checkpoints between them."""
    plan, batch_tokens, every = batches.plan, learner.config.batch_tokens, learner.config.checkpoint_steps
    if not state.evaluations:
        _evaluate(run, learner, documents, state, "before training", plan.stages[0].seq_len)
    while state.step < batches.steps:
        began = time.perf_counter()
        number, (stage, before) = state.step, batches.stage_of(state.step)
        # at the step's middle
        rate = learning_rate(plan.stages[stage], (before + 0.5) * batch_tokens, learner.config.peak_lr)
        numbers, rows, load = learner.step(number, batches.batch(number), rate)
        state.load = (load + (torch.tensor(state.load) if before else 0)).tolist()
        state.step += 1
        seconds = time.perf_counter() - began
        state.seconds += seconds
        line = {
            "step": number,
            "stage": plan.stages[stage].name,
            "tokens": state.step * batch_tokens,
            **numbers,
            **load_metrics(load),
        }
        journal.add(line, seconds, rows)
        on_step(
            Progress(
                state.step, batches.steps, line["stage"], line["loss"], rate, line["tokens"], batch_tokens / seconds
            )
        )
        stage_ends = state.step == batches.stage_ends[stage]
        if stage_ends:
            _evaluate(run, learner, documents, state, line["stage"], plan.stages[stage].seq_len)
        if stage_ends or state.step % every == 0:
            journal.settle(state.step)
            _save(run, learner, state, identity)


def _evaluate(run: Path, learner: Learner, documents: list[dict], state: State, stage: str, seq_len: int) -> None:
    began = time.perf_counter()
    entry = {"step": state.step, "tokens": state.step * learner.config.batch_tokens, "stage": stage, "seq_len": seq_len}
    state.evaluations.append({**entry, "domains": learner.evaluate(documents, seq_len)})
    write_json(run / "evaluations.json", state.evaluations)
    state.seconds += time.perf_counter() - began


def _save(run: Path, learner: Learner, state: State, identity: dict) -> None:
    content = {**dataclasses.asdict(state), "tokens": state.step * learner.config.batch_tokens, "made_with": identity}
    checkpoint.save(run, state.step, learner.network.state_dict(), moments(learner.network, learner.adamw), content)


def _resume(run: Path, learner: Learner, identity: dict) -> State:
    """Put the learner where the newest whole checkpoint stands; a new run starts at step 0."""
    run.mkdir(parents=True, exist_ok=True)
    loaded, state = checkpoint.load_newest(run, recorded_steps(run)), State(0, [], [], 0.0)
    if loaded is not None:
        folder, weights, tensors, content = loaded
        checkpoint.check_same(content["made_with"], identity, content["tokens"], folder)
        learner.network.load_state_dict(weights)
        set_moments(learner.network, learner.adamw, tensors)
        state = State(**{field.name: content[field.name] for field in dataclasses.fields(State)})
    (run / "result.json").unlink(missing_ok=True)  # of a plan that was amended since
    return state


def _finished(run: Path, identity: dict) -> dict | None:
    """The result of a run with the same inputs, if there is one and the model that it ended with is there."""
    result = None
    with contextlib.suppress(FileNotFoundError, ValueError):
        result = json.loads((run / "result.json").read_text())
    same = result and result["inputs"] == json_hash(identity)
    return result if same and not changed_files(run, result) else None


def changed_files(run: Path, result: dict) -> list[str]:
    """Those files of `run`/final that are missing, or not what the run left by its result.json."""
    told = result.get("final") or dict.fromkeys(FINAL)  # runs from before December 2026 tell no hashes
    files = {name: run / "final" / name for name in told}
    return [name for name, file in files.items() if not file.is_file() or told[name] not in (None, file_sha256(file))]


def _finish(run: Path, learner: Learner, manifest: Manifest, state: State, identity: dict) -> dict:
    """Write final/ and, last, result.json."""
    network, vocab_size = learner.network, manifest.tokenizer["vocab_size"]
    (run / "final").mkdir(exist_ok=True)
    save_file(network.state_dict(), run / "final" / "weights.safetensors")
    about = {"model": dataclasses.asdict(network.config), "vocab_size": vocab_size, "tokenizer": manifest.tokenizer}
    write_json(run / "final" / "config.json", about)
    write_json(run / "evaluations.json", state.evaluations)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line["loss"] for line in lines[-LAST_STEPS:]]
    result = {
        "inputs": json_hash(identity),
        "steps": state.step,
        "tokens": state.step * learner.config.batch_tokens,
        "seconds": round(state.seconds, 1),
        "final_loss": math.fsum(last) / max(1, len(last)),
        "evaluations": state.evaluations,
        "expert_load": [[count / sum(layer) for count in layer] for layer in state.load],
        "parameters": parameter_counts(network.config, vocab_size),
        "final": {name: file_sha256(run / "final" / name) for name in FINAL},
    }
    write_json(run / "result.json", result)
    return result


def _check_finite(step: int, numbers: dict, rows: np.ndarray) -> None:
    bad = [name for name in ("loss", "balance", "grad_norm") if not math.isfinite(numbers[name])]
    if not bad:
        return
    broken = rows["doc"][~np.isfinite(rows["loss"])]
    docs = (broken if len(broken) else rows["doc"]).tolist()
    which = "with such losses" if len(broken) else "in the batch"
    raise FloatingPointError(
        f"step {step}: {' and '.join(bad)} not finite; documents {which}: {docs}. "
        "Lower peak_lr, or look at these documents; the last checkpoint is from before"
    )


def keep_memory() -> None:
    """Have glibc keep freed blocks. It would hand large ones back at once; faulting them in again took most of a CPU
    step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD, bytes
