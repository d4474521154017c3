"""DBRX's transformer: bias-free LayerNorm, grouped-query attention with clipped projections and RoPE, mixture of
experts.

Documents packed into one row never meet: attention stays inside segments and positions restart at each. Logits equal
Hugging Face's DbrxForCausalLM for the same weights (tests/test_model.py).

A block is pieces around two large operators, attention and experts: whole blocks are not compiled, since what the
experts save for their backward would be copied. Each piece ends in what an operator reads, and begins by adding what
the last one gave to the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import Attend, KeyValues, Packing, attention
from model.initial import initial_values
from model.loss import HeadLoss, token_losses
from model.moe import MoE
from model.pieces import piece
from schemas.training import ModelConfig


@dataclass(frozen=True)
class Hidden:
    """What the layers give: states behind the last norm [T, D], balance loss (mean over layers), rows per expert
    [layers, E]."""

    states_TD: Tensor
    balance: Tensor
    load: Tensor


class Attention(nn.Module):
    """Parameters: qkv [(H + 2G) * C, D], out [D, D]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels = config.d_model // config.heads
        self.qkv = nn.Parameter(torch.empty((config.heads + 2 * config.kv_heads) * channels, config.d_model))
        self.out = nn.Parameter(torch.empty(config.d_model, config.d_model))


class Block(nn.Module):
    """x + attention(norm(x)), then x + experts(norm(x)); the last sum is left to what follows."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.norm_1 = nn.LayerNorm(config.d_model, config.norm_eps, bias=False)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.d_model, config.norm_eps, bias=False)
        self.moe = MoE(config)

    def forward(
        self,
        x_TD: Tensor,
        y_TD: Tensor | None,
        turn: tuple[Tensor, Tensor],
        attend: Attend,
        layer: int,
        shares_E: Tensor | None,
        recompute: str = "none",
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(residual stream [T, D], what is still to be added to it, balance loss, rows per expert [E])."""
        arguments = x_TD, y_TD, turn, attend, layer
        if recompute == "attention":
            x_TD, h_TD = checkpoint(self.attend, *arguments, use_reentrant=False)
        else:
            x_TD, h_TD = self.attend(*arguments)
        return x_TD, *self.moe(h_TD, shares_E)

    def attend(
        self, x_TD: Tensor, y_TD: Tensor | None, turn: tuple[Tensor, Tensor], attend: Attend, layer: int
    ) -> tuple[Tensor, Tensor]:
        """The attention half: (residual stream [T, D], what the experts read [T, D])."""
        config, weights = self.config, self.attention
        sizes = config.heads, config.kv_heads, config.clip_qkv, config.norm_eps
        x_TD, q_THC, k_TGC, v_TGC = before_attention(x_TD, y_TD, self.norm_1.weight, weights.qkv, *turn, *sizes)
        o_TD = attend(q_THC, k_TGC, v_TGC, layer)
        return before_experts(x_TD, o_TD, weights.out, self.norm_2.weight, config.norm_eps)


class Embedding(nn.Module):
    """Parameter: weight [V, D]."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def forward(self, tokens_T: Tensor) -> Tensor:
        """[T, D]."""
        return F.embedding(tokens_T, self.weight)


class Head(nn.Module):
    """Parameter: weight [V, D]. It is applied in the loss, in chunks."""

    compute_dtype: torch.dtype | None = None  # where weights are kept in another than they are multiplied in

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def forward(
        self, states_TD: Tensor, targets_T: Tensor, share: Tensor | None, total_VD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(`share` times the sum of the cross-entropies, which may be derived; cross-entropies [T] in nats, fp32).
        Without a share no derivative, and the sum is 0."""
        if share is None:
            return states_TD.new_zeros(()), token_losses(states_TD, self.weight, targets_T)
        return HeadLoss.apply(states_TD, self.weight, targets_T, share, total_VD)


