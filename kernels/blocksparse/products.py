"""The three block-sparse products, differentiable, on two kernels. The layer fuses more, and calls these directly."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.blocksparse.outer import outer_products
from kernels.blocksparse.rows import row_products
from kernels.blocksparse.tiles import blocks
from kernels.topology import Topology


def sdd(a_RD: Tensor, b: Tensor, topology: Topology) -> Tensor:
    """Values [R, F] of S = A B at the blocks that are not zero; b is [D, E * F]. Raises ValueError for shapes that do
    not fit."""
    experts = topology.order_E.shape[0]
    _expect(
        a_RD.shape == (topology.place_R.shape[0], b.shape[0]) and b.shape[1] % (16 * experts) == 0,
        "[R, D], [D, E * F]",
        a_RD,
        b,
    )
    return SDD.apply(a_RD, b, *topology)


def dsd(s_RF: Tensor, b: Tensor, topology: Topology, trans_s: bool = False) -> Tensor:
    """S B [R, D] for b [E * F, D]; transposed S^T B [E * F, D] for b [R, D]. Raises ValueError for shapes that do not
    fit."""
    rows, experts, hidden = topology.place_R.shape[0], topology.order_E.shape[0], s_RF.shape[1]
    _expect(
        s_RF.shape[0] == rows and b.shape[0] == (rows if trans_s else experts * hidden),
        "[R, F], [E * F or R, D]",
        s_RF,
        b,
    )
    return (DSDTransposed if trans_s else DSD).apply(s_RF, b, *topology)


def dds(a: Tensor, s_RF: Tensor, topology: Topology, trans_s: bool = False) -> Tensor:
    """A S [M, E * F] for a [M, R]; transposed A S^T [M, R] for a [M, E * F]. Raises ValueError for shapes that do not
    fit."""
    return dsd(s_RF, a.t(), topology, trans_s=not trans_s).t()


def _expect(fits: bool, shapes: str, *tensors: Tensor) -> None:
    sizes, dtypes = [tuple(t.shape) for t in tensors], {t.dtype for t in tensors}
    if not fits or len(dtypes) > 1 or any(n % 16 for size in sizes for n in size[1:]):
        raise ValueError(
            f"expected {shapes} of one dtype, R that of the topology, D and F multiples of 16; found {sizes}, {dtypes}"
        )


class SDD(torch.autograd.Function):
    """S = A B: dA = dS B^T, dB = A^T dS."""

    @staticmethod
    def forward(ctx, a_RD, b, *topology):
        ctx.save_for_backward(a_RD, b, *topology)
        topology = Topology(*topology)
        return row_products([a_RD], [b], *blocks(topology, a_RD), topology.order_E.shape[0], True)

    @staticmethod
    def backward(ctx, ds_RF):
        a_RD, b, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        da_RD = dsd(ds_RF, b.t(), topology) if ctx.needs_input_grad[0] else None
        db = dsd(ds_RF, a_RD, topology, trans_s=True).t() if ctx.needs_input_grad[1] else None
        return da_RD, db, None, None, None


class DSD(torch.autograd.Function):
    """C = S B: dS = dC B^T, dB = S^T dC."""

    @staticmethod
    def forward(ctx, s_RF, b, *topology):
        ctx.save_for_backward(s_RF, b, *topology)
        topology = Topology(*topology)
        return row_products([s_RF], [b], *blocks(topology, s_RF), topology.order_E.shape[0], False)

    @staticmethod
    def backward(ctx, dc_RD):
        s_RF, b, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        ds_RF = sdd(dc_RD, b.t(), topology) if ctx.needs_input_grad[0] else None
        db = dsd(s_RF, dc_RD, topology, trans_s=True) if ctx.needs_input_grad[1] else None
        return ds_RF, db, None, None, None


class DSDTransposed(torch.autograd.Function):
    """C = S^T B: dS = B dC^T, dB = S dC."""

    @staticmethod
    def forward(ctx, s_RF, b_RD, *topology):
        ctx.save_for_backward(s_RF, b_RD, *topology)
        topology = Topology(*topology)
        return outer_products(s_RF, b_RD, topology.offsets_E1, topology.order_E)

    @staticmethod
    def backward(ctx, dc):
        s_RF, b_RD, *topology = ctx.saved_tensors
        topology = Topology(*topology)
        ds_RF = sdd(b_RD, dc.t(), topology) if ctx.needs_input_grad[0] else None
        db_RD = dsd(s_RF, dc, topology) if ctx.needs_input_grad[1] else None
        return ds_RF, db_RD, None, None, None
