"""What a run was made with: all that decides what it computes, compared before anything goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from schemas.files import differences, json_hash
from schemas.manifest import Manifest, Plan, content
from schemas.training import PLACE, ModelConfig, TrainConfig, require

TRAINER = 3  # raised when the same inputs train to other weights


def identity(manifest: Manifest, plan: Plan, model: ModelConfig, config: TrainConfig) -> dict:
    """All that decides what a run computes, in parts that can be told apart."""
    windows = {window.file: window.sha256 for folder in manifest.folders for window in folder.windows}
    streams = {stream.name: json_hash(stream) for stream in manifest.streams}
    data = {"recipe": manifest.recipe, "tokenizer": manifest.tokenizer, "tables": manifest.tables, "streams": streams}
    data |= {"windows": windows, "heldout": [window.sha256 for window in manifest.heldout]}
    parts = {
        "trainer": TRAINER,
        "manifest": data,
        "plan": content(plan),
        "model": dataclasses.asdict(model),
        "train": {name: value for name, value in dataclasses.asdict(config).items() if name not in PLACE},
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


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