class Transformer(nn.Module):
    """Token ids to hidden states; `logits` applies the head, which is not tied to the embedding. Products and what lies
    between them have the dtype of the matrices."""

    def __init__(self, config: ModelConfig, vocab_size: int, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=False)
        self.head = Head(vocab_size, config.d_model)
        for name, parameter in self.named_parameters():
            if not parameter.is_meta:
                parameter.data = initial_values(name, parameter.shape, config, seed).view(parameter.shape)

    def matrices(self) -> list[str]:
        """Names of the weights that something is multiplied with, which may be rounded. Norms and the embedding are
        not: the gradient of a frequent token is a long sum."""
        named = self.named_parameters()
        return [name for name, weight in named if weight.ndim == 2 and name != "embedding.weight"]

    def forward(
        self,
        tokens_BL: Tensor,
        packing: Packing,
        shares: Tensor | None = None,
        past: KeyValues | None = None,
        recompute: str = "none",
    ) -> Hidden:
        """Tokens attend to earlier tokens of their segment; `positions` count from its start.

        `shares` [layers, E] are those of `kernels.route`. With `past` (one segment only), the tokens follow those
        already there, and are added to it. `recompute` says what the backward computes again instead of keeping it:
        none, attention (the half of a block with it) or block.
        """
        dtype, channels = self.dtype, self.config.d_model // self.config.heads
        x_TD, y_TD = self.embedding(tokens_BL.flatten()).to(dtype), None
        turn = rotation(packing.positions_BL.flatten(), self.config)
        attend = past.attend if past is not None else attention(packing, dtype, channels)
        balances, loads = [], []
        for layer, block in enumerate(self.blocks):
            arguments = x_TD, y_TD, turn, attend, layer, None if shares is None else shares[layer]
            if recompute == "block":
                x_TD, y_TD, balance, load = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_TD, y_TD, balance, load = block(*arguments, recompute)
            balances.append(balance)
            loads.append(load)
        states_TD = after_blocks(x_TD, y_TD, self.norm.weight, self.config.norm_eps)
        return Hidden(states_TD, torch.stack(balances).mean(), torch.stack(loads))

    @property
    def dtype(self) -> torch.dtype:
        """Of products, and of what lies between them."""
        return self.head.compute_dtype or self.head.weight.dtype

    def logits(self, states: Tensor) -> Tensor:
        """[..., D] to [..., V]."""
        return F.linear(states, self.head.weight)


# ------------------------------------------------------------------------------------------------ pieces


@piece
def before_attention(
    x_TD: Tensor,
    y_TD: Tensor | None,
    weight_D: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    kv_heads: int,
    clip: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual sum, norm, projection, clamp and RoPE: (x [T, D], q [T, H, C], k and v [T, G, C])."""
    x_TD = x_TD if y_TD is None else x_TD + y_TD
    projected = F.linear(layer_norm(x_TD, weight_D, eps), qkv).clamp(-clip, clip)
    q_THC, k_TGC, v_TGC = projected.unflatten(-1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], 1)
    return x_TD, rotate(q_THC, cos, sin), rotate(k_TGC, cos, sin), v_TGC.contiguous()


@piece
def before_experts(x_TD: Tensor, o_TD: Tensor, out: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Projection, residual sum, norm: (x [T, D], input of the experts [T, D])."""
    x_TD = x_TD + F.linear(o_TD, out)
    return x_TD, layer_norm(x_TD, weight_D, eps)


@piece
def after_blocks(x_TD: Tensor, y_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Residual sum and last norm, [T, D]."""
    return layer_norm(x_TD + y_TD, weight_D, eps)


def layer_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Bias-free LayerNorm in fp32, in the dtype of x."""
    return F.layer_norm(x_TD.float(), x_TD.shape[-1:], weight_D, None, eps).to(x_TD.dtype)


def rotation(positions_T: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, C / 2] of RoPE's angles (Su et al. 2104.09864), fp32."""
    half = config.d_model // config.heads // 2
    frequencies = config.rope_theta ** (torch.arange(half, device=positions_T.device, dtype=torch.float32) / -half)
    angles = positions_T[:, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x_THC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (c, c + C/2), the GPT-NeoX order that DBRX uses; in fp32."""
    a, b = x_THC.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_THC.dtype)


@cache  # a step's operations are counted from it
def parameter_counts(config: ModelConfig, vocab_size: int) -> dict[str, int]:
    """`total`, and `active` as DBRX counts: what one token is multiplied with, the input embedding left out."""
    with torch.device("meta"):
        total = sum(parameter.numel() for parameter in Transformer(config, vocab_size).parameters())
    idle = config.layers * (config.experts - config.top_k) * 3 * config.d_expert * config.d_model
    return {"total": total, "active": total - idle - vocab_size * config.d_model}


def step_flops(config: ModelConfig, vocab_size: int, lengths: np.ndarray) -> float:
    """Floating-point operations of forward and backward over segments of `lengths` tokens, nothing counted twice.

    6 a token and active parameter, and 12 H C a layer and pair of tokens that attention compares (Chowdhery et al.
    2204.02311, appendix B), here only inside segments and not ahead.
    """
    pairs = float((lengths.astype(np.float64) * (lengths + 1) / 2).sum())
    active = parameter_counts(config, vocab_size)["active"]
    return 6.0 * active * float(lengths.sum()) + 12.0 * config.layers * config.d_model * pairs
