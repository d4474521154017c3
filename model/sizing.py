"""What a model needs before any of it is made: bytes on each GPU by kind, and the parallelism that fits.

Bytes are derived from what the trainer allocates on a Hopper GPU in bf16 (model/transformer.py, kernels/hopper,
model/parallel), as torch.cuda.max_memory_allocated counts them; benchmarks/results/trainer.md has what runs measured.
Left out are CUDA's and NCCL's own memory and gaps between tensors: the reason for `ROOM`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from model.loss import CHUNK_BYTES
from schemas.training import ModelConfig

ROOM = 0.94  # of a GPU's memory that tensors may fill
KEPT = 0.25  # of a GPU's memory, up to which gathered weights of all blocks stay from forward to backward
HOST = 8  # GPUs of a machine
RECOMPUTE = "none", "attention", "block"  # what the backward computes again: rising work, falling memory
KINDS = "weights", "masters", "moments", "gradients", "activations", "loss", "work"


class Parameters(NamedTuple):
    """Parameters by what is done with them: attention's with the routers, experts (or the dense layers), norms, input
    embedding, head."""

    attention: int
    experts: int
    norms: int
    embedding: int
    head: int


def parameters(config: ModelConfig, vocab_size: int) -> Parameters:
    """Those of a model, by arithmetic."""
    d, kv = config.d_model, config.kv_heads * config.d_model // config.heads
    router = config.experts * d if config.experts > 1 else 0
    attention = config.layers * (d * (d + 2 * kv) + d * d + router)
    experts = config.layers * config.experts * 3 * config.d_expert * d
    return Parameters(attention, experts, (2 * config.layers + 1) * d, vocab_size * d, vocab_size * d)


@dataclass(frozen=True)
class Layout:
    """How a model lies on `world` GPUs, `host` of them in a machine: replicate, shard or experts
    (model/parallel/KIND.py)."""

    kind: str
    world: int = 1
    host: int = HOST

    def group(self, config: ModelConfig) -> int:
        """Ranks that a block's experts are split over, all of one machine; 1 unless `kind` is experts."""
        return math.gcd(config.experts, min(self.host, self.world), self.world) if self.kind == "experts" else 1


def layouts(config: ModelConfig, world: int, host: int = HOST) -> list[Layout]:
    """All that make sense, the simplest first: alone there is nothing to split, nor are there experts in a dense
    model."""
    if world == 1:
        return [Layout("replicate", 1, host)]
    kinds = [Layout(kind, world, host) for kind in ("replicate", "shard", "experts")]
    return [layout for layout in kinds if layout.kind != "experts" or layout.group(config) > 1]


@dataclass(frozen=True)
class Step:
    """A step of one rank: `micro_batches` of `tokens` each, in rows of `length`."""

    tokens: int
    micro_batches: int = 1
    recompute: str = "none"


def memory(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, capacity: float) -> dict[str, float]:
    """Bytes of each of KINDS on one GPU at the moment of a step when most are held; `capacity` is that of the GPU."""
    moments = instants(config, vocab_size, layout, step, capacity)
    return max(moments, key=lambda held: sum(held.values()))


def instants(
    config: ModelConfig, vocab_size: int, layout: Layout, step: Step, capacity: float
) -> Iterator[dict[str, float]]:
    """What is held when the loss is taken, in the backward of each block, and in the update."""
    state = (_replicated if layout.kind == "replicate" else _sharded)(config, vocab_size, layout, step, capacity)
    layers, group = config.layers, layout.group(config)
    resident = step.tokens * kept(config, group, step.recompute)
    again = step.tokens * kept(config, group, "none") if step.recompute == "block" else 0.0
    states = 2.0 * step.tokens * config.d_model  # of the last norm; its gradient is as large
    turn = 4.0 * step.tokens * config.d_model // config.heads  # cosines and sines
    chunk = min(CHUNK_BYTES["cuda"], 2 * step.tokens * vocab_size)
    head = chunk + (4.0 * vocab_size * config.d_model if state.loss_gradient else 0)
    yield {**state.at(0), "activations": layers * resident + turn, "loss": head + 2 * states, "work": 0.0}
    for done in range(layers):
        held = (layers - done) * resident + turn + again
        work = working(config, group, step.tokens, state.expert_gradients)
        yield {**state.at(done), "activations": held, "loss": states, "work": work}
    yield {**state.at(layers), "activations": 0.0, "loss": 0.0, "work": state.received}


# ------------------------------------------------------------------------------------------------ activations


def kept(config: ModelConfig, group: int, recompute: str) -> float:
    """Bytes of a token and layer from forward to backward, in bf16 but for what is said.

    Attention's half: x, norm(x), q, k, v, o, x after it, which entries of q, k, v were not clamped (1 byte), statistics
    of two norms and of the softmax (fp32). The other: norm(x), and of each expert gate and linear; weights, place and
    number of its row. A dense layer keeps silu(gate) * linear as well. Experts that are split see the tokens of their
    whole `group`, and rows of tokens that chose others are there too, if empty.
    """
    d, wide = config.d_model, config.d_model + 2 * config.kv_heads * config.d_model // config.heads
    attention = 2 * (4 * d + wide) + wide + 16 + 4 * config.heads
    if config.experts == 1:
        experts = 2 * d + 6 * config.d_expert
    else:
        row = 4 * config.d_expert + 16  # gate and linear; a weight, a number and a place
        experts = 2 * d + 2 * config.experts + group * config.top_k * row + (2 * d * group if group > 1 else 0)
    inputs = 4 * d  # the residual stream and what is still to be added to it
    return float({"none": attention + experts, "attention": inputs + experts, "block": inputs}[recompute])


