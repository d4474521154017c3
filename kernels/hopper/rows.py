"""Products of rows with their expert's weights: three kernels on one loader (`tiles.load_rows`) and one consumer, which
an epilogue completes; `dact` adds two.

    up_kernel    gate = x W1^T and linear = x V1^T side by side in one 256-wide B, so that silu(gate) * linear stays in
                 registers
    down_kernel  y = a W2
    dx_kernel    dx = dgate W1 + dlinear V1: twice as many steps, one sum
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

from kernels.hopper.counter import make_counter, read_note
from kernels.hopper.ring import (
    COALESCED,
    SLAB,
    STEP,
    WIDTH,
    filled,
    in_quarters,
    make_ring,
    pass_by,
    slabs_of,
    turn_over,
)
from kernels.hopper.tiles import Spot, Work, load_rows, multiply


class Out(NamedTuple):
    """One result [rows, N]: its descriptor for TMA, its pointer for an expert's last rows."""

    desc: tma.tensor_descriptor
    ptr: gl.tensor


@gluon.jit
def consume_rows(
    consumer: gl.constexpr, epilogue: gl.constexpr, out, ring, work, N, steps,
    parts: gl.constexpr, staging: gl.constexpr,
):  # fmt: skip
    """A consumer: multiplies its slab of each tile and gives the sum to `epilogue`, which uses `staging` slots."""
    instruction: gl.constexpr = 256 if slabs_of(ring.a, ring.ready) == 2 else 128
    step = 0
    staged = -1
    n = 0
    rows, row, column, _, _ = read_note(work.counter, n)
    while rows > 0:
        spot = Spot(row + consumer * SLAB, rows - consumer * SLAB, column * (WIDTH // parts), N)
        if spot.rows > 0:
            acc, step = multiply(ring, step, steps, staged, consumer, instruction)
            step, staged = epilogue(in_quarters(acc), out, spot, ring, step, consumer)
        else:
            turn_over(ring, staged)
            staged = -1
            step = pass_by(ring, step, steps + staging)
        n += 1
        rows, row, column, _, _ = read_note(work.counter, n)
    tma.store_wait(0)


# ------------------------------------------------------------------------------------------------ epilogues


@gluon.jit
def sigmoid(x):
    """1 / (1 + 2^(-x log2 e)) in four instructions, with the right limits; exp and a division would be about twelve."""
    return gl.inline_asm_elementwise(
        "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; "
        "rcp.approx.ftz.f32 $0, t; }",
        "=f,f",
        [x],
        dtype=gl.float32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def store_block(out, block, spot, column):
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
    store_block(out0, block0, spot, column0)
    store_block(out1, block1, spot, column1)
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
    a0 = gate0 * sigmoid(gate0) * linear0
    step, staged = _store_two(a0, a, c, gate1, gate, c + 64, spot, ring, step, staged, consumer)
    a1 = gate1 * sigmoid(gate1) * linear1
    return _store_two(linear1, linear, c + 64, a1, a, c + 64, spot, ring, step, staged, consumer)


# ------------------------------------------------------------------------------------------------ kernels


@gluon.jit
def run_rows(a, b, h, out, ring, work, N, K, lag, epilogue: gl.constexpr, staging: gl.constexpr):
    """Consumers and loader, each with the registers a thread that it needs (a block has 65,536)."""
    parts: gl.constexpr = len(b) // len(a)
    steps = gl.cdiv(K, STEP) * len(a)
    if slabs_of(ring.a, ring.ready) == 2:
        gl.warp_specialize(
            [
                (consume_rows, (0, epilogue, out, ring, work, N, steps, parts, staging)),
                (consume_rows, (1, epilogue, out, ring, work, N, steps, parts, staging)),
                (load_rows, (a, b, h, ring, work, N, K, lag, staging)),
            ],
            [4, 1],
            [232, 40],
        )
    else:
        gl.warp_specialize(
            [
                (consume_rows, (0, epilogue, out, ring, work, N, steps, parts, staging)),
                (consume_rows, (1, epilogue, out, ring, work, N, steps, parts, staging)),
                (consume_rows, (2, epilogue, out, ring, work, N, steps, parts, staging)),
                (load_rows, (a, b, h, ring, work, N, K, lag, staging)),
            ],
            [4, 4, 1],
            [160, 160, 32],
        )


@gluon.jit(do_not_specialize=["lag"])
def up_kernel(
    x_desc, w1_desc, v1_desc, gate_desc, linear_desc, a_desc, gate_ptr, linear_ptr, a_ptr,
    tiles_ptr, used_ptr, counter_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    out = (Out(gate_desc, gate_ptr), Out(linear_desc, linear_ptr), Out(a_desc, a_ptr))
    epilogue: gl.constexpr = _swiglu
    ring = make_ring(x_desc, w1_desc, SLABS, SLOTS, False)
    work = Work(tiles_ptr, used_ptr, make_counter(counter_ptr))
    run_rows((x_desc,), (w1_desc, v1_desc), (), out, ring, work, N, K, lag, epilogue, 3)


@gluon.jit(do_not_specialize=["lag"])
def down_kernel(
    a_desc, w2_desc, out_desc, out_ptr, tiles_ptr, used_ptr, counter_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    epilogue: gl.constexpr = _plain
    ring = make_ring(a_desc, w2_desc, SLABS, SLOTS, True)
    work = Work(tiles_ptr, used_ptr, make_counter(counter_ptr))
    run_rows((a_desc,), (w2_desc,), (), Out(out_desc, out_ptr), ring, work, N, K, lag, epilogue, 2)


@gluon.jit(do_not_specialize=["lag"])
def dx_kernel(
    dgate_desc, dlinear_desc, w1_desc, v1_desc, out_desc, out_ptr, tiles_ptr, used_ptr, counter_ptr, N, K, lag,
    SLABS: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    epilogue: gl.constexpr = _plain
    ring = make_ring(dgate_desc, w1_desc, SLABS, SLOTS, True)
    work = Work(tiles_ptr, used_ptr, make_counter(counter_ptr))
    a, b = (dgate_desc, dlinear_desc), (w1_desc, v1_desc)
    run_rows(a, b, (), Out(out_desc, out_ptr), ring, work, N, K, lag, epilogue, 2)
