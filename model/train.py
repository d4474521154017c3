"""Train a model on shards, stage by stage as their plan says; killed at any instant and started again, it ends in the
same bits.

The folder of a run holds: checkpoints/ (model/checkpoint.py), metrics.jsonl, seconds.jsonl and ledger/
(model/ledger.py), evaluations.json, lock, final/ (weights.safetensors, config.json) and, last of all, result.json; of
several ranks also division.json, where memory ran out, and logs/.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import checkpoint
from model.checkpoint import State
from model.data import Batch, Batches
from model.division import keep_division, kept_division
from model.identity import identity
from model.ledger import Journal, load_metrics, recorded_steps
from model.lock import held
from model.optim import learning_rate
from model.parallel import kind_of
from model.parallel.ranks import ALONE, READING, SAVING, Ranks
from model.result import finish, finished
from model.speed import dense_rate, peak_memory, peak_rate
from model.step import Divided, Division, Learner, Told
from model.trace import Trace, span
from model.transformer import step_flops
from model.trouble import suspects
from model.writer import Writer
from schemas.errors import Stopped
from schemas.files import json_hash, write_json
from schemas.manifest import Manifest, Plan, Stage, load_manifest, load_plan
from schemas.training import ModelConfig, TrainConfig, check_shares, require

log = logging.getLogger("millrace.train")


@dataclass(frozen=True)
class Progress:
    """A step that was just done: `step` of `steps`, counted from 1.

    `of_dense` is the model's FLOP/s over those of dense products here, `mfu` over the chip's peak where it is known,
    `waited` the share of the step spent waiting for data, `busiest` the rows of the busiest expert over an even share,
    `memory` the most bytes held; of several ranks `waited` and `memory` are rank 0's. `skipped`: why the step changed
    nothing, if so.
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
    skipped: str | None = None


