"""What the kernels of products share: sizes of tiles, a program's rows and columns, the sum over depth, the store."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.topology import INTERPRETED, Topology, row_tiles

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


def far(tile: Tile, *strides: int) -> bool:
    """Whether one step along the summed dimension needs int64, which takes up to 10 % more instructions in the loop."""
    return tile.depth * max(strides) >= FAR


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


@triton.jit
def store_rows(out_ptr, values, row, left, column_tile, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """values -> rows of a contiguous [R, width] matrix, as far as they are the expert's."""
    r = tl.arange(0, ROWS)
    n = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    p = out_ptr + (row + r).to(tl.int64)[:, None] * width + n[None, :]
    tl.store(p, values.to(out_ptr.dtype.element_ty), mask=(r < left)[:, None] & (n < width)[None, :])
