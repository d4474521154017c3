"""Cross-entropy of the head and its gradients, without the logits in memory: they are the largest tensor of a small
model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# bytes of logits held at once. A CPU's cache holds 512 rows of 4,096 in fp32; on a GPU the head's gradient is read and
# written once a chunk, which took a third of a step with chunks as small
CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 30}


def targets(tokens_BL: Tensor, segments_BL: Tensor, docs_S: Tensor) -> Tensor:
    """The token that each place predicts, [B, L]; -1 where it predicts none.

    A token predicts the next one if both are of the same segment and that segment is no padding (document key 0).
    """
    same = (segments_BL[:, 1:] == segments_BL[:, :-1]) & (docs_S[segments_BL[:, 1:]] != 0)
    return F.pad(tokens_BL[:, 1:].masked_fill(~same, -1), (0, 1), value=-1)


@torch.no_grad()
def token_losses(states_TD: Tensor, head_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Cross-entropy of each place in nats, [T] fp32, 0 where the target is -1; without derivative."""
    losses = [
        cross_entropy(torch.mm(states_TD[here], head_VD.t()), targets_T[here], None)
        for here in _chunks(states_TD, head_VD)
    ]
    return torch.cat(losses)


@torch.no_grad()
def head_loss(
    states_TD: Tensor, head_VD: Tensor, targets_T: Tensor, share: Tensor, total_VD: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropies [T] in nats, gradient of the states [T, D], gradient of the head [V, D] in fp32) of `share`
    times the sum of the cross-entropies.

    Gradients are taken while a chunk's logits are at hand. That of the head is added to `total_VD` where it is given.
    """
    losses, dstates_TD = [], torch.empty_like(states_TD)
    if total_VD is None:
        total_VD = torch.zeros_like(head_VD, dtype=torch.promote_types(head_VD.dtype, torch.float32))
    for here in _chunks(states_TD, head_VD):
        logits_RV = torch.mm(states_TD[here], head_VD.t())
        losses.append(cross_entropy(logits_RV, targets_T[here], share))
        torch.mm(logits_RV, head_VD, out=dstates_TD[here])
        add_product(total_VD, logits_RV.t(), states_TD[here])
    return torch.cat(losses), dstates_TD, total_VD


class HeadLoss(torch.autograd.Function):
    """apply(states [T, D], head [V, D], targets [T], share, total [V, D] or None) -> (share times the sum of the
    cross-entropies, cross-entropies [T]).

    The gradients are made in the forward: its sum is to be derived with a factor of 1. That of the head is rounded to
    its dtype, or added to `total`.
    """

    @staticmethod
    def forward(ctx, states_TD, head_VD, targets_T, share, total_VD):
        losses_T, dstates_TD, dhead_VD = head_loss(states_TD, head_VD, targets_T, share, total_VD)
        ctx.gradients = dstates_TD, None if total_VD is not None else dhead_VD.to(head_VD.dtype)
        ctx.mark_non_differentiable(losses_T)
        return losses_T.sum() * share, losses_T

    @staticmethod
    @once_differentiable
    def backward(ctx, _one, _losses):
        (dstates_TD, dhead_VD), ctx.gradients = ctx.gradients, None
        return dstates_TD, dhead_VD, None, None, None


def cross_entropy(logits_RV: Tensor, targets_R: Tensor, share: Tensor | None) -> Tensor:
    """`kernels.cross_entropy` on a GPU, its definition elsewhere."""
    if logits_RV.is_cuda:
        from kernels.cross_entropy import cross_entropy

        return cross_entropy(logits_RV, targets_R, share)
    at_R1 = targets_R[:, None].clamp(min=0)
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    probs_RV = logits_RV.softmax(-1, dtype=wide)
    # in fp32 none above 87 nats
    losses_R = -probs_RV.gather(1, at_R1)[:, 0].clamp(min=torch.finfo(wide).tiny).log()
    if share is not None:
        probs_RV.scatter_add_(1, at_R1, -torch.ones_like(at_R1, dtype=wide))
        torch.mul(probs_RV, (share * (targets_R >= 0))[:, None], out=logits_RV)
    return losses_R * (targets_R >= 0)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, which on a GPU is never rounded to the dtype of a and b."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += torch.mm(a, b)


def _chunks(states_TD: Tensor, head_VD: Tensor) -> list[slice]:
    kind = head_VD.device.type
    wide = torch.promote_types(head_VD.dtype, torch.float32) if kind == "cpu" else head_VD.dtype
    rows = max(1, CHUNK_BYTES[kind] // (wide.itemsize * len(head_VD)))
    return [slice(start, start + rows) for start in range(0, len(states_TD), rows)]
