"""How a model is laid out on GPUs: what fits, what is sent, how fast that is likely to be.

Tokens a second are an expectation: MFU and scaling were measured on one and two H200 of one machine
(benchmarks/results/trainer.md and ranks.md), and are carried over to other
sizes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.sizing import HOST, RECOMPUTE, ROOM, Layout, Step, keeps, layouts, memory, parameters
from model.speed import PEAKS
from model.transformer import step_flops
from schemas.training import ModelConfig

# share of the chip's peak that a step reaches, by width and whether there are experts; one H200, documents of 700
MFU = {True: {768: 0.416, 1024: 0.467, 2048: 0.541}, False: {768: 0.450, 1024: 0.500, 2048: 0.585}}
SCALING = {"shard": 1.96 / 2, "experts": 1.68 / 2}  # on two H200, against nothing sent
NARROWEST = 768  # whose rate was measured
UPDATE = 28 / 4.07e12  # seconds a parameter that AdamW takes: bytes, and bytes a second on an H200
NVLINK = 267e9  # bytes a second that a GPU receives within its machine: reduce-scatter on two H200 (all-gather: 289)
NETWORK = 50e9  # the same from other machines: 400 Gb/s InfiniBand a GPU by its data sheet, not measured
SHORTEST = 512  # tokens of a row, below which no shorter one is proposed
MOST = 1 << 16  # GPUs, beyond which no more are proposed


class Traffic(NamedTuple):
    """Bytes that a GPU receives in a step: of weights and gradients within its machine and from others, and of tokens
    from the ranks that have other experts."""

    inside: float
    outside: float
    tokens: float = 0.0


@dataclass(frozen=True)
class Fit:
    """The step of a layout that fits, else (not `fits`) the one that needs least. `held` are bytes a GPU by kind,
    `seconds` of a step, `tokens_per_second` of all GPUs."""

    layout: Layout
    step: Step
    held: dict[str, float]
    fits: bool
    traffic: Traffic
    seconds: float
    tokens_per_second: float


def fit(config: ModelConfig, vocab_size: int, layout: Layout, tokens: int, length: int, capacity: float) -> Fit:
    """The fastest division of `tokens` a rank and step, in rows of `length`, that fits into GPUs of `capacity` bytes;
    of equal ones that with the largest micro-batches. Raises ValueError for tokens that are no whole rows."""
    if tokens < length or tokens % length:
        raise ValueError(f"expected tokens of a rank that are whole rows of {length:,}, found {tokens:,}")
    rows = tokens // length
    parts = [n for n in range(1, rows + 1) if rows % n == 0]
    steps = [Step(tokens // n, n, recompute) for recompute in RECOMPUTE for n in parts]
    fits = [_fit(config, vocab_size, layout, step, length, capacity) for step in steps]
    return min((one for one in fits if one.fits), key=lambda one: one.seconds, default=fits[-1])


def _fit(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, length: int, capacity: float) -> Fit:
    held = memory(config, vocab_size, layout, step, capacity)
    sent = traffic(config, vocab_size, layout, step, capacity)
    seconds = step_seconds(config, vocab_size, layout, step, length, sent)
    rate = step.tokens * step.micro_batches * layout.world / seconds
    return Fit(layout, step, held, sum(held.values()) <= ROOM * capacity, sent, seconds, rate)


def choose(
    config: ModelConfig, vocab_size: int, world: int, tokens: int, length: int, capacity: float, host: int = HOST
) -> Fit:
    """Replicate where it fits with nothing computed again, else the fastest that fits.

    Raises MemoryError that says what is short and what would fit, ValueError as `fit`.
    """
    fits = [fit(config, vocab_size, one, tokens, length, capacity) for one in layouts(config, world, host)]
    if able := [one for one in fits if one.fits]:
        is_simple = able[0].layout.kind == "replicate" and able[0].step.recompute == "none"
        return able[0] if is_simple else max(able, key=lambda one: one.tokens_per_second)
    least = min(fits, key=lambda one: sum(one.held.values()))
    raise MemoryError(
        f"expected at most {ROOM * capacity / 1e9:,.0f} GB on each of {world:,} GPUs ({ROOM:.0%} of "
        f"{capacity / 1e9:,.0f}), found {sum(least.held.values()) / 1e9:,.0f} at the least ({least.layout.kind}, one "
        f"row of {length:,} tokens at a time): {remedy(config, vocab_size, world, length, capacity, host)}"
    )


def choose_parallel(
    config: ModelConfig, vocab_size: int, world: int, tokens: int, length: int, capacity: float, host: int = HOST
) -> str:
    """The kind of parallelism that a run has which names none. Raises MemoryError as `choose`."""
    return choose(config, vocab_size, world, tokens, length, capacity, host).layout.kind


def remedy(config: ModelConfig, vocab_size: int, world: int, length: int, capacity: float, host: int = HOST) -> str:
    """What would fit: the fewest GPUs, doubled, and the longest rows, halved, of one row a rank."""

    def kind(gpus: int, row: int) -> str | None:
        fits = (fit(config, vocab_size, one, row, row, capacity) for one in layouts(config, gpus, host))
        return next((one.layout.kind for one in fits if one.fits), None)

    lengths = [length >> n for n in range(1, length.bit_length()) if length >> n >= SHORTEST]
    shorter = next((row for row in lengths if kind(world, row)), None)
    worlds = [world << n for n in range(1, MOST.bit_length()) if world << n <= MOST]
    more = next((gpus for gpus in worlds if kind(gpus, length)), None)
    ways = [f"{more:,} GPUs ({kind(more, length)})"] if more else []
    ways += [f"rows of {shorter:,} tokens ({kind(world, shorter)})"] if shorter else []
    return f"take {' or '.join(ways)}" if ways else f"no number of GPUs up to {MOST:,} helps: take a smaller model"


# ------------------------------------------------------------------------------------------------ time


def token_flops(config: ModelConfig, vocab_size: int, length: int) -> float:
    """Floating-point operations a token, forward and backward, where a document fills the row."""
    return step_flops(config, vocab_size, np.array([length])) / length


def mfu(config: ModelConfig) -> float:
    """That of the widest model measured that is not wider, else of the narrowest."""
    measured = MFU[config.experts > 1]
    return measured[max((width for width in measured if width <= config.d_model), default=NARROWEST)]


def again(config: ModelConfig, vocab_size: int, length: int, recompute: str) -> float:
    """Work of a step with what is computed again, over that without: a forward is a third of a step."""
    p = parameters(config, vocab_size)
    pairs = 12.0 * config.layers * config.d_model * (length + 1) / 2
    blocks = 6.0 * (p.attention + p.experts * config.top_k / config.experts) + pairs
    part = {"none": 0.0, "attention": 6.0 * p.attention + pairs, "block": blocks}[recompute]
    return 1 + part / token_flops(config, vocab_size, length) / 3


def step_seconds(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, length: int, sent: Traffic) -> float:
    """Seconds of a step, from the work of a GPU at the rate of one.

    `replicate` sums gradients behind its backward and updates a part; weights travel while others are updated. Others
    send while they work, slowed as two GPUs were, unless the links take longer; tokens of more than one peer, which is
    what was measured, come on top.
    """
    tokens = step.tokens * step.micro_batches
    flops = tokens * token_flops(config, vocab_size, length) * again(config, vocab_size, length, step.recompute)
    work, inside, outside = flops / (mfu(config) * PEAKS["H200"]), sent.inside / NVLINK, sent.outside / NETWORK
    if layout.kind == "replicate":
        return work + (inside + outside) / 2 - UPDATE * sum(parameters(config, vocab_size)) * (1 - 1 / layout.world)
    peers = layout.group(config) - 1
    more = sent.tokens / NVLINK * (1 - 1 / peers) if peers else 0.0
    return max(work / SCALING[layout.kind], inside, outside) + more


def traffic(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, capacity: float) -> Traffic:
    """What is sent for a step, by ring algorithms: of what is gathered from all ranks, or summed for all, a GPU
    receives all but its own part, and a machine what is not its own, a part by each of its GPUs."""
    p, world, host = parameters(config, vocab_size), layout.world, min(layout.host, layout.world)
    machines = world / host
    inside, outside = (world - 1) / world, (1 - 1 / machines) / host
    if layout.kind == "replicate":  # gradients and weights
        whole = (6.0 if step.micro_batches > 1 else 4.0) * (p.attention + p.experts + p.head) + 8.0 * p.embedding
        return Traffic(whole * inside, whole * outside)
    group = layout.group(config)
    times = 2 + 4 + (0 if keeps(config, vocab_size, layout, capacity) else 2)  # bf16 weights, fp32 gradients
    dense = step.micro_batches * (times * p.attention + 6.0 * p.head + 8.0 * p.embedding)
    split = step.micro_batches * times * p.experts / group
    if group == 1:
        return Traffic((dense + split) * inside, (dense + split) * outside)
    turns = 6 if step.recompute == "block" else 4  # gathered and summed, forward and backward
    tokens = turns * (group - 1) * 2.0 * config.d_model * step.tokens * step.micro_batches * config.layers
    peers = world // group  # that have the same experts
    near = max(1, host // group)  # of them in this machine
    received = split * (1 - 1 / peers)
    far = split * (1 - near / peers) / near
    return Traffic(dense * inside + (received if near > 1 else 0.0), dense * outside + far, tokens)
