"""The model against Hugging Face's DBRX, packing and evaluation against one document at a time, training against kill -9."""

import dataclasses
import json
import math
import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import checkpoint
from model.evaluate import bits_per_byte, pieces
from model.generate import sample
from model.ledger import read_ledger
from model.loss import MeanLoss, targets, token_losses
from model.optim import learning_rate
from model.train import Learner, train
from model.transformer import Transformer, attend, mask_bias, parameter_counts
from schemas.manifest import Draw, LearningRate, Plan, Stage, load_plan, save
from schemas.training import ModelConfig, TrainConfig
from tests.mds import pack_documents, write_shards

TINY = ModelConfig(layers=2, d_model=32, heads=4, kv_heads=2, experts=4, top_k=2, d_expert=16, init_std=0.2, rope_theta=500.0, clip_qkv=1.5)
VOCAB = 61


@pytest.fixture(scope="module")
def network():
    return Transformer(TINY, VOCAB, seed=1)


def logits(network, ids):
    """Of one document by itself, [L, V]."""
    tokens = torch.as_tensor(ids)[None]
    hidden = network(tokens, torch.zeros_like(tokens), torch.arange(tokens.shape[1])[None])
    return network.logits(hidden.states_BLD)[0]


def test_logits_are_those_of_hugging_faces_dbrx(network):
    from transformers import DbrxConfig, DbrxForCausalLM

    theirs = DbrxForCausalLM(DbrxConfig(
        d_model=32, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=VOCAB, router_aux_loss_coef=0.0, resid_pdrop=0.0, emb_pdrop=0.0,
        attn_config={"kv_n_heads": 2, "clip_qkv": 1.5, "rope_theta": 500.0, "attn_pdrop": 0.0},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "moe_normalize_expert_weights": 1.0, "moe_loss_weight": 0.0},
        attn_implementation="eager",
    )).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # norms that are all ones would hide a mix-up
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(parameter.numel()))
    missing, unexpected = theirs.load_state_dict(hugging_face_names(network), strict=False)
    assert not unexpected and not [name for name in missing if "inv_freq" not in name]
    ids = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(logits(network, ids), theirs(ids[None]).logits[0], rtol=1e-4, atol=1e-4)


def hugging_face_names(network: Transformer) -> dict[str, torch.Tensor]:
    ours = network.state_dict()
    names = {"transformer.wte.weight": "embedding", "transformer.norm_f.weight": "norm.weight", "lm_head.weight": "head"}
    for i in range(len(network.blocks)):
        theirs, mine = f"transformer.blocks.{i}.", f"blocks.{i}."
        names |= {theirs + "norm_attn_norm." + a: mine + b for a, b in {
            "norm_1.weight": "norm_1.weight", "attn.Wqkv.weight": "attention.qkv", "attn.out_proj.weight": "attention.out",
            "norm_2.weight": "norm_2.weight"}.items()}
        names |= {theirs + "ffn.router.layer.weight": mine + "moe.router"}
        names |= {theirs + f"ffn.experts.mlp.{w}": mine + f"moe.{w}" for w in ("w1", "v1", "w2")}
    return {theirs: ours[mine] for theirs, mine in names.items()}


