"""Expert layers as block-sparse products, in portable Triton: Ampere and later, bf16, fp16 or fp32, D and F any
multiples of 16.

Seen as one product over all experts, the hidden activations of a layer are a sparse matrix S [R, E * F]: a row is zero
outside the F columns of its expert. Rows are sorted by expert (`topology`), so the rest are E dense blocks of rows,
kept as values [R, F] without any index. All work is three products (s sparse, d dense; the first letter is the result):

    sdd   S = A B, only where S is not zero   A [R, D], B [D, E * F]      gate = sdd(x, w1.t())
    dsd   S B, or S^T B                       B [E * F, D], or [R, D]     y = dsd(a, w2), dw2 = dsd(a, dy, trans_s=True)
    dds   A S, or A S^T                       by transposing dsd

and derivatives of these products are products of the same kinds. Two kernels suffice, as transposes are strides:
`rows_kernel`, whose tiles are rows of one expert, and `outer_kernel`, whose tiles lie in one expert's block of a weight
and sum over that expert's rows. The layer fuses SwiGLU into the first product (`glu_kernel`), sums two products where a
derivative does, and moves rows by `spread_kernel` and `combine_kernel`. Weights are [E * F, D] as DBRX publishes them.
No sum uses atomics: same inputs, same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.topology import INTERPRETED, Topology, build, on_triton, row_tiles

# row tiles that share an expert's columns while in L2: 132 blocks then work on about 2048 x 2112; 9 to 22 read alike on
# an H200
GROUP = 16


class Tile(NamedTuple):
    """Rows x columns of the result, depth of one step, warps, and how many steps of both operands are in shared memory
    at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Large: 192 of 227 KB of shared memory, one block an SM. In short sums its first loads and last stores would weigh: two
# smaller overlap.
LARGE, LARGE_SHORT, SMALL = Tile(128, 256, 64, 8, 4), Tile(128, 128, 64, 4, 3), Tile(128, 128, 32, 4, 4)
FP32 = Tile(64, 64, 16, 4, 2)  # exact fp32 products do not run on tensor cores
SHORT = 2048
FAR = 2**31  # elements


def choose_tile(x: Tensor, depth: int) -> Tile:
    """The tile for a sum over `depth`. Hopper and datacenter Blackwell have 227 KB of shared memory, others as little
    as 99."""
    if x.dtype == torch.float32:
        return FP32
    if INTERPRETED or triton.runtime.driver.active.get_current_target().arch not in (90, 100, 103):
        return SMALL
    return LARGE_SHORT if depth < SHORT else LARGE


def blocks(topology: Topology, x: Tensor) -> tuple[Tensor, Tensor]:
    """The row tiles of `rows_kernel` and `glu_kernel` for values like x: all choices for one dtype have as many
    rows."""
    return row_tiles(topology, (FP32 if x.dtype == torch.float32 else LARGE).rows, GROUP)


# ------------------------------------------------------------------------------------------------ products


def sdd(a_RD: Tensor, b: Tensor, topology: Topology) -> Tensor:
    """Values [R, F] of S = A B at the blocks that are not zero; b is [D, E * F]. Raises ValueError for shapes that do
    not fit."""
    experts = topology.order_E.shape[0]
    _expect(
        a_RD.shape == (topology.place_R.shape[0], b.shape[0]) and b.shape[1] % (16 * experts) == 0,
        "[R, D], [D, E * F]",
        a_RD,
        b,
    )
    return SDD.apply(a_RD, b, *topology)


def dsd(s_RF: Tensor, b: Tensor, topology: Topology, trans_s: bool = False) -> Tensor:
    """S B [R, D] for b [E * F, D]; transposed S^T B [E * F, D] for b [R, D]. Raises ValueError for shapes that do not
    fit."""
    rows, experts, hidden = topology.place_R.shape[0], topology.order_E.shape[0], s_RF.shape[1]
    _expect(
        s_RF.shape[0] == rows and b.shape[0] == (rows if trans_s else experts * hidden),
        "[R, F], [E * F or R, D]",
        s_RF,
        b,
    )
    return (DSDTransposed if trans_s else DSD).apply(s_RF, b, *topology)


