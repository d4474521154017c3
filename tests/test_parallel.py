"""Several processes, by each kind of parallelism, against one process: the same losses, weights and ledger."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from ranks import in_ranks
from test_step import CONFIG, batch_of

from model.parallel.ranks import ALONE
from model.parallel.replicate import Replicated
from model.step import Division, Learner
from schemas.manifest import LearningRate, Stage
from tests.tiny import TINY, VOCAB, heldout_documents

STEPS = 3


def train(ranks, model, config, micro_batches, expert_ranks=None):
    """Weights, moments and what was told of some steps, with held-out bits per byte; of rank 0, whole."""
    os.environ["LOCAL_WORLD_SIZE"] = str(expert_ranks or ranks.world)  # experts are split over those of a machine
    learner, told = Learner(model, config, VOCAB, ranks), []
    learner.division = Division(micro_batches)
    for step in range(STEPS):
        numbers, rows, load = learner.step(step, batch_of(step, ranks.rank, ranks.world), 1e-2).read()
        told.append((numbers, rows, load.numpy()))
    bits = learner.evaluate(heldout_documents(), Stage("stage", 0, 0, 16, (), LearningRate()))
    return told, bits, whole_tensors(learner.adamw.owned, ranks)


def whole_tensors(owned, ranks):
    parts = {
        f"{kind}.{name}": (owned.starts[name], tensor.flatten().clone().numpy())
        for kind in ("masters", "first", "second")
        for name, tensor in getattr(owned, kind).items()
    }
    told, whole = ranks.every(parts), {}
    for key in parts:
        shape = owned.shapes[key.split(".", 1)[1]]
        whole[key] = np.full(np.prod(shape), np.nan)
        for of_rank in told:
            start, values = of_rank[key]
            whole[key][start : start + len(values)] = values
    return whole


def same(found, expected, rtol):
    for (numbers, rows, load), (numbers_1, rows_1, load_1) in zip(found[0], expected[0], strict=True):
        assert numbers.keys() == numbers_1.keys()
        np.testing.assert_allclose(list(numbers.values()), list(numbers_1.values()), rtol=rtol)
        for name in ("step", "doc", "tokens"):
            assert np.array_equal(rows[name], rows_1[name])
        np.testing.assert_allclose(rows["loss"], rows_1["loss"], rtol=rtol, atol=rtol)
        assert np.array_equal(load, load_1)
    for domain, scores in expected[1].items():
        assert found[1][domain]["tokens"] == scores["tokens"]
        assert found[1][domain]["bits_per_byte"] == pytest.approx(scores["bits_per_byte"], rel=rtol)
    assert found[2].keys() == expected[2].keys()
    for key, values in expected[2].items():
        assert not np.isnan(found[2][key]).any(), key
        np.testing.assert_allclose(found[2][key], values, rtol=rtol, atol=rtol * np.abs(values).max(), err_msg=key)


CASES = {  # by number of ranks: kind, micro-batches, over how many ranks experts are split
    2: [("replicate", 1, None), ("replicate", 2, None), ("shard", 1, None), ("shard", 4, None), ("experts", 1, 2)],
    4: [("replicate", 2, None), ("shard", 2, None), ("experts", 2, 2), ("experts", 1, 4)],
}


def train_all(ranks, cases):
    return [train(ranks, TINY, dataclasses.replace(CONFIG, parallel=kind), *rest) for kind, *rest in cases]


@pytest.fixture(scope="module")
def alone():
    return train(ALONE, TINY, CONFIG, 1)


@pytest.fixture(scope="module", params=CASES)
def ranks_told(request):
    """What rank 0 tells of each case; processes are started once."""
    cases = CASES[request.param]
    return dict(zip(cases, in_ranks(request.param, train_all, cases)[0], strict=True))


def test_ranks_do_what_one_does(ranks_told, alone):
    for found in ranks_told.values():
        same(found, alone, 2e-4)


def share_odd(ranks):
    """Gradients of weights that do not divide by the ranks, reduced, and each part's square of it published."""
    weights = {"odd": torch.zeros(3, 5), "norm": torch.zeros(4), "even": torch.zeros(4, 2), "small": torch.zeros(1, 1)}
    placed = Replicated({name: torch.nn.Parameter(weight) for name, weight in weights.items()}, ranks)
    gradients = {name: torch.arange(w.numel()).view(w.shape) + 10.0**ranks.rank for name, w in weights.items()}
    for name, part in placed.reduce(gradients).items():
        placed.own[name].copy_(part**2)
        placed.publish(name)
    placed.settle()
    return {name: weight.data.numpy() for name, weight in placed.weights.items()}


def test_what_does_not_divide_by_the_ranks_is_shared_too():
    for told in in_ranks(3, share_odd):
        for values in told.values():
            np.testing.assert_array_equal(values.flatten(), (3 * np.arange(values.size) + 111.0) ** 2)
