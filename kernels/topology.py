"""Routing -> where rows and blocks lie. Built on the device: no host sync, no atomics, and sizes that depend on shapes
only.

The rows of a layer (one for each token and chosen expert) are sorted by expert, and rows of one expert stay in the
order of their tokens. Nothing is padded: an expert's rows begin where those of the one before it end, so an empty
expert takes no place and one expert may take all. Kernels find their work in a table of row tiles (`row_tiles`);
letters are those of `kernels/__init__.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.operator import operator

CHUNK = 1024  # rows that one program counts and places, at least
CHUNKS = 512  # programs at most, as each one reads the counts of all: 512 of them read 32 KB each for 16 experts
# TRITON_INTERPRET=1, which counts from here on: kernels are made at import
INTERPRETED = triton.knobs.runtime.interpret
ELEMENTS = 8192  # (row, expert) comparisons at a time: 32 registers a thread of 8 warps for each such value


class Topology(NamedTuple):
    """Row t * K + j of the routing lies at place_R[t * K + j] of the sorted rows; expert e has places offsets_E1[e] to
    offsets_E1[e + 1].

    `order_E` lists the experts by falling number of rows (then by number), for kernels that begin with the longest. All
    int32.
    """

    place_R: Tensor
    offsets_E1: Tensor
    order_E: Tensor


def build(indices_TK: Tensor, n_experts: int) -> Topology:
    """Sort the rows of a routing (int32 or int64, each in 0 .. n_experts - 1: nothing checks that) by expert;
    stable."""
    return Topology(*_build(indices_TK, n_experts))


def build_here(indices_TK: Tensor, n_experts: int) -> Topology:
    """As `build`, where an index of `n_experts` is an expert that lives elsewhere: its rows lie behind all others, and
    belong to none."""
    place_R, offsets, _ = _build(indices_TK, n_experts + 1)
    offsets_E1 = offsets[: n_experts + 1].contiguous()
    return Topology(place_R, offsets_E1, offsets_E1.diff().argsort(descending=True, stable=True).int())


def row_tiles(topology: Topology, rows: int, group: int) -> tuple[Tensor, Tensor]:
    """Cut each expert's rows into tiles of `rows`: (tiles [M, 4] int32, how many are in use [1] int32).

    A tile is (expert, its first place, rows left in the expert from there, group). A group is up to `group`
    neighbouring tiles of one expert, split evenly and written as first tile * 64 + number of tiles: kernels that walk
    down a group before they go to the next columns share one expert's weights in L2. M = R // rows + E is an upper
    bound known to the host; tiles not in use are (0, 0, 0, 1). Raises ValueError for a group beyond 63.
    """
    if not 0 < group < 64:
        raise ValueError(f"expected a group of 1 to 63 tiles, found {group}")
    return _row_tiles(topology.offsets_E1, topology.place_R.shape[0] // rows + topology.order_E.shape[0], rows, group)


def on_triton(x: Tensor) -> bool:
    """Whether kernels run for x: on an NVIDIA GPU, or anywhere under Triton's interpreter."""
    return INTERPRETED or (x.is_cuda and not torch.version.hip)


# ------------------------------------------------------------------------------------------------ the rows' places