def dds(a: Tensor, s_RF: Tensor, topology: Topology, trans_s: bool = False) -> Tensor:
    """A S [M, E * F] for a [M, R]; transposed A S^T [M, R] for a [M, E * F]. Raises ValueError for shapes that do not
    fit."""
    return dsd(s_RF, a.t(), topology, trans_s=not trans_s).t()


def _expect(fits: bool, shapes: str, *found: Tensor) -> None:
    sizes, dtypes = [tuple(t.shape) for t in found], {t.dtype for t in found}
    if not fits or len(dtypes) > 1 or any(n % 16 for size in sizes for n in size[1:]):
        raise ValueError(
            f"expected {shapes} of one dtype, R that of the topology, D and F multiples of 16; found {sizes}, {dtypes}"
        )


class SDD(torch.autograd.Function):
    """S = A B: dA = dS B^T, dB = A^T dS."""

    @staticmethod
    def forward(ctx, a_RD, b, *topology):
        ctx.save_for_backward(a_RD, b, *topology)
        topology = Topology(*topology)
        return _rows([a_RD], [b], *blocks(topology, a_RD), topology.order_E.shape[0], True)

    @staticmethod
    def backward(ctx, ds_RF):
        a_RD, b, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        da_RD = dsd(ds_RF, b.t(), topology) if ctx.needs_input_grad[0] else None
        db = dsd(ds_RF, a_RD, topology, trans_s=True).t() if ctx.needs_input_grad[1] else None
        return da_RD, db, None, None, None


class DSD(torch.autograd.Function):
    """C = S B: dS = dC B^T, dB = S^T dC."""

    @staticmethod
    def forward(ctx, s_RF, b, *topology):
        ctx.save_for_backward(s_RF, b, *topology)
        topology = Topology(*topology)
        return _rows([s_RF], [b], *blocks(topology, s_RF), topology.order_E.shape[0], False)

    @staticmethod
    def backward(ctx, dc_RD):
        s_RF, b, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        ds_RF = sdd(dc_RD, b.t(), topology) if ctx.needs_input_grad[0] else None
        db = dsd(s_RF, dc_RD, topology, trans_s=True) if ctx.needs_input_grad[1] else None
        return ds_RF, db, None, None, None


class DSDTransposed(torch.autograd.Function):
    """C = S^T B: dS = B dC^T, dB = S dC."""

    @staticmethod
    def forward(ctx, s_RF, b_RD, *topology):
        ctx.save_for_backward(s_RF, b_RD, *topology)
        topology = Topology(*topology)
        return _outer(s_RF, b_RD, topology.offsets_E1, topology.order_E)

    @staticmethod
    def backward(ctx, dc):
        s_RF, b_RD, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        ds_RF = sdd(b_RD, dc.t(), topology) if ctx.needs_input_grad[0] else None
        db_RD = dsd(s_RF, dc, topology) if ctx.needs_input_grad[1] else None
        return ds_RF, db_RD, None, None, None


# ------------------------------------------------------------------------------------------------ what kernels share


@triton.jit
def row_tile(tiles_ptr, used_ptr, column_tiles):
    """This block's (expert, first row, rows left in the expert, column tile, whether it has work).

    Inside a group of row tiles the rows run fastest, so blocks in flight work on a patch of one expert's product that
    is about square.
    """
    tile = tl.program_id(0)
    group = tl.load(tiles_ptr + tile // column_tiles * 4 + 3)
    first, height = group // 64, group % 64
    inside = tile - first * column_tiles
    entry = tiles_ptr + (first + inside % height) * 4
    in_use = tile < tl.load(used_ptr) * column_tiles
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), inside // height, in_use


