"""AdamW and the learning rate, whose phases belong to the stages of the plan."""

from __future__ import annotations

import math

import torch
from torch import nn

from schemas.manifest import Stage
from schemas.training import TrainConfig


def optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, norms and the input embedding do not."""
    decays = {name: parameter.ndim == 2 and name != "embedding" for name, parameter in model.named_parameters()}
    groups = [
        {"params": [p for name, p in model.named_parameters() if decays[name]], "weight_decay": config.weight_decay},
        {"params": [p for name, p in model.named_parameters() if not decays[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)


def learning_rate(stage: Stage, tokens: float, peak: float) -> float:
    """Learning rate when `tokens` of the stage are behind. A warm-up rises from 0 to `start`; the shape takes the
    rest."""
    phase = stage.lr
    if tokens < phase.warmup_tokens:
        return peak * phase.start * tokens / phase.warmup_tokens
    rest = stage.samples * stage.seq_len - phase.warmup_tokens
    done = (tokens - phase.warmup_tokens) / rest if rest > 0 else 1.0
    bend = {"constant": 0.0, "linear": done, "one_minus_sqrt": math.sqrt(done)}[phase.shape]
    return peak * (phase.start + (phase.end - phase.start) * bend)


def set_learning_rate(adamw: torch.optim.AdamW, rate: float) -> None:
    for group in adamw.param_groups:
        group["lr"] = rate


def moments(model: nn.Module, adamw: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors, for a checkpoint."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in adamw.state[parameter].items()
    }


def set_moments(model: nn.Module, adamw: torch.optim.AdamW, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `moments` gave."""
    for name, parameter in model.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        adamw.state[parameter] = {key: tensors[f"{name}.{key}"].to(parameter.device) for key in keys}
