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
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from model import checkpoint
from model.data import Batch, Batches
from model.ledger import Journal, load_metrics, recorded_steps
from model.optim import learning_rate
from model.parallel.ranks import ALONE, Ranks
from model.speed import dense_rate, peak_memory, peak_rate
from model.step import Divided, Division, Learner, Told
from model.trace import Trace, span
from model.transformer import parameter_counts, step_flops
from schemas.files import file_sha256, json_hash, write_json
from schemas.manifest import Manifest, load_manifest, load_plan
from schemas.training import ModelConfig, TrainConfig

FINAL = "weights.safetensors", "config.json"
DIVISION = "division.json"  # how several ranks divide a step, where one ran out of memory
LAST_STEPS = 20  # over which result.json's final loss is averaged


@dataclass(frozen=True)
class Progress:
    """A step that was just done: `step` of `steps`, counted from 1.

    `of_dense` is the model's FLOP/s over those of dense products here, `mfu` over the chip's peak where it is known,
    `waited` the share of the step spent waiting for data, `busiest` the rows of the busiest expert over an even share,
    `memory` the most bytes held.
    """

    step: int
    steps: int
    stage: str
    loss: float
    lr: float
    tokens: int
    tokens_per_second: float
    of_dense: float
    mfu: float | None
    waited: float
    busiest: float
    memory: int


@dataclass
class State:
    """What a checkpoint keeps besides weights and moments. `load` counts rows per expert over the current stage,
    `last_load` in the last step, [layers][E]."""

    step: int = 0
    load: list[list[int]] = field(default_factory=list)
    last_load: list[list[int]] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    dense: float = 0.0  # FLOP/s of dense products here when the run began
    micro_batches: int = 1
    recompute: str = "none"


