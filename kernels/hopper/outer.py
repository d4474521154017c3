"""Weight gradients on the ring of `ring`: C_e [M, N] = A_e^T B_e for each expert e, M = F, N = D, K being the
expert's rows.

For one A, or for two that share B (dW1 and dV1 in one launch, whose last wave is filled once instead of twice). K ends
where the expert does: the last slot's foreign rows are zeroed in A by the consumer, and where 32 rows are enough half a
slot is multiplied. Experts come in falling order of their rows, so the last wave is short. All tiles of an expert take
equally long, so blocks stay together without pacing. ACCUMULATE: C is fp32 and is added to; the old values come in the
staging slots.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.hopper.counter import Counter, draw, make_counter, read_note, write_note
from kernels.hopper.ring import (
    BLOCK_BYTES,
    COALESCED,
    SLAB,
    STEP,
    WIDTH,
    Ring,
    accumulator,
    barriers,
    claim,
    expect,
    filled,
    give_back,
    in_halves,
    in_quarters,
    pass_by,
    slabs_of,
    turn_over,
)


class Gradient(NamedTuple):
    """The experts' first rows and their order, the shape: M = F, N = D, E experts, tiles of a group, and the counter
    that deals tiles out."""

    offsets_ptr: gl.tensor
    order_ptr: gl.tensor
    M: gl.tensor
    N: gl.tensor
    E: gl.tensor
    group: gl.tensor
    counter: Counter


class OuterTile(NamedTuple):
    """Which A, columns of it left in the expert from the tile's first, first row of C, which of the column tiles, first
    row and row behind the last of the expert."""

    which: gl.tensor
    left: gl.tensor
    row: gl.tensor
    column: gl.tensor
    start: gl.tensor
    stop: gl.tensor


@gluon.jit
def _wide(work):
    """Tiles side by side; in units of 64, as LLVM takes N + 255 out to where ptxas spills it."""
    return gl.cdiv(work.N // 64, WIDTH // 64)


@gluon.jit
def _outer_total(work, height: gl.constexpr, pair: gl.constexpr):
    return gl.cdiv(work.M, height) * _wide(work) * pair * work.E


@gluon.jit
def _outer_tile(tile, work, height: gl.constexpr, pair: gl.constexpr):
    """Bands of `group` tiles of one expert, walked down before the next column begins."""
    high, wide = gl.cdiv(work.M, height), _wide(work)
    expert = gl.load(work.order_ptr + tile // (high * wide * pair))
    place = tile % (high * wide * pair)
    first = place // (work.group * wide) * work.group
    band = gl.minimum(high * pair - first, work.group)
    place = place % (work.group * wide)
    row = first + place % band
    start, stop = gl.load(work.offsets_ptr + expert), gl.load(work.offsets_ptr + expert + 1)
    which = row // high if pair == 2 else 0
    m = (row - which * high) * height
    return OuterTile(which, work.M - m, expert * work.M + m, place // band, start, stop)


@gluon.jit
def _load_outer(a, b_desc, c, ring, work, staging: gl.constexpr, accumulate: gl.constexpr):
    slabs: gl.constexpr = slabs_of(ring.a, ring.ready)
    pair: gl.constexpr = len(a)
    total = _outer_total(work, slabs * SLAB, pair)
    tile = draw(work.counter)
    n = 0
    step = 0
    while tile < total:
        at = _outer_tile(tile, work, slabs * SLAB, pair)
        write_note(work.counter, n, (at.left, at.row, at.column, at.stop - at.start, at.which))
        n += 1
        for k in range(at.start, at.stop, STEP):
            slot = claim(ring, step)
            bar = ring.ready.index(slot)
            expect(bar, BLOCK_BYTES, 4 * BLOCK_BYTES, at.left, slabs)
            for s in gl.static_range(slabs):
                for p in gl.static_range(pair):
                    mine = (at.left > s * SLAB) & (at.which == p)
                    place = [k, work.M - at.left + s * SLAB]
                    tma.async_copy_global_to_shared(a[p], place, bar, ring.a.index(slot * slabs + s), pred=mine)
            tma.async_copy_global_to_shared(b_desc, [k, at.column * WIDTH], bar, ring.b.index(slot))
            step += 1
        tile = draw(work.counter)
        for q in range(staging):
            slot = claim(ring, step)
            bar = ring.ready.index(slot)
            if accumulate:
                expect(bar, 2 * BLOCK_BYTES, 0, at.left, slabs)
                for s in gl.static_range(slabs):
                    inside = at.left > s * SLAB
                    row, column = at.row + s * SLAB, at.column * WIDTH + q * 64
                    tma.async_copy_global_to_shared(
                        c[0], [row, column], bar, ring.stage_a.index(slot * slabs + s), pred=inside
                    )
                    tma.async_copy_global_to_shared(
                        c[0], [row, column + 32], bar, ring.stage_b.index(slot * 4 + s), pred=inside
                    )
            else:
                mbarrier.arrive(bar, count=1)
            step += 1
    write_note(work.counter, n, (0, 0, 0, 0, 0))


@gluon.jit
def _multiply_tail(acc, ring, slot, rows, consumer: gl.constexpr):
    """acc + A^T B of a slot of which only the first `rows` < 64 belong to the expert."""
    layout: gl.constexpr = COALESCED
    a = ring.a.index(slot * slabs_of(ring.a, ring.ready) + consumer)
    values = a.load(layout)
    keep = gl.arange(0, STEP, layout=gl.SliceLayout(1, layout)) < rows
    a.store(gl.where(keep[:, None], values, gl.zeros_like(values)))
    fence_async_shared()
    gl.thread_barrier()
    if rows <= 32:
        acc = warpgroup_mma(a.slice(0, 32).permute((1, 0)), ring.b.index(slot).slice(0, 32), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=(acc,))
    else:
        acc = warpgroup_mma(a.permute((1, 0)), ring.b.index(slot), acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=(acc,))
    return acc


@gluon.jit
def _add_or_store(x0, x1, c, which, row, column, ring, step, staged, consumer: gl.constexpr, accumulate: gl.constexpr):
    """Two neighbouring blocks of C, [64, 64] or, accumulating, [64, 32] each: (next step, this staging slot)."""
    slot = filled(ring, step)
    block0 = ring.stage_a.index(slot * slabs_of(ring.a, ring.ready) + consumer)
    block1 = ring.stage_b.index(slot * 4 + consumer)
    if accumulate:
        block0.store(block0.load(x0.type.layout) + x0)
        block1.store(block1.load(x1.type.layout) + x1)
    else:
        block0.store(x0.to(ring.a.dtype))
        block1.store(x1.to(ring.a.dtype))
    turn_over(ring, staged)
    for p in gl.static_range(len(c)):
        if which == p:
            tma.async_copy_shared_to_global(c[p], [row, column], block0)
            tma.async_copy_shared_to_global(c[p], [row, column + x0.shape[1]], block1)
    return step + 1, slot


@gluon.jit
def _consume_outer(consumer: gl.constexpr, c, ring, work, staging: gl.constexpr, accumulate: gl.constexpr):
    slabs: gl.constexpr = slabs_of(ring.a, ring.ready)
    layout: gl.constexpr = accumulator(256 if slabs == 2 else 128)
    step = 0
    staged = -1
    n = 0
    left, row, column, rows, which = read_note(work.counter, n)
    while left > 0:
        if left > consumer * SLAB:
            row += consumer * SLAB
            acc = gl.zeros((SLAB, WIDTH), gl.float32, layout=layout)
            for k in range(0, rows // STEP):
                slot = filled(ring, step)
                acc = warpgroup_mma(
                    ring.a.index(slot * slabs + consumer).permute((1, 0)), ring.b.index(slot), acc, is_async=True
                )
                if k == 0:
                    turn_over(ring, staged)
                    staged = -1
                acc = warpgroup_mma_wait(1, deps=(acc,))
                give_back(ring, step - 1, pred=k > 0)
                step += 1
            if rows % STEP > 0:
                slot = filled(ring, step)
                if rows < STEP:
                    turn_over(ring, staged)
                    staged = -1
                acc = _multiply_tail(acc, ring, slot, rows % STEP, consumer)
                give_back(ring, step - 1, pred=rows >= STEP)
                step += 1
            result = warpgroup_mma_wait(0, deps=(acc,))
            give_back(ring, step - 1, pred=rows > 0)
            quarters = in_quarters(result)
            if accumulate:
                for q in gl.static_range(4):
                    x0, x1 = in_halves(quarters[q])
                    step, staged = _add_or_store(
                        x0, x1, c, which, row, column * WIDTH + q * 64, ring, step, staged, consumer, True
                    )
            else:
                for q in gl.static_range(2):
                    x0, x1 = quarters[2 * q], quarters[2 * q + 1]
                    step, staged = _add_or_store(
                        x0, x1, c, which, row, column * WIDTH + q * 128, ring, step, staged, consumer, False
                    )
        else:
            turn_over(ring, staged)
            staged = -1
            step = pass_by(ring, step, gl.cdiv(rows, STEP) + staging)
        n += 1
        left, row, column, rows, which = read_note(work.counter, n)
    tma.store_wait(0)


@gluon.jit
def _outer_products(a, b_desc, c, work, SLABS: gl.constexpr, SLOTS: gl.constexpr, ACCUMULATE: gl.constexpr):
    staging: gl.constexpr = 4 if ACCUMULATE else 2
    dtype: gl.constexpr = c[0].dtype
    unit: gl.constexpr = 32 if ACCUMULATE else 64
    slabs = gl.allocate_shared_memory(b_desc.dtype, [SLOTS * SLABS, STEP, SLAB], a[0].layout)
    b = gl.allocate_shared_memory(b_desc.dtype, [SLOTS, STEP, WIDTH], b_desc.layout)
    stage_a = slabs._reinterpret(dtype, [SLOTS * SLABS, SLAB, unit], c[0].layout)
    stage_b = b._reinterpret(dtype, [SLOTS * 4, SLAB, unit], c[0].layout)
    ring = Ring(slabs, b, stage_a, stage_b, barriers(SLOTS, SLABS), barriers(SLOTS, 1))
    if SLABS == 2:
        gl.warp_specialize(
            [
                (_consume_outer, (0, c, ring, work, staging, ACCUMULATE)),
                (_consume_outer, (1, c, ring, work, staging, ACCUMULATE)),
                (_load_outer, (a, b_desc, c, ring, work, staging, ACCUMULATE)),
            ],
            [4, 1],
            [232, 40],
        )
    else:
        gl.warp_specialize(
            [
                (_consume_outer, (0, c, ring, work, staging, ACCUMULATE)),
                (_consume_outer, (1, c, ring, work, staging, ACCUMULATE)),
                (_consume_outer, (2, c, ring, work, staging, ACCUMULATE)),
                (_load_outer, (a, b_desc, c, ring, work, staging, ACCUMULATE)),
            ],
            [4, 4, 1],
            [160, 160, 32],
        )


@gluon.jit(do_not_specialize=["E", "group"])
def outer_kernel(
    a_desc, b_desc, c_desc, offsets_ptr, order_ptr, counter_ptr, M, N, E, group,
    SLABS: gl.constexpr, SLOTS: gl.constexpr, ACCUMULATE: gl.constexpr,
):  # fmt: skip
    work = Gradient(offsets_ptr, order_ptr, M, N, E, group, make_counter(counter_ptr))
    _outer_products((a_desc,), b_desc, (c_desc,), work, SLABS, SLOTS, ACCUMULATE)


@gluon.jit(do_not_specialize=["E", "group"])
def outer_pair_kernel(
    a0_desc, a1_desc, b_desc, c0_desc, c1_desc, offsets_ptr, order_ptr, counter_ptr, M, N, E, group,
    SLABS: gl.constexpr, SLOTS: gl.constexpr, ACCUMULATE: gl.constexpr,
):  # fmt: skip
    work = Gradient(offsets_ptr, order_ptr, M, N, E, group, make_counter(counter_ptr))
    _outer_products((a0_desc, a1_desc), b_desc, (c0_desc, c1_desc), work, SLABS, SLOTS, ACCUMULATE)
