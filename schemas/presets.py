"""Shapes of models by name, from presets.yaml. A recipe's `model` is written out here: a trainer reads no YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from schemas.strict_yaml import load_yaml
from schemas.training import ModelConfig

VOCAB = 100_352  # with which published parameters were counted


@dataclass(frozen=True)
class Preset:
    """A shape, where it is from, and its parameters as they were published: total, active or neither."""

    model: ModelConfig
    source: str
    published: dict[str, float] = field(default_factory=dict)


@cache
def presets() -> dict[str, Preset]:
    """All, by name."""
    told = load_yaml(Path(__file__).with_name("presets.yaml").read_text("utf-8"))
    return {name: Preset(**{**one, "model": ModelConfig(**one["model"])}) for name, one in told.items()}


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError that lists the known ones."""
    if not isinstance(name, str) or name not in presets():
        raise ValueError(f"expected a preset among {', '.join(presets())}; found {name!r:.80}")
    return presets()[name]


def resolve(model: Any) -> Any:
    """What a recipe says under `model`, a preset written out: of its name, or of `preset` beside fields that differ.

    Raises ValueError for a preset that is not known, and for what is neither a name nor fields.
    """
    if isinstance(model, str):
        return dataclasses.asdict(preset(model).model)
    if isinstance(model, dict) and "preset" in model:
        changes = {name: value for name, value in model.items() if name != "preset"}
        return dataclasses.asdict(preset(model["preset"]).model) | changes
    if isinstance(model, dict | ModelConfig):
        return model
    raise ValueError(f"expected fields, or a preset's name among {', '.join(presets())}; found {model!r:.80}")
