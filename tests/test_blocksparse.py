"""Block-sparse products against dense ones under a mask, the layer and the router against their definitions, all compiled for two GPUs.

Kernels run under Triton's interpreter in one process of their own (`offline`), in fp32 and fp16: its bf16 products are wrong.
"""

import importlib
import logging
import sys
from types import SimpleNamespace
from unittest import mock

import offline
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import kernels
from kernels import blocksparse, layer, reference, router, topology
from kernels.adamw import update
from kernels.cross_entropy import cross_entropy
from kernels.topology import Topology, build

# ------------------------------------------------------------------------------------------------ products

T, K, E, D, F = 50, 2, 3, 48, 80  # 100 rows are a tile and a half in fp32; D and F are no multiples of any tile
R = T * K


def product(name: str) -> None:
    """Result and gradients of a product in fp32 against the dense product in fp64, and that there is a second derivative."""
    shapes, ours, dense_one = PRODUCTS[name]
    g = torch.Generator().manual_seed(3)
    indices = torch.randn(T, E, generator=g).topk(K).indices
    topology = build(torch.where(indices == 1, 2, indices), E)  # expert 1 stays empty
    start, stop = topology.offsets_E1[:-1, None], topology.offsets_E1[1:, None]
    mask_RE = ((torch.arange(R) >= start) & (torch.arange(R) < stop)).t()
    inputs = [torch.randn(*shape, generator=g, requires_grad=True) for shape in shapes]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = ours(*inputs, topology), dense_one(*exact, mask_RE)
    cotangent = torch.randn(expected.shape, generator=g)
    gradients = torch.autograd.grad(out, inputs, cotangent, create_graph=True)
    torch.testing.assert_close((out, *gradients), (expected, *torch.autograd.grad(expected, exact, cotangent.double())), check_dtype=False, atol=1e-4, rtol=1e-4)
    seconds = torch.autograd.grad(sum(x.square().sum() for x in gradients), inputs)
    assert all(x.abs().max() > 0 for x in seconds)


def dense(s_RF, mask_RE):
    return torch.einsum("rf,re->ref", s_RF, mask_RE.to(s_RF.dtype)).flatten(1)


def values(s, mask_RE):
    return (s.view(R, E, F) * mask_RE[:, :, None]).sum(1)


PRODUCTS = {  # shapes of the operands, the product, the dense product
    "sdd": ([(R, D), (D, E * F)], blocksparse.sdd, lambda a, b, mask: values(a @ b, mask)),
    "sdd, b transposed": ([(R, D), (E * F, D)], lambda a, b, t: blocksparse.sdd(a, b.t(), t), lambda a, b, mask: values(a @ b.t(), mask)),
    "sdd, a transposed": ([(D, R), (D, E * F)], lambda a, b, t: blocksparse.sdd(a.t(), b, t), lambda a, b, mask: values(a.t() @ b, mask)),
    "dsd": ([(R, F), (E * F, D)], blocksparse.dsd, lambda s, b, mask: dense(s, mask) @ b),
    "dsd, b transposed": ([(R, F), (D, E * F)], lambda s, b, t: blocksparse.dsd(s, b.t(), t), lambda s, b, mask: dense(s, mask) @ b.t()),
    "dsd, s transposed": ([(R, F), (R, D)], lambda s, b, t: blocksparse.dsd(s, b, t, trans_s=True), lambda s, b, mask: dense(s, mask).t() @ b),
    "dsd, both transposed": ([(R, F), (D, R)], lambda s, b, t: blocksparse.dsd(s, b.t(), t, trans_s=True), lambda s, b, mask: dense(s, mask).t() @ b.t()),
    "dds": ([(32, R), (R, F)], blocksparse.dds, lambda a, s, mask: a @ dense(s, mask)),
    "dds, a transposed": ([(R, 32), (R, F)], lambda a, s, t: blocksparse.dds(a.t(), s, t), lambda a, s, mask: a.t() @ dense(s, mask)),
    "dds, s transposed": ([(32, E * F), (R, F)], lambda a, s, t: blocksparse.dds(a, s, t, trans_s=True), lambda a, s, mask: a @ dense(s, mask).t()),
}


