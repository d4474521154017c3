"""SwiGLU behind the first products, gate and linear, and its derivative with that of the routing weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocksparse.tiles import add_product, choose_tile, row_tile, store_rows
from kernels.operator import operator


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x), with the square of a reciprocal root in place of a division, which takes more registers than
    glu_kernel has left."""
    root = tl.rsqrt(1 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def glu_kernel(
    x_ptr, w_ptr, v_ptr, gate_ptr, linear_ptr, act_ptr, tiles_ptr, used_ptr, depth, width,
    TAIL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """gate = x w_e^T, linear = x v_e^T, act = silu(gate) * linear, each [R, width]; x is [R, depth], w and v [E *
    width, depth].

    One product: the left half of a tile's COLUMNS are columns of w_e, the right half the same columns of v_e. All three
    results are stored, as the backward needs gate and linear, and the next product act.
    """
    HALF: tl.constexpr = COLUMNS // 2
    expert, row, left, column_tile, in_use = row_tile(tiles_ptr, used_ptr, tl.cdiv(width, HALF))
    if not in_use:
        return
    r = row + tl.minimum(tl.arange(0, ROWS), left - 1)
    n = tl.arange(0, COLUMNS)
    weight_row = expert.to(tl.int64) * width + (column_tile * HALF + n % HALF) % width
    k = tl.arange(0, DEPTH)
    x_ptrs = x_ptr + (r.to(tl.int64)[:, None] * depth + k[None, :])
    b_ptrs = tl.where(n < HALF, w_ptr, v_ptr)[None, :] + (weight_row[None, :] * depth + k[:, None])
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    acc = add_product(acc, x_ptrs, b_ptrs, depth, 1, 1, DEPTH, TAIL)
    gate, linear = tl.split(acc.reshape((ROWS, 2, HALF)).permute((0, 2, 1)))
    store_rows(act_ptr, gate * sigmoid(gate) * linear, row, left, column_tile, width, ROWS, HALF)
    store_rows(gate_ptr, gate, row, left, column_tile, width, ROWS, HALF)
    store_rows(linear_ptr, linear, row, left, column_tile, width, ROWS, HALF)


@operator("blocksparse_glu")
def swiglu(
    x_RD: Tensor, w1: Tensor, v1: Tensor, tiles_M4: Tensor, used_1: Tensor, n_experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(gate, linear, silu(gate) * linear), each [R, F]."""
    return _glu_launch(x_RD, w1, v1, tiles_M4, used_1, n_experts)


@swiglu.register_fake
def _(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    return tuple(x_RD.new_empty(x_RD.shape[0], w1.shape[0] // n_experts) for _ in range(3))


def _glu_launch(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    (rows, depth), width = x_RD.shape, w1.shape[0] // n_experts
    gate, linear, act = (x_RD.new_empty(rows, width) for _ in range(3))
    tile = choose_tile(x_RD, depth)
    glu_kernel[(len(tiles_M4) * triton.cdiv(width, tile.columns // 2),)](
        x_RD, w1.contiguous(), v1.contiguous(), gate, linear, act, tiles_M4, used_1, depth, width,
        TAIL=depth % tile.depth > 0, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return gate, linear, act


@triton.jit
def dglu_kernel(da_ptr, gate_ptr, linear_ptr, place_ptr, weight_ptr, dweight_ptr, width, BLOCK: tl.constexpr):
    """One row, in place: da' = dy w2^T becomes weight * act, gate becomes dgate, linear dlinear; the weight's gradient
    is <da', act>.

    A kernel of its own: fused behind the product it costs more than the bytes it saves (471 against 563 TFLOP/s in all,
    DBRX's shape on an H200), as registers are full of accumulators there.
    """
    pair = tl.program_id(0)
    weight = tl.load(weight_ptr + pair).to(tl.float32)
    row = tl.load(place_ptr + pair).to(tl.int64) * width
    dot = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        f = start + tl.arange(0, BLOCK)
        p, inside = row + f, f < width
        da = tl.load(da_ptr + p, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + p, mask=inside, other=0.0).to(tl.float32)
        linear = tl.load(linear_ptr + p, mask=inside, other=0.0).to(tl.float32)
        sig = sigmoid(gate)
        silu = gate * sig
        act = silu * linear
        dot += da * act
        da *= weight
        tl.store(gate_ptr + p, (da * linear * (sig + silu * (1 - sig))).to(gate_ptr.dtype.element_ty), mask=inside)
        tl.store(linear_ptr + p, (da * silu).to(linear_ptr.dtype.element_ty), mask=inside)
        tl.store(da_ptr + p, (act * weight).to(da_ptr.dtype.element_ty), mask=inside)
    tl.store(dweight_ptr + pair, tl.sum(dot, 0).to(dweight_ptr.dtype.element_ty))


@operator("blocksparse_dglu", mutates=("da_RF", "gate_RF", "linear_RF"))
def swiglu_backward(da_RF: Tensor, gate_RF: Tensor, linear_RF: Tensor, place_R: Tensor, weights_TK: Tensor) -> Tensor:
    """The gradient of the routing weights [T, K]; da, gate and linear become weight * act, dgate and dlinear."""
    return _dglu_launch(da_RF, gate_RF, linear_RF, place_R, weights_TK)


@swiglu_backward.register_fake
def _(da_RF, gate_RF, linear_RF, place_R, weights_TK):
    return torch.empty_like(weights_TK, memory_format=torch.contiguous_format)


def _dglu_launch(da_RF, gate_RF, linear_RF, place_R, weights_TK):
    rows, width = da_RF.shape
    dweights_TK = torch.empty_like(weights_TK, memory_format=torch.contiguous_format)
    block = min(triton.next_power_of_2(width), 2048 // da_RF.element_size())  # 16 bytes a thread
    dglu_kernel[(rows,)](
        da_RF, gate_RF, linear_RF, place_R, weights_TK.contiguous(), dweights_TK, width, BLOCK=block, num_warps=4
    )
    return dweights_TK
