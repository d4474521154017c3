"""Steps that would harm a model are skipped: those that are not finite, and those far above what came before them.

How far is told by median and median absolute deviation (MAD) of the steps before, which outliers do not move, as they
would a mean (Huber 1981; 1.4826 MAD is the standard deviation of normal values). Values that are not finite never come
among them: a NaN costs one step. The verdict is made on the device, before the update, and nobody waits for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from schemas.training import TrainConfig

NORMAL = 1.4826
# A model that has learnt its data by heart hardly varies: least deviations, of the loss in nats, of the norm as a share
# of its median
LEAST_LOSS, LEAST_NORM = 0.1, 0.1
NAMED = 16  # documents in a message; the ledger has all


class Trouble:
    """Judges steps by those of the same stage before them. All tensors are on the device.

    `recent` [2, window] holds losses and gradient norms, the newest last, NaN where nothing came yet; `taken` and `z`
    [2] are the last verdict: whether the step was good, and how many deviations its loss and norm stood above.
    """

    def __init__(self, config: TrainConfig, device: torch.device):
        wide = {"dtype": torch.float64, "device": device}
        self.recent = torch.full((2, config.skip_window), torch.nan, **wide)
        self.limits = torch.tensor([config.skip_loss, config.skip_norm], **wide)
        self.taken, self.z = torch.ones((), dtype=torch.bool, device=device), torch.zeros(2, **wide)

    def judge(self, loss: Tensor, balance: Tensor, norm: Tensor) -> Tensor:
        """Whether to take a step, bool on the device, by what all ranks know alike."""
        told_2 = torch.stack([loss, norm]).double()
        self.z = deviations(told_2, self.recent)
        is_finite_2 = told_2.isfinite()
        self.taken = is_finite_2.all() & balance.isfinite() & ~(self.z > self.limits).any()
        shifted = torch.cat([self.recent[:, 1:], told_2[:, None]], 1)
        self.recent.copy_(torch.where(is_finite_2[:, None], shifted, self.recent))
        return self.taken

    def forget(self) -> None:
        """Begin anew, with a stage: other data lose otherwise."""
        self.recent.fill_(torch.nan)

    def window(self) -> list[list[float]]:
        """What a checkpoint keeps."""
        return [[value for value in row if value == value] for row in self.recent.tolist()]

    def resume(self, window: list[list[float]]) -> None:
        """Go on with what a checkpoint kept."""
        self.forget()
        for row, values in zip(self.recent, window, strict=True):
            row[len(row) - len(values) :] = torch.tensor(values, dtype=row.dtype)


def deviations(values_2: Tensor, recent: Tensor) -> Tensor:
    """Robust z-scores [2] of a loss and a norm; 0 while less than half of the window is there."""
    median_2 = medians(recent)
    mad_2 = medians((recent - median_2[:, None]).abs())
    least_2 = torch.stack([torch.full_like(median_2[0], LEAST_LOSS), LEAST_NORM * median_2[1]])
    is_known_2 = recent.isfinite().sum(1) * 2 >= recent.shape[1]
    return torch.where(is_known_2, (values_2 - median_2) / torch.maximum(NORMAL * mad_2, least_2), 0.0)


def medians(rows: Tensor) -> Tensor:
    """Of each row of [R, W] its finite values' median, NaN where there is none. torch's `nanmedian` makes a GPU's host
    wait."""
    n_R1 = rows.isfinite().sum(1, keepdim=True)
    ordered = rows.sort(1).values  # NaN last
    middle_R2 = torch.cat([(n_R1 - 1).div(2, rounding_mode="floor").clamp(min=0), n_R1 // 2], 1)
    return ordered.gather(1, middle_R2.clamp(max=rows.shape[1] - 1)).mean(1)


def reason(numbers: dict[str, float], z: list[float], config: TrainConfig) -> str:
    """Why a step was skipped, in words."""
    bad = [name for name in ("loss", "balance", "grad_norm") if not abs(numbers[name]) < float("inf")]
    if bad:
        return f"{' and '.join(bad)} not finite"
    limits = {"loss": config.skip_loss, "grad_norm": config.skip_norm}
    return " and ".join(
        f"{name} {numbers[name]:.4g} is {one:.0f} deviations above the median of steps before it, limit {limit:g}"
        for (name, limit), one in zip(limits.items(), z, strict=True)
        if one > limit
    )


def suspects(rows: np.ndarray) -> str:
    """Documents of a skipped step: those whose losses are not finite, else those that lost most a token."""
    broken = rows[~np.isfinite(rows["loss"])]
    a_token = np.nan_to_num(rows["loss"] / np.maximum(rows["tokens"], 1))
    worst = broken if len(broken) else rows[np.argsort(-a_token, kind="stable")]
    docs, more = worst["doc"][:NAMED].tolist(), len(worst) - NAMED
    which = "with such losses" if len(broken) else "that lost most a token first"
    return f"documents {which}: {docs}" + (f" and {more} more" if more > 0 else "")
