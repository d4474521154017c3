"""Products of rows with their expert's weights, on the ring of `hopper_ring`: four kernels on one loader and one
consumer, which an epilogue completes.

    up_kernel     gate = x W1^T and linear = x V1^T side by side in one 256-wide B, so that silu(gate) * linear stays in registers
    down_kernel   y = a W2
    dx_kernel     dx = dgate W1 + dlinear V1: twice as many steps, one sum
    dact_kernel   da' = dy W2^T, with the derivatives of SwiGLU and of the routing weight behind it
    dact_overlapped_kernel   the same, with these in a warpgroup of their own

A GPU at its power limit pays with clock for every byte from HBM (H200, DBRX's shape: 557-615 TFLOP/s with a plain order
of tiles, 640-670 with these two, and a third of the HBM traffic):

  * a group of tiles never mixes experts, so the blocks in flight share one set of weights (`_row_tile`);
  * no block begins a tile before all are near the end of the tile before (`_keep_pace`): skipped slabs make tiles unequal, and blocks
    that drift apart each stream their own panels.

M counts sorted rows; N and K are the layer's F and D for up and dact, D and F for down and dx.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from kernels.hopper.ring import (
    BLOCK_BYTES,
    COALESCED,
    SLAB,
    STEP,
    WIDTH,
    accumulator,
    barriers,
    claim,
    expect,
    filled,
    give_back,
    in_quarters,
    make_ring,
    pass_by,
    slabs_of,
    turn_over,
)

POLLS = gl.constexpr(2000)  # of a pace counter, at most: the wait is a hint

# ------------------------------------------------------------------------------------------------ order and pace of tiles


class Work(NamedTuple):
    """The table of row tiles (topology.row_tiles), how many are in use, one counter a wave of tiles, and the number of
    blocks."""

    tiles_ptr: gl.tensor
    used_ptr: gl.tensor
    pace_ptr: gl.tensor
    blocks: gl.constexpr  # a register less in the loader, which has 32


class Tile(NamedTuple):
    """Expert, first row, rows left in the expert from there, and which of the column tiles."""

    expert: gl.tensor
    row: gl.tensor
    rows: gl.tensor
    column: gl.tensor


@gluon.jit
def _row_tile(tile, work, columns):
    """Inside a group of row tiles the row runs fastest: the blocks in flight form a near-square patch of one expert's
    product."""
    group = gl.load(work.tiles_ptr + tile // columns * 4 + 3)
    first, size = group // 64, group % 64
    place = tile - first * columns
    entry = work.tiles_ptr + (first + place % size) * 4
    return Tile(gl.load(entry), gl.load(entry + 1), gl.load(entry + 2), place // size)


@gluon.jit
def _look_ahead(tile, total, work, columns):
    """First row, rows left and column of a later tile, asked for early: its two dependent loads are over when it
    begins."""
    at = _row_tile(gl.minimum(tile, gl.maximum(total, 1) - 1), work, columns)
    return at.row, at.rows, at.column


@gluon.jit
def _keep_pace(work, wave, total):
    """Wait until every block is within `lag` steps of the end of its previous tile.

    Only a hint, as the wait is bounded: neither results nor progress depend on it or on all blocks being resident.
    Measured, DBRX step: 90.3 % of dense without, 93.6 % with; isolated products +5 to +16 %.
    """
    if wave > 0:
        posts = gl.minimum(total - (wave - 1) * work.blocks, work.blocks)
        seen = gl.load(work.pace_ptr + wave - 1, volatile=True)
        polls = 0
        while (seen < posts) & (polls < POLLS):
            seen = gl.load(work.pace_ptr + wave - 1, volatile=True)
            polls += 1


# ------------------------------------------------------------------------------------------------ the sum over K


@gluon.jit
def _b_slot(ring, slot):
    """B of a slot as [64, 256]; the weights lie as the layer has them, and wgmma reads both orders at the same rate."""
    return ring.b.index(slot) if ring.b.shape[1] == STEP else ring.b.index(slot).permute((1, 0))


@gluon.jit
def _multiply(ring, step, steps, staged, consumer: gl.constexpr, instruction: gl.constexpr):
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


# ------------------------------------------------------------------------------------------------ loader and consumer


class Out(NamedTuple):
    """One result [rows, N]: its descriptor for TMA, its pointer for an expert's last rows."""

    desc: tma.tensor_descriptor
    ptr: gl.tensor


