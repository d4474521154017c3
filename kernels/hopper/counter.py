"""Tiles from a counter: what a block of the Hopper kernels works on next.

A launch has one block for each SM, but an SM may be held by another kernel (a collective of NCCL). Were tiles dealt out
beforehand, the whole layer would wait for that SM: with one held for 60 ms the forward of MoE-A's layer took 62 ms
instead of 9.4. So a block draws the number of its next tile from a counter in global memory, and one that begins late
finds what is left, or nothing. Which block computes a tile has no influence on the result.

The loader draws, near the end of the tile before (earlier, and neighbouring tiles would no longer run together), and
leaves a note in shared memory for the consumers. Notes need no way back: the loader is at most a ring (3 or 4 slots, at
least one for each tile) ahead of the slowest consumer, that at most one tile ahead of the warpgroup behind it, and
there is room for `NOTES`.

Pace. Blocks that drift apart each stream their own panels from HBM (DBRX's step: 90.3 % of dense without pacing, 93.6 %
with it; isolated products +5 to +16 %), so tiles are worked on in rounds: no block begins its next before all are near
the end of theirs. Blocks that are there from the start join in round 0, a late one in the next. Only a hint, as the
wait is bounded: neither results nor progress depend on it.
"""

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from kernels.hopper.ring import barriers

NOTES = gl.constexpr(8)
WORDS, JOINED, POSTS = 64, gl.constexpr(32), gl.constexpr(33)
FIELDS = gl.constexpr(8)  # of a note, int32: 32 bytes
POLLS = gl.constexpr(2000)  # of the posts, at most
LEFT = gl.constexpr(1 << 22)  # posts of a block that leaves, so that nobody waits for it: 132 of them fit an int32


class Counter(NamedTuple):
    """ptr: [WORDS] int32, zero at launch: tiles drawn; JOINED, blocks that keep pace; POSTS, rounds that each is nearly
    done with, summed. These two are polled, and so in another line of L2 than the first.

    notes [NOTES, FIELDS] in shared memory, each with a barrier that counts the loader's arrival.
    """

    ptr: gl.tensor
    notes: gl.shared_memory_descriptor
    written: gl.shared_memory_descriptor


@gluon.jit
def make_counter(ptr):
    layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    return Counter(ptr, gl.allocate_shared_memory(gl.int32, [NOTES, FIELDS], layout), barriers(NOTES, 1))


@gluon.jit
def draw(counter):
    """The next tile's number; the caller sees whether there is such a tile."""
    return gl.atomic_add(counter.ptr, 1, sem="relaxed")


# ------------------------------------------------------------------------------------------------ notes


ONE_EACH = gl.constexpr(gl.BlockedLayout([1], [32], [1], [0]))  # of a note's fields a thread of the loader
ALL = gl.constexpr(gl.BlockedLayout([8], [32], [4], [0]))  # in every thread of a warpgroup


@gluon.jit
def write_note(counter, n, values):
    """The loader's note on its n-th tile, for consumers: (rows or columns left from there, 0: no tile is left, ...)."""
    i = gl.arange(0, FIELDS, layout=ONE_EACH)
    note = gl.zeros_like(i)
    for field in gl.static_range(len(values)):
        note = gl.where(i == field, values[field], note)
    counter.notes.index(n % NOTES).store(note)
    gl.thread_barrier()
    mbarrier.arrive(counter.written.index(n % NOTES), count=1)


@gluon.jit
def read_note(counter, n):
    """The first five values of the loader's note on the n-th tile, once it is there."""
    mbarrier.wait(counter.written.index(n % NOTES), n // NOTES & 1)
    note = counter.notes.index(n % NOTES).load(ALL)
    return _field(note, 0), _field(note, 1), _field(note, 2), _field(note, 3), _field(note, 4)


@gluon.jit
def _field(note, field: gl.constexpr):
    i = gl.arange(0, FIELDS, layout=ALL)
    return gl.sum(gl.where(i == field, note, 0), 0)


# ------------------------------------------------------------------------------------------------ pace


@gluon.jit
def join(counter):
    """The round in which this block begins: 0, or where others are in one already the next."""
    joined = gl.load(counter.ptr + JOINED, volatile=True)
    posts = gl.load(counter.ptr + POSTS, volatile=True)
    begin = gl.cdiv(posts, gl.maximum(joined, 1))
    gl.atomic_add(counter.ptr + POSTS, begin, sem="relaxed")
    gl.atomic_add(counter.ptr + JOINED, 1, sem="relaxed")
    return begin


@gluon.jit
def post(counter, rounds):
    """This block is nearly done with so many rounds more."""
    gl.atomic_add(counter.ptr + POSTS, rounds, sem="relaxed")


@gluon.jit
def keep_pace(counter, begin):
    """Wait until all blocks have posted for the rounds before `begin`."""
    if begin > 0:
        waits = True
        polls = 0
        while waits & (polls < POLLS):
            joined = gl.load(counter.ptr + JOINED, volatile=True)
            waits = gl.load(counter.ptr + POSTS, volatile=True) < joined * begin
            polls += 1
