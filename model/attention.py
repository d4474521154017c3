"""Causal attention inside the segments of packed rows: the definition with a mask, and the operators that need none.

A GPU's operators are told where segments begin and never look at what lies between them: FlashAttention 2, which torch
brings, and cuDNN's (model/cudnn.py) where its frontend is installed. The definition serves CPUs, fp32 and generation.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint

log = logging.getLogger(__name__)

SLICED = 4096  # tokens of a row from which on a CPU attends by slices: the mask of 32 K takes 4 GiB, scores more a head
SLICE = 512  # queries
LONGEST = 2048  # and the powers of two above it are what operators are told as the longest segment

# q [T, H, C], k and v [T, G, C] and the layer's number to [T, H * C]
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Packing:
    """Where segments lie in rows of L places, each whole in one row and T = B * L places in all.

    positions [B, L] count from a segment's start, segments [B, L] are numbers, bounds [S + 1] (int32) say where in T
    each begins and, last, T; the last segments may be empty. `longest` is at least the length of the longest.
    """

    positions_BL: Tensor
    segments_BL: Tensor
    bounds_S: Tensor
    longest: int

    def map(self, function: Callable[[Tensor], Tensor]) -> Packing:
        """The same with `function` of each tensor: on another device, or pinned."""
        return Packing(*map(function, (self.positions_BL, self.segments_BL, self.bounds_S)), self.longest)

    def rows(self, first: int, last: int, segments: slice) -> Packing:
        """Rows first to last, which hold these segments; on the host."""
        starts = self.bounds_S[segments].numpy() - first * self.positions_BL.shape[1]
        parts = self.positions_BL[first:last], self.segments_BL[first:last]
        return Packing(*parts, torch.from_numpy(_bounds(starts, parts[0].numel())), self.longest)


def pack(starts_S: np.ndarray, rows: int, length: int) -> Packing:
    """The packing of segments that begin at `starts_S`, of `rows` rows."""
    lengths_S = np.diff(starts_S, append=rows * length)
    positions = np.arange(rows * length) - np.repeat(starts_S, lengths_S)
    segments = np.repeat(np.arange(len(starts_S)), lengths_S)
    longest = min(length, max(LONGEST, 1 << (int(lengths_S.max()) - 1).bit_length()))
    arrays = positions.reshape(rows, length), segments.reshape(rows, length), _bounds(starts_S, rows * length)
    return Packing(*map(torch.from_numpy, arrays), longest)


def _bounds(starts_S: np.ndarray, tokens: int) -> np.ndarray:
    """With empty segments up to a sixteenth, or an eighth at most, of a power of two: few numbers, for which operators
    are planned and steps captured."""
    step = max(16, (1 << len(starts_S).bit_length()) // 16)
    return np.concatenate([starts_S, np.full(1 + -len(starts_S) % step, tokens)]).astype(np.int32)


def attention(packing: Packing, dtype: torch.dtype, channels: int) -> Attend:
    """The operator that attends inside the segments of `packing`, as `choose` says."""
    name = choose(packing.positions_BL.device, dtype, channels)
    if name == "cudnn":
        from model import cudnn

        return lambda q, k, v, layer: cudnn.attend(q, k, v, packing.bounds_S, packing.longest).flatten(1)
    if name == "flash":
        bounds, longest = packing.bounds_S, packing.longest
        return lambda q, k, v, layer: varlen_attn(
            q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0)
        ).flatten(1)
    if packing.segments_BL.device.type == "cpu" and packing.segments_BL.shape[1] > SLICED:
        return sliced(packing, dtype)
    bias_BLL = mask_bias(packing.segments_BL, dtype)

    def attend(q_THC: Tensor, k_TGC: Tensor, v_TGC: Tensor, layer: int) -> Tensor:
        q, k, v = (x.unflatten(0, packing.segments_BL.shape) for x in (q_THC, k_TGC, v_TGC))
        return masked(q, k, v, bias_BLL).flatten(0, 1)

    return attend


def choose(device: torch.device, dtype: torch.dtype, channels: int) -> str:
    """What attends there, cudnn, flash or masked; told once, with the reason."""
    chosen, why = _choice(device, dtype, channels)
    _report(chosen, why)
    return chosen


def _choice(device: torch.device, dtype: torch.dtype, channels: int) -> tuple[str, str]:
    if device.type != "cuda" or torch.version.hip:
        return "masked", f"{device.type} is no NVIDIA GPU"
    if dtype not in (torch.bfloat16, torch.float16) or channels % 8 or channels > 256:
        return "masked", f"FlashAttention takes bf16 or fp16 and up to 256 channels, not {dtype} and {channels}"
    if not importlib.util.find_spec("cudnn"):
        return "flash", "nvidia-cudnn-frontend is not installed"
    if torch.cuda.get_device_capability(device) < (9, 0) or channels not in (64, 128) or dtype != torch.bfloat16:
        return "flash", "cuDNN's is used from sm_90 on, for bf16 and 64 or 128 channels"
    return "cudnn", "nvidia-cudnn-frontend is installed"


@cache
def _report(chosen: str, why: str) -> None:
    log.info("attention runs on %s: %s", chosen, why)


# ------------------------------------------------------------------------------------------------ the definition


def mask_bias(segments_BL: Tensor, dtype: torch.dtype, queries: int | None = None) -> Tensor:
    """What is added to attention scores, [B, L, L], or [B, Q, L] for the last Q queries: 0 for tokens of the same
    segment that are not later, else minus infinity."""
    length = segments_BL.shape[1]
    first = length - (queries or length)
    causal = torch.ones(length - first, length, dtype=torch.bool, device=segments_BL.device).tril(first)
    allowed = causal & (segments_BL[:, first:, None] == segments_BL[:, None, :])
    return torch.zeros(allowed.shape, dtype=dtype, device=segments_BL.device).masked_fill_(~allowed, -math.inf)


def masked(q_BLHC: Tensor, k_BSGC: Tensor, v_BSGC: Tensor, bias_BLS: Tensor) -> Tensor:
    """Softmax attention, [B, L, H * C]; each key head serves H / G query heads.

    On a CPU the product is written out with the query heads of one key head stacked: 3 to 4 times as fast, forward and
    backward, as torch's SDPA with a mask (2,048 tokens, C = 64: 3.2 ms against 11.8 ms on 2 cores).
    """
    (batch, length, heads, channels), groups = q_BLHC.shape, k_BSGC.shape[2]
    if q_BLHC.is_cuda:
        q, k, v = (x.transpose(1, 2) for x in (q_BLHC, k_BSGC, v_BSGC))
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=bias_BLS[:, None], enable_gqa=True)
            .transpose(1, 2)
            .flatten(2)
        )
    q = (
        (q_BLHC * channels**-0.5)
        .unflatten(2, (groups, -1))
        .permute(0, 2, 3, 1, 4)
        .reshape(batch * groups, -1, channels)
    )
    k, v = (x.transpose(1, 2).reshape(batch * groups, -1, channels) for x in (k_BSGC, v_BSGC))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, -1).add_(bias_BLS[:, None])
    out = torch.bmm(scores.softmax(-1).to(v.dtype).view(batch * groups, heads // groups * length, -1), v)
    return out.view(batch, heads, length, channels).transpose(1, 2).flatten(2)


def sliced(packing: Packing, dtype: torch.dtype) -> Attend:
    """The definition by slices of queries, on the host: each meets the keys from where its first query's segment
    begins. Memory grows with L, not L^2: the backward computes a slice again."""

    def one(q_QHC: Tensor, k_SGC: Tensor, v_SGC: Tensor, segments_S: Tensor) -> Tensor:
        bias_QS = mask_bias(segments_S[None], dtype, len(q_QHC))
        return masked(q_QHC[None], k_SGC[None], v_SGC[None], bias_QS)[0]

    def attend(q_THC: Tensor, k_TGC: Tensor, v_TGC: Tensor, layer: int) -> Tensor:
        positions_T, segments_T = packing.positions_BL.flatten(), packing.segments_BL.flatten()
        slices = []
        for start in range(0, len(q_THC), SLICE):
            end = min(start + SLICE, len(q_THC))
            keys = slice(start - int(positions_T[start]), end)
            parts = q_THC[start:end], k_TGC[keys], v_TGC[keys], segments_T[keys]
            slices.append(checkpoint(one, *parts, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(slices)

    return attend


class KeyValues:
    """Keys and values of the tokens of one segment seen so far, one pair a layer; for generation."""

    def __init__(self, layers: int):
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        return 0 if self.layers[0] is None else self.layers[0][0].shape[0]

    def attend(self, q_THC: Tensor, k_TGC: Tensor, v_TGC: Tensor, layer: int) -> Tensor:
        """Append keys and values of T more tokens to those of `layer`; attention to all that are not later."""
        if past := self.layers[layer]:
            k_TGC, v_TGC = torch.cat([past[0], k_TGC]), torch.cat([past[1], v_TGC])
        self.layers[layer] = (k_TGC, v_TGC)
        length, keys = len(q_THC), len(k_TGC)
        later = torch.ones(length, keys, dtype=torch.bool, device=q_THC.device).triu(1 + keys - length)
        bias_LS = torch.zeros(length, keys, dtype=q_THC.dtype, device=q_THC.device).masked_fill_(later, -math.inf)
        return masked(q_THC[None], k_TGC[None], v_TGC[None], bias_LS[None])[0]
