"""Triton without a GPU: kernels run by its interpreter, in a process of their own, or compiled for a GPU that is not there."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

ROOT = Path(__file__).parents[1]


def outcomes(file: str) -> dict[str, str]:
    """Run a test file's own cases under the interpreter: by name, "" or the traceback. Kernels are made for it or for a GPU at import."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, file], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(cases: dict[str, Callable[[], None]]) -> None:
    """The other end: what the file does when it is run."""
    print(json.dumps({name: failure(case) for name, case in cases.items()}))


def failure(case: Callable[[], None]) -> str:
    try:
        case()
    except Exception:
        return traceback.format_exc()
    return ""


class Compiled(dict):
    """Of one kernel: name, registers, stack (bytes of a thread that spilled), shared (bytes a block), ptx."""


class Driver:
    """All that compiling asks of a GPU."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # kernels are cached by device: a real GPU 0 keeps its own

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling(arch: int) -> Iterator[list[Compiled]]:
    """Inside, launches only compile for sm_`arch`, exactly as with these arguments (on the meta device, so of any size)."""
    kernels, seen, launch = [], set(), JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if id(kernel) not in seen:
            seen.add(id(kernel))
            kernels.append(resources(self.__name__, kernel))
        # and returns nothing, which a caller might keep and launch

    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(Driver(arch))
    JITFunction.run = compile_only
    try:
        yield kernels
    finally:
        JITFunction.run = launch
        triton.runtime.driver.set_active(before)


def resources(name: str, kernel) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage).groups())
    return Compiled(name=name, registers=registers, stack=stack + local, shared=kernel.metadata.shared, ptx=kernel.asm["ptx"])
