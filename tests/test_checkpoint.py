"""Checkpoints written and read by one, two and three processes."""

import math
import multiprocessing
import os
import resource
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from model import checkpoint
from model.identity import TRAINER
from model.parallel.ranks import ALONE, Ranks

SHAPES = {"b": (5, 7), "a": (1,), "c": (2, 3, 4)}
CUTS = {  # first elements of ranks, and the end: uneven, and some keep nothing
    2: {"b": (0, 3, 35), "a": (0, 0, 1), "c": (0, 24, 24)},
    3: {"b": (0, 11, 12, 35), "a": (0, 1, 1, 1), "c": (0, 0, 8, 24)},
}
IDENTITY = {"trainer": TRAINER, "manifest": {"recipe": "r"}, "plan": {"seed": 1, "stages": []}, "model": {"layers": 2}}
STATE = {"made_with": IDENTITY, "step": 0, "tokens": 0}


def owned(ranks, seed=None):
    """What a rank keeps of numbers drawn by the seed, zeros without."""
    generator = torch.Generator().manual_seed(seed or 0)
    def numbers(shape):
        return torch.randn(shape, generator=generator) if seed else torch.zeros(shape)
    kinds = [{name: numbers(shape) for name, shape in SHAPES.items()} for _ in range(3)]
    cuts = {name: list(pairwise(CUTS[ranks.world][name]))[ranks.rank] if ranks.world > 1 else (0, math.prod(SHAPES[name])) for name in SHAPES}
    parts = [{name: values.view(-1)[slice(*cuts[name])].clone() for name, values in kind.items()} for kind in kinds]
    return checkpoint.Owned(SHAPES, {name: start for name, (start, _) in cuts.items()}, *parts, torch.tensor(float(seed or 0)))


def same(one, other):
    kinds = [(one.masters, other.masters), (one.first, other.first), (one.second, other.second)]
    return one.done == other.done and all(torch.equal(left[name], right[name]) for left, right in kinds for name in SHAPES)


def save(ranks, run, step):
    checkpoint.save(run, step, owned(ranks, step), STATE | {"step": step}, ranks)


def load(ranks, run, recorded=99, identity=IDENTITY):
    """Folder and state, once the right numbers were filled in."""
    target = owned(ranks)
    folder, state = checkpoint.load_newest(run, recorded, identity, target, ranks)
    assert same(target, owned(ranks, state["step"]))
    return folder.name, state


