"""The processes of a run: which one this is, and what they tell one another.

Objects travel pickled: ranks trust one another and the network between them, as torch.distributed does.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

READING = "reading data"  # what a rank does that others may wait for without end
SAVING = "saving"
PATIENCE = datetime.timedelta(minutes=10)  # for one that is late; `watch` is told of those that are gone long before
PATIENCE_OF_HOSTS = datetime.timedelta(hours=2)  # with one another, where one may write to a slow disk


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `world`, the `local`-th of its machine, which works on `device`. Alone it has no process group,
    and what it would tell others it keeps."""

    rank: int = 0
    world: int = 1
    local: int = 0
    doing: Callable[[int | None, str], None] = lambda step, what: None  # tells the watch
    is_stopping: Callable[[], bool] = lambda: False  # whether a signal asked this process to end

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local) if torch.cuda.is_available() else torch.device("cpu")

    @cached_property
    def host(self) -> dist.ProcessGroup:
        """The group in which hosts talk: objects and barriers, past the GPUs."""
        return dist.new_group(backend="gloo", timeout=PATIENCE_OF_HOSTS)

    def apart(self) -> Ranks:
        """The same ranks, whose hosts talk beside these: for a thread. All call it at once."""
        beside = dataclasses.replace(self)
        if self.world > 1:
            beside.host  # noqa: B018
        return beside

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, in place, as the sum over all ranks."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, in order, on rank 0; nothing on the others."""
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, values, group=self.host)
        return values or []

    def every(self, value: Any) -> list[Any]:
        """What each rank gave, in order, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.host)
        return values

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.world > 1:
            dist.barrier(group=self.host)


ALONE = Ranks()


def join(
    doing: Callable[[int | None, str], None] = ALONE.doing, is_stopping: Callable[[], bool] = ALONE.is_stopping
) -> Ranks:
    """The place of this process among those that torch's launcher started, by its environment; alone without one.

    Raises ValueError where the machine lacks what they need: a GPU for each, NCCL to talk.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")), doing, is_stopping)
    if ranks.world == 1:
        return ranks
    if torch.cuda.is_available():
        gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
        if here > gpus:
            raise ValueError(f"expected a GPU for each of {here} processes, found {gpus}: start {gpus}, or fewer")
        if not dist.is_nccl_available():
            raise ValueError("expected a torch with NCCL, by which GPUs talk, found one without")
        torch.cuda.set_device(ranks.device)
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, device_id=ranks.device if backend == "nccl" else None)
    ranks.host  # noqa: B018 - made by all at once
    if len(kinds := set(ranks.every(_kind(ranks)))) > 1:
        raise ValueError(f"expected one kind of GPU on all machines, found {', '.join(sorted(kinds))}")
    return ranks


def leave() -> None:
    """End what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _kind(ranks: Ranks) -> str:
    return torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "no GPU"
