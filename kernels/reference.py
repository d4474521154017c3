"""Routing and the dropless expert layer in plain torch: the definition that kernels are tested against, and the CPU
path.

Every sum has a fixed order (sorting is stable, results are gathered and summed, never scattered with atomics), so the
same inputs give the same bits. Shapes use the letters of `kernels/__init__.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# rows; on a CPU each new shape of a bf16 product costs oneDNN 0.5 ms to compile, so experts have few distinct sizes
FILL = 32


def route(x_TD: Tensor, router_ED: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the experts of each token: (weights [T, K] summing to 1, indices [T, K], probabilities [T, E]); fp32 but
    indices.

    As DBRX: softmax over all experts in fp32, then the K largest, divided by their sum (moe_normalize_expert_weights =
    1).
    """
    logits_TE = F.linear(x_TD, router_ED)
    probs_TE = logits_TE.softmax(-1, dtype=torch.promote_types(logits_TE.dtype, torch.float32))
    weights_TK, indices_TK = probs_TE.topk(top_k, dim=-1)
    return weights_TK / weights_TK.sum(-1, keepdim=True), indices_TK, probs_TE


def balance_loss(probs_TE: Tensor, indices_TK: Tensor, shares_E: Tensor | None = None) -> Tensor:
    """Load-balancing loss, 1 when both choices and probabilities are even: E * sum over e of share_e * mean(probs_e).

    `shares_E` is the part of all rows that each expert receives: where none are given, of these tokens, which is
    MegaBlocks' form without its weight (Hugging Face's `load_balancing_loss_func` is K times as large).
    """
    experts = probs_TE.shape[1]
    if shares_E is None:
        shares_E = expert_counts(indices_TK, experts) / max(1, indices_TK.numel())
    return torch.dot(shares_E.to(probs_TE.dtype), probs_TE.mean(0)) * experts


def expert_counts(indices_TK: Tensor, experts: int) -> Tensor:
    """How many rows each expert receives, [E] int64."""
    return torch.bincount(indices_TK.reshape(-1), minlength=experts)


class Rows(NamedTuple):
    """Where rows lie once they are grouped by expert, P places in all; each expert's places are filled up to a multiple
    of `FILL`.

    `pair_P[p]` is the place in indices.flatten() of the row at p (0 where p only fills up), `place_R` the way back,
    `weight_P1` its routing weight (0 where p fills up), `spans` the (expert, first, behind last) of experts with rows.
    """

    pair_P: Tensor
    place_R: Tensor
    weight_P1: Tensor
    spans: list[tuple[int, int, int]]


def group(indices_TK: Tensor, weights_TK: Tensor, experts: int) -> Rows:
    """Group rows by expert; rows of one expert stay in the order of their tokens."""
    expert_R = indices_TK.reshape(-1)
    order_R = torch.argsort(expert_R, stable=True)
    counts_E = expert_counts(indices_TK, experts)
    filled_E = (counts_E + FILL - 1).div(FILL, rounding_mode="floor") * FILL
    shift_E = (filled_E - counts_E).cumsum(0) - (filled_E - counts_E)
    sorted_place_R = torch.arange(len(order_R), device=order_R.device) + shift_E[expert_R[order_R]]
    place_R = torch.empty_like(order_R).index_copy_(0, order_R, sorted_place_R)
    ends = filled_E.cumsum(0).tolist()
    pair_P = order_R.new_zeros(ends[-1]).index_copy_(0, sorted_place_R, order_R)
    weight_P1 = weights_TK.new_zeros(ends[-1], 1).index_copy_(0, place_R, weights_TK.reshape(-1, 1))
    return Rows(
        pair_P, place_R, weight_P1, [(e, a, b) for e, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if a < b]
    )


def experts(
    x_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor, w1: Tensor, v1: Tensor, w2: Tensor, n_experts: int
) -> Tensor:
    """Weighted sum of each token's experts, [T, D]: expert e gives (silu(x w1_e^T) * (x v1_e^T)) w2_e. No token is
    dropped.

    w1, v1, w2 are [E * F, D] as DBRX publishes them (w2 is stored transposed). Matrix products run in the dtype of x.
    Raises ValueError for shapes that do not fit.
    """
    if w1.shape != v1.shape or w1.shape != w2.shape or w1.shape[0] % n_experts or w1.shape[1] != x_TD.shape[1]:
        shapes = [tuple(w.shape) for w in (w1, v1, w2)]
        raise ValueError(f"expected w1, v1, w2 of one shape [{n_experts} * F, {x_TD.shape[1]}], found {shapes}")
    if indices_TK.shape != weights_TK.shape or len(indices_TK) != len(x_TD):
        shapes = f"{tuple(indices_TK.shape)} and {tuple(weights_TK.shape)}"
        raise ValueError(f"expected indices and weights [{len(x_TD)}, K], found {shapes}")
    return Experts.apply(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts)


