"""Both GPU paths of the expert layer on a GPU: `pytest -m gpu`, or, where there is no pytest, `python3 tests/test_gpu.py [words of names]`.

The words pick cases; compute-sanitizer is run with `one-token skewed-small`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from triton.language.extra.cuda import globaltimer

import kernels
from kernels import layer

NAMES = ("output", "dx", "dweights", "dw1", "dv1", "dw2")
LIMIT = 0.004  # of the error's norm to the result's: bf16 keeps 8 bits, two roundings of it are 0.29 %


class Shape(NamedTuple):
    tokens: int
    width: int
    hidden: int
    n_experts: int
    top_k: int
    routing: str = "even"  # skewed: three experts without rows and one that most tokens choose; one: all rows to one expert


SHAPES = {
    "even": Shape(1000, 1024, 768, 16, 4),  # dact_kernel, weight gradients of three slabs
    "skewed": Shape(1000, 1024, 768, 16, 4, "skewed"),
    "wide": Shape(700, 2048, 448, 8, 2, "skewed"),  # dact_overlapped_kernel, weight gradients of two slabs
    "wide-even": Shape(900, 4096, 384, 8, 2),
    "one-expert": Shape(600, 320, 192, 5, 1, "one"),
    "odd": Shape(150, 320, 448, 8, 2),
    "one-token": Shape(1, 1024, 768, 16, 4),
    "skewed-small": Shape(37, 64, 64, 9, 3, "skewed"),
}
PORTABLE = {"multiples-of-16": Shape(211, 336, 208, 7, 3), "fp32": Shape(211, 336, 208, 7, 3, "skewed")}


class Inputs(NamedTuple):
    """The arguments of `kernels.experts`, and the gradient of its output."""

    x_TD: Tensor
    indices_TK: Tensor
    weights_TK: Tensor
    w1: Tensor
    v1: Tensor
    w2: Tensor
    n_experts: int
    dout_TD: Tensor


def make(shape: Shape, dtype=torch.bfloat16) -> Inputs:
    g = torch.Generator("cuda").manual_seed(7)

    def normal(*size):
        return torch.randn(*size, device="cuda", generator=g)

    scores = normal(shape.tokens, shape.n_experts) + 0.3 * normal(shape.n_experts)
    if shape.routing == "skewed":
        scores[:, 0] += 6
        scores[:, -3:] -= 100
    if shape.routing == "one":
        scores[:, 2] += 100
    values, indices = scores.topk(shape.top_k, dim=-1)
    rows = shape.n_experts * shape.hidden
    matrices = [(0.03 * normal(rows, shape.width)).to(dtype) for _ in range(3)]
    x, dout = (normal(shape.tokens, shape.width).to(dtype) for _ in range(2))
    return Inputs(x, indices, values.softmax(-1), *matrices, shape.n_experts, dout)


def step(function: Callable, inputs: Inputs, main: list[Tensor | None] | None = None, frozen: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
    """The output and the gradients of x, the routing weights, w1, v1 and w2; what was added to `main` in place of those of weights that
    have one, None for arguments in `frozen`."""
    *arguments, n_experts, dout = inputs
    leaves = [x.detach().clone().requires_grad_(i not in frozen) if x.is_floating_point() else x for i, x in enumerate(arguments)]
    mains = main or [None] * 3
    for w, added in zip(leaves[3:], mains, strict=True):
        if added is not None:
            w.main_grad = added
    out = function(*leaves, n_experts)
    out.backward(dout.to(out.dtype))
    assert all(w.grad is None for w, added in zip(leaves[3:], mains, strict=True) if added is not None)
    grads = [w.grad if added is None else added for w, added in zip(leaves[3:], mains, strict=True)]
    return out.detach(), leaves[0].grad, leaves[2].grad, *grads


def loop(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts) -> Tensor:
    """The layer as autograd sees it, expert by expert."""
    out = torch.zeros_like(x_TD)
    for e, (gate, linear, down) in enumerate(zip(*(w.view(n_experts, -1, w.shape[1]) for w in (w1, v1, w2)), strict=True)):
        t, j = torch.where(indices_TK == e)
        y = (F.silu(x_TD[t] @ gate.t()) * (x_TD[t] @ linear.t())) @ down
        out = out.index_add(0, t, y * weights_TK[t, j, None])
    return out


def grouped_mm(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts) -> Tensor:
    """The layer on torch's own grouped products."""
    order = indices_TK.flatten().argsort(stable=True)
    ends = torch.bincount(indices_TK.flatten(), minlength=n_experts).cumsum(0).int()
    w1, v1, w2 = (w.view(n_experts, -1, w.shape[1]) for w in (w1, v1, w2))
    x_RD = x_TD[order // indices_TK.shape[1]]
    a_RF = F.silu(torch._grouped_mm(x_RD, w1.transpose(1, 2), offs=ends)) * torch._grouped_mm(x_RD, v1.transpose(1, 2), offs=ends)
    y_RD = torch._grouped_mm(a_RF, w2, offs=ends) * weights_TK.flatten()[order, None].to(x_TD.dtype)
    return torch.zeros_like(x_TD).index_add(0, order // indices_TK.shape[1], y_RD)


def exact(inputs: Inputs) -> tuple[Tensor, ...]:
    return step(loop, Inputs(*(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)))


def errors(found: tuple, wanted: tuple) -> dict[str, float]:
    """Norm of the difference to norm of what is wanted, by name."""
    return {n: float((a.float() - b).norm() / b.norm().clamp(min=1e-12)) for n, a, b in zip(NAMES, found, wanted, strict=True)}


def same(found: tuple, wanted: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def path(implementation: str) -> Callable:
    return lambda *arguments: kernels.experts(*arguments, implementation=implementation)


def told(apart: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * error:.3f} %" for name, error in apart.items())


# ------------------------------------------------------------------------------------------------ cases


def against_fp32(implementation: str, shape: Shape, dtype: torch.dtype) -> str:
    inputs = make(shape, dtype)
    first, again = (step(path(implementation), inputs) for _ in range(2))
    assert same(first, again), "two runs differ"
    assert first[0].dtype == dtype and all(torch.isfinite(x).all() for x in first)
    apart = errors(first, exact(inputs))
    assert max(apart.values()) <= LIMIT, told(apart)
    return told(apart)


def experts_without_rows(implementation: str) -> str:
    *_, dw1, dv1, dw2 = step(path(implementation), make(SHAPES["skewed"]))
    for gradient in (dw1, dv1, dw2):
        size = gradient.view(16, -1).abs().sum(1)
        assert size[-3:].max() == 0 and size[:-3].min() > 0
    return ""


def no_tokens(implementation: str) -> str:
    out, *gradients = step(path(implementation), make(Shape(0, 256, 128, 4, 2)))
    assert out.shape == (0, 256) and all(g.abs().sum() == 0 for g in gradients)
    return ""


def added_to_fp32(shape: Shape) -> str:
    inputs = make(shape)
    main = [torch.full(w.shape, 0.5, device="cuda") for w in (inputs.w1, inputs.v1, inputs.w2)]
    *others, dw1, dv1, dw2 = step(path("hopper"), inputs, main)
    apart = errors((*others, *(w - 0.5 for w in (dw1, dv1, dw2))), exact(inputs))
    assert max(apart.values()) <= LIMIT, told(apart)
    return told(apart)


def added_to_one(which: int) -> str:
    """One weight of the three with a main gradient, fp32 masters under bf16 tokens."""
    inputs = make(SHAPES["odd"])
    wide = inputs._replace(w1=inputs.w1.float(), v1=inputs.v1.float(), w2=inputs.w2.float())
    main = [torch.full(w.shape, 0.5, device="cuda") if i == which else None for i, w in enumerate((inputs.w1, inputs.v1, inputs.w2))]
    found = [*step(path("hopper"), wide, main)]
    found[3 + which] = found[3 + which] - 0.5
    apart = errors(found, exact(inputs))
    assert max(apart.values()) <= LIMIT, told(apart)
    return told(apart)


def int32_indices(implementation: str) -> str:
    inputs = make(SHAPES["odd"])
    assert same(step(path(implementation), inputs._replace(indices_TK=inputs.indices_TK.int())), step(path(implementation), inputs))
    return ""


def other_layouts_of_weights(implementation: str) -> str:
    """Transposed, and at an odd offset."""
    inputs = make(SHAPES["odd"])
    wanted = step(path(implementation), inputs)
    odd = torch.empty(inputs.v1.numel() + 1, device="cuda", dtype=inputs.v1.dtype)[1:].view_as(inputs.v1).copy_(inputs.v1)
    leaves = [x.detach().requires_grad_() for x in (inputs.x_TD, inputs.weights_TK, inputs.w1.t().contiguous().t(), odd, inputs.w2.t().contiguous().t())]
    out = path(implementation)(leaves[0], inputs.indices_TK, *leaves[1:], inputs.n_experts)
    apart = errors((out.detach(), *torch.autograd.grad(out, leaves, inputs.dout_TD)), wanted)
    assert max(apart.values()) <= LIMIT, told(apart)
    return told(apart)


def frozen_inputs(implementation: str) -> str:
    """What is left is what it was. No products for what is not: tests/test_hopper.py and test_blocksparse.py count them."""
    inputs = make(SHAPES["odd"])
    wanted = step(path(implementation), inputs)
    for frozen in ((3, 4, 5), (0,), (0, 2, 3), (5,)):
        found = step(path(implementation), inputs, frozen=frozen)
        places = {0: 1, 2: 2, 3: 3, 4: 4, 5: 5}  # of an argument's gradient in what `step` returns
        assert all(found[places[i]] is None for i in frozen)
        kept = [place for i, place in places.items() if i not in frozen]
        apart = {NAMES[p]: float((found[p].float() - wanted[p].float()).norm() / wanted[p].float().norm()) for p in kept}
        assert max(apart.values()) <= LIMIT, f"frozen {frozen}: {told(apart)}"
    return ""


def in_a_graph(implementation: str) -> str:
    """Captured once, replayed with other contents: the bits of eager runs."""
    inputs, other = make(SHAPES["even"]), make(SHAPES["skewed"])
    static = [x.clone() if torch.is_tensor(x) else x for x in inputs]
    leaves = [static[i].requires_grad_() for i in (0, 2, 3, 4, 5)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(path(implementation)(*static[:7]), leaves, static[7])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = path(implementation)(*static[:7])
        gradients = torch.autograd.grad(out, leaves, static[7])
    for contents in (inputs, other):
        with torch.no_grad():
            for into, value in zip(static, contents, strict=True):
                if torch.is_tensor(into):
                    into.copy_(value)
        graph.replay()
        assert same((out, *gradients), step(path(implementation), contents)), "graph and eager differ"
    return ""


def against_grouped_mm(implementation: str) -> str:
    inputs = make(SHAPES["even"])
    wanted = exact(inputs)
    ours, theirs = (errors(step(f, inputs), wanted) for f in (path(implementation), grouped_mm))
    assert all(ours[name] <= 1.1 * theirs[name] for name in NAMES), f"ours: {told(ours)}; grouped_mm: {told(theirs)}"
    return f"grouped_mm: {told(theirs)}"


def compiled(implementation: str, backend: str) -> str:
    torch._dynamo.reset()
    inputs = make(SHAPES["even"])
    function = torch.compile(path(implementation), fullgraph=True, backend=backend)
    assert same(step(function, inputs), step(path(implementation), inputs)), "compiled and eager differ"
    return ""


def checkpointed(implementation: str) -> str:
    inputs = make(SHAPES["even"])
    function = partial(checkpoint, path(implementation), use_reentrant=False)
    assert same(step(function, inputs), step(path(implementation), inputs)), "recomputed and kept differ"
    return ""


def without_host_syncs(implementation: str) -> str:
    inputs = make(SHAPES["even"])
    step(path(implementation), inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(path(implementation), inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def second_backward(implementation: str) -> str:
    *arguments, dout = make(SHAPES["odd"])
    arguments[0].requires_grad_()
    out = path(implementation)(*arguments)
    out.backward(dout, retain_graph=True)
    try:
        out.backward(dout)
    except RuntimeError as error:
        return str(error).split(":")[0]
    raise AssertionError("a second backward used what the first had overwritten")


def master_weights(implementation: str) -> str:
    """fp32 weights under bf16 tokens, as the trainer's: their gradients are fp32."""
    inputs = make(SHAPES["odd"])
    wide = inputs._replace(w1=inputs.w1.float(), v1=inputs.v1.float(), w2=inputs.w2.float())
    found, wanted = step(path(implementation), wide), step(path(implementation), inputs)
    assert [g.dtype for g in found[3:]] == [torch.float32] * 3 and same(found, (*wanted[:3], *(g.float() for g in wanted[3:])))
    return ""


def experts_elsewhere(held: str) -> str:
    """The layer's first experts alone, the others' rows marked as elsewhere, against zeros in their place."""
    inputs = make(SHAPES["skewed"])
    n = SHAPES["skewed"].n_experts
    here = {"none": 2, "some": 6, "all": n}[held]
    rows = here * SHAPES["skewed"].hidden
    indices = inputs.indices_TK if held != "none" else here + inputs.indices_TK % (n - here)
    found_in = [t.detach().clone().requires_grad_() for t in (inputs.x_TD, inputs.weights_TK, *(w[:rows] for w in (inputs.w1, inputs.v1, inputs.w2)))]
    wanted_in = [t.detach().clone().requires_grad_() for t in found_in]
    x, weights, *matrices = found_in
    torch.empty(1 << 28, device="cuda").fill_(math.nan)  # what is not written is not a number
    out = kernels.experts(x, torch.where(indices < here, indices, here), weights, *matrices, here, "hopper", elsewhere=True)
    x, weights, *matrices = wanted_in
    zeros = [torch.cat([w, w.new_zeros(len(inputs.w1) - rows, w.shape[1])]) for w in matrices]
    expected = kernels.experts(x, indices, weights, *zeros, n, "hopper")
    torch.empty(1 << 28, device="cuda").fill_(math.nan)
    out.backward(inputs.dout_TD)
    expected.backward(inputs.dout_TD)
    assert torch.equal(out, expected)
    for name, a, b in zip(NAMES[1:], found_in, wanted_in, strict=True):
        wide = b.grad.float().norm().item() or 1.0
        assert torch.isfinite(a.grad).all() and (a.grad.float() - b.grad.float()).norm().item() <= 1e-3 * wide, name
    return f"{(indices < here).float().mean():.2f} of rows"


def ranks_agree(kind: str) -> str:
    """As many ranks as there are GPUs (with one, its own group) do what one process does, to bf16's rounding."""
    world = torch.cuda.device_count()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), __file__, "--rank", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def one_of_the_ranks(kind: str) -> None:
    """Some steps of the small model by all ranks, and on rank 0 by one process; errors of losses and masters."""
    import os

    import torch.distributed as dist

    from model import step
    from model.parallel import experts, replicate, shard
    from model.parallel.ranks import ALONE, join
    from schemas.training import TrainConfig

    ranks = join()
    if ranks.world == 1:  # the same code, with a group of one
        dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    config, steps, rows = small_model(), 4, 8
    batches = [packed_batch(rows, 1024, 1000, seed) for seed in range(steps)]

    def place(network, train_config, ranks):
        kinds = {"replicate": replicate.replicate, "shard": shard.shard, "experts": experts.split_experts}
        return kinds[kind](network, torch.bfloat16, ranks)

    def train(ranks, place=None):
        with mock.patch.object(step, "place", place or step.place):
            learner = step.Learner(config, TrainConfig(batch_tokens=rows * 1024, parallel=kind), 1000, ranks)
        if place and ranks.world == 1:
            learner._compute = learner.compute
        told = []
        for number, batch in enumerate(batches):
            part = batch.split(ranks.world)[ranks.rank]
            segments = part.packing.segments_BL - part.packing.segments_BL.min()
            part = dataclasses.replace(part, packing=dataclasses.replace(part.packing, segments_BL=segments))
            told.append(learner.step(number, part, 1e-3).read()[0])
        return told, learner.adamw

    found, adamw = train(ranks, place)
    wanted, alone = train(ALONE) if ranks.rank == 0 else (found, None)
    losses = max(abs(a["loss"] - b["loss"]) for a, b in zip(found, wanted, strict=True))
    norms = max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(found, wanted, strict=True))
    assert losses < 5e-3 and norms < 0.03, (found, wanted)
    worst = 0.0
    if alone:
        for name, mine in adamw.masters.items():
            start = adamw.placed.starts[name]
            theirs = alone.masters[name].flatten()[start : start + mine.numel()]
            worst = max(worst, ((mine.flatten() - theirs).norm() / theirs.norm()).item())
        assert worst < 0.03, worst
        print(f"{ranks.world} ranks: losses apart by {losses:.1e}, norms by {norms:.1e}, masters by {worst:.1e}", flush=True)
    dist.barrier()
    os._exit(0)


@triton.jit
def hold_kernel(out_ptr, ns):
    """Holds one multiprocessor a program for so long, as a collective's kernels do."""
    start = globaltimer()
    now = start
    while now - start < ns:
        now = globaltimer()
    tl.store(out_ptr + tl.program_id(0), now)


def beside(held: int, work: Callable[[], object], ms: int = 60) -> tuple[object, float]:
    """What `work` returns while `held` multiprocessors are held for `ms`, and the milliseconds that it takes."""
    out, side = torch.empty(132, dtype=torch.int64, device="cuda"), torch.cuda.Stream(priority=-1)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if held:
        with torch.cuda.stream(side):
            hold_kernel[(held,)](out, ms * 1_000_000, num_warps=1)
    time.sleep(0.002)  # so that they are held
    start.record()
    result = work()
    stop.record()
    torch.cuda.synchronize()
    return result, start.elapsed_time(stop)


def beside_other_kernels(backward: bool) -> str:
    """With a multiprocessor held for longer than it takes, the layer takes at most 1.3 times its time."""
    inputs = make(Shape(16384, 2048, 3584, 16, 4))

    def work():
        if backward:
            return step(path("hopper"), inputs)
        with torch.no_grad():
            return path("hopper")(*inputs[:7])

    for _ in range(3):
        work()
    alone, held = (sorted(beside(n, work)[1] for _ in range(7))[3] for n in (0, 1))
    assert held <= 1.3 * alone < 40, f"{held:.2f} ms with one multiprocessor held, {alone:.2f} ms alone"
    return f"{held:.2f} ms with one multiprocessor held, {alone:.2f} ms alone: {held / alone:.2f}"


def same_bits_whoever_works(shape: Shape) -> str:
    """Whichever block computes a tile, late ones included: multiprocessors are let go while the layer runs."""
    inputs = make(shape)
    wanted = step(path("hopper"), inputs)
    for held, ms in ((1, 60), (100, 60), (131, 5), (64, 3), (64, 4), (32, 3), (32, 4)):
        found, _ = beside(held, lambda: step(path("hopper"), inputs), ms)
        assert same(found, wanted), f"other bits with {held} multiprocessors held for {ms} ms"
    return ""


def automatic() -> str:
    inputs = make(SHAPES["odd"])
    assert kernels.choose(inputs.x_TD, inputs.w1, 8) == "hopper" and kernels.choose(inputs.x_TD.float(), inputs.w1, 8) == "blocksparse"
    return ""


# ------------------------------------------------------------------------------------------------ training


def small_model(**changes):
    """Every token goes to all experts: a choice that rounding turns changes that token's gradients as a whole."""
    from schemas.training import ModelConfig

    return ModelConfig(**{**dict(layers=3, d_model=512, heads=4, kv_heads=2, d_expert=256, experts=4, top_k=4, init_std=0.05), **changes})


def packed_batch(rows: int, length: int, vocabulary: int, seed: int = 0):
    """Documents of 1 to half a row, the last of each row padding."""
    from model.data import make_batch

    random, samples = np.random.default_rng(seed), []
    for row in range(rows):
        starts = np.unique([0, 1, *random.integers(2, length, 6)])
        docs = 1 + 100 * row + np.arange(len(starts))
        docs[-1] = 0
        samples.append({"tokens": random.integers(1, vocabulary, length), "starts": starts, "docs": docs})
    return make_batch(0, samples)


def gradients(learner, batch) -> dict[str, torch.Tensor]:
    """Of one step, in fp32, before they are clipped."""
    kept = {}

    def keep(accept):
        sums = learner.adamw.sums or {name: weight.grad for name, weight in learner.adamw.weights.items()}
        kept.update({name: gradient.float().clone() for name, gradient in sums.items()})
        learner.adamw.forget()
        return torch.ones((), device="cuda")

    with mock.patch.object(learner.adamw, "step", keep):
        numbers, rows, _ = learner.step(0, batch, 1e-3).read()
    return kept | {"loss": torch.tensor(numbers["loss"]), "nats": torch.from_numpy(rows["loss"].copy())}


def learner_of(config, precision: str = "bf16", rounded: bool = False, **changes):
    from model.step import Learner
    from schemas.training import TrainConfig

    learner = Learner(config, TrainConfig(batch_tokens=8192, precision=precision, **changes), 1000)
    for name in learner.network.matrices() if rounded else []:  # what bf16 makes of the weights
        learner.adamw.weights[name].data = learner.adamw.weights[name].data.bfloat16().float()
    return learner


def step_against_fp32(attention: str, micro_batches: int = 1, recompute: str = "none", **changes) -> str:
    """Errors of gradients, relative norms."""
    from model import attention as module
    from model.step import Division

    config, batch = small_model(**changes), packed_batch(8, 1024, 1000)
    wanted = gradients(learner_of(config, "fp32", rounded=True), batch)
    with mock.patch.object(module, "choose", lambda *_: attention):
        learner = learner_of(config)
        learner.division = Division(micro_batches, recompute)
        found = gradients(learner, batch)
    errors = {name: ((found[name].cpu() - wanted[name].cpu()).norm() / wanted[name].cpu().norm()).item() for name in wanted}
    worst = max(errors, key=errors.get)
    limits = {"loss": 1e-3, "nats": 1e-2}
    bad = {n: e for n, e in errors.items() if not e <= limits.get(n, 0.1 if "router" in n else 0.04)}
    assert not bad, bad
    return f"worst {worst} {errors[worst]:.3f}, head {errors['head.weight']:.4f}, loss {errors['loss']:.1e}"


def the_same_step_again(attention: str, deterministic: bool, **changes) -> str:
    """Five runs of a step give the same bits, where that is promised."""
    from model import attention as module

    batch, config = packed_batch(8, 1024, 1000), small_model(experts=8, top_k=2, **changes)
    with mock.patch.object(module, "choose", lambda *_: attention):
        first, *others = (gradients(learner_of(config, deterministic=deterministic), batch) for _ in range(5))
    torch.use_deterministic_algorithms(False)
    apart = sorted({name for other in others for name in first if not torch.equal(first[name], other[name])})
    assert not (apart and deterministic), apart
    return f"other bits in {len(apart)} of {len(first)}: {apart[:4]}"


def captured_steps_are_launched_ones() -> str:
    """Steps over batches of two sizes, one of them with another rotation too, launched and captured."""
    batches = [packed_batch(8, 1024, 1000, seed) for seed in (0, 1, 2, 3)]
    longer = [packed_batch(4, 2048, 1000, seed) for seed in (4, 5)]
    longer.append(dataclasses.replace(longer[0], rope_theta=900.0))
    told = {}
    for captured in (False, True):
        learner = learner_of(small_model(), deterministic=True)
        learner._compute.pays = captured
        order = [(batches + longer)[n % 7] for n in range(21)]
        told[captured] = [learner.step(n, batch, 1e-3) for n, batch in enumerate(order)]
        told[captured] = [each.read() for each in told[captured]]
        graphs = sum(graph is not None for graph in learner._compute.graphs.values())
        assert graphs == (3 if captured else 0), graphs
    torch.use_deterministic_algorithms(False)
    for (numbers, rows, load), (wanted, wanted_rows, wanted_load) in zip(told[True], told[False], strict=True):
        assert numbers == wanted and (rows == wanted_rows).all() and torch.equal(load, wanted_load)
    return ""


def micro_batches_agree() -> str:
    batch, errors = packed_batch(8, 1024, 1000), {}
    from model.step import Division

    kept = {}
    for parts in (1, 2, 4, 8):
        learner = learner_of(small_model())
        learner.division = Division(parts)
        kept[parts] = gradients(learner, batch)
    for parts in (2, 4, 8):
        for name, wanted in kept[1].items():
            error = ((kept[parts][name] - wanted).norm() / wanted.norm()).item()
            errors[name] = max(errors.get(name, 0), error)
    worst = max(errors, key=errors.get)
    assert errors[worst] < 0.02, errors
    return f"worst {worst} {errors[worst]:.4f}"


def adamw_is_torchs() -> str:
    """Ten steps with gradients that are clipped and some that are not finite, which change nothing."""
    learner = learner_of(small_model(), weight_decay=0.1)
    named, config = learner.adamw.weights, learner.config
    learner.adamw.rate.fill_(1e-3)
    theirs = {name: torch.nn.Parameter(master.clone()) for name, master in learner.adamw.masters.items()}
    decays = {name: config.weight_decay if p.ndim == 2 and name != "embedding.weight" else 0.0 for name, p in theirs.items()}
    groups = [{"params": [p], "weight_decay": decays[name]} for name, p in theirs.items()]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=config.betas)
    g = torch.Generator("cuda").manual_seed(1)
    for step in range(10):
        for weight in named.values():
            weight.grad = 0.01 * 1.5**step * torch.randn(weight.shape, device="cuda", generator=g).to(weight.dtype)
        if step in (2, 6):
            named["head.weight"].grad[3, 5] = math.inf if step == 2 else math.nan
            before = {name: master.clone() for name, master in learner.adamw.masters.items()}
            assert not torch.isfinite(learner.adamw.step())
            assert all(torch.equal(before[name], master) for name, master in learner.adamw.masters.items())
            continue
        for name, p in theirs.items():
            p.grad = named[name].grad.float().clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), config.clip_norm)
        optimizer.step()
        torch.testing.assert_close(learner.adamw.step(), norm, rtol=1e-5, atol=0)
    for name, master in learner.adamw.masters.items():
        torch.testing.assert_close(master, theirs[name].data, rtol=1e-5, atol=1e-6)
        assert torch.equal(named[name].data, master.to(named[name].dtype))
    return ""


def loss_kernel_is_cross_entropy() -> str:
    from kernels.cross_entropy import cross_entropy

    for rows, width, dtype in ((5, 7, torch.float32), (300, 4096, torch.bfloat16), (64, 100_352, torch.bfloat16), (33, 5000, torch.float32)):
        g = torch.Generator("cuda").manual_seed(rows)
        logits = (8 * torch.randn(rows, width, device="cuda", generator=g)).to(dtype)
        targets = torch.randint(-1, width, (rows,), device="cuda", generator=g)
        share, wide = torch.tensor(0.25, device="cuda"), logits.double().requires_grad_()
        wanted = F.cross_entropy(wide, targets, ignore_index=-1, reduction="none")
        gradient = torch.autograd.grad(wanted.sum() * 0.25, wide)[0]
        torch.testing.assert_close(cross_entropy(logits, targets, None), wanted.detach().float(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(cross_entropy(logits, targets, share), wanted.detach().float(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(logits.double(), gradient, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)
    return ""


def no_step_waits_for_the_gpu() -> str:
    """Warm steps make no call that waits."""
    learner, batch = learner_of(small_model()), packed_batch(8, 1024, 1000).map(torch.Tensor.pin_memory)
    for step in range(3):
        learner.step(step, batch, 1e-3).read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        told = learner.step(3, batch, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told.read()
    return ""


def a_step_that_is_not_finite_or_explodes_is_skipped(captured: bool) -> str:
    """On the device, without a wait: weights, moments and count stay as they were, and the next step is taken."""
    learner = learner_of(small_model(), skip_window=8)
    learner._compute = learner.compute if not captured else learner._compute
    if captured:
        learner._compute.pays = True
    batch = packed_batch(8, 1024, 1000).map(torch.Tensor.pin_memory)
    for number in range(6):
        learner.step(number, batch, 1e-4).read()
    head = learner.network.head.weight.data
    for number, factor in ((6, math.nan), (7, 1.0), (8, 1e3), (9, 1.0)):
        kept, before = head.clone(), {name: values.clone() for name, values in learner.adamw.masters.items()}
        head.mul_(factor)
        torch.cuda.set_sync_debug_mode("error")
        told = learner.step(number, batch, 1e-4)
        torch.cuda.set_sync_debug_mode("default")
        taken = "skipped" not in told.read()[0]
        head.copy_(head if taken else kept)
        same = all(torch.equal(before[name], values) for name, values in learner.adamw.masters.items())
        assert taken == (factor == 1.0) != same, (number, taken, same)
    assert learner.adamw.done == 8
    return ""


def a_copy_is_taken_beside_steps() -> str:
    """What a save writes is as it was when it was called, though the next step was launched at once."""
    from model.writer import Copy

    learner, batch = learner_of(small_model()), packed_batch(8, 1024, 1000).map(torch.Tensor.pin_memory)
    learner._compute = learner.compute
    copy = Copy(learner.adamw.owned)
    for number in range(5):
        torch.cuda.synchronize()
        before = [source.cpu().clone() for source in copy.sources]
        began = time.perf_counter()
        learner.adamw.hold = copy.take()
        seconds = time.perf_counter() - began
        told = learner.step(number, batch, 1e-3)
        learner.adamw.hold.synchronize()
        assert all(torch.equal(*pair) for pair in zip(copy.targets, before, strict=True))
        told.read()
        assert not torch.equal(copy.targets[0], copy.sources[0].cpu())
    copy.unlock_pages()
    return f"{1e3 * seconds:.1f} ms of the host for {copy.flat.numel() * 4e-9:.2f} GB"


def memory_that_runs_out_divides_the_step() -> str:
    from model.step import Division

    learner, batch = learner_of(small_model()), packed_batch(8, 1024, 1000)
    tries, step = [], learner._step

    def short(*given):
        tries.append(learner.division)
        if len(tries) < 6:
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return step(*given)

    with mock.patch.object(learner, "_step", short):
        learner.step(0, batch, 1e-3).read()
    wanted = [Division(1), Division(2), Division(4), Division(8), Division(8, "attention"), Division(8, "block")]
    assert tries == wanted, tries
    with mock.patch.object(learner, "_step", lambda *_: torch.empty(1 << 50, dtype=torch.uint8, device="cuda")):
        try:
            learner.step(0, batch, 1e-3)
        except MemoryError as error:
            return str(error)
    raise AssertionError("no MemoryError")


def training_losses(implementation: str, steps: int) -> list[float]:
    """Losses of the default small model on a Markov chain: each token has four successors, so the loss falls to ln 4, and steadily."""
    from model.data import make_batch
    from model.step import Learner
    from schemas.training import ModelConfig, TrainConfig

    config, length = ModelConfig(), 256
    learner = Learner(config, TrainConfig(batch_tokens=8 * length), 512)
    learner._compute = learner.compute  # the reference waits for the host, and cannot be captured
    g = torch.Generator().manual_seed(3)
    successors = torch.randint(0, 64, (64, 4), generator=g)
    chain = torch.randint(0, 64, (8 * steps, length), generator=g)
    for place in range(1, length):
        drawn = torch.randint(0, 4, (8 * steps,), generator=g)
        chain[:, place] = successors[chain[:, place - 1], drawn]
    seen, told = [], []

    def choose(*_, **__):
        seen.append(implementation)
        return implementation

    with mock.patch.object(layer, "choose", choose):
        for step, tokens in enumerate(chain.view(steps, 8, length).numpy()):
            batch = make_batch(0, [{"tokens": row, "starts": np.array([0]), "docs": np.array([1 + i])} for i, row in enumerate(tokens)])
            told.append(learner.step(step, batch, 1e-3))
    assert len(seen) == steps * config.layers, "the model's expert layers do not run on kernels.experts"
    return [each.read()[0]["loss"] for each in told]


def same_losses_as_the_reference(steps: int = 200, window: int = 20) -> str:
    """Means over 20 steps stay within 1 %; single steps may differ as routing flips on rounding."""
    ours, theirs = (torch.tensor(training_losses(name, steps)).view(-1, window).mean(1) for name in ("hopper", "reference"))
    apart = ((ours - theirs).abs() / theirs).max().item()
    curve = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(ours.tolist(), theirs.tolist(), strict=True))
    assert apart <= 0.01 and ours[-1] < 0.5 * ours[0], f"{100 * apart:.2f} % apart: {curve}"
    return f"{100 * apart:.2f} % apart, hopper / reference: {curve}"


def cases() -> dict[str, Callable[[], str]]:
    checks: dict[str, Callable[[], str]] = {"auto takes hopper where it can": automatic}
    for name, shape in SHAPES.items():
        checks[f"hopper bf16 {name}"] = partial(against_fp32, "hopper", shape, torch.bfloat16)
    for name in ("skewed", "wide"):
        checks[f"hopper fp16 {name}"] = partial(against_fp32, "hopper", SHAPES[name], torch.float16)
        checks[f"hopper bf16 added to fp32 {name}"] = partial(added_to_fp32, SHAPES[name])
    for name, shape in {**SHAPES, **PORTABLE}.items():
        dtype = torch.float32 if name == "fp32" else torch.bfloat16
        checks[f"blocksparse {name}"] = partial(against_fp32, "blocksparse", shape, dtype)
    checks["blocksparse fp16 skewed"] = partial(against_fp32, "blocksparse", SHAPES["skewed"], torch.float16)
    for each in (
        experts_without_rows,
        no_tokens,
        in_a_graph,
        against_grouped_mm,
        checkpointed,
        without_host_syncs,
        second_backward,
        master_weights,
        int32_indices,
        other_layouts_of_weights,
        frozen_inputs,
    ):
        for implementation in ("hopper", "blocksparse"):
            checks[f"{implementation} {each.__name__.replace('_', ' ')}"] = partial(each, implementation)
    for which, name in enumerate(("w1", "v1", "w2")):
        checks[f"hopper bf16 added to fp32 of {name} alone"] = partial(added_to_one, which)
    for name, backward in (("forward", False), ("forward and backward", True)):
        checks[f"hopper beside other kernels {name}"] = partial(beside_other_kernels, backward)
    for name, shape in {**SHAPES, "long": Shape(8192, 2048, 1024, 16, 4, "skewed")}.items():
        checks[f"hopper same bits whoever works {name}"] = partial(same_bits_whoever_works, shape)
    checks["hopper compiled by inductor"] = partial(compiled, "hopper", "inductor")
    checks["blocksparse compiled by inductor"] = partial(compiled, "blocksparse", "inductor")
    checks["blocksparse compiled by aot_eager"] = partial(compiled, "blocksparse", "aot_eager")
    for attention in ("flash", "cudnn") if importlib.util.find_spec("cudnn") else ("flash",):
        checks[f"step {attention} against fp32"] = partial(step_against_fp32, attention)
        checks[f"step {attention} with 64 channels against fp32"] = partial(step_against_fp32, attention, heads=8)
        for deterministic in (False, True):
            name = f"step {attention} again{', deterministic' if deterministic else ''}"
            checks[name] = partial(the_same_step_again, attention, deterministic)
            checks[f"{name}, 64 channels"] = partial(the_same_step_again, attention, deterministic, heads=8)
    checks["step masked against fp32"] = partial(step_against_fp32, "masked")
    checks["step of a dense model against fp32"] = partial(step_against_fp32, "flash", experts=1, top_k=1)
    checks["step in micro-batches against fp32"] = partial(step_against_fp32, "flash", 4)
    checks["step with attention computed again against fp32"] = partial(step_against_fp32, "flash", 2, "attention")
    checks["step with blocks computed again against fp32"] = partial(step_against_fp32, "flash", 2, "block")
    for each in (
        micro_batches_agree,
        adamw_is_torchs,
        captured_steps_are_launched_ones,
        loss_kernel_is_cross_entropy,
        no_step_waits_for_the_gpu,
        a_copy_is_taken_beside_steps,
        memory_that_runs_out_divides_the_step,
    ):
        checks[f"step {each.__name__.replace('_', ' ')}"] = each
    for captured in (False, True):
        name = f"step that is not finite or explodes is skipped{', captured' if captured else ''}"
        checks[name] = partial(a_step_that_is_not_finite_or_explodes_is_skipped, captured)
    for held in ("none", "some", "all"):
        checks[f"hopper experts of which {held} are here"] = partial(experts_elsewhere, held)
    for kind in ("replicate", "shard", "experts"):
        checks[f"step of {torch.cuda.device_count()} ranks, {kind}"] = partial(ranks_agree, kind)
    checks["hopper trains as the reference"] = same_losses_as_the_reference
    return checks


def main(words: list[str]) -> int:
    """Run the cases whose names hold one of the words, all without any; the number that failed."""
    picked = {name: case for name, case in cases().items() if not words or any(word in name for word in words)}
    failed = []
    for name, case in picked.items():
        start = time.perf_counter()
        try:
            result = f"ok   {name}: {case()}"
        except Exception:
            failed.append(name)
            result = f"FAIL {name}: {traceback.format_exc()}"
        torch.cuda.synchronize()
        print(f"{time.perf_counter() - start:6.1f} s  {result}", flush=True)
    print(
        f"{len(picked) - len(failed)} of {len(picked)} passed on {torch.cuda.get_device_name()}" + "".join(f"\nfailed: {x}" for x in failed)
    )
    return len(failed)


try:
    import pytest
except ImportError:  # a GPU machine may have torch and Triton alone
    pass
else:

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("name", cases())
    def test_on_a_gpu(name):
        if "hopper" in name and torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("needs sm_90")
        print(cases()[name]())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        one_of_the_ranks(sys.argv[2])
    sys.exit(main(sys.argv[1:]))