@pytest.mark.parametrize("broken", [(blocksparse.sdd, (R, D), (D + 16, E * F)), (blocksparse.sdd, (R, D), (D, E * F + 16)), (blocksparse.dsd, (R, F), (E * F, 24)), (blocksparse.dsd, (R + 1, F), (E * F, D)), (blocksparse.dds, (32, R), (R, 24))])
def test_operands_that_do_not_fit_are_named(broken):
    function, a, b = broken
    topology = build(torch.zeros(T, K, dtype=torch.int64), E)
    with pytest.raises(ValueError, match="multiples of 16; found"):
        function(torch.zeros(a), torch.zeros(b), topology)


def test_operands_of_two_dtypes_are_named():
    topology = build(torch.zeros(T, K, dtype=torch.int64), E)
    with pytest.raises(ValueError, match=r"of one dtype.*float16"):
        blocksparse.dsd(torch.zeros(R, F), torch.zeros(E * F, D, dtype=torch.float16), topology)


# ------------------------------------------------------------------------------------------------ the layer


def case(kind: str, dtype: torch.dtype, tokens: int, model: int, hidden: int, n_experts: int, top_k: int):
    """(x, indices, weights, w1, v1, w2, E); `kind` is even, skewed (the first and last expert stay empty) or one (gets all)."""
    g = torch.Generator().manual_seed(5)
    def new(*shape):
        return torch.randn(*shape, generator=g).to(dtype).requires_grad_()
    scores = torch.randn(tokens, n_experts, generator=g)
    scores[:, [0, -1]] -= 99 * (kind == "skewed")
    scores[:, 1] += 99 * (kind == "one")
    weights = torch.rand(tokens, top_k, generator=g).requires_grad_()
    return new(tokens, model), scores.topk(top_k).indices, weights, *(new(n_experts * hidden, model) for _ in range(3)), n_experts


def gradients(function, inputs):
    inputs = tuple(inputs)
    leaves = [x for x in inputs if torch.is_tensor(x) and x.requires_grad]
    out = function(*inputs)
    cotangent = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    return out, *torch.autograd.grad(out, leaves, cotangent)


def portable(*inputs):
    return kernels.experts(*inputs, implementation="blocksparse")


TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3}  # of the norm; fp16 keeps 11 bits: 2.4e-4 a rounding


def layer_agrees(inputs) -> None:
    exact = [x.detach().double().requires_grad_(x.requires_grad) if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
    for name, found, wanted in zip(("out", "x", "weights", "w1", "v1", "w2"), gradients(portable, inputs), gradients(reference.experts, exact), strict=True):
        error = (found.double() - wanted).norm() / wanted.norm().clamp(min=1e-9)
        assert found.shape == wanted.shape and error < TOLERANCE[inputs[0].dtype], f"{name}: {error:.1e}"


# kind, T, D, F, E, K: no token, one, a ragged tail beyond one tile, all to one expert, every expert chosen, sizes above and below a tile's
LAYERS = [("even", 0, 32, 48, 4, 2), ("even", 1, 32, 48, 4, 2), ("skewed", 150, 144, 80, 5, 2), ("one", 140, 48, 144, 4, 1), ("even", 70, 64, 16, 3, 3)]


def master_weights() -> None:
    x, indices, weights, *matrices, n = case("even", torch.float32, 40, 32, 48, 4, 2)
    _, *found = gradients(portable, (x.detach().half().requires_grad_(), indices, weights.detach().half().requires_grad_(), *matrices, n))
    assert [g.dtype for g in found] == [torch.float16] * 2 + [torch.float32] * 3
    _, *expected = gradients(reference.experts, (x, indices, weights, *matrices, n))
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).norm() / b.norm() < 2e-3


def strided_inputs() -> None:
    x, indices, weights, *matrices, n = case("even", torch.float32, 40, 32, 48, 4, 2)
    apart = [t.detach().t().contiguous().t().requires_grad_(t.requires_grad) for t in (x, indices, weights, *matrices)]
    layer_agrees((*apart, n))


def far_strides() -> None:
    """Products whose steps are counted in int64, as where one step passes 2^31 elements."""
    with mock.patch.object(blocksparse.tiles, "FAR", 0):
        for name in ("sdd, a transposed", "dsd, both transposed"):
            product(name)
        layer_agrees(case("skewed", torch.float32, 70, 48, 80, 5, 2))


def int32_indices() -> None:
    x, indices, *others = case("even", torch.float32, 40, 32, 48, 4, 2)
    wanted = gradients(portable, (x, indices, *others))
    assert all(map(torch.equal, gradients(portable, (x, indices.int(), *others)), wanted))


