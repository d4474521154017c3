"""How fast a machine trains, against what it could do: FLOP/s of the model over those of dense products."""

from __future__ import annotations

import resource
import time

import torch

# dense bf16 FLOP/s of a chip by its maker's data sheet; DBRX's MFU counts the same way
PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12}


def peak_rate() -> float | None:
    """FLOP/s of the GPU here in bf16 by its data sheet; None for other machines."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((rate for chip, rate in PEAKS.items() if chip in name), None)


def dense_rate() -> float:
    """FLOP/s of a large bf16 product here: what a step is compared with. On a GPU under load, as a step has it: the
    clock falls within a second or two."""
    gpu = torch.cuda.is_available()
    side, times, load = (8192, 20, 1.5) if gpu else (512, 4, 0.1)  # load: seconds
    a, b = (torch.randn(side, side, device="cuda" if gpu else "cpu", dtype=torch.bfloat16) for _ in range(2))
    product, spent, rate = torch.empty_like(a), 0.0, 0.0
    while spent < load:
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=product)
        if gpu:
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        spent, rate = spent + took, times * 2 * side**3 / took
    return rate


def peak_memory() -> int:
    """Most bytes held so far: on the GPU where there is one, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