def test_packed_segments_do_not_see_each_other(network):
    parts = [torch.randint(0, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 2)]
    segments = torch.cat([torch.full((len(p),), i) for i, p in enumerate(parts)])[None]
    positions = torch.cat([torch.arange(len(p)) for p in parts])[None]
    packed = network.logits(network(torch.cat(parts)[None], segments, positions).states_BLD)[0]
    torch.testing.assert_close(packed, torch.cat([logits(network, part) for part in parts]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_attention_is_sdpa(dtype):
    q, k, v = (torch.randn(2, 12, heads, 8, dtype=dtype, requires_grad=True) for heads in (6, 2, 2))
    segments = torch.tensor([[0] * 5 + [1] * 7, [2] * 11 + [3]])
    bias = mask_bias(segments, 0, dtype)
    ours = attend(q, k, v, bias)
    theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias[:, None] == 0, enable_gqa=True)
    theirs = theirs.transpose(1, 2).flatten(2)
    tolerance = {"rtol": 0.02, "atol": 0.04} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(ours, theirs, **tolerance)
    cotangent = torch.randn_like(ours)
    for found, expected in zip(*(torch.autograd.grad(out, (q, k, v), cotangent) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


def test_head_loss_and_gradients_are_those_of_cross_entropy(monkeypatch):
    monkeypatch.setattr("model.loss.CHUNK_LOGITS", 3 * 11)  # three rows at once, the last chunk shorter
    states, head = torch.randn(10, 6, dtype=torch.float64, requires_grad=True), torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([3, -1, 0, 10, 10, -1, 7, 1, 2, -1])
    mean, losses = MeanLoss.apply(states, head, wanted)
    expected = F.cross_entropy(states @ head.T, wanted, ignore_index=-1, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(token_losses(states, head, wanted), expected.detach())
    for found, right in zip(*(torch.autograd.grad(3 * loss, (states, head)) for loss in (mean, expected.sum() / 7)), strict=True):
        torch.testing.assert_close(found, right)


def test_tokens_predict_their_successor_in_the_same_document_but_never_padding():
    tokens = torch.tensor([[5, 6, 7, 8, 9, 9]])
    segments, docs = torch.tensor([[0, 0, 0, 1, 2, 2]]), torch.tensor([11, 12, 0])
    assert targets(tokens, segments, docs).tolist() == [[6, 7, -1, -1, -1, -1]]


def test_learning_rate_phases():
    new = lambda shape, start, end, warmup: Stage("s", 0, 10, 100, (Draw("a", 10, 0),), LearningRate(shape, start, end, warmup))
    at = lambda phase, *tokens: [learning_rate(phase, t, peak=2.0) for t in tokens]
    assert at(new("constant", 1, 1, 200), 0, 100, 200, 1000) == [0, 1, 2, 2]
    assert at(new("linear", 1, 0.5, 0), 0, 500, 1000) == [2, 1.5, 1]
    assert at(new("one_minus_sqrt", 1, 0, 200), 200, 400, 1000) == [2, 1, 0]


def test_parameter_counts_are_those_of_dbrx():
    dbrx = ModelConfig(layers=40, d_model=6144, heads=48, kv_heads=8, experts=16, top_k=4, d_expert=10752)
    counts = parameter_counts(dbrx, 100_352)  # published 132B and 36B; the exact numbers: trainer facts, section 3.2
    assert counts["total"] / 1e9 == pytest.approx(131.60, abs=0.005) and counts["active"] / 1e9 == pytest.approx(35.85, abs=0.005)


def heldout_documents(lengths=(2, 3, 9, 16, 17, 40, 71)):
    random = np.random.default_rng(0)
    return [{"domain": "code" if n % 2 else "docs", "n_bytes": 3 * n, "tokens": np.array([0, *random.integers(1, VOCAB, n - 2), 0])} for n in lengths]


def test_bits_per_byte_is_that_of_one_window_at_a_time(network):
    documents, seq_len, expected = heldout_documents(), 16, {"code": 0.0, "docs": 0.0}
    with torch.no_grad():
        for document in documents:
            tokens, scored, start = document["tokens"], 0, 0
            while scored < len(tokens) - 2:  # windows of 16 that move by 8; each token in the first that reaches it
                window = tokens[start : start + seq_len]
                log_probs = logits(network, window).double().log_softmax(-1)
                for place in range(scored - start, min(len(window), len(tokens) - 2 - start)):
                    expected[document["domain"]] -= log_probs[place, tokens[start + place + 1]].item() / math.log(2)
                scored, start = start + len(window), start + seq_len // 2
    found = bits_per_byte(network, documents, seq_len, batch_tokens=64)
    for domain, score in found.items():
        chosen = [document for document in documents if document["domain"] == domain]
        n_bytes, n_tokens = sum(d["n_bytes"] for d in chosen), sum(len(d["tokens"]) - 2 for d in chosen)
        assert (score["bytes"], score["tokens"], score["documents"]) == (n_bytes, n_tokens, len(chosen))
        assert score["bits_per_byte"] == pytest.approx(expected[domain] / n_bytes, rel=1e-5)


def test_windows_score_each_token_once_with_half_a_window_before_it():
    for n_tokens in range(2, 80):
        scored = []
        for piece in pieces(0, n_tokens, 16):
            scored += range(piece.scored + 1, piece.end + 1)
            assert piece.end - piece.start <= 16 and (piece.start == 0 or piece.scored - piece.start >= 8)
        assert scored == list(range(1, n_tokens - 1))


def test_generation_with_a_cache_is_generation_without(network):
    ids, expected = [0, 5, 9], []
    with torch.no_grad():
        while len(expected) < 12:
            expected.append(int(logits(network, ids + expected)[-1].argmax()))
    assert sample(network, ids, 12, temperature=0, top_k=0, seed=0, eot=-1) == expected
    end = expected[4]
    assert sample(network, ids, 12, temperature=0, top_k=0, seed=0, eot=end) == expected[: expected.index(end)]


def test_sampling_is_seeded_and_keeps_to_the_likeliest(network):
    draw = lambda seed, top_k=0: sample(network, [0], 20, temperature=1.0, top_k=top_k, seed=seed, eot=-1)
    assert draw(1) == draw(1) != draw(2)
    assert draw(1, top_k=1) == sample(network, [0], 20, temperature=0, top_k=0, seed=0, eot=-1)


# Training ---------------------------------------------------------------------------------------------------------------------

STAGES = (
    Stage("base", 0, 24, 16, (Draw("a", 16, 0), Draw("b", 8, 0)), LearningRate(warmup_tokens=64)),
    Stage("cool", 24 * 16, 8, 32, (Draw("a", 8, 1),), LearningRate("one_minus_sqrt", 1.0, 0.0)),
)
CONFIG = TrainConfig(batch_tokens=64, checkpoint_steps=2, peak_lr=1e-2)


@pytest.fixture
def shards(tmp_path):
    """Six steps of sequences of 16, then four of 32; a document counts up from anywhere."""
    random = np.random.default_rng(1)
    document = lambda: np.array([0, *(np.arange(20) + random.integers(VOCAB)) % (VOCAB - 1) + 1])
    windows = lambda seq_len, first: [
        pack_documents([document() for _ in range(40)], list(range(key, key + 40)), seq_len) for key in (first, first + 100)
    ]
    folders = {("a", 16): windows(16, 1), ("a", 32): windows(32, 1), ("b", 16): windows(16, 1001)}
    root = tmp_path / "shards"
    heldout = [{"doc": i, **document} for i, document in enumerate(heldout_documents())]
    write_shards(root, folders, heldout, STAGES, VOCAB)
    return root


def apart(function, *arguments, kill_after: float | None = None) -> int:
    """Exit code of a call in a process of its own, negative for a signal. One thread: a forked OpenMP pool has no workers."""
    process = multiprocessing.get_context("fork").Process(target=_one_thread, args=(function, *arguments))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def _one_thread(function, *arguments):
    torch.set_num_threads(1)
    function(*arguments)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(shards, run, config, where):
    """Train until `where`: at step n, or when a checkpoint is renamed, or when result.json is written."""
    if isinstance(where, int):
        train(shards, run, TINY, config, lambda progress: die() if progress.step == where else None)
    module, name = {"rename": ("pathlib.Path", "rename"), "final": ("model.train", "_finish"), "ledger": ("model.train", "_save")}[where]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{module}.{name}", die)
        train(shards, run, TINY, config)


def outcome(run):
    """All that must be the same however often a run was killed; seconds differ."""
    result = json.loads((run / "result.json").read_text())
    result.pop("seconds")
    ledger = [(path.name, path.read_bytes()) for path in sorted((run / "ledger").iterdir())]
    files = [(run / name).read_bytes() for name in ("metrics.jsonl", "evaluations.json", "final/weights.safetensors")]
    return result, ledger, files


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_ends_in_the_same_bits(shards, tmp_path, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    assert apart(train, shards, tmp_path / "whole", TINY, config) == 0
    for where in (1, 3, "rename", "ledger", 5, 6, 9, "final"):
        assert apart(train_and_die, shards, tmp_path / "killed", config, where) == -signal.SIGKILL
    assert apart(train, shards, tmp_path / "killed", TINY, config) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_run_killed_at_any_time_ends_in_the_same_bits(shards, tmp_path):
    began = time.perf_counter()
    assert apart(train, shards, tmp_path / "whole", TINY, CONFIG) == 0
    whole, random = time.perf_counter() - began, np.random.default_rng()
    kills = 0
    while apart(train, shards, tmp_path / "killed", TINY, CONFIG, kill_after=random.uniform(0.2, 0.9) * whole) != 0:
        kills += 1
        assert kills < 50
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_what_a_run_leaves(shards, tmp_path):
    steps = []
    result = train(shards, tmp_path, TINY, CONFIG, steps.append)
    assert [(p.step, p.steps, p.stage, p.tokens) for p in steps][5:7] == [(6, 10, "base", 384), (7, 10, "cool", 448)]
    assert [e["stage"] for e in result["evaluations"]] == ["before training", "base", "cool"]
    assert [e["seq_len"] for e in result["evaluations"]] == [16, 16, 32]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-0000008", "step-0000010"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10)) and len((tmp_path / "seconds.jsonl").read_text().splitlines()) == 10
    ledger = read_ledger(tmp_path)
    for line in lines:
        rows = ledger[ledger["step"] == line["step"]]
        assert rows["loss"].sum() / rows["tokens"].sum() == pytest.approx(line["loss"], rel=1e-5)
    assert [sum(layer) for layer in result["expert_load"]] == pytest.approx([1, 1])
    assert (result["steps"], result["tokens"]) == (10, 640)
    assert train(shards, tmp_path, TINY, CONFIG, lambda p: pytest.fail("trained again")) == result


def test_the_model_learns(shards, tmp_path):
    plan = load_plan(shards / "plan.json")
    stage = dataclasses.replace(plan.stages[0], samples=240, draws=(Draw("a", 160, 0), Draw("b", 80, 0)))
    save(Plan(plan.seed, (stage,)), shards / "plan.json")
    result = train(shards, tmp_path / "run", TINY, dataclasses.replace(CONFIG, checkpoint_steps=100))
    assert result["final_loss"] < 1.0 < 4.0 < json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: save(dataclasses.replace(load_plan(root / "plan.json"), seed=4), root / "plan.json"), r"plan.seed: 3, now 4"),
    (lambda root: edit_manifest(root, lambda m: dataclasses.replace(m, recipe="other")), r"manifest.recipe: \"recipe\", now \"other\""),
    (lambda root: edit_manifest(root, lambda m: dataclasses.replace(m, folders=tuple(
        dataclasses.replace(f, windows=tuple(dataclasses.replace(w, sha256="0") for w in f.windows)) if f.stream == "b" else f
        for f in m.folders))), r"manifest.windows.b/16/window-00000.mds"),
])
def test_a_checkpoint_of_other_data_is_refused(shards, tmp_path, change, message):
    train(shards, tmp_path / "run", TINY, CONFIG)
    change(shards)
    with pytest.raises(ValueError, match=message):
        train(shards, tmp_path / "run", TINY, CONFIG)


def edit_manifest(root, change):
    from schemas.manifest import load_manifest

    save(change(load_manifest(root / "manifest.json")), root / "manifest.json")


def test_a_checkpoint_of_another_model_or_configuration_is_refused(shards, tmp_path):
    train(shards, tmp_path, TINY, CONFIG)
    with pytest.raises(ValueError, match=r"model.d_expert: 16, now 8; train.peak_lr: 0.01, now 0.02. Restore"):
        train(shards, tmp_path, dataclasses.replace(TINY, d_expert=8), dataclasses.replace(CONFIG, peak_lr=0.02))


def test_stages_may_be_added_to_a_plan_but_begun_ones_not_changed(shards, tmp_path):
    plan = load_plan(shards / "plan.json")
    save(Plan(plan.seed, plan.stages[:1]), shards / "plan.json")
    train(shards, tmp_path / "amended", TINY, CONFIG)
    save(plan, shards / "plan.json")
    amended = train(shards, tmp_path / "amended", TINY, CONFIG)
    at_once = train(shards, tmp_path / "at once", TINY, CONFIG)
    assert amended["final_loss"] == at_once["final_loss"] and amended["evaluations"] == at_once["evaluations"]
    changed = dataclasses.replace(plan.stages[1], lr=LearningRate())
    save(Plan(plan.seed, (plan.stages[0], changed)), shards / "plan.json")
    with pytest.raises(ValueError, match=r"plan.stages\[1\].lr"):
        train(shards, tmp_path / "amended", TINY, CONFIG)


def test_a_full_disk_leaves_the_older_checkpoint(shards, tmp_path):
    def fill(progress):
        if progress.step == 4:  # files may not grow past 20 kB from here on, as on a disk that is nearly full
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="checkpoint of step 4 could not be written .* goes on from step-0000002"):
            train(shards, tmp_path / "run", TINY, CONFIG, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-0000002"]
    assert train(shards, tmp_path / "run", TINY, CONFIG)["final_loss"] == train(shards, tmp_path / "other", TINY, CONFIG)["final_loss"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_documents(shards, tmp_path, monkeypatch):
    step = Learner.step

    def poisoned(self, number, batch, rate):
        if number == 3:
            with torch.no_grad():
                self.network.embedding[batch.tokens_BL[0, 1]] = math.nan
        return step(self, number, batch, rate)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 3: loss .* not finite; documents with such losses: \[\d+"):
        train(shards, tmp_path / "run", TINY, CONFIG)
    assert checkpoint.newest(tmp_path / "run").name == "step-0000002"