def frozen_inputs_cost_no_product() -> None:
    names = "x", "indices", "weights", "w1", "v1", "w2", "E"
    for kept, rows, outers in (("x", 2, 0), ("weights", 1, 0), ("w1", 1, 1), ("v1", 1, 1), ("w2", 1, 1)):
        inputs = dict(zip(names, case("even", torch.float32, 40, 32, 48, 4, 2), strict=True))
        _, *wanted = gradients(portable, inputs.values())
        wanted = dict(zip(("x", "weights", "w1", "v1", "w2"), wanted, strict=True))
        for name in ("x", "weights", "w1", "v1", "w2"):
            inputs[name].requires_grad_(name == kept)
        with mock.patch.object(blocksparse.rows, "_rows_launch", wraps=blocksparse.rows._rows_launch) as rows_launch, mock.patch.object(blocksparse.outer, "_outer_launch", wraps=blocksparse.outer._outer_launch) as outer_launch:
            _, gradient = gradients(portable, inputs.values())
        assert torch.equal(gradient, wanted[kept]) and (rows_launch.call_count - 1, outer_launch.call_count) == (rows, outers), kept


def main_grads_are_refused() -> None:
    inputs = case("even", torch.float32, 40, 32, 48, 4, 2)
    inputs[3].main_grad = torch.zeros(inputs[3].shape)
    with pytest.raises(ValueError, match="main_grad, to which only hopper adds, found some on blocksparse"):
        portable(*inputs)


def repeats() -> None:
    inputs = case("even", torch.float16, 30, 32, 48, 4, 2)
    first = gradients(portable, inputs)
    for again in (gradients(portable, inputs), gradients(lambda *a: checkpoint(portable, *a, use_reentrant=False), inputs)):
        assert all(map(torch.equal, first, again))


def compiles() -> None:
    """Registered operators: one graph, the same bits."""
    inputs = case("even", torch.float32, 40, 32, 48, 4, 2)
    compiled = torch.compile(portable, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, gradients(portable, inputs), gradients(compiled, inputs)))


def backward_runs_once() -> None:
    inputs = case("even", torch.float32, 40, 32, 48, 4, 2)
    out = portable(*inputs).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def operators_are_registered_as_they_behave() -> None:
    """torch's own checks: shape functions, declared mutations, no aliases."""
    x, indices, weights, w1, _, w2, n = case("skewed", torch.float32, 20, 32, 48, 4, 2)
    x, weights, w1, w2 = (t.detach() for t in (x, weights, w1, w2))
    topology = build(indices, n)
    tiles = blocksparse.tiles.blocks(topology, x)
    rows = blocksparse.spread(x, topology.place_R, 2)
    gate, linear, act = blocksparse.swiglu(rows, w1, w1, *tiles, n)
    calls = {
        torch.ops.millrace.topology: (indices, n),
        torch.ops.millrace.row_tiles: (topology.offsets_E1, 7, 16, 3),
        torch.ops.millrace.blocksparse_spread: (x, topology.place_R, 2),
        torch.ops.millrace.blocksparse_glu: (rows, w1, w1, *tiles, n),
        torch.ops.millrace.blocksparse_rows: ([gate, linear], [w1, w2], *tiles, n, False),
        torch.ops.millrace.blocksparse_outer: (gate, rows, topology.offsets_E1, topology.order_E),
        torch.ops.millrace.blocksparse_dglu: (act, gate, linear, topology.place_R, weights),
        torch.ops.millrace.blocksparse_combine: (rows, topology.place_R, 2, weights),
        torch.ops.millrace.route: (torch.randn(20, 6), 2, torch.rand(6)),
    }
    for operator, arguments in calls.items():
        torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))


# ------------------------------------------------------------------------------------------------ the router


