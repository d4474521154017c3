"""Train on shards without the rest of the house: alone, or as one rank of many.

python -m model SHARDS RUN
torchrun --nproc-per-node N -m model SHARDS RUN
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from model.parallel.ranks import ALONE, join, leave
from model.parallel.watch import Watch
from model.settings import load_settings
from model.source import open_folder
from model.train import Progress, train
from schemas.errors import BUSY, DATA, DISK, FAULT, STOPPED, RunBusy, Stopped
from schemas.store import is_url

SECONDS = 10.0  # between two lines


def main() -> None:
    """Ends with one message and an exit code; with several ranks, by way of the watch that all of them keep."""
    parser = argparse.ArgumentParser("model", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shards", help="folder of manifest.json, plan.json, settings.json, what they name; or its URL")
    parser.add_argument("run", type=Path, help="folder of the run; one that was stopped goes on")
    parser.add_argument("--cache", type=Path, help="folder for shards of a URL; RUN/shards where none is named")
    parser.add_argument("--cache-gb", type=float, default=50, help="of which so much is kept")
    parser.add_argument("--json", action="store_true", help="print every step as a line of JSON")
    options = parser.parse_args()
    watch = Watch() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
    try:
        work(options, told_as_json if options.json else told_now_and_then(), watch)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(STOPPED)
    except Stopped as stopped:
        leave_stopped(stopped, watch)
    except Exception as error:
        end(error, watch)


def work(options: argparse.Namespace, on_step: Callable[[Progress], None], watch: Watch | None) -> None:
    """All of it, in this process."""
    run = options.run
    make_folder(run)
    shards = Path(options.shards)
    if is_url(options.shards):
        shards = open_folder(options.shards, options.cache or run / "shards", int(options.cache_gb * 1e9))
    model, config = load_settings(shards)
    ranks = join(watch.doing, watch.is_stopping) if watch else dataclasses.replace(ALONE, is_stopping=heed_signals())
    result = train(shards, run, model, config, on_step, ranks)
    if ranks.rank == 0:
        print(f"{result['steps']} steps, loss {result['final_loss']:.4f}: {run / 'result.json'}", file=sys.stderr)
    if watch:
        watch.close()
        leave()


def heed_signals() -> Callable[[], bool]:
    """Whether SIGTERM or SIGUSR1 asked this process, which trains alone, to save and end. A second one ends it at
    once."""
    asked = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)
    return lambda: bool(asked)


def leave_stopped(stopped: Stopped, watch: Watch | None) -> NoReturn:
    """End as a signal asked for; of several ranks all do, in the same step."""
    if not watch or watch.rank == 0:
        print(f"Stopped: {stopped}", file=sys.stderr)
    if watch:
        watch.close()
        leave()
    sys.exit(STOPPED)


def make_folder(run: Path) -> None:
    """Raises ValueError where there can be none."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError, PermissionError) as error:
        raise ValueError(f"expected a folder for the run that can be made, found {run}: {error.strerror}") from None


def end(error: Exception, watch: Watch | None) -> None:
    """Say what was wrong. A rank that lost touch with others knows less than the watch, and waits for its word."""
    if os.environ.get("MILLRACE_TRACEBACK"):
        traceback.print_exception(error)
    if watch:
        if is_lost_touch(error):
            watch.wait_for_word()
        watch.fail(sentence(error), exit_code(error))
    print(sentence(error), file=sys.stderr)
    sys.exit(exit_code(error))


def is_lost_touch(error: Exception) -> bool:
    """Whether it says that other ranks did not answer: gloo's is a plain RuntimeError."""
    return isinstance(error, dist.DistError | ConnectionError) or (type(error) is RuntimeError and "gloo" in str(error))


def exit_code(error: Exception) -> int:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, RunBusy):
        return BUSY
    return DISK if full else DATA if isinstance(error, ValueError | FileNotFoundError) else FAULT


def sentence(error: Exception) -> str:
    """An error of data or of the system is a sentence; of another the class says as much as its words."""
    is_sentence = exit_code(error) != FAULT or isinstance(error, OSError)
    return str(error) if is_sentence and str(error) else f"{type(error).__name__}: {error}"


def told_as_json(progress: Progress) -> None:
    """Print a line in one write, whatever Python buffers: the process may be ended between two."""
    print(json.dumps(dataclasses.asdict(progress)) + "\n", end="", flush=True)


def told_now_and_then() -> Callable[[Progress], None]:
    """Print a line for people at most every SECONDS, and for the last step."""
    said_at = -SECONDS

    def tell(step: Progress) -> None:
        nonlocal said_at
        if time.monotonic() - said_at < SECONDS and step.step < step.steps:
            return
        said_at = time.monotonic()
        speed = f"{100 * step.of_dense:.0f} % of dense" if step.mfu is None else f"MFU {100 * step.mfu:.0f} %"
        said = f"step {step.step} of {step.steps}  {step.stage}  loss {step.loss:.3f}"
        print(f"{said}  {step.tokens_per_second:,.0f} tokens/s, {speed}", flush=True)

    return tell


if __name__ == "__main__":
    main()