def working(config: ModelConfig, group: int, tokens: int, with_gradients: bool) -> float:
    """Bytes that come and go in the backward of a block, at most: in that of its experts.

    Of rows the gradient of y and a, with one gradient of three; or the gradient of x, with all three. A dense layer,
    compiled, holds the gradients of a, gate and linear.
    """
    d, f = config.d_model, config.d_expert
    streams = 2 * 2 * tokens * d  # gradients of the block's result and of the residual stream
    gradient = 2 * config.experts * f * d / group if with_gradients else 0
    if config.experts == 1:
        return streams + 6 * tokens * f + gradient
    rows = group * tokens * config.top_k
    gathered = 2 * 2 * group * tokens * d if group > 1 else 0  # of the group's tokens, results and their gradients
    return streams + gathered + 2 * rows * d + max(2 * rows * f + gradient, 3 * gradient)


# ------------------------------------------------------------------------------------------------ weights


@dataclass(frozen=True)
class State:
    """Bytes of weights, optimiser and gradients on a rank. `fixed` are there all the time, by kind; `gathered` are of a
    block's weights where these are sharded, for `ahead` blocks at a time or all that are left."""

    layers: int
    fixed: dict[str, float]
    head: float  # gradients that are there before the blocks'
    block: float  # those that each block leaves
    embedding: float  # those that come last
    gathered: float = 0.0
    ahead: int | None = None
    in_flight: float = 0.0  # a block's gradients on their way
    received: float = 0.0  # own parts of all gradients, in the update
    loss_gradient: bool = True  # the head's is made in fp32 before it is rounded
    expert_gradients: bool = True  # experts' are made by themselves, not added to sums

    def at(self, done: int) -> dict[str, float]:
        """Bytes by kind when the backward of so many blocks is done."""
        left = self.layers - done
        gathered = (left if self.ahead is None else min(self.ahead, left)) * self.gathered
        gradients = self.head + done * self.block + (self.in_flight if 0 < done < self.layers else 0.0)
        more = {"weights": gathered, "gradients": gradients + (0.0 if left else self.embedding)}
        return {kind: self.fixed[kind] + more.get(kind, 0.0) for kind in self.fixed}


def _replicated(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, capacity: float) -> State:
    """bf16 matrices with masters; embedding and norms in fp32 are their own. Several micro-batches are summed in fp32,
    to which experts' kernels add by themselves."""
    p, summed = parameters(config, vocab_size), step.micro_batches > 1
    matrices, wide, alone = p.attention + p.experts + p.head, p.embedding + p.norms, layout.world == 1
    by_kernels = summed and config.experts > 1
    return State(
        layers=config.layers,
        fixed={
            "weights": 2.0 * matrices + 4.0 * wide,
            "masters": 4.0 * matrices / layout.world,
            "moments": 8.0 * (matrices + wide) / layout.world,
            "gradients": 4.0 * (matrices + wide) if summed else 0.0,
        },
        head=0.0 if summed else 2.0 * p.head,
        block=2.0 * (p.attention + (0 if by_kernels else p.experts)) / config.layers,
        embedding=4.0 * p.embedding,
        received=0.0 if alone else ((4.0 if summed else 2.0) * matrices + 4.0 * wide) / layout.world,
        loss_gradient=not summed,
        expert_gradients=not by_kernels,
    )


def _sharded(config: ModelConfig, vocab_size: int, layout: Layout, step: Step, capacity: float) -> State:
    """fp32 parts, which are their own masters, and fp32 parts of gradients; gathered in bf16, the embedding in fp32.
    The gradient of a block is sent in fp32 while the next is at work."""
    p, summed = parameters(config, vocab_size), step.micro_batches > 1
    gathered = 2.0 * (p.attention + p.experts / layout.group(config)) / config.layers
    part = sum(p) / layout.world
    return State(
        layers=config.layers,
        fixed={
            "weights": 4.0 * p.embedding + 2.0 * p.head + 4.0 * p.norms,
            "masters": 4.0 * part,
            "moments": 8.0 * part,
            "gradients": 4.0 * part if summed else 0.0,
        },
        head=2.0 * p.head + (0.0 if summed else 4.0 * p.head / layout.world),
        block=0.0 if summed else 4.0 * (p.attention + p.experts) / config.layers / layout.world,
        embedding=4.0 * p.embedding,
        gathered=gathered,
        ahead=None if keeps(config, vocab_size, layout, capacity) else 2,
        in_flight=3.0 * gathered,  # bf16, and fp32 that is sent
    )


def keeps(config: ModelConfig, vocab_size: int, layout: Layout, capacity: float) -> bool:
    """Whether weights that were gathered for the forward stay until the backward."""
    p = parameters(config, vocab_size)
    return 2 * (sum(p) - p.experts + p.experts / layout.group(config)) < KEPT * capacity
