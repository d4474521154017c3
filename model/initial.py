"""Weights before the first step, made in blocks of their own seeds: who keeps a part of one makes that part alone."""

from __future__ import annotations

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from schemas.training import ModelConfig

BLOCK = 1 << 18  # values of one seed


def initial_values(
    name: str, shape: tuple[int, ...], config: ModelConfig, seed: int, start: int = 0, stop: int | None = None
) -> Tensor:
    """Flat elements `start` to `stop` of a parameter, on the host: norms are 1, matrices normal; those that write into
    the residual stream are smaller, so its variance does not grow with depth."""
    stop = math.prod(shape) if stop is None else stop
    if len(shape) == 1:
        return torch.ones(stop - start)
    std = config.init_std / (math.sqrt(2 * config.layers) if name.endswith((".out", ".w2")) else 1.0)
    values, size = torch.empty(stop - start), math.prod(shape)

    def fill(block: int) -> None:
        first = block * BLOCK
        here = torch.empty(min(BLOCK, size - first)).normal_(std=std, generator=_generator(seed, name, block))
        a, b = max(start, first), min(stop, first + len(here))
        values[a - start : b - start] = here[a - first : b - first]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(start // BLOCK, -(-stop // BLOCK))))
    return values


def _generator(seed: int, name: str, block: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {name} {block}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
