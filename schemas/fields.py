"""Every field of a recipe, for people: `flows recipe fields`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.presets import presets
from schemas.recipe import Recipe
from schemas.training import ModelConfig


def fields(part: type = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every field of a recipe as (path, type, default, description), parts within parts."""
    if part is ModelConfig:
        yield f"{prefix}preset", "str", "None", f"one of {', '.join(presets())}; fields beside it differ from it"
    if dataclasses.is_dataclass(part):
        for item in dataclasses.fields(part):
            yield f"{prefix}{item.name}", str(item.type), f"{item.default}", item.metadata["description"]
        return
    for name, info in part.model_fields.items():
        inner, suffix = _inner(info.annotation)
        default = "required" if info.is_required() else "" if inner else _default(info)
        yield f"{prefix}{name}{suffix}", "" if inner else _type_name(info.annotation), default, info.description
        if inner:
            yield from fields(inner, f"{prefix}{name}{suffix}.")


def _default(info: FieldInfo) -> str:
    return f"{info.default}" if info.default_factory is None else "chosen"


def _inner(annotation: Any) -> tuple[type | None, str]:
    """The part that a field holds, alone, in a list ([]) or by name (.<name>)."""
    container, arguments = get_origin(annotation), get_args(annotation)
    if container in (tuple, dict):
        part, _ = _inner(arguments[0] if container is tuple else arguments[1])
        return part, {tuple: "[]", dict: ".<name>"}[container] if part else ""
    if container is UnionType:
        return _inner(arguments[0])
    is_part = isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )
    return (annotation if is_part else None), ""


def _type_name(annotation: Any) -> str:
    container, arguments = get_origin(annotation), get_args(annotation)
    if container is Literal:
        return " | ".join(arguments)
    if container is Annotated:
        return _type_name(arguments[0])
    if container in (Union, UnionType):
        return " | ".join("None" if a is type(None) else _type_name(a) for a in arguments)
    if container in (tuple, dict):
        return f"{container.__name__}[{', '.join('...' if a is ... else _type_name(a) for a in arguments)}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
