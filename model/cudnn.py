"""Attention inside segments by cuDNN, through its own frontend: half the time of FlashAttention 2 on a Hopper GPU.

A graph of cuDNN is planned once for each number of segments, longest segment and number of places; sizes that vary from
batch to batch are filled up so that few plans serve a run.
"""

from __future__ import annotations

from functools import cache

import cudnn
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KINDS = {"io_data_type": cudnn.data_type.BFLOAT16}
KINDS |= dict.fromkeys(("intermediate_data_type", "compute_data_type"), cudnn.data_type.FLOAT)


class Plan:
    """Attention of one shape, forward or backward: S segments of up to `longest` tokens, T in all; H query and G key
    heads of C channels; `same`: the same bits each time.

    Tensors lie flat, [T, H or G, C]; statistics are [S, H, longest, 1]."""

    def __init__(self, backward, segments, longest, tokens, heads, groups, channels, same):
        self.row = {"q": heads * channels, "kv": groups * channels}  # elements between a token and the next
        self.tensors, self.sizes = {}, (segments, longest, channels)
        self.graph = cudnn.pygraph(handle=handle(), **KINDS)
        for name in ("q", "kv"):
            self._new(f"bounds_{name}", (segments + 1, 1, 1, 1), cudnn.data_type.INT32)
        length = self._new("length", (segments, 1, 1, 1), cudnn.data_type.INT32)
        q, k, v = self._flat("q", heads), self._flat("k", groups), self._flat("v", groups)
        options = dict(
            q=q, k=k, v=v, attn_scale=channels**-0.5, use_causal_mask=True, use_padding_mask=True, seq_len_q=length,
            seq_len_kv=length,
        )  # fmt: skip
        if backward:
            o, do = self._flat("o", heads), self._flat("do", heads)
            stats = self._new("stats", (segments, heads, longest, 1), cudnn.data_type.FLOAT)
            most = dict(max_total_seq_len_q=tokens, max_total_seq_len_kv=tokens, use_deterministic_algorithm=same)
            out = self.graph.sdpa_backward(name="sdpa_backward", o=o, dO=do, stats=stats, **most, **options)
            for name, tensor, count in zip(("dq", "dk", "dv"), out, (heads, groups, groups), strict=True):
                self._written(name, tensor, count)
        else:
            o, stats = self.graph.sdpa(name="sdpa", generate_stats=True, **options)
            self._written("o", o, heads)
            shape = (segments, heads, longest, 1)
            self.tensors["stats"] = stats.set_output(True).set_data_type(cudnn.data_type.FLOAT)
            stats.set_dim(shape).set_stride(_strides(shape))
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A])
        self.graph.check_support()
        self.graph.build_plans()
        self.workspace = self.graph.get_workspace_size()

    def _new(self, name: str, shape: tuple[int, ...], kind):
        self.tensors[name] = self.graph.tensor(name=name, dim=shape, stride=_strides(shape), data_type=kind)
        return self.tensors[name]

    def _shape(self, heads: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dimensions [S, heads, longest, C] and strides of a flat tensor, as cuDNN sees it."""
        segments, longest, channels = self.sizes
        row = heads * channels
        return (segments, heads, longest, channels), (longest * row, channels, row, 1)

    def _flat(self, name: str, heads: int):
        shape, strides = self._shape(heads)
        tensor = self.graph.tensor(name=name, dim=shape, stride=strides, data_type=cudnn.data_type.BFLOAT16)
        tensor.set_ragged_offset(self._bounds(heads))
        self.tensors[name] = tensor
        return tensor

    def _written(self, name: str, tensor, heads: int) -> None:
        shape, strides = self._shape(heads)
        tensor.set_output(True).set_data_type(cudnn.data_type.BFLOAT16).set_dim(shape).set_stride(strides)
        tensor.set_ragged_offset(self._bounds(heads))
        self.tensors[name] = tensor

    def _bounds(self, heads: int):
        return self.tensors["bounds_q" if heads * self.sizes[2] == self.row["q"] else "bounds_kv"]

    def run(self, bounds_S: Tensor, **values: Tensor) -> None:
        """Read and write the tensors named in `values`."""
        values |= {f"bounds_{name}": bounds_S * row for name, row in self.row.items()}
        values["length"] = bounds_S.diff()
        cudnn.set_stream(handle=handle(), stream=torch.cuda.current_stream().cuda_stream)
        space = torch.empty(self.workspace, dtype=torch.uint8, device=bounds_S.device)
        self.graph.execute({self.tensors[name]: value for name, value in values.items()}, space, handle=handle())


plan = cache(Plan)


@cache
def handle() -> int:
    """cuDNN's handle of this process."""
    return cudnn.create_handle()


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def _plan(backward: bool, q_THC: Tensor, k_TGC: Tensor, bounds_S: Tensor, longest: int) -> Plan:
    sizes = len(bounds_S) - 1, longest, len(q_THC), q_THC.shape[1], k_TGC.shape[1], q_THC.shape[2]
    return plan(backward, *sizes, torch.are_deterministic_algorithms_enabled())


class Attention(torch.autograd.Function):
    """apply(q [T, H, C], k, v [T, G, C], bounds [S + 1], longest) -> [T, H, C]."""

    @staticmethod
    def forward(ctx, q_THC, k_TGC, v_TGC, bounds_S, longest):
        o_THC = torch.empty_like(q_THC)
        segments, heads = len(bounds_S) - 1, q_THC.shape[1]
        stats = torch.empty(segments, heads, longest, 1, device=q_THC.device, dtype=torch.float32)
        inputs = dict(q=q_THC, k=k_TGC, v=v_TGC, o=o_THC, stats=stats)
        _plan(False, q_THC, k_TGC, bounds_S, longest).run(bounds_S, **inputs)
        ctx.longest = longest
        ctx.save_for_backward(q_THC, k_TGC, v_TGC, o_THC, stats, bounds_S)
        return o_THC

    @staticmethod
    @once_differentiable
    def backward(ctx, do_THC):
        q_THC, k_TGC, v_TGC, o_THC, stats, bounds_S = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q_THC), torch.empty_like(k_TGC), torch.empty_like(v_TGC)
        tensors = dict(q=q_THC, k=k_TGC, v=v_TGC, o=o_THC, stats=stats, do=do_THC.contiguous(), dq=dq, dk=dk, dv=dv)
        _plan(True, q_THC, k_TGC, bounds_S, ctx.longest).run(bounds_S, **tensors)
        return dq, dk, dv, None, None


def attend(q_THC: Tensor, k_TGC: Tensor, v_TGC: Tensor, bounds_S: Tensor, longest: int) -> Tensor:
    """Causal attention inside segments, [T, H, C] in bf16; arguments as `attention.Packing` has them."""
    return Attention.apply(q_THC.contiguous(), k_TGC.contiguous(), v_TGC, bounds_S, longest)
