"""The feed-forward half of a block: a router and E SwiGLU experts, K of them for each token, none ever dropped; or one
dense SwiGLU, which is what a model of one expert is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from model.pieces import piece
from schemas.training import ModelConfig


class MoE(nn.Module):
    """Parameters: router [E, D] (none for one expert); w1, v1, w2 [E * F, D], the layout of the published DBRX
    weights."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.experts, self.top_k = config.experts, config.top_k
        rows = config.experts * config.d_expert
        if config.experts > 1:
            self.router = nn.Parameter(torch.empty(config.experts, config.d_model))
        self.w1 = nn.Parameter(torch.empty(rows, config.d_model))
        self.v1 = nn.Parameter(torch.empty(rows, config.d_model))
        self.w2 = nn.Parameter(torch.empty(rows, config.d_model))

    def forward(self, x_TD: Tensor, shares_E: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(output [T, D], balance loss, rows that each expert received [E]); `shares_E` is that of `kernels.route`."""
        if self.experts == 1:
            rows_E = torch.full((1,), len(x_TD), device=x_TD.device)
            return dense(x_TD, self.w1, self.v1, self.w2), torch.ones((), device=x_TD.device), rows_E
        weights_TK, indices_TK, balance, counts_E = kernels.route(x_TD, self.router, self.top_k, shares_E)
        out_TD = kernels.experts(x_TD, indices_TK, weights_TK, self.w1, self.v1, self.w2, self.experts)
        return out_TD, balance, counts_E


@piece
def dense(x_TD: Tensor, w1: Tensor, v1: Tensor, w2: Tensor) -> Tensor:
    """One SwiGLU: (silu(x w1^T) * (x v1^T)) w2, [T, D]."""
    return F.linear(F.silu(F.linear(x_TD, w1)) * F.linear(x_TD, v1), w2.t())
