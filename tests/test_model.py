"""The model against Hugging Face's DBRX, packing, evaluation and generation against one document at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.attention import mask_bias, masked, pack
from model.evaluate import bits_per_byte, pieces
from model.generate import sample
from model.loss import CHUNK_BYTES, head_loss, targets, token_losses
from model.optim import learning_rate
from model.transformer import Transformer, parameter_counts
from schemas.manifest import Draw, LearningRate, Stage
from schemas.training import ModelConfig
from tests.tiny import TINY, VOCAB, heldout_documents


@pytest.fixture(scope="module")
def network():
    return Transformer(TINY, VOCAB, seed=1)


def logits(network, ids):
    """Of one document by itself, [L, V]."""
    tokens = torch.as_tensor(ids)[None]
    return network.logits(network(tokens, pack(np.array([0]), *tokens.shape)).states_TD)


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
    names = {"transformer.wte.weight": "embedding.weight", "transformer.norm_f.weight": "norm.weight", "lm_head.weight": "head.weight"}
    for i in range(len(network.blocks)):
        theirs, mine = f"transformer.blocks.{i}.", f"blocks.{i}."
        names |= {theirs + "norm_attn_norm." + a: mine + b for a, b in {
            "norm_1.weight": "norm_1.weight", "attn.Wqkv.weight": "attention.qkv", "attn.out_proj.weight": "attention.out",
            "norm_2.weight": "norm_2.weight"}.items()}
        names |= {theirs + "ffn.router.layer.weight": mine + "moe.router"}
        names |= {theirs + f"ffn.experts.mlp.{w}": mine + f"moe.experts.{w}" for w in ("w1", "v1", "w2")}
    return {theirs: ours[mine] for theirs, mine in names.items()}


def test_packed_segments_do_not_see_each_other(network):
    parts = [torch.randint(0, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 2)]
    packed = network.logits(network(torch.cat(parts)[None], pack(np.array([0, 5, 14]), 1, 16)).states_TD)
    torch.testing.assert_close(packed, torch.cat([logits(network, part) for part in parts]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_attention_is_sdpa(dtype):
    q, k, v = (torch.randn(2, 12, heads, 8, dtype=dtype, requires_grad=True) for heads in (6, 2, 2))
    segments = torch.tensor([[0] * 5 + [1] * 7, [2] * 11 + [3]])
    bias = mask_bias(segments, dtype)
    ours = masked(q, k, v, bias)
    theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias[:, None] == 0, enable_gqa=True)
    theirs = theirs.transpose(1, 2).flatten(2)
    tolerance = {"rtol": 0.02, "atol": 0.04} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(ours, theirs, **tolerance)
    cotangent = torch.randn_like(ours)
    for found, expected in zip(*(torch.autograd.grad(out, (q, k, v), cotangent) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


def test_head_loss_and_gradients_are_those_of_cross_entropy(monkeypatch):
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 3 * 11 * 8)  # three rows at once, the last chunk shorter
    states, head = torch.randn(10, 6, dtype=torch.float64, requires_grad=True), torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([3, -1, 0, 10, 10, -1, 7, 1, 2, -1])
    losses, *found = head_loss(states, head, wanted, torch.tensor(3 / 7))
    expected = F.cross_entropy(states @ head.T, wanted, ignore_index=-1, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(token_losses(states, head, wanted), expected.detach())
    for gradient, right in zip(found, torch.autograd.grad(3 / 7 * expected.sum(), (states, head)), strict=True):
        torch.testing.assert_close(gradient, right)


def test_tokens_predict_their_successor_in_the_same_document_but_never_padding():
    tokens = torch.tensor([[5, 6, 7, 8, 9, 9]])
    segments, docs = torch.tensor([[0, 0, 0, 1, 2, 2]]), torch.tensor([11, 12, 0])
    assert targets(tokens, segments, docs).tolist() == [[6, 7, -1, -1, -1, -1]]


def test_learning_rate_phases():
    def new(shape, start, end, warmup):
        return Stage("s", 0, 10, 100, (Draw("a", 10, 0),), LearningRate(shape, start, end, warmup))
    def at(phase, *tokens):
        return [learning_rate(phase, t, peak=2.0) for t in tokens]
    assert at(new("constant", 1, 1, 200), 0, 100, 200, 1000) == [0, 1, 2, 2]
    assert at(new("linear", 1, 0.5, 0), 0, 500, 1000) == [2, 1.5, 1]
    assert at(new("one_minus_sqrt", 1, 0, 200), 200, 400, 1000) == [2, 1, 0]


def test_parameter_counts_are_those_of_dbrx():
    dbrx = ModelConfig(layers=40, d_model=6144, heads=48, kv_heads=8, experts=16, top_k=4, d_expert=10752)
    counts = parameter_counts(dbrx, 100_352)  # published 132B and 36B; the exact numbers: trainer facts, section 3.2
    assert counts["total"] / 1e9 == pytest.approx(131.60, abs=0.005) and counts["active"] / 1e9 == pytest.approx(35.85, abs=0.005)


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
    scores = bits_per_byte(network, documents, seq_len, batch_tokens=64)
    for domain, score in scores.items():
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
    def draw(seed, top_k=0):
        return sample(network, [0], 20, temperature=1.0, top_k=top_k, seed=seed, eot=-1)
    assert draw(1) == draw(1) != draw(2)
    assert draw(1, top_k=1) == sample(network, [0], 20, temperature=0, top_k=0, seed=0, eot=-1)
