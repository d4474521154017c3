"""The router behind its matrix product: softmax, top-k, weights and load-balancing statistics in one pass over the
logits.

Its definition is `reference.route` and `reference.balance_loss`. No one-hots and no atomics: each program adds up its
own tokens' counts and probabilities, and a second kernel adds up the programs, always in the same order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.operator import operator

ELEMENTS = 2048  # logits a program holds at a time: 16 a thread of 4 warps
PROGRAMS = 1024  # at most, so that the second kernel has little to add up


@operator("route")
def _route(logits_TE: Tensor, top_k: int, shares_E: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outputs of `layer.route`, from the logits [T, E]."""
    return _route_launch(logits_TE, top_k, shares_E)


@_route.register_fake
def _outputs(logits_TE, top_k, shares_E=None):
    """weights, indices, balance, counts: not yet written."""
    tokens, experts = logits_TE.shape
    weights_TK, balance = (logits_TE.new_empty(shape, dtype=torch.float32) for shape in ((tokens, top_k), ()))
    indices_TK, counts_E = (logits_TE.new_empty(shape, dtype=torch.int64) for shape in ((tokens, top_k), (experts,)))
    return weights_TK, indices_TK, balance, counts_E


def _route_launch(logits_TE, top_k, shares_E):
    logits_TE, (tokens, experts) = logits_TE.contiguous(), logits_TE.shape
    weights_TK, indices_TK, balance, counts_E = outputs = _outputs(logits_TE, top_k)
    sizes = _sizes(experts)
    steps = max(triton.cdiv(tokens, sizes["STEP"] * PROGRAMS), 1)  # of each program
    programs = max(triton.cdiv(tokens, sizes["STEP"] * steps), 1)  # of no tokens, too, counts are written
    counts_PE, probs_PE = (
        logits_TE.new_empty(programs, experts, dtype=dtype) for dtype in (torch.int32, torch.float32)
    )
    route_kernel[(programs,)](
        logits_TE, weights_TK, indices_TK, counts_PE, probs_PE, tokens, steps, experts,
        K=top_k, KP=triton.next_power_of_2(top_k), **sizes, num_warps=4,
    )  # fmt: skip
    balance_kernel[(1,)](
        counts_PE, probs_PE, shares_E, counts_E, balance, programs, _scale(tokens, experts, top_k, shares_E), experts,
        **sizes, num_warps=4,
    )  # fmt: skip
    return outputs


def _scale(tokens: int, experts: int, top_k: int, shares_E: Tensor | None) -> float:
    """The loss is this times the sum over experts of shares, or else rows, x all tokens' probabilities."""
    rows = 1 if shares_E is not None else max(tokens, 1) * top_k
    return experts / (max(tokens, 1) * rows)