@operator("topology")
def _build(indices_TK: Tensor, n_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    return (_build_triton if on_triton(indices_TK) else _build_torch)(indices_TK.reshape(-1), n_experts)


@_build.register_fake
def _(indices_TK, n_experts):
    def new(size):
        return indices_TK.new_empty(size, dtype=torch.int32)

    return new(indices_TK.numel()), new(n_experts + 1), new(n_experts)


def _build_torch(expert_R: Tensor, n_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The definition."""
    expert_sorted_R, pair_R = expert_R.sort(stable=True)
    place_R = torch.empty_like(pair_R).index_copy_(0, pair_R, torch.arange(len(pair_R), device=pair_R.device))
    offsets_E1 = torch.searchsorted(
        expert_sorted_R, torch.arange(n_experts + 1, device=expert_R.device, dtype=expert_R.dtype)
    )
    order_E = offsets_E1.diff().argsort(descending=True, stable=True)
    return place_R.int(), offsets_E1.int(), order_E.int()


def _build_triton(expert_R: Tensor, n_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """A counting sort: count each chunk's rows of each expert, then place each chunk behind the chunks before it."""
    rows, columns = len(expert_R), max(triton.next_power_of_2(n_experts), 2)
    chunk = max(CHUNK, triton.next_power_of_2(triton.cdiv(rows, CHUNKS)))
    chunks = max(triton.cdiv(rows, chunk), 1)  # of no rows, too, offsets are written
    counts_CE, place_R, offsets_E1, order_E = (
        expert_R.new_empty(size, dtype=torch.int32) for size in ((chunks, columns), rows, n_experts + 1, n_experts)
    )
    sizes = dict(EP=columns, STEP=min(max(ELEMENTS // columns, 1), CHUNK), num_warps=8)
    count_kernel[(chunks,)](expert_R, counts_CE, rows, chunk, **sizes)
    place_kernel[(chunks,)](expert_R, counts_CE, place_R, offsets_E1, order_E, rows, chunk, chunks, n_experts, **sizes)
    return place_R, offsets_E1, order_E


@triton.jit
def count_kernel(expert_ptr, counts_ptr, n_rows, chunk, EP: tl.constexpr, STEP: tl.constexpr):
    """counts[c, e] = how many rows of chunk c go to expert e. EP: experts, rounded up to a power of two."""
    c = tl.program_id(0)
    e = tl.arange(0, EP)
    count = tl.zeros((EP,), tl.int32)
    for start in range(0, chunk, STEP):
        r = c * chunk + start + tl.arange(0, STEP)
        expert = tl.load(expert_ptr + r, mask=r < n_rows, other=EP)
        count += tl.sum((expert[:, None] == e[None, :]).to(tl.int32), 0)
    tl.store(counts_ptr + c * EP + e, count)


@triton.jit
def place_kernel(
    expert_ptr,
    counts_ptr,
    place_ptr,
    offsets_ptr,
    order_ptr,
    n_rows,
    chunk,
    n_chunks,
    n_experts,
    EP: tl.constexpr,
    STEP: tl.constexpr,
):
    """A row's place: rows of smaller experts, then those of its expert in earlier chunks, then those before it in its
    own chunk."""
    c = tl.program_id(0)
    e = tl.arange(0, EP)
    total = tl.zeros((EP,), tl.int32)
    earlier = tl.zeros((EP,), tl.int32)
    for first in range(0, n_chunks, STEP):
        other = first + tl.arange(0, STEP)
        counts = tl.load(counts_ptr + other[:, None] * EP + e[None, :], mask=(other < n_chunks)[:, None], other=0)
        total += tl.sum(counts, 0)
        earlier += tl.sum(tl.where((other < c)[:, None], counts, 0), 0)
    end = tl.cumsum(total, 0)
    if c == 0:
        tl.store(offsets_ptr, 0)
        tl.store(offsets_ptr + 1 + e, end, mask=e < n_experts)
        store_order(order_ptr, total, n_experts, EP, STEP)
    base = end - total + earlier
    for start in range(0, chunk, STEP):
        r = c * chunk + start + tl.arange(0, STEP)
        expert = tl.load(expert_ptr + r, mask=r < n_rows, other=EP)
        mine = (expert[:, None] == e[None, :]).to(tl.int32)
        before = tl.cumsum(mine, 0) - mine
        tl.store(place_ptr + r, tl.sum(mine * (before + base[None, :]), 1), mask=r < n_rows)
        base += tl.sum(mine, 0)


@triton.jit
def store_order(order_ptr, total, n_experts, EP: tl.constexpr, STEP: tl.constexpr):
    """An expert's rank is the number of experts with more rows, or with as many and a smaller number. STEP experts at a
    time."""
    e = tl.arange(0, EP)
    total = tl.where(e < n_experts, total, -1)
    for first in range(0, n_experts, STEP):
        mine = first + tl.arange(0, STEP)
        my_total = tl.sum(tl.where(mine[:, None] == e[None, :], total[None, :], 0), 1)
        equal = total[None, :] == my_total[:, None]
        ahead = (total[None, :] > my_total[:, None]) | (equal & (e[None, :] < mine[:, None]))
        tl.store(order_ptr + tl.sum(ahead.to(tl.int32), 1), mine, mask=mine < n_experts)


# ------------------------------------------------------------------------------------------------ tiles of rows


@operator("row_tiles")
def _row_tiles(offsets_E1: Tensor, bound: int, rows: int, group: int) -> tuple[Tensor, Tensor]:
    return (_row_tiles_triton if on_triton(offsets_E1) else _row_tiles_torch)(offsets_E1, bound, rows, group)


@_row_tiles.register_fake
def _(offsets_E1, bound, rows, group):
    return offsets_E1.new_empty(bound, 4), offsets_E1.new_empty(1)


def _row_tiles_torch(offsets_E1: Tensor, bound: int, rows: int, group: int) -> tuple[Tensor, Tensor]:
    """The definition."""
    tiles_E = (offsets_E1.diff() + rows - 1) // rows
    ends_E1 = torch.nn.functional.pad(tiles_E.cumsum(0, dtype=torch.int32), (1, 0))
    tile = torch.arange(bound, dtype=torch.int32, device=offsets_E1.device)
    expert = torch.searchsorted(ends_E1[1:], tile, right=True, out_int32=True).clamp(max=len(tiles_E) - 1)
    first, tiles = ends_E1[expert], tiles_E[expert]
    start = offsets_E1[expert] + (tile - first) * rows
    groups = ((tiles + group - 1) // group).clamp(min=1)
    size = ((tiles + groups - 1) // groups).clamp(min=1)
    begin = (tile - first) // size * size
    table = torch.stack(
        [expert, start, offsets_E1[expert + 1] - start, (first + begin) * 64 + torch.minimum(size, tiles - begin)], 1
    )
    unused = torch.tensor([0, 0, 0, 1], dtype=torch.int32, device=table.device)
    return torch.where((tile < ends_E1[-1])[:, None], table, unused), ends_E1[-1:].clone()


def _row_tiles_triton(offsets_E1: Tensor, bound: int, rows: int, group: int) -> tuple[Tensor, Tensor]:
    tiles, used = offsets_E1.new_empty(bound, 4), offsets_E1.new_empty(1)
    columns = max(triton.next_power_of_2(len(offsets_E1) - 1), 2)
    step = min(max(ELEMENTS // columns, 1), 128)
    tiles_kernel[(triton.cdiv(bound, step),)](
        offsets_E1, tiles, used, bound, rows, group, len(offsets_E1) - 1, EP=columns, STEP=step
    )
    return tiles, used


@triton.jit
def tiles_kernel(offsets_ptr, tiles_ptr, used_ptr, bound, rows, group, n_experts, EP: tl.constexpr, STEP: tl.constexpr):
    """STEP entries of the table a program; each finds its expert as the number of experts whose tiles end at or before
    it."""
    tile = tl.program_id(0) * STEP + tl.arange(0, STEP)
    e = tl.arange(0, EP)
    offset = tl.load(offsets_ptr + e, mask=e < n_experts, other=0)
    n_rows = tl.load(offsets_ptr + e + 1, mask=e < n_experts, other=0) - offset
    end = tl.cumsum((n_rows + rows - 1) // rows, 0)
    used = tl.max(end, 0)
    if tl.program_id(0) == 0:
        tl.store(used_ptr, used)
    behind = end[None, :] <= tile[:, None]
    expert = tl.minimum(tl.sum(behind.to(tl.int32), 1), n_experts - 1)
    first = tl.max(tl.where(behind, end[None, :], 0), 1)  # tiles of the experts before
    start = tl.load(offsets_ptr + expert) + (tile - first) * rows
    stop = tl.load(offsets_ptr + expert + 1)
    tiles = tl.maximum(tile - first + (stop - start + rows - 1) // rows, 1)
    groups = (tiles + group - 1) // group
    size = (tiles + groups - 1) // groups
    begin = (tile - first) // size * size
    word = (first + begin) * 64 + tl.minimum(size, tiles - begin)
    p, inside, in_use = tiles_ptr + tile * 4, tile < bound, tile < used
    tl.store(p, tl.where(in_use, expert, 0), mask=inside)
    tl.store(p + 1, tl.where(in_use, start, 0), mask=inside)
    tl.store(p + 2, tl.where(in_use, stop - start, 0), mask=inside)
    tl.store(p + 3, tl.where(in_use, word, 1), mask=inside)
