"""What the trainer is told: the shape of the model and how it is optimised. Plain dataclasses: a GPU machine needs no
pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def doc(default: Any, meaning: str) -> Any:
    """A dataclass field with a default and a description (printed by `flows recipe fields`)."""
    return field(default=default, metadata={"description": meaning})


def require(holds: bool, message: str) -> None:
    """Raise ValueError(message) unless `holds`."""
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class ModelConfig:
    """A DBRX-shaped mixture of experts (databricks/dbrx config.json and modeling code; facts in the README).

    Shapes: D = d_model, F = d_expert, E = experts, K = top_k, V = vocab_size (taken from the manifest's tokenizer).
    """

    layers: int = doc(4, "transformer blocks")
    d_model: int = doc(192, "width D of the residual stream")
    heads: int = doc(6, "query heads; d_model must divide by it")
    kv_heads: int = doc(2, "key and value heads shared by groups of query heads (grouped-query attention)")
    experts: int = doc(16, "experts E in each block")
    top_k: int = doc(4, "experts K that each token is sent to; none is ever dropped")
    d_expert: int = doc(128, "hidden width F of one expert's SwiGLU")
    rope_theta: float = doc(10_000.0, "base of the rotary position angles")
    clip_qkv: float = doc(8.0, "queries, keys and values are clamped to plus or minus this")
    balance_weight: float = doc(0.05, "weight of the load-balancing loss in the MegaBlocks form, whose minimum is 1")
    norm_eps: float = doc(1e-5, "epsilon of the bias-free LayerNorms")
    init_std: float = doc(
        0.02, "standard deviation of initial weights; residual outputs are divided by sqrt(2 * layers)"
    )

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic when a recipe is checked

    def __post_init__(self):
        require(
            min(self.layers, self.d_model, self.heads, self.kv_heads, self.experts, self.top_k, self.d_expert) >= 1,
            "every size of the model must be at least 1",
        )
        require(self.d_model % self.heads == 0, f"d_model ({self.d_model}) must divide by heads ({self.heads})")
        require(
            (self.d_model // self.heads) % 2 == 0,
            f"d_model / heads ({self.d_model / self.heads}) must be even: RoPE turns pairs",
        )
        require(self.heads % self.kv_heads == 0, f"heads ({self.heads}) must divide by kv_heads ({self.kv_heads})")
        require(self.top_k <= self.experts, f"top_k ({self.top_k}) must not exceed experts ({self.experts})")


@dataclass(frozen=True)
class TrainConfig:
    """How the model is optimised: AdamW (Loshchilov & Hutter 2019) with phases of the learning rate that belong to
    stages."""

    batch_tokens: int = doc(
        2048, "tokens of one optimiser step, over all ranks; must divide by every stage's sequence length"
    )
    peak_lr: float = doc(3e-3, "learning rate of the stable phase")
    betas: tuple[float, float] = doc((0.9, 0.95), "AdamW's decay rates of first and second moment")
    weight_decay: float = doc(0.1, "decoupled weight decay of matrices; norms and embeddings have none")
    clip_norm: float = doc(1.0, "gradients are scaled down to this global norm")
    seed: int = doc(17, "seed of the initial weights")
    precision: str = doc("bf16", "bf16 (autocast; master weights stay fp32) or fp32")
    checkpoint_steps: int = doc(100, "steps between checkpoints; one is also written at the end of each stage")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic when a recipe is checked

    def __post_init__(self):
        require(self.batch_tokens >= 1, "batch_tokens must be at least 1")
        require(self.peak_lr > 0, "peak_lr must be positive")
        require(self.precision in ("bf16", "fp32"), f"precision must be bf16 or fp32, found {self.precision!r}")
        require(self.checkpoint_steps >= 1, "checkpoint_steps must be at least 1")
