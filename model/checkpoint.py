"""Checkpoints: whole or not there, never unpickled, and refused where they were made from something else.

`run/checkpoints/step-0000300/` holds weights.safetensors, optimizer.safetensors and state.json as they were when 300
steps were done. It is written under another name, brought to disk and renamed. Every rank writes its part of the whole
tensors, and reads what it needs of them: a checkpoint knows of no ranks, and any number of them goes on from it,
however weights are split.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from model import tensors
from model.identity import check_same
from model.parallel.ranks import Ranks
from schemas.files import differences
from schemas.training import require

log = logging.getLogger("millrace.checkpoint")


@dataclass
class State:
    """What a checkpoint keeps besides weights and moments. `load` counts rows per expert over the current stage,
    `last_load` in the last step, [layers][E], but for steps that were skipped; `skipped` counts those of them that came
    last, `recent` is what the next are compared with (model/trouble.py)."""

    step: int = 0
    load: list[list[int]] = field(default_factory=list)
    last_load: list[list[int]] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    dense: float = 0.0  # FLOP/s of dense products here when the run began
    micro_batches: int = 1
    recompute: str = "none"
    skipped: int = 0
    recent: list[list[float]] = field(default_factory=lambda: [[], []])


@dataclass
class Owned:
    """What a rank keeps of weights and optimiser: of each tensor the flat elements from `starts` on, as many as there
    are, maybe none. fp32, contiguous, of any shape; `shapes` are those of the whole tensors, `done` counts steps."""

    shapes: dict[str, tuple[int, ...]]
    starts: dict[str, int]
    masters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    done: Tensor

    def weights(self) -> dict[str, tuple[int, Tensor]]:
        """The masters by their names in weights.safetensors, each with its first element."""
        return {name: (self.starts[name], values) for name, values in self.masters.items()}

    def moments(self) -> dict[str, tuple[int, Tensor]]:
        """The optimiser's state by its names in optimizer.safetensors."""
        parts = {f"{name}.exp_avg": (self.starts[name], values) for name, values in self.first.items()}
        parts |= {f"{name}.exp_avg_sq": (self.starts[name], values) for name, values in self.second.items()}
        return parts | {f"{name}.step": (0, self.done) for name in self.masters}

    def files(self) -> dict[str, tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, Tensor]]]]:
        """The files of a checkpoint: the shapes of all tensors in each, and the parts that this rank keeps."""
        moments = {f"{name}.{kind}": shape for name, shape in self.shapes.items() for kind in ("exp_avg", "exp_avg_sq")}
        moments |= {f"{name}.step": () for name in self.shapes}
        return {
            "weights.safetensors": (self.shapes, self.weights()),
            "optimizer.safetensors": (moments, self.moments()),
        }


def save(
    run: Path,
    step: int,
    owned: Owned,
    state: dict,
    ranks: Ranks,
    keep: tuple[int, int] = (2, 0),
    settle: Callable[[], None] = lambda: None,
) -> None:
    """Write the checkpoint of `step`, behind what rank 0 has to `settle` on disk, then delete others; every rank calls
    this.

    keep: how many of the newest stay, and of which multiples of steps all (0: of none). Raises OSError on all ranks,
    leaving the older ones, if any cannot write; ValueError if nobody keeps some element.
    """
    _require_whole(owned, ranks)
    folder, files = run / "checkpoints", owned.files()
    # of a rank that outlives its run, nothing comes into another's
    scratch = folder / ranks.every(f".writing-{step:07d}-{uuid.uuid4().hex[:8]}")[0]
    try:
        _together(ranks, settle, by=0)
        _together(ranks, lambda: _begin(scratch, {file: shapes for file, (shapes, _) in files.items()}), by=0)
        _together(ranks, lambda: [tensors.write(scratch / file, parts) for file, (_, parts) in files.items()])
        _together(ranks, lambda: _settle(scratch, folder / f"step-{step:07d}", state), by=0)
    except OSError as error:
        _together(ranks, lambda: shutil.rmtree(scratch, ignore_errors=True), by=0)
        older = newest(run)
        raise _failure(
            f"the checkpoint of step {step} could not be written to {folder} ({error}): free some space and start "
            f"again; the run goes on from {older.name if older else 'its beginning'}",
            error.errno,
        ) from error
    prune(run, keep, ranks)


def prune(run: Path, keep: tuple[int, int], ranks: Ranks) -> None:
    """Delete checkpoints that are not to be kept, as `save` says; every rank calls this."""
    _together(ranks, lambda: [_delete(path) for path in _superfluous(run, *keep)], by=0)


def save_weights(path: Path, owned: Owned, ranks: Ranks) -> None:
    """Write the weights alone, whole or not at all; every rank calls this. Raises as `save` does."""
    _require_whole(owned, ranks)
    scratch = path.with_name(f".writing-{path.name}")
    try:
        _together(ranks, lambda: tensors.create(scratch, owned.shapes), by=0)
        _together(ranks, lambda: tensors.write(scratch, owned.weights()))
        _together(ranks, lambda: _rename(scratch, path), by=0)
    except OSError as error:
        _together(ranks, lambda: scratch.unlink(missing_ok=True), by=0)
        told = f"{path} could not be written ({error}): free some space and start again"
        raise _failure(told, error.errno) from error


def newest(run: Path, most: float = math.inf) -> Path | None:
    """Folder of the newest whole checkpoint of at most so many steps."""
    return next((folder for folder in reversed(_checkpoints(run)) if _step(folder) <= most), None)


