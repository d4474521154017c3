"""One differentiable call for the expert layer and one for its router, and the choice of the kernels behind them.

The reference runs anywhere; what needs Triton is there where Triton is (Linux).
"""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import reference

log = logging.getLogger(__name__)

PATHS = {"reference": reference}
if importlib.util.find_spec("triton"):
    from kernels import blocksparse, hopper, router

    PATHS |= {"blocksparse": blocksparse, "hopper": hopper}


def experts(
    x_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor, w1: Tensor, v1: Tensor, w2: Tensor, n_experts: int, implementation: str = "auto"
) -> Tensor:
    """Weighted sum of each token's experts, [T, D]: expert e gives (silu(x w1_e^T) * (x v1_e^T)) w2_e. No token is dropped.

    indices [T, K] say which experts (int32 or int64), weights [T, K] how much; w1, v1, w2 are [E * F, D] as DBRX publishes them (w2
    is stored transposed). Products run in the dtype of x: weights of another dtype are cast once, and get gradients of their own dtype.
    `implementation` is that of `choose`. Raises ValueError for shapes that do not fit and for what the implementation does not support.
    """
    _check(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts)
    chosen = choose(x_TD, w1, n_experts, implementation)
    if chosen != "reference":  # which casts where it joins w1 and v1
        w1, v1, w2 = (w.to(x_TD.dtype) for w in (w1, v1, w2))
    return PATHS[chosen].Experts.apply(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts)


def route(x_TD: Tensor, router_ED: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the experts of each token: (weights [T, K] fp32, indices [T, K] int64, balance loss, rows of each expert [E] int64).

    Weights are the K largest probabilities divided by their sum; of equal ones the smaller expert number goes first. The loss is 1 when
    both choices and probabilities are even (`reference.balance_loss`). Raises ValueError for top_k beyond the number of experts.
    """
    if not 0 < top_k <= len(router_ED):
        raise ValueError(f"expected top_k from 1 to the {len(router_ED)} experts, found {top_k}")
    if x_TD.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return router.route(F.linear(x_TD, router_ED), top_k)
    weights_TK, indices_TK, probs_TE = reference.route(x_TD, router_ED, top_k)
    counts_E = reference.expert_counts(indices_TK, len(router_ED))
    return weights_TK, indices_TK, reference.balance_loss(probs_TE, indices_TK), counts_E


def choose(x_TD: Tensor, w1: Tensor, n_experts: int, implementation: str = "auto") -> str:
    """The kernels that run for these inputs: "hopper", "blocksparse" or "reference". Each choice is logged when first made.

    auto: hopper on sm_90, blocksparse on other NVIDIA GPUs and for what hopper does not support, reference elsewhere. Raises ValueError
    if the implementation is unknown or does not support the inputs, and says what it supports.
    """
    if implementation == "auto":
        chosen, why = _automatic(x_TD, w1, n_experts)
    elif implementation in PATHS:
        chosen, why = implementation, "asked for"
    else:
        raise ValueError(f"expected implementation auto, {', '.join(PATHS)}; found {implementation!r}")
    if chosen != "reference" and (unsupported := PATHS[chosen].supports(x_TD, w1, n_experts)):
        raise ValueError(f"{chosen} supports {unsupported}")
    if not torch.compiler.is_compiling():
        _report(chosen, why)
    return chosen


def _automatic(x_TD: Tensor, w1: Tensor, n_experts: int) -> tuple[str, str]:
    """(what to run, why)."""
    if not x_TD.is_cuda or torch.version.hip:
        return "reference", f"{x_TD.device.type} is no NVIDIA GPU"
    gpu = torch.cuda.get_device_properties(x_TD.device)  # which torch.compile can fold, unlike its capability
    if (gpu.major, gpu.minor) != (9, 0):
        return "blocksparse", f"sm_{gpu.major}{gpu.minor} is not sm_90"
    if unsupported := hopper.supports(x_TD, w1, n_experts):
        return "blocksparse", f"hopper supports {unsupported}"
    return "hopper", "sm_90"


@cache
def _report(chosen: str, why: str) -> None:
    log.info("expert layers run on %s: %s", chosen, why)


def _check(x_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor, w1: Tensor, v1: Tensor, w2: Tensor, n_experts: int) -> None:
    if w1.shape != v1.shape or w1.shape != w2.shape or w1.shape[0] % n_experts or w1.shape[1] != x_TD.shape[1]:
        raise ValueError(
            f"expected w1, v1, w2 of one shape [{n_experts} * F, {x_TD.shape[1]}], found {[tuple(w.shape) for w in (w1, v1, w2)]}"
        )
    if indices_TK.shape != weights_TK.shape or len(indices_TK) != len(x_TD):
        raise ValueError(f"expected indices and weights [{len(x_TD)}, K], found {tuple(indices_TK.shape)} and {tuple(weights_TK.shape)}")
