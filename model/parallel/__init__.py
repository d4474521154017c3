"""Several processes train one model, one on each GPU.

ranks           which process this is, and what they tell one another
replicate       all weights on all ranks, the update split
shard           weights split over ranks, gathered block by block
experts         experts split over ranks, tokens gathered
launch          as many as a machine has GPUs, started and followed
watch           a rank that dies or hangs ends the run, and is named
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from model.parallel.ranks import Ranks
from schemas.training import ModelConfig, TrainConfig, require

if TYPE_CHECKING:
    from model.parallel.replicate import Replicated
    from model.parallel.shard import Sharded
    from model.transformer import Transformer


def kind_of(model: ModelConfig, config: TrainConfig, vocab_size: int, longest: int, ranks: Ranks) -> str:
    """`config.parallel`; where it names none, what fits in a GPU's memory with rows of `longest` tokens, and replicate
    on CPUs. Raises MemoryError where nothing does."""
    if config.parallel != "auto":
        return config.parallel
    if ranks.world == 1 or ranks.device.type == "cpu":
        return "replicate"
    from model.fitting import choose_parallel

    capacity = torch.cuda.get_device_properties(ranks.device).total_memory
    capacity = capacity if config.precision == "bf16" else capacity / 2  # sizes are those of bf16
    tokens, host = config.batch_tokens // ranks.world, int(os.environ["LOCAL_WORLD_SIZE"])
    kind = choose_parallel(model, vocab_size, ranks.world, tokens, longest, capacity, host)
    return ranks.every(kind)[0]  # drivers differ in how much memory they report


def place(network: Transformer, config: TrainConfig, ranks: Ranks) -> Replicated | Sharded:
    """Make this rank's part of the weights of a network on the meta device, by `config.parallel`. Raises ValueError for
    experts of a dense model."""
    dtype, kind = torch.bfloat16 if config.precision == "bf16" else torch.get_default_dtype(), config.parallel
    if ranks.world == 1 or kind in ("auto", "replicate"):
        from model.parallel.replicate import replicate

        return replicate(network, dtype, ranks)
    if kind == "shard":
        from model.parallel.shard import shard

        return shard(network, dtype, ranks)
    require(network.config.experts > 1, "parallel: expected replicate or shard for a dense model, found experts")
    from model.parallel.experts import split_experts

    return split_experts(network, dtype, ranks)
