"""The expert layer on a GPU: sustained rates against dense cuBLAS products of the same size and against other ways to
run the layer.

    python -m benchmarks.experts [configurations] [--ops] [--out folder]

Writes experts.md, whose introduction (`METHOD`) tells how readings are taken, and experts.png. Needs torch, triton and
matplotlib only.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import globaltimer

import kernels
from kernels import blocksparse
from kernels.blocksparse.glu import swiglu_backward
from kernels.hopper import operators
from kernels.hopper.choices import DACT_GROUP, DACT_SLABS, SLABS, plan
from kernels.topology import build, row_tiles

RESULTS = Path(__file__).parent / "results"
WARM, TIMED = 0.5, 0.8  # seconds
FIRST = "first step"  # with what it compiles


class Config(NamedTuple):
    tokens: int
    width: int
    hidden: int
    n_experts: int
    top_k: int
    must: float = 0.0  # least % of dense, forward and backward, on Hopper
    most_gb: float = 0.0  # above weights and inputs, there
    portable: float = 0.0  # least % of the portable path: 1.3 times MegaBlocks' block-sparse products
    popular: bool = False  # one expert is among the choices of half of all tokens
    graph: bool = False  # launch-bound: also as a CUDA graph
    held: tuple[int, ...] = ()  # also, one at a time, beside a kernel that holds so many SMs, as a collective's does


CONFIGS = {
    "DBRX": Config(8192, 6144, 10752, 16, 4, 92, 7.65, 69.3),
    "MoE-B": Config(16384, 3072, 5376, 16, 4, 92, 3.60, 78.7, held=(0, 1, 8, 32)),
    "small": Config(32768, 1024, 1792, 16, 4, 85, 1.81, 65.1),
    "many": Config(16384, 2048, 1024, 64, 8),
    "popular": Config(16384, 3072, 5376, 16, 4, popular=True),
    "T-1024": Config(1024, 3072, 5376, 16, 4, graph=True),
    "T-256": Config(256, 3072, 5376, 16, 4, graph=True),
}
TITLE = (
    "The expert layer on a GPU: sustained rates against dense cuBLAS products and against other ways to run the layer."
)
METHOD = (
    "A card at its power limit is up to 18 % faster in its first half second, so every reading follows 0.5 s of the "
    "same work, and clock, power and temperature during it stand beside it. 100 % is the rate of six dense products "
    "with as many FLOPs (rows = T * K), timed before and after each configuration in the same process."
)
SHORT = (
    "T-256 and T-1024: a dense product reads the weights of one expert, the layer those of all 16, and with so few "
    "rows that is most of its time, so 100 % is out of reach there."
)
NOT_TIMED = {"sonicmoe": "SonicMoE", "scattermoe": "ScatterMoE", "megablocks": "MegaBlocks"}  # peers, by module
PUBLISHED = (  # % of dense, forward and backward, on another H200 of the same kind
    "Read on an H200 earlier, not in this run (DBRX / MoE-B / small): SonicMoE 0.1.2 87.8 / 88.4 / 82.5 %, "
    "ScatterMoE 0.3.0 56 / 60.6 / 50.2 %, MegaBlocks block-sparse 53.3 / 60.5 / 50.1 %."
)


class Reading(NamedTuple):
    """One timing: what, milliseconds (median), % of dense, TFLOP/s, sensors' means while it ran, peak GB above weights
    and inputs."""

    config: str
    implementation: str
    work: str
    ms: float
    percent: float | None
    tflops: float | None
    sensors: tuple[float, float, float] | None
    peak_gb: float | None = None


# ------------------------------------------------------------------------------------------------ measuring


def smi(fields: str, units: str = "") -> list[str]:
    """The command that asks for this process's GPU: by its uuid, as CUDA may count GPUs otherwise
    (CUDA_VISIBLE_DEVICES)."""
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    return ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={fields}", f"--format=csv,noheader{units}"]


class Sensors(threading.Thread):
    """SM clock (MHz), power (W) and temperature (C), ten times a second; nothing where there is no nvidia-smi."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float, float]] = []
        self.process = None
        if shutil.which("nvidia-smi"):
            query = smi("clocks.sm,power.draw,temperature.gpu", ",nounits")
            self.process = subprocess.Popen([*query, "-lms", "100"], stdout=subprocess.PIPE, text=True)
            self.start()

    def run(self) -> None:
        for line in self.process.stdout:
            try:
                self.samples.append((time.perf_counter(), *map(float, line.split(","))))
            except ValueError:
                return  # a sensor that this machine does not show

    def between(self, start: float, stop: float) -> tuple[float, float, float] | None:
        inside = [sample[1:] for sample in list(self.samples) if start <= sample[0] <= stop]
        return tuple(map(statistics.mean, zip(*inside, strict=True))) if inside else None

    def close(self) -> None:
        if self.process:
            self.process.terminate()


