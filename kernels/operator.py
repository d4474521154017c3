"""Launches as operators of torch.

torch.compile takes an operator as one node, but the way to it through torch's dispatcher and the wrappers of
`torch.library.custom_op` is long. So only torch.compile goes that way: other callers, each inside an autograd function
of its own, launch at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch.autograd.graph import increment_version


def operator(name: str, mutates: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Register the function below as millrace::`name`, which overwrites what its parameters in `mutates` hold; as with
    torch's own decorator its shapes are given to `register_fake`. It records no derivative."""

    def register(launch: Callable) -> Callable:
        registered = torch.library.custom_op(f"millrace::{name}", launch, mutates_args=mutates)
        overwritten = [i for i, parameter in enumerate(inspect.signature(launch).parameters) if parameter in mutates]

        @functools.wraps(launch)
        def call(*arguments):
            if torch.compiler.is_compiling():
                return registered(*arguments)
            outputs = launch(*arguments)
            for i in overwritten:  # by which autograd sees that what it saved is gone
                increment_version(arguments[i])
            return outputs

        call.register_fake = registered.register_fake
        return call

    return register
