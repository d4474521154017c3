"""Cross-entropy of a head's logits and its gradient in one visit: logits become their own gradient where they lie."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096  # of a row that a program holds at a time: 16 values a thread of 8 warps


@triton.jit
def cross_entropy_kernel(logits_ptr, targets_ptr, share_ptr, losses_ptr, width, COLUMNS: tl.constexpr):
    """One row. It is read twice, the second time from L2, and written once."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    base, n = logits_ptr + row * width, tl.arange(0, COLUMNS)
    top = tl.full((COLUMNS,), float("-inf"), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, width, COLUMNS):
        x = tl.load(base + start + n, mask=start + n < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, x)
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a column that has seen nothing yet
        total = total * tl.exp(top - safe) + tl.exp(x - safe)
        top = higher
    most = tl.max(top, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(top - most), 0))
    at = tl.load(base + tl.maximum(target, 0)).to(tl.float32)
    tl.store(losses_ptr + row, tl.where(target >= 0, log_sum - at, 0.0))
    if share_ptr is not None:
        share = tl.where(target >= 0, tl.load(share_ptr), 0.0)
        tl.debug_barrier()  # every thread has read the target's logit
        for start in range(0, width, COLUMNS):
            c = start + n
            x = tl.load(base + c, mask=c < width, other=0.0).to(tl.float32)
            gradient = (tl.exp(x - log_sum) - (c == target).to(tl.float32)) * share
            tl.store(base + c, gradient.to(logits_ptr.dtype.element_ty), mask=c < width)


def cross_entropy(logits_RV: Tensor, targets_R: Tensor, share: Tensor | None) -> Tensor:
    """Cross-entropy of each row in nats, [R] fp32, 0 where its target is -1.

    With `share` (fp32, no dimension) the logits, contiguous, become the gradient of share times the sum of the losses.
    """
    losses_R = torch.empty(len(logits_RV), device=logits_RV.device, dtype=torch.float32)
    if len(logits_RV):
        cross_entropy_kernel[(len(logits_RV),)](
            logits_RV, targets_R, share, losses_R, logits_RV.shape[1], COLUMNS=COLUMNS, num_warps=8
        )
    return losses_R
