"""The recipe: one YAML file that says all of a run. Frozen; unknown fields are refused; checked before anything
starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.delivery_file import with_deliveries
from schemas.files import json_hash
from schemas.parts import (
    Decontaminate,
    Drift,
    Edits,
    Fraction,
    Heldout,
    Languages,
    LocalPath,
    Name,
    NearDuplicates,
    Part,
    Quality,
    Route,
    Source,
    Spark,
    Stage,
    StoreUrl,
    Tokenizer,
)
from schemas.presets import resolve
from schemas.strict_yaml import load_yaml
from schemas.training import PLACE, ModelConfig, TrainConfig, check_shares

RECIPE_BYTES = 1 << 20  # a recipe is written by hand; anything larger is another kind of file


class RecipeError(ValueError):
    """A recipe that cannot be run: the message names the field, what was expected and what was found."""


class Recipe(Part):
    """All of a run."""

    home: LocalPath = Field(description="folder of everything the run writes, relative to where flows is called")
    seed: int = Field(17, ge=0, le=2**31 - 1, description="seed of every order and sample")
    sources: tuple[Source, ...] = Field(min_length=1, description="where text comes from")
    routes: tuple[Route, ...] = Field(
        (), description="which documents are treated as another domain than their source's"
    )
    languages: Languages = Field(Languages(), description="what is usual in a language")
    near_duplicates: NearDuplicates = Field(NearDuplicates(), description="how near duplicates are found")
    rules: dict[str, dict[str, float | dict[str, float | None] | None]] = Field(
        {},
        description="thresholds by domain and rule that replace the default ones, one number or one a language; "
        "null turns a rule off",
    )
    edits: Edits = Field(Edits(), description="what is left out of kept documents or masked in them")
    decontaminate: Decontaminate = Field(Decontaminate(), description="which documents hold items of evaluations")
    drift: Drift = Field(Drift(), description="how far a delivery may be from the last accepted one of its source")
    quality: dict[str, Quality] = Field(
        {}, description="quality model by domain; a domain without one has no percentiles, one tier"
    )
    tiers: dict[Name, Fraction] = Field(
        {"all": 0.0}, description="quality tiers and the percentile each begins at; one must begin at 0"
    )
    tokenizer: Tokenizer = Field(Tokenizer(), description="text to token ids")
    heldout: Heldout = Field(Heldout(), description="documents set aside for evaluation")
    window_tokens: int = Field(
        1 << 20, ge=1024, description="tokens of a window: the unit that is packed, written and counted"
    )
    max_epochs: float = Field(4.0, gt=0, description="no stream is read more often than this, all stages together")
    stages: tuple[Stage, ...] = Field(min_length=1, description="the curriculum, in order")
    model: ModelConfig = Field(
        ModelConfig(),
        description="shape of the model: these fields, or a preset's name (`model: moe-a`; `flows model` lists them)",
    )
    train: TrainConfig = Field(TrainConfig(), description="how the model is optimised")
    prompts: tuple[str, ...] = Field(("def ", "The "), description="beginnings that the trained model continues")
    spark: Spark = Field(Spark(), description="where Spark runs")
    lake: StoreUrl | None = Field(
        None, description="where the tables are, s3://bucket/folder; the home's lake/ where none is named"
    )
    publish: StoreUrl | None = Field(
        None,
        description="object store that shards, training run and report are sent to: s3://bucket/folder, gs:, abfs:",
    )

    @field_validator("sources", "stages")
    @classmethod
    def _unique_names(cls, parts: tuple) -> tuple:
        names = [part.name for part in parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ, found twice: {', '.join(twice)}")
        return parts

    @field_validator("model", mode="before")
    @classmethod
    def _model_written_out(cls, model: Any) -> Any:
        return resolve(model)

    @field_validator("tiers")
    @classmethod
    def _tiers_cover(cls, tiers: dict[str, float]) -> dict[str, float]:
        if 0.0 not in tiers.values() or len(set(tiers.values())) != len(tiers):
            raise ValueError(f"tiers must begin at different percentiles, one of them at 0, found {tiers}")
        return tiers

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        sources = {source.name for source in self.sources}
        domains = self.domains
        for place, names, known in self._references(sources, domains):
            unknown = sorted(set(names) - known)
            if unknown:
                raise ValueError(
                    f"{place}: expected names among {', '.join(sorted(known))}; found {', '.join(unknown)}"
                )
        for i, stage in enumerate(self.stages):
            if self.train.batch_tokens % stage.seq_len:
                raise ValueError(
                    f"stages[{i}].seq_len ({stage.seq_len}) must divide train.batch_tokens ({self.train.batch_tokens})"
                )
            if stage.tokens < self.train.batch_tokens:
                raise ValueError(
                    f"stages[{i}].tokens ({stage.tokens}) must be at least those of one step, train.batch_tokens "
                    f"({self.train.batch_tokens})"
                )
            if stage.lr.warmup_tokens > stage.tokens:
                raise ValueError(
                    f"stages[{i}].lr.warmup_tokens ({stage.lr.warmup_tokens}) must be at most the stage's tokens "
                    f"({stage.tokens})"
                )
            if stage.seq_len > self.window_tokens // 4:
                raise ValueError(
                    f"stages[{i}].seq_len ({stage.seq_len}) must be at most a quarter of window_tokens "
                    f"({self.window_tokens})"
                )
        check_shares(self.train.batch_tokens, [stage.seq_len for stage in self.stages], self.train.processes or 1)
        return self

    def _references(self, sources: set[str], domains: set[str]) -> Iterator[tuple[str, Any, set[str]]]:
        for i, stage in enumerate(self.stages):
            yield f"stages[{i}].mixture.weights", stage.mixture.weights, sources
            yield f"stages[{i}].mixture.tiers", stage.mixture.tiers, set(self.tiers)
        for domain, quality in self.quality.items():
            yield f"quality.{domain}.positives", [p.source for p in quality.positives], sources
        yield "quality", self.quality, {source.domain for source in self.sources}
        yield "rules", self.rules, domains
        yield "languages.trusted", [one.source for one in self.languages.trusted], sources
        for name in ("repeated_lines", "repeated_passages"):
            if part := getattr(self.edits, name):
                yield f"edits.{name}.domains", part.domains, domains

    @property
    def domains(self) -> set[str]:
        """Domains of documents: those of the sources, and those that routes lead to."""
        return {source.domain for source in self.sources} | {route.to for route in self.routes}

    @property
    def rope_thetas(self) -> list[float | None]:
        """Base of each stage's rotary angles, its own or that of the stage before it; None: the model's."""
        said = (stage.rope_theta for stage in self.stages)
        return list(accumulate(said, lambda before, own: before if own is None else own))

    def part(self, *names: str) -> dict[str, Any]:
        """The named fields as JSON values: what a step's hash is made of."""
        return self.model_dump(mode="json", include=set(names))

    @property
    def data_hash(self) -> str:
        """Hash of what decides the shards: the trainer's part left out."""
        return json_hash(
            self.model_dump(
                mode="json", exclude={"home", "lake", "spark", "publish", "drift", "model", "train", "prompts"}
            )
        )

    @property
    def hash(self) -> str:
        """Hash of everything that decides the result: home, place, where it is sent and the gate's limits left out."""
        left_out = {"home": True, "lake": True, "spark": True, "publish": True, "drift": True, "train": set(PLACE)}
        return json_hash(self.model_dump(mode="json", exclude=left_out))


