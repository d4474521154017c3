"""A few steps traced: where their time goes, by class of kernel, and a timeline for a browser (Perfetto, chrome://tracing).

`profile.json` holds the table, `profile-trace.json.gz` the timeline. On a GPU kernels are counted, elsewhere torch's
operators, each without what it calls.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from schemas.files import write_json

OTHER = "norms and elementwise"
# the first one found in the name of a kernel, or in those of an operator and what called it
CLASSES = {
    OTHER: r"^triton_",  # compiled pieces, whose names list what is in them
    "experts": r"Experts|^(up|down|dx|dact|dact_overlapped|outer|outer_pair|rows|glu|dglu|spread|combine"
    r"|count|place|tiles|sum_partials|sort_weights|route|route_backward|balance)_kernel",
    "attention": r"flash|fmha|cudnn|bmm",
    "loss": r"cross_entropy|scatter_add|gather|segment_reduce",
    "update": r"adamw|_foreach|NormTwo|vector_norm",
    "softmax": r"(?i)softmax",  # where nothing is fused: attention's, the router's and the loss's
    "dense products": r"gemm|gemv|nvjet|cutlass|cublas|aten::(add)?mm",
    "copies": r"Memcpy|Memset|copy_|fill_|FillFunctor|aten::zero_",
}
LARGEST = 25  # kernels told by name


class Trace:
    """Traces `steps` steps of a run, from step `first` on; does nothing where `steps` is 0."""

    def __init__(self, run: Path, first: int, steps: int):
        self.run, self.first, self.last, self.profile = run, first, first + steps, None

    def before(self, step: int) -> None:
        """Say which step is about to begin."""
        if step == self.first < self.last:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self.profile = torch.profiler.profile(activities=activities, acc_events=True)
            self.profile.start()

    def after(self, step: int) -> None:
        """Say which step was launched; behind the last one what was traced is written."""
        if self.profile is None or step + 1 < self.last:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.profile.stop()
        write_json(self.run / "profile.json", summary(self.profile, self.last - self.first))
        self.profile.export_chrome_trace(str(self.run / "profile-trace.json.gz"))
        self.profile = None


def span(pauses: Iterable[int], wanted: int) -> tuple[int, int]:
    """(first, number) of the steps to trace: `wanted` if there are as many between two `pauses`, near the run's middle.

    A pause is the number of steps before an evaluation or a checkpoint; the least is 0, the greatest the run's end.
    """
    ordered = sorted(pauses)
    gaps = itertools.pairwise(ordered)
    start, end = min(gaps, key=lambda gap: (-min(wanted, gap[1] - gap[0]), abs(sum(gap) - ordered[-1])))
    number = min(wanted, end - start)
    return (start + end - number) // 2, number


def summary(profile: torch.profiler.profile, steps: int) -> dict:
    """{device, steps, classes, kernels}: milliseconds a step, calls a step and share of all, the largest first."""
    on_gpu = torch.cuda.is_available()
    classes, kernels = {}, {}
    for event in profile.events():
        if (event.device_type == DeviceType.CUDA) != on_gpu or event.is_user_annotation:
            continue
        us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for table, name in ((classes, kind(path(event))), (kernels, event.name)):
            total, calls = table.get(name, (0.0, 0))
            table[name] = (total + us, calls + 1)
    whole = sum(us for us, _ in classes.values()) or 1.0

    def told(table: dict[str, tuple[float, int]]) -> list[dict]:
        rows = sorted(table.items(), key=lambda row: -row[1][0])
        return [
            {"name": name, "ms": us / 1e3 / steps, "calls": calls / steps, "share": us / whole}
            for name, (us, calls) in rows
        ]

    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    return {"device": device, "steps": steps, "classes": told(classes), "kernels": told(kernels)[:LARGEST]}


def path(event: FunctionEvent) -> str:
    """Names of an operator and of what called it, the outermost first; of a kernel its own."""
    called_by = event.cpu_parent
    return f"{path(called_by)}/{event.name}" if called_by else event.name


@cache
def kind(name: str) -> str:
    """The class of a kernel or of an operator's `path`."""
    return next((one for one, pattern in CLASSES.items() if re.search(pattern, name)), OTHER)
