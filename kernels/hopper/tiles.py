"""Tiles of rows times their expert's weights, for the kernels of `rows` and `dact`: their order, their loader, and a
consumer's sum over K.

A GPU at its power limit pays with clock for every byte from HBM (H200, DBRX's shape: 557-615 TFLOP/s with a plain order
of tiles, 640-670 with these two, and a third of the HBM traffic):

  * a group of tiles never mixes experts, so the blocks in flight share one set of weights (`row_tile`);
  * no block begins a tile before all are near the end of the tile before (`counter`): skipped slabs make tiles
    unequal, and blocks that drift apart each stream their own panels.

M counts sorted rows; N and K are the layer's F and D for up and dact, D and F for down and dx.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from kernels.hopper.counter import LEFT, Counter, draw, join, keep_pace, post, write_note
from kernels.hopper.ring import (
    BLOCK_BYTES,
    SLAB,
    STEP,
    WIDTH,
    accumulator,
    claim,
    expect,
    filled,
    give_back,
    slabs_of,
    turn_over,
)


class Work(NamedTuple):
    """The table of row tiles (topology.row_tiles), how many are in use, and the counter that deals them out."""

    tiles_ptr: gl.tensor
    used_ptr: gl.tensor
    counter: Counter


class Tile(NamedTuple):
    """Expert, first row, rows left in the expert from there, and which of the column tiles."""

    expert: gl.tensor
    row: gl.tensor
    rows: gl.tensor
    column: gl.tensor


@gluon.jit
def row_tile(tile, work, columns):
    """Inside a group of row tiles the row runs fastest: the blocks in flight form a near-square patch of one expert's
    product."""
    group = gl.load(work.tiles_ptr + tile // columns * 4 + 3)
    first, size = group // 64, group % 64
    place = tile - first * columns
    entry = work.tiles_ptr + (first + place % size) * 4
    return Tile(gl.load(entry), gl.load(entry + 1), gl.load(entry + 2), place // size)


# ------------------------------------------------------------------------------------------------ loader


@gluon.jit
def load_rows(a, b, h, ring, work, N, K, lag, staging: gl.constexpr):
    """The loader. a, b: descriptors of one product, of two that are added (a0 b0 + a1 b1), or of one a and two halves
    of B.

    h: descriptors whose [64, 64] blocks go into the `staging` slots of a tile, or none. It posts its pace `lag` steps
    before the tile's last.
    """
    slabs: gl.constexpr = slabs_of(ring.a, ring.ready)
    parts: gl.constexpr = len(b) // len(a)  # of B's columns
    width: gl.constexpr = WIDTH // parts
    k_first: gl.constexpr = ring.b.shape[1] == STEP
    expert_rows = K if k_first else N  # of the weights
    columns = gl.cdiv(N, width)
    total = gl.load(work.used_ptr) * columns
    near_end = gl.maximum(gl.cdiv(K, STEP) * len(a) - lag, 0)
    tile = draw(work.counter)
    begin = join(work.counter)
    n = 0
    step = 0
    while tile < total:
        at = row_tile(tile, work, columns)
        column = at.column * width
        write_note(work.counter, n, (at.rows, at.row, at.column))
        keep_pace(work.counter, begin + n)
        done = 0
        for term in gl.static_range(len(a)):
            for k in range(0, K, STEP):
                slot = claim(ring, step)
                bar = ring.ready.index(slot)
                expect(bar, BLOCK_BYTES, 4 * BLOCK_BYTES, at.rows, slabs)
                for s in gl.static_range(slabs):
                    slab = ring.a.index(slot * slabs + s)
                    tma.async_copy_global_to_shared(a[term], [at.row + s * SLAB, k], bar, slab, pred=at.rows > s * SLAB)
                if k_first:
                    tma.async_copy_global_to_shared(
                        b[term], [at.expert * expert_rows + k, column], bar, ring.b.index(slot)
                    )
                else:
                    for part in gl.static_range(parts):
                        box = ring.b.index(slot).slice(part * width, width)
                        tma.async_copy_global_to_shared(b[term + part], [at.expert * expert_rows + column, k], bar, box)
                step += 1
                if done == near_end:
                    tile = draw(work.counter)
                    post(work.counter, 1)
                done += 1
        n += 1
        for q in gl.static_range(staging):
            slot = claim(ring, step)
            bar = ring.ready.index(slot)
            if len(h) == 0:
                mbarrier.arrive(bar, count=1)
            else:
                expect(bar, len(h) * BLOCK_BYTES, 0, at.rows, slabs)
                for s in gl.static_range(slabs):
                    place = [at.row + s * SLAB, column + q * 64]
                    tma.async_copy_global_to_shared(
                        h[0], place, bar, ring.stage_a.index(slot * slabs + s), pred=at.rows > s * SLAB
                    )
                    tma.async_copy_global_to_shared(
                        h[1], place, bar, ring.stage_b.index(slot * 4 + s), pred=at.rows > s * SLAB
                    )
            step += 1
    write_note(work.counter, n, (0, 0, 0))
    post(work.counter, LEFT)


# ------------------------------------------------------------------------------------------------ consumer


class Spot(NamedTuple):
    """Where a consumer's [64, 256] result goes: first row, rows left in the expert from there, first column, columns in
    all."""

    row: gl.tensor
    rows: gl.tensor
    column: gl.tensor
    N: gl.tensor


@gluon.jit
def _b_slot(ring, slot):
    """B of a slot as [64, 256]; the weights lie as the layer has them, and wgmma reads both orders at the same rate."""
    return ring.b.index(slot) if ring.b.shape[1] == STEP else ring.b.index(slot).permute((1, 0))


@gluon.jit
def multiply(ring, step, steps, staged, consumer: gl.constexpr, instruction: gl.constexpr):
    """Sum of this consumer's products over `steps` >= 1 slots: ([64, 256] fp32, next step).

    A slot goes back when the product behind the one that read it is under way, and so does `staged`, the last staging
    slot of the tile before: its store was still reading when this tile began. None: nothing is staged in the ring.
    """
    slabs: gl.constexpr = slabs_of(ring.a, ring.ready)
    slot = filled(ring, step)
    zeros = gl.zeros((SLAB, WIDTH), gl.float32, layout=accumulator(instruction))
    acc = warpgroup_mma(ring.a.index(slot * slabs + consumer), _b_slot(ring, slot), zeros, use_acc=False, is_async=True)
    acc = warpgroup_mma_wait(1, deps=(acc,))
    if staged is not None:
        turn_over(ring, staged)
    step += 1
    for _ in range(1, steps):
        slot = filled(ring, step)
        acc = warpgroup_mma(ring.a.index(slot * slabs + consumer), _b_slot(ring, slot), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=(acc,))
        give_back(ring, step - 1)
        step += 1
    result = warpgroup_mma_wait(0, deps=(acc,))
    give_back(ring, step - 1)
    return result, step
