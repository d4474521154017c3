"""What the layer launches, as operators of torch: registered, with shape functions, so that torch.compile takes each as
one node. tiles, used: of topology.row_tiles.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.hopper.choices import SLABS, outer_in_pairs, outer_tile, plan
from kernels.hopper.dact import dact_kernel, dact_overlapped_kernel
from kernels.hopper.launch import (
    box,
    box_of_weights,
    compile_side_by_side,
    compiling,
    launch,
    launch_persistent,
    launch_rows,
    new_counter,
)
from kernels.hopper.outer import outer_kernel, outer_pair_kernel
from kernels.hopper.rows import down_kernel, dx_kernel, up_kernel
from kernels.operator import operator


@operator("hopper_up")
def swiglu(
    x_RD: Tensor, w1: Tensor, v1: Tensor, tiles_M4: Tensor, used_1: Tensor, n_experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """gate, linear and silu(gate) * linear, [R, F] each."""
    (rows, width), hidden = x_RD.shape, w1.shape[0] // n_experts
    gate, linear, a = (x_RD.new_empty(rows, hidden) for _ in range(3))
    if rows:
        _first_use(x_RD, hidden, n_experts)
        boxes = (box(x_RD), box_of_weights(w1, 128), box_of_weights(v1, 128), box(gate), box(linear), box(a))
        arguments = (*boxes, gate, linear, a)
        launch_rows(up_kernel, arguments, tiles_M4, used_1, hidden, width, plan(width).lag, SLABS, SLABS=SLABS, SLOTS=4)
    return gate, linear, a


@swiglu.register_fake
def _(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    return tuple(x_RD.new_empty(x_RD.shape[0], w1.shape[0] // n_experts) for _ in range(3))


@operator("hopper_rows")
def row_products(a: list[Tensor], w: list[Tensor], tiles_M4: Tensor, used_1: Tensor) -> Tensor:
    """Each row times its expert's weights, [R, F] x [E * F, D] -> [R, D]; of two pairs the sum."""
    (rows, hidden), width = a[0].shape, w[0].shape[1]
    out = a[0].new_empty(rows, width)
    if rows:
        kernel = down_kernel if len(a) == 1 else dx_kernel
        arguments = (*(box(x) for x in a), *(box_of_weights(x, 64, 256) for x in w), box(out), out)
        launch_rows(kernel, arguments, tiles_M4, used_1, width, hidden, plan(width).lag, SLABS, SLABS=SLABS, SLOTS=4)
    return out


@row_products.register_fake
def _(a, w, tiles_M4, used_1):
    return a[0].new_empty(a[0].shape[0], w[0].shape[1])