def router_agrees(tokens: int, n_experts: int, top_k: int, dtype=torch.float32, programs: int = router.PROGRAMS, given: bool = False) -> None:
    router.PROGRAMS = programs
    g = torch.Generator().manual_seed(tokens)
    x, matrix = (torch.randn(n, 24, generator=g).to(dtype).requires_grad_() for n in (tokens, n_experts))
    shares = torch.rand(n_experts, generator=g) if given else None
    weights, indices, balance, counts = kernels.route(x, matrix, top_k, shares)
    expected, expected_indices, probs = reference.route(x, matrix, top_k)
    assert torch.equal(indices, expected_indices) and torch.equal(counts, reference.expert_counts(indices, n_experts))
    torch.testing.assert_close(weights, expected)
    if tokens == 0:
        return
    torch.testing.assert_close(balance, reference.balance_loss(probs, indices, shares))
    cotangent = torch.randn(weights.shape, generator=g)
    found = torch.autograd.grad((weights * cotangent).sum() + 3 * balance, (x, matrix))
    wanted = torch.autograd.grad((expected * cotangent).sum() + 3 * reference.balance_loss(probs, indices, shares), (x, matrix))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= TOLERANCE[dtype] * 3 * b.norm() + 1e-6


def router_ties() -> None:
    indices = kernels.route(torch.ones(5, 3), torch.ones(7, 3), 4)[1]
    assert indices.tolist() == [[0, 1, 2, 3]] * 5


def router_nans_stay_in_the_table() -> None:
    weights, indices, *_ = kernels.route(torch.full((5, 3), float("nan")), torch.ones(7, 3), 4)
    assert weights.isnan().all() and indices.min() >= 0 and indices.max() < 7


# ------------------------------------------------------------------------------------------------ loss and update


def loss_kernel_is_its_definition() -> None:
    for rows, width, dtype in ((4, 7, torch.float32), (3, 5000, torch.float32), (5, 40, torch.float16)):
        g = torch.Generator().manual_seed(width)
        logits, targets = (8 * torch.randn(rows, width, generator=g)).to(dtype), torch.randint(0, width, (rows,), generator=g)
        targets[1] = -1
        wide, share = logits.float().requires_grad_(), torch.tensor(0.3)
        wanted = torch.nn.functional.cross_entropy(wide, targets, ignore_index=-1, reduction="none")
        gradient = torch.autograd.grad(0.3 * wanted.sum(), wide)[0]
        kept = logits.clone()
        torch.testing.assert_close(cross_entropy(logits, targets, None), wanted.detach())
        assert torch.equal(logits, kept)
        torch.testing.assert_close(cross_entropy(logits, targets, share), wanted.detach())
        torch.testing.assert_close(logits.float(), gradient, rtol=TOLERANCE[dtype], atol=1e-4 if dtype == torch.float16 else 1e-6)


def update_kernel_is_torchs_adamw() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(37, 60, generator=g)
    theirs = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    master, low, first, second = weight.clone(), weight.half(), torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.randn(37, 60, generator=g).half()
        theirs.grad = 0.5 * gradient.float()
        optimizer.step()
        numbers = torch.tensor([0.01, 1 / (1 - 0.9**step), 1 / (1 - 0.95**step), 0.5, 1.0])
        update(low, master, gradient, first, second, numbers, (0.9, 0.95), 1e-8, 0.1)
    torch.testing.assert_close(master, theirs.data)
    assert torch.equal(low, master.half())
    numbers[4], before = 0.0, (master.clone(), first.clone(), second.clone())
    update(low, master, torch.full_like(gradient, float("nan")), first, second, numbers, (0.9, 0.95), 1e-8, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (master, first, second), strict=True))
    update(master, master, theirs.grad, first, second, numbers, (0.9, 0.95), 1e-8, 0.0)  # a weight that is its own master


ROUTERS = [(0, 4, 2), (1, 1, 1), (300, 16, 4), (90, 6, 3, torch.float16), (130, 40, 16), (900, 16, 2, torch.float32, 2), (300, 12, 4, torch.float32, router.PROGRAMS, True)]  # two programs: several steps each; the last: with shares


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_beyond_the_experts_is_refused(top_k):
    with pytest.raises(ValueError, match="top_k from 1 to the 4 experts"):
        kernels.route(torch.zeros(3, 8), torch.zeros(4, 8), top_k)


def test_without_a_gpu_the_router_is_the_reference():
    x, matrix = torch.randn(30, 8), torch.randn(5, 8)
    weights, indices, balance, counts = kernels.route(x, matrix, 2)
    expected = reference.route(x, matrix, 2)
    assert torch.equal(weights, expected[0]) and torch.equal(indices, expected[1])
    assert balance == reference.balance_loss(expected[2], indices) and torch.equal(counts, reference.expert_counts(indices, 5))


