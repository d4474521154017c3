"""Steps that are not finite, or explode, are skipped, told and counted; nothing else changes."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from test_faults import in_processes
from test_parallel import whole_tensors
from test_step import CONFIG as STEP_CONFIG
from test_step import all_tensors, batch_of
from test_training import CONFIG as ROUNDED
from test_training import Stopped, outcome, shards, train_until  # noqa: F401 - shards is a fixture

from model import checkpoint
from model.ledger import ledger_files
from model.step import Learner
from model.train import train
from model.trouble import Trouble, deviations, medians
from schemas.training import TrainConfig
from tests.tiny import TINY, VOCAB

CONFIG = dataclasses.replace(ROUNDED, precision="fp32")  # bf16 takes a CPU four times as long


def test_medians_and_deviations_are_numpys():
    random = np.random.default_rng(0)
    for known in range(1, 12):
        recent = np.full((2, 11), np.nan)
        recent[:, 11 - known :] = random.standard_cauchy((2, known)) + 5
        recent[1] = np.abs(recent[1])
        median = np.nanmedian(recent, 1)
        assert np.array_equal(medians(torch.tensor(recent)).numpy(), median)
        mad = np.nanmedian(np.abs(recent - median[:, None]), 1)
        spread = np.maximum(1.4826 * mad, [0.1, 0.1 * median[1]])
        wanted = (np.array([9.0, 7.0]) - median) / spread * (known >= 6)
        np.testing.assert_allclose(deviations(torch.tensor([9.0, 7.0]).double(), torch.tensor(recent)), wanted, rtol=1e-12)
    assert medians(torch.full((1, 4), math.nan)).isnan().all()


def judge(trouble, loss, norm, balance=1.0):
    return bool(trouble.judge(*torch.tensor([loss, balance, norm]).double()))


def test_what_is_not_finite_never_comes_among_those_compared_with():
    """One NaN costs one step; with a mean and a deviation over it, every later step of the window would be skipped."""
    trouble = Trouble(TrainConfig(skip_window=8), torch.device("cpu"))
    taken = [judge(trouble, 3 + 0.1 * (n % 3), 1.0) for n in range(6)]
    taken += [judge(trouble, math.nan, 1.0), judge(trouble, 3.0, math.inf), judge(trouble, 3.0, 1.0, math.nan)]
    taken += [judge(trouble, 3 + 0.1 * (n % 3), 1.0) for n in range(6)]
    assert taken == [True] * 6 + [False] * 3 + [True] * 6
    assert trouble.recent.isfinite().all()


def test_an_explosion_is_skipped_and_a_fall_is_not():
    trouble = Trouble(TrainConfig(skip_window=8, skip_loss=10.0, skip_norm=10.0), torch.device("cpu"))
    told = [(9.0, 1.0)] * 3 + [(3.0, 1.0)] * 5  # too few to judge the first by
    told += [(4.5, 1.0), (3.0, 2.5), (3.9, 1.9), (0.1, 0.01), (3.0, 1.0)]
    assert [judge(trouble, *one) for one in told] == [True] * 8 + [False, False, True, True, True]
    trouble.forget()
    assert judge(trouble, 30.0, 30.0)


def test_a_window_goes_on_from_a_checkpoint():
    one, other = (Trouble(TrainConfig(skip_window=5), torch.device("cpu")) for _ in range(2))
    for n in range(7):
        judge(one, math.nan if n == 1 else n / 3, n / 7)
        other.resume(json.loads(json.dumps(one.window())))
        assert torch.equal(one.recent.nan_to_num(-1), other.recent.nan_to_num(-1))


def disturb(monkeypatch, steps, factor=math.nan):
    """In these steps a token's embedding is NaN, or the head so many times itself."""
    step = Learner.step

    def disturbed(self, number, batch, rate, *rest):
        row = self.network.head.weight.data if factor == factor else self.network.embedding.weight.data[batch.tokens_BL[0, 1]]
        kept = row.clone()
        row.mul_(factor if number in steps else 1.0)
        told = step(self, number, batch, rate, *rest)
        row.copy_(kept if number in steps else row)
        return told

    monkeypatch.setattr(Learner, "step", disturbed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_skipped_changes_nothing(precision, monkeypatch):
    disturb(monkeypatch, [1, 2])
    learner = Learner(TINY, dataclasses.replace(STEP_CONFIG, precision=precision), VOCAB)
    learner.step(0, batch_of(), 1e-3).read()
    before = {name: tensor.clone() for name, tensor in all_tensors(learner.adamw).items()} | {"shares": learner.shares.clone()}
    for number in (1, 2):
        numbers, rows, _ = learner.step(number, batch_of(), 1e-3).read()
        assert numbers["skipped"] == "loss and balance and grad_norm not finite" and rows["skipped"].all()
    after = all_tensors(learner.adamw) | {"shares": learner.shares}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    numbers, rows, _ = learner.step(3, batch_of(), 1e-3).read()
    assert "skipped" not in numbers and not rows["skipped"].any() and learner.adamw.done == 2


def of_a_rank_that_fails(ranks):
    """Three steps, of which one rank's second is not finite."""
    learner, told = Learner(TINY, STEP_CONFIG, VOCAB, ranks), []
    for step in range(3):
        batch, before = batch_of(step, ranks.rank, ranks.world), whole_tensors(learner.adamw.owned, ranks)
        row = learner.network.embedding.weight.data[batch.tokens_BL[0, 1]]
        kept = row.clone()
        row.mul_(math.nan if (step, ranks.rank) == (1, 1) else 1.0)
        numbers, rows, _ = learner.step(step, batch, 1e-3).read()
        row.copy_(kept)
        after = whole_tensors(learner.adamw.owned, ranks)
        told.append((numbers.get("skipped"), all(np.array_equal(before[name], after[name]) for name in before), rows["doc"].tolist()))
    return told


def test_all_ranks_skip_alike():
    first, second = in_processes(2, of_a_rank_that_fails)
    assert [(why is not None, same) for why, same, _ in first] == [(False, False), (True, True), (False, False)]
    assert [told[:2] for told in first] == [told[:2] for told in second]
    assert first[1][2] == second[1][2] != [] == second[0][2]  # all name the documents of a skipped step


def test_a_skipped_step_is_told_with_its_documents_and_costs_no_other(shards, tmp_path, monkeypatch, caplog):  # noqa: F811
    disturb(monkeypatch, [3])
    steps = []
    result = train(shards, tmp_path / "run", TINY, CONFIG, steps.append)
    assert result["skipped"] == [3] and math.isfinite(result["final_loss"])
    assert [one.step for one in steps if one.skipped] == [4] and len(steps) == 10
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[3]["loss"] is None and "not finite" in lines[3]["skipped"] and sum("skipped" in line for line in lines) == 1
    ledger = np.concatenate([rows for _, rows in ledger_files(tmp_path / "run")])
    assert set(ledger["step"]) == set(range(10)) and np.array_equal(ledger["skipped"], ledger["step"] == 3)
    (said,) = re.findall(r"step 3 was skipped: loss .* not finite; documents with such losses: \[([\d, ]+)\]", caplog.text)
    broken = ledger[(ledger["step"] == 3) & ~np.isfinite(ledger["loss"])]
    assert set(map(int, said.split(", "))) == set(broken["doc"].tolist())


@pytest.mark.parametrize(("factor", "stop"), [(math.nan, 5), (1e4, 6)])
def test_a_run_killed_beside_skipped_steps_ends_in_the_same_bits(shards, tmp_path, monkeypatch, factor, stop):  # noqa: F811
    """Both what came before a skipped step and how many were skipped is in the checkpoint."""
    config = dataclasses.replace(CONFIG, skip_window=4, skip_loss=30.0, checkpoint_steps=1)
    disturb(monkeypatch, [3, 5], factor)
    result = train(shards, tmp_path / "whole", TINY, config)
    assert result["skipped"] == [3, 5]
    for step in (stop, stop + 1, 8):
        train_until(shards, tmp_path / "run", step, config)
    train(shards, tmp_path / "run", TINY, config)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_so_many_in_a_row_stop_the_run_and_the_last_good_checkpoint_is_named_and_there(shards, tmp_path, monkeypatch):  # noqa: F811
    config = dataclasses.replace(CONFIG, skip_most=3, checkpoint_steps=1)
    disturb(monkeypatch, range(2, 10))
    said = r"^3 steps in a row were skipped; step 4 was skipped: loss .*documents with such losses: \[\d.*The last good checkpoint is step-0000002\. Lower"
    with pytest.raises(FloatingPointError, match=said):
        train(shards, tmp_path / "run", TINY, config)
    assert checkpoint.newest(tmp_path / "run").name == "step-0000002"
    monkeypatch.undo()
    train(shards, tmp_path / "run", TINY, config)
    train(shards, tmp_path / "whole", TINY, config)
    assert outcome(tmp_path / "run")[0]["final"] == outcome(tmp_path / "whole")[0]["final"]


def test_a_run_in_trouble_from_its_first_step_says_so(shards, tmp_path, monkeypatch):  # noqa: F811
    disturb(monkeypatch, range(10))
    with pytest.raises(FloatingPointError, match=r"8 steps in a row .* the run had just begun"):
        train(shards, tmp_path / "run", TINY, dataclasses.replace(CONFIG, checkpoint_steps=100))


def test_a_stage_is_not_judged_by_the_one_before_it(shards, tmp_path, monkeypatch):  # noqa: F811
    """The first step of the second stage explodes, by the first's measure."""
    config = dataclasses.replace(CONFIG, skip_window=4)
    disturb(monkeypatch, [6], 1e3)
    assert train(shards, tmp_path / "run", TINY, config)["skipped"] == []
    monkeypatch.undo()
    disturb(monkeypatch, [5], 1e3)
    assert train(shards, tmp_path / "other", TINY, config)["skipped"] == [5]
