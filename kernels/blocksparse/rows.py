"""Rows times their expert's weights: tiles are rows of one expert. For one pair, or for two that are summed."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.blocksparse.tiles import add_product, choose_tile, columns_of, far, row_tile, store_rows
from kernels.operator import operator


@triton.jit
def rows_kernel(
    a0_ptr, a1_ptr, b0_ptr, b1_ptr, out_ptr, tiles_ptr, used_ptr,
    depth, width, stride_ar, stride_ak, stride_be, stride_bk, stride_bn, PAIR: tl.constexpr, TAIL: tl.constexpr,
    FAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
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


@operator("blocksparse_rows")
def row_products(
    a: list[Tensor], b: list[Tensor], tiles_M4: Tensor, used_1: Tensor, n_experts: int, by_column: bool
) -> Tensor:
    """Rows [R, K] times their expert's block [K, N], for one or two pairs that are summed: [R, N].

    Experts' blocks lie side by side, b [K, E * N], or with `by_column` false one below the other, b [E * K, N].
    """
    return _rows_launch(a, b, tiles_M4, used_1, n_experts, by_column)


@row_products.register_fake
def _(a, b, tiles_M4, used_1, n_experts, by_column):
    return a[0].new_empty(a[0].shape[0], b[0].shape[1] // n_experts if by_column else b[0].shape[1])


def _rows_launch(a, b, tiles_M4, used_1, n_experts, by_column):
    (rows, depth), width = a[0].shape, b[0].shape[1] // n_experts if by_column else b[0].shape[1]
    out = a[0].new_empty(rows, width)
    tile, a, b = choose_tile(out, depth * len(a)), _alike(a), _alike(b)
    stride_bk, stride_bn = b[0].stride()
    stride_be = width * stride_bn if by_column else depth * stride_bk
    rows_kernel[(len(tiles_M4) * triton.cdiv(width, tile.columns),)](
        a[0], a[-1], b[0], b[-1], out, tiles_M4, used_1,
        depth, width, *a[0].stride(), stride_be, stride_bk, stride_bn, PAIR=len(a) == 2, TAIL=depth % tile.depth > 0,
        FAR=far(tile, a[0].stride(1), stride_bk), ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def _alike(pair: list[Tensor]) -> list[Tensor]:
    """Both of a pair with the same strides, as a kernel takes them once."""
    return pair if pair[0].stride() == pair[-1].stride() else [t.contiguous() for t in pair]