# ------------------------------------------------------------------------------------------------ under the interpreter

CASES = {
    **{name: lambda name=name: product(name) for name in PRODUCTS},
    **{f"layer {shape}": lambda shape=shape: layer_agrees(case(shape[0], torch.float32, *shape[1:])) for shape in LAYERS},
    **{f"layer {shape} in fp16": lambda shape=shape: layer_agrees(case(shape[0], torch.float16, *shape[1:])) for shape in LAYERS[:4:3]},
    **{f"router {shape}": lambda shape=shape: router_agrees(*shape) for shape in ROUTERS},
    **{f.__name__: f for f in (master_weights, strided_inputs, far_strides, int32_indices, frozen_inputs_cost_no_product, main_grads_are_refused, repeats, compiles, backward_runs_once, operators_are_registered_as_they_behave, router_ties, router_nans_stay_in_the_table, loss_kernel_is_its_definition, update_kernel_is_torchs_adamw)},
}


@pytest.fixture(scope="module")
def outcomes():
    return offline.outcomes(__file__)


@pytest.mark.servers
@pytest.mark.parametrize("name", CASES)
def test_under_the_interpreter(name, outcomes):
    assert outcomes[name] == "", outcomes[name]


# ------------------------------------------------------------------------------------------------ compiled for GPUs