class Spot(NamedTuple):
    """Where a consumer's [64, 256] result goes: first row, rows left in the expert from there, first column, columns in
    all."""

    row: gl.tensor
    rows: gl.tensor
    column: gl.tensor
    N: gl.tensor


@gluon.jit
def _load_rows(a, b, h, ring, work, N, K, lag, staging: gl.constexpr):
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
    post = gl.maximum(gl.cdiv(K, STEP) * len(a) - lag, 0)
    wave = 0
    step = 0
    for tile in range(gl.program_id(0), total, work.blocks):
        at = _row_tile(tile, work, columns)
        column = at.column * width
        _keep_pace(work, wave, total)
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
                if done == post:
                    gl.atomic_add(work.pace_ptr + wave, 1, sem="relaxed")
                done += 1
        wave += 1
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


@gluon.jit
def _consume_rows(
    consumer: gl.constexpr, epilogue: gl.constexpr, out, ring, work, N, steps,
    parts: gl.constexpr, staging: gl.constexpr,
):  # fmt: skip
    """A consumer: multiplies its slab of each tile and gives the sum to `epilogue`, which uses `staging` slots."""
    instruction: gl.constexpr = 256 if slabs_of(ring.a, ring.ready) == 2 else 128
    columns = gl.cdiv(N, WIDTH // parts)
    total = gl.load(work.used_ptr) * columns
    step = 0
    staged = -1
    ahead = _look_ahead(gl.program_id(0), total, work, columns)
    for tile in range(gl.program_id(0), total, work.blocks):
        row, rows, column = ahead
        ahead = _look_ahead(tile + work.blocks, total, work, columns)
        spot = Spot(row + consumer * SLAB, rows - consumer * SLAB, column * (WIDTH // parts), N)
        if spot.rows > 0:
            acc, step = _multiply(ring, step, steps, staged, consumer, instruction)
            step, staged = epilogue(in_quarters(acc), out, spot, ring, step, consumer)
        else:
            turn_over(ring, staged)
            staged = -1
            step = pass_by(ring, step, steps + staging)
    tma.store_wait(0)


# ------------------------------------------------------------------------------------------------ epilogues


@gluon.jit
def _sigmoid(x):
    """1 / (1 + 2^(-x log2 e)) in four instructions, with the right limits; exp and a division would be about twelve."""
    return gl.inline_asm_elementwise(
        "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; rcp.approx.ftz.f32 $0, t; }",
        "=f,f",
        [x],
        dtype=gl.float32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def _store_block(out, block, spot, column):
    """A staged [64, 64] block to global memory: by TMA, or with masks where the expert ends inside it."""
    if spot.rows >= SLAB:
        tma.async_copy_shared_to_global(out.desc, [spot.row, column], block)
    else:
        layout: gl.constexpr = COALESCED
        values = block.load(layout)
        r = gl.arange(0, SLAB, layout=gl.SliceLayout(1, layout))
        c = gl.arange(0, 64, layout=gl.SliceLayout(0, layout)) + column
        place = (spot.row + r).to(gl.int64)[:, None] * spot.N + c[None, :]
        gl.store(out.ptr + place, values, mask=(r < spot.rows)[:, None] & (c < spot.N)[None, :])


@gluon.jit
def _store_two(x0, out0, column0, x1, out1, column1, spot, ring, step, staged, consumer: gl.constexpr):
    """Two [64, 64] blocks through one staging slot (own slab of A, own quarter of B): (next step, this slot)."""
    x0 = x0.to(ring.a.dtype)  # before the wait: frees registers
    x1 = x1.to(ring.a.dtype)
    slot = filled(ring, step)
    block0 = ring.stage_a.index(slot * slabs_of(ring.a, ring.ready) + consumer)
    block1 = ring.stage_b.index(slot * 4 + consumer)
    block0.store(x0)
    block1.store(x1)
    turn_over(ring, staged)
    _store_block(out0, block0, spot, column0)
    _store_block(out1, block1, spot, column1)
    return step + 1, slot


@gluon.jit
def _plain(quarters, out, spot, ring, step, consumer: gl.constexpr):
    """The sum as it is; 2 staging slots."""
    q0, q1, q2, q3 = quarters
    c = spot.column
    step, staged = _store_two(q0, out, c, q1, out, c + 64, spot, ring, step, -1, consumer)
    return _store_two(q2, out, c + 128, q3, out, c + 192, spot, ring, step, staged, consumer)


@gluon.jit
def _swiglu(quarters, out, spot, ring, step, consumer: gl.constexpr):
    """Gate, linear and silu(gate) * linear, 128 columns of each; 3 staging slots."""
    gate0, gate1, linear0, linear1 = quarters
    gate, linear, a = out
    c = spot.column
    step, staged = _store_two(gate0, gate, c, linear0, linear, c, spot, ring, step, -1, consumer)
    a0 = gate0 * _sigmoid(gate0) * linear0
    step, staged = _store_two(a0, a, c, gate1, gate, c + 64, spot, ring, step, staged, consumer)
    a1 = gate1 * _sigmoid(gate1) * linear1
    return _store_two(linear1, linear, c + 64, a1, a, c + 64, spot, ring, step, staged, consumer)


@gluon.jit
def _dswiglu_block(da, partial, weight, out, column, spot, ring, step, staged, consumer: gl.constexpr):
    """One [64, 64] block of `_dswiglu`; the slot holds gate and linear, and receives what replaces them."""
    gate_out, linear_out, a_out = out
    slot = filled(ring, step)
    gate_block = ring.stage_a.index(slot * 2 + consumer)
    linear_block = ring.stage_b.index(slot * 4 + consumer)
    a_block = ring.stage_b.index(slot * 4 + 2 + consumer)
    layout: gl.constexpr = da.type.layout
    gate = gate_block.load(layout).to(gl.float32)
    linear = linear_block.load(layout).to(gl.float32)
    sig = _sigmoid(gate)
    silu = gate * sig
    a = silu * linear
    partial += gl.sum(da * a, 1)
    da = da * weight[:, None]
    gate_block.store((da * linear * (sig + silu - silu * sig)).to(ring.a.dtype))
    linear_block.store((da * silu).to(ring.a.dtype))
    a_block.store((a * weight[:, None]).to(ring.a.dtype))
    turn_over(ring, staged)
    _store_block(gate_out, gate_block, spot, column)
    _store_block(linear_out, linear_block, spot, column)
    _store_block(a_out, a_block, spot, column)
    return partial, step + 1, slot


@gluon.jit
def _dswiglu(quarters, out, spot, ring, step, consumer: gl.constexpr):
    """From dA' = dY W2^T, which stays in registers, and H = (gate, linear), which the loader brings: dH in place of H,
    the weighted activation, and this tile's part of the routing weight's gradient <dA', A>; 4 staging slots."""
    h, weight_ptr, partial_ptr = out
    q0, q1, q2, q3 = quarters
    c = spot.column
    layout: gl.constexpr = gl.SliceLayout(1, q0.type.layout)
    r = gl.arange(0, SLAB, layout=layout)
    weight = gl.load(weight_ptr + spot.row + r, mask=r < spot.rows, other=0.0)
    partial = gl.zeros((SLAB,), gl.float32, layout=layout)
    partial, step, staged = _dswiglu_block(q0, partial, weight, h, c, spot, ring, step, -1, consumer)
    partial, step, staged = _dswiglu_block(q1, partial, weight, h, c + 64, spot, ring, step, staged, consumer)
    partial, step, staged = _dswiglu_block(q2, partial, weight, h, c + 128, spot, ring, step, staged, consumer)
    partial, step, staged = _dswiglu_block(q3, partial, weight, h, c + 192, spot, ring, step, staged, consumer)
    place = (spot.row + r).to(gl.int64) * gl.cdiv(spot.N, WIDTH) + c // WIDTH
    gl.store(partial_ptr + place, partial, mask=r < spot.rows)
    return step, staged


# ------------------------------------------------------------------------------------------------ kernels


@gluon.jit
def _row_products(a, b, h, out, ring, work, N, K, lag, epilogue: gl.constexpr, staging: gl.constexpr):
    """Consumers and loader, each with the registers a thread that it needs (a block has 65,536)."""
    parts: gl.constexpr = len(b) // len(a)
    steps = gl.cdiv(K, STEP) * len(a)
    if slabs_of(ring.a, ring.ready) == 2:
        gl.warp_specialize(
            [
                (_consume_rows, (0, epilogue, out, ring, work, N, steps, parts, staging)),
                (_consume_rows, (1, epilogue, out, ring, work, N, steps, parts, staging)),
                (_load_rows, (a, b, h, ring, work, N, K, lag, staging)),
            ],
            [4, 1],
            [232, 40],
        )
    else:
        gl.warp_specialize(
            [
                (_consume_rows, (0, epilogue, out, ring, work, N, steps, parts, staging)),
                (_consume_rows, (1, epilogue, out, ring, work, N, steps, parts, staging)),
                (_consume_rows, (2, epilogue, out, ring, work, N, steps, parts, staging)),
                (_load_rows, (a, b, h, ring, work, N, K, lag, staging)),
            ],
            [4, 4, 1],
            [160, 160, 32],
        )


@gluon.jit(do_not_specialize=["lag"])
def up_kernel(
    x_desc, w1_desc, v1_desc, gate_desc, linear_desc, a_desc, gate_ptr, linear_ptr, a_ptr, tiles_ptr, used_ptr, pace_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    out = (Out(gate_desc, gate_ptr), Out(linear_desc, linear_ptr), Out(a_desc, a_ptr))
    epilogue: gl.constexpr = _swiglu
    ring = make_ring(x_desc, w1_desc, SLABS, SLOTS, False)
    work = Work(tiles_ptr, used_ptr, pace_ptr, BLOCKS)
    _row_products((x_desc,), (w1_desc, v1_desc), (), out, ring, work, N, K, lag, epilogue, 3)


@gluon.jit(do_not_specialize=["lag"])
def down_kernel(
    a_desc, w2_desc, out_desc, out_ptr, tiles_ptr, used_ptr, pace_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    epilogue: gl.constexpr = _plain
    ring = make_ring(a_desc, w2_desc, SLABS, SLOTS, True)
    work = Work(tiles_ptr, used_ptr, pace_ptr, BLOCKS)
    _row_products((a_desc,), (w2_desc,), (), Out(out_desc, out_ptr), ring, work, N, K, lag, epilogue, 2)


@gluon.jit(do_not_specialize=["lag"])
def dx_kernel(
    dgate_desc, dlinear_desc, w1_desc, v1_desc, out_desc, out_ptr, tiles_ptr, used_ptr, pace_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    epilogue: gl.constexpr = _plain
    ring = make_ring(dgate_desc, w1_desc, SLABS, SLOTS, True)
    work = Work(tiles_ptr, used_ptr, pace_ptr, BLOCKS)
    a, b = (dgate_desc, dlinear_desc), (w1_desc, v1_desc)
    _row_products(a, b, (), Out(out_desc, out_ptr), ring, work, N, K, lag, epilogue, 2)


@gluon.jit(do_not_specialize=["lag"])
def dact_kernel(
    dy_desc, w2_desc, gate_desc, linear_desc, a_desc, gate_ptr, linear_ptr, a_ptr, weight_ptr, partial_ptr,
    tiles_ptr, used_ptr, pace_ptr, N, K, lag, SLOTS: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    """partial [rows, N / 256 rounded up]. For short K, where the tensor cores would wait for `dact_overlapped_kernel`'s
    warpgroup."""
    h = (Out(gate_desc, gate_ptr), Out(linear_desc, linear_ptr), Out(a_desc, a_ptr))
    epilogue: gl.constexpr = _dswiglu
    ring = make_ring(dy_desc, w2_desc, 2, SLOTS, False)
    work = Work(tiles_ptr, used_ptr, pace_ptr, BLOCKS)
    out = (h, weight_ptr, partial_ptr)
    _row_products((dy_desc,), (w2_desc,), (gate_desc, linear_desc), out, ring, work, N, K, lag, epilogue, 4)


# ------------------------------------------------------------------------------------------------ the same, with a warpgroup of its own
# `_dswiglu` costs about 8,000 cycles a tile. Here a third warpgroup does it while the tensor cores are on the next
# tile: consumers leave dA' (16 bits) in 64 KB of shared memory and go on at once, which leaves a ring of 3 slots. H
# comes straight into registers, two pieces of [32, 64] ahead. Measured: 616 against 563 TFLOP/s with a GEMM and an
# elementwise kernel (DBRX), 565 (MoE-B); at K = 1024 (small) that warpgroup cannot keep up: 350 against 400-425 of
# `dact_kernel`.


class Hand(NamedTuple):
    """Two slabs of dA' [8, 64, 64], four quarters each, on the way from consumers: barriers say when one is written and
    when read."""

    da: gl.shared_memory_descriptor
    written: gl.shared_memory_descriptor
    read: gl.shared_memory_descriptor


@gluon.jit
def _consume_da(consumer: gl.constexpr, hand, ring, work, N, steps):
    columns = gl.cdiv(N, WIDTH)
    total = gl.load(work.used_ptr) * columns
    step = 0
    given = 0
    ahead = _look_ahead(gl.program_id(0), total, work, columns)
    for tile in range(gl.program_id(0), total, work.blocks):
        _, rows, _ = ahead
        ahead = _look_ahead(tile + work.blocks, total, work, columns)
        if rows > consumer * SLAB:
            acc, step = _multiply(ring, step, steps, None, consumer, 128)
            q0, q1, q2, q3 = in_quarters(acc)
            mbarrier.wait(hand.read.index(consumer), (given & 1) ^ 1)
            hand.da.index(consumer * 4).store(q0.to(ring.a.dtype))
            hand.da.index(consumer * 4 + 1).store(q1.to(ring.a.dtype))
            hand.da.index(consumer * 4 + 2).store(q2.to(ring.a.dtype))
            hand.da.index(consumer * 4 + 3).store(q3.to(ring.a.dtype))
            gl.thread_barrier()
            mbarrier.arrive(hand.written.index(consumer), count=1)
            given += 1
        else:
            step = pass_by(ring, step, steps)


@gluon.jit
def _piece(i, spot):
    """Piece i of a slab, 32 rows x 64 columns, row half i // 4 and quarter i % 4: (rows [32], places [32, 64], which
    are inside)."""
    layout: gl.constexpr = COALESCED
    r = gl.arange(0, 32, layout=gl.SliceLayout(1, layout)) + i // 4 * 32
    c = gl.arange(0, 64, layout=gl.SliceLayout(0, layout)) + (spot.column + i % 4 * 64)
    place = (spot.row + r).to(gl.int64)[:, None] * spot.N + c[None, :]
    return r, place, (r < spot.rows)[:, None] & (c < spot.N)[None, :]


@gluon.jit
def _fetch_piece(i, h_ptr, weight_ptr, spot):
    gate_ptr, linear_ptr, _ = h_ptr
    r, place, inside = _piece(i, spot)
    gate = gl.load(gate_ptr + place, mask=inside, other=0.0)
    linear = gl.load(linear_ptr + place, mask=inside, other=0.0)
    return gate, linear, gl.load(weight_ptr + spot.row + r, mask=r < spot.rows, other=0.0)


@gluon.jit
def _dswiglu_piece(i, da_block, gate, linear, weight, h_ptr, partial_ptr, spot):
    """The arithmetic of `_dswiglu_block` in fewer registers."""
    layout: gl.constexpr = COALESCED
    gate_ptr, linear_ptr, a_ptr = h_ptr
    r, place, inside = _piece(i, spot)
    gate = gate.to(gl.float32)
    linear = linear.to(gl.float32)
    da = da_block.load(layout).to(gl.float32)
    sig = _sigmoid(gate)
    silu = gate * sig
    da_linear = da * linear
    column = spot.column // 64 + i % 4
    partial_place = (spot.row + r).to(gl.int64) * gl.cdiv(spot.N, 64) + column
    gl.store(partial_ptr + partial_place, gl.sum(da_linear * silu, 1), mask=(r < spot.rows) & (column * 64 < spot.N))
    silu = silu * weight[:, None]
    dtype: gl.constexpr = da_block.dtype
    gl.store(a_ptr + place, (silu * linear).to(dtype), mask=inside)
    gl.store(linear_ptr + place, (da * silu).to(dtype), mask=inside)
    gl.store(gate_ptr + place, (da_linear * (weight[:, None] * sig + silu - silu * sig)).to(dtype), mask=inside)


@gluon.jit
def _finish_da(h_ptr, weight_ptr, partial_ptr, hand, work, N):
    """The third warpgroup: dSwiGLU of both slabs of each tile, eight pieces a slab."""
    columns = gl.cdiv(N, WIDTH)
    total = gl.load(work.used_ptr) * columns
    da = hand.da._reinterpret(hand.da.dtype, [16, 32, 64], hand.da.type.layout)
    taken0 = 0
    taken1 = 0
    ahead = _look_ahead(gl.program_id(0), total, work, columns)
    for tile in range(gl.program_id(0), total, work.blocks):
        row, rows, column = ahead
        for slab in range(2):
            spot = Spot(row + slab * SLAB, rows - slab * SLAB, column * WIDTH, N)
            if spot.rows > 0:
                gate0, linear0, weight0 = _fetch_piece(0, h_ptr, weight_ptr, spot)
                gate1, linear1, weight1 = _fetch_piece(1, h_ptr, weight_ptr, spot)
                if slab == 0:
                    mbarrier.wait(hand.written.index(0), taken0 & 1)
                    taken0 += 1
                else:
                    mbarrier.wait(hand.written.index(1), taken1 & 1)
                    taken1 += 1
                for i in range(0, 8):
                    gate2, linear2, weight2 = _fetch_piece(gl.minimum(i + 2, 7), h_ptr, weight_ptr, spot)
                    block = da.index(slab * 8 + i % 4 * 2 + i // 4)
                    _dswiglu_piece(i, block, gate0, linear0, weight0, h_ptr, partial_ptr, spot)
                    gate0, linear0, weight0 = gate1, linear1, weight1
                    gate1, linear1, weight1 = gate2, linear2, weight2
                gl.thread_barrier()
                mbarrier.arrive(hand.read.index(slab), count=1)
        ahead = _look_ahead(tile + work.blocks, total, work, columns)


@gluon.jit(do_not_specialize=["lag"])
def dact_overlapped_kernel(
    dy_desc, w2_desc, gate_ptr, linear_ptr, a_ptr, weight_ptr, partial_ptr, tiles_ptr, used_ptr, pace_ptr, N, K, lag,
    SLOTS: gl.constexpr, BLOCKS: gl.constexpr,
):  # fmt: skip
    """partial [rows, N / 64]."""
    ring = make_ring(dy_desc, w2_desc, 2, SLOTS, False)
    da = gl.allocate_shared_memory(dy_desc.dtype, [8, SLAB, 64], dy_desc.layout)
    hand = Hand(da, barriers(2, 1), barriers(2, 1))
    work = Work(tiles_ptr, used_ptr, pace_ptr, BLOCKS)
    steps = gl.cdiv(K, STEP)
    gl.warp_specialize(
        [
            (_consume_da, (0, hand, ring, work, N, steps)),
            (_consume_da, (1, hand, ring, work, N, steps)),
            (_finish_da, ((gate_ptr, linear_ptr, a_ptr), weight_ptr, partial_ptr, hand, work, N)),
            (_load_rows, ((dy_desc,), (w2_desc,), (), ring, work, N, K, lag, 0)),
        ],
        [4, 4, 1],
        [160, 152, 32],
    )
