"""Shards and plan to batches. Which samples a step reads is a pure function of plan and step: there is no loader state.

Order of a stage: the k-th of the n draws of a stream is due at time (k + 1/2) / n; the stage's N samples are all draws
by (time, stream). At the boundary of a block of `BLOCK` positions every stream with share n / N, of S streams, is
within 1/2 + S/2 * n/N of its share. Inside a block the order is seeded. Position p is found without what came before
it: up to time p / N a stream has given floor(n p / N + 1/2) draws, and at most S/2 draws too many or too few are put
right.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.attention import Packing, pack
from model.loss import targets
from model.shards import Shards
from model.source import Need
from schemas.manifest import Draw, Manifest, Plan, Stage
from schemas.training import require

BLOCK = 64  # samples; order is random inside a block, shares are exact at its ends
MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Batch:
    """What one rank reads in one step. Segments are numbered through the batch; `docs_S` has each one's 64-bit document
    key; targets are those of `loss.targets`; `rope_theta` is the stage's, None the model's."""

    stage: int
    tokens_BL: Tensor
    targets_BL: Tensor
    packing: Packing
    docs_S: Tensor
    rope_theta: float | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same with `function` of each tensor that a model reads: on its device, or pinned."""
        return replace(
            self,
            tokens_BL=function(self.tokens_BL),
            targets_BL=function(self.targets_BL),
            packing=self.packing.map(function),
        )

    def split(self, parts: int) -> list[Batch]:
        """The batch, on the host, in parts of equal rows, in order: as many as asked for, or the next number that the
        rows divide by, as a stage of longer rows has fewer."""
        rows = len(self.tokens_BL)
        parts = next(number for number in range(min(parts, rows), rows + 1) if rows % number == 0)
        size = rows // parts
        return [self._rows(size * part, size * (part + 1)) for part in range(parts)] if parts > 1 else [self]

    def _rows(self, first: int, last: int) -> Batch:
        starts = [*self.packing.segments_BL[:, 0].tolist(), len(self.docs_S)]
        segments = slice(starts[first], starts[last])
        parts = self.tokens_BL[first:last], self.targets_BL[first:last], self.packing.rows(first, last, segments)
        return Batch(self.stage, *parts, self.docs_S[segments], self.rope_theta)