def launch_everything(tokens: int, model: int, hidden: int, n_experts: int, top_k: int, dtype: torch.dtype) -> None:
    """Each launcher once, as the layer and the router call them."""
    def new(*shape, dtype=dtype):
        return torch.empty(*shape, dtype=dtype, device="meta")
    rows = tokens * top_k
    place, offsets, order = Topology(*(new(n, dtype=torch.int32) for n in (rows, n_experts + 1, n_experts)))
    height = blocksparse.tiles.FP32.rows if dtype == torch.float32 else blocksparse.tiles.LARGE.rows
    tiles = new(rows // height + n_experts, 4, dtype=torch.int32), new(1, dtype=torch.int32)
    w, weights = new(n_experts * hidden, model), new(tokens, top_k, dtype=torch.float32)
    x = blocksparse.tokens._spread_launch(new(tokens, model), place, top_k)
    gate, linear, act = blocksparse.glu._glu_launch(x, w, w, *tiles, n_experts)
    y = blocksparse.rows._rows_launch([act], [w], *tiles, n_experts, False)
    blocksparse.tokens._combine_launch(y, place, top_k, weights)
    da = blocksparse.rows._rows_launch([y], [w.t()], *tiles, n_experts, True)
    blocksparse.glu._dglu_launch(da, gate, linear, place, weights)
    blocksparse.tokens._combine_launch(blocksparse.rows._rows_launch([gate, linear], [w, w], *tiles, n_experts, False), place, top_k, None)
    blocksparse.outer._outer_launch(gate, x, offsets, order)
    for shares in (None, new(n_experts, dtype=torch.float32)):
        weights, indices, balance, counts = router._route_launch(new(tokens, n_experts), top_k, shares)
        router._route_backward_launch(new(tokens, n_experts), indices, counts, shares, weights, balance)
    cross_entropy(new(tokens, 4 * hidden), new(tokens, dtype=torch.int64), new(1, dtype=torch.float32))
    master = new(hidden, model, dtype=torch.float32)
    update(new(hidden, model), master, new(hidden, model), master, master, new(5, dtype=torch.float32), (0.9, 0.95), 1e-8, 0.1)


GPU_SHAPES = {  # MoE-B, the small model, one whose D and F are multiples of 16 only; sizes of 1, which Triton takes for constants
    "moeb": (16384, 3072, 5376, 16, 4, torch.bfloat16),
    "small": (32768, 1024, 1792, 16, 4, torch.bfloat16),
    "odd": (3000, 1040, 1808, 64, 8, torch.float16),
    "fp32": (3000, 1024, 1808, 8, 2, torch.float32),
    "one": (1, 16, 16, 1, 1, torch.bfloat16),
}
PRODUCT_KERNELS = {"rows_kernel", "outer_kernel", "glu_kernel"}
SHARED = {80: 99 * 1024, 90: 227 * 1024}  # sm_80 itself has 163 KB, but sm_86 and sm_89 have 99 and run the same tiles


@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("shape", GPU_SHAPES)
def test_kernels_compile_without_spills_and_keep_tensor_cores_fed(arch, shape):
    with offline.compiling(arch) as compiled:
        launch_everything(*GPU_SHAPES[shape])
    assert {k["name"] for k in compiled} >= PRODUCT_KERNELS | {"dglu_kernel", "spread_kernel", "combine_kernel", "route_kernel", "balance_kernel", "route_backward_kernel", "cross_entropy_kernel", "adamw_kernel"}
    assert [(k["name"], k["stack"]) for k in compiled if k["stack"]] == []
    for kernel in compiled:
        assert kernel["shared"] <= SHARED[arch]
        if kernel["name"] in PRODUCT_KERNELS and shape != "fp32":
            assert {80: "mma.sync", 90: "wgmma.mma_async"}[arch] in kernel["ptx"]
            copies = [line for line in kernel["ptx"].splitlines() if "cp.async.c" in line and "shared.global" in line]
            assert copies and all("0x10" in line for line in copies)  # every load to shared memory is 16 bytes wide


def test_strides_that_pass_2_to_the_31_in_a_step_are_counted_in_int64():
    a, b = (torch.empty(1, dtype=torch.float16, device="meta").as_strided(*view) for view in (((128, 64), (1, 2**26)), ((64, 64), (64, 1))))
    tiles = torch.empty(2, 4, dtype=torch.int32, device="meta"), torch.empty(1, dtype=torch.int32, device="meta")
    assert blocksparse.tiles.far(blocksparse.tiles.LARGE, 1, 2**25) and not blocksparse.tiles.far(blocksparse.tiles.LARGE, 1, 2**25 - 1)
    with offline.compiling(90) as compiled:
        blocksparse.rows._rows_launch([a], [b], *tiles, 1, True)
    assert [kernel["stack"] for kernel in compiled] == [0]


# ------------------------------------------------------------------------------------------------ the choice


def layer_without(monkeypatch, module: str):
    """A second `kernels.layer`, where a module cannot be imported."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if sys.modules.get(name, 1) is None else name)
    spec = importlib.machinery.SourceFileLoader("layer_without", layer.__file__)
    second = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("layer_without", spec))
    spec.exec_module(second)
    return second


def test_without_triton_a_gpu_takes_the_reference_and_says_why(monkeypatch):
    on_gpu(monkeypatch, 9, 0)
    bare = layer_without(monkeypatch, "triton")
    assert list(bare.PATHS) == ["reference"] and bare._automatic(OnGPU(8, 128), OnGPU(4 * 64, 128), 4) == ("reference", "Triton is not installed")
    with pytest.raises(ValueError, match="expected implementation auto, reference; found 'hopper'"):
        bare.choose(OnGPU(8, 128), OnGPU(4 * 64, 128), 4, "hopper")
    assert bare.route(torch.randn(3, 8), torch.randn(4, 8), 2)[0].shape == (3, 2)


def test_with_another_gluon_hopper_is_not_there_and_auto_says_why(monkeypatch):
    on_gpu(monkeypatch, 9, 0)
    monkeypatch.delattr(kernels, "hopper")
    other = layer_without(monkeypatch, "kernels.hopper")
    assert list(other.PATHS) == ["reference", "blocksparse"]
    chosen, why = other._automatic(OnGPU(8, 128), OnGPU(4 * 64, 128), 4)
    assert chosen == "blocksparse" and "this Triton lacks what hopper needs (" in why


def test_rocm_takes_the_reference_for_experts_and_router(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert layer._automatic(OnGPU(8, 128), OnGPU(4 * 64, 128), 4) == ("reference", "ROCm is no NVIDIA GPU")
    assert not topology.on_triton(OnGPU(8, 128))


def test_a_cpu_takes_the_reference_and_says_so_once(caplog):
    layer._report.cache_clear()
    inputs = case("even", torch.float32, 20, 8, 6, 4, 2)  # no multiples of 16: the reference takes any
    with caplog.at_level(logging.INFO, "kernels.layer"):
        runs = [gradients(kernels.experts, inputs) for _ in range(2)]
    assert [r.message for r in caplog.records] == ["expert layers run on reference: cpu is no NVIDIA GPU"]
    assert all(map(torch.equal, runs[0], gradients(reference.experts, inputs)))
    assert kernels.choose(inputs[0], inputs[3], 4) == "reference"


@pytest.mark.parametrize("implementation, message", [("blocksparse", "blocksparse supports NVIDIA GPUs from sm_80 on, not cpu"), ("hopper", "hopper supports .*sm_90"), ("fastest", "expected implementation auto, reference, blocksparse, hopper; found 'fastest'")])
def test_what_cannot_run_says_what_could(implementation, message):
    with pytest.raises(ValueError, match=message):
        kernels.experts(*case("even", torch.float32, 20, 16, 32, 4, 2), implementation=implementation)


class OnGPU:
    """As much of a tensor as the choice looks at."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16):
        self.shape, self.dtype = shape, dtype


def on_gpu(monkeypatch, major: int, minor: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major, minor=minor, name="a GPU"))


