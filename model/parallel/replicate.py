"""Every rank has all weights; masters, moments and the update are split between ranks (ZeRO-1, Rajbhandari et al.
1910.02054).

Behind the backward the gradients are summed, each rank receiving the part that it updates; behind its update a part goes
to all. A rank sends 2 bytes a weight and receives as many, twice, however many ranks there are, and keeps 4 + 12 / N
bytes of it. Alone, nothing is sent and everything is updated here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel.ranks import Ranks
from model.transformer import Transformer


class Replicated:
    """Weights that all ranks have whole, and of each the part that this one updates.

    `own` are views of that part, flat elements from `starts` on; `shapes` are those of whole weights.
    """

    sums_by_itself = False  # of micro-batches: gradients are rounded to the dtype of the weights

    def __init__(self, weights: dict[str, nn.Parameter], ranks: Ranks):
        self.weights, self.ranks = weights, ranks
        self.shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self.starts = {name: weight.numel() * ranks.rank // ranks.world for name, weight in weights.items()}
        self.own = {name: self._part(name, weight.data) for name, weight in weights.items()}
        # what does not divide, and norms, is summed as one flat tensor; it is next to nothing
        self.large = {name for name, w in weights.items() if w.ndim == 2 and w.numel() % ranks.world == 0}
        self._works: list[dist.Work] = []

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        if self.ranks.world == 1:
            return tensor
        return tensor.view(-1)[self.starts[name] : tensor.numel() * (self.ranks.rank + 1) // self.ranks.world]

    def reduce(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over ranks, of each the own part."""
        if self.ranks.world == 1:
            return gradients
        parts, works = {}, []
        for name in [name for name in gradients if name in self.large]:
            parts[name] = gradients[name].new_empty(self.own[name].shape)
            whole = gradients[name].contiguous().view(-1)
            works.append(dist.reduce_scatter_tensor(parts[name], whole, async_op=True))
        rest = [name for name in gradients if name not in self.large]
        flat = self.ranks.sum(torch.cat([gradients[name].flatten() for name in rest])) if rest else torch.empty(0)
        for name, whole in zip(rest, flat.split([gradients[name].numel() for name in rest]), strict=True):
            parts[name] = self._part(name, whole)
        for work in works:
            work.wait()
        return parts

    def publish(self, name: str) -> None:
        """Send the own part of a weight, which was updated, to all; `settle` waits until those of others are here."""
        if self.ranks.world > 1 and name in self.large:
            whole = self.weights[name].data.view(-1)
            self._works.append(dist.all_gather_into_tensor(whole, self.own[name], async_op=True))

    def settle(self) -> None:
        """Wait for what was published, and bring the small ones to all."""
        if self.ranks.world == 1:
            return
        rest = [weight.data for name, weight in self.weights.items() if name not in self.large]
        for name in self.weights.keys() - self.large:  # others' parts are 0: a sum with them is the part itself
            part = self.own[name].clone()
            self.weights[name].data.zero_()
            self.own[name].copy_(part)
        for dtype in dict.fromkeys(whole.dtype for whole in rest):
            of_dtype = [whole for whole in rest if whole.dtype == dtype]
            flat = self.ranks.sum(torch.cat([whole.flatten() for whole in of_dtype]))
            for whole, new in zip(of_dtype, flat.split([whole.numel() for whole in of_dtype]), strict=True):
                whole.copy_(new.view(whole.shape))
        for work in self._works:
            work.wait()
        self._works = []


def replicate(network: Transformer, dtype: torch.dtype, ranks: Ranks) -> Replicated:
    """Make the weights of a network on the meta device: matrices in `dtype`, the others as they are. They have no values
    yet."""
    for name in network.matrices():
        weight = network.get_parameter(name)
        weight.data = weight.data.to(dtype)
    network.to_empty(device=ranks.device)
    return Replicated(dict(network.named_parameters()), ranks)
