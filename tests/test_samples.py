"""A plan's samples through stock Streaming, for other people's trainers: against the batches that ours reads."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from model.data import Batches
from model.samples import IGNORED, PlannedSampler, PlannedSamples
from schemas.manifest import Draw, LearningRate, Stage
from tests.mds import pack_documents, write_shards

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
BATCH = 8  # samples
LENGTHS = {"first": 16, "second": 32, "third": 16}


def stage(name: str, first_token: int, draws: list[tuple[str, int, int]]) -> Stage:
    draws = tuple(Draw(*draw) for draw in draws)
    return Stage(name, first_token, sum(draw.samples for draw in draws), LENGTHS[name], draws, LearningRate())


def windows(samples: int, seq_len: int, seed: int) -> list[list[dict]]:
    """Three windows of packed documents, about as many samples as told in all; longer documents are cut, ends padded."""
    random, packed = np.random.default_rng(seed), []
    for _ in range(3):
        lengths = random.integers(2, 2 * seq_len, samples // 3)
        documents = [np.array([0, *random.integers(1, 500, n - 2), 0]) for n in lengths]
        packed.append(pack_documents(documents, random.integers(-(2**63), 2**63, len(lengths)).tolist(), seq_len))
    return packed


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """(root, manifest, plan): three stages, two sequence lengths; the last one wraps round its streams' windows."""
    root = tmp_path_factory.mktemp("shards")
    folders = {(name, length): windows(60, length, seed) for seed, name in enumerate("ab") for length in (16, 32)}
    stages = (
        stage("first", 0, [("a", 30, 0), ("b", 50, 1)]),
        stage("second", 80 * 16, [("a", 20, 2), ("b", 4, 0)]),
        stage("third", 80 * 16 + 24 * 32, [("a", 90, 1), ("b", 6, 2)]),
    )
    return root, *write_shards(root, folders, [], stages, vocab_size=500)


@pytest.fixture(scope="module")
def planned(shards):
    """Each stage's samples, opened once."""
    return {name: PlannedSamples(shards[0], name) for name in LENGTHS}


def ours(shards, name: str, rank: int, world: int) -> list[dict]:
    """What our trainer reads in each step of a stage. `docs` of each token and Transformers' labels follow from the batch."""
    batches, number = Batches(*shards, BATCH * LENGTHS[name]), list(LENGTHS).index(name)
    read = [batches.batch(step, rank, world) for step in range(batches.steps) if batches.stage_of(step)[0] == number]
    return [
        {
            "tokens": batch.tokens_BL,
            "segments": batch.packing.segments_BL - batch.packing.segments_BL[:, :1],
            "positions": batch.packing.positions_BL,
            "docs": batch.docs_S[batch.packing.segments_BL],
            "predicted": batch.targets_BL,
        }
        for batch in read
    ]


def loader(samples: PlannedSamples, rank: int = 0, world: int = 1, first: int = 0, **options) -> DataLoader:
    return DataLoader(samples, BATCH // world, sampler=PlannedSampler(samples, BATCH, rank, world, first), **options)


def assert_same(read: list[dict], expected: list[dict]) -> None:
    assert len(read) == len(expected) > 0
    for mine, theirs in zip(read, expected, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("tokens", "segments", "positions", "docs"))
        predicted = theirs["predicted"].masked_fill(theirs["predicted"] == -1, IGNORED)
        assert torch.equal(mine["labels"][:, 1:], predicted[:, :-1]) and (mine["labels"][:, 0] == IGNORED).all()


@pytest.mark.parametrize(("name", "workers"), [("first", 0), ("first", 2), ("second", 2), ("third", 0)])
@pytest.mark.parametrize("world", [1, 2])
def test_a_rank_reads_what_our_trainer_would_give_it(shards, planned, name, workers, world):
    for rank in range(world):
        assert_same(list(loader(planned[name], rank, world, num_workers=workers)), ours(shards, name, rank, world))


@pytest.mark.parametrize("world", [1, 4])
def test_one_integer_resumes(shards, planned, world):
    for rank in range(world):
        read = list(loader(planned["first"], rank, world, first=3 * BATCH))
        assert_same(read, ours(shards, "first", rank, world)[3:])


def test_any_position_can_be_asked_for_in_any_order(planned):
    forwards = [planned["third"][n]["tokens"] for n in range(96)]
    for n in (95, 0, 64, 63, 7):
        assert torch.equal(planned["third"][n]["tokens"], forwards[n])
    for n in (-1, 96):
        with pytest.raises(IndexError, match=f"position {n} of a stage with 96 samples"):
            planned["third"][n]


def test_shapes_and_types_are_those_promised(planned):
    for name, length in LENGTHS.items():
        assert planned[name].max_seq_len == length
        assert {key: (tuple(value.shape), value.dtype) for key, value in planned[name][0].items()} == {
            key: ((length,), torch.int32 if key == "segments" else torch.int64)
            for key in ("tokens", "segments", "positions", "docs", "labels")
        }


def test_a_sampler_gives_whole_batches_and_counts_them(planned):
    sampler = PlannedSampler(
        planned["first"], 12, rank=1, world=2, first=9
    )  # 71 of 80 samples are left: 5 batches of 12
    assert isinstance(sampler, DistributedSampler)  # Composer demands one, Lightning leaves one alone
    expected = [n for k in range(5) for n in range(9 + 12 * k + 6, 9 + 12 * k + 12)]
    assert (list(sampler), len(sampler)) == (expected, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 0, 2), "9 samples does not divide by 2 ranks"),
        ((8, 0, 1, 81), "from 0 to 80, found 81"),
        ((8, 2, 2), "rank"),
    ],
)
def test_shares_that_cannot_be_dealt_are_refused(planned, arguments, message):
    with pytest.raises(ValueError, match=message):
        PlannedSampler(planned["first"], *arguments)