@triton.jit
def columns_of(tile, width, BLOCK: tl.constexpr):
    """Indices of a tile's columns. Those past the end start again at 0, so that loads need no mask; stores have one.

    Widths are multiples of 16, hence 16 neighbours stay neighbours: Triton may load 16 bytes at a time.
    """
    return tl.max_contiguous(tl.multiple_of((tile * BLOCK + tl.arange(0, BLOCK)) % width, 16), 16)


@triton.jit
def add_product(acc, a_ptrs, b_ptrs, depth, stride_a, stride_b, BLOCK: tl.constexpr, TAIL: tl.constexpr):
    """acc + A B for pointers [M, BLOCK] and [BLOCK, N] to the first step; strides are those of the summed dimension.

    TAIL: depth is no multiple of BLOCK. Masks in every step cost less than a last step of its own, which spills.
    """
    k = tl.arange(0, BLOCK)
    for start in range(0, depth, BLOCK):
        if TAIL:
            a = tl.load(a_ptrs, mask=(k < depth - start)[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=(k < depth - start)[:, None], other=0.0)
        else:
            a, b = tl.load(a_ptrs), tl.load(b_ptrs)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_ptrs += BLOCK * stride_a
        b_ptrs += BLOCK * stride_b
    return acc


# ------------------------------------------------------------------------------------------------ rows x their expert's weights


@triton.jit
def rows_kernel(
    a0_ptr, a1_ptr, b0_ptr, b1_ptr, out_ptr, tiles_ptr, used_ptr, depth, width, stride_ar, stride_ak, stride_be, stride_bk, stride_bn,
    PAIR: tl.constexpr, TAIL: tl.constexpr, FAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out[r, n] = sum over k of a[r, k] b[e, k, n], e the expert of row r; the sum of two such products where PAIR.
    out: [R, width]."""
    if FAR:
        stride_ak, stride_bk = tl.cast(stride_ak, tl.int64), tl.cast(stride_bk, tl.int64)
    expert, row, left, column_tile, in_use = row_tile(tiles_ptr, used_ptr, tl.cdiv(width, COLUMNS))
    if not in_use:
        return
    r = row + tl.minimum(tl.arange(0, ROWS), left - 1)  # past the expert's rows, its last one again
    n = columns_of(column_tile, width, COLUMNS)
    k = tl.arange(0, DEPTH)
    a_offsets = r.to(tl.int64)[:, None] * stride_ar + k[None, :] * stride_ak
    b_offsets = expert.to(tl.int64) * stride_be + (k[:, None] * stride_bk + n.to(tl.int64)[None, :] * stride_bn)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    acc = add_product(acc, a0_ptr + a_offsets, b0_ptr + b_offsets, depth, stride_ak, stride_bk, DEPTH, TAIL)
    if PAIR:
        acc = add_product(acc, a1_ptr + a_offsets, b1_ptr + b_offsets, depth, stride_ak, stride_bk, DEPTH, TAIL)
    store_rows(out_ptr, acc, row, left, column_tile, width, ROWS, COLUMNS)


@triton.jit
def store_rows(out_ptr, values, row, left, column_tile, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """values -> rows of a contiguous [R, width] matrix, as far as they are the expert's."""
    r = tl.arange(0, ROWS)
    n = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    p = out_ptr + (row + r).to(tl.int64)[:, None] * width + n[None, :]
    tl.store(p, values.to(out_ptr.dtype.element_ty), mask=(r < left)[:, None] & (n < width)[None, :])


@torch.library.custom_op("millrace::blocksparse_rows", mutates_args=())
def _rows(
    a: list[Tensor], b: list[Tensor], tiles_M4: Tensor, used_1: Tensor, n_experts: int, by_column: bool
) -> Tensor:
    """Rows [R, K] times their expert's block [K, N], for one or two pairs that are summed: [R, N].

    Experts' blocks lie side by side, b [K, E * N], or with `by_column` false one below the other, b [E * K, N].
    """
    return _rows_launch(a, b, tiles_M4, used_1, n_experts, by_column)


@_rows.register_fake
def _(a, b, tiles_M4, used_1, n_experts, by_column):
    return a[0].new_empty(a[0].shape[0], b[0].shape[1] // n_experts if by_column else b[0].shape[1])


def _rows_launch(a, b, tiles_M4, used_1, n_experts, by_column):
    (rows, depth), width = a[0].shape, b[0].shape[1] // n_experts if by_column else b[0].shape[1]
    out = a[0].new_empty(rows, width)
    tile, a, b = choose_tile(out, depth * len(a)), _alike(a), _alike(b)
    stride_bk, stride_bn = b[0].stride()
    stride_be = width * stride_bn if by_column else depth * stride_bk
    rows_kernel[(len(tiles_M4) * triton.cdiv(width, tile.columns),)](
        a[0], a[-1], b[0], b[-1], out, tiles_M4, used_1, depth, width, *a[0].stride(), stride_be, stride_bk, stride_bn, PAIR=len(a) == 2,
        TAIL=depth % tile.depth > 0, FAR=_far(tile, a[0].stride(1), stride_bk), ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def _far(tile: Tile, *strides: int) -> bool:
    """Whether one step along the summed dimension needs int64, which takes up to 10 % more instructions in the loop."""
    return tile.depth * max(strides) >= FAR


def _alike(pair: list[Tensor]) -> list[Tensor]:
    """Both of a pair with the same strides, as a kernel takes them once."""
    return pair if pair[0].stride() == pair[-1].stride() else [t.contiguous() for t in pair]


# ------------------------------------------------------------------------------------------------ weight gradients


@triton.jit
def outer_kernel(
    a_ptr, b_ptr, out_ptr, offsets_ptr, order_ptr, height, width, stride_ar, stride_am, stride_br, stride_bn,
    FAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out[e, m, n] = sum over the rows r of expert e of a[r, m] b[r, n], zero without rows. Experts with most rows come
    first.

    out: contiguous [E, height, width]. Tiles of one expert run in groups of GROUP rows of tiles, for the sake of L2.
    """
    if FAR:
        stride_ar, stride_br = tl.cast(stride_ar, tl.int64), tl.cast(stride_br, tl.int64)
    row_tiles, column_tiles = tl.cdiv(height, ROWS), tl.cdiv(width, COLUMNS)
    tiles = row_tiles * column_tiles
    expert = tl.load(order_ptr + tl.program_id(0) // tiles)
    tile = tl.program_id(0) % tiles
    first = tile // (GROUP * column_tiles) * GROUP
    group = tl.minimum(row_tiles - first, GROUP)
    inside = tile - first * column_tiles
    row_tile, column_tile = first + inside % group, inside // group

    start = tl.load(offsets_ptr + expert)
    depth = tl.load(offsets_ptr + expert + 1) - start
    m, n = columns_of(row_tile, height, ROWS), columns_of(column_tile, width, COLUMNS)
    r = (start + tl.arange(0, DEPTH)).to(tl.int64)
    a_ptrs = a_ptr + (r[None, :] * stride_ar + m.to(tl.int64)[:, None] * stride_am)
    b_ptrs = b_ptr + (r[:, None] * stride_br + n.to(tl.int64)[None, :] * stride_bn)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    acc = add_product(acc, a_ptrs, b_ptrs, depth, stride_ar, stride_br, DEPTH, True)
    row, left = expert * height + row_tile * ROWS, height - row_tile * ROWS
    store_rows(out_ptr, acc, row, left, column_tile, width, ROWS, COLUMNS)


@torch.library.custom_op("millrace::blocksparse_outer", mutates_args=())
def _outer(a_RM: Tensor, b_RN: Tensor, offsets_E1: Tensor, order_E: Tensor) -> Tensor:
    """A^T B over each expert's rows, [E * M, N]."""
    return _outer_launch(a_RM, b_RN, offsets_E1, order_E)


@_outer.register_fake
def _(a_RM, b_RN, offsets_E1, order_E):
    return a_RM.new_empty(order_E.shape[0] * a_RM.shape[1], b_RN.shape[1])


def _outer_launch(a_RM, b_RN, offsets_E1, order_E):
    (rows, height), width, experts = a_RM.shape, b_RN.shape[1], len(order_E)
    out = a_RM.new_empty(experts * height, width)
    tile = choose_tile(out, rows // experts)
    outer_kernel[(experts * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns),)](
        a_RM, b_RN, out, offsets_E1, order_E, height, width, *a_RM.stride(), *b_RN.stride(),
        FAR=_far(tile, a_RM.stride(0), b_RN.stride(0)), ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, GROUP=GROUP,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


# ------------------------------------------------------------------------------------------------ gate, linear and SwiGLU


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


@torch.library.custom_op("millrace::blocksparse_glu", mutates_args=())
def _glu(
    x_RD: Tensor, w1: Tensor, v1: Tensor, tiles_M4: Tensor, used_1: Tensor, n_experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(gate, linear, silu(gate) * linear), each [R, F]."""
    return _glu_launch(x_RD, w1, v1, tiles_M4, used_1, n_experts)


@_glu.register_fake
def _(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    return tuple(x_RD.new_empty(x_RD.shape[0], w1.shape[0] // n_experts) for _ in range(3))


def _glu_launch(x_RD, w1, v1, tiles_M4, used_1, n_experts):
    (rows, depth), width = x_RD.shape, w1.shape[0] // n_experts
    gate, linear, act = (x_RD.new_empty(rows, width) for _ in range(3))
    tile = choose_tile(x_RD, depth)
    glu_kernel[(len(tiles_M4) * triton.cdiv(width, tile.columns // 2),)](
        x_RD, w1.contiguous(), v1.contiguous(), gate, linear, act, tiles_M4, used_1, depth, width, TAIL=depth % tile.depth > 0,
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return gate, linear, act


# ------------------------------------------------------------------------------------------------ derivative of SwiGLU and router


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


@torch.library.custom_op("millrace::blocksparse_dglu", mutates_args=("da_RF", "gate_RF", "linear_RF"))
def _dglu(da_RF: Tensor, gate_RF: Tensor, linear_RF: Tensor, place_R: Tensor, weights_TK: Tensor) -> Tensor:
    """The gradient of the routing weights [T, K]; da, gate and linear become weight * act, dgate and dlinear."""
    return _dglu_launch(da_RF, gate_RF, linear_RF, place_R, weights_TK)


@_dglu.register_fake
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


# ------------------------------------------------------------------------------------------------ tokens <-> rows


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


@torch.library.custom_op("millrace::blocksparse_spread", mutates_args=())
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
    y_ptr, place_ptr, weight_ptr, out_ptr, tokens, width,
    WEIGHTED: tl.constexpr, K: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[t] = sum over j of weight[t, j] y[place[t, j]], in the order of j; without weights where not WEIGHTED."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < tokens)[:, None] & (n < width)[None, :]
    acc = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for j in tl.static_range(K):
        place = tl.load(place_ptr + t * K + j, mask=t < tokens, other=0).to(tl.int64)
        y = tl.load(y_ptr + place[:, None] * width + n[None, :], mask=inside, other=0.0).to(tl.float32)
        if WEIGHTED:
            y *= tl.load(weight_ptr + t * K + j, mask=t < tokens, other=0.0).to(tl.float32)[:, None]
        acc += y
    tl.store(out_ptr + t.to(tl.int64)[:, None] * width + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("millrace::blocksparse_combine", mutates_args=())
def combine(y_RD: Tensor, place_R: Tensor, top_k: int, weights_TK: Tensor | None) -> Tensor:
    """The sum of each token's K rows, weighted where there are weights: [T, D]."""
    return _combine_launch(y_RD, place_R, top_k, weights_TK)


@combine.register_fake
def _(y_RD, place_R, top_k, weights_TK):
    return y_RD.new_empty(y_RD.shape[0] // top_k, y_RD.shape[1])


def _combine_launch(y_RD, place_R, top_k, weights_TK):
    tokens, width = len(y_RD) // top_k, y_RD.shape[1]
    out_TD = y_RD.new_empty(tokens, width)
    weights = y_RD if weights_TK is None else weights_TK.contiguous()  # unused where there are none
    grid, sizes = _token_grid(tokens, width, 2048)
    combine_kernel[grid](
        y_RD, place_R, weights, out_TD, tokens, width, WEIGHTED=weights_TK is not None, K=top_k, **sizes
    )
    return out_TD


def _token_grid(tokens: int, width: int, elements: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes of a block of about `elements` elements, at most 2048 wide."""
    columns = min(triton.next_power_of_2(width), 2048)
    height = max(1, elements // columns)
    return (triton.cdiv(tokens, height), triton.cdiv(width, columns)), dict(TOKENS=height, COLUMNS=columns, num_warps=8)


# ------------------------------------------------------------------------------------------------ the layer


def supports(x_TD: Tensor, w1: Tensor, n_experts: int) -> str | None:
    """What this path supports, if these inputs are something else; None if it can run them."""
    if not on_triton(x_TD) or (x_TD.is_cuda and torch.cuda.get_device_properties(x_TD.device).major < 8):
        return f"NVIDIA GPUs from sm_80 on, not {x_TD.device}"
    if x_TD.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"x in bf16, fp16 or fp32, not {x_TD.dtype}"
    if x_TD.shape[1] % 16 or w1.shape[0] % (16 * n_experts):
        return f"D and F multiples of 16, not {x_TD.shape[1]} and {w1.shape[0] / n_experts:g}"
    return None


class Experts(torch.autograd.Function):
    """apply(x [T, D], indices [T, K], weights [T, K], w1, v1, w2 [E * F, D] in the dtype of x, E) -> [T, D]; see
    `layer.experts`.

    Saved are x, gate, linear and the routing. With y = a w2 before its weight and da' = dy w2^T, the gradient of a
    weight is <da', a>, so neither y nor a need be kept. The backward overwrites gate and linear: a second one raises
    RuntimeError. Products that only an input without requires_grad would need are left out.
    """

    @staticmethod
    def forward(ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts):
        top_k = indices_TK.shape[1]
        topology = build(indices_TK, n_experts)
        tiles = blocks(topology, x_TD)
        gate_RF, linear_RF, a_RF = _glu(spread(x_TD, topology.place_R, top_k), w1, v1, *tiles, n_experts)
        y_RD = _rows([a_RF], [w2], *tiles, n_experts, False)
        ctx.save_for_backward(x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, *topology, *tiles)
        return combine(y_RD, topology.place_R, top_k, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_TD):
        x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, place_R, offsets_E1, order_E, *tiles = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            ctx.maybe_clear_saved_tensors()  # so that gate and linear are freed below, not at the end
        top_k, n_experts = weights_TK.shape[1], order_E.shape[0]
        needs_x, _, _, needs_w1, needs_v1, needs_w2, _ = ctx.needs_input_grad
        dy_RD = spread(dout_TD, place_R, top_k)
        a_RF = _rows([dy_RD], [w2.t()], *tiles, n_experts, True)  # da' at first
        dweights_TK = _dglu(a_RF, gate_RF, linear_RF, place_R, weights_TK)
        dgate_RF, dlinear_RF = gate_RF, linear_RF
        dw2 = _outer(a_RF, dy_RD, offsets_E1, order_E) if needs_w2 else None
        del a_RF, dy_RD, gate_RF, linear_RF
        dx_TD = (
            combine(_rows([dgate_RF, dlinear_RF], [w1, v1], *tiles, n_experts, False), place_R, top_k, None)
            if needs_x
            else None
        )
        x_RD = spread(x_TD, place_R, top_k) if needs_w1 or needs_v1 else None
        dw1 = _outer(dgate_RF, x_RD, offsets_E1, order_E) if needs_w1 else None
        del dgate_RF
        dv1 = _outer(dlinear_RF, x_RD, offsets_E1, order_E) if needs_v1 else None
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None
