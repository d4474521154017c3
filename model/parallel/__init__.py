"""Several processes train one model, one on each GPU.

    ranks           which process this is, and what they tell one another
    replicate       all weights on all ranks, the update split
    shard           weights split over ranks, gathered block by block
    experts         experts split over ranks, tokens gathered
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model.parallel.ranks import Ranks
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from model.parallel.replicate import Replicated
    from model.parallel.shard import Sharded
    from model.transformer import Transformer


def place(network: Transformer, config: TrainConfig, ranks: Ranks) -> Replicated | Sharded:
    """Make this rank's part of the weights of a network on the meta device, by `config.parallel`."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.get_default_dtype()
    kind = config.parallel if config.parallel != "auto" else "replicate"
    if kind == "replicate" or ranks.world == 1:
        from model.parallel.replicate import replicate

        return replicate(network, dtype, ranks)
    if kind == "shard":
        from model.parallel.shard import shard

        return shard(network, dtype, ranks)
    from model.parallel.experts import split_experts

    return split_experts(network, dtype, ranks)
