"""AdamW and the learning rate, whose phases belong to the stages of the plan."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adamw import adamw

import kernels
from model.transformer import Transformer
from schemas.manifest import Stage
from schemas.training import TrainConfig

EPS = 1e-8
EXPERTS = (".w1", ".v1", ".w2")


class AdamW:
    """AdamW (Loshchilov & Hutter 1711.05101) on fp32 masters of weights that may be rounded; matrices decay, norms and
    the input embedding do not.

    Gradients are clipped to a global norm, and a step whose norm is not finite changes nothing. On a GPU both happen
    there, and the host waits for nothing.
    """

    def __init__(self, network: Transformer, config: TrainConfig):
        self.config, self.weights = config, dict(network.named_parameters())
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.masters = {name: weight.data for name, weight in self.weights.items()}
        self.matrices = network.matrices()
        for name in self.matrices:
            self.weights[name].data = self.masters[name].to(dtype)
        self.decays = {name: config.weight_decay if name in self.matrices else 0.0 for name in self.weights}
        self.first, self.second = (
            {name: torch.zeros_like(master) for name, master in self.masters.items()} for _ in range(2)
        )
        device = network.head.device
        by_kernels = kernels.choose(network.head, network.blocks[0].moe.w1, network.config.experts) == "hopper"
        self.added_by_kernels = [name for name in self.weights if by_kernels and name.endswith(EXPERTS)]
        self.done, self.rate = (torch.zeros((), device=device, dtype=dtype) for dtype in (torch.float32, torch.float64))
        self.sums: dict[str, Tensor] = {}

    def add_up(self, micro_batches: int) -> None:
        """Get ready for a step: gradients of more than one micro-batch are summed in fp32, those of experts by their
        kernels where these can (`main_grad` of `kernels.experts`)."""
        if micro_batches == 1:
            self.sums = {}
        for total in self.sums.values():
            total.zero_()
        if micro_batches > 1 and not self.sums:
            self.sums = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        for name in self.added_by_kernels:
            self.weights[name].main_grad = self.sums.get(name)

    @torch.no_grad()
    def add(self) -> None:
        """Add what a micro-batch's backward left in `.grad` to the sums, if there are any."""
        for name, total in self.sums.items():
            if (gradient := self.weights[name].grad) is not None:
                total += gradient
                self.weights[name].grad = None

    @torch.no_grad()
    def step(self) -> Tensor:
        """Update by the gradients at the learning rate `rate` (which is filled in before), forget them, and return
        their norm before clipping (fp32, on the device)."""
        gradients = self.sums or {name: weight.grad for name, weight in self.weights.items()}
        norm = (self._step_gpu if self.done.is_cuda else self._step_cpu)(gradients)
        self.forget()
        return norm

    def forget(self) -> None:
        """Forget the gradients."""
        for weight in self.weights.values():
            weight.grad = None

    def _step_gpu(self, gradients: dict[str, Tensor]) -> Tensor:
        from kernels.adamw import update

        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        is_finite = torch.isfinite(norm).float()
        self.done += is_finite
        corrections = [1 / (1 - beta**self.done) for beta in self.config.betas]
        scale = (self.config.clip_norm / norm).clamp(max=1.0)
        numbers = torch.stack([self.rate.float(), *corrections, scale, is_finite])
        for name, master in self.masters.items():
            weight, moments = self.weights[name].data, (self.first[name], self.second[name])
            update(weight, master, gradients[name], *moments, numbers, self.config.betas, EPS, self.decays[name])
        return norm

    def _step_cpu(self, gradients: dict[str, Tensor]) -> Tensor:
        wide = {name: gradient.to(self.masters[name].dtype) for name, gradient in gradients.items()}
        norm = torch.nn.utils.get_total_norm(wide.values())
        if not torch.isfinite(norm):
            return norm
        torch._foreach_mul_(list(wide.values()), (self.config.clip_norm / norm).clamp(max=1.0))
        for decay in set(self.decays.values()):
            names = [name for name in wide if self.decays[name] == decay]
            tensors = [[kind[name] for name in names] for kind in (self.masters, wide, self.first, self.second)]
            steps = [self.done.clone() for _ in names]
            adamw(
                *tensors, [], steps, fused=True, amsgrad=False, beta1=self.config.betas[0], beta2=self.config.betas[1],
                lr=self.rate.item(), weight_decay=decay, eps=EPS, maximize=False,
            )  # fmt: skip
        self.done += 1
        for name in self.matrices:  # the others are their own masters
            self.weights[name].data.copy_(self.masters[name])
        return norm

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state as named tensors, for a checkpoint."""
        tensors = {f"{name}.exp_avg": moment for name, moment in self.first.items()}
        tensors |= {f"{name}.exp_avg_sq": moment for name, moment in self.second.items()}
        return tensors | {f"{name}.step": self.done.clone() for name in self.masters}

    @torch.no_grad()
    def load(self, masters: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Put back masters and what `moments` gave."""
        for name, master in self.masters.items():
            master.copy_(masters[name])
            self.weights[name].data.copy_(master)
            self.first[name].copy_(moments[f"{name}.exp_avg"])
            self.second[name].copy_(moments[f"{name}.exp_avg_sq"])
            self.done.copy_(moments[f"{name}.step"])


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
