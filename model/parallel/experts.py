"""Experts are split over a group of ranks, and each group's sharded over the groups; the rest is sharded over all.

Every rank of a group gathers the tokens of all and applies its own experts to those that chose them; the partial sums
come back summed. With 4 of 16 experts over 2 ranks 96 % of tokens need both, so that this sends less than rows one by
one would; all sizes are known to the host, nothing is padded, waited for or dropped (dropless: Gale et al. 2211.15841).
"""

from __future__ import annotations

import math
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

import kernels
from model.moe import Experts
from model.parallel.ranks import Ranks
from model.parallel.shard import Sharded, wrap
from model.transformer import Transformer


class Gather(torch.autograd.Function):
    """apply(x [T, ...], group) -> [N T, ...], those of all N ranks; its derivative sums what each says of mine."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return gather(x, group)

    @staticmethod
    def backward(ctx, dx):
        return scatter(dx, ctx.group), None


class Scatter(torch.autograd.Function):
    """apply(y [N T, ...], group) -> [T, ...], the sum over ranks of what each says of mine."""

    @staticmethod
    def forward(ctx, y, group):
        ctx.group = group
        return scatter(y, group)

    @staticmethod
    def backward(ctx, dy):
        return gather(dy, ctx.group), None


def gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[T, ...] of each rank, in order: [N T, ...]."""
    out = x.new_empty(len(x) * group.size(), *x.shape[1:])
    dist.all_gather_into_tensor(out, x.contiguous(), group=group)
    return out


def scatter(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The own part [T, ...] of the sum over ranks of [N T, ...]."""
    out = x.new_empty(len(x) // group.size(), *x.shape[1:])
    dist.reduce_scatter_tensor(out, x.contiguous(), group=group)
    return out


class SplitExperts(nn.Module):
    """`number` of a block's experts, from `first` on; weights as those of `Experts`."""

    def __init__(self, experts: Experts, group: dist.ProcessGroup):
        super().__init__()
        self.group, self.number = group, experts.number // group.size()
        self.first = self.number * group.rank()
        for name, weight in experts.named_parameters():
            self.register_parameter(name, nn.Parameter(weight[: len(weight) // group.size()].clone()))

    def forward(self, x_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """[T, D], as `Experts`."""
        here = gather(indices_TK.int(), self.group) - self.first
        here = torch.where((here >= 0) & (here < self.number), here, self.number)
        x, weights = Gather.apply(x_TD, self.group), Gather.apply(weights_TK, self.group)
        y = kernels.experts(x, here, weights, self.w1, self.v1, self.w2, self.number, elsewhere=True)
        return Scatter.apply(y, self.group)


def split_experts(network: Transformer, dtype: torch.dtype, ranks: Ranks) -> Sharded:
    """Make the parts of a network on the meta device, experts split over as many neighbouring ranks of a machine as
    they divide by: tokens travel in every layer."""
    of_machines = ranks.every(int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world)))
    size = math.gcd(network.config.experts, ranks.world, *of_machines)
    mesh = init_device_mesh(ranks.device.type, (ranks.world // size, size), mesh_dim_names=("rest", "experts"))
    group, rows = mesh["experts"].get_group(), network.config.experts * network.config.d_expert
    firsts = {}
    for number, block in enumerate(network.blocks):
        block.moe.experts = SplitExperts(block.moe.experts, group)
        for name in ("w1", "v1", "w2"):
            firsts[f"blocks.{number}.moe.experts.{name}"] = rows, rows // size * group.rank()
    wrap(network, dtype, ranks, mesh["rest"])
    return Sharded(network, ranks, firsts)