def load_newest(run: Path, recorded: int, identity: dict, owned: Owned, ranks: Ranks) -> tuple[Path, dict] | None:
    """Fill `owned` from the newest checkpoint that is whole and not beyond the `recorded` steps that the run's files
    tell of, as nothing can tell of those again; return its folder and state, None if there is none at all. Every rank
    calls this, and all take the same one.

    Those that are passed over are named. Raises ValueError if all are, and as `check_same` does for `identity`.
    """
    if ranks.rank == 0:
        _sweep(run / "checkpoints")
    names, recorded = ranks.every(([folder.name for folder in _checkpoints(run)], recorded))[0]
    why = []
    for folder in (run / "checkpoints" / name for name in reversed(names)):
        state, damage = _state(folder, recorded, ranks)
        if not damage:
            check_same(state["made_with"], identity, state["tokens"], folder)
            damage = _told(ranks.every(_damage(folder, owned)))
        if not damage:
            if why and ranks.rank == 0:
                log.warning("%s; the run goes on from %s", "; ".join(why), folder.name)
            return folder, state
        why.append(f"{folder} cannot be gone on from ({damage})")
    require(not why, f"{'; '.join(why)}: put back what is missing, or delete {run} and train from the beginning")
    return None


def _state(folder: Path, recorded: int, ranks: Ranks) -> tuple[dict, str]:
    """A checkpoint's state as rank 0 reads it, and why it cannot be gone on from, if so."""
    state, damage = {}, ""
    if ranks.rank == 0:
        try:
            require(_step(folder) <= recorded, f"metrics, seconds and ledger tell of {recorded} steps")
            state = json.loads((folder / "state.json").read_text())
            whole = isinstance(state, dict) and {"made_with", "step", "tokens"} <= state.keys()
            require(whole, "state.json lacks what a run goes on from")
        except (OSError, ValueError) as error:
            damage = _reason(error)
    return ranks.every((state, damage))[0]


def _damage(folder: Path, owned: Owned) -> str:
    """Fill `owned` from a checkpoint's files; why they cannot be gone on from, if so."""
    broken = []
    try:
        for file, (shapes, parts) in owned.files().items():
            for name, expected, found in differences(shapes, tensors.read_shapes(folder / file)):
                raise ValueError(f"{file}: expected {name} of shape {expected}, found {found}")
            ranges = {name: (first, first + target.numel()) for name, (first, target) in parts.items()}
            for name, values in tensors.read(folder / file, ranges):
                if not bool(torch.isfinite(values).all()):
                    broken.append(name)
                parts[name][1].view(-1).copy_(values)
    except (OSError, ValueError) as error:
        return _reason(error)
    return f"numbers that are not finite in {', '.join(broken[:3])}" if broken else ""


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _together(ranks: Ranks, act: Callable[[], object], by: int | None = None) -> None:
    """Have all ranks, or that one, do something, and wait until it is done. What one cannot, all raise as OSError."""
    failure, number = "", None
    try:
        if by in (None, ranks.rank):
            act()
    except OSError as error:
        failure, number = str(error), error.errno
    words, numbers = zip(*ranks.every((failure, number)), strict=True)
    if told := _told(words):
        raise _failure(told, next(filter(None, numbers), None))


def _failure(told: str, number: int | None) -> OSError:
    """With its number, by which a full disk is known, and no other words than ours."""
    failure = OSError(told)
    failure.errno = number
    return failure


def _reason(error: Exception) -> str:
    """Ours say enough; others need their kind."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _told(words: Sequence[str]) -> str:
    """What some ranks said, in one sentence that says who."""
    said = {rank: word for rank, word in enumerate(words) if word}
    return "; ".join(f"rank {rank}: {word}" if len(words) > 1 else word for rank, word in list(said.items())[:3])


def _require_whole(owned: Owned, ranks: Ranks) -> None:
    """Refuse a file that would have holes: raises ValueError on all ranks unless they keep every element."""
    sizes = {name: values.numel() for name, values in owned.masters.items()}
    kept = ranks.every({name: (owned.starts[name], owned.starts[name] + size) for name, size in sizes.items() if size})
    for name, shape in owned.shapes.items():
        end = 0
        for start, stop in sorted(ranges[name] for ranges in kept if name in ranges):
            end = max(end, stop) if start <= end else end
        size = math.prod(shape)
        require(end == size, f"expected {size:,} elements of {name} on some rank each, found the first {end:,}")


def _begin(scratch: Path, files: dict[str, dict[str, tuple[int, ...]]]) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for file, shapes in files.items():
        tensors.create(scratch / file, shapes)


def _settle(scratch: Path, target: Path, state: dict) -> None:
    """Add the state and give the folder its name."""
    (scratch / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    for path in scratch.iterdir():
        to_disk(path)
    if target.exists():  # an earlier life of this run wrote the same step
        _delete(target)
    _rename(scratch, target)


def _rename(scratch: Path, target: Path) -> None:
    to_disk(scratch)
    scratch.rename(target)
    to_disk(target.parent)


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def _superfluous(run: Path, last: int, every: int) -> list[Path]:
    return [folder for folder in _checkpoints(run)[:-last] if not every or _step(folder) % every]


def _sweep(folder: Path) -> None:
    """Remove what killed runs were writing or deleting."""
    for pattern in (".writing-*", ".deleting-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _step(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


def _delete(folder: Path) -> None:
    """Delete a checkpoint; renamed first, so that one half deleted is never taken for whole."""
    doomed = folder.with_name(f".deleting-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
