"""Every rank has all weights; masters, moments and the update are split between ranks (ZeRO-1, Rajbhandari et al.
1910.02054).

Behind the backward the gradients are summed, each rank receiving the part that it updates; behind its update a part
goes to all. A rank sends 2 bytes a weight and receives as many, twice (of several micro-batches 4 and 2), however many
ranks there are, and keeps 4 + 12 / N bytes of it. Alone, nothing is sent and everything is updated here.
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
        # elements of a matrix that each rank updates; the last one also what is left over, and norms: next to nothing
        self.sizes = {name: w.numel() // ranks.world if w.ndim == 2 else 0 for name, w in weights.items()}
        self.starts = {name: size * ranks.rank for name, size in self.sizes.items()}
        self.own = {name: self._part(name, weight.data) for name, weight in weights.items()}
        self._works: list[dist.Work] = []

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        if self.ranks.world == 1:
            return tensor
        is_last = self.ranks.rank == self.ranks.world - 1
        return tensor.view(-1)[self.starts[name] : None if is_last else self.starts[name] + self.sizes[name]]

    def _rest(self, name: str, tensor: Tensor) -> Tensor:
        """What the last rank updates besides its share."""
        return tensor.view(-1)[self.sizes[name] * self.ranks.world :]

    def reduce(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over ranks, of each the own part."""
        if self.ranks.world == 1:
            return gradients
        whole = {name: gradient.contiguous() for name, gradient in gradients.items()}
        parts = {name: gradient.new_empty(self.own[name].numel()) for name, gradient in whole.items()}
        shared = [name for name in whole if self.sizes[name]]
        works = [
            dist.reduce_scatter_tensor(
                parts[name][: self.sizes[name]],
                whole[name].view(-1)[: self.sizes[name] * self.ranks.world],
                async_op=True,
            )
            for name in shared
        ]
        rests = [self._rest(name, gradient) for name, gradient in whole.items()]
        sums = self.ranks.sum(torch.cat(rests)).split([len(rest) for rest in rests])
        for name, rest in zip(whole, sums, strict=True):
            if self.ranks.rank == self.ranks.world - 1:
                parts[name][self.sizes[name] :] = rest
        for work in works:
            work.wait()
        return parts

    def publish(self, name: str) -> None:
        """Send the own part of a weight, which was updated, to all; `settle` waits until those of others are here."""
        if self.ranks.world > 1 and self.sizes[name]:
            shared = self.weights[name].data.view(-1)[: self.sizes[name] * self.ranks.world]
            self._works.append(dist.all_gather_into_tensor(shared, self.own[name][: self.sizes[name]], async_op=True))

    def settle(self) -> None:
        """Wait for what was published, and bring what the last rank updates besides to all."""
        if self.ranks.world == 1:
            return
        rests = [self._rest(name, weight.data) for name, weight in self.weights.items()]
        for dtype in dict.fromkeys(rest.dtype for rest in rests):
            of_dtype = [rest for rest in rests if rest.dtype == dtype]
            flat = torch.cat(of_dtype)
            dist.broadcast(flat, self.ranks.world - 1)
            for rest, new in zip(of_dtype, flat.split([len(rest) for rest in of_dtype]), strict=True):
                rest.copy_(new)
        for work in self._works:
            work.wait()
        self._works = []


def replicate(network: Transformer, dtype: torch.dtype, ranks: Ranks) -> Replicated:
    """Make the weights of a network on the meta device: matrices in `dtype`, the others as they are. They have no
    values yet."""
    for name in network.matrices():
        weight = network.get_parameter(name)
        weight.data = weight.data.to(dtype)
    network.to_empty(device=ranks.device)
    return Replicated(dict(network.named_parameters()), ranks)
