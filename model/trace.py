"""A few steps traced: where their time goes, by class of kernel, and a timeline for a browser (Perfetto, chrome://tracing).

`profile.json` holds the table, `profile-trace.json.gz` the timeline. On a GPU kernels are counted, elsewhere torch's
operators, each without what it calls.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from schemas.files import write_json

# the first class one of whose words is in a kernel's name
CLASSES = {
    "experts": ("_kernel_up", "up_kernel", "down_kernel", "dx_kernel", "dact", "outer", "spread", "combine", "topology",
                "sum_partials", "sort_weights", "glu", "row_tiles", "route", "balance_kernel", "place", "millrace"),
    "attention": ("flash", "fmha", "sdpa", "cudnn_generated", "softmax", "bmm"),
    "loss": ("cross_entropy", "log_softmax", "scatter_add", "gather"),
    "update": ("adamw", "norm_kernel", "NormTwo", "_foreach", "reduce_kernel"),
    "dense products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "aten::mm", "aten::addmm", "aten::linear"),
    "copies": ("Memcpy", "Memset", "copy_", "fill_", "FillFunctor", "aten::zero_", "_to_copy"),
}  # fmt: skip
OTHER = "norms and elementwise"
LARGEST = 25  # kernels told by name


class Trace:
    """Traces `steps` steps of a run, from step `first` on; does nothing where `steps` is 0."""

    def __init__(self, run: Path, first: int, steps: int):
        self.run, self.first, self.last, self.profile = run, first, first + steps, None

    def before(self, step: int) -> None:
        """Say which step is about to begin."""
        if step == self.first < self.last:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self.profile = torch.profiler.profile(activities=activities)
            self.profile.start()
        elif step == self.last and self.profile:
            self.stop()

    def stop(self) -> None:
        """Write what was traced, if anything was."""
        if self.profile is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.profile.stop()
        write_json(self.run / "profile.json", summary(self.profile, self.last - self.first))
        self.profile.export_chrome_trace(str(self.run / "profile-trace.json.gz"))
        self.profile = None


def summary(profile: torch.profiler.profile, steps: int) -> dict:
    """{device, steps, classes, kernels}: milliseconds a step, calls a step and share of all, the largest first."""
    on_gpu = torch.cuda.is_available()
    kernels, classes = {}, {}
    for event in profile.key_averages():
        if (event.device_type == DeviceType.CUDA) != on_gpu:
            continue
        ms = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / steps
        kernels[event.key] = (ms, event.count / steps)
    for name, (ms, calls) in kernels.items():
        total = classes.get(kind(name), (0.0, 0.0))
        classes[kind(name)] = (total[0] + ms, total[1] + calls)
    whole = sum(ms for ms, _ in kernels.values()) or 1.0

    def table(rows: dict[str, tuple[float, float]]) -> list[dict]:
        ordered = sorted(rows.items(), key=lambda row: -row[1][0])
        return [{"name": name, "ms": ms, "calls": calls, "share": ms / whole} for name, (ms, calls) in ordered]

    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    return {"device": device, "steps": steps, "classes": table(classes), "kernels": table(kernels)[:LARGEST]}


def kind(name: str) -> str:
    """The class of a kernel."""
    return next((one for one, words in CLASSES.items() if any(word in name for word in words)), OTHER)
