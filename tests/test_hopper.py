"""The Hopper path without a GPU: every kernel, as it is launched, compiles for sm_90 within its registers; and the layer around the
kernels, with plain torch in their place, is the reference."""

import re
import weakref
from functools import partial
from types import SimpleNamespace

import offline
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import kernels
from kernels import hopper, layer, reference
from kernels.hopper import choices, launch, operators
from kernels.topology import build, row_tiles

SMS = 132
compile_ahead = operators.compile_ahead.__wrapped__  # what is not yet compiled is so in each test
LOADER, CONSUMER = {2: 40, 3: 32}, {2: 232, 3: 160}  # registers a thread, by warpgroups


@pytest.fixture(autouse=True)
def as_on_an_h200(monkeypatch):
    monkeypatch.setattr(launch, "sm_count", lambda device: SMS)
    monkeypatch.setattr(operators, "compile_ahead", lambda *shape: None)  # where definitions stand in for kernels


# ------------------------------------------------------------------------------------------------ machine code


def operands(width: int, hidden: int, dtype=torch.bfloat16, tokens=100, n_experts=4, top_k=2) -> SimpleNamespace:
    g = torch.Generator().manual_seed(3)

    def new(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    topology = build(torch.randint(0, n_experts, (tokens, top_k), generator=g), n_experts)
    return SimpleNamespace(
        x=new(tokens * top_k, width), w=new(n_experts * hidden, width), h=[new(tokens * top_k, hidden), new(tokens * top_k, hidden)],
        place=topology.place_R, experts=topology[1:], tiles=row_tiles(topology, 192, 12), weights=torch.rand(tokens, top_k, generator=g),
        n_experts=n_experts, main=torch.zeros(n_experts * hidden, width),
    )  # fmt: skip


OPERATIONS = {
    "up": lambda o: operators.swiglu(o.x, o.w, o.w, *o.tiles, o.n_experts),
    "down": lambda o: operators.row_products(o.h[:1], [o.w], *o.tiles),
    "dx": lambda o: operators.row_products(o.h, [o.w, o.w], *o.tiles),
    "dglu": lambda o: operators.swiglu_backward(o.x, o.w, *o.h, o.weights, o.place, *o.tiles),
    "outer": lambda o: operators.outer_products(o.h[:1], o.x, *o.experts),
    "outer pair": lambda o: operators.outer_products(o.h, o.x, *o.experts),
    "outer add": lambda o: operators.add_outer_products(o.h[0], o.x, o.main, *o.experts),
}

# operation, D, F, kernel, warpgroups behind the loader's, wgmma instructions. These: 4 of 16 along each step of K, two of 128 columns
# where 256 are too wide, for each consumer; a first product and one in the loop, or, weight gradients, a whole, a tail and half a tail.
COMPILED = [
    ("up", 3072, 5376, "up_kernel", 3, 48), ("down", 3072, 5376, "down_kernel", 3, 48), ("dx", 3072, 5376, "dx_kernel", 3, 48),
    ("dglu", 3072, 5376, "dact_overlapped_kernel", 3, 32), ("dglu", 1024, 1792, "dact_kernel", 2, 16),
    ("outer", 3072, 5376, "outer_kernel", 3, 60), ("outer", 1024, 1792, "outer_kernel", 2, 20),
    ("outer pair", 3072, 5376, "outer_pair_kernel", 3, 60), ("outer pair", 1024, 1792, "outer_pair_kernel", 2, 20),
    ("outer add", 3072, 5376, "outer_kernel", 3, 60), ("outer add", 1024, 1792, "outer_kernel", 2, 20),
]  # fmt: skip
FP16 = [case for case in COMPILED if case[3] in ("up_kernel", "dact_kernel")]  # the two that need most registers


@pytest.mark.parametrize("case, dtype", [(case, torch.bfloat16) for case in COMPILED] + [(case, torch.float16) for case in FP16], ids=str)
def test_kernels_compile_for_sm_90_without_spills(case, dtype):
    operation, width, hidden, name, warpgroups, wgmmas = case
    inputs = operands(width, hidden, dtype)
    with offline.compiling(90) as compiled:
        OPERATIONS[operation](inputs)
    (kernel,) = [one for one in compiled if one["name"] == name]
    assert kernel["stack"] == 0 and kernel["registers"] == launch.ENTRY_REGISTERS[warpgroups]
    assert kernel["shared"] <= 232_448  # of an SM's 228 KB; the driver keeps 1
    element = "bf16" if dtype == torch.bfloat16 else "f16"
    assert len(re.findall(rf"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.{element}\.{element}", kernel["ptx"])) == wgmmas
    assert "cp.async.bulk.tensor.2d.shared" in kernel["ptx"]
    given = {int(n) for n in re.findall(r"setmaxnreg\.\w+\.sync\.aligned\.u32\s+(\d+)", kernel["ptx"])}
    assert {LOADER[warpgroups], CONSUMER[warpgroups]} <= given


@pytest.mark.parametrize("width, hidden, others", [(6144, 10752, {"dact_overlapped_kernel"}), (1024, 1792, {"dact_kernel", "outer_pair_kernel"})])
def test_all_kernels_of_a_layer_are_compiled_together_and_none_is_launched(width, hidden, others):
    with offline.compiling(90) as compiled:
        compile_ahead(torch.device("cpu"), torch.float16, width, hidden, 16)
    gluon = {kernel["name"] for kernel in compiled} - {"sort_weights_kernel", "sum_partials_kernel"}
    assert gluon == {"up_kernel", "down_kernel", "dx_kernel", "outer_kernel"} | others


@pytest.mark.parametrize("width, hidden", [(1024, 192), (2048, 128)])
def test_what_was_compiled_ahead_is_what_the_operations_run(width, hidden):
    with offline.compiling(90) as compiled:
        compile_ahead(torch.device("cpu"), torch.bfloat16, width, hidden, 4)
        ahead = len(compiled)
        for tokens in (1, 5, 8):  # 1 and multiples of 16 rows are types of their own where Triton may specialise
            for name in OPERATIONS.keys() - {"outer add"}:
                OPERATIONS[name](operands(width, hidden, tokens=tokens))
    assert ahead == 8 and [kernel["name"] for kernel in compiled[ahead:]] == []


def test_compiling_ahead_works_in_inference_mode():
    with offline.compiling(90) as compiled, torch.inference_mode():
        compile_ahead(torch.device("cpu"), torch.bfloat16, 128, 64, 4)
    assert len(compiled) == 8


def test_the_first_use_compiles_ahead_but_not_inside_a_compiling_thread_or_a_graph(monkeypatch):
    shapes = []
    monkeypatch.setattr(operators, "compile_ahead", lambda *shape: shapes.append(shape))
    x = SimpleNamespace(is_cuda=True, device="cuda:0", dtype=torch.bfloat16, shape=(8, 128))
    for capturing, compiling in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        monkeypatch.setattr(launch._ahead, "compiling", compiling, raising=False)
        operators._first_use(x, 64, 4)
    assert shapes == [("cuda:0", torch.bfloat16, 128, 64, 4)]


@pytest.mark.parametrize("hidden", [64, 10752, 64 * 300])
def test_partial_sums_fit_the_registers_of_a_block(monkeypatch, hidden):
    launches = []
    monkeypatch.setattr(operators, "launch", lambda kernel, grid, *_, **options: launches.append((kernel, grid, options)))
    monkeypatch.setattr(operators, "launch_rows", lambda *_, **sizes: None)
    o = operands(2048, 64)
    operators.swiglu_backward(o.x, o.w, *(torch.empty(200, hidden).bfloat16() for _ in range(2)), o.weights, o.place, *o.tiles)
    ((grid, sizes),) = [(grid, options) for kernel, grid, options in launches if kernel is operators.sum_partials_kernel]
    assert sizes["COLUMNS"] >= hidden / 64 and sizes["ROWS"] * sizes["COLUMNS"] <= 8192 and grid * sizes["ROWS"] >= 200


def test_what_was_launched_is_launched_again_for_arguments_of_the_same_kind_alone(monkeypatch):
    looked_up, again = [], []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: looked_up.append(arguments) or Compiled()

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments: again.append((grid, *arguments))

    kernel, x, other = Kernel(), torch.zeros(5, 64).bfloat16(), torch.ones(9, 64).bfloat16()
    unaligned = torch.zeros(5 * 64 + 1).bfloat16()[1:].view(5, 64)
    monkeypatch.setattr(launch, "_launched", {})

    def run(x, box=None, n=64, slots=4):
        launch.launch_persistent(kernel, x.device, 3, box or launch.box(other), x, n, SLABS=3, SLOTS=slots)

    run(x)
    run(x.float())
    run(unaligned)
    run(x, launch.box(other, 128))
    run(x, n=128)
    run(x, slots=3)
    assert len(looked_up) == 6 and not again
    run(other)
    ((grid, box, tensor, *rest),) = again
    assert len(looked_up) == 6 and (grid, rest) == ((SMS, 1, 1), [64, 3, 4]) and box.base is other and tensor is other


def test_weights_at_an_odd_offset_are_copied_for_tma():
    o = operands(128, 64)
    odd = torch.empty(o.w.numel() + 1, dtype=o.w.dtype)[1:].view_as(o.w).copy_(o.w)
    assert torch.equal(launch.box_of_weights(odd, 128).base, o.w) and launch.box_of_weights(o.w, 128).base is o.w
    with offline.compiling(90) as compiled:
        operators.swiglu(o.x, odd, o.w, *o.tiles, o.n_experts)
        operators.row_products(o.h, [odd, odd], *o.tiles)
        operators.swiglu_backward(o.x, odd, *o.h, o.weights, o.place, *o.tiles)
    assert {"up_kernel", "dx_kernel", "dact_kernel"} <= {kernel["name"] for kernel in compiled}


# ------------------------------------------------------------------------------------------------ the layer around the kernels


class Box(SimpleNamespace):
    """In place of a descriptor."""

    __hash__ = object.__hash__


class InPlaceOf:
    """`kernel[grid](...)` calls `work` with the arguments of the launch under their names in the kernel."""

    def __init__(self, kernel, work):
        self.kernel, self.work = kernel, work

    def __getitem__(self, grid):
        return lambda *args, **sizes: self.work(SimpleNamespace(**dict(zip(self.kernel.arg_names, args, strict=False)), **sizes))


def spread(x_TD: Tensor, place_R: Tensor, top_k: int) -> Tensor:
    return x_TD.new_empty(len(place_R), x_TD.shape[1]).index_copy_(0, place_R.long(), x_TD.repeat_interleave(top_k, 0))


def combine(y_RD: Tensor, place_R: Tensor, top_k: int, weights_TK: Tensor | None, end_1: None = None) -> Tensor:
    y_TKD = y_RD[place_R].view(-1, top_k, y_RD.shape[1])
    return (y_TKD if weights_TK is None else y_TKD * weights_TK[:, :, None]).sum(1)


def definitions(spans: list[tuple[slice, slice]]) -> dict:
    """Each kernel in plain torch, on the tensors behind its descriptors and pointers. spans: rows and weight rows of each expert."""

    def up(k):
        assert k.w1_desc.block_shape == [128, 64] and (k.N, k.K) == (k.gate_ptr.shape[1], k.x_desc.shape[1])
        for rows, of in spans:
            k.gate_ptr[rows], k.linear_ptr[rows] = (
                k.x_desc.base[rows] @ k.w1_desc.base[of].t(),
                k.x_desc.base[rows] @ k.v1_desc.base[of].t(),
            )
        k.a_ptr.copy_(F.silu(k.gate_ptr) * k.linear_ptr)

    def down(k):
        assert k.w2_desc.block_shape == [64, 256] and (k.N, k.K) == (k.w2_desc.shape[1], k.a_desc.shape[1])
        for rows, of in spans:
            k.out_ptr[rows] = k.a_desc.base[rows] @ k.w2_desc.base[of]

    def dx(k):
        assert k.w1_desc.block_shape == [64, 256] and (k.N, k.K) == (k.w1_desc.shape[1], k.dgate_desc.shape[1])
        for rows, of in spans:
            k.out_ptr[rows] = k.dgate_desc.base[rows] @ k.w1_desc.base[of] + k.dlinear_desc.base[rows] @ k.v1_desc.base[of]

    def dact(k):
        assert k.w2_desc.block_shape == [256, 64] and (k.N, k.K) == (k.gate_ptr.shape[1], k.dy_desc.shape[1])
        da = torch.cat([k.dy_desc.base[rows] @ k.w2_desc.base[of].t() for rows, of in spans])
        sig, linear = k.gate_ptr.sigmoid(), k.linear_ptr.clone()
        silu = k.gate_ptr * sig
        k.partial_ptr.zero_()[:, -1] = (da * silu * linear).sum(1)
        da *= k.weight_ptr[:, None]
        k.a_ptr.copy_(silu * linear * k.weight_ptr[:, None])
        k.gate_ptr.copy_(da * linear * (sig + silu - silu * sig))
        k.linear_ptr.copy_(da * silu)

    def outer_into(k, a, c):
        assert (k.M, k.N, k.E) == (a.shape[1], k.b_desc.shape[1], len(spans)) and c.block_shape == [64, 32 if k.ACCUMULATE else 64]
        for rows, of in spans:
            c.base[of] = a.base[rows].t() @ k.b_desc.base[rows] + (c.base[of] if k.ACCUMULATE else 0)

    def outer(k):
        outer_into(k, k.a_desc, k.c_desc)

    def outer_pair(k):
        outer_into(k, k.a0_desc, k.c0_desc)
        outer_into(k, k.a1_desc, k.c1_desc)

    def sort_weights(k):
        k.out_ptr[k.place_ptr.long()] = k.weight_ptr.flatten()

    def sum_partials(k):
        assert k.COLUMNS >= k.columns == k.partial_ptr.shape[1]
        k.out_ptr.view(-1).copy_(k.partial_ptr[k.place_ptr].sum(1))

    named = dict(up_kernel=up, down_kernel=down, dx_kernel=dx, dact_kernel=dact, dact_overlapped_kernel=dact, outer_kernel=outer)
    return named | dict(outer_pair_kernel=outer_pair, sort_weights_kernel=sort_weights, sum_partials_kernel=sum_partials)


def layer_case(width=128, hidden=64, tokens=40, n_experts=5, top_k=3, skewed=False) -> tuple:
    g = torch.Generator().manual_seed(8)

    def new(*shape):
        return torch.randn(*shape, generator=g) * 0.3

    scores = torch.randn(tokens, n_experts, generator=g) + (torch.tensor([-99.0, 0, 0, 0, -99]) if skewed else 0)
    weights = torch.rand(tokens, top_k, generator=g)
    return new(tokens, width), scores.topk(top_k).indices, weights, *(new(n_experts * hidden, width) for _ in range(3)), n_experts


def on_definitions(monkeypatch, inputs: tuple, **changed) -> tuple:
    """From here on `hopper.Experts` runs on the definitions, in fp32: only real descriptors ask for 16 bits. Fresh leaves of `inputs`."""
    ends, n_experts = build(inputs[1], inputs[-1]).offsets_E1.tolist(), inputs[-1]
    hidden = inputs[3].shape[0] // n_experts
    spans = [(slice(*ends[e : e + 2]), slice(e * hidden, (e + 1) * hidden)) for e in range(n_experts)]
    for name, work in (definitions(spans) | changed).items():
        monkeypatch.setattr(operators, name, InPlaceOf(getattr(operators, name), work))
    for module in (operators, launch):  # launch: for weights
        monkeypatch.setattr(module, "box", lambda x, rows=64, columns=64: Box(base=x, shape=x.shape, block_shape=[rows, columns]))
    monkeypatch.setattr(hopper, "spread", spread)
    monkeypatch.setattr(hopper, "combine", combine)
    return leaves(inputs)


def leaves(inputs: tuple) -> tuple:
    return tuple(x.clone().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)


def gradients(function, inputs: tuple) -> tuple[Tensor, ...]:
    """The output and the gradients of x, the routing weights, w1, v1 and w2."""
    out = function(*inputs)
    cotangent = torch.linspace(-1, 1, out.numel()).view_as(out)
    return out, *torch.autograd.grad(out, [x for x in inputs if torch.is_tensor(x) and x.requires_grad], cotangent)


def assert_alike(found: tuple, wanted: tuple) -> None:
    for name, a, b in zip(("output", "dx", "dweights", "dw1", "dv1", "dw2"), found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("width", [128, 2048])  # either kernel of da'
@pytest.mark.parametrize("pair_tiles", [0, 8448])  # dW1 and dV1 in two launches, in one
@pytest.mark.parametrize("skewed", [False, True])
def test_the_layer_around_the_kernels_is_the_reference(monkeypatch, width, pair_tiles, skewed):
    inputs = layer_case(width, skewed=skewed)
    monkeypatch.setattr(choices, "PAIR_BELOW", pair_tiles)
    assert_alike(gradients(hopper.Experts.apply, on_definitions(monkeypatch, inputs)), gradients(reference.experts, leaves(inputs)))


def on_hopper(monkeypatch):
    """`kernels.experts` as on a Hopper GPU."""
    monkeypatch.setattr(layer, "choose", lambda *_: "hopper")
    return kernels.experts


def backward(function, inputs: tuple) -> Tensor:
    out = function(*inputs)
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
    return out


@pytest.mark.parametrize("wide", [False, True])  # weights in fp64 under x in fp32: as fp32 ones under bf16
@pytest.mark.parametrize("which", [(0, 1, 2), (0,), (1,), (2,)])
def test_gradients_are_added_to_main_grads_and_not_returned(monkeypatch, which, wide):
    inputs = layer_case()
    ours = list(on_definitions(monkeypatch, inputs))
    if wide:
        ours[3:6] = [w.detach().double().requires_grad_() for w in ours[3:6]]
    for i in which:
        ours[3 + i].main_grad = torch.ones(ours[3 + i].shape)
    out = backward(on_hopper(monkeypatch), ours)
    grads = [w.main_grad - 1 if i in which else w.grad.float() for i, w in enumerate(ours[3:6])]
    assert [i for i, w in enumerate(ours[3:6]) if w.grad is None] == list(which)
    assert_alike((out, ours[0].grad, ours[2].grad, *grads), gradients(reference.experts, leaves(inputs)))


UNFIT = {
    "float64": lambda w: torch.zeros(w.shape, dtype=torch.float64), "bfloat16": lambda w: torch.zeros(w.shape).bfloat16(),
    r"\(3, 4\)": lambda w: torch.zeros(3, 4), r"strides \(1, 320\)": lambda w: torch.zeros(w.shape).t().contiguous().t(),
    "16-byte aligned": lambda w: torch.zeros(w.numel() + 1)[1:].view_as(w), "meta": lambda w: torch.zeros(w.shape, device="meta"),
}  # fmt: skip


@pytest.mark.parametrize("says", UNFIT)
def test_a_main_grad_that_cannot_be_added_to_is_named(monkeypatch, says):
    inputs = on_definitions(monkeypatch, layer_case())
    inputs[4].main_grad = UNFIT[says](inputs[4])
    with pytest.raises(ValueError, match=rf"expected main_grad in fp32 \(320, 128\) on cpu.*{says}"):
        on_hopper(monkeypatch)(*inputs)


def test_an_unaligned_main_grad_is_named_by_the_launch_too():
    o = operands(128, 64)
    odd = torch.zeros(o.main.numel() + 1)[1:].view_as(o.main)
    with pytest.raises(ValueError, match="16-byte aligned"):
        operators.add_outer_products(o.h[0], o.x, odd, *o.experts)


def test_other_paths_refuse_a_main_grad():
    inputs = leaves(layer_case())
    inputs[5].main_grad = torch.zeros(inputs[5].shape)
    with pytest.raises(ValueError, match="main_grad, to which only hopper adds, found some on reference"):
        kernels.experts(*inputs)


@pytest.mark.parametrize("kept", [("dweights",), ("dx",), ("dx", "dw1"), ("dv1",), ("dw2",), ("dw1", "dv1", "dw2")])
def test_frozen_inputs_cost_no_product(monkeypatch, kept):
    inputs, names = layer_case(), ("dx", "dweights", "dw1", "dv1", "dw2")
    ours, theirs = on_definitions(monkeypatch, inputs), leaves(inputs)
    launched = []
    for name in ("dx_kernel", "outer_kernel", "outer_pair_kernel"):
        kernel = getattr(operators, name)
        monkeypatch.setattr(operators, name, InPlaceOf(kernel.kernel, lambda k, name=name, kernel=kernel: (launched.append(name), kernel.work(k))))
    for leaf, name in zip((ours[0], *ours[2:6], theirs[0], *theirs[2:6]), 2 * names, strict=True):
        leaf.requires_grad_(name in kept)
    for found, wanted in zip(gradients(hopper.Experts.apply, ours), gradients(reference.experts, theirs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    outers = [name for name in kept if name in ("dw1", "dv1", "dw2")]
    pair = {"dw1", "dv1"} <= set(kept)
    assert sorted(launched) == ["dx_kernel"] * ("dx" in kept) + ["outer_kernel"] * (len(outers) - 2 * pair) + ["outer_pair_kernel"] * pair


def test_a_second_backward_raises(monkeypatch):
    inputs = on_definitions(monkeypatch, layer_case())
    out = hopper.Experts.apply(*inputs).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_no_tokens_give_zero_gradients_without_a_launch(monkeypatch):
    inputs = layer_case(tokens=0)
    launched = []
    kernels = ("up_kernel", "down_kernel", "dx_kernel", "dact_kernel", "outer_kernel", "outer_pair_kernel", "sort_weights_kernel")
    ours = on_definitions(monkeypatch, inputs, **{name: launched.append for name in kernels})
    out, *grads = gradients(hopper.Experts.apply, ours)
    assert out.shape == (0, 128) and not launched
    assert [g.abs().sum().item() for g in grads] == [0] * 5 and [g.shape for g in grads[2:]] == [ours[3].shape] * 3


def test_half_of_the_hidden_gradient_is_freed_before_the_last_weight_gradient(monkeypatch):
    gate, freed = [], []
    inputs = layer_case()

    def dact(k):
        gate.append(weakref.ref(k.gate_ptr))

    def outer(k):
        freed.append(gate[0]() is None)

    ours = on_definitions(monkeypatch, inputs, dact_kernel=dact, outer_kernel=outer)
    monkeypatch.setattr(choices, "PAIR_BELOW", 0)
    gradients(hopper.Experts.apply, ours)
    assert freed == [False, False, True]  # dW2, dW1, dV1


def test_recomputing_in_the_backward_changes_nothing(monkeypatch):
    inputs = layer_case()
    ours = on_definitions(monkeypatch, inputs)
    kept = gradients(hopper.Experts.apply, ours)
    again = gradients(partial(checkpoint, hopper.Experts.apply, use_reentrant=False), ours)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_the_layer_is_one_graph_for_torch_compile_and_shape_functions_tell_the_truth(monkeypatch, frozen):
    inputs = layer_case()
    x, indices, weights, *matrices, n_experts = on_definitions(monkeypatch, inputs)
    masters = [w.detach().double().requires_grad_() for w in matrices]  # cast inside
    theirs = leaves(inputs)
    for w in (masters[0], theirs[3]):
        w.requires_grad_(not frozen)
    compiled = torch.compile(on_hopper(monkeypatch), backend="aot_eager", fullgraph=True)
    found = gradients(compiled, (x, indices, weights, *masters, n_experts))
    for a, b in zip(found, gradients(reference.experts, theirs), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=1e-4)


def test_main_grads_are_added_to_under_torch_compile(monkeypatch):
    inputs = layer_case()
    ours = on_definitions(monkeypatch, inputs)
    compiled = torch.compile(on_hopper(monkeypatch), backend="aot_eager", fullgraph=True)
    gradients(compiled, ours)
    ours[3].main_grad = torch.ones(ours[3].shape)
    out = backward(compiled, ours)
    assert ours[3].grad is None  # though the function may have been compiled without one before
    assert_alike((out, ours[0].grad, ours[2].grad, ours[3].main_grad - 1, ours[4].grad, ours[5].grad), gradients(reference.experts, leaves(inputs)))


@pytest.mark.parametrize(
    "dtype, width, capability, says",
    [(torch.bfloat16, 128, (9, 0), None), (torch.float16, 128, (9, 0), None), (torch.float32, 128, (9, 0), "bf16 or fp16"),
     (torch.bfloat16, 96, (9, 0), "D and F multiples of 64, not 96"), (torch.bfloat16, 128, (10, 0), "sm_90")],
)  # fmt: skip
def test_what_is_supported_is_named(monkeypatch, dtype, width, capability, says):
    gpu = SimpleNamespace(major=capability[0], minor=capability[1], name="a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    x, w1 = (SimpleNamespace(is_cuda=True, device="cuda:0", dtype=dtype, shape=shape) for shape in ((9, width), (4 * 64, width)))
    reason = hopper.supports(x, w1, 4)
    assert reason is None if says is None else says in reason


def test_a_cpu_is_not_supported():
    assert "sm_90" in hopper.supports(torch.zeros(1, 64).bfloat16(), torch.zeros(64, 64), 1)
