"""Runs a function in several processes that know one another, as torch's launcher would start them."""

import os
import socket
import traceback

import torch
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def in_ranks(world, function, *arguments):
    """What `function(ranks, *arguments)` returns on each of `world` ranks. It is to be of a module that can be imported."""
    context = mp.get_context("spawn")
    answers, port = context.SimpleQueue(), free_port()
    started = [context.Process(target=_run, args=(rank, world, port, answers, function, arguments)) for rank in range(world)]
    for process in started:
        process.start()
    told = {}
    while len(told) < world:
        rank, failure, value = answers.get()
        if failure:
            for process in started:
                process.kill()
            raise AssertionError(f"rank {rank}: {failure}")
        told[rank] = value
    for process in started:
        process.join()
    return [told[rank] for rank in range(world)]


def _run(rank, world, port, answers, function, arguments):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    from model.parallel.ranks import join, leave

    try:
        answers.put((rank, None, function(join(), *arguments)))
    except BaseException:
        answers.put((rank, traceback.format_exc(), None))
    leave()