def train(
    shards: Path,
    run: Path,
    model: ModelConfig,
    config: TrainConfig,
    on_step: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Train, or go on where a killed run stopped, and return the content of `run`/result.json.

    `shards` holds manifest.json, plan.json and what they name. Several ranks each call it, with one folder `run` that all
    can write; rank 0 alone tells `on_step`. Raises ValueError if the plan does not fit shards or
    batch, or if `run` holds a checkpoint made with other inputs; FloatingPointError on a loss that is not finite;
    OSError on a full disk.
    """
    manifest, plan = load_manifest(shards / "manifest.json"), load_plan(shards / "plan.json")
    identity = checkpoint.identity(manifest, plan, model, config)
    if (done := _finished(run, identity)) is not None:
        return done
    keep_memory()
    batches = Batches(shards, manifest, plan, config.batch_tokens)
    batches.check_ranks(ranks.world)
    learner = Learner(model, config, manifest.tokenizer["vocab_size"], ranks)
    state = _resume(run, learner, identity)
    documents, journal = list(batches.shards.heldout()), Journal(run, state.step) if ranks.rank == 0 else None
    with contextlib.closing(journal) if journal else contextlib.nullcontext():
        work = Run(run, learner, batches, documents, state, journal, identity, on_step or (lambda progress: None))
        try:
            work.go()
        except Divided as smaller:
            write_json(run / DIVISION, dataclasses.asdict(smaller.division))
            raise
    return _finish(run, learner, manifest, state, identity)


@dataclass
class Run:
    """A run under way, and what it does between steps."""

    folder: Path
    learner: Learner
    batches: Batches
    documents: list[dict]  # held out
    state: State
    journal: Journal | None  # rank 0's
    identity: dict
    on_step: Callable[[Progress], None]
    mark: float = 0.0  # when the step told last was, in seconds of the wall
    waited: float = 0.0  # seconds since then in which no batch was there

    def go(self) -> None:
        """All steps that are left, with the evaluations and checkpoints between them."""
        plan, every = self.batches.plan, self.learner.config.checkpoint_steps
        if not self.state.evaluations:
            self.evaluate("before training", plan.stages[0].seq_len)
        self.state.dense = self.state.dense or dense_rate()
        launched, self.mark = None, time.perf_counter()
        steps, ranks = self.batches.steps, self.learner.ranks
        pauses = {*range(0, steps, every), *self.batches.stage_ends}
        trace = Trace(self.folder, *span(pauses, self.learner.config.profile if ranks.rank == 0 else 0))
        depth = 2 if self.learner.device.type == "cuda" else 0
        with contextlib.closing(self.batches.ahead(self.state.step, ranks.rank, ranks.world, depth)) as ahead:
            for number in range(self.state.step, steps):
                batch = self.wait(ahead)
                trace.before(number)
                told = self.learner.step(number, batch, self.rate(number))
                trace.after(number)
                if launched is not None:  # while a GPU works on this step
                    self.tell(launched)
                launched = told
                stage_ends = number + 1 == self.batches.stage_ends[batch.stage]
                saves = stage_ends or (number + 1) % every == 0
                if saves or not told.on_its_way:
                    self.tell(launched)
                    launched = None
                if stage_ends:
                    self.evaluate(plan.stages[batch.stage].name, plan.stages[batch.stage].seq_len)
                if saves:
                    self.save()
                    self.mark = time.perf_counter()

    def wait(self, ahead: Iterator[Batch]) -> Batch:
        """The next batch."""
        began = time.perf_counter()
        batch = next(ahead)
        self.waited += time.perf_counter() - began
        return batch

    def rate(self, number: int) -> float:
        """Learning rate of a step, at its middle."""
        stage, before = self.batches.stage_of(number)
        config = self.learner.config
        return learning_rate(self.batches.plan.stages[stage], (before + 0.5) * config.batch_tokens, config.peak_lr)

    def tell(self, told: Told) -> None:
        """Record a step. Raises FloatingPointError where its numbers are not finite."""
        numbers, rows, load = told.read()
        load = load.view(self.learner.shares.shape)
        state, batch_tokens = self.state, self.learner.config.batch_tokens
        _, before = self.batches.stage_of(told.number)
        state.load = (load + (torch.tensor(state.load) if before else 0)).tolist()
        state.last_load = load.tolist()
        state.step += 1
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        state.seconds += seconds
        if self.journal is None:
            return
        stage, tokens = self.batches.plan.stages[told.batch.stage].name, state.step * batch_tokens
        line = {"step": told.number, "stage": stage, "tokens": tokens, **numbers, **load_metrics(load)}
        flops = self.flops(told.batch) * self.learner.ranks.world
        spent = {"seconds": round(seconds, 4), "waited": round(self.waited, 4), "flops": flops, "memory": peak_memory()}
        self.journal.add(line, spent, rows)
        world = self.learner.ranks.world
        peak, dense = (rate and rate * world for rate in (peak_rate(), state.dense))
        self.on_step(Progress(
            state.step, self.batches.steps, stage, line["loss"], line["lr"], tokens, batch_tokens / seconds,
            flops / seconds / dense, flops / seconds / peak if peak else None, self.waited / seconds,
            line["load_max"], spent["memory"],
        ))  # fmt: skip
        self.waited = 0.0

    def flops(self, batch: Batch) -> float:
        """Those of a step on this rank."""
        network = self.learner.network
        return step_flops(network.config, len(network.head.weight), np.diff(batch.packing.bounds_S.numpy()))

    def evaluate(self, stage: str, seq_len: int) -> None:
        began, state = time.perf_counter(), self.state
        entry = {"step": state.step, "tokens": state.step * self.learner.config.batch_tokens}
        domains = self.learner.evaluate(self.documents, seq_len)
        state.evaluations.append({**entry, "stage": stage, "seq_len": seq_len, "domains": domains})
        if self.journal:
            write_json(self.folder / "evaluations.json", state.evaluations)
        state.seconds += time.perf_counter() - began

    def save(self) -> None:
        """Write a checkpoint."""
        if self.journal:
            self.journal.settle(self.state.step)
        division = self.learner.division
        self.state.micro_batches, self.state.recompute = division.micro_batches, division.recompute
        tokens = self.state.step * self.learner.config.batch_tokens
        content = {**dataclasses.asdict(self.state), "tokens": tokens, "made_with": self.identity}
        checkpoint.save(self.folder, self.state.step, self.learner.adamw.owned, content, self.learner.ranks)


def _resume(run: Path, learner: Learner, identity: dict) -> State:
    """Put the learner where the newest whole checkpoint stands; a new run starts at step 0."""
    run.mkdir(parents=True, exist_ok=True)
    loaded = checkpoint.load_newest(run, recorded_steps(run), learner.adamw.owned, learner.ranks)
    state = State()
    if loaded is not None:
        folder, content = loaded
        checkpoint.check_same(content["made_with"], identity, content["tokens"], folder)
        state = State(**{field.name: content[field.name] for field in dataclasses.fields(State)})
        learner.adamw.loaded()
    learner.resume(state.last_load, _division(run, state, learner.ranks))
    learner.ranks.barrier()  # all have read what rank 0 changes next
    if learner.ranks.rank == 0:
        (run / "result.json").unlink(missing_ok=True)  # of a plan that was amended since
    return state


def _division(run: Path, state: State, ranks: Ranks) -> Division:
    """That of the checkpoint; of several ranks, the one that a rank left which ran out of memory."""
    if ranks.world > 1 and (run / DIVISION).exists():
        return Division(**json.loads((run / DIVISION).read_text()))
    return Division(state.micro_batches, state.recompute)


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
    network, vocab_size, ranks = learner.network, manifest.tokenizer["vocab_size"], learner.ranks
    (run / "final").mkdir(exist_ok=True)
    checkpoint.save_weights(run / "final" / "weights.safetensors", learner.adamw.owned, ranks)
    if ranks.rank > 0:
        return {}
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
        "speed": speed(run, learner, state),
        "final": {name: file_sha256(run / "final" / name) for name in FINAL},
    }
    write_json(run / "result.json", result)
    return result


def speed(run: Path, learner: Learner, state: State) -> dict:
    """How fast the run was and how it was fitted into memory; rates are medians of its steps."""
    lines = [json.loads(line) for line in (run / "seconds.jsonl").read_text().splitlines()]
    rates = [line["flops"] / max(line["seconds"], 1e-4) for line in lines]  # seconds are told to four places
    return {
        "flops_per_second": statistics.median(rates),
        "dense_flops_per_second": state.dense,
        "peak_flops_per_second": peak_rate(),
        "waited": sum(line["waited"] for line in lines) / sum(line["seconds"] for line in lines),
        "memory": max(line["memory"] for line in lines),
        "micro_batches": learner.division.micro_batches,
        "recompute": learner.division.recompute,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "ranks": learner.ranks.world,
    }


def keep_memory() -> None:
    """Have glibc keep freed blocks. It would hand large ones back at once; faulting them in again took most of a CPU
    step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD, bytes
