"""A ring of shared-memory slots between one loading warp and the consumers, for the Hopper kernels in Gluon (Triton
3.6).

One persistent block runs on each SM; inside it

  * one warp, the loader, keeps the ring's slots full by TMA. A slot holds one step of 64 along K: a slab of 64 rows of
    A for each consumer, and 256 columns of B;
  * two or three warpgroups, the consumers, own one slab, 64 rows x 256 columns of the tile, each. They share no
    barrier, so they drift apart and one stores its result while the others multiply;
  * a consumer whose slab lies behind the last row of its expert multiplies nothing, and its rows are not loaded;
  * results need no memory of their own: after a tile's last step the loader hands out a few more slots of the same
    ring, and consumers stage there what TMA then stores. Where an epilogue reads something (gate and linear, an old
    gradient), the loader has filled these slots with it. So three slabs (a tile of 192 x 256, 22 % fewer bytes from L2
    than 128 x 256) leave room for four slots.

Letters: M, N, K of a product C [M, N] = A [M, K] B [K, N]. 16-bit elements, bf16 or fp16 as the descriptors say, and
fp32 sums.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

STEP = gl.constexpr(64)  # of K, a slot's depth: 64 elements of 16 bits are one row of the 128-byte swizzle
SLAB = gl.constexpr(64)  # rows of one consumer, as many as one wgmma has
WIDTH = gl.constexpr(256)  # columns of a tile
# of a [64, 64] block of 16 bits or [64, 32] of fp32: a slab of A, a quarter of B, a unit of staging
BLOCK_BYTES = gl.constexpr(8192)
# of one warpgroup: 16 bytes a thread, 128 a row of eight
COALESCED = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0]))


class Ring(NamedTuple):
    """Slots in shared memory with their barriers. `empty` counts one arrival of each consumer, `ready` one of the
    loader.

    a [slots * slabs, 64, 64]; b [slots, 256, 64] or, K first, [slots, 64, 256]; stage_a and stage_b are the same memory
    in blocks of 8 KB: of a slot, a consumer's own slab of A and the quarters of B.
    """

    a: gl.shared_memory_descriptor
    b: gl.shared_memory_descriptor
    stage_a: gl.shared_memory_descriptor
    stage_b: gl.shared_memory_descriptor
    empty: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor


@gluon.jit
def barriers(n: gl.constexpr, count: gl.constexpr):
    bars = gl.allocate_shared_memory(gl.int64, [n, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(n):
        mbarrier.init(bars.index(i), count=count)
    return bars


@gluon.jit
def make_ring(a_desc, b_desc, slabs: gl.constexpr, slots: gl.constexpr, k_first: gl.constexpr):
    """A ring for 16-bit staging. B's boxes are K first, [64, 256], or [columns, 64]."""
    a = gl.allocate_shared_memory(a_desc.dtype, [slots * slabs, SLAB, STEP], a_desc.layout)
    b = gl.allocate_shared_memory(
        a_desc.dtype, [slots, STEP, WIDTH] if k_first else [slots, WIDTH, STEP], b_desc.layout
    )
    blocks = b._reinterpret(a_desc.dtype, [slots * 4, SLAB, STEP], a_desc.layout)
    return Ring(a, b, a, blocks, barriers(slots, slabs), barriers(slots, 1))


@gluon.constexpr_function
def slabs_of(a, ready):
    """Slabs of A in a slot."""
    return a.shape[0] // ready.shape[0]


@gluon.jit
def claim(ring, step):
    """The loader's next slot, once every consumer has given it back."""
    slot = step % ring.ready.shape[0]
    mbarrier.wait(ring.empty.index(slot), ((step // ring.ready.shape[0]) & 1) ^ 1)
    return slot


@gluon.jit
def filled(ring, step):
    """A consumer's next slot, once it is filled."""
    slot = step % ring.ready.shape[0]
    mbarrier.wait(ring.ready.index(slot), (step // ring.ready.shape[0]) & 1)
    return slot


@gluon.jit
def give_back(ring, step, pred=True):
    """`step` may be -1 where pred is false; the sum also saves ptxas the register that it would otherwise spill."""
    mbarrier.arrive(ring.empty.index((step + ring.ready.shape[0]) % ring.ready.shape[0]), count=1, pred=pred)


@gluon.jit
def pass_by(ring, step, n):
    """A consumer without rows keeps the ring moving for n steps."""
    for _ in range(0, n):
        filled(ring, step)
        give_back(ring, step)
        step += 1
    return step


@gluon.jit
def expect(bar, slab_bytes: gl.constexpr, shared_bytes: gl.constexpr, rows, slabs: gl.constexpr):
    """One arrival at `bar` that expects the bytes of the slabs in use, `rows` being counted from the tile's first
    row."""
    for s in gl.static_range(slabs):
        last = (rows > s * SLAB) & ((rows <= s * SLAB + SLAB) | (s == slabs - 1))
        mbarrier.expect(bar, (s + 1) * slab_bytes + shared_bytes, pred=last)


@gluon.jit
def turn_over(ring, staged):
    """Earlier stores have left shared memory: give their staging slot back (staged < 0: there is none).

    Also orders what was just written to shared memory before the TMA stores that follow.
    """
    tma.store_wait(0)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.arrive(ring.empty.index(gl.maximum(staged, 0)), count=1, pred=staged >= 0)


# ------------------------------------------------------------------------------------------------ accumulators


@gluon.jit
def in_halves(x):
    """[64, 2 n] -> two [64, n], without leaving the registers."""
    return x.reshape((SLAB, 2, x.shape[1] // 2)).permute((0, 2, 1)).split()


@gluon.jit
def in_quarters(x):
    left, right = in_halves(x)
    q0, q1 = in_halves(left)
    q2, q3 = in_halves(right)
    return q0, q1, q2, q3


@gluon.constexpr_function
def accumulator(instruction):
    """Layout of [64, 256] sums. `instruction`: columns of one wgmma, 256, or 128 in blocks of 16 warps: they begin with
    128 registers a thread, and ptxas wants 154 for the wider one whatever setmaxnreg says later."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, instruction, 16])
