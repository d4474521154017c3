"""Routing and experts against loops over single tokens, and their derivative against finite differences and autograd."""

import pytest
import torch
import torch.nn.functional as F

from kernels.reference import balance_loss, expert_counts, experts, group, route


def naive_experts(x, indices, weights, w1, v1, w2, n_experts):
    """The definition, token by token."""
    w1, v1, w2 = (w.view(n_experts, -1, w.shape[1]) for w in (w1, v1, w2))
    outs = []
    for t in range(len(x)):
        out = torch.zeros_like(x[t])
        for e, weight in zip(indices[t].tolist(), weights[t], strict=True):
            out = out + weight * ((F.silu(w1[e] @ x[t]) * (v1[e] @ x[t])) @ w2[e])
        outs.append(out)
    return torch.stack(outs)


def case(routing: str, dtype=torch.float64, tokens=23, model=6, hidden=5, n_experts=4, top_k=2):
    """(x, indices, weights, w1, v1, w2, E); `routing` is even, skewed (experts 0 and 3 stay empty) or one (all to expert 2 first)."""
    g = torch.Generator().manual_seed(5)
    def new(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    scores = torch.randn(tokens, n_experts, generator=g)
    scores += {"even": torch.zeros(4), "skewed": torch.tensor([-99.0, 0, 0, -99]), "one": torch.tensor([0.0, -50, 99, -99])}[routing]
    weights = torch.rand(tokens, top_k, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    matrices = [new(n_experts * hidden, model) for _ in range(3)]
    return new(tokens, model), scores.topk(top_k).indices, weights, *matrices, n_experts


def gradients(function, inputs):
    leaves = [x for x in inputs if torch.is_tensor(x) and x.requires_grad]
    out = function(*inputs)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, torch.autograd.grad(out, leaves, cotangent)


@pytest.mark.parametrize("routing", ["even", "skewed", "one"])
def test_output_and_every_gradient_are_those_of_a_loop_over_tokens(routing):
    inputs = case(routing)
    out, grads = gradients(experts, inputs)
    expected, expected_grads = gradients(naive_experts, inputs)
    torch.testing.assert_close(out, expected)
    for name, found, wanted in zip(("x", "weights", "w1", "v1", "w2"), grads, expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda m, name=name: f"gradient of {name}: {m}")


@pytest.mark.parametrize("routing", ["even", "one"])
def test_derivative_agrees_with_finite_differences(routing):
    assert torch.autograd.gradcheck(experts, case(routing, tokens=3, model=3, hidden=2), fast_mode=False)


def test_experts_without_rows_get_zero_gradients():
    inputs = case("skewed")
    _, (_, _, *matrices) = gradients(experts, inputs)
    for gradient in matrices:
        assert gradient.view(4, -1)[[0, 3]].abs().max() == 0 and gradient.view(4, -1)[[1, 2]].abs().min() > 0


def test_bf16_is_within_bf16_rounding_of_fp64():
    exact = case("even", tokens=200, model=64, hidden=48)
    out, grads = gradients(experts, case("even", torch.bfloat16, tokens=200, model=64, hidden=48))
    expected, expected_grads = gradients(experts, exact)
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert (found.double() - wanted).norm() / wanted.norm() < 0.01  # bf16 keeps 8 bits: 0.4 % a rounding


def test_master_weights_may_be_wider_than_x():
    x, indices, weights, w1, v1, w2, n = case("even", torch.float32)
    _, grads = gradients(experts, (x.detach().bfloat16().requires_grad_(), indices, weights, w1, v1, w2, n))
    assert [g.dtype for g in grads] == [torch.bfloat16] + [torch.float32] * 4


def test_runs_repeat_bit_for_bit():
    inputs = case("even", torch.bfloat16, tokens=500, model=64, hidden=32)
    first, first_grads = gradients(experts, inputs)
    again, again_grads = gradients(experts, inputs)
    assert all(torch.equal(a, b) for a, b in zip((first, *first_grads), (again, *again_grads), strict=True))


def test_groups_hold_every_row_once_in_order_of_tokens():
    _, indices, weights, *_ = case("skewed", tokens=80)
    rows = group(indices, weights.detach(), 4)
    assert sorted(rows.place_R.tolist()) == sorted(set(rows.place_R.tolist()))
    for expert, start, end in rows.spans:
        pairs = [p for p, w in zip(rows.pair_P[start:end].tolist(), rows.weight_P1[start:end, 0].tolist(), strict=True) if w]
        assert pairs == (indices.flatten() == expert).nonzero()[:, 0].tolist()
    assert [expert for expert, *_ in rows.spans] == [1, 2]


def test_router_weights_are_the_largest_probabilities_divided_by_their_sum():
    x, router = torch.randn(9, 6), torch.randn(5, 6)
    weights, indices, probs = route(x, router, top_k=3)
    for t in range(9):
        expected = torch.exp(router @ x[t]) / torch.exp(router @ x[t]).sum()
        best = sorted(range(5), key=lambda e, p=expected: -p[e])[:3]
        assert indices[t].tolist() == best
        torch.testing.assert_close(probs[t], expected)
        torch.testing.assert_close(weights[t], expected[best] / expected[best].sum())


def test_router_probabilities_are_fp32_even_for_bf16_tokens():
    weights, _, probs = route(torch.randn(9, 6).bfloat16(), torch.randn(5, 6).bfloat16(), top_k=2)
    assert weights.dtype == probs.dtype == torch.float32


def test_balance_loss_is_one_at_balance_and_the_number_of_experts_when_all_choose_one():
    even = torch.arange(8)[:, None].repeat(1, 2) + torch.arange(2) * 4  # 8 tokens, 8 experts, each chosen twice
    assert balance_loss(torch.full((8, 8), 1 / 8), even % 8).item() == pytest.approx(1)
    assert balance_loss(F.one_hot(torch.zeros(8, dtype=torch.int64), 8).float(), torch.zeros(8, 1, dtype=torch.int64)).item() == pytest.approx(8)


def test_balance_loss_is_hugging_faces_divided_by_top_k():
    from transformers.models.dbrx.modeling_dbrx import load_balancing_loss_func

    _, indices, probs = route(torch.randn(50, 8), torch.eye(8), top_k=3)  # DBRX hands it probabilities, calling them logits
    assert balance_loss(probs, indices).item() == pytest.approx(load_balancing_loss_func((probs,), 8, 3, None).item() / 3, rel=1e-5)


def test_counts_include_experts_without_tokens():
    assert expert_counts(torch.tensor([[0, 2], [2, 0]]), 4).tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize("broken", ["v1", "w2", "weights", "experts"])
def test_shapes_that_do_not_fit_are_named(broken):
    x, indices, weights, w1, v1, w2, n = case("even")
    inputs = {"x": x, "indices": indices, "weights": weights, "w1": w1, "v1": v1, "w2": w2, "experts": n}
    inputs[broken] = 3 if broken == "experts" else inputs[broken][:-1]
    with pytest.raises(ValueError, match=r"expected .* found"):
        experts(*inputs.values())
