"""Expert layers as block-sparse products, in portable Triton: Ampere and later, bf16, fp16 or fp32, D and F any
multiples of 16.

Seen as one product over all experts, the hidden activations of a layer are a sparse matrix S [R, E * F]: a row is zero
outside the F columns of its expert. Rows are sorted by expert (`topology`), so the rest are E dense blocks of rows,
kept as values [R, F] without any index. All work is three products (s sparse, d dense; the first letter is the result):

    sdd   S = A B, only where S is not zero   A [R, D], B [D, E * F]      gate = sdd(x, w1.t())
    dsd   S B, or S^T B                       B [E * F, D], or [R, D]     y = dsd(a, w2), dw2 = dsd(a, dy, trans_s=True)
    dds   A S, or A S^T                       by transposing dsd

and derivatives of these products are products of the same kinds. Two kernels suffice, as transposes are strides:
`rows_kernel`, whose tiles are rows of one expert, and `outer_kernel`, whose tiles lie in one expert's block of a weight
and sum over that expert's rows. The layer fuses SwiGLU into the first product (`glu_kernel`), sums two products where a
derivative does, and moves rows by `spread` and `combine`. Weights are [E * F, D] as DBRX publishes them. No sum uses
atomics: same inputs, same bits.

    products        sdd, dsd and dds: block-sparse products, differentiable
    rows            rows x their expert's weights
    outer           weight gradients
    glu             gate, linear, SwiGLU and its derivative
    tokens          from tokens to rows and back, for both paths
    tiles           what kernels of products share

Shapes: as in `kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.blocksparse.glu import swiglu, swiglu_backward
from kernels.blocksparse.outer import outer_products
from kernels.blocksparse.products import dds, dsd, sdd
from kernels.blocksparse.rows import row_products
from kernels.blocksparse.tiles import blocks
from kernels.blocksparse.tokens import combine, spread
from kernels.topology import build, on_triton

__all__ = ["Experts", "combine", "dds", "dsd", "sdd", "spread", "supports"]


def supports(x_TD: Tensor, w1: Tensor, n_experts: int) -> str | None:
    """What this path supports, if these inputs are something else; None if it can run them."""
    if not on_triton(x_TD) or (x_TD.is_cuda and torch.cuda.get_device_properties(x_TD.device).major < 8):
        return f"NVIDIA GPUs from sm_80 on, not {x_TD.device}"
    if x_TD.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"x in bf16, fp16 or fp32, not {x_TD.dtype}"
    if x_TD.shape[1] % 16 or w1.shape[0] % (16 * n_experts):
        return f"D and F multiples of 16, not {x_TD.shape[1]} and {w1.shape[0] / n_experts:g}"
    return None


class Experts(torch.autograd.Function):
    """apply(x [T, D], indices [T, K], weights [T, K], w1, v1, w2 [E * F, D] in the dtype of x, E) -> [T, D]; see
    `layer.experts`.

    Saved are x, gate, linear and the routing. With y = a w2 before its weight and da' = dy w2^T, the gradient of a
    weight is <da', a>, so neither y nor a need be kept. The backward overwrites gate and linear: a second one raises
    RuntimeError. Products that only an input without requires_grad would need are left out.
    """

    @staticmethod
    def forward(ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts):
        top_k = indices_TK.shape[1]
        topology = build(indices_TK, n_experts)
        tiles = blocks(topology, x_TD)
        gate_RF, linear_RF, a_RF = swiglu(spread(x_TD, topology.place_R, top_k), w1, v1, *tiles, n_experts)
        y_RD = row_products([a_RF], [w2], *tiles, n_experts, False)
        ctx.save_for_backward(x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, *topology, *tiles)
        return combine(y_RD, topology.place_R, top_k, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_TD):
        x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, place_R, offsets_E1, order_E, *tiles = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            ctx.maybe_clear_saved_tensors()  # so that gate and linear are freed below, not at the end
        top_k, n_experts = weights_TK.shape[1], order_E.shape[0]
        needs_x, _, _, needs_w1, needs_v1, needs_w2, _ = ctx.needs_input_grad
        dy_RD = spread(dout_TD, place_R, top_k)
        a_RF = row_products([dy_RD], [w2.t()], *tiles, n_experts, True)  # da' at first
        dweights_TK = swiglu_backward(a_RF, gate_RF, linear_RF, place_R, weights_TK)
        dgate_RF, dlinear_RF = gate_RF, linear_RF
        dw2 = outer_products(a_RF, dy_RD, offsets_E1, order_E) if needs_w2 else None
        del a_RF, dy_RD, gate_RF, linear_RF
        dx_TD = (
            combine(row_products([dgate_RF, dlinear_RF], [w1, v1], *tiles, n_experts, False), place_R, top_k, None)
            if needs_x
            else None
        )
        x_RD = spread(x_TD, place_R, top_k) if needs_w1 or needs_v1 else None
        dw1 = outer_products(dgate_RF, x_RD, offsets_E1, order_E) if needs_w1 else None
        del dgate_RF
        dv1 = outer_products(dlinear_RF, x_RD, offsets_E1, order_E) if needs_v1 else None
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None
