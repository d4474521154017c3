"""kill -9 of one rank or of all, at steps and inside saves: a run of two ranks ends in the bits of one that nobody killed.

MILLRACE_KILLS says how many (ten without), MILLRACE_SEED where.
"""

import dataclasses
import datetime
import multiprocessing
import os
import random
import signal
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_training import CONFIG, outcome, shards  # noqa: F401 - shards is a fixture

from model import checkpoint, tensors
from model.parallel.ranks import Ranks
from model.step import Learner
from model.train import train
from tests.tiny import TINY

FORK = multiprocessing.get_context("fork")
POINTS = {  # where a rank dies: in a step, or in what a save does
    "step": (Learner, "step", 10),
    "ledger": (np, "save", 5),
    "create": (tensors, "create", 8),
    "bytes": (os, "pwrite", 300),
    "disk": (os, "fsync", 30),
    "rename": (Path, "rename", 8),
    "delete": (checkpoint, "_delete", 3),
}


def die_at(point, calls):
    """Have this process end in the call of that number."""
    owner, name, _ = POINTS[point]
    real, left = getattr(owner, name), [calls]

    def deadly(*given, **named):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(owner, name, deadly)


def start(world, function, *arguments, dying=None):
    """So many forked ranks and, of each, the pipe that brings what `function(ranks, *arguments)` returns or raises.

    dying: (rank, point, calls) of the one that is to end.
    """
    meeting = f"/dev/shm/millrace-{os.getpid()}-{os.urandom(4).hex()}"
    pipes = [FORK.Pipe(duplex=False) for _ in range(world)]
    ranks = []
    for rank, (_, told) in enumerate(pipes):
        ends = dying[1:] if dying and dying[0] == rank else None
        ranks.append(FORK.Process(target=_rank, args=(rank, world, meeting, told, ends, function, *arguments)))
        ranks[-1].start()
        told.close()  # its own end alone is open: who dies is heard of
    return ranks, [pipe for pipe, _ in pipes]


def _rank(rank, world, meeting, told, ends, function, *arguments):
    torch.set_num_threads(1)
    code = 1
    try:
        if world > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60))
        if ends:
            die_at(*ends)
        told.send(function(Ranks(rank, world, rank), *arguments))
        code = 0
    except Exception:
        told.send(traceback.format_exc())
    os._exit(code)  # a thread may wait for a rank that is gone


def in_processes(world, function, *arguments):
    """What the function returns on each of so many ranks, in order."""
    ranks, pipes = start(world, function, *arguments)
    told = [pipe.recv() if pipe.poll(120) else "hung" for pipe in pipes]
    for rank in ranks:
        rank.join(10)
        rank.kill()
    return told


def train_here(ranks, shards, run, config):  # noqa: F811
    train(shards, run, TINY, config, None, ranks)


def train_and_be_killed(shards, run, config, victim, ends):  # noqa: F811
    """Whether a rank was; `victim` None: with it the other, at once."""
    ranks, _ = start(2, train_here, shards, run, config, dying=(victim or 0, *ends))
    while all(rank.is_alive() for rank in ranks):
        time.sleep(0.005)
    if victim is None:
        for rank in ranks:
            rank.kill()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode is not None, "the rank that was left hangs"
    return -signal.SIGKILL in [rank.exitcode for rank in ranks]


@pytest.mark.servers
def test_kills_of_ranks_at_steps_and_in_saves_lose_nothing(shards, tmp_path):  # noqa: F811
    config = dataclasses.replace(CONFIG, keep_every=4, precision="fp32")
    assert in_processes(2, train_here, shards, tmp_path / "whole", config) == [None] * 2
    wanted, met, lives = outcome(tmp_path / "whole"), 0, 0
    seed = int(os.environ.get("MILLRACE_SEED", time.time()))
    chance, kills = random.Random(seed), int(os.environ.get("MILLRACE_KILLS", 10))
    while met < kills:
        run = tmp_path / f"killed-{lives}"
        point = chance.choice(list(POINTS))
        ends = point, chance.randrange(POINTS[point][2])
        met += train_and_be_killed(shards, run, config, chance.choice([0, 1, None]), ends)
        lives += (run / "result.json").exists()  # this one is done: another
    for number in range(lives + 1):
        run = tmp_path / f"killed-{number}"
        assert in_processes(2, train_here, shards, run, config) == [None] * 2
        assert outcome(run) == wanted, f"MILLRACE_SEED={seed}"
        assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [f"step-{n:07d}" for n in (4, 8, 10)]


def test_a_rank_that_is_killed_in_a_save_leaves_the_checkpoint_before_it(shards, tmp_path):  # noqa: F811
    config = dataclasses.replace(CONFIG, checkpoint_steps=4, precision="fp32")
    assert train_and_be_killed(shards, tmp_path, config, None, ("rename", 1))
    assert checkpoint.newest(tmp_path).name == "step-0000004"
    assert in_processes(2, train_here, shards, tmp_path, config) == [None] * 2
    assert checkpoint.newest(tmp_path).name == "step-0000010"
