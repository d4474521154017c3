"""The mixture-of-experts half of a block: a router and E SwiGLU experts, K of them for each token, none ever
dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kernels
from schemas.training import ModelConfig


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products on x: autocast's where autocast is on, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class MoE(nn.Module):
    """Parameters: router [E, D]; w1, v1, w2 [E * F, D], the layout of the published DBRX weights."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.experts, self.top_k = config.experts, config.top_k
        rows = config.experts * config.d_expert
        self.router = nn.Parameter(torch.empty(config.experts, config.d_model))
        self.w1 = nn.Parameter(torch.empty(rows, config.d_model))
        self.v1 = nn.Parameter(torch.empty(rows, config.d_model))
        self.w2 = nn.Parameter(torch.empty(rows, config.d_model))

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(output [B, L, D], balance loss, rows that each expert received [E])."""
        x_TD = x_BLD.flatten(0, -2).to(compute_dtype(x_BLD))
        weights_TK, indices_TK, balance, counts_E = kernels.route(x_TD, self.router, self.top_k)
        out_TD = kernels.experts(x_TD, indices_TK, weights_TK, self.w1, self.v1, self.w2, self.experts)
        return out_TD.view_as(x_BLD), balance, counts_E
