"""AdamW's update of one weight in one visit, with everything that depends on the gradients' norm read from the
device."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # weights a program


@triton.jit
def adamw_kernel(
    weight_ptr, master_ptr, gradient_ptr, first_ptr, second_ptr, numbers_ptr, n, decay,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPS: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """28 bytes a weight where the gradient is bf16: the step is as fast as memory."""
    if tl.load(numbers_ptr + 4) == 0.0:
        return
    rate, correct_1, correct_2 = tl.load(numbers_ptr), tl.load(numbers_ptr + 1), tl.load(numbers_ptr + 2)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    g = tl.load(gradient_ptr + i, mask=inside, other=0.0).to(tl.float32) * tl.load(numbers_ptr + 3)
    p = tl.load(master_ptr + i, mask=inside, other=0.0)
    m = tl.load(first_ptr + i, mask=inside, other=0.0)
    v = tl.load(second_ptr + i, mask=inside, other=0.0)
    m += (g - m) * (1 - BETA_1)
    v = v * BETA_2 + g * g * (1 - BETA_2)
    p = p * (1 - rate * decay) - rate * (m * correct_1) / (tl.sqrt(v * correct_2) + EPS)
    tl.store(master_ptr + i, p, mask=inside)
    tl.store(first_ptr + i, m, mask=inside)
    tl.store(second_ptr + i, v, mask=inside)
    if ROUND:
        tl.store(weight_ptr + i, p.to(weight_ptr.dtype.element_ty), mask=inside)


def update(
    weight: Tensor,
    master: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    numbers: Tensor,
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> None:
    """Update master (fp32), moments (fp32) and, where it has another dtype, the rounded weight, in place; all of one
    shape and contiguous.

    `numbers` [5], fp32 on the device: learning rate, 1 / (1 - beta_1^t), 1 / (1 - beta_2^t), what the gradient is
    multiplied with, and 0 if nothing is to happen.
    """
    if not (n := master.numel()):
        return
    adamw_kernel[(triton.cdiv(n, BLOCK),)](
        weight, master, gradient, first, second, numbers, n, decay, BETA_1=betas[0], BETA_2=betas[1], EPS=eps,
        ROUND=weight.dtype != master.dtype, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
