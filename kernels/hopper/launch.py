"""Launches: descriptors for TMA, one block on each SM, and compiling before the first launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.hopper.counter import WORDS

# a thread, by warpgroups beside the loader's: 65,536 / 128 / (3 or 4), a multiple of 8
ENTRY_REGISTERS = {2: 168, 3: 128}


@cache
def _layout(rows: int, columns: int, bits: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, columns], gl.float32 if bits == 32 else gl.bfloat16)


def box(x: Tensor, rows: int = 64, columns: int = 64) -> TensorDescriptor:
    """A TMA descriptor of x that moves boxes of rows x columns; 2 us on the host."""
    return TensorDescriptor(
        x, list(x.shape), list(x.stride()), [rows, columns], _layout(rows, columns, x.element_size() * 8)
    )


def box_of_weights(w: Tensor, rows: int, columns: int = 64) -> TensorDescriptor:
    """The same of weights [E * F, D], which a caller may have cut from something larger: TMA wants 16-byte aligned
    rows, else a copy."""
    return box(w if w.data_ptr() % 16 == 0 else w.clone(), rows, columns)


@cache
def sm_count(device: torch.device) -> int:
    """SMs of a GPU, and so blocks of a launch."""
    return torch.cuda.get_device_properties(device).multi_processor_count


_ahead = threading.local()  # `compiling` is true in threads of `compile_side_by_side`


def compiling() -> bool:
    """Whether this thread compiles what it is to launch, and launches nothing."""
    return getattr(_ahead, "compiling", False)


def launch(kernel: triton.JITFunction, grid: int, *arguments: object, **options: int) -> CompiledKernel | None:
    """Launch a kernel, or in a thread that compiles only compile it; what was launched."""
    if not compiling():
        return kernel[(grid,)](*arguments, **options)
    kernel.warmup(*arguments, grid=(grid,), **options)
    return None


_launched: dict[tuple, CompiledKernel] = {}


def launch_persistent(
    kernel: triton.JITFunction, device: torch.device, warpgroups: int, *arguments: object, **sizes: int
) -> None:
    """Launch a Gluon kernel with one block on each SM, of so many warpgroups beside the loader's. `sizes`: in the
    kernel's own order.

    What was launched before for arguments of the same kind is launched again without Triton's look-up, which compares
    every constant of the kernel's functions with what it was when they were compiled.
    """
    key = (kernel, device, *map(_kind, arguments), *sizes.values())
    if (launched := _launched.get(key)) and not compiling():
        launched[(sm_count(device), 1, 1)](*arguments, *sizes.values())
        return
    registers = ENTRY_REGISTERS[warpgroups]
    if launched := launch(kernel, sm_count(device), *arguments, **sizes, num_warps=4, maxnreg=registers):
        _launched[key] = launched


def _kind(argument: object) -> object:
    """All that code can depend on: of tensors dtype and alignment, of descriptors dtype and box, of numbers the
    value."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16
    if isinstance(argument, TensorDescriptor):
        return argument.base.dtype, *argument.block_shape
    return argument


def new_counter(device: torch.device) -> Tensor:
    """What a launch's blocks draw their tiles from; see `counter.Counter`."""
    return torch.zeros(WORDS, device=device, dtype=torch.int32)


def launch_rows(
    kernel: triton.JITFunction,
    arguments: tuple,
    tiles_M4: Tensor,
    used_1: Tensor,
    n: int,
    k: int,
    lag: int,
    warpgroups: int,
    **sizes: int,
) -> None:
    """Launch a kernel of `rows` or `dact` over all tiles of a product [R, k] x [k, n]."""
    device = tiles_M4.device
    counter = new_counter(device)
    launch_persistent(kernel, device, warpgroups, *arguments, tiles_M4, used_1, counter, n, k, lag, **sizes)


def compile_side_by_side(device: torch.device, works: list[Callable[[], object]]) -> None:
    """Compile what each of `works` would launch, in a thread each."""

    def begin() -> None:
        _ahead.compiling = True
        if device.type == "cuda":
            torch.cuda.set_device(device)

    with ThreadPoolExecutor(len(works), initializer=begin) as threads:
        tried = [threads.submit(work) for work in works]
    # Python 3.11 counts the depth of syntax trees for all threads together, and now and then refuses one (SystemError:
    # "AST constructor recursion depth mismatch"): what failed is compiled again, alone, and raises what is really wrong
    # with it.
    with ThreadPoolExecutor(1, initializer=begin) as alone:
        for again in [alone.submit(work) for work, done in zip(works, tried, strict=True) if done.exception()]:
            again.result()