class Experts(torch.autograd.Function):
    """`experts` with its derivative. Saved are each row's x and pre-activations H = [x w1^T, x v1^T].

    With A = silu(gate) * linear, Y = (weight A) w2 and dA' = dY w2^T, the gradient of a routing weight is <dA', A>, so
    neither Y nor A need be kept.
    """

    @staticmethod
    def forward(ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts):
        top_k, dtype = indices_TK.shape[1], x_TD.dtype
        rows = group(indices_TK, weights_TK.to(dtype), n_experts)
        up_EGD, down_EFD = _fused(w1, v1, n_experts, dtype), w2.view(n_experts, -1, w2.shape[1]).to(dtype)
        x_PD = x_TD.index_select(0, rows.pair_P // top_k)
        h_PG = _products(x_PD, up_EGD.transpose(1, 2), rows.spans)
        gate_PF, linear_PF = h_PG.chunk(2, dim=1)
        y_PD = _products(F.silu(gate_PF).mul_(linear_PF).mul_(rows.weight_P1), down_EFD, rows.spans)
        ctx.save_for_backward(x_PD, h_PG, up_EGD, down_EFD, rows.pair_P, rows.place_R, rows.weight_P1)
        ctx.spans, ctx.top_k, ctx.dtypes = rows.spans, top_k, (weights_TK.dtype, w1.dtype)
        return _sum_choices(y_PD, rows.place_R, top_k)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_TD):
        x_PD, h_PG, up_EGD, down_EFD, pair_P, place_R, weight_P1 = ctx.saved_tensors
        router_dtype, weight_dtype = ctx.dtypes
        gate_PF, linear_PF = h_PG.chunk(2, dim=1)
        dy_PD = dout_TD.index_select(0, pair_P // ctx.top_k)
        sigmoid_PF = gate_PF.sigmoid()
        act_PF = gate_PF * sigmoid_PF
        a_PF = act_PF * linear_PF
        da_PF = _products(dy_PD, down_EFD.transpose(1, 2), ctx.spans)
        dweights_TK = (da_PF * a_PF).sum(1, dtype=router_dtype).index_select(0, place_R).view(-1, ctx.top_k)
        dw2_EFD = _outer_products(a_PF.mul_(weight_P1), dy_PD, down_EFD, ctx.spans)
        da_PF.mul_(weight_P1)
        dh_PG = torch.empty_like(h_PG)
        dgate_PF, dlinear_PF = dh_PG.chunk(2, dim=1)
        torch.mul(da_PF, act_PF, out=dlinear_PF)
        dsilu_PF = torch.lerp(act_PF, act_PF.new_ones(()), sigmoid_PF, out=act_PF)  # silu' = act + sigmoid * (1 - act)
        torch.mul(da_PF.mul_(linear_PF), dsilu_PF, out=dgate_PF)
        dx_TD = _sum_choices(_products(dh_PG, up_EGD, ctx.spans), place_R, ctx.top_k)
        dw1_EFD, dv1_EFD = _outer_products(dh_PG, x_PD, up_EGD, ctx.spans).chunk(2, dim=1)
        dw1, dv1, dw2 = (d.to(weight_dtype).reshape(-1, d.shape[2]) for d in (dw1_EFD, dv1_EFD, dw2_EFD))
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None


def _fused(w1: Tensor, v1: Tensor, n_experts: int, dtype: torch.dtype) -> Tensor:
    """w1 and v1 side by side per expert, [E, 2F, D]: one product instead of two. The cast to bf16 would copy them
    anyway."""
    w1_EFD, v1_EFD = (w.view(n_experts, -1, w.shape[1]) for w in (w1, v1))
    hidden = w1_EFD.shape[1]
    fused = w1.new_empty(n_experts, 2 * hidden, w1.shape[1], dtype=dtype)
    fused[:, :hidden], fused[:, hidden:] = w1_EFD, v1_EFD
    return fused


def _products(a_PM: Tensor, b_EMN: Tensor, spans: list[tuple[int, int, int]]) -> Tensor:
    """Each row times its expert's matrix, [P, N]."""
    out_PN = a_PM.new_empty(len(a_PM), b_EMN.shape[2])
    for e, start, end in spans:
        torch.mm(a_PM[start:end], b_EMN[e], out=out_PN[start:end])
    return out_PN


def _outer_products(a_PM: Tensor, b_PN: Tensor, like_EMN: Tensor, spans: list[tuple[int, int, int]]) -> Tensor:
    """Gradient of each expert's matrix, [E, M, N]: the sum over its rows of a^T b; zero for experts without rows."""
    out_EMN = torch.zeros_like(like_EMN)
    for e, start, end in spans:
        torch.mm(a_PM[start:end].t(), b_PN[start:end], out=out_EMN[e])
    return out_EMN


def _sum_choices(y_PD: Tensor, place_R: Tensor, top_k: int) -> Tensor:
    """Sum the K rows of each token, [T, D], always in the order of its choices. An embedding bag gathers and sums in
    one pass."""
    return F.embedding_bag(place_R.view(-1, top_k), y_PD, mode="sum")
