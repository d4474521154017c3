"""One differentiable call for the expert layer and one for its router, and the choice of the kernels behind them.

The reference runs anywhere; what needs Triton is there where Triton is (Linux), and hopper where that Triton has its
Gluon.
"""

from __future__ import annotations

import importlib.util
import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import reference

log = logging.getLogger(__name__)

PATHS = {"reference": reference}
if importlib.util.find_spec("triton"):
    from kernels import blocksparse, router, topology

    PATHS["blocksparse"] = blocksparse
    try:
        from kernels import hopper
    except (ImportError, AttributeError) as error:  # Gluon is experimental: its names move from one Triton to the next
        NO_HOPPER = f"this Triton lacks what hopper needs ({error})"
    else:
        PATHS["hopper"] = hopper


def experts(
    x_TD: Tensor,
    indices_TK: Tensor,
    weights_TK: Tensor,
    w1: Tensor,
    v1: Tensor,
    w2: Tensor,
    n_experts: int,
    implementation: str = "auto",
    elsewhere: bool = False,
) -> Tensor:
    """Weighted sum of each token's experts, [T, D]: expert e gives (silu(x w1_e^T) * (x v1_e^T)) w2_e. No token is
    dropped.

    indices [T, K] say which experts (int32 or int64), weights [T, K] how much; w1, v1, w2 are [E * F, D] as DBRX
    publishes them (w2 is stored transposed). Products run in the dtype of x: weights of another dtype are cast once,
    and get gradients of their own dtype. An index outside 0 .. E - 1 is undefined behaviour: to look would be to wait
    for the GPU. `implementation` is that of `choose`.

    `elsewhere`: an index of E is an expert that lives on another GPU: it adds nothing here, and its routing weight has
    no gradient.

    Main gradients: where a weight that requires a gradient has an attribute `main_grad`, an fp32 tensor of its shape on
    its device, contiguous and 16-byte aligned, every backward adds the gradient there before it is rounded, and the
    weight's own stays None. Any of the three may have one. Only hopper can.

    Raises ValueError for shapes, dtypes, devices or main gradients that do not fit and for what the implementation does
    not support.
    """
    _check(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts)
    chosen = choose(x_TD, w1, n_experts, implementation)
    mains = _main_grads(w1, v1, w2)  # before a cast, whose result has none
    if chosen != "hopper" and any(main is not None for main in mains):
        raise ValueError(f"expected weights without main_grad, to which only hopper adds, found some on {chosen}")
    if chosen != "reference":  # which casts where it joins w1 and v1
        w1, v1, w2 = (w.to(x_TD.dtype) for w in (w1, v1, w2))
    if elsewhere and chosen != "hopper":  # one more, of zeros
        w1, v1, w2 = (torch.cat([w, w.new_zeros(len(w) // n_experts, w.shape[1])]) for w in (w1, v1, w2))
        n_experts += 1
    more = (*mains, elsewhere) if chosen == "hopper" else ()
    with _on(x_TD.device):
        return PATHS[chosen].Experts.apply(x_TD, indices_TK, weights_TK, w1, v1, w2, n_experts, *more)


def route(
    x_TD: Tensor, router_ED: Tensor, top_k: int, shares_E: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the experts of each token: (weights [T, K] fp32, indices [T, K] int64, balance loss, rows of each expert
    [E] int64).

    Weights are the K largest probabilities divided by their sum; of equal ones the smaller expert number goes first.
    The loss is 1 when both choices and probabilities are even (`reference.balance_loss`). It is a product of two means
    over tokens, so its mean over parts of a batch is another loss, unless the parts are given one factor: `shares_E`,
    fp32, the part of all rows that each expert receives in whatever the caller balances (by default these tokens).
    Raises ValueError for top_k beyond the number of experts and for shares of another shape.
    """
    if not 0 < top_k <= len(router_ED):
        raise ValueError(f"expected top_k from 1 to the {len(router_ED)} experts, found {top_k}")
    if shares_E is not None and (shares_E.shape != router_ED.shape[:1] or shares_E.dtype != torch.float32):
        raise ValueError(f"expected shares in fp32 [{len(router_ED)}], found {shares_E.dtype} {tuple(shares_E.shape)}")
    if "blocksparse" in PATHS and topology.on_triton(x_TD):
        with _on(x_TD.device):
            return router.Route.apply(F.linear(x_TD, router_ED), top_k, shares_E)
    weights_TK, indices_TK, probs_TE = reference.route(x_TD, router_ED, top_k)
    counts_E = reference.expert_counts(indices_TK, len(router_ED))
    return weights_TK, indices_TK, reference.balance_loss(probs_TE, indices_TK, shares_E), counts_E


def choose(x_TD: Tensor, w1: Tensor, n_experts: int, implementation: str = "auto") -> str:
    """The kernels that run for these inputs: "hopper", "blocksparse" or "reference". Each choice is logged when first
    made.

    auto: hopper on sm_90, blocksparse on other NVIDIA GPUs and for what hopper does not support, reference elsewhere
    and without Triton. Raises ValueError if the implementation is unknown or does not support the inputs, and says what
    it supports.
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
        return "reference", f"{'ROCm' if x_TD.is_cuda else x_TD.device.type} is no NVIDIA GPU"
    if "blocksparse" not in PATHS:
        return "reference", "Triton is not installed"
    gpu = torch.cuda.get_device_properties(x_TD.device)  # which torch.compile can fold, unlike its capability
    if (gpu.major, gpu.minor) != (9, 0):
        return "blocksparse", f"sm_{gpu.major}{gpu.minor} is not sm_90"
    if "hopper" not in PATHS:
        return "blocksparse", NO_HOPPER
    if unsupported := hopper.supports(x_TD, w1, n_experts):
        return "blocksparse", f"hopper supports {unsupported}"
    return "hopper", "sm_90"


@cache
def _report(chosen: str, why: str) -> None:
    log.info("expert layers run on %s: %s", chosen, why)


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, so that of the inputs must be it; code of torch.compile sees to that
    itself."""
    return torch.cuda.device(device) if device.type == "cuda" and not torch.compiler.is_compiling() else nullcontext()


def _check(
    x_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor, w1: Tensor, v1: Tensor, w2: Tensor, n_experts: int
) -> None:
    matrices = (w1, v1, w2)
    if x_TD.dim() != 2 or n_experts < 1:
        raise ValueError(f"expected x [T, D] and at least one expert, found {tuple(x_TD.shape)} and {n_experts}")
    if (
        any(w.shape != w1.shape for w in matrices)
        or w1.dim() != 2
        or w1.shape[0] % n_experts
        or w1.shape[1] != x_TD.shape[1]
    ):
        shapes = [tuple(w.shape) for w in matrices]
        raise ValueError(f"expected w1, v1, w2 of one shape [{n_experts} * F, {x_TD.shape[1]}], found {shapes}")
    shape = tuple(indices_TK.shape)
    if shape != tuple(weights_TK.shape) or len(shape) != 2 or shape[0] != len(x_TD) or shape[1] < 1:
        raise ValueError(
            f"expected indices and weights [{len(x_TD)}, K] with K >= 1, found {shape} and {tuple(weights_TK.shape)}"
        )
    if indices_TK.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"expected indices in int32 or int64, found {indices_TK.dtype}")
    devices = [t.device for t in (x_TD, indices_TK, weights_TK, *matrices)]
    if any(device != x_TD.device for device in devices):
        raise ValueError(
            f"expected x, indices, weights, w1, v1, w2 on one device, found {', '.join(map(str, devices))}"
        )


def _main_grads(*matrices: Tensor) -> tuple[Tensor | None, ...]:
    """The `main_grad` of each weight, or None. Raises ValueError for one that the kernels cannot add to: bf16 would
    hang the GPU."""
    mains = tuple(getattr(w, "main_grad", None) for w in matrices)
    for w, main in zip(matrices, mains, strict=True):
        if main is not None and not _can_be_added_to(main, w):
            found = f"{main.dtype} {tuple(main.shape)} on {main.device}, strides {main.stride()}"
            raise ValueError(
                f"expected main_grad in fp32 {tuple(w.shape)} on {w.device}, contiguous, 16-byte aligned; found {found}"
            )
    return mains


def _can_be_added_to(main: Tensor, w: Tensor) -> bool:
    fits = main.dtype == torch.float32 and main.shape == w.shape and main.device == w.device and main.is_contiguous()
    # torch.compile has no addresses; the launch looks again
    return fits and (torch.compiler.is_compiling() or main.data_ptr() % 16 == 0)