def by(world, function, *arguments):
    """What each of `world` processes returns, or the error that it raises, in order."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    folder = Path(arguments[0])
    meeting = folder / f".meeting-{os.urandom(4).hex()}"
    folder.mkdir(exist_ok=True)
    processes = [
        context.Process(target=_rank, args=(Ranks(rank, world, rank), meeting, pipe, function, *arguments)) for rank, (_, pipe) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    told = [pipe.recv() if pipe.poll(30) else "hung" for pipe, _ in pipes]
    for process in processes:
        process.join(5)
        process.kill()
    meeting.unlink(missing_ok=True)
    return told


def _rank(ranks, meeting, pipe, function, *arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=ranks.rank, world_size=ranks.world)
    ranks.barrier()  # all have met before a disk is full
    try:
        pipe.send(function(ranks, *arguments))
    except Exception as error:
        pipe.send(error)
    ranks.barrier()
    dist.destroy_process_group()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("world", [2, 3])
def test_a_checkpoint_is_the_same_bytes_by_any_number_of_processes_and_read_by_any(tmp_path, world):
    for step in (1, 2, 3):
        save(ALONE, tmp_path / "one", step)
    assert by(world, save_three, tmp_path / "many") == [None] * world
    assert checkpoints(tmp_path / "many") == checkpoints(tmp_path / "one") == ["step-0000002", "step-0000003"]
    assert files(tmp_path / "many/checkpoints/step-0000003") == files(tmp_path / "one/checkpoints/step-0000003")
    assert load(ALONE, tmp_path / "many") == ("step-0000003", STATE | {"step": 3})
    assert by(5 - world, load, tmp_path / "many") == [("step-0000003", STATE | {"step": 3})] * (5 - world)
    assert by(world, load, tmp_path / "many", 2) == [("step-0000002", STATE | {"step": 2})] * world


def save_three(ranks, run):
    for step in (1, 2, 3):
        save(ranks, run, step)


def test_files_are_those_of_the_library(tmp_path):
    save(ALONE, tmp_path, 5)
    whole, folder = owned(ALONE, 5), tmp_path / "checkpoints/step-0000005"
    weights, moments = (load_file(folder / f"{name}.safetensors") for name in ("weights", "optimizer"))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == SHAPES
    assert all(torch.equal(weights[name].view(-1), whole.masters[name]) for name in SHAPES)
    assert len(moments) == 9 and moments["c.exp_avg"].shape == moments["c.exp_avg_sq"].shape == SHAPES["c"]
    for name in SHAPES:
        kept = moments[f"{name}.exp_avg"].view(-1), moments[f"{name}.exp_avg_sq"].view(-1)
        assert torch.equal(kept[0], whole.first[name]) and torch.equal(kept[1], whole.second[name])
        assert moments[f"{name}.step"].shape == () and moments[f"{name}.step"] == 5


def save_on_a_full_disk(ranks, run, full):
    """Rank `full` may not write beyond the first 500 bytes of a file: not all of the moments."""
    save(ranks, run, 1)
    if ranks.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    save(ranks, run, 2)


@pytest.mark.parametrize("full", [0, 1, 2])
def test_a_disk_that_one_rank_finds_full_is_an_error_of_all_and_leaves_the_older_checkpoint(tmp_path, full):
    told = by(3, save_on_a_full_disk, tmp_path, full)
    assert all(type(error) is OSError for error in told) and len(set(map(str, told))) == 1, told
    assert f"checkpoint of step 2 could not be written to {tmp_path}/checkpoints (rank {full}: [Errno 27]" in str(told[0])
    assert "goes on from step-0000001" in str(told[0]) and checkpoints(tmp_path) == ["step-0000001"]
    assert load(ALONE, tmp_path)[0] == "step-0000001"


def save_with_holes(ranks, run):
    parts = owned(ranks, 2)
    if ranks.rank == 1:
        parts.starts["b"] += 1
    checkpoint.save(run, 2, parts, STATE, ranks)


def test_elements_that_no_rank_keeps_are_an_error_of_all(tmp_path):
    told = by(2, save_with_holes, tmp_path)
    assert [str(error) for error in told] == ["expected 35 elements of b on some rank each, found the first 3"] * 2
    assert not (tmp_path / "checkpoints").exists()


def save_weights(ranks, folder, full=None):
    if ranks.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
    checkpoint.save_weights(folder / "weights.safetensors", owned(ranks, 7), ranks)


def test_weights_alone_are_the_same_bytes_whole_or_not_at_all(tmp_path):
    told = by(3, save_weights, tmp_path, 2)
    assert len(set(map(str, told))) == 1 and "weights.safetensors could not be written (rank 2: [Errno 27]" in str(told[0])
    assert not list(tmp_path.iterdir())
    save_weights(ALONE, tmp_path)
    alone = files(tmp_path)
    assert alone.keys() == {"weights.safetensors"}
    assert by(2, save_weights, tmp_path) == [None] * 2 and files(tmp_path) == alone


def damage(folder, file, name):
    tensors = load_file(folder / file)
    tensors[name].view(-1)[-1] = math.inf
    save_file(tensors, folder / file)


@pytest.mark.parametrize(("file", "name"), [("weights.safetensors", "b"), ("optimizer.safetensors", "c.exp_avg_sq")])
def test_damage_that_one_rank_sees_takes_all_to_the_older_checkpoint(tmp_path, caplog, file, name):
    """The last element is kept by the last rank. What was filled from the damaged one is filled again."""
    for step in (1, 2):
        save(ALONE, tmp_path, step)
    damage(tmp_path / "checkpoints/step-0000002", file, name)
    assert by(3, load, tmp_path) == [("step-0000001", STATE | {"step": 1})] * 3
    assert load(ALONE, tmp_path)[0] == "step-0000001"
    assert f"step-0000002 cannot be gone on from (numbers that are not finite in {name}); the run goes on from step-0000001" in caplog.text
    damage(tmp_path / "checkpoints/step-0000001", file, name)
    told = by(2, load, tmp_path)
    rank = 1 if name == "b" else 0
    said = rf"step-0000002 cannot be gone on from (rank {rank}: numbers that are not finite in {name}); "
    assert len(set(map(str, told))) == 1 and said in str(told[0]) and "put back what is missing" in str(told[0])


def load_what_rank_0_knows(ranks, run):
    """Only rank 0's record counts; another machine has the folder elsewhere."""
    return load(ranks, run if ranks.rank == 0 else run / "mounted", 1 if ranks.rank == 0 else 99)


def test_all_take_what_rank_0_lists(tmp_path):
    (tmp_path / "mounted").symlink_to(tmp_path)
    for step in (1, 2):
        save(ALONE, tmp_path, step)
    assert [name for name, _ in by(2, load_what_rank_0_knows, tmp_path)] == ["step-0000001"] * 2


def test_tensors_of_other_names_or_shapes_are_damage_but_another_model_is_refused(tmp_path):
    for step in (1, 2):
        save(ALONE, tmp_path, step)
    file = tmp_path / "checkpoints/step-0000002/optimizer.safetensors"
    moments = load_file(file)
    for changed in (moments | {"d.exp_avg": torch.zeros(1)}, moments | {"a.step": torch.zeros(1)}, {k: v for k, v in moments.items() if k != "b.exp_avg"}):
        save_file(changed, file)
        assert load(ALONE, tmp_path)[0] == "step-0000001"
    with pytest.raises(ValueError, match=r"was made with other inputs; different are model.layers: 2, now 3"):
        load(ALONE, tmp_path, identity=IDENTITY | {"model": {"layers": 3}})


def test_a_checkpoint_half_written_is_not_one(tmp_path):
    save(ALONE, tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints/step-0000001", tmp_path / "checkpoints/.writing-0000002")
    assert load(ALONE, tmp_path)[0] == "step-0000001"
    save(ALONE, tmp_path, 2)
    assert checkpoints(tmp_path) == ["step-0000001", "step-0000002"]
