"""AdamW and the learning rate, whose phases belong to the stages of the plan."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

import kernels
from model.checkpoint import Owned
from model.initial import initial_values
from model.parallel.replicate import Replicated
from model.parallel.shard import Sharded
from model.transformer import Transformer
from schemas.manifest import Stage
from schemas.training import TrainConfig

EPS = 1e-8
EXPERTS = (".w1", ".v1", ".w2")


class AdamW:
    """AdamW (Loshchilov & Hutter 1711.05101) on fp32 masters of weights that may be rounded; matrices decay, norms and
    the input embedding do not.

    Gradients are clipped to a global norm, and a step that is not accepted changes nothing. On a GPU both happen there,
    and the host waits for nothing.
    """

    def __init__(self, network: Transformer, config: TrainConfig, placed: Replicated | Sharded):
        self.config, self.placed, self.weights = config, placed, placed.weights
        wide = torch.get_default_dtype()
        # of what this rank updates, as all below
        self.masters = {name: own if own.dtype == wide else own.to(wide) for name, own in placed.own.items()}
        self.rounded = [name for name, own in placed.own.items() if own.dtype != wide]
        matrices = network.matrices()
        self.decays = {name: config.weight_decay if name in matrices else 0.0 for name in self.weights}
        self.first, self.second = (
            {name: torch.zeros_like(master) for name, master in self.masters.items()} for _ in range(2)
        )
        device = placed.ranks.device
        self.added_by_kernels = [] if placed.sums_by_itself else experts_added_by_kernels(network)
        self.done, self.rate = (torch.zeros((), device=device, dtype=dtype) for dtype in (torch.float32, torch.float64))
        self.sums: dict[str, Tensor] = {}
        self.hold: torch.cuda.Event | None = None  # nothing is updated before
        for name, master in self.masters.items():
            part = placed.starts[name], placed.starts[name] + master.numel()
            values = initial_values(name, placed.shapes[name], network.config, config.seed, *part)
            master.copy_(values.view(master.shape))
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the masters, which were filled from elsewhere, into the weights of all ranks."""
        for name, master in self.masters.items():
            if name in self.rounded:
                self.placed.own[name].copy_(master)
            self.placed.publish(name)
        self.placed.settle()

    @property
    def owned(self) -> Owned:
        """What this rank writes to a checkpoint, and reads from one."""
        placed = self.placed
        return Owned(placed.shapes, placed.starts, self.masters, self.first, self.second, self.done)

    def add_up(self, micro_batches: int) -> None:
        """Get ready for a step: gradients of more than one micro-batch are summed in fp32, those of experts by their
        kernels where these can (`main_grad` of `kernels.experts`)."""
        if micro_batches == 1:
            self.sums = {}
        for total in self.sums.values():
            total.zero_()
        if micro_batches > 1 and not self.sums and not self.placed.sums_by_itself:
            wide = torch.get_default_dtype()
            self.sums = {name: torch.zeros_like(weight, dtype=wide) for name, weight in self.weights.items()}
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
    def step(self, accept: Callable[[Tensor], Tensor] = torch.isfinite) -> Tensor:
        """Update by the gradients at the learning rate `rate` (which is filled in before), if `accept` of their norm
        before clipping says so, forget them, and return that norm (fp32, on the device)."""
        gradients = self.placed.reduce(self.sums or {name: weight.grad for name, weight in self.weights.items()})
        norm = (self._step_gpu if self.done.is_cuda else self._step_cpu)(gradients, accept)
        self.forget()
        return norm

    def forget(self) -> None:
        """Forget the gradients."""
        for weight in self.weights.values():
            weight.grad = None

    def _step_gpu(self, gradients: dict[str, Tensor], accept: Callable[[Tensor], Tensor]) -> Tensor:
        from kernels.adamw import update

        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients.values()]
        norm = self._whole_norm(torch.linalg.vector_norm(torch.stack(norms)))
        is_taken = accept(norm).float()
        self.done += is_taken
        corrections = [1 / (1 - beta**self.done) for beta in self.config.betas]
        scale = (self.config.clip_norm / norm).clamp(max=1.0)
        numbers = torch.stack([self.rate.float(), *corrections, scale, is_taken])
        if self.hold and not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream().wait_event(self.hold)
        for name, master in self.masters.items():
            own, moments = self.placed.own[name], (self.first[name], self.second[name])
            update(own, master, gradients[name], *moments, numbers, self.config.betas, EPS, self.decays[name])
            self.placed.publish(name)
        self.placed.settle()
        return norm

    def _whole_norm(self, norm: Tensor) -> Tensor:
        """That of all ranks' parts, from that of the own."""
        ranks = self.placed.ranks
        return norm if ranks.world == 1 else ranks.sum(norm.square()).sqrt()

    def _step_cpu(self, gradients: dict[str, Tensor], accept: Callable[[Tensor], Tensor]) -> Tensor:
        wide = {name: gradient.to(self.masters[name].dtype) for name, gradient in gradients.items()}
        norm = self._whole_norm(torch.nn.utils.get_total_norm(wide.values()))
        if not accept(norm):
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
        self.publish()
        return norm


def experts_added_by_kernels(network: Transformer) -> list[str]:
    """Names of the weights whose gradients the expert kernels add up themselves (`main_grad` of `kernels.experts`)."""
    weights = dict(network.named_parameters())
    by_kernels = runs_on(network) == "hopper"
    return [name for name in weights if by_kernels and name.endswith(EXPERTS)]


def runs_on(network: Transformer) -> str:
    """The kernels of its experts, `kernels.choose`; "dense" where there is one expert."""
    experts = network.config.experts
    head, w1 = network.head.weight, network.blocks[0].moe.experts.w1
    return kernels.choose(head, w1, experts) if experts > 1 else "dense"


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