def test_gpus_before_ampere_are_refused(monkeypatch):
    on_gpu(monkeypatch, 7, 5)
    with pytest.raises(ValueError, match="from sm_80 on, not cuda:0"):
        kernels.choose(OnGPU(8, 128), OnGPU(4 * 64, 128), 4)


@pytest.mark.parametrize("capability, x, chosen", [((9, 0), OnGPU(8, 128), "hopper"), ((8, 0), OnGPU(8, 128), "blocksparse"), ((10, 0), OnGPU(8, 128), "blocksparse"), ((9, 0), OnGPU(8, 48), "blocksparse"), ((9, 0), OnGPU(8, 128, dtype=torch.float32), "blocksparse")])
def test_gpus_take_the_fastest_kernels_that_support_the_inputs(capability, x, chosen, monkeypatch, caplog):
    layer._report.cache_clear()
    on_gpu(monkeypatch, *capability)
    with caplog.at_level(logging.INFO, "kernels.layer"):
        assert kernels.choose(x, OnGPU(4 * 64, x.shape[1]), 4) == chosen
    reason = caplog.records[0].message
    assert ("hopper supports" in reason) == (chosen == "blocksparse" and capability == (9, 0))


@pytest.mark.parametrize("x, message", [(OnGPU(8, 40), "D and F multiples of 16, not 40 and 64"), (OnGPU(8, 128, dtype=torch.float64), "bf16, fp16 or fp32, not torch.float64")])
def test_auto_is_never_silently_slow_on_a_gpu(x, message, monkeypatch):
    on_gpu(monkeypatch, 9, 0)
    with pytest.raises(ValueError, match=f"blocksparse supports .*{message}"):
        kernels.choose(x, OnGPU(4 * 64, x.shape[1]), 4)


@pytest.mark.parametrize("broken", ["v1", "w2", "weights", "experts"])
def test_shapes_that_do_not_fit_are_named(broken):
    names = "x", "indices", "weights", "w1", "v1", "w2", "experts"
    inputs = dict(zip(names, case("even", torch.float32, 20, 16, 16, 4, 2), strict=True))
    inputs[broken] = 3 if broken == "experts" else inputs[broken][:-1]
    with pytest.raises(ValueError, match=r"expected .* found"):
        kernels.experts(*inputs.values())


WRONG = {
    r"x \[T, D\] and at least one expert, found \(20, 1, 16\)": {"x": lambda x: x[:, None]},
    r"at least one expert, found .* and 0": {"experts": lambda n: 0},
    r"\[20, K\] with K >= 1, found \(20,\)": {"indices": lambda i: i[:, 0], "weights": lambda w: w[:, 0]},
    r"K >= 1, found \(20, 0\)": {"indices": lambda i: i[:, :0], "weights": lambda w: w[:, :0]},
    "int32 or int64, found torch.int16": {"indices": lambda i: i.short()},
    "one device, found cpu, meta, cpu, cpu, cpu, cpu": {"indices": lambda i: i.to("meta")},
    "one device, found cpu, cpu, cpu, cpu, cpu, meta": {"w2": lambda w: w.to("meta")},
}


@pytest.mark.parametrize("says", WRONG)
def test_inputs_that_do_not_fit_are_named(says):
    names = "x", "indices", "weights", "w1", "v1", "w2", "experts"
    inputs = dict(zip(names, case("even", torch.float32, 20, 16, 16, 4, 2), strict=True))
    for name, change in WRONG[says].items():
        inputs[name] = change(inputs[name])
    with pytest.raises(ValueError, match=f"expected .*{says}"):
        kernels.experts(*inputs.values())


if __name__ == "__main__":
    offline.run(CASES)