def load(path: Path, arrival: tuple[str, str] | None = None) -> Recipe:
    """Read a recipe. Raises RecipeError with the file, the field's path, what was expected and what was found.

    arrival: source and snapshot that count as delivered already (`with_deliveries`).
    """
    value = _yaml(path)
    try:
        value = with_deliveries(value, arrival)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return _validated(value, path)


def with_rules(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the `rules:` of another file over its own. Raises RecipeError as `load` does."""
    value = _yaml(path)
    changes = value.get("rules") if isinstance(value, dict) else None
    if not isinstance(changes, dict):
        raise RecipeError(f"{path}: expected `rules:` with domains and thresholds, as in a recipe; found none")
    merged = {
        domain: recipe.rules.get(domain, {}) | new if isinstance(new, dict) else new for domain, new in changes.items()
    }
    return _validated(recipe.model_dump() | {"rules": recipe.rules | merged}, path)


def _yaml(path: Path) -> Any:
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe; `flows recipe fields` lists what one holds")
    if path.stat().st_size > RECIPE_BYTES:
        raise RecipeError(f"{path}: expected a recipe of at most {RECIPE_BYTES:,} bytes, found {path.stat().st_size:,}")
    try:
        return load_yaml(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at {error.start:,}"
        raise RecipeError(f"{path}: expected a recipe in UTF-8, found {found}") from None


def _validated(value: Any, path: Path) -> Recipe:
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        told = [one for one in error.errors() if not _follows(one, error.errors())]
        lines = [f"{path}: {_place(e['loc'])}{_said(e)}" for e in told]
        raise RecipeError("\n".join(lines)) from None
    if places := list(_truths(value, recipe)):
        raise RecipeError(
            "\n".join(f"{path}: {_place(place)}expected a number, found a truth value" for place in places)
        )
    return recipe


def _follows(error: dict, errors: list[dict]) -> bool:
    """Whether an error is there because of another: a list counts as shorter by what is wrong inside of it."""
    place = error["loc"]
    inside = any(other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in errors)
    return error["type"] == "default_factory_not_called" or (error["type"] == "too_short" and inside)


def _truths(given: Any, made: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where true or false is given and something else was made of it: pydantic takes them for 1 and 0."""
    if isinstance(given, bool) and not isinstance(made, bool):
        yield place
    inside = given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list | tuple) else ()
    for key, value in inside:
        if isinstance(value, bool | dict | list | tuple):
            part = made[key] if isinstance(made, dict | tuple) else getattr(made, key)
            yield from _truths(value, part, (*place, key))


def _place(loc: tuple) -> str:
    path = re.sub(r"\.\[", "[", ".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in loc))
    return f"{path}: " if path else ""


def _said(error: dict) -> str:
    value = error["input"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # of a model, of a dataclass
        return "no such field; `flows recipe fields` lists them"
    if error["type"] == "missing":
        return "missing"
    shown = "" if isinstance(value, dict | Recipe) else f", found {value!r:.80}"
    shown += "; in quotes it is text" if error["type"] == "string_type" and isinstance(value, int | float) else ""
    return error["msg"].removeprefix("Value error, ") + (shown if error["type"] != "value_error" else "")
