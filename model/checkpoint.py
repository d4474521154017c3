"""Checkpoints: whole or not there, never unpickled, and refused where they were made from something else.

`run/checkpoints/step-0000300/` holds weights.safetensors, optimizer.safetensors and state.json as they were when 300
steps were done. It is written under another name, brought to disk and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.files import differences, json_hash
from schemas.manifest import Manifest, Plan
from schemas.training import ModelConfig, TrainConfig, require

log = logging.getLogger("millrace.checkpoint")
TRAINER = 2  # raised when the same inputs train to other weights
KEEP = 2  # checkpoints; the older one is for when the newer one's disk or numbers turn out bad


@dataclasses.dataclass
class Owned:
    """What a rank keeps of a model and its optimiser: `shapes` of whole weights, the first flat element of each that is
    kept here, and those elements of masters and moments, fp32; `done` counts the optimiser's steps."""

    shapes: dict[str, tuple[int, ...]]
    starts: dict[str, int]
    masters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    done: Tensor


class Damaged(ValueError):
    """A checkpoint that cannot be gone on from; the message says why."""


def save(run: Path, step: int, weights: dict[str, Tensor], moments: dict[str, Tensor], state: dict) -> None:
    """Write the checkpoint of `step`, then delete all but the newest `KEEP`. Raises OSError, leaving the older ones, if
    it cannot."""
    folder = run / "checkpoints"
    scratch = folder / f".writing-{step:07d}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file(weights, scratch / "weights.safetensors")
        save_file(moments, scratch / "optimizer.safetensors")
        (scratch / "state.json").write_text(json.dumps(state, indent=1) + "\n")
        for path in (*scratch.iterdir(), scratch):
            to_disk(path)
        target = folder / f"step-{step:07d}"
        if target.exists():  # an earlier life of this run wrote the same step
            _delete(target)
        scratch.rename(target)
        to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        older = newest(run)
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({error}): free some space and start "
            f"again; the run goes on from {older.name if older else 'its beginning'}"
        ) from error
    for path in _checkpoints(run)[:-KEEP]:
        _delete(path)


def newest(run: Path) -> Path | None:
    """Folder of the newest whole checkpoint."""
    return next(reversed(_checkpoints(run)), None)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """(weights, optimiser's moments, state) of a checkpoint. Raises Damaged if it is not what `save` wrote."""
    try:
        state = json.loads((folder / "state.json").read_text())
        weights, moments = (load_file(folder / f"{name}.safetensors") for name in ("weights", "optimizer"))
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not {"made_with", "step", "tokens"} <= state.keys():
        raise Damaged("state.json lacks what a run goes on from")
    if not weights or {name.rpartition(".")[0] for name in moments} != weights.keys():
        raise Damaged("the optimiser's moments are not those of the weights")
    tensors = [*weights.items(), *moments.items()]
    broken = [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise Damaged(f"numbers that are not finite in {', '.join(broken[:3])}")
    return weights, moments, state


def load_newest(run: Path, recorded: int) -> tuple[Path, dict[str, Tensor], dict[str, Tensor], dict] | None:
    """(folder, weights, moments, state) of the newest checkpoint that is whole and not beyond the `recorded` steps that
    the run's files tell of, as nothing can tell of those again; None if there is none at all.

    Those that are passed over are named. Raises ValueError if all are.
    """
    why = []
    for folder in reversed(_checkpoints(run)):
        try:
            if int(folder.name.partition("-")[2]) > recorded:
                raise Damaged(f"metrics, seconds and ledger tell of {recorded} steps")
            loaded = folder, *load(folder)
        except Damaged as error:
            why.append(f"{folder} cannot be gone on from ({error})")
            continue
        if why:
            log.warning("%s; the run goes on from %s", "; ".join(why), folder.name)
        return loaded
    require(not why, f"{'; '.join(why)}: put back what is missing, or delete {run} and train from the beginning")
    return None


def identity(manifest: Manifest, plan: Plan, model: ModelConfig, config: TrainConfig) -> dict:
    """All that decides what a run computes, in parts that can be told apart."""
    windows = {window.file: window.sha256 for folder in manifest.folders for window in folder.windows}
    streams = {stream.name: json_hash(stream) for stream in manifest.streams}
    data = {"recipe": manifest.recipe, "tokenizer": manifest.tokenizer, "tables": manifest.tables, "streams": streams}
    data |= {"windows": windows, "heldout": [window.sha256 for window in manifest.heldout]}
    parts = {
        "trainer": TRAINER,
        "manifest": data,
        "plan": dataclasses.asdict(plan),
        "model": dataclasses.asdict(model),
        "train": {name: value for name, value in dataclasses.asdict(config).items() if name not in ("parallel", "processes")},
    }
    return json.loads(json.dumps(parts))


def check_same(made_with: dict, given: dict, tokens_done: int, where: Path) -> None:
    """Refuse to go on from a checkpoint unless what it was made with is still so; identities as `identity` gives them.

    The plan may be amended: stages that begin at or behind `tokens_done` may be added or changed, and with them the
    windows that were written, the recipe and the hashes of the steps that wrote its tables. Raises ValueError naming
    every part that differs.
    """
    begun = [stage for stage in made_with["plan"]["stages"] if stage["first_token"] < tokens_done]
    amended = made_with["plan"] != given["plan"]
    plan = {**given["plan"], "stages": given["plan"]["stages"][: len(begun)]}
    data = dict(given["manifest"])
    if amended:
        data |= {key: made_with["manifest"][key] for key in ("recipe", "tables")}
        data["windows"] = {
            file: data["windows"].get(file, sha256) for file, sha256 in made_with["manifest"]["windows"].items()
        }
    changed = differences(
        {**made_with, "plan": {**made_with["plan"], "stages": begun}}, {**given, "plan": plan, "manifest": data}
    )
    told = "; ".join(f"{place}: {_short(old)}, now {_short(new)}" for place, old, new in changed)
    require(
        not told,
        f"{where} was made with other inputs; different are {told}. Restore them or train into a new folder",
    )


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def _delete(folder: Path) -> None:
    """Delete a checkpoint; renamed first, so that one half deleted is never taken for whole."""
    doomed = folder.with_name(f".deleting-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
