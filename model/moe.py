"""The feed-forward half of a block: a router and E SwiGLU experts, K of them for each token, none ever dropped; or one
dense SwiGLU, which is what a model of one expert is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from model.pieces import piece
from schemas.training import ModelConfig


class Experts(nn.Module):
    """Parameters: w1, v1, w2 [E * F, D], the layout of the published DBRX weights."""

    def __init__(self, number: int, d_expert: int, d_model: int):
        super().__init__()
        self.number = number
        self.w1, self.v1, self.w2 = (nn.Parameter(torch.empty(number * d_expert, d_model)) for _ in range(3))

    def forward(self, x_TD: Tensor, indices_TK: Tensor | None, weights_TK: Tensor | None) -> Tensor:
        """[T, D]; without choices, of the only one."""
        if indices_TK is None or weights_TK is None:
            return dense(x_TD, self.w1, self.v1, self.w2)
        return kernels.experts(x_TD, indices_TK, weights_TK, self.w1, self.v1, self.w2, self.number)


class MoE(nn.Module):
    """Experts, and where there are several a parameter router [E, D]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.top_k = config.top_k
        if config.experts > 1:
            self.router = nn.Parameter(torch.empty(config.experts, config.d_model))
        self.experts = Experts(config.experts, config.d_expert, config.d_model)

    def forward(self, x_TD: Tensor, shares_E: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(output [T, D], balance loss, rows that each expert received [E]); `shares_E` is that of `kernels.route`."""
        if not hasattr(self, "router"):
            rows_E = torch.full((1,), len(x_TD), device=x_TD.device)
            return self.experts(x_TD, None, None), torch.ones((), device=x_TD.device), rows_E
        weights_TK, indices_TK, balance, counts_E = kernels.route(x_TD, self.router, self.top_k, shares_E)
        return self.experts(x_TD, indices_TK, weights_TK), balance, counts_E


@piece
def dense(x_TD: Tensor, w1: Tensor, v1: Tensor, w2: Tensor) -> Tensor:
    """One SwiGLU: (silu(x w1^T) * (x v1^T)) w2, [T, D]."""
    return F.linear(F.silu(F.linear(x_TD, w1)) * F.linear(x_TD, v1), w2.t())
