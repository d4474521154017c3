"""Cross-entropy of the head without keeping its logits, which are the largest tensor of a small model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.moe import compute_dtype

CHUNK_LOGITS = 1 << 21  # logits held at once; 512 rows of 4,096 (8 MB in fp32) stay in a CPU's cache


def targets(tokens_BL: Tensor, segments_BL: Tensor, docs_S: Tensor) -> Tensor:
    """The token that each place predicts, [B, L]; -1 where it predicts none.

    A token predicts the next one if both are of the same segment and that segment is no padding (document key 0).
    """
    same = (segments_BL[:, 1:] == segments_BL[:, :-1]) & (docs_S[segments_BL[:, 1:]] != 0)
    return F.pad(tokens_BL[:, 1:].masked_fill(~same, -1), (0, 1), value=-1)


def token_losses(states_TD: Tensor, head_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Cross-entropy of each place in nats, [T] fp32, 0 where the target is -1; without derivative."""
    with torch.no_grad():
        return _forward(states_TD, head_VD, targets_T, derive=False)[0]


class MeanLoss(torch.autograd.Function):
    """(mean cross-entropy of places with a target, cross-entropies [T]) in nats, of states [T, D], head [V, D], targets
    [T].

    Only the mean has a derivative. Its softmax - onehot is taken while a chunk's logits are at hand: one pass over
    them.
    """

    @staticmethod
    def forward(ctx, states_TD, head_VD, targets_T):
        losses_T, dstates_TD, dhead_VD = _forward(states_TD, head_VD, targets_T, derive=True)
        ctx.save_for_backward(dstates_TD, dhead_VD)
        ctx.mark_non_differentiable(losses_T)
        return losses_T.sum() / _count(targets_T), losses_T

    @staticmethod
    def backward(ctx, dmean, _):
        dstates_TD, dhead_VD = ctx.saved_tensors
        return dstates_TD * dmean, dhead_VD * dmean, None


def _count(targets_T: Tensor) -> Tensor:
    return (targets_T >= 0).sum().clamp(min=1)


def _forward(
    states_TD: Tensor, head_VD: Tensor, targets_T: Tensor, derive: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses, and if `derive` the gradients of their mean for states and head, in chunks of rows."""
    dtype = compute_dtype(states_TD)
    x_TD, w_VD, wide = states_TD.to(dtype), head_VD.to(dtype), torch.promote_types(dtype, torch.float32)
    losses_T = torch.empty(len(x_TD), dtype=wide, device=x_TD.device)
    dx_TD, dw_VD = (torch.empty_like(x_TD), torch.zeros_like(head_VD)) if derive else (None, None)
    share_T1 = ((targets_T >= 0) / _count(targets_T)).to(dtype)[:, None]
    for start in range(0, len(x_TD), rows := max(1, CHUNK_LOGITS // len(w_VD))):
        here = slice(start, start + rows)
        at = targets_T[here, None].clamp(min=0)
        probs = torch.mm(x_TD[here], w_VD.t()).softmax(-1, dtype=wide)
        # in fp32 none above 87 nats
        losses_T[here] = -probs.gather(1, at)[:, 0].clamp(min=torch.finfo(wide).tiny).log()
        if derive:
            # share_T1 is applied to the smaller factors
            dlogits = probs.scatter_add_(1, at, -torch.ones_like(at, dtype=wide)).to(dtype)
            torch.mul(torch.mm(dlogits, w_VD), share_T1[here], out=dx_TD[here])
            dw_VD += torch.mm(dlogits.t(), x_TD[here] * share_T1[here])
    return losses_T * (targets_T >= 0), dx_TD, dw_VD