@operator("hopper_dglu", mutates=("gate_RF", "linear_RF"))
def swiglu_backward(
    dy_RD: Tensor,
    w2: Tensor,
    gate_RF: Tensor,
    linear_RF: Tensor,
    weights_TK: Tensor,
    place_R: Tensor,
    tiles_M4: Tensor,
    used_1: Tensor,
) -> tuple[Tensor, Tensor]:
    """Behind da' = dy W2^T: (weight * a [R, F], gradient of the routing weights [T, K]); gate and linear become their
    gradients."""
    (rows, width), hidden = dy_RD.shape, gate_RF.shape[1]
    a, dweights_TK = torch.empty_like(gate_RF), torch.empty_like(weights_TK, memory_format=torch.contiguous_format)
    if rows:
        overlapped, lag = plan(width).overlapped, plan(width).lag
        weight_R = dy_RD.new_empty(rows, dtype=torch.float32)
        partial = dy_RD.new_empty(rows, triton.cdiv(hidden, 64 if overlapped else 256), dtype=torch.float32)
        launch(
            sort_weights_kernel, triton.cdiv(rows, 1024), weights_TK.contiguous(), place_R, weight_R, rows, BLOCK=1024
        )
        boxes, tensors = (box(dy_RD), box_of_weights(w2, 256)), (gate_RF, linear_RF, a, weight_R, partial)
        if overlapped:
            launch_rows(dact_overlapped_kernel, (*boxes, *tensors), tiles_M4, used_1, hidden, width, lag, 3, SLOTS=3)
        else:
            boxes += (box(gate_RF), box(linear_RF), box(a))
            launch_rows(dact_kernel, (*boxes, *tensors), tiles_M4, used_1, hidden, width, lag, 2, SLOTS=4)
        columns = partial.shape[1]
        block = triton.next_power_of_2(columns)
        sizes = dict(ROWS=max(min(64, 8192 // block), 1), COLUMNS=block)
        launch(
            sum_partials_kernel, triton.cdiv(rows, sizes["ROWS"]), partial, place_R, dweights_TK, rows, columns, **sizes
        )
    return a, dweights_TK


@swiglu_backward.register_fake
def _(dy_RD, w2, gate_RF, linear_RF, weights_TK, place_R, tiles_M4, used_1):
    return torch.empty_like(gate_RF), torch.empty_like(weights_TK, memory_format=torch.contiguous_format)


@triton.jit(do_not_specialize=["rows"])
def sort_weights_kernel(weight_ptr, place_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    """Routing weights in the order of sorted rows, fp32."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(place_ptr + i, mask=i < rows, other=0)
    tl.store(out_ptr + place, tl.load(weight_ptr + i, mask=i < rows, other=0.0).to(tl.float32), mask=i < rows)


@triton.jit(do_not_specialize=["rows"])
def sum_partials_kernel(partial_ptr, place_ptr, out_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Gradient of each routing weight: the sum over column tiles, in a fixed order."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, COLUMNS)
    place = tl.load(place_ptr + i, mask=i < rows, other=0).to(tl.int64)
    inside = (i < rows)[:, None] & (c < columns)[None, :]
    partial = tl.load(partial_ptr + place[:, None] * columns + c[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + i, tl.sum(partial, 1).to(out_ptr.dtype.element_ty), mask=i < rows)


@operator("hopper_outer")
def outer_products(a: list[Tensor], b_RD: Tensor, offsets_E1: Tensor, order_E: Tensor) -> list[Tensor]:
    """Gradient of each expert's weights, a^T b over its rows: [E * F, D] for each of one or two a [R, F]; zero without
    rows."""
    new = b_RD.new_empty if len(b_RD) else b_RD.new_zeros
    out = [new(len(order_E) * a[0].shape[1], b_RD.shape[1]) for _ in a]
    _launch_outer(a, b_RD, out, offsets_E1, order_E, accumulate=False)
    return out


@outer_products.register_fake
def _(a, b_RD, offsets_E1, order_E):
    return [b_RD.new_empty(order_E.shape[0] * a[0].shape[1], b_RD.shape[1]) for _ in a]


@operator("hopper_outer_add", mutates=("sum_WD",))
def add_outer_products(a_RF: Tensor, b_RD: Tensor, sum_WD: Tensor, offsets_E1: Tensor, order_E: Tensor) -> None:
    """Adds to fp32 what `outer_products` returns, before it is rounded. Raises ValueError if the sum is not 16-byte
    aligned."""
    if sum_WD.data_ptr() % 16:  # which `layer` finds earlier, but not under torch.compile
        raise ValueError("expected a main gradient that is 16-byte aligned")
    _launch_outer([a_RF], b_RD, [sum_WD], offsets_E1, order_E, accumulate=True)


@add_outer_products.register_fake
def _(a_RF, b_RD, sum_WD, offsets_E1, order_E):
    return None


def _launch_outer(
    a: list[Tensor], b_RD: Tensor, out: list[Tensor], offsets_E1: Tensor, order_E: Tensor, accumulate: bool
) -> None:
    if not len(b_RD):
        return
    hidden, width = a[0].shape[1], b_RD.shape[1]
    slabs, group = outer_tile(hidden)
    kernel = outer_kernel if len(a) == 1 else outer_pair_kernel
    boxes = (*(box(x) for x in a), box(b_RD, 64, 256), *(box(x, 64, 32 if accumulate else 64) for x in out))
    counter = new_counter(b_RD.device)
    arguments = (*boxes, offsets_E1, order_E, counter, hidden, width, len(order_E), group)
    launch_persistent(kernel, b_RD.device, slabs, *arguments, SLABS=slabs, SLOTS=4, ACCUMULATE=accumulate)


def _first_use(x_RD: Tensor, hidden: int, n_experts: int) -> None:
    """Compile what a layer of this shape needs, unless this is itself a compiling thread or a CUDA graph is being
    captured."""
    if not compiling() and not (x_RD.is_cuda and torch.cuda.is_current_stream_capturing()):
        compile_ahead(x_RD.device, x_RD.dtype, x_RD.shape[1], hidden, n_experts)


@cache
@torch.inference_mode(False)  # threads do not inherit the mode, and may not overwrite what was made in it
def compile_ahead(device: torch.device, dtype: torch.dtype, width: int, hidden: int, n_experts: int) -> None:
    """Compile the kernels of a layer side by side, once a shape: one after the other, as they are called, they took 22
    s. Not `outer_kernel` for main gradients, which few have."""
    x, w, h, weight = (
        torch.empty(*shape, device=device, dtype=dtype) for shape in ((1, width), (hidden, width), (1, hidden), (1, 1))
    )
    tiles, one, offsets = (torch.zeros(*shape, device=device, dtype=torch.int32) for shape in ((1, 4), (1,), (2,)))
    # of one expert with one row; `one` is the number of tiles in use, the row's place and the experts' order
    works = [
        lambda: swiglu(x, w, w, tiles, one, 1),
        lambda: row_products([h], [w], tiles, one),
        lambda: row_products([h, h], [w, w], tiles, one),
        lambda: swiglu_backward(x, w, h, h.clone(), weight.float(), one, tiles, one),
        lambda: outer_products([h], x, offsets, one),
        lambda: outer_products([h, h], x, offsets, one) if outer_in_pairs(hidden, width, n_experts) else None,
    ]
    compile_side_by_side(device, works)
