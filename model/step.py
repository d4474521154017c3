"""One optimiser step: micro-batches forward and backward, one update, and what it tells, fetched without a wait."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.capture import CapturedSteps, Compute
from model.data import Batch
from model.evaluate import bits_per_byte
from model.ledger import NO_ROWS, document_losses, segments
from model.optim import AdamW, runs_on
from model.parallel import place
from model.parallel.ranks import ALONE, Ranks
from model.transformer import Transformer
from model.trouble import Trouble, reason
from schemas.manifest import Stage
from schemas.training import ModelConfig, TrainConfig

log = logging.getLogger(__name__)

HEAD = 7  # numbers of a step before those of its segments, as `Learner.compute` tells them
RECOMPUTED = "none", "attention", "block"  # what the backward computes again, with less and less memory


@dataclass
class Division:
    """How a step is fitted into memory: micro-batches of equal rows, and what is computed again in the backward."""

    micro_batches: int = 1
    recompute: str = "none"

    def smaller(self, rows: int) -> Division | None:
        """The next one that takes less memory, for batches of `rows` rows."""
        more = next((n for n in range(self.micro_batches + 1, rows + 1) if rows % n == 0), None)
        if more is not None:
            return Division(more, self.recompute)
        left = RECOMPUTED[RECOMPUTED.index(self.recompute) + 1 :]
        return Division(self.micro_batches, left[0]) if left else None


class Divided(RuntimeError):
    """A rank ran out of memory: all are to begin again from the last checkpoint, divided as `division` says."""

    def __init__(self, division: Division):
        super().__init__(f"memory ran out: start again, and the run goes on from its last checkpoint with {division}")
        self.division = division


class Learner:
    """Model and optimiser, and what a step does to them.

    The balance loss is a product of two means over the step's tokens, rows per expert and probabilities, of which only
    the second has a derivative. The first is taken from the step before (even, before the first): it is known before
    the first micro-batch, and any division into micro-batches gives the same gradients.
    """

    def __init__(self, model: ModelConfig, config: TrainConfig, vocab_size: int, ranks: Ranks = ALONE):
        self.config, self.ranks, self.device = config, ranks, ranks.device
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(config.deterministic)
        with torch.device("meta"):
            self.network = Transformer(model, vocab_size)
        self.adamw = AdamW(self.network, config, place(self.network, config, ranks))
        self.trouble = Trouble(config, self.device)
        self.shares = torch.full((model.layers, model.experts), 1 / model.experts, device=self.device)
        self.division = Division()
        self._compute = self._launch()

    def _launch(self) -> Compute:
        """How steps are computed: captured where that pays, unless experts run on their definition, which waits for the
        host, or others are waited for."""
        if self.device.type == "cpu" or self.ranks.world > 1 or runs_on(self.network) == "reference":
            return self.compute
        return CapturedSteps(self.compute)

    def resume(self, last_load: list[list[int]], division: Division) -> None:
        """Go on as the run did that a checkpoint is of."""
        if last_load:
            load = torch.tensor(last_load, device=self.device)
            self.shares.copy_(load / load.sum(1, keepdim=True))
        self.division = division

    def step(self, number: int, batch: Batch, rate: float, pause: bool = False) -> Told:
        """Update the model by a batch. One that is not finite, or explodes, leaves it as it was, and is told by
        `Told.read`. Where any rank says `pause`, all are told so of the same step (`Told.pauses`, once it is read).

        Where memory runs out the step is divided further and done again; with several ranks Divided is raised instead,
        as others wait for this one's part. Raises MemoryError if it cannot be divided.
        """
        while (told := self._try(number, batch, rate, pause)) is None:
            self._divide(batch)
        return told

    def _try(self, number: int, batch: Batch, rate: float, pause: bool) -> Told | None:
        try:
            return self._step(number, batch, rate, pause)
        except torch.OutOfMemoryError:
            return None  # only once this frame is left is what the step held free again

    def _divide(self, batch: Batch) -> None:
        rows, length = batch.tokens_BL.shape
        self.adamw.forget()
        self._compute = self._launch()  # what was captured held memory, and was divided otherwise
        torch.cuda.empty_cache()
        smaller = self.division.smaller(rows)
        if smaller is None:
            held, there = (f"{n / 1e9:.1f} GB" for n in (torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]))
            raise MemoryError(
                f"one row of {length} tokens does not fit beside weights and optimiser ({held} of {there}), though "
                "every block is computed again in the backward: choose a smaller model, or a shorter seq_len"
            )
        if self.ranks.world > 1:
            raise Divided(smaller)
        self.division = smaller
        log.warning("memory ran out: %s", self.division)

    def _step(self, number: int, batch: Batch, rate: float, pause: bool) -> Told:
        count = torch.tensor([float((batch.targets_BL >= 0).sum()), float(pause)])
        count = (count.pin_memory() if self.device.type == "cuda" else count).to(self.device, non_blocking=True)
        parts = batch.split(self.division.micro_batches)
        self.adamw.rate.fill_(rate)
        if self.adamw.hold and isinstance(self._compute, CapturedSteps):  # a graph waits for nothing outside it
            torch.cuda.current_stream().wait_event(self.adamw.hold)
        sent = [part.map(lambda tensor: tensor.to(self.device, non_blocking=True)) for part in parts]
        return Told(number, batch, rate, parts, self._compute(sent, count), self)

    def compute(self, parts: list[Batch], count: Tensor) -> Tensor:
        """All that a step does on the device, from its micro-batches and [how many tokens they predict, 1 to pause], to
        its numbers: [loss, balance, norm, 1 if it was taken, ranks that pause, deviations of loss and norm, nats of
        each segment of each part, rows per expert of each layer] in float64."""
        self.adamw.add_up(len(parts))
        count, pauses = self.ranks.sum(count)
        told = [self._micro_batch(part, 1 / count.clamp(min=1), len(parts)) for part in parts]
        nats, balances, loads = zip(*told, strict=True)
        nats_S, load = torch.cat(nats), torch.stack(loads).sum(0)
        # one sum over ranks of all that they have in common
        balance = torch.stack(balances).mean().double() / self.ranks.world
        common = torch.cat([torch.stack([nats_S.sum(), balance]), load.flatten().double()])
        (nats_sum, balance), load = self.ranks.sum(common).split([2, load.numel()])
        loss, trouble = nats_sum / count.clamp(min=1), self.trouble
        norm = self.adamw.step(lambda norm: trouble.judge(loss, balance, norm))
        shares = load.view(self.shares.shape).to(self.shares.dtype)
        shares /= shares.sum(1, keepdim=True)
        self.shares.copy_(torch.where(trouble.taken, shares, self.shares))
        numbers = torch.stack([loss, balance, norm.double(), trouble.taken.double(), pauses.double()])
        return torch.cat([numbers, trouble.z, nats_S, load])

    def _micro_batch(self, batch: Batch, share: Tensor, parts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Forward and backward: (nats of each segment in float64, balance loss, rows per expert [layers, E])."""
        network = self.network
        how = {"recompute": self.division.recompute, "rope_theta": batch.rope_theta}
        hidden = network(batch.tokens_BL, batch.packing, self.shares, **how)
        targets_T, total_VD = batch.targets_BL.flatten(), self.adamw.sums.get("head.weight")
        loss, losses_T = network.head(hidden.states_TD, targets_T, share, total_VD)
        roots, gradients = [loss], [torch.ones_like(loss)]
        if hidden.balance.requires_grad:  # a dense model has no router
            roots.append(hidden.balance)
            weight = network.config.balance_weight / (parts * self.ranks.world)
            gradients.append(torch.full_like(hidden.balance, weight))
        torch.autograd.backward(roots, gradients)
        self.adamw.add()
        # one after the other in each segment, so that the sums are always the same
        nats_S = torch.segment_reduce(losses_T.double(), "sum", offsets=batch.packing.bounds_S.long())
        return nats_S, hidden.balance.detach(), hidden.load

    def evaluate(self, documents: list[dict], stage: Stage) -> dict[str, dict]:
        """As the stage reads: its sequence length, its rotation."""
        how = stage.seq_len, self.config.batch_tokens, stage.rope_theta
        return bits_per_byte(self.network, documents, *how, self.ranks)