def draws_before(counts: tuple[int, ...], position: int) -> list[int]:
    """How many draws of each stream stand before `position` of a stage whose streams give `counts` samples."""
    total = sum(counts)
    taken = [(2 * n * position + total) // (2 * total) for n in counts]
    while (surplus := sum(taken) - position) > 0:
        last = max((i for i, k in enumerate(taken) if k), key=lambda i: _due(counts, i, taken[i] - 1))
        taken[last] -= 1
    for _ in range(-surplus):
        following = min((i for i, k in enumerate(taken) if k < counts[i]), key=lambda i: _due(counts, i, taken[i]))
        taken[following] += 1
    return taken


def _due(counts: tuple[int, ...], stream: int, draw: int) -> tuple[Fraction, int]:
    return Fraction(2 * draw + 1, 2 * counts[stream]), stream


def block_order(plan: Plan, stage: int, block: int) -> list[tuple[int, int]]:
    """The (stream, draw) at each position of a block, streams numbered as in the stage's draws."""
    counts = tuple(draw.samples for draw in plan.stages[stage].draws)
    first, last = block * BLOCK, min((block + 1) * BLOCK, sum(counts))
    starts, ends = draws_before(counts, first), draws_before(counts, last)
    due = sorted(
        ((i, k) for i, (a, b) in enumerate(zip(starts, ends, strict=True)) for k in range(a, b)),
        key=lambda d: _due(counts, *d),
    )
    order = sorted(range(len(due)), key=lambda slot: _hash(plan.seed, stage, block, slot))
    return [due[slot] for slot in order]


def _hash(*values: int) -> int:
    """splitmix64 (Steele, Lea & Flood 2014) folded over integers."""
    state = 0
    for value in values:
        state = (state ^ (value & MASK)) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


class Walk:
    """The samples that a stage draws of one stream: windows from `first_window` on, wrapping, each in file order.

    Raises ValueError if a window that the draws reach was not written.
    """

    def __init__(self, manifest: Manifest, draw: Draw, seq_len: int):
        windows, written = manifest.stream(draw.stream).windows, {}
        if draw.samples:
            written = {window.window: window for window in manifest.folder(draw.stream, seq_len).windows}
        self.files, self.ends, number = [], [0], draw.first_window
        while self.ends[-1] < draw.samples:
            window = written.get(number % windows)
            require(
                window is not None,
                f"the plan draws window {number % windows} of stream {draw.stream} at sequence length {seq_len}, "
                f"the manifest has only {sorted(written)}: write it with the shard step",
            )
            self.files.append(window.file)
            self.ends.append(self.ends[-1] + window.samples)
            number += 1
            require(
                self.ends[-1] > 0 or len(self.files) < windows,
                f"stream {draw.stream} has no samples at length {seq_len}",
            )

    def at(self, draw: int) -> tuple[str, int]:
        """(file, sample in it) of the draw."""
        window = bisect_right(self.ends, draw) - 1
        return self.files[window], draw - self.ends[window]


class Places:
    """Where the samples of a plan's stage lie. Raises ValueError if a window that the stage draws was not written."""

    def __init__(self, manifest: Manifest, plan: Plan, stage: int):
        self.plan, self.stage = plan, stage
        self.walks = [Walk(manifest, draw, plan.stages[stage].seq_len) for draw in plan.stages[stage].draws]
        self._block: tuple[int, list[tuple[int, int]]] = (-1, [])

    def at(self, position: int) -> tuple[str, int]:
        """(file, sample in it) that stands at a position of the stage."""
        block, slot = divmod(position, BLOCK)
        if self._block[0] != block:  # the last block only: computed again at will, so no state
            self._block = (block, block_order(self.plan, self.stage, block))
        stream, draw = self._block[1][slot]
        return self.walks[stream].at(draw)

    def windows(self) -> Iterator[tuple[int, int, str]]:
        """(first position, last position, file) of each window that the stage draws, at most a block and twice the
        streams wider on either side than it is."""
        draws, slack = self.plan.stages[self.stage].draws, BLOCK + 2 * len(self.walks)
        total = sum(draw.samples for draw in draws)
        for walk, samples in zip(self.walks, (draw.samples for draw in draws), strict=True):
            for file, begin, end in zip(walk.files, walk.ends, walk.ends[1:], strict=False):
                first, last = ((2 * k + 1) * total // (2 * samples) for k in (begin, min(end, samples) - 1))
                if end > begin:
                    yield max(first - slack, 0), min(last + slack, total - 1), file


class Batches:
    """The batches of a plan. Raises ValueError where the plan does not fit the shards or the batch."""

    def __init__(self, root: Path, manifest: Manifest, plan: Plan, batch_tokens: int):
        require(sum(stage.samples for stage in plan.stages) > 0, "the plan has no samples: give its stages tokens")
        self.shards, self.plan = Shards(root, manifest), plan
        self.places = [Places(manifest, plan, number) for number in range(len(plan.stages))]
        self.batch_samples = [_batch_samples(stage, batch_tokens) for stage in plan.stages]
        steps = [stage.samples // size for stage, size in zip(plan.stages, self.batch_samples, strict=True)]
        self.stage_ends = list(accumulate(steps))

    @property
    def steps(self) -> int:
        return self.stage_ends[-1]

    def stage_of(self, step: int) -> tuple[int, int]:
        """(number of the stage that the step belongs to, steps of it that came before)."""
        stage = bisect_right(self.stage_ends, step)
        return stage, step - (self.stage_ends[stage - 1] if stage else 0)

    def sample(self, stage: int, position: int) -> tuple[str, int]:
        """(file, sample in it) that stands at a position of a stage."""
        return self.places[stage].at(position)

    def needs(self, first: int) -> Iterator[Need]:
        """The windows that step `first` and all that follow read, in the order in which they begin to be needed."""
        for stage, (places, size) in enumerate(zip(self.places, self.batch_samples, strict=True)):
            before = self.stage_ends[stage - 1] if stage else 0
            windows = sorted(
                (before + begin // size, before + end // size, file) for begin, end, file in places.windows()
            )
            yield from (Need(*steps, self.shards.windows[file]) for *steps, file in windows if steps[1] >= first)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """What `rank` of `world` reads in `step`; all ranks together read the same samples for every `world`."""
        self.shards.look_ahead(step)
        stage, before = self.stage_of(step)
        size = self.batch_samples[stage]
        first, share = before * size + rank * size // world, size // world
        places = [self.sample(stage, position) for position in range(first, first + share)]
        samples = [self.shards.sample(*place) for place in places]
        return make_batch(stage, samples, self.plan.stages[stage].rope_theta)

    def ahead(self, first: int, rank: int = 0, world: int = 1, depth: int = 2) -> Iterator[Batch]:
        """The batches of step `first` and all that follow, `depth` of them read and packed ahead by a thread; where
        there is a GPU in pinned memory, from which it is sent without a wait. Windows of shards in an object store are
        fetched ahead by another.

        With depth 0 they are read when they are asked for: a CPU has no time to spare, and a thread beside those of
        OpenMP made steps of the default run up to 15 % slower.
        """
        pinned = torch.cuda.is_available()

        def read(step: int) -> Batch:
            batch = self.batch(step, rank, world)
            return batch.map(Tensor.pin_memory) if pinned else batch

        with self.shards.fetched_ahead(self.needs(first)) as stop:
            yield from map(read, range(first, self.steps)) if depth == 0 else self._ahead(read, first, depth, stop)

    def _ahead(self, read: Callable[[int], Batch], first: int, depth: int, stop: Callable[[], None]) -> Iterator[Batch]:
        reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        waiting = deque(reader.submit(read, step) for step in range(first, min(first + depth, self.steps)))
        try:
            for step in range(first + depth, self.steps + depth):
                batch = waiting.popleft().result()
                if step < self.steps:
                    waiting.append(reader.submit(read, step))
                yield batch
        finally:
            stop()  # it may be waiting for a store that is away
            reader.shutdown(cancel_futures=True)


def make_batch(stage: int, samples: list[dict], rope_theta: float | None = None) -> Batch:
    """Stack samples (columns tokens, starts, docs) of one length into a batch."""
    tokens_BL = torch.from_numpy(np.stack([sample["tokens"] for sample in samples]).astype(np.int64))
    rows, length = tokens_BL.shape
    starts_S = np.concatenate([sample["starts"].astype(np.int64) + row * length for row, sample in enumerate(samples)])
    packing = pack(starts_S, rows, length)
    docs_S = torch.from_numpy(np.concatenate([sample["docs"] for sample in samples]))
    return Batch(stage, tokens_BL, targets(tokens_BL, packing.segments_BL, docs_S), packing, docs_S, rope_theta)


def _batch_samples(stage: Stage, batch_tokens: int) -> int:
    """Samples in a batch of the stage."""
    size, rest = divmod(batch_tokens, stage.seq_len)
    require(
        size > 0 and rest == 0,
        f"stage {stage.name}: batch_tokens ({batch_tokens}) must be a multiple of seq_len ({stage.seq_len})",
    )
    require(
        stage.samples % size == 0,
        f"stage {stage.name}: its {stage.samples} samples must be a multiple of the {size} samples in a batch of "
        f"{batch_tokens} tokens",
    )
    return size
