"""What the trainer is told: the shape of the model and how it is optimised. Plain dataclasses: a GPU machine needs no
pydantic."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

BOUNDS = {  # of a number: how `doc` names it, how it compares, how a message says it
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


def doc(default: Any, meaning: str, **bounds: float) -> Any:
    """A dataclass field with a default, a description (printed by `flows recipe fields`) and the bounds of its
    numbers."""
    return field(default=default, metadata={"description": meaning, "bounds": bounds})


def require(holds: bool, message: str) -> None:
    """Raise ValueError(message) unless `holds`."""
    if not holds:
        raise ValueError(message)


def check_numbers(config: Any) -> None:
    """Raise ValueError naming the first field of a dataclass that holds a number which is not finite or out of its
    bounds."""
    for one in dataclasses.fields(config):
        value, bounds = getattr(config, one.name), one.metadata.get("bounds", {})
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                said = " and ".join(f"{BOUNDS[name][1]} {bound:g}" for name, bound in bounds.items())
                fits = number - number == 0 and all(BOUNDS[name][0](number, bound) for name, bound in bounds.items())
                require(fits, f"{one.name} must be {said or 'a finite number'}, found {number}")


@dataclass(frozen=True)
class ModelConfig:
    """A DBRX-shaped mixture of experts (databricks/dbrx config.json and modeling code; facts in the README).

    Shapes: D = d_model, F = d_expert, E = experts, K = top_k, V = vocab_size (taken from the manifest's tokenizer).
    """

    layers: int = doc(4, "transformer blocks", least=1)
    d_model: int = doc(192, "width D of the residual stream", least=1)
    heads: int = doc(6, "query heads; d_model must divide by it", least=1)
    kv_heads: int = doc(2, "key and value heads shared by groups of query heads (grouped-query attention)", least=1)
    experts: int = doc(16, "experts E in each block", least=1)
    top_k: int = doc(4, "experts K that each token is sent to; none is ever dropped", least=1)
    d_expert: int = doc(128, "hidden width F of one expert's SwiGLU", least=1)
    rope_theta: float = doc(10_000.0, "base of the rotary position angles", above=0)
    clip_qkv: float = doc(8.0, "queries, keys and values are clamped to plus or minus this", above=0)
    balance_weight: float = doc(
        0.05, "weight of the load-balancing loss in the MegaBlocks form, whose minimum is 1", least=0
    )
    norm_eps: float = doc(1e-5, "epsilon of the bias-free LayerNorms", above=0)
    init_std: float = doc(
        0.02, "standard deviation of initial weights; residual outputs are divided by sqrt(2 * layers)", above=0
    )

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic when a recipe is checked

    def __post_init__(self):
        check_numbers(self)
        require(self.d_model % self.heads == 0, f"d_model ({self.d_model}) must divide by heads ({self.heads})")
        require(
            (self.d_model // self.heads) % 2 == 0,
            f"d_model / heads ({self.d_model / self.heads}) must be even: RoPE turns pairs",
        )
        require(self.heads % self.kv_heads == 0, f"heads ({self.heads}) must divide by kv_heads ({self.kv_heads})")
        require(self.top_k <= self.experts, f"top_k ({self.top_k}) must not exceed experts ({self.experts})")


PARALLEL = "auto", "replicate", "shard", "experts"


@dataclass(frozen=True)
class TrainConfig:
    """How the model is optimised: AdamW (Loshchilov & Hutter 2019) with phases of the learning rate that belong to
    stages."""

    batch_tokens: int = doc(
        2048, "tokens of one optimiser step, over all ranks; must divide by every stage's sequence length", least=1
    )
    peak_lr: float = doc(3e-3, "learning rate of the stable phase", above=0)
    betas: tuple[float, float] = doc((0.9, 0.95), "AdamW's decay rates of first and second moment", least=0, below=1)
    weight_decay: float = doc(0.1, "decoupled weight decay of matrices; norms and embeddings have none", least=0)
    clip_norm: float = doc(1.0, "gradients are scaled down to this global norm", above=0)
    seed: int = doc(17, "seed of the initial weights", least=0, most=2**31 - 1)
    precision: str = doc("bf16", "bf16 (masters of the weights stay fp32) or fp32")
    parallel: str = doc(
        "auto", "how several processes share the model: replicate, shard, experts; auto: what fits in their memory"
    )
    processes: int = doc(0, "processes that train; 0: one for each GPU, one without any", least=0)
    deterministic: bool = doc(False, "same bits from same inputs on a GPU too, a few percent slower; a CPU always does")
    profile: int = doc(0, "steps in the middle of the run that are traced: profile.json and a timeline", least=0)
    skip_window: int = doc(
        128, "steps of a stage that loss and gradient norm are compared with, once half of them are there", least=2
    )
    skip_loss: float = doc(
        20.0, "a step is skipped whose loss stands so many robust deviations above the median of those", above=0
    )
    skip_norm: float = doc(
        300.0, "the same of the gradient norm; clipped as it is, single documents raise it to 120", above=0
    )
    skip_most: int = doc(8, "so many skipped steps in a row stop the run", least=1)
    checkpoint_steps: int = doc(100, "steps between checkpoints; one is also written at the end of each stage", least=1)
    keep_last: int = doc(2, "newest checkpoints that are kept: an older one is for when a newer turns out bad", least=1)
    keep_every: int = doc(0, "checkpoints of a multiple of so many steps are kept for good; 0: none", least=0)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic when a recipe is checked

    def __post_init__(self):
        check_numbers(self)
        require(self.precision in ("bf16", "fp32"), f"precision must be bf16 or fp32, found {self.precision!r}")
        require(self.parallel in PARALLEL, f"parallel must be one of {', '.join(PARALLEL)}, found {self.parallel!r}")


# fields of TrainConfig that decide nothing of a run's result: where it is computed, what is kept of its way
PLACE = "processes", "parallel", "keep_last", "keep_every"


def check_shares(batch_tokens: int, lengths: Iterable[int], ranks: int) -> None:
    """Raises ValueError for a batch whose sequences, of each of these lengths, cannot be shared evenly by the ranks."""
    share = ranks * math.lcm(*lengths)
    require(
        batch_tokens % share == 0,
        f"train.batch_tokens ({batch_tokens:,}) must divide by {share:,}, so that each of {ranks} processes takes "
        f"whole sequences of every stage. Change it, or the number of processes",
    )