class Told:
    """What a step tells, on its way from the device: one copy, which `read` waits for."""

    def __init__(self, number: int, batch: Batch, rate: float, parts: list[Batch], numbers: Tensor, learner: Learner):
        self.number, self.batch, self.rate, self.ranks, self.config = number, batch, rate, learner.ranks, learner.config
        self._segments = [(len(part.docs_S), len(part.packing.bounds_S) - 1) for part in parts]
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._sent = torch.cuda.Event() if numbers.is_cuda else None
        if self._sent:
            self._sent.record()

    @property
    def on_its_way(self) -> bool:
        """Whether a device may still be at work on it."""
        return self._sent is not None

    def read(self) -> tuple[dict, np.ndarray, Tensor]:
        """(metrics, ledger rows of all ranks, which rank 0 alone is given, rows per expert [layers * E]). The metrics
        of a step that was skipped say so: `skipped`, why; and all ranks are given its rows."""
        if self._sent:
            self._sent.synchronize()
        loss, balance, norm, taken, self.pauses, *z = self._numbers[:HEAD].tolist()
        numbers = {"loss": loss, "balance": balance, "lr": self.rate, "grad_norm": norm}
        if not taken:  # the same on all ranks
            numbers["skipped"] = reason(numbers, z, self.config)
        nats, at = [], HEAD
        for number, filled_up in self._segments:
            nats.append(self._numbers[at : at + number])
            at += filled_up
        share = self.ranks.gather if taken else self.ranks.every  # all name the documents
        told = share((*segments(self.batch), torch.cat(nats).numpy()))
        rows = document_losses(self.number, *map(np.concatenate, zip(*told, strict=True))) if told else NO_ROWS
        rows["skipped"] = not taken
        return numbers, rows, self._numbers[at:].long()