def _sizes(experts: int) -> dict[str, int]:
    """Tokens of a step and experts, rounded up to a power of two."""
    columns = max(triton.next_power_of_2(experts), 2)
    return dict(STEP=max(ELEMENTS // columns, 1), EP=columns)


@triton.jit
def probabilities(logits_ptr, t, tokens, n_experts, EP: tl.constexpr):
    """Softmax over the experts in fp32, [STEP, EP]: zero beyond the last expert, anything beyond the last token."""
    e = tl.arange(0, EP)
    inside = (t < tokens)[:, None] & (e < n_experts)[None, :]
    logits = tl.load(logits_ptr + t.to(tl.int64)[:, None] * n_experts + e[None, :], mask=inside, other=0.0).to(
        tl.float32
    )
    logits = tl.where((e < n_experts)[None, :], logits, float("-inf"))
    exp = tl.exp(logits - tl.max(logits, 1)[:, None])
    return exp / tl.sum(exp, 1)[:, None]


@triton.jit
def route_kernel(
    logits_ptr, weights_ptr, indices_ptr, counts_ptr, probs_ptr, tokens, steps, n_experts,
    K: tl.constexpr, KP: tl.constexpr, STEP: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """weights and indices [T, K] of this program's tokens, and the program's own sums of counts and probabilities,
    [programs, E]."""
    program = tl.program_id(0)
    e, k = tl.arange(0, EP), tl.arange(0, KP)
    counts = tl.zeros((EP,), tl.int32)
    sums = tl.zeros((EP,), tl.float32)
    for step in range(program * steps, program * steps + steps):
        t = step * STEP + tl.arange(0, STEP)
        inside = (t < tokens)[:, None]
        probs = probabilities(logits_ptr, t, tokens, n_experts, EP)
        sums += tl.sum(tl.where(inside, probs, 0.0), 0)
        left = tl.where((e < n_experts)[None, :], probs, -1.0)
        weights = tl.zeros((STEP, KP), tl.float32)
        indices = tl.zeros((STEP, KP), tl.int32)
        for j in tl.static_range(K):
            best, index = tl.max(left, 1, return_indices=True)  # of equal ones the first
            index = tl.minimum(index, n_experts - 1)  # NaN is no maximum: such tokens must not leave the table either
            weights = tl.where(k[None, :] == j, best[:, None], weights)
            indices = tl.where(k[None, :] == j, index[:, None], indices)
            chosen = e[None, :] == index[:, None]
            counts += tl.sum((chosen & inside).to(tl.int32), 0)
            left = tl.where(chosen, -1.0, left)
        place = t.to(tl.int64)[:, None] * K + k[None, :]
        stored = inside & (k < K)[None, :]
        tl.store(weights_ptr + place, weights / tl.sum(weights, 1)[:, None], mask=stored)
        tl.store(indices_ptr + place, indices.to(tl.int64), mask=stored)
    tl.store(counts_ptr + program * n_experts + e, counts, mask=e < n_experts)
    tl.store(probs_ptr + program * n_experts + e, sums, mask=e < n_experts)


@triton.jit
def balance_kernel(
    counts_ptr, probs_ptr, shares_ptr, total_ptr, balance_ptr, programs, scale, n_experts,
    STEP: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """Sums over the programs: total[e] = rows of expert e, balance = scale * sum over e of its share (where none are
    given, total[e]) times all its probabilities."""
    e = tl.arange(0, EP)
    counts = tl.zeros((EP,), tl.int32)
    probs = tl.zeros((EP,), tl.float32)
    for start in range(0, programs, STEP):
        p = start + tl.arange(0, STEP)
        place = p[:, None] * n_experts + e[None, :]
        inside = (p < programs)[:, None] & (e < n_experts)[None, :]
        counts += tl.sum(tl.load(counts_ptr + place, mask=inside, other=0), 0)
        probs += tl.sum(tl.load(probs_ptr + place, mask=inside, other=0.0), 0)
    tl.store(total_ptr + e, counts.to(tl.int64), mask=e < n_experts)
    factors = counts.to(tl.float32)
    if shares_ptr is not None:
        factors = tl.load(shares_ptr + e, mask=e < n_experts, other=0.0)
    tl.store(balance_ptr, tl.sum(factors * probs, 0) * scale)


# ------------------------------------------------------------------------------------------------ the derivative


@operator("route_backward")
def _route_backward(
    logits_TE: Tensor,
    indices_TK: Tensor,
    counts_E: Tensor,
    shares_E: Tensor | None,
    dweights_TK: Tensor,
    dbalance: Tensor,
) -> Tensor:
    """The gradient of the logits, [T, E]."""
    return _route_backward_launch(logits_TE, indices_TK, counts_E, shares_E, dweights_TK, dbalance)


@_route_backward.register_fake
def _(logits_TE, indices_TK, counts_E, shares_E, dweights_TK, dbalance):
    return torch.empty_like(logits_TE, memory_format=torch.contiguous_format)


def _route_backward_launch(logits_TE, indices_TK, counts_E, shares_E, dweights_TK, dbalance):
    logits_TE, (tokens, experts), top_k = logits_TE.contiguous(), logits_TE.shape, indices_TK.shape[1]
    dlogits_TE, sizes = torch.empty_like(logits_TE), _sizes(experts)
    route_backward_kernel[(triton.cdiv(tokens, sizes["STEP"]),)](
        logits_TE, indices_TK, counts_E if shares_E is None else shares_E, dweights_TK.contiguous(), dbalance,
        dlogits_TE, tokens, _scale(tokens, experts, top_k, shares_E), experts, K=top_k, **sizes, num_warps=4,
    )  # fmt: skip
    return dlogits_TE


@triton.jit
def route_backward_kernel(
    logits_ptr, indices_ptr, counts_ptr, dweights_ptr, dbalance_ptr, dlogits_ptr, tokens, scale, n_experts,
    K: tl.constexpr, STEP: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """With probabilities p, chosen ones w_j = p_j / s and their sum s: dp_e = scale dbalance count_e (or share_e), and
    for chosen ones also (dw_j - sum over i of dw_i w_i) / s; then dlogit_e = p_e (dp_e - sum over f of dp_f p_f).
    Choices, counts and shares have no derivative.
    """
    e = tl.arange(0, EP)
    t = tl.program_id(0) * STEP + tl.arange(0, STEP)
    probs = probabilities(logits_ptr, t, tokens, n_experts, EP)
    dweights = tl.zeros((STEP, EP), tl.float32)
    chosen = tl.zeros((STEP, EP), tl.int1)
    for j in tl.static_range(K):
        index = tl.load(indices_ptr + t.to(tl.int64) * K + j, mask=t < tokens, other=0)
        dweight = tl.load(dweights_ptr + t.to(tl.int64) * K + j, mask=t < tokens, other=0.0)
        hit = e[None, :] == index[:, None]
        dweights = tl.where(hit, dweight[:, None], dweights)
        chosen |= hit
    total = tl.sum(tl.where(chosen, probs, 0.0), 1)[:, None]
    mean = tl.sum(dweights * probs, 1)[:, None] / total
    counts = tl.load(counts_ptr + e, mask=e < n_experts, other=0).to(tl.float32)
    dprobs = (tl.load(dbalance_ptr) * scale * counts)[None, :] + tl.where(chosen, (dweights - mean) / total, 0.0)
    dlogits = probs * (dprobs - tl.sum(dprobs * probs, 1)[:, None])
    place = t.to(tl.int64)[:, None] * n_experts + e[None, :]
    tl.store(
        dlogits_ptr + place,
        dlogits.to(dlogits_ptr.dtype.element_ty),
        mask=(t < tokens)[:, None] & (e < n_experts)[None, :],
    )


class Route(torch.autograd.Function):
    """apply(logits [T, E], K, shares [E] or None) -> the outputs of `layer.route`."""

    @staticmethod
    def forward(ctx, logits_TE, top_k, shares_E=None):
        weights_TK, indices_TK, balance, counts_E = _route(logits_TE, top_k, shares_E)
        ctx.save_for_backward(logits_TE, indices_TK, counts_E, shares_E)
        ctx.mark_non_differentiable(indices_TK, counts_E)
        ctx.set_materialize_grads(False)  # zeros for indices and counts would be two launches more
        return weights_TK, indices_TK, balance, counts_E

    @staticmethod
    @once_differentiable
    def backward(ctx, dweights_TK, _indices, dbalance, _counts):
        logits_TE, indices_TK, counts_E, shares_E = ctx.saved_tensors
        if dweights_TK is None:
            dweights_TK = logits_TE.new_zeros(indices_TK.shape, dtype=torch.float32)
        if dbalance is None:
            dbalance = logits_TE.new_zeros((), dtype=torch.float32)
        return _route_backward(logits_TE, indices_TK, counts_E, shares_E, dweights_TK, dbalance), None, None
