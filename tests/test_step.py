"""One optimiser step: any division of it gives the same gradients."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.attention import pack
from model.data import make_batch
from model.evaluate import bits_per_byte
from model.step import Division, Learner
from model.transformer import Transformer, parameter_counts, step_flops
from schemas.training import ModelConfig, TrainConfig
from tests.tiny import TINY, VOCAB, heldout_documents

ROWS, LENGTH = 8, 16
CONFIG = TrainConfig(batch_tokens=ROWS * LENGTH, precision="fp32", peak_lr=1e-2)
DENSE = dataclasses.replace(TINY, experts=1, top_k=1, d_expert=TINY.top_k * TINY.d_expert)


def batch_of(seed=0, rank=0, world=1):
    """Rows of one to four documents, some of one token, padding behind; a rank's part of them."""
    random, samples = np.random.default_rng(seed), []
    for row in range(ROWS):
        starts = np.unique([0, *random.integers(1, LENGTH, row % 4)])
        docs = 1 + random.integers(30, size=len(starts))
        docs[-1] = docs[-1] if row % 3 else 0
        samples.append({"tokens": random.integers(1, VOCAB, LENGTH), "starts": starts, "docs": docs})
    return make_batch(0, samples[rank * ROWS // world : (rank + 1) * ROWS // world])


def all_tensors(adamw):
    kinds = {"master": adamw.masters, "first": adamw.first, "second": adamw.second}
    return {f"{name}.{kind}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()} | {"done": adamw.done}


def test_parts_of_a_batch_are_turned_as_it_is():
    batch = dataclasses.replace(batch_of(), rope_theta=9_000.0)
    assert [part.rope_theta for part in (*batch.split(4), batch.map(torch.clone))] == [9_000.0] * 5


def gradients(learner, batch, monkeypatch):
    """Of a step, before clipping, with what it tells."""
    kept = {}

    def keep(accept):
        sums = learner.adamw.sums or {name: weight.grad for name, weight in learner.adamw.weights.items()}
        kept.update({name: gradient.clone() for name, gradient in sums.items()})
        learner.adamw.forget()
        return torch.ones(())

    with monkeypatch.context() as patch:
        patch.setattr(learner.adamw, "step", keep)
        told = learner.step(0, batch, 1e-3).read()
    return kept, told


@pytest.mark.parametrize("model", [TINY, DENSE])
def test_gradients_are_those_of_the_definition(model, monkeypatch):
    """Cross-entropy of all logits and the balance loss of each layer, by autograd alone."""
    learner, batch = Learner(model, CONFIG, VOCAB), batch_of()
    learner.shares.copy_(torch.rand(learner.shares.shape, generator=torch.Generator().manual_seed(5)))
    found, (numbers, rows, load) = gradients(learner, batch, monkeypatch)
    network, targets_T = Transformer(model, VOCAB, CONFIG.seed), batch.targets_BL.flatten()
    given = torch.rand(learner.shares.shape, generator=torch.Generator().manual_seed(5))
    hidden = network(batch.tokens_BL, batch.packing, given)
    losses = F.cross_entropy(network.logits(hidden.states_TD), targets_T, ignore_index=-1, reduction="none")
    loss = losses.sum() / (targets_T >= 0).sum()
    wanted = torch.autograd.grad(loss + model.balance_weight * hidden.balance, list(network.parameters()))
    for (name, _), gradient in zip(network.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-6) and numbers["balance"] == pytest.approx(hidden.balance.item())
    docs_T = batch.docs_S[batch.packing.segments_BL.flatten()]
    for row in rows:
        assert row["loss"] == pytest.approx(losses[docs_T == int(row["doc"])].sum().item(), abs=1e-4)
        assert row["tokens"] == ((docs_T == int(row["doc"])) & (targets_T >= 0)).sum()
    assert load.tolist() == hidden.load.flatten().tolist() and load.sum() == model.layers * model.top_k * ROWS * LENGTH


@pytest.mark.parametrize("recompute", ["none", "attention", "block"])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_any_division_of_a_step_gives_the_same_gradients(parts, recompute, monkeypatch):
    learners = [Learner(TINY, CONFIG, VOCAB) for _ in range(2)]
    for learner in learners:
        learner.step(0, batch_of(1), 1e-2).read()  # so that the shares of experts are uneven
    learners[1].division = Division(parts, recompute)
    (wanted, told), (found, told_too) = (gradients(learner, batch_of(), monkeypatch) for learner in learners)
    assert any("router" in name for name in wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert told[0] == pytest.approx(told_too[0], rel=1e-5) and torch.equal(told[2], told_too[2])
    np.testing.assert_allclose(told[1]["loss"], told_too[1]["loss"], rtol=1e-5)
    assert told[1]["doc"].tolist() == told_too[1]["doc"].tolist()


def test_the_balance_loss_of_a_step_takes_rows_from_the_step_before():
    learner = Learner(TINY, CONFIG, VOCAB)
    even = torch.full((TINY.layers, TINY.experts), 1 / TINY.experts)
    assert torch.equal(learner.shares, even)
    *_, load = learner.step(0, batch_of(), 0.0).read()
    torch.testing.assert_close(learner.shares, load.view(even.shape) / (TINY.top_k * ROWS * LENGTH))


def test_divisions_get_smaller_until_rows_stand_alone_and_blocks_are_computed_again():
    division, tried = Division(), []
    while division is not None:
        tried.append((division.micro_batches, division.recompute))
        division = division.smaller(rows=12)
    assert tried == [(1, "none"), (2, "none"), (3, "none"), (4, "none"), (6, "none"), (12, "none"), (12, "attention"), (12, "block")]


def test_memory_that_runs_out_divides_the_step_and_then_says_so(monkeypatch):
    learner, step = Learner(TINY, CONFIG, VOCAB), Learner._step
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))

    def short(self, *given):
        if self.division.micro_batches < 4:
            raise torch.OutOfMemoryError
        return step(self, *given)

    monkeypatch.setattr(Learner, "_step", short)
    whole = Learner(TINY, CONFIG, VOCAB)
    whole.division = Division(4)
    assert learner.step(0, batch_of(), 1e-3).read()[0] == step(whole, 0, batch_of(), 1e-3, False).read()[0]
    assert learner.division == Division(4)

    def none_fits(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Learner, "_step", none_fits)
    with pytest.raises(MemoryError, match=r"one row of 16 tokens does not fit .* smaller model, or a shorter seq_len"):
        learner.step(0, batch_of(), 1e-3)


def test_masters_keep_what_rounded_weights_lose():
    """Steps far below a bf16 weight's resolution add up; matrices are their rounded masters, norms and embedding are them."""
    learner = Learner(TINY, dataclasses.replace(CONFIG, precision="bf16", weight_decay=0.0), VOCAB)
    first = {name: master.clone() for name, master in learner.adamw.masters.items()}
    for step in range(20):
        learner.step(step, batch_of(step), 1e-6).read()
    for name, weight in learner.network.named_parameters():
        master = learner.adamw.masters[name]
        assert not torch.equal(master, first[name]) and torch.equal(weight.data, master.to(weight.dtype))
        assert weight.dtype == (torch.bfloat16 if name in learner.network.matrices() else torch.float32)
    assert {"norm.weight", "embedding.weight"} & set(learner.network.matrices()) == set()


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_adamw_with_clipping_is_torchs(weight_decay):
    learner = Learner(TINY, dataclasses.replace(CONFIG, weight_decay=weight_decay), VOCAB)
    adamw = learner.adamw
    theirs = {name: torch.nn.Parameter(master.clone()) for name, master in adamw.masters.items()}
    decays = {name: 0.0 if p.ndim == 1 or name == "embedding.weight" else weight_decay for name, p in theirs.items()}
    optimizer = torch.optim.AdamW([{"params": [p], "weight_decay": decays[name]} for name, p in theirs.items()], betas=CONFIG.betas)
    for step in range(5):
        for name, weight in adamw.weights.items():
            weight.grad = 0.002 * 4**step * torch.randn(weight.shape)
            theirs[name].grad = weight.grad.clone()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        adamw.rate.fill_(1e-2 / (1 + step))
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), CONFIG.clip_norm)
        optimizer.step()
        torch.testing.assert_close(adamw.step(), norm)
    assert norm > CONFIG.clip_norm
    for name, master in adamw.masters.items():
        torch.testing.assert_close(master, theirs[name].data)


