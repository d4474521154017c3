"""What a run is told besides its data, beside its data: `shards`/settings.json, so that a copied folder is enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import DataError
from schemas.files import read_json, write_json
from schemas.training import ModelConfig, TrainConfig

KINDS = {"model": ModelConfig, "train": TrainConfig}


def write_settings(shards: Path, model: ModelConfig, config: TrainConfig) -> None:
    write_json(shards / "settings.json", {"model": dataclasses.asdict(model), "train": dataclasses.asdict(config)})


def load_settings(shards: Path) -> tuple[ModelConfig, TrainConfig]:
    """Raises FileNotFoundError, or DataError naming all fields that are missing, unknown or of another type, or the
    one that cannot be."""
    file = shards / "settings.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: `flows run shard` writes it, beside plan.json and manifest.json")
    settings = read_json(file)
    if wrong := list(_wrong(settings, {name: {} for name in KINDS})) or [
        one for name, kind in KINDS.items() for one in _wrong(settings[name], _defaults(kind), f"{name}.")
    ]:
        raise DataError(
            f"{file}: expected what `flows run shard` writes, every field of model and train; {'; '.join(wrong)}"
        )
    try:
        return tuple(kind(**_tuples(settings[name])) for name, kind in KINDS.items())
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None


def _wrong(values: Any, defaults: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Where a JSON object differs in its keys and their types from another one."""
    if not isinstance(values, dict):
        yield f"{prefix or 'the file'} is no object"
        return
    for name in sorted(values.keys() ^ defaults.keys()):
        yield f"{prefix}{name} is {'unknown' if name in values else 'missing'}"
    for name in sorted(values.keys() & defaults.keys()):
        kind, fits = type(defaults[name]), {float: (int, float), tuple: (list,)}
        if type(values[name]) not in fits.get(kind, (kind,)):
            yield f"{prefix}{name} is {values[name]!r}, expected one like {defaults[name]!r}"


def _defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
