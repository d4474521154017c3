"""da' = dy W2^T, with the derivatives of SwiGLU and of the routing weight behind it: two kernels, see `choices.plan`.

dact_kernel             on the consumer of `rows`, with an epilogue
dact_overlapped_kernel  in a warpgroup of its own, while the tensor cores are on the next tile
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from kernels.hopper.counter import make_counter, read_note
from kernels.hopper.ring import (
    COALESCED,
    SLAB,
    STEP,
    WIDTH,
    barriers,
    filled,
    in_quarters,
    make_ring,
    pass_by,
    turn_over,
)
from kernels.hopper.rows import Out, run_rows, sigmoid, store_block
from kernels.hopper.tiles import Spot, Work, load_rows, multiply

# ------------------------------------------------------------------------------------------------ as an epilogue


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
    sig = sigmoid(gate)
    silu = gate * sig
    a = silu * linear
    partial += gl.sum(da * a, 1)
    da = da * weight[:, None]
    gate_block.store((da * linear * (sig + silu - silu * sig)).to(ring.a.dtype))
    linear_block.store((da * silu).to(ring.a.dtype))
    a_block.store((a * weight[:, None]).to(ring.a.dtype))
    turn_over(ring, staged)
    store_block(gate_out, gate_block, spot, column)
    store_block(linear_out, linear_block, spot, column)
    store_block(a_out, a_block, spot, column)
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


@gluon.jit(do_not_specialize=["lag"])
def dact_kernel(
    dy_desc, w2_desc, gate_desc, linear_desc, a_desc, gate_ptr, linear_ptr, a_ptr, weight_ptr, partial_ptr,
    tiles_ptr, used_ptr, counter_ptr, N, K, lag, SLOTS: gl.constexpr,
):  # fmt: skip
    """partial [rows, N / 256 rounded up]. For short K, where the tensor cores would wait for `dact_overlapped_kernel`'s
    warpgroup."""
    h = (Out(gate_desc, gate_ptr), Out(linear_desc, linear_ptr), Out(a_desc, a_ptr))
    epilogue: gl.constexpr = _dswiglu
    ring = make_ring(dy_desc, w2_desc, 2, SLOTS, False)
    work = Work(tiles_ptr, used_ptr, make_counter(counter_ptr))
    out = (h, weight_ptr, partial_ptr)
    run_rows((dy_desc,), (w2_desc,), (gate_desc, linear_desc), out, ring, work, N, K, lag, epilogue, 4)


# ----------------------------------------------------------------------------------------- in a warpgroup of its own
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
def _consume_da(consumer: gl.constexpr, hand, ring, work, steps):
    step = 0
    given = 0
    n = 0
    rows, _, _, _, _ = read_note(work.counter, n)
    while rows > 0:
        if rows > consumer * SLAB:
            acc, step = multiply(ring, step, steps, None, consumer, 128)
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
        n += 1
        rows, _, _, _, _ = read_note(work.counter, n)


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
    sig = sigmoid(gate)
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
    da = hand.da._reinterpret(hand.da.dtype, [16, 32, 64], hand.da.type.layout)
    taken0 = 0
    taken1 = 0
    n = 0
    rows, row, column, _, _ = read_note(work.counter, n)
    while rows > 0:
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
        n += 1
        rows, row, column, _, _ = read_note(work.counter, n)


@gluon.jit(do_not_specialize=["lag"])
def dact_overlapped_kernel(
    dy_desc, w2_desc, gate_ptr, linear_ptr, a_ptr, weight_ptr, partial_ptr, tiles_ptr, used_ptr, counter_ptr, N, K, lag,
    SLOTS: gl.constexpr,
):  # fmt: skip
    """partial [rows, N / 64]."""
    ring = make_ring(dy_desc, w2_desc, 2, SLOTS, False)
    da = gl.allocate_shared_memory(dy_desc.dtype, [8, SLAB, 64], dy_desc.layout)
    hand = Hand(da, barriers(2, 1), barriers(2, 1))
    work = Work(tiles_ptr, used_ptr, make_counter(counter_ptr))
    steps = gl.cdiv(K, STEP)
    gl.warp_specialize(
        [
            (_consume_da, (0, hand, ring, work, steps)),
            (_consume_da, (1, hand, ring, work, steps)),
            (_finish_da, ((gate_ptr, linear_ptr, a_ptr), weight_ptr, partial_ptr, hand, work, N)),
            (load_rows, ((dy_desc,), (w2_desc,), (), ring, work, N, K, lag, 0)),
        ],
        [4, 4, 1],
        [160, 152, 32],
    )
