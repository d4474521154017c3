"""Weight gradients: tiles lie in one expert's block of a weight and sum over that expert's rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.blocksparse.tiles import GROUP, add_product, choose_tile, columns_of, far, store_rows
from kernels.operator import operator


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


@operator("blocksparse_outer")
def outer_products(a_RM: Tensor, b_RN: Tensor, offsets_E1: Tensor, order_E: Tensor) -> Tensor:
    """A^T B over each expert's rows, [E * M, N]."""
    return _outer_launch(a_RM, b_RN, offsets_E1, order_E)


@outer_products.register_fake
def _(a_RM, b_RN, offsets_E1, order_E):
    return a_RM.new_empty(order_E.shape[0] * a_RM.shape[1], b_RN.shape[1])


def _outer_launch(a_RM, b_RN, offsets_E1, order_E):
    (rows, height), width, experts = a_RM.shape, b_RN.shape[1], len(order_E)
    out = a_RM.new_empty(experts * height, width)
    tile = choose_tile(out, rows // experts)
    outer_kernel[(experts * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns),)](
        a_RM, b_RN, out, offsets_E1, order_E, height, width, *a_RM.stride(), *b_RN.stride(),
        FAR=far(tile, a_RM.stride(0), b_RN.stride(0)), ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        GROUP=GROUP, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out
