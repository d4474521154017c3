"""Counts of presets, memory against what runs measured and autograd keeps, the parallelism that is chosen, what is sent."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from flows.commands import app
from model import sizing
from model.fitting import MFU, ROOM, _fit, choose, choose_parallel, fit, layouts, remedy, token_flops, traffic
from model.moe import dense
from model.sizing import Layout, Step, kept, memory, parameters
from model.transformer import before_attention, before_experts, parameter_counts
from schemas.files import json_hash
from schemas.presets import VOCAB, preset, presets, resolve
from schemas.training import ModelConfig

K = 1024
H200 = 141e9
SMALL = ModelConfig(layers=8, d_model=1024, heads=8, kv_heads=2, d_expert=1024)
SLIM = ModelConfig(layers=12, d_model=768, heads=12, kv_heads=4, d_expert=1024)
SLICE = ModelConfig(layers=8, d_model=2048, heads=16, kv_heads=8, d_expert=3584)  # of MoE-A


def without_experts(config: ModelConfig) -> ModelConfig:
    return replace(config, experts=1, top_k=1, d_expert=config.top_k * config.d_expert)


# ------------------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize("name", [name for name, one in presets().items() if one.published])
def test_counts_are_within_a_percent_of_the_published(name):
    one = preset(name)
    counts = parameter_counts(one.model, VOCAB)
    for kind, told in one.published.items():
        assert counts[kind] == pytest.approx(told, rel=0.01), kind


def test_published_counts_are_those_of_the_announcement():
    told = {name: tuple(one.published.values()) for name, one in presets().items() if one.published}
    assert told == {"dbrx": (132e9, 36e9), "moe-b": (23.5e9, 6.6e9), "moe-a": (7.7e9, 2.2e9), "dense-a": (6.7e9,)}
    assert "guess" in preset("dense-a").source and all(one.source for one in presets().values())


@pytest.mark.parametrize("name", ["dbrx-9b", "dbrx-18b", "dbrx-35b", "dbrx-73b"])
def test_members_of_the_family_have_the_size_that_they_are_called_by(name):
    told = 1e9 * int(re.search(r"\d+", name)[0])
    assert parameter_counts(preset(name).model, VOCAB)["total"] == pytest.approx(told, rel=0.035)  # 18b is 18.6


def test_twins_are_as_large_as_they_say():
    counts = {name: parameter_counts(preset(name).model, VOCAB) for name in ("small", "small-active-match", "small-total-match")}
    assert counts["small-active-match"]["active"] == pytest.approx(counts["small"]["active"], rel=0.001)
    assert counts["small-total-match"]["total"] == pytest.approx(counts["small"]["total"], rel=0.001)
    assert all(preset(name).model.experts == 1 for name in counts if name != "small")


@pytest.mark.parametrize("name", [*presets()])
def test_arithmetic_counts_what_the_network_holds(name):
    model = preset(name).model
    p, counts = parameters(model, VOCAB), parameter_counts(model, VOCAB)
    assert sum(p) == counts["total"]
    idle = p.experts * (1 - model.top_k / model.experts)
    assert sum(p) - idle - p.embedding == pytest.approx(counts["active"])


def test_a_preset_is_the_model_of_its_fields():
    written = resolve("moe-a")
    assert ModelConfig(**written) == preset("moe-a").model == ModelConfig(**resolve(written))
    assert json_hash(written) == json_hash(asdict(preset("moe-a").model))
    assert resolve({"preset": "moe-a", "layers": 8}) == written | {"layers": 8}
    for bad in ("moe", {"preset": "moe"}, {"preset": None}, {"preset": ["moe-a"]}):
        with pytest.raises(ValueError, match=r"expected a preset among dbrx, moe-b, .*; found"):
            resolve(bad)


# ------------------------------------------------------------------------------------------------ memory

# GB that torch.cuda.max_memory_allocated told on H200 (140 GiB), vocabulary of 32,768. Lines of our own are those of
# benchmarks/results/trainer.md (torch 2.11, rows of 4,096); the others are of the prototype whose step became ours, on
# one and two H200 (2026-11-29): deeper models, blocks computed again, FSDP2, experts split.
OURS = [
    ("MoE-A slice, 32 K", SLICE, Step(32 * K), 69.3),
    ("MoE-A slice, 16 K", SLICE, Step(16 * K), 56.2),
    ("MoE-A slice, 128 K, 4 micro-batches", SLICE, Step(32 * K, 4), 81.3),
    ("small, 64 K, the whole loop on shards", SMALL, Step(64 * K), 26.2),
    ("slim, 64 K, launched", SLIM, Step(64 * K), 32.2),
    ("MoE-A slice, 32 K, dense", without_experts(SLICE), Step(32 * K), 47.2),
    ("small, 64 K, dense", without_experts(SMALL), Step(64 * K), 26.2),
    ("slim, 64 K, dense", without_experts(SLIM), Step(64 * K), 33.9),
]
PROTOTYPE = [
    ("64 K", SLICE, Layout("replicate"), Step(64 * K), 94.3),
    ("12 layers", replace(SLICE, layers=12), Layout("replicate"), Step(32 * K), 101.6),
    ("14 layers", replace(SLICE, layers=14), Layout("replicate"), Step(32 * K), 117.7),
    ("blocks computed again", SLICE, Layout("replicate"), Step(32 * K, 1, "block"), 53.0),
    ("FSDP2, kept", SLICE, Layout("shard", 2), Step(32 * K), 51.7),
    ("experts split, the rest whole", SLICE, Layout("experts", 2), Step(32 * K), 67.7),
]


@pytest.mark.parametrize("name, model, step, measured", OURS)
def test_memory_is_what_our_runs_measured(name, model, step, measured):
    held = memory(model, 32 * K, Layout("replicate"), step, 150e9)
    assert sum(held.values()) / 1e9 == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize("name, model, layout, step, measured", PROTOTYPE)
def test_memory_is_what_the_prototype_measured(name, model, layout, step, measured):
    assert sum(memory(model, 32 * K, layout, step, 150e9).values()) / 1e9 == pytest.approx(measured, rel=0.03)


def test_weights_that_are_not_kept_are_gathered_for_two_blocks(monkeypatch):
    monkeypatch.setattr(sizing, "KEPT", 0.0)
    held = memory(SLICE, 32 * K, Layout("shard", 2), Step(32 * K), 150e9)
    assert sum(held.values()) / 1e9 == pytest.approx(45.9, rel=0.03)  # the prototype's FSDP2, resharded


def saved_bytes(function, *arguments) -> int:
    """Bytes that a piece's backward keeps of activations, compiled as on a GPU; weights and angles left out."""
    places = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        places[storage.data_ptr()] = storage.nbytes()
        return tensor

    compiled = torch.compile(function.__wrapped__, dynamic=False, backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = compiled(*arguments)
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    others = {x.untyped_storage().data_ptr() for x in tensors if len(x) != TOKENS or x.ndim == 3}
    assert out is not None  # alive until here, as what was kept
    return sum(size for place, size in places.items() if place not in others)


TOKENS = 384


def test_activations_are_those_that_compiled_pieces_keep():
    config = ModelConfig(layers=1, d_model=256, heads=4, kv_heads=2, experts=1, top_k=1, d_expert=640)
    d, kv = 256, 128

    def new(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    norm = torch.ones(d, requires_grad=True)
    cos, sin = torch.randn(TOKENS, 1, 32), torch.randn(TOKENS, 1, 32)
    before = saved_bytes(before_attention, new(TOKENS, d), new(TOKENS, d), norm, new(d + 2 * kv, d), cos, sin, 4, 2, 8.0, 1e-5)
    between = saved_bytes(before_experts, new(TOKENS, d), new(TOKENS, d), new(d, d), norm, 1e-5)
    behind = saved_bytes(dense, new(TOKENS, d), new(640, d), new(640, d), new(640, d))
    attention = TOKENS * (2 * (d + 2 * kv) + 4 * 4)  # q, k, v and the softmax's statistics, by their operator; o is of `between`
    assert before + between + behind + attention == TOKENS * kept(config, 1, "none")


def test_memory_falls_with_ranks_micro_batches_and_what_is_computed_again():
    def held(layout, step):
        return sum(memory(SLICE, 32 * K, layout, step, H200).values())

    for kind in ("replicate", "shard"):
        over_ranks = [held(Layout(kind, world), Step(32 * K)) for world in (2, 4, 8, 64)]
        assert over_ranks == sorted(over_ranks, reverse=True) and over_ranks[0] > over_ranks[-1]
    again = [held(Layout("replicate"), Step(32 * K, 1, recompute)) for recompute in sizing.RECOMPUTE]
    parts = [held(Layout("replicate"), Step(32 * K // n, n)) for n in (2, 4, 8)]
    for falling in (again, parts):
        assert falling == sorted(falling, reverse=True) and len(set(falling)) == 3


def test_states_are_12_bytes_a_parameter_wherever_they_lie():
    for layout in (Layout("replicate", 8), Layout("shard", 8), Layout("experts", 8), Layout("experts", 32)):
        held, p = memory(SLICE, 32 * K, layout, Step(K), H200), parameters(SLICE, 32 * K)
        own = 0 if layout.kind != "replicate" else 4 * (p.embedding + p.norms) / layout.world  # fp32 weights, their own masters
        assert (held["masters"] + held["moments"] + own) * layout.world == pytest.approx(12 * sum(p))


# ------------------------------------------------------------------------------------------------ what fits


@pytest.mark.parametrize(
    "name, world, kind",
    [("moe-a", 1, "replicate"), ("moe-a", 8, "replicate"), ("dense-a", 8, "replicate"), ("moe-b", 8, "shard"), ("dbrx-35b", 8, "shard"), ("dbrx", 64, "shard")],
)
def test_the_parallelism_that_fits_is_chosen(name, world, kind):
    model = preset(name).model
    chosen = choose(model, VOCAB, world, 32 * K, 4 * K, H200)
    assert chosen.layout == Layout(kind, world) and sum(chosen.held.values()) <= ROOM * H200
    assert choose_parallel(model, VOCAB, world, 32 * K, 4 * K, H200) == kind


def test_of_divisions_that_fit_the_fastest_is_taken():
    whole = fit(SLICE, 32 * K, Layout("replicate"), 32 * K, 4 * K, 80e9)
    assert whole.step == Step(32 * K, 1, "none") and whole.fits
    less = fit(SLICE, 32 * K, Layout("replicate"), 32 * K, 4 * K, 60e9)
    assert less.fits and less.step.recompute != "none" and less.tokens_per_second < whole.tokens_per_second
    least = fit(SLICE, 32 * K, Layout("replicate"), 32 * K, 4 * K, 40e9)
    assert not least.fits and least.step == Step(4 * K, 8, "block")


def test_what_cannot_fit_says_what_would():
    dbrx = preset("dbrx").model
    with pytest.raises(MemoryError, match=r"expected at most 133 GB on each of 8 GPUs .* found 289 at the least \(experts, .*: take 32 GPUs \(shard\)"):
        choose_parallel(dbrx, VOCAB, 8, 32 * K, 4 * K, H200)
    assert choose_parallel(dbrx, VOCAB, 32, 4 * K, 4 * K, H200)
    moe_a = preset("moe-a").model
    said = remedy(moe_a, VOCAB, 1, 128 * K, H200)
    gpus, rows = re.fullmatch(r"take ([\d,]+) GPUs \(\w+\) or rows of ([\d,]+) tokens \(replicate\)", said).groups()
    for world, length in ((int(gpus), 128 * K), (1, int(rows.replace(",", "")))):
        assert choose_parallel(moe_a, VOCAB, world, length, length, H200)
        with pytest.raises(MemoryError):
            choose_parallel(moe_a, VOCAB, max(world // 2, 1), 128 * K if world > 1 else 2 * length, 128 * K if world > 1 else 2 * length, H200)
    wide = ModelConfig(layers=1, d_model=1 << 17, heads=8, kv_heads=8, experts=1, top_k=1, d_expert=1 << 19)
    assert "take a smaller model" in remedy(wide, VOCAB, 1, 4 * K, 80e9)


def test_tokens_are_whole_rows():
    for tokens in (100, 6 * K):
        with pytest.raises(ValueError, match=r"whole rows of 4,096, found"):
            fit(SLICE, 32 * K, Layout("replicate"), tokens, 4 * K, H200)


def test_experts_are_split_in_a_machine_and_only_where_there_are_some():
    assert Layout("experts", 64).group(SLICE) == 8 and Layout("experts", 4).group(SLICE) == 4
    assert Layout("experts", 6).group(SLICE) == 2 and Layout("shard", 8).group(SLICE) == 1
    assert [one.kind for one in layouts(SLICE, 8)] == ["replicate", "shard", "experts"]
    assert [one.kind for one in layouts(without_experts(SLICE), 8)] == ["replicate", "shard"]
    assert [one.kind for one in layouts(SLICE, 1)] == ["replicate"]


# ------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize("kind, measured", [("replicate", 2.02), ("shard", 1.96), ("experts", 1.68)])
def test_two_gpus_are_expected_to_scale_as_two_did(kind, measured):
    one = fit(SLICE, 32 * K, Layout("replicate"), 32 * K, 4 * K, 150e9)
    two = fit(SLICE, 32 * K, Layout(kind, 2), 32 * K, 4 * K, 150e9)
    assert two.tokens_per_second / one.tokens_per_second == pytest.approx(measured, rel=0.015)


def test_what_is_computed_again_costs_what_it_did():
    one, again = (fit_of(recompute).seconds for recompute in ("none", "block"))
    assert again / one == pytest.approx(432.2 / 332.3, rel=0.02)  # the prototype's steps, in ms


def fit_of(recompute: str):
    return _fit(SLICE, 32 * K, Layout("replicate"), Step(32 * K, 1, recompute), 4 * K, 150e9)


def test_rates_are_those_of_the_measured_lines():
    for experts, model in ((True, SLICE), (False, without_experts(SLICE))):
        one = fit(model, 32 * K, Layout("replicate"), 32 * K, 4 * K, 150e9)
        assert one.tokens_per_second * token_flops(model, 32 * K, 4 * K) == pytest.approx(MFU[experts][2048] * 989e12)


def test_bytes_received_are_those_of_rings():
    """By hand: a block of width 4 with q, k, v and out, a router of two rows, two experts of 3 x 4 x 4; a vocabulary of
    8."""
    model = ModelConfig(layers=1, d_model=4, heads=2, kv_heads=2, experts=2, top_k=1, d_expert=4)
    attention, experts, vocab = 4 * 12 + 4 * 4 + 2 * 4, 2 * 3 * 4 * 4, 8 * 4
    assert parameters(model, 8) == (attention, experts, 3 * 4, vocab, vocab)
    step = Step(16)
    whole = 4 * (attention + experts + vocab) + 8 * vocab  # bf16 gradients in, bf16 weights out; the embedding in fp32
    assert traffic(model, 8, Layout("replicate", 2), step, H200) == (whole / 2, 0, 0)
    of_four = traffic(model, 8, Layout("replicate", 4, host=2), step, H200)
    assert of_four.inside == whole * 3 / 4 and of_four.outside == whole / 2 / 2  # half of it is the other machine's, for two GPUs
    shared = 6 * (attention + experts + vocab) + 8 * vocab  # bf16 weights in, fp32 gradients out
    assert traffic(model, 8, Layout("shard", 2), step, H200).inside == shared / 2
    split = traffic(model, 8, Layout("experts", 2), step, H200)
    assert split.inside == (6 * (attention + vocab) + 8 * vocab) / 2 and split.tokens == 4 * 2 * 4 * 16  # x and y, there and back
    assert traffic(model, 8, Layout("experts", 2), Step(16, 1, "block"), H200).tokens == split.tokens * 6 / 4
    assert traffic(model, 8, Layout("experts", 2), Step(8, 2), H200) == (split.inside * 2, 0, split.tokens)
    apart = traffic(model, 8, Layout("experts", 4, host=2), step, H200)
    assert apart.outside == (6 * (attention + vocab) + 8 * vocab) / 2 / 2 + 6 * experts / 2 / 2


# ------------------------------------------------------------------------------------------------ the command


def told(*arguments: str):
    return CliRunner().invoke(app, ["model", *arguments])


def test_without_a_name_presets_are_listed():
    lines = told().output
    assert all(name in lines for name in presets()) and "132G / 36G" in lines and "a guess" in lines


def test_a_preset_is_told_with_what_to_choose():
    said = told("moe-a", "--gpus", "8", "--seq", "4096").output
    assert "7.71G parameters, 2.22G active" in said and "Choose replicate." in said and "expectation" in said
    for kind in ("weights", "masters", "moments", "gradients", "activations", "head and loss", "tokens/s"):
        assert kind in said
    assert "Nothing fits: expected at most 133 GB" in told("dbrx").output


def test_a_recipe_is_told_with_its_own_batch(tmp_path):
    from test_recipe import RECIPES

    domains = next(path for path in RECIPES if path.stem == "domains")
    said = told(str(domains), "--gpus", "2").output
    assert "vocabulary 16,384" in said and "1,024 each, 2,048 in all" in said and "No rate is told" in said
    assert "GPUs: 2, each" in told(str(domains)).output
    done = told(str(domains), "--gpus", "3")
    assert done.exit_code == 10 and "divide by 3 GPUs into whole rows of 1,024, found 2,048" in done.output


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["moe"], 2, "a preset among dbrx, moe-b"),
        (["moe-a", "--tokens", "100"], 2, "whole rows of 4,096, found 100"),
        (["moe-a", "--gpus", "0"], 2, "--gpus"),
        (["none.yaml"], 10, "none.yaml: no such recipe"),
    ],
)
def test_bad_input_is_told_in_one_message(arguments, code, said):
    done = told(*arguments)
    assert done.exit_code == code and said in " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())
