"""The expert layer on Hopper (sm_90): bf16 or fp16 with fp32 sums, D and F multiples of 64.

Six launches, seven at DBRX's shape (`choices.PAIR_BELOW`), of persistent Gluon kernels, with what surrounds the
products in their epilogues:

    gate, linear, a = x W1^T, x V1^T, silu(gate) * linear       `swiglu`
    y = a W2                                                    `row_products`, then weighted and summed by `combine`
    da' = dy W2^T -> weight * a, dgate, dlinear, dweight        `swiglu_backward`
    dW2 = (weight * a)^T dy; dW1, dV1 = dgate^T x, dlinear^T x  `outer_products`
    dx = dgate W1 + dlinear V1                                  `row_products`

These are in `operators`, over `choices` by shape and `launch`. Kernels: `rows`, `dact` (on `tiles`) and `outer`, all on
the ring of `ring`.

Weights are used where they lie, [E * F, D] as DBRX publishes them. Rows are sorted by expert and never padded; how many
an expert has is known on the device only, so nothing waits for it. Results repeat bit for bit. Rates of the layer as it
is: see benchmarks/results/experts.md. Numbers in comments of hopper/ are of other, earlier runs on an H200 (132 SMs,
700 W), in % of the rate of six dense cuBLAS products of the same size: they told one choice from another.

    choices         sizes and order of tiles by shape
    operators       what the layer launches, as operators of torch
    launch          descriptors, launches, compiling ahead
    rows            rows x their expert's weights, and SwiGLU
    dact            the derivative of SwiGLU behind its product
    outer           weight gradients
    tiles           order, loading and sums of tiles, for rows and dact
    counter         which block takes which tile, and their pace
    ring            slots of shared memory between a loader and consumers, for all three

Shapes: as in `kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.blocksparse.tokens import combine, spread
from kernels.hopper.choices import DACT_GROUP, DACT_SLABS, SLABS, outer_in_pairs, plan
from kernels.hopper.operators import add_outer_products, outer_products, row_products, swiglu, swiglu_backward
from kernels.topology import Topology, build, build_here, row_tiles

__all__ = ["Experts", "supports"]


def supports(x_TD: Tensor, w1: Tensor, n_experts: int) -> str | None:
    """What this path supports, if these inputs are something else; None if it can run them."""
    nvidia = x_TD.is_cuda and not torch.version.hip
    # which torch.compile can fold, unlike its capability
    gpu = torch.cuda.get_device_properties(x_TD.device) if nvidia else None
    if gpu is None or (gpu.major, gpu.minor) != (9, 0):
        return f"GPUs of sm_90 (H100, H200), not {gpu.name if gpu else x_TD.device}"
    if x_TD.dtype not in (torch.bfloat16, torch.float16):
        return f"x in bf16 or fp16, not {x_TD.dtype}"
    if x_TD.shape[1] % 64 or w1.shape[0] % (64 * n_experts):
        return f"D and F multiples of 64, not {x_TD.shape[1]} and {w1.shape[0] / n_experts:g}"
    return None


class Experts(torch.autograd.Function):
    """apply(x [T, D], indices [T, K], weights [T, K], w1, v1, w2 [E * F, D] in the dtype of x, E) -> [T, D]; see
    `layer.experts`.

    Saved are x, gate, linear and the routing. With y = a w2 before its weight and da' = dy w2^T, the gradient of a
    weight is <da', a>, so neither y nor a need be kept. The backward overwrites gate and linear: a second one raises
    RuntimeError. Products that only an input without requires_grad would need are left out. Where a main gradient is
    given, fp32, the weight's is added there and None returned (3.7 % of a step at DBRX's shape; a gradient in bf16 that
    is added later costs four times as much). With `elsewhere` an index of E is an expert that lives elsewhere: its rows
    are behind all others, and no tile covers them.
    """

    @staticmethod
    def forward(
        ctx, x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts,
        main_w1=None, main_v1=None, main_w2=None, elsewhere=False,
    ):  # fmt: skip
        ctx.mains, ctx.elsewhere = (main_w1, main_v1, main_w2), elsewhere
        w1, v1, w2 = (w.contiguous() for w in (w1, v1, w2))
        topology, top_k = (build_here if elsewhere else build)(indices_TK, n_experts), indices_TK.shape[1]
        tiles = row_tiles(topology, 64 * SLABS, plan(x_TD.shape[1]).group)
        gate_RF, linear_RF, a_RF = swiglu(spread(x_TD, topology.place_R, top_k), w1, v1, *tiles, n_experts)
        y_RD = row_products([a_RF], [w2], *tiles)
        del a_RF
        ctx.save_for_backward(x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, *topology, *tiles)
        end = topology.offsets_E1[-1:] if elsewhere else None  # behind it nothing was written
        return combine(y_RD, topology.place_R, top_k, weights_TK, end)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_TD):
        x_TD, weights_TK, w1, v1, w2, gate_RF, linear_RF, place_R, offsets_E1, order_E, *tiles = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            ctx.maybe_clear_saved_tensors()  # so that gate and linear are freed below, not at the end
        (main_w1, main_v1, main_w2), top_k, spans = ctx.mains, weights_TK.shape[1], (offsets_E1, order_E)
        needs_x, _, _, needs_w1, needs_v1, needs_w2, *_ = ctx.needs_input_grad
        dact_tiles = row_tiles(Topology(place_R, *spans), 64 * DACT_SLABS, DACT_GROUP)
        dy_RD = spread(dout_TD, place_R, top_k)
        a_RF, dweights_TK = swiglu_backward(dy_RD, w2, gate_RF, linear_RF, weights_TK, place_R, *dact_tiles)
        dw2 = _gradient(a_RF, dy_RD, main_w2, *spans) if needs_w2 else None
        del a_RF, dy_RD
        end = offsets_E1[-1:] if ctx.elsewhere else None
        if end is not None:
            dweights_TK = torch.where((place_R < end).view_as(dweights_TK), dweights_TK, 0)
        dgate_RF, dlinear_RF = gate_RF, linear_RF
        del gate_RF, linear_RF
        dx_TD = (
            combine(row_products([dgate_RF, dlinear_RF], [w1, v1], *tiles), place_R, top_k, None, end)
            if needs_x
            else None
        )
        x_RD = spread(x_TD, place_R, top_k) if needs_w1 or needs_v1 else None
        n_experts, plain = len(order_E), needs_w1 and needs_v1 and main_w1 is None and main_v1 is None
        if plain and outer_in_pairs(w1.shape[0] // n_experts, w1.shape[1], n_experts):
            dw1, dv1 = outer_products([dgate_RF, dlinear_RF], x_RD, *spans)
        else:
            dw1 = _gradient(dgate_RF, x_RD, main_w1, *spans) if needs_w1 else None
            del dgate_RF
            dv1 = _gradient(dlinear_RF, x_RD, main_v1, *spans) if needs_v1 else None
        return dx_TD, None, dweights_TK, dw1, dv1, dw2, None, None, None, None, None


def _gradient(a_RF: Tensor, b_RD: Tensor, main: Tensor | None, offsets_E1: Tensor, order_E: Tensor) -> Tensor | None:
    """a^T b of each expert: returned, or added to `main` where there is one."""
    if main is None:
        return outer_products([a_RF], b_RD, offsets_E1, order_E)[0]
    add_outer_products(a_RF, b_RD, main, offsets_E1, order_E)
    return None
