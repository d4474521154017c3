"""Steps as CUDA graphs, where the host takes longer to launch a step's kernels than the GPU to run them.

A step of 8 layers is some 900 launches and 40 to 60 ms of host time, whatever its size: with 16,384 tokens a small
model waits for the host half of the time. A graph is one launch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.data import Batch

log = logging.getLogger(__name__)

# of a step's time, from an empty queue, that the host is busy with launching it. In a run it has more to do (ledger,
# batches): at .76 steps took 1.5 times as long as their kernels
PAYS = 0.4
WARM = 3  # steps before that is measured: code is compiled, attention planned
GRAPHS = 24  # kept at most; each has its own sizes, and a fixed place for each tensor that it reads


@dataclass
class Graph:
    """A captured step and what it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    count: Tensor
    numbers: Tensor


Compute = Callable[[list[Batch], Tensor], Tensor]  # `Learner.compute`


class CapturedSteps:
    """Calls `compute`, or replays what it did for a batch of the same sizes and rotation."""

    def __init__(self, compute: Compute):
        self.compute, self.steps, self.pays = compute, 0, None
        self.graphs: dict[tuple, Graph | None] = {}

    def __call__(self, parts: list[Batch], count: Tensor) -> Tensor:
        """As `compute`."""
        self.steps += 1
        if self.pays is None and self.steps > WARM:
            return self._measure(parts, count)
        if not self.pays or len(parts) > 1:
            return self.compute(parts, count)
        return self._replay(parts[0], count)

    def _measure(self, parts: list[Batch], count: Tensor) -> Tensor:
        torch.cuda.synchronize()
        began = time.perf_counter()
        numbers = self.compute(parts, count)
        host = time.perf_counter() - began
        torch.cuda.synchronize()
        share = host / (time.perf_counter() - began)
        self.pays = share > PAYS
        log.info("the host is busy for %.0f %% of a step: %s", 100 * share, "captured" if self.pays else "launched")
        return numbers

    def _replay(self, batch: Batch, count: Tensor) -> Tensor:
        key = (*batch.tokens_BL.shape, len(batch.packing.bounds_S), batch.packing.longest, batch.rope_theta)
        if key not in self.graphs:  # once launched, so that everything it needs is compiled and planned
            if len(self.graphs) < GRAPHS:
                self.graphs[key] = None
            return self.compute([batch], count)
        graph = self.graphs[key] or self._capture(batch, count)
        self.graphs[key] = graph
        for fixed, given in zip(_tensors(graph.batch), _tensors(batch), strict=True):
            fixed.copy_(given)
        graph.count.copy_(count)
        graph.graph.replay()
        return graph.numbers

    def _capture(self, batch: Batch, count: Tensor) -> Graph:
        fixed, fixed_count = batch.map(Tensor.clone), count.clone()
        pool = next((graph.graph.pool() for graph in self.graphs.values() if graph), None)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # the thread that reads batches ahead pins memory meanwhile, which would otherwise end the capture
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            numbers = self.compute([fixed], fixed_count)
        return Graph(graph, fixed, fixed_count, numbers)


def _tensors(batch: Batch) -> list[Tensor]:
    packing = batch.packing
    return [batch.tokens_BL, batch.targets_BL, packing.positions_BL, packing.segments_BL, packing.bounds_S]