def test_a_dense_model_is_a_block_of_one_expert():
    """Experts that are all the same, all chosen, are one expert as wide as one of them."""
    same = dataclasses.replace(TINY, top_k=TINY.experts)
    one = dataclasses.replace(TINY, experts=1, top_k=1)
    sparse, dense = Transformer(same, VOCAB), Transformer(one, VOCAB)
    weights = {name: tensor[: TINY.d_expert] if name.endswith((".w1", ".v1", ".w2")) else tensor for name, tensor in sparse.state_dict().items()}
    dense.load_state_dict({name: tensor for name, tensor in weights.items() if "router" not in name})
    for block in sparse.blocks:
        for matrix in block.moe.experts.parameters():
            matrix.data = matrix.data[: TINY.d_expert].repeat(TINY.experts, 1)
    with torch.no_grad():
        documents = heldout_documents()
        wanted, found = (bits_per_byte(network, documents, 16, 64) for network in (sparse, dense))
    for domain, score in wanted.items():
        assert found[domain]["bits_per_byte"] == pytest.approx(score["bits_per_byte"], rel=1e-5)
    active, total = (parameter_counts(config, VOCAB) for config in (DENSE, TINY))
    assert active["active"] == active["total"] - VOCAB * TINY.d_model == total["active"] - TINY.layers * TINY.experts * TINY.d_model


def test_flops_of_a_step_are_counted_by_hand():
    model = ModelConfig(layers=3, d_model=8, heads=2, kv_heads=1, experts=4, top_k=2, d_expert=5)
    active = parameter_counts(model, 10)["active"]
    pairs = 1 + (1 + 2 + 3 + 4)
    assert step_flops(model, 10, np.array([1, 4])) == 6 * active * 5 + 12 * 3 * 8 * pairs


def test_segments_of_a_packing_are_filled_up_with_empty_ones():
    packing = pack(np.array([0, 3, 8, 9]), 2, 8)
    assert packing.bounds_S.tolist() == [0, 3, 8, 9] + [16] * 13 and packing.longest == 8
    assert packing.positions_BL.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 6]]
    second = packing.rows(1, 2, slice(2, 4))
    assert second.bounds_S.tolist() == [0, 1] + [8] * 15 and second.segments_BL.tolist() == [[2] + [3] * 7]
    many = pack(np.arange(300), 1, 300)
    assert len(many.bounds_S) - 1 == 320


def test_a_division_of_more_rows_than_a_batch_has_leaves_none_out():
    for asked, parts in ((1, 1), (3, 4), (5, 8), (8, 8), (16, 8)):
        split = batch_of().split(asked)
        assert len(split) == parts and len({len(part.tokens_BL) for part in split}) == 1
        assert torch.equal(torch.cat([part.tokens_BL for part in split]), batch_of().tokens_BL)
