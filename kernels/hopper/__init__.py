"""The expert layer on Hopper (sm_90): bf16 or fp16 with fp32 sums, D and F multiples of 64.

Six launches, seven at DBRX's shape (`PAIR_BELOW`), of persistent Gluon kernels (`rows`, `outer`, both on the ring of
`ring`), with what surrounds the products in their epilogues:

    gate, linear, a = x W1^T, x V1^T, silu(gate) * linear       `_up`
    y = a W2                                                    `_rows`, then weighted and summed by `combine`
    da' = dy W2^T -> weight * a, dgate, dlinear, dweight        `_dglu`
    dW2 = (weight * a)^T dy; dW1, dV1 = dgate^T x, dlinear^T x  `_outer`
    dx = dgate W1 + dlinear V1                                  `_rows`

Weights are used where they lie, [E * F, D] as DBRX publishes them. Rows are sorted by expert and never padded; how many
an expert has is known on the device only, so nothing waits for it. Results repeat bit for bit. Rates of the layer as it
is: see benchmarks/results/experts.md. Numbers in comments of hopper/ are of other, earlier runs on an H200 (132 SMs,
700 W), in % of the rate of six dense cuBLAS products of the same size: they told one choice from another.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.blocksparse import combine, spread
from kernels.hopper.outer import outer_kernel, outer_pair_kernel
from kernels.hopper.rows import dact_kernel, dact_overlapped_kernel, down_kernel, dx_kernel, up_kernel
from kernels.topology import Topology, build, row_tiles

# ------------------------------------------------------------------------------------------------ choices by shape

# of 64 rows in a tile of row products: 192 x 256. Two, 128 x 256, read the same in the whole step (93.6 and 93.7 % for
# DBRX)
SLABS = 3
DACT_SLABS, DACT_GROUP = 2, 16  # its epilogue needs the registers, or the shared memory, of the third
# a thread, by warpgroups beside the loader's: 65,536 / 128 / (3 or 4), a multiple of 8
ENTRY_REGISTERS = {2: 168, 3: 128}
# tiles of a weight gradient; else dW1 and dV1 are two launches, and dgate is freed between (DBRX: 0.7 of 8.4 GB)
PAIR_BELOW = 64 * 132


class Plan(NamedTuple):
    """`group`: neighbouring row tiles that share an expert's columns in L2. `lag`: steps of 64 along K that a block may
    run ahead of others; `overlapped`: the derivative of SwiGLU in a warpgroup of its own.

    Measured in the layer: groups of 9 to 22 within 0.5 %; lags of 12 to 24 alike, 40 lost up to 5 % a product in one
    run of two.
    """

    group: int
    lag: int
    overlapped: bool


PLANS = ((4096, Plan(12, 24, True)), (2048, Plan(12, 16, True)), (0, Plan(6, 8, False)))  # by least D


def plan(width: int) -> Plan:
    """The plan for D = width. At D = 1024 `dact_kernel` does 400-425 TFLOP/s, the overlapped one 350, but 565 at 3072
    and 616 at 6144."""
    return next(chosen for least, chosen in PLANS if width >= least)


def outer_tile(hidden: int) -> tuple[int, int]:
    """(slabs, group) of weight gradients: 192 x 256 where F is a multiple of 192, else the last slabs of each band
    would idle."""
    return (3, 6) if hidden % 192 == 0 else (2, 14)


def supports(x_TD: Tensor, w1: Tensor, n_experts: int) -> str | None:
    """What this path supports, if these inputs are something else; None if it can run them."""
    nvidia = x_TD.is_cuda and not torch.version.hip
    # which torch.compile can fold, unlike its capability
    gpu = torch.cuda.get_device_properties(x_TD.device) if nvidia else None
    if gpu is None or (gpu.major, gpu.minor) != (9, 0):
        return f"GPUs of sm_90 (H100, H200), not {gpu.name if gpu else x_TD.device}"
    if x_TD.dtype not in (torch.bfloat16, torch.float16):
        return f"x in bf16 or fp16, not {x_TD.dtype}"
    if x_TD.shape[1] % 64 or w1.shape[0] % (64 * n_experts):
        return f"D and F multiples of 64, not {x_TD.shape[1]} and {w1.shape[0] / n_experts:g}"
    return None


# ------------------------------------------------------------------------------------------------ launching


@cache
def _layout(rows: int, columns: int, bits: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, columns], gl.float32 if bits == 32 else gl.bfloat16)


def _box(x: Tensor, rows: int = 64, columns: int = 64) -> TensorDescriptor:
    """A TMA descriptor of x that moves boxes of rows x columns; 2 us on the host."""
    return TensorDescriptor(
        x, list(x.shape), list(x.stride()), [rows, columns], _layout(rows, columns, x.element_size() * 8)
    )


def _box_of_weights(w: Tensor, rows: int, columns: int = 64) -> TensorDescriptor:
    """The same of weights [E * F, D], which a caller may have cut from something larger: TMA wants 16-byte aligned
    rows, else a copy."""
    return _box(w if w.data_ptr() % 16 == 0 else w.clone(), rows, columns)


@cache
def _blocks(device: torch.device) -> int:
    """One for each SM."""
    return torch.cuda.get_device_properties(device).multi_processor_count


_ahead = threading.local()  # `compiling` is true in threads of `compile_ahead`


def _launch(kernel, grid: int, *arguments, **options) -> None:
    if getattr(_ahead, "compiling", False):
        kernel.warmup(*arguments, grid=(grid,), **options)
    else:
        kernel[(grid,)](*arguments, **options)


def _first_use(x_RD: Tensor, hidden: int, n_experts: int) -> None:
    """Compile what a layer of this shape needs, unless this is itself a compiling thread or a CUDA graph is being
    captured."""
    if not getattr(_ahead, "compiling", False) and not (x_RD.is_cuda and torch.cuda.is_current_stream_capturing()):
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
    works = [  # of one expert with one row; `one` is the number of tiles in use, the row's place and the experts' order
        lambda: _up(x, w, w, tiles, one, 1),
        lambda: _rows([h], [w], tiles, one),
        lambda: _rows([h, h], [w, w], tiles, one),
        lambda: _dglu(x, w, h, h.clone(), weight.float(), one, tiles, one),
        lambda: _outer([h], x, offsets, one),
        lambda: _outer([h, h], x, offsets, one) if n_experts * _outer_tiles(w, 1) < PAIR_BELOW else None,
    ]

    def begin() -> None:
        _ahead.compiling = True
        if device.type == "cuda":
            torch.cuda.set_device(device)

    with ThreadPoolExecutor(len(works), initializer=begin) as threads:
        tried = [threads.submit(work) for work in works]
    # Python 3.11 counts the depth of syntax trees for all threads together, and now and then refuses one (SystemError:
    # "AST constructor recursion depth mismatch"): what failed is compiled again, alone, and raises what is really wrong
    # with it.
    with ThreadPoolExecutor(1, initializer=begin) as alone:
        for again in [alone.submit(work) for work, done in zip(works, tried, strict=True) if done.exception()]:
            again.result()


def _launch_rows(
    kernel,
    arguments: tuple,
    tiles_M4: Tensor,
    used_1: Tensor,
    n: int,
    k: int,
    lag: int,
    tile_columns: int,
    warpgroups: int,
    **sizes,
) -> None:
    """Launch a kernel of `hopper_rows` over all tiles of a product [R, k] x [k, n]; pacing has a counter for each wave
    of tiles."""
    blocks = _blocks(tiles_M4.device)
    waves = triton.cdiv(len(tiles_M4) * triton.cdiv(n, tile_columns), blocks)
    pace = torch.zeros(waves, device=tiles_M4.device, dtype=torch.int32)
    options = dict(BLOCKS=blocks, num_warps=4, maxnreg=ENTRY_REGISTERS[warpgroups])
    _launch(kernel, blocks, *arguments, tiles_M4, used_1, pace, n, k, lag, **sizes, **options)


# ------------------------------------------------------------------------------------------------ operators
# Registered, with shape functions, so that torch.compile takes each as one node. tiles, used: of topology.row_tiles.


@torch.library.custom_op("millrace::hopper_up", mutates_args=())
def _up(
    x_RD: Tensor, w1: Tensor, v1: Tensor, tiles_M4: Tensor, used_1: Tensor, n_experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """gate, linear and silu(gate) * linear, [R, F] each."""
    (rows, width), hidden = x_RD.shape, w1.shape[0] // n_experts
    gate, linear, a = (x_RD.new_empty(rows, hidden) for _ in range(3))
    if rows:
        _first_use(x_RD, hidden, n_experts)
        boxes = (_box(x_RD), _box_of_weights(w1, 128), _box_of_weights(v1, 128), _box(gate), _box(linear), _box(a))
        arguments = (*boxes, gate, linear, a)
        _launch_rows(
            up_kernel, arguments, tiles_M4, used_1, hidden, width, plan(width).lag, 128, SLABS, SLABS=SLABS, SLOTS=4
        )
    return gate, linear, a


@_up.register_fake
def _(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    return tuple(x_RD.new_empty(x_RD.shape[0], w1.shape[0] // n_experts) for _ in range(3))


@torch.library.custom_op("millrace::hopper_rows", mutates_args=())
def _rows(a: list[Tensor], w: list[Tensor], tiles_M4: Tensor, used_1: Tensor) -> Tensor:
    """Each row times its expert's weights, [R, F] x [E * F, D] -> [R, D]; of two pairs the sum."""
    (rows, hidden), width = a[0].shape, w[0].shape[1]
    out = a[0].new_empty(rows, width)
    if rows:
        kernel = down_kernel if len(a) == 1 else dx_kernel
        arguments = (*(_box(x) for x in a), *(_box_of_weights(x, 64, 256) for x in w), _box(out), out)
        _launch_rows(
            kernel, arguments, tiles_M4, used_1, width, hidden, plan(width).lag, 256, SLABS, SLABS=SLABS, SLOTS=4
        )
    return out