def test_spawned_workers_can_be_given_the_samples(planned):
    copy = pickle.loads(pickle.dumps(planned["second"]))
    assert torch.equal(copy[5]["tokens"], planned["second"][5]["tokens"])


def test_windows_are_fetched_when_they_are_read(shards, planned, tmp_path):
    for name in ("manifest.json", "plan.json"):
        shutil.copy(shards[0] / name, tmp_path / name)
    samples = PlannedSamples(tmp_path, "second", remote=str(shards[0]))
    assert not list(tmp_path.rglob("*.mds"))
    file, _ = samples.places.at(0)
    assert torch.equal(samples[0]["labels"], planned["second"][0]["labels"])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mds")] == [file]
    assert_same(list(loader(samples)), ours(shards, "second", 0, 1))


def test_a_window_that_arrives_changed_is_refused(shards, tmp_path):
    remote, local = shutil.copytree(shards[0], tmp_path / "remote"), tmp_path / "local"
    local.mkdir()
    for name in ("manifest.json", "plan.json"):
        shutil.copy(remote / name, local / name)
    samples = PlannedSamples(local, "second", remote=str(remote))
    window = remote / samples.places.at(0)[0]
    window.write_bytes(window.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="Checksum failure"):
        samples[0]
    with pytest.raises(ValueError, match="was changed: expected window"):  # it was kept, and Streaming takes what is there
        samples[0]


def test_a_window_that_was_changed_with_its_size_kept_is_refused(shards, tmp_path):
    root = shutil.copytree(shards[0], tmp_path / "copy")
    samples = PlannedSamples(root, "second")
    window = root / samples.places.at(0)[0]
    data = window.read_bytes()
    window.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{window.name} was changed: expected window \d+ with the manifest's SHA-256"):
            samples[0]
    window.write_bytes(data)
    assert len(samples[0]["tokens"]) == samples.max_seq_len


def test_the_readme_reads_a_batch(shards, planned):
    (block,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    names = {"rank": 1, "world": 2}
    exec(block.replace("millrace-home/local/shards", str(shards[0])).replace("broad", "first"), names)
    expected = torch.stack([planned["first"][n]["tokens"] for n in range(32, 64)])
    assert torch.equal(names["batch"]["tokens"], expected)


def test_a_stage_that_the_plan_lacks_is_named(shards):
    with pytest.raises(ValueError, match="no stage 'fourth': its stages are first, second, third"):
        PlannedSamples(shards[0], "fourth")


def test_other_files_than_the_manifest_names_are_refused(shards, tmp_path):
    root = shutil.copytree(shards[0], tmp_path / "copy")
    window, index = root / "a/32/window-00001.mds", root / "a/32/index.json"
    listed = json.loads(index.read_text())
    index.write_text(json.dumps({**listed, "shards": listed["shards"][:1]}))
    with pytest.raises(ValueError, match=r"a/32/index\.json does not list a/32/window-00001\.mds"):
        PlannedSamples(root, "second")
    window.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"window-00001\.mds has 5 bytes"):
        PlannedSamples(root, "second", remote=str(shards[0]))
    window.unlink()
    with pytest.raises(FileNotFoundError, match=r"window-00001\.mds is missing"):
        PlannedSamples(root, "second")