def sustained(
    work: Callable[[], object], sensors: Sensors, timed: float = TIMED, warm: float = WARM
) -> tuple[float, tuple | None]:
    """Median milliseconds of `work` after `warm` seconds of it, and what the sensors read meanwhile."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    work()
    torch.cuda.synchronize()
    one = max((time.perf_counter() - start) / 2, 1e-5)
    for _ in range(int(warm / one) + 1):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(max(int(timed / one), 5) + 1)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    stop = time.perf_counter()
    return statistics.median(a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)), sensors.between(
        start, stop
    )


def flops(config: Config) -> float:
    """Of the forward; the backward has twice as many."""
    return 6.0 * config.tokens * config.top_k * config.width * config.hidden


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(0, scale)


def dense(config: Config) -> dict[str, Callable[[], Tensor]]:
    """The six products of a dense layer that sees every row."""
    rows, width, hidden = config.tokens * config.top_k, config.width, config.hidden
    x, y, h, a = normal(rows, width), normal(rows, width), normal(rows, 2 * hidden), normal(rows, hidden)
    w13, w2 = normal(2 * hidden, width, scale=0.02), normal(width, hidden, scale=0.02)
    return dict(
        up=lambda: x @ w13.t(), down=lambda: a @ w2.t(), dact=lambda: y @ w2,
        dx=lambda: h @ w13, dw2=lambda: y.t() @ a, dw13=lambda: h.t() @ x,
    )  # fmt: skip


class Inputs(NamedTuple):
    """The arguments of `kernels.experts`, the gradient of its output apart."""

    x_TD: Tensor
    indices_TK: Tensor
    weights_TK: Tensor
    w1: Tensor
    v1: Tensor
    w2: Tensor
    n_experts: int


def make(config: Config) -> Inputs:
    """Random tokens and weights; some experts are liked more than others (the busiest has about twice the mean)."""
    torch.manual_seed(3)
    scores = torch.randn(config.tokens, config.n_experts, device="cuda") + 0.3 * torch.randn(
        config.n_experts, device="cuda"
    )
    if config.popular:
        scores[::2, 0] += 100
    values, indices = scores.topk(config.top_k, dim=-1)
    matrices = [normal(config.n_experts * config.hidden, config.width, scale=0.02).requires_grad_() for _ in range(3)]
    weights = values.softmax(-1).requires_grad_()
    return Inputs(normal(config.tokens, config.width).requires_grad_(), indices, weights, *matrices, config.n_experts)


def clear(inputs: Inputs) -> None:
    for x in inputs[:6]:
        x.grad = None


def peak_gb(step: Callable[[], object], inputs: Inputs) -> float:
    clear(inputs)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - base) / 1e9


# --------------------------------------------------------------------------------------- other ways to run the layer


def grouped_mm(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts) -> Tensor:
    """torch's grouped products with autograd, as torchtitan and Hugging Face use them."""
    top_k, expert_R = indices_TK.shape[1], indices_TK.flatten()
    order_R = expert_R.argsort(stable=True)
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    counts_E = torch.zeros(n_experts, device=x_TD.device, dtype=torch.int64).scatter_add_(
        0, expert_R, torch.ones_like(expert_R)
    )
    ends_E = counts_E.cumsum(0).int()
    w1, v1, w2 = (w.view(n_experts, -1, w.shape[1]) for w in (w1, v1, w2))
    x_RD = x_TD[order_R // top_k]
    gate_RF = torch._grouped_mm(x_RD, w1.transpose(1, 2), offs=ends_E)
    a_RF = F.silu(gate_RF) * torch._grouped_mm(x_RD, v1.transpose(1, 2), offs=ends_E)
    y_TKD = torch._grouped_mm(a_RF, w2, offs=ends_E)[place_R].view(-1, top_k, x_TD.shape[1])
    return (y_TKD * weights_TK[:, :, None].to(y_TKD.dtype)).sum(1)


def python_loop(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts) -> Tensor:
    """As Hugging Face's DbrxExperts: experts one after another, each weight a slice whose gradient is as large as the
    whole."""
    out_TD = torch.zeros_like(x_TD)
    hits_EKT = F.one_hot(indices_TK, n_experts).permute(2, 1, 0)
    w1, v1, w2 = (w.view(n_experts, -1, w.shape[1]) for w in (w1, v1, w2))
    for e in range(n_experts):
        choice, token = torch.where(hits_EKT[e])
        if token.numel():
            x = x_TD[token]
            y = (F.silu(x @ w1[e].t()) * (x @ v1[e].t())) @ w2[e]
            out_TD = out_TD.index_add(0, token, y * weights_TK[token, choice, None].to(y.dtype))
    return out_TD


@triton.jit
def swiglu_kernel(gate_ptr, linear_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + i, mask=i < n).to(tl.float32)
    linear = tl.load(linear_ptr + i, mask=i < n).to(tl.float32)
    tl.store(out_ptr + i, (gate / (1 + tl.exp(-gate)) * linear).to(out_ptr.dtype.element_ty), mask=i < n)


class CublasLoop(torch.autograd.Function):
    """A cuBLAS product for each expert, with everything around it as in our own path: what one host sync a step
    buys."""

    @staticmethod
    def forward(ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts):
        topology = build(indices_TK, n_experts)
        ends = topology.offsets_E1.tolist()
        hidden = w1.shape[0] // n_experts
        spans = [(slice(*ends[e : e + 2]), slice(e * hidden, e * hidden + hidden)) for e in range(n_experts)]
        x_RD = blocksparse.spread(x_TD, topology.place_R, indices_TK.shape[1])
        gate_RF, linear_RF, a_RF = (x_RD.new_empty(len(x_RD), hidden) for _ in range(3))
        for rows, of in spans:
            torch.mm(x_RD[rows], w1[of].t(), out=gate_RF[rows])
            torch.mm(x_RD[rows], v1[of].t(), out=linear_RF[rows])
        swiglu_kernel[(triton.cdiv(a_RF.numel(), 8192),)](
            gate_RF, linear_RF, a_RF, a_RF.numel(), BLOCK=8192, num_warps=8
        )
        y_RD = x_RD  # no longer needed
        for rows, of in spans:
            torch.mm(a_RF[rows], w2[of], out=y_RD[rows])
        ctx.save_for_backward(x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, topology.place_R)
        ctx.spans = spans
        return blocksparse.combine(y_RD, topology.place_R, indices_TK.shape[1], weights_TK)

    @staticmethod
    def backward(ctx, dout_TD):
        x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, place_R = ctx.saved_tensors
        top_k = weights_TK.shape[1]
        dw1, dv1, dw2 = (torch.empty_like(w) for w in (w1, v1, w2))  # a product over no rows writes zeros
        dy_RD = blocksparse.spread(dout_TD, place_R, top_k)
        a_RF = torch.empty_like(gate_RF)
        for rows, of in ctx.spans:
            torch.mm(dy_RD[rows], w2[of].t(), out=a_RF[rows])
        dweights_TK = swiglu_backward(a_RF, gate_RF, linear_RF, place_R, weights_TK)
        for rows, of in ctx.spans:
            torch.mm(a_RF[rows].t(), dy_RD[rows], out=dw2[of])
        dx_RD = dy_RD  # no longer needed
        for rows, of in ctx.spans:
            torch.mm(gate_RF[rows], w1[of], out=dx_RD[rows])
            dx_RD[rows].addmm_(linear_RF[rows], v1[of])
        dx_TD = blocksparse.combine(dx_RD, place_R, top_k, None)
        x_RD = blocksparse.spread(x_TD, place_R, top_k)
        for rows, of in ctx.spans:
            torch.mm(gate_RF[rows].t(), x_RD[rows], out=dw1[of])
            torch.mm(linear_RF[rows].t(), x_RD[rows], out=dv1[of])
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None


def ours(implementation: str) -> Callable[..., Tensor]:
    return partial(kernels.experts, implementation=implementation)


WAYS = {
    "hopper": ours("hopper"), "blocksparse": ours("blocksparse"), "cuBLAS loop, 1 sync": CublasLoop.apply,
    "grouped_mm": grouped_mm, "Python loop": python_loop,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ the readings


def measure(name: str, config: Config, sensors: Sensors, ops: bool) -> list[Reading]:
    """All readings of one configuration, dense products first and last."""
    products, inputs = dense(config), make(config)
    two, six = (lambda: (products["up"](), products["down"]())), (lambda: [run() for run in products.values()])
    both = {"forward": (two, 1), "forward + backward": (six, 3)}
    before = {work: sustained(run, sensors) for work, (run, _) in both.items()}
    readings = [one for way in WAYS for one in measure_way(name, config, way, inputs, sensors)]
    readings += measure_operations(name, config, inputs, products, sensors) if ops else []
    after = {work: sustained(run, sensors) for work, (run, _) in both.items()}
    ms = {work: (before[work][0] + after[work][0]) / 2 for work in both}
    for work, (_, share) in both.items():
        for when, (one, read) in (("before", before[work]), ("after", after[work])):
            readings.append(
                Reading(
                    name, f"dense, {when}", work, one, 100 * ms[work] / one, share * flops(config) / one / 1e9, read
                )
            )
    readings = [r if r.percent or r.work not in ms else r._replace(percent=100 * ms[r.work] / r.ms) for r in readings]
    for reading in readings:
        print(line(reading), flush=True)
    return readings


def measure_way(name: str, config: Config, way: str, inputs: Inputs, sensors: Sensors) -> list[Reading]:
    function, dout = WAYS[way], normal(config.tokens, config.width)

    def forward():
        with torch.no_grad():
            return function(*inputs)

    def step():
        clear(inputs)
        function(*inputs).backward(dout)

    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    readings = [Reading(name, way, FIRST, 1e3 * (time.perf_counter() - start), None, None, None)]
    peak = peak_gb(step, inputs)
    for work, run, share, gb in (("forward", forward, 1, None), ("forward + backward", step, 3, peak)):
        ms, read = sustained(run, sensors)
        readings.append(Reading(name, way, work, ms, None, share * flops(config) / ms / 1e9, read, gb))
        if way == "hopper":
            readings += [
                Reading(name, f"{way}, {n} SMs held", work, beside(n, run), None, None, None) for n in config.held
            ]
    clear(inputs)
    if config.graph and way in ("hopper", "blocksparse"):
        ms, read = sustained(captured(function, inputs, dout).replay, sensors)
        readings.append(
            Reading(name, f"{way}, CUDA graph", "forward + backward", ms, None, 3 * flops(config) / ms / 1e9, read)
        )
    return readings


@triton.jit
def hold_kernel(out_ptr, ns):
    start = globaltimer()
    now = start
    while now - start < ns:
        now = globaltimer()
    tl.store(out_ptr + tl.program_id(0), now)


def beside(held: int, work: Callable[[], object], repeats: int = 7, ns: int = 60_000_000) -> float:
    """Median milliseconds of `work`, begun while `held` SMs are held, each by a kernel of its own stream, for longer
    than it takes."""
    out, side, times = torch.empty(256, device="cuda", dtype=torch.int64), torch.cuda.Stream(priority=-1), []
    for _ in range(repeats):
        torch.cuda.synchronize()
        if held:
            with torch.cuda.stream(side):
                hold_kernel[(held,)](out, ns, num_warps=1)
        time.sleep(0.002)  # so that they are held
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    torch.cuda.synchronize()
    return statistics.median(times)


def captured(function: Callable, inputs: Inputs, dout: Tensor) -> torch.cuda.CUDAGraph:
    leaves = [inputs[i] for i in (0, 2, 3, 4, 5)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(function(*inputs), leaves, dout)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(function(*inputs), leaves, dout)
    return graph


def measure_operations(name: str, config: Config, inputs: Inputs, products: dict, sensors: Sensors) -> list[Reading]:
    """Each kernel of the Hopper path against its dense product, timed right before and after it."""
    x_TD, indices_TK, weights_TK, w1, v1, w2 = (t.detach() for t in inputs[:6])
    topology = build(indices_TK, config.n_experts)
    tiles = row_tiles(topology, 64 * SLABS, plan(config.width).group)
    dact_tiles = row_tiles(topology, 64 * DACT_SLABS, DACT_GROUP)
    x_RD = blocksparse.spread(x_TD, topology.place_R, config.top_k)
    gate, linear, a = operators.swiglu(x_RD, w1, v1, *tiles, config.n_experts)
    dgate, dlinear = gate.clone(), linear.clone()  # overwritten by each dact: later values are of no use, and as fast
    rest = topology[1:]
    routing = (weights_TK, topology.place_R, *dact_tiles)
    works = dict(
        up=(2, lambda: operators.swiglu(x_RD, w1, v1, *tiles, config.n_experts)),
        down=(1, lambda: operators.row_products([a], [w2], *tiles)),
        dact=(1, lambda: operators.swiglu_backward(x_RD, w2, dgate, dlinear, *routing)),
        dx=(2, lambda: operators.row_products([gate, linear], [w1, v1], *tiles)),
        dw2=(1, lambda: operators.outer_products([a], x_RD, *rest)),
        dw13=(2, lambda: operators.outer_products([gate, linear], x_RD, *rest)),
    )
    readings = []
    for product, (share, run) in works.items():
        times = [sustained(f, sensors, 0.4, 0.3) for f in (products[product], run, products[product])]
        reference = (times[0][0] + times[2][0]) / 2
        tflops = share * flops(config) / 3 / times[1][0] / 1e9
        readings.append(
            Reading(name, "hopper", product, times[1][0], 100 * reference / times[1][0], tflops, times[1][1])
        )
    place_R, top_k = topology.place_R, config.top_k
    ms, read = sustained(
        lambda: blocksparse.combine(blocksparse.spread(x_TD, place_R, top_k), place_R, top_k, None), sensors, 0.2, 0.2
    )
    return [*readings, Reading(name, "hopper", "spread, combine", ms, None, None, read)]


def ceilings(sensors: Sensors) -> list[Reading]:
    """What this card can do at all: a copy (GB/s read and written in the note) and one large product."""
    a, b, c = normal(8192, 8192), normal(8192, 8192), torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    d = torch.empty_like(c)
    readings = []
    for work, run, tflop in (
        ("copy of 1 GiB", lambda: d.copy_(c), None),
        ("8192 x 8192 x 8192", lambda: a @ b, 2 * 8192**3 / 1e12),
    ):
        ms, read = sustained(run, sensors)
        name = f"{2 * len(c) / ms / 1e6:,.0f} GB/s" if tflop is None else "cuBLAS"
        readings.append(Reading("ceiling", name, work, ms, None, tflop and tflop / ms * 1e3, read))
        print(line(readings[-1]), flush=True)
    return readings


# ------------------------------------------------------------------------------------------------ the report

HEAD = (
    "configuration",
    "implementation",
    "work",
    "ms",
    "% of dense",
    "TFLOP/s",
    "MHz",
    "W",
    "C",
    "peak GB",
    "must",
    "met",
)


def cells(r: Reading) -> list[str]:
    number = lambda x, digits: "" if x is None else f"{x:,.{digits}f}"  # noqa: E731
    sensors = [number(x, 0) for x in r.sensors] if r.sensors else [""] * 3
    numbers = [number(r.ms, 3), number(r.percent, 1), number(r.tflops, 0), *sensors, number(r.peak_gb, 2)]
    return [r.config, r.implementation, r.work, *numbers, *verdict(r)]


def verdict(r: Reading) -> tuple[str, str]:
    """What a reading must be, where it must be anything, and whether it is."""
    config = CONFIGS.get(r.config)
    if (
        not config
        or not config.must
        or r.work != "forward + backward"
        or r.implementation not in ("hopper", "blocksparse")
    ):
        return "", ""
    if r.implementation == "blocksparse":
        return f">= {config.portable:g} %", "yes" if r.percent >= config.portable else "NO"
    met = r.percent >= config.must and round(r.peak_gb, 2) <= config.most_gb
    return f">= {config.must:g} %, <= {config.most_gb:.2f} GB", "yes" if met else "NO"


def line(r: Reading) -> str:
    return "  ".join(
        f"{cell:>{width}}" for cell, width in zip(cells(r), (8, 24, 19, 9, 6, 6, 6, 4, 3, 6, 20, 4), strict=True)
    )


def machine() -> str:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    told = f"{properties.name}, {properties.multi_processor_count} SMs, {properties.total_memory / 2**30:.0f} GiB"
    if shutil.which("nvidia-smi"):
        query = smi("driver_version,power.limit,clocks.max.sm")
        told += (
            ", driver, power limit, highest clock: "
            + subprocess.run(query, capture_output=True, text=True).stdout.strip()
        )
    return f"{told}; Python {platform.python_version()}, torch {torch.__version__}, Triton {triton.__version__}"


def peers() -> str:
    missing = [name for module, name in NOT_TIMED.items() if importlib.util.find_spec(module) is None]
    installed = [name for name in NOT_TIMED.values() if name not in missing]
    told = f"Not installed here: {', '.join(missing) or 'none'}. Installed but not timed: "
    return f"{told}{', '.join(installed) or 'none'}. {PUBLISHED}"


def cache_is_empty() -> bool:
    """Whether Triton has no kernel on disk from an earlier process."""
    cache = Path(triton.knobs.cache.dir)
    return not cache.exists() or not any(cache.iterdir())


def write(readings: list[Reading], out: Path, configs: list[str], fresh: bool) -> None:
    run = [(name, CONFIGS[name]) for name in configs]
    shapes = "; ".join(
        f"{name}: T {c.tokens}, D {c.width}, F {c.hidden}, E {c.n_experts}, K {c.top_k}" for name, c in run
    )
    routing = (
        "bf16, random routing, the busiest expert about twice the mean; in `popular` half of all tokens choose one."
    )
    command = shlex.join(["python", "-m", "benchmarks.experts", *sys.argv[1:]])
    cache = (
        f"A first step includes compiling; Triton's cache was {'empty' if fresh else 'not empty'} when this run began."
    )
    lines = ["# Expert layers", "", f"`{command}`", "", machine(), "", f"{METHOD} {cache}", ""]
    lines += [f"{shapes}. {routing}{' ' + SHORT if any(c.graph for _, c in run) else ''}", "", peers(), ""]
    lines += ["| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *map(cells, readings))]
    out.mkdir(parents=True, exist_ok=True)
    (out / "experts.md").write_text("\n".join(lines) + "\n")
    plot(readings, out / "experts.png", configs)


def plot(readings: list[Reading], file: Path, configs: list[str]) -> None:
    """Bars of % of dense, forward and backward."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    step = {(r.config, r.implementation): r.percent for r in readings if r.work == "forward + backward"}
    figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
    for i, way in enumerate(WAYS):
        places = [j + (i - (len(WAYS) - 1) / 2) * 0.16 for j in range(len(configs))]
        bars = axes.bar(places, [step.get((config, way), 0) for config in configs], 0.15, label=way)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_xticks(range(len(configs)), configs)
    axes.set_ylabel("forward + backward, % of dense cuBLAS")
    axes.set_title(torch.cuda.get_device_name())
    axes.legend(ncols=len(WAYS), loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("configs", nargs="*", help=f"some of {', '.join(CONFIGS)}; default: all")
    parser.add_argument("--ops", action="store_true", help="also each product of the Hopper path against its dense one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for experts.md and experts.png")
    options = parser.parse_args()
    if unknown := set(options.configs) - set(CONFIGS):
        parser.error(f"expected some of {', '.join(CONFIGS)}; found {', '.join(sorted(unknown))}")
    configs = options.configs or list(CONFIGS)
    sensors, start, fresh = Sensors(), time.perf_counter(), cache_is_empty()
    readings = ceilings(sensors)
    for name in configs:
        readings += measure(name, CONFIGS[name], sensors, options.ops)
        # a run that is cut short has shown what it did
        write(readings, options.out, configs[: configs.index(name) + 1], fresh)
        print(f"{name} done after {time.perf_counter() - start:.0f} s", flush=True)
        torch.cuda.empty_cache()
    sensors.close()


if __name__ == "__main__":
    main()
