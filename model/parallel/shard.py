"""Every rank keeps a part of each weight and gathers a block's when it is at work on it: torch's FSDP2 (`fully_shard`;
Zhao et al. 2304.11277).

The parts are fp32 and their own masters; they are gathered rounded, and gradients are summed in fp32. Norms are next to
nothing and stay whole. Where the rounded weights fit, they are kept from forward to backward, which saves the second
gathering.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from model.parallel.ranks import Ranks
from model.parallel.replicate import Replicated
from model.sizing import KEPT
from model.transformer import Transformer


class Sharded:
    """Parts of weights, behind the interface of `Replicated`; norms are whole."""

    sums_by_itself = True  # in the parts, which are fp32

    def __init__(self, network: Transformer, ranks: Ranks, firsts: dict[str, tuple[int, int]] | None = None):
        """`firsts`: of weights whose rows are split before they are sharded: (rows of the whole, first
        of those here)."""
        self.weights, self.ranks = dict(network.named_parameters()), ranks
        self.whole = Replicated({name: weight for name, weight in self.weights.items() if weight.ndim == 1}, ranks)
        self.shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        self.own, self.starts = {}, {}
        for name, weight in self.weights.items():
            if name in self.whole.own:
                self.own[name], self.starts[name] = self.whole.own[name], self.whole.starts[name]
                continue
            rows, first = weight.shape[0], 0
            if firsts and name in firsts:
                rows, first = firsts[name]
                self.shapes[name] = (rows, weight.shape[1])
            mesh = weight.device_mesh
            size = -(-weight.shape[0] // mesh.size())
            at = min(first + size * mesh.get_local_rank(), first + weight.shape[0])
            self.own[name], self.starts[name] = weight.data.to_local(), at * weight.shape[1]

    def reduce(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The own parts, which FSDP has summed over ranks, and those of norms."""
        norms = self.whole.reduce({name: gradients[name] for name in self.whole.own})
        return {name: norms[name] if name in norms else g.to_local() for name, g in gradients.items()}

    def publish(self, name: str) -> None:
        """Parts are gathered when a block needs them."""

    def settle(self) -> None:
        """Bring norms to all."""
        self.whole.settle()


def shard(network: Transformer, dtype: torch.dtype, ranks: Ranks) -> Sharded:
    """Make the parts of a network on the meta device. They have no values yet."""
    wrap(network, dtype, ranks)
    return Sharded(network, ranks)


def wrap(network: Transformer, dtype: torch.dtype, ranks: Ranks, rest: DeviceMesh | None = None) -> None:
    """Shard embedding, blocks and head; where `rest` is given, experts over it only: they are split already."""
    norms = {weight for weight in network.parameters() if weight.ndim == 1}
    rounded = dtype if dtype != torch.get_default_dtype() else None
    policy = MixedPrecisionPolicy(rounded, torch.get_default_dtype(), cast_forward_inputs=False)
    keep = keeps(network, ranks)
    fully_shard(network.embedding, reshard_after_forward=False)
    for block in network.blocks:
        if rest is not None:
            fully_shard(block.moe.experts, mesh=rest, mp_policy=policy, reshard_after_forward=not keep)
        fully_shard(block, mp_policy=policy, reshard_after_forward=not keep, ignored_params=norms)
    fully_shard(network.head, mp_policy=policy, reshard_after_forward=False)
    fully_shard(network, ignored_params=norms)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # gradients are parts of one sum, not means
            module.set_force_sum_reduction_for_comms(True)
    network.head.compute_dtype = dtype
    network.to_empty(device=ranks.device)


def keeps(network: nn.Module, ranks: Ranks) -> bool:
    """Whether the gathered weights stay between forward and backward."""
    if ranks.device.type == "cpu":
        return True
    there = min(ranks.every(torch.cuda.get_device_properties(ranks.device).total_memory))
    return 2 * sum(weight.numel() for weight in network.parameters()) < KEPT * there