def train(
    shards: Path,
    run: Path,
    model: ModelConfig,
    config: TrainConfig,
    on_step: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Train, or go on where a killed run stopped, and return the content of `run`/result.json.

    `shards` holds manifest.json, plan.json and what they name. Several ranks each call it, with one folder `run` that
    all can write; rank 0 alone tells `on_step` and returns the result, the others {}. Raises ValueError if the plan
    does not fit shards, batch or ranks, or if `run` holds a checkpoint made with other inputs; FloatingPointError
    where step after step had to be skipped; RunBusy if another works in `run`; Stopped where a signal asked a rank to
    end, once all is saved; Divided where one of several ranks ran out of memory; OSError on a full disk.
    """
    manifest, plan = load_manifest(shards / "manifest.json"), load_plan(shards / "plan.json")
    made_with = identity(manifest, plan, model, config)
    told = ranks.every(json_hash([made_with, config.parallel]))
    others = [rank for rank, one in enumerate(told) if one != told[0]]
    require(not others, f"expected shards and settings of rank 0 on all machines, found others on ranks {others[:8]}")
    if (done := ranks.every(finished(run, made_with) if ranks.rank == 0 else None)[0]) is not None:
        return done if ranks.rank == 0 else {}
    with held(run, ranks):
        inputs, tell = (manifest, plan, model, config), on_step or (lambda progress: None)
        return _train(shards, run, inputs, made_with, tell, ranks)


def _train(
    shards: Path,
    run: Path,
    inputs: tuple[Manifest, Plan, ModelConfig, TrainConfig],
    made_with: dict,
    on_step: Callable[[Progress], None],
    ranks: Ranks,
) -> dict:
    manifest, plan, model, config = inputs
    keep_memory()
    batches = Batches(shards, manifest, plan, config.batch_tokens)
    check_shares(config.batch_tokens, [stage.seq_len for stage in plan.stages], ranks.world)
    vocab_size, longest = manifest.tokenizer["vocab_size"], max(stage.seq_len for stage in plan.stages)
    kind = kind_of(model, config, vocab_size, longest, ranks)
    learner = Learner(model, dataclasses.replace(config, parallel=kind), vocab_size, ranks)
    state = _resume(run, learner, made_with)
    documents, journal = list(batches.shards.heldout()), Journal(run, state.step) if ranks.rank == 0 else None
    writer = Writer(run, learner.adamw.owned, config, ranks)
    with contextlib.closing(journal) if journal else contextlib.nullcontext():
        work = Run(run, learner, batches, documents, state, journal, writer, made_with, on_step)
        try:
            work.go()
            writer.wait()
            checkpoint.prune(run, (config.keep_last, config.keep_every), ranks)  # if one was killed before it
        except Divided as smaller:
            keep_division(run, smaller.division, learner)
            raise
        finally:
            writer.leave()
    return finish(run, learner, manifest, plan, state, made_with)


@dataclass
class Run:
    """A run under way, and what it does between steps."""

    folder: Path
    learner: Learner
    batches: Batches
    documents: list[dict]  # held out
    state: State
    journal: Journal | None  # rank 0's
    writer: Writer
    made_with: dict
    on_step: Callable[[Progress], None]
    mark: float = 0.0  # when the step told last was, in seconds of the wall
    waited: float = 0.0  # seconds since then in which no batch was there
    pauses: bool = False  # some rank was asked to end, or cannot write: all know it in the same step

    def go(self) -> None:
        """All steps that are left, with the evaluations and checkpoints between them."""
        plan, every = self.batches.plan, self.learner.config.checkpoint_steps
        if not self.state.evaluations:
            self.evaluate("before training", plan.stages[0])
        self.state.dense = self.state.dense or dense_rate()
        launched, self.mark = None, time.perf_counter()
        steps, ranks = self.batches.steps, self.learner.ranks
        between = {*range(0, steps, every), *self.batches.stage_ends}
        trace = Trace(self.folder, *span(between, self.learner.config.profile if ranks.rank == 0 else 0))
        depth = 2 if self.learner.device.type == "cuda" else 0
        with contextlib.closing(self.batches.ahead(self.state.step, ranks.rank, ranks.world, depth)) as ahead:
            for number in range(self.state.step, steps):
                ranks.doing(number, READING)
                batch = self.wait(ahead)
                ranks.doing(number, "computing")
                trace.before(number)
                pause = ranks.is_stopping() or self.writer.has_failed
                told = self.learner.step(number, batch, self.rate(number), pause)
                trace.after(number)
                if launched is not None:  # while a GPU works on this step
                    self.tell(launched)
                launched = told
                stage_ends = number + 1 == self.batches.stage_ends[batch.stage]
                due = stage_ends or (number + 1) % every == 0
                if due or self.pauses or not told.on_its_way:
                    self.tell(launched)
                    launched = None
                if stage_ends:
                    self.evaluate(plan.stages[batch.stage].name, plan.stages[batch.stage])
                    self.learner.trouble.forget()
                # in trouble the last good one stays the newest
                if stage_ends or self.pauses or (due and not self.state.skipped):
                    self.save()
                    self.mark = time.perf_counter()
                if self.pauses:
                    self.writer.wait()
                    raise Stopped(f"{self.folder} is saved at step {self.state.step}, and the same command goes on")

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
        """Record a step. Raises FloatingPointError where too many in a row were skipped."""
        numbers, rows, load = told.read()
        load, why = load.view(self.learner.shares.shape), numbers.get("skipped")
        self.pauses |= bool(told.pauses)
        self.count(told.number, load, taken=why is None)
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        self.state.seconds += seconds
        if self.journal:
            self.record(told, numbers, rows, load, seconds)
        if why is not None:
            self.warn(f"step {told.number} was skipped: {why}; {suspects(rows)}")

    def count(self, number: int, load: Tensor, taken: bool) -> None:
        """Have the state know of a step."""
        state, (_, before) = self.state, self.batches.stage_of(number)
        state.load = (load * taken + (torch.tensor(state.load) if before else 0)).tolist()
        if taken:
            state.last_load = load.tolist()
        state.skipped = 0 if taken else state.skipped + 1
        state.step += 1

    def record(self, told: Told, numbers: dict, rows: np.ndarray, load: Tensor, seconds: float) -> None:
        """Write down what a step told, and pass it on."""
        state, batch_tokens, world = self.state, self.learner.config.batch_tokens, self.learner.ranks.world
        stage, tokens = self.batches.plan.stages[told.batch.stage].name, state.step * batch_tokens
        line = {"step": told.number, "stage": stage, "tokens": tokens, **numbers, **load_metrics(load)}
        flops = self.flops(told.batch) * world
        spent = {"seconds": round(seconds, 4), "waited": round(self.waited, 4), "flops": flops, "memory": peak_memory()}
        self.journal.add(line, spent, rows)
        peak, dense = (rate and rate * world for rate in (peak_rate(), state.dense))
        self.on_step(Progress(
            state.step, self.batches.steps, stage, line["loss"], line["lr"], tokens, batch_tokens / seconds,
            flops / seconds / dense, flops / seconds / peak if peak else None, self.waited / seconds,
            line["load_max"], spent["memory"], line.get("skipped"),
        ))  # fmt: skip
        self.waited = 0.0

    def warn(self, said: str) -> None:
        """Tell of a skipped step, or end the run by it."""
        state, most = self.state, self.learner.config.skip_most
        if state.skipped < most:
            if self.learner.ranks.rank == 0:
                log.warning(said)
            return
        self.writer.wait()
        good = checkpoint.newest(self.folder, state.step - state.skipped)
        raise FloatingPointError(
            f"{most} steps in a row were skipped; {said}. The last good checkpoint is "
            f"{good.name if good else 'none: the run had just begun'}. Lower peak_lr, or look at these documents"
        )

    def flops(self, batch: Batch) -> float:
        """Those of a step on this rank."""
        network = self.learner.network
        return step_flops(network.config, len(network.head.weight), np.diff(batch.packing.bounds_S.numpy()))

    def evaluate(self, when: str, stage: Stage) -> None:
        """Held-out bits per byte, as `stage` reads."""
        began, state = time.perf_counter(), self.state
        entry = {"step": state.step, "tokens": state.step * self.learner.config.batch_tokens}
        self.learner.ranks.doing(state.step, "evaluating")
        domains = self.learner.evaluate(self.documents, stage)
        state.evaluations.append({**entry, "stage": when, "seq_len": stage.seq_len, "domains": domains})
        if self.journal:
            write_json(self.folder / "evaluations.json", state.evaluations)
        state.seconds += time.perf_counter() - began

    def save(self) -> None:
        """Begin to write a checkpoint."""
        self.learner.ranks.doing(self.state.step, SAVING)
        division = self.learner.division
        self.state.recent = self.learner.trouble.window()
        self.state.micro_batches, self.state.recompute = division.micro_batches, division.recompute
        tokens = self.state.step * self.learner.config.batch_tokens
        content = {**dataclasses.asdict(self.state), "tokens": tokens, "made_with": self.made_with}
        settle = self.journal.cut(self.state.step) if self.journal else lambda: None
        self.learner.adamw.hold = self.writer.save(self.state.step, content, settle)


def _resume(run: Path, learner: Learner, made_with: dict) -> State:
    """Put the learner where the newest whole checkpoint stands; a new run starts at step 0."""
    run.mkdir(parents=True, exist_ok=True)
    loaded = checkpoint.load_newest(run, recorded_steps(run), made_with, learner.adamw.owned, learner.ranks)
    state = State()
    if loaded is not None:
        _, content = loaded
        state = State(**{field.name: content[field.name] for field in dataclasses.fields(State)})
        learner.adamw.publish()
    learner.trouble.resume(state.recent)
    learner.resume(state.last_load, kept_division(run, learner) or Division(state.micro_batches, state.recompute))
    learner.ranks.barrier()  # all have read what rank 0 changes next
    if learner.ranks.rank == 0:
        (run / "result.json").unlink(missing_ok=True)  # of a plan that was amended since
    return state


def keep_memory() -> None:
    """Have glibc keep freed blocks. It would hand large ones back at once; faulting them in again took most of a CPU
    step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD, bytes
