"""From tokens to their rows and back: each token's row copied to its K places, and the sum of its K rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.operator import operator


@triton.jit
def spread_kernel(
    x_ptr, place_ptr, out_ptr, tokens, width, K: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out[place[t, j]] = x[t]: each token is read once and written K times (a gather of rows takes 1.5 to 2 times as
    long)."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < tokens)[:, None] & (n < width)[None, :]
    x = tl.load(x_ptr + t.to(tl.int64)[:, None] * width + n[None, :], mask=inside)
    for j in tl.static_range(K):
        place = tl.load(place_ptr + t * K + j, mask=t < tokens, other=0).to(tl.int64)
        tl.store(out_ptr + place[:, None] * width + n[None, :], x, mask=inside)


@operator("blocksparse_spread")
def spread(x_TD: Tensor, place_R: Tensor, top_k: int) -> Tensor:
    """Each token's row at its K places: [R, D]."""
    return _spread_launch(x_TD, place_R, top_k)


@spread.register_fake
def _(x_TD, place_R, top_k):
    return x_TD.new_empty(place_R.shape[0], x_TD.shape[1])


def _spread_launch(x_TD, place_R, top_k):
    tokens, width = x_TD.shape
    out_RD = x_TD.new_empty(len(place_R), width)
    grid, sizes = _token_grid(tokens, width, 4096)
    spread_kernel[grid](x_TD.contiguous(), place_R, out_RD, tokens, width, K=top_k, **sizes)
    return out_RD


@triton.jit
def combine_kernel(
    y_ptr, place_ptr, weight_ptr, end_ptr, out_ptr, tokens, width,
    WEIGHTED: tl.constexpr, ENDS: tl.constexpr, K: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[t] = sum over j of weight[t, j] y[place[t, j]], in the order of j; without weights where not WEIGHTED.
    Where it ENDS, rows from `end` on add nothing."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < tokens)[:, None] & (n < width)[None, :]
    acc = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for j in tl.static_range(K):
        place = tl.load(place_ptr + t * K + j, mask=t < tokens, other=0).to(tl.int64)
        there = inside & (place < tl.load(end_ptr))[:, None] if ENDS else inside
        y = tl.load(y_ptr + place[:, None] * width + n[None, :], mask=there, other=0.0).to(tl.float32)
        if WEIGHTED:
            y *= tl.load(weight_ptr + t * K + j, mask=t < tokens, other=0.0).to(tl.float32)[:, None]
        acc += y
    tl.store(out_ptr + t.to(tl.int64)[:, None] * width + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


@operator("blocksparse_combine")
def combine(
    y_RD: Tensor, place_R: Tensor, top_k: int, weights_TK: Tensor | None, end_1: Tensor | None = None
) -> Tensor:
    """The sum of each token's K rows, weighted where there are weights: [T, D]. Rows from `end` (int32, on the device)
    on add nothing."""
    return _combine_launch(y_RD, place_R, top_k, weights_TK, end_1)


@combine.register_fake
def _(y_RD, place_R, top_k, weights_TK, end_1=None):
    return y_RD.new_empty(y_RD.shape[0] // top_k, y_RD.shape[1])


def _combine_launch(y_RD, place_R, top_k, weights_TK, end_1=None):
    tokens, width = len(y_RD) // top_k, y_RD.shape[1]
    out_TD = y_RD.new_empty(tokens, width)
    weights = y_RD if weights_TK is None else weights_TK.contiguous()  # unused where there are none
    grid, sizes = _token_grid(tokens, width, 2048)
    combine_kernel[grid](
        y_RD, place_R, weights, place_R if end_1 is None else end_1, out_TD, tokens, width,
        WEIGHTED=weights_TK is not None, ENDS=end_1 is not None, K=top_k, **sizes,
    )  # fmt: skip
    return out_TD


def _token_grid(tokens: int, width: int, elements: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes of a block of about `elements` elements, at most 2048 wide."""
    columns = min(triton.next_power_of_2(width), 2048)
    height = max(1, elements // columns)
    return (triton.cdiv(tokens, height), triton.cdiv(width, columns)), dict(TOKENS=height, COLUMNS=columns, num_warps=8)
