"""What lies between the large operators, elementwise work and small products, compiled where it pays."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

SHAPES = 64  # that a piece may be compiled for, beyond which torch would run it uncompiled: stages, micro-batches


def piece(function: Callable) -> Callable:
    """Compile `function` for tensors on a GPU; its first argument is a tensor, and says where it runs.

    On a CPU it runs as it is: compiling takes a C++ compiler and longer than a small run.
    """

    @functools.cache  # at its first use: torch's compiler takes seconds to import
    def compiled() -> Callable:
        torch._dynamo.config.recompile_limit = SHAPES
        return torch.compile(function, dynamic=False)

    @functools.wraps(function)
    def call(x: Tensor, *arguments):
        return (compiled() if x.is_cuda else function)(x, *arguments)

    return call