@_rows.register_fake
def _(a, w, tiles_M4, used_1):
    return a[0].new_empty(a[0].shape[0], w[0].shape[1])


@torch.library.custom_op("millrace::hopper_dglu", mutates_args=("gate_RF", "linear_RF"))
def _dglu(
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
        _launch(
            sort_weights_kernel, triton.cdiv(rows, 1024), weights_TK.contiguous(), place_R, weight_R, rows, BLOCK=1024
        )
        boxes, tensors = (_box(dy_RD), _box_of_weights(w2, 256)), (gate_RF, linear_RF, a, weight_R, partial)
        if overlapped:
            _launch_rows(
                dact_overlapped_kernel, (*boxes, *tensors), tiles_M4, used_1, hidden, width, lag, 256, 3, SLOTS=3
            )
        else:
            boxes += (_box(gate_RF), _box(linear_RF), _box(a))
            _launch_rows(dact_kernel, (*boxes, *tensors), tiles_M4, used_1, hidden, width, lag, 256, 2, SLOTS=4)
        columns = partial.shape[1]
        block = triton.next_power_of_2(columns)
        sizes = dict(ROWS=max(min(64, 8192 // block), 1), COLUMNS=block)
        _launch(
            sum_partials_kernel, triton.cdiv(rows, sizes["ROWS"]), partial, place_R, dweights_TK, rows, columns, **sizes
        )
    return a, dweights_TK


@_dglu.register_fake
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


@torch.library.custom_op("millrace::hopper_outer", mutates_args=())
def _outer(a: list[Tensor], b_RD: Tensor, offsets_E1: Tensor, order_E: Tensor) -> list[Tensor]:
    """Gradient of each expert's weights, a^T b over its rows: [E * F, D] for each of one or two a [R, F]; zero without
    rows."""
    new = b_RD.new_empty if len(b_RD) else b_RD.new_zeros
    out = [new(len(order_E) * a[0].shape[1], b_RD.shape[1]) for _ in a]
    _launch_outer(a, b_RD, out, offsets_E1, order_E, accumulate=False)
    return out


@_outer.register_fake
def _(a, b_RD, offsets_E1, order_E):
    return [b_RD.new_empty(order_E.shape[0] * a[0].shape[1], b_RD.shape[1]) for _ in a]


@torch.library.custom_op("millrace::hopper_outer_add", mutates_args=("sum_WD",))
def _outer_add(a_RF: Tensor, b_RD: Tensor, sum_WD: Tensor, offsets_E1: Tensor, order_E: Tensor) -> None:
    """Adds to fp32 what `_outer` returns, before it is rounded. Raises ValueError if the sum is not 16-byte aligned."""
    if sum_WD.data_ptr() % 16:  # which `layer` finds earlier, but not under torch.compile
        raise ValueError("expected a main gradient that is 16-byte aligned")
    _launch_outer([a_RF], b_RD, [sum_WD], offsets_E1, order_E, accumulate=True)


@_outer_add.register_fake
def _(a_RF, b_RD, sum_WD, offsets_E1, order_E):
    return None


def _launch_outer(
    a: list[Tensor], b_RD: Tensor, out: list[Tensor], offsets_E1: Tensor, order_E: Tensor, accumulate: bool
) -> None:
    if not len(b_RD):
        return
    hidden, width, blocks = a[0].shape[1], b_RD.shape[1], _blocks(b_RD.device)
    slabs, group = outer_tile(hidden)
    kernel = outer_kernel if len(a) == 1 else outer_pair_kernel
    boxes = (*(_box(x) for x in a), _box(b_RD, 64, 256), *(_box(x, 64, 32 if accumulate else 64) for x in out))
    options = dict(
        SLABS=slabs, SLOTS=4, ACCUMULATE=accumulate, BLOCKS=blocks, num_warps=4, maxnreg=ENTRY_REGISTERS[slabs]
    )
    _launch(kernel, blocks, *boxes, offsets_E1, order_E, hidden, width, len(order_E), group, **options)


# ------------------------------------------------------------------------------------------------ the layer


class Experts(torch.autograd.Function):
    """apply(x [T, D], indices [T, K], weights [T, K], w1, v1, w2 [E * F, D] in the dtype of x, E) -> [T, D]; see
    `layer.experts`.

    Saved are x, gate, linear and the routing. With y = a w2 before its weight and da' = dy w2^T, the gradient of a
    weight is <da', a>, so neither y nor a need be kept. The backward overwrites gate and linear: a second one raises
    RuntimeError. Products that only an input without requires_grad would need are left out. Where a main gradient is
    given, fp32, the weight's is added there and None returned (3.7 % of a step at DBRX's shape; a gradient in bf16 that
    is added later costs four times as much).
    """

    @staticmethod
    def forward(ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts, main_w1=None, main_v1=None, main_w2=None):
        ctx.mains = (main_w1, main_v1, main_w2)
        w1, v1, w2 = (w.contiguous() for w in (w1, v1, w2))
        topology = build(indices_TK, n_experts)
        tiles = row_tiles(topology, 64 * SLABS, plan(x_TD.shape[1]).group)
        gate_RF, linear_RF, a_RF = _up(spread(x_TD, topology.place_R, indices_TK.shape[1]), w1, v1, *tiles, n_experts)
        y_RD = _rows([a_RF], [w2], *tiles)
        del a_RF
        ctx.save_for_backward(x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, *topology, *tiles)
        return combine(y_RD, topology.place_R, indices_TK.shape[1], weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_TD):
        x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, place_R, offsets_E1, order_E, *tiles = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            ctx.maybe_clear_saved_tensors()  # so that gate and linear are freed below, not at the end
        (main_w1, main_v1, main_w2), top_k, spans = ctx.mains, weights_TK.shape[1], (offsets_E1, order_E)
        needs_x, _, _, needs_w1, needs_v1, needs_w2, *_ = ctx.needs_input_grad
        dact_tiles = row_tiles(Topology(place_R, *spans), 64 * DACT_SLABS, DACT_GROUP)
        dy_RD = spread(dout_TD, place_R, top_k)
        a_RF, dweights_TK = _dglu(dy_RD, w2, gate_RF, linear_RF, weights_TK, place_R, *dact_tiles)
        dw2 = _gradient(a_RF, dy_RD, main_w2, *spans) if needs_w2 else None
        del a_RF, dy_RD
        dgate_RF, dlinear_RF = gate_RF, linear_RF
        del gate_RF, linear_RF
        dx_TD = combine(_rows([dgate_RF, dlinear_RF], [w1, v1], *tiles), place_R, top_k, None) if needs_x else None
        x_RD = spread(x_TD, place_R, top_k) if needs_w1 or needs_v1 else None
        plain = needs_w1 and needs_v1 and main_w1 is None and main_v1 is None
        if plain and _outer_tiles(w1, len(order_E)) < PAIR_BELOW:
            dw1, dv1 = _outer([dgate_RF, dlinear_RF], x_RD, *spans)
        else:
            dw1 = _gradient(dgate_RF, x_RD, main_w1, *spans) if needs_w1 else None
            del dgate_RF
            dv1 = _gradient(dlinear_RF, x_RD, main_v1, *spans) if needs_v1 else None
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None, None, None, None


def _gradient(a_RF: Tensor, b_RD: Tensor, main: Tensor | None, offsets_E1: Tensor, order_E: Tensor) -> Tensor | None:
    """a^T b of each expert: returned, or added to `main` where there is one."""
    if main is None:
        return _outer([a_RF], b_RD, offsets_E1, order_E)[0]
    _outer_add(a_RF, b_RD, main, offsets_E1, order_E)
    return None


def _outer_tiles(w: Tensor, n_experts: int) -> int:
    """Tiles of one weight's gradient."""
    hidden = w.shape[0] // n_experts
    return triton.cdiv(hidden, 64 * outer_tile(hidden)[0]) * triton.cdiv(w.shape[1], 256) * n_experts
