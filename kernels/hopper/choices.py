"""Choices by shape: sizes of tiles, their order and pace, and which of two ways to compute something."""

from __future__ import annotations

from typing import NamedTuple

import triton

# of 64 rows in a tile of row products: 192 x 256. Two, 128 x 256, read the same in the whole step (93.6 and 93.7 % for
# DBRX)
SLABS = 3
DACT_SLABS, DACT_GROUP = 2, 16  # its epilogue needs the registers, or the shared memory, of the third
# tiles of a weight gradient; else dW1 and dV1 are two launches, and dgate is freed between (DBRX: 0.7 of 8.4 GB)
PAIR_BELOW = 64 * 132


class Plan(NamedTuple):
    """`group`: neighbouring row tiles that share an expert's columns in L2. `lag`: steps of 64 along K that a block may
    run ahead of others; `overlapped`: the derivative of SwiGLU in a warpgroup of its own.

    Measured in the layer: groups of 9 to 22 within 0.5 %; lags of 12 to 24 alike, 40 lost up to 5 % a product in one
    run of two.
    """

    group: int
    lag: int
    overlapped: bool


PLANS = ((4096, Plan(12, 24, True)), (2048, Plan(12, 16, True)), (0, Plan(6, 8, False)))  # by least D


def plan(width: int) -> Plan:
    """The plan for D = width. At D = 1024 `dact_kernel` does 400-425 TFLOP/s, the overlapped one 350, but 565 at 3072
    and 616 at 6144."""
    return next(chosen for least, chosen in PLANS if width >= least)


def outer_tile(hidden: int) -> tuple[int, int]:
    """(slabs, group) of weight gradients: 192 x 256 where F is a multiple of 192, else the last slabs of each band
    would idle."""
    return (3, 6) if hidden % 192 == 0 else (2, 14)


def outer_in_pairs(hidden: int, width: int, n_experts: int) -> bool:
    """Whether dW1 and dV1, each [n_experts * hidden, width], are one launch."""
    return triton.cdiv(hidden, 64 * outer_tile(hidden)[0]) * triton.cdiv(width, 256) * n_experts < PAIR_BELOW
