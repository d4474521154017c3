"""The recipe: one YAML file that says all of a run. Frozen; unknown fields are refused; checked before anything starts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.manifest import LearningRate, fingerprint
from schemas.training import ModelConfig, TrainConfig

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Snapshot = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
RECIPE_BYTES = 1 << 20  # a recipe is written by hand; anything larger is another kind of file


class RecipeError(ValueError):
    """A recipe that cannot be run: the message names the field, what was expected and what was found."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Part):
    """Where text comes from."""

    name: Name = Field(description="name of the source; streams and tables use it")
    reader: str = Field(description="how records are read: jsonl, parquet, text, html, warc, wet, chat, tree, python-code, python-docs")
    domain: str = Field(description="what its documents are treated as; picks the rules: code, docs, instruct, math, multilingual, web")
    path: str | None = Field(
        None, description="file, folder or glob, relative to where flows is called (not for the python readers); may hold {snapshot}")
    snapshots: tuple[Snapshot, ...] = Field(
        ("1",), min_length=1,
        description="its deliveries, oldest first; the names stand for {snapshot} in path, and a new one costs only itself")
    text_field: str = Field("text", description="field or column that holds the text (jsonl, parquet) or the messages (chat)")
    content: Literal["text", "html", "mixed"] = Field(
        "text",
        description="what text_field holds: of html, main content is taken; mixed: both, a page is known by its first tag (jsonl, parquet)")
    extractor: Literal["blocks", "trafilatura"] = Field(
        "blocks", description="what finds a page's main content: our own, or trafilatura, 20 times slower (html, warc)")
    licence_field: str | None = Field(None, description="field or column that holds the licence (jsonl, chat, parquet)")
    licence: str | None = Field(None, description="licence of records that name none themselves")
    suffixes: tuple[str, ...] = Field((".txt", ".md", ".rst"), description="file names that the text reader takes")
    package_bytes: int = Field(2_000_000, gt=0, description="the python readers take so many bytes of a package, in seeded order")
    max_document_bytes: int = Field(16 << 20, gt=0, le=256 << 20, description="a larger record is rejected")
    priority: int = Field(0, description="among near duplicates the document of the source with the highest priority is kept")

    @model_validator(mode="after")
    def _snapshots_differ(self) -> Source:
        if len(set(self.snapshots)) < len(self.snapshots):
            raise ValueError(f"snapshots must differ, found {', '.join(self.snapshots)}")
        if len(self.snapshots) > 1 and "{snapshot}" not in (self.path or ""):
            raise ValueError(f"path must hold {{snapshot}} where there are several snapshots, found {self.path!r}")
        return self

    @property
    def deliveries(self) -> tuple[Source, ...]:
        """The source once for each of its snapshots, with that snapshot's path."""
        paths = {one: self.path and self.path.replace("{snapshot}", one) for one in self.snapshots}
        return tuple(self.model_copy(update={"snapshots": (one,), "path": path}) for one, path in paths.items())

    @property
    def snapshot(self) -> str:
        """The snapshot of a delivery."""
        (only,) = self.snapshots
        return only


class NearDuplicates(Part):
    """MinHash with banding finds candidates (Broder 1997); true Jaccard decides."""

    threshold: Fraction = Field(0.8, description="documents of at least this Jaccard similarity of word n-grams are near duplicates")
    ngram: int = Field(5, ge=1, le=13, description="words of a shingle")
    bands: int = Field(16, ge=1, le=64, description="bands of the signature; more find more candidates")
    rows: int = Field(7, ge=1, le=32, description="rows of a band; a pair of similarity s meets with probability 1-(1-s^rows)^bands")


class Positives(Part):
    """Documents that a domain's quality model learns as good."""

    source: Name = Field(description="source they are taken from")
    uri: str = Field("*", description="glob that their uri matches")


class Quality(Part):
    """One domain's quality model: fastText, positives against the pool (Li et al. 2406.11794, DCLM)."""

    positives: tuple[Positives, ...] = Field(min_length=1, description="which documents are good examples")
    documents: int = Field(2000, ge=20, le=20_000, description="at most so many positives, and as many others, are trained on")


class Languages(Part):
    """Documents that show what is usual in their languages: thresholds and stop words are taken from them (2506.20920, FineWeb-2)."""

    trusted: tuple[Positives, ...] = Field((), description="which documents to trust; without any the default thresholds hold")
    documents: int = Field(5000, ge=30, le=20_000, description="at most so many are read")


class Route(Part):
    """Documents of one domain that are treated as another by what was measured of them. The first route that holds is taken."""

    domain: Name = Field(description="domain of the source")
    to: Name = Field(description="domain that they are treated as; it picks rules, and the quality model if a source has that domain")
    signal: str = Field(description="what decides: a signal of the text, code or language family")
    above: float | None = Field(None, description="if it is above this")
    below: float | None = Field(None, description="or if it is below this")
    one_of: tuple[str, ...] = Field((), description="or if it is one of these texts")
    none_of: tuple[str, ...] = Field((), description="or if it is none of these texts")

    @model_validator(mode="after")
    def _one_condition(self) -> Route:
        given = [name for name in ("above", "below", "one_of", "none_of") if getattr(self, name) not in (None, ())]
        if len(given) != 1:
            raise ValueError(f"expected one of above, below, one_of and none_of, found {', '.join(given) or 'none'}")
        return self


class RepeatedLines(Part):
    """Boilerplate (Llama 3, 2407.21783, 3.1.1: lines seen more than 6 times in 30 million documents)."""

    domains: tuple[str, ...] = Field(min_length=1, description="domains whose documents are looked at; lines of code repeat by nature")
    documents: int = Field(6, ge=1, description="a line of more than so many documents of a source is left out of all of them")
    min_chars: int = Field(10, ge=1, description="shorter lines stay")


class RepeatedPassages(Part):
    """Long word sequences that occur again (Lee et al. 2107.06499): the first copy stays."""

    domains: tuple[str, ...] = Field(min_length=1, description="domains whose documents are compared, all with one another")
    words: int = Field(50, ge=8, le=1000, description="a passage of so many words that occurs earlier in the corpus is left out")


class Edits(Part):
    """What is left out of kept documents or masked in them."""

    repeated_lines: RepeatedLines | None = Field(None, description="lines that many documents share; null leaves them in")
    repeated_passages: RepeatedPassages | None = Field(None, description="passages that occur again; null leaves them in")
    personal: tuple[str, ...] = Field((), description="kinds of personal data that are masked")
    torso: Fraction = Field(0.5, description="a document that loses more than this share to edits is dropped")

    @field_validator("personal")
    @classmethod
    def _kinds_differ(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kinds))

    @property
    def shorten(self) -> bool:
        """Whether lines or passages are left out."""
        return bool(self.repeated_lines or self.repeated_passages)


class Tokenizer(Part):
    """Text to token ids."""

    name: Literal["bpe", "cl100k_base"] = Field("bpe", description="bpe: trained on the kept documents; cl100k_base: GPT-4's")
    vocab_size: int = Field(4096, ge=300, le=200_000, description="vocabulary of a bpe trained here, end-of-text included")
    sample_bytes: int = Field(8_000_000, ge=10_000, description="bytes of kept text, in seeded order, that a bpe is trained on")


class Heldout(Part):
    """Documents set aside for evaluation, by cluster: none of their near duplicates is trained on."""

    fraction: Fraction = Field(0.005, description="share of kept documents")
    max_bytes: int = Field(8_000, gt=0, description="documents above this size are never held out")


class Upsampling(Part):
    """How often text of a quality percentile is read: OLMo 3's truncated power-exponential curve (2512.13961)."""

    drop: Fraction = Field(0.4, lt=1, description="below this percentile nothing is read")
    most: float = Field(7.0, gt=1, description="copies of the best, on average over `best`")
    best: Fraction = Field(0.05, gt=0, description="share of the documents that are called the best")
    wanted: float = Field(1.0, gt=0, description="tokens wanted / tokens there are: what the curve's copies add up to")

    @model_validator(mode="after")
    def _reachable(self) -> Upsampling:
        least, most = self.most * self.best, self.most * (1 - self.drop)
        if self.best >= 1 - self.drop or not least < self.wanted <= most:
            found = f"{self.best:g} and {self.wanted:g}"
            raise ValueError(f"best must be less than 1 - drop, and wanted from {least:g} to {most:g}; found {found}")
        return self


class EvaluationFile(Part):
    """One file of evaluation items, or several by glob."""

    path: str = Field(description="file or glob, relative to where flows is called: .jsonl or .parquet with `fields`, else text")
    fields: tuple[str, ...] = Field((), description="fields of an item, the question first (jsonl, parquet)")
    whole: bool = Field(False, description="the text file is one item; else each of its lines is")


class Decontaminate(Part):
    """Documents that hold an evaluation's items are dropped: n-gram cover, as of Tulu 3 (2411.15124)."""

    files: tuple[EvaluationFile, ...] = Field((), description="evaluation files; none: nothing is compared")
    ngram: int = Field(8, ge=4, le=13, description="words of an n-gram")
    threshold: float = Field(0.5, gt=0, le=1, description="a document that covers this share of an item's n-grams is dropped")
    short_tokens: int = Field(20, ge=4, le=1000, description="an item of fewer words counts only where it stands whole")

    @model_validator(mode="after")
    def _short_reaches(self) -> Decontaminate:
        if self.short_tokens < self.ngram:
            raise ValueError(f"short_tokens ({self.short_tokens}) must be at least ngram ({self.ngram})")
        return self


class Mixture(Part):
    """In what shares a stage draws from the sources."""

    method: Literal["manual", "proportional", "temperature", "unimax"] = Field(
        "proportional", description="manual: `weights`; proportional: by size; temperature: size^(1/T); unimax: even (2304.09151)")
    weights: dict[str, Fraction] = Field({}, description="share of each source (manual); must sum to 1")
    temperature: float = Field(2.0, gt=0, description="T of the temperature method")
    tiers: dict[str, float] = Field({}, description="multiplies a tier's share inside its source; tiers not named have 1, 0 leaves one out")
    upsampling: Upsampling | None = Field(None, description="multiplies the tiers by a curve over their percentiles, in place of `tiers`")

    @model_validator(mode="after")
    def _weights_sum(self) -> Mixture:
        if self.method == "manual" and abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError(f"weights must sum to 1, found {sum(self.weights.values()):g}")
        if self.method != "manual" and self.weights:
            raise ValueError(f"weights belong to method manual, found method {self.method}")
        if self.tiers and self.upsampling:
            raise ValueError("expected tiers or upsampling, found both")
        if any(factor < 0 for factor in self.tiers.values()):
            raise ValueError(f"factors of tiers must be 0 or more, found {self.tiers}")
        return self


class Stage(Part):
    """One curriculum stage."""

    name: Name = Field(description="name of the stage")
    tokens: int = Field(gt=0, description="token budget; rounded up to whole batches")
    seq_len: int = Field(ge=16, le=1 << 20, description="tokens of a sequence")
    mixture: Mixture = Field(Mixture(), description="in what shares the sources are drawn")
    lr: LearningRate = Field(LearningRate(), description="the stage's phase of the learning rate")


class Spark(Part):
    """Where Spark runs. No part of any fingerprint: the same bytes come out of any cluster."""

    master: str = Field("local[*]", description="Spark master; SPARK_REMOTE in the environment wins")
    driver_memory: str = Field("2g", pattern=r"^\d+[mg]$", description="heap of the driver, which does all the work in local mode")


class Recipe(Part):
    """All of a run."""

    home: str = Field(description="folder of everything the run writes, relative to where flows is called")
    seed: int = Field(17, ge=0, le=2**31 - 1, description="seed of every order and sample")
    sources: tuple[Source, ...] = Field(min_length=1, description="where text comes from")
    routes: tuple[Route, ...] = Field((), description="which documents are treated as another domain than their source's")
    languages: Languages = Field(Languages(), description="what is usual in a language")
    near_duplicates: NearDuplicates = Field(NearDuplicates(), description="how near duplicates are found")
    rules: dict[str, dict[str, float | dict[str, float | None] | None]] = Field(
        {}, description="thresholds by domain and rule that replace the default ones, one number or one a language; null turns a rule off")
    edits: Edits = Field(Edits(), description="what is left out of kept documents or masked in them")
    decontaminate: Decontaminate = Field(Decontaminate(), description="which documents hold items of evaluations")
    quality: dict[str, Quality] = Field({}, description="quality model by domain; a domain without one has no percentiles, one tier")
    tiers: dict[Name, Fraction] = Field({"all": 0.0}, description="quality tiers and the percentile each begins at; one must begin at 0")
    tokenizer: Tokenizer = Field(Tokenizer(), description="text to token ids")
    heldout: Heldout = Field(Heldout(), description="documents set aside for evaluation")
    window_tokens: int = Field(1 << 20, ge=1024, description="tokens of a window: the unit that is packed, written and counted")
    max_epochs: float = Field(4.0, gt=0, description="no stream is read more often than this, all stages together")
    stages: tuple[Stage, ...] = Field(min_length=1, description="the curriculum, in order")
    model: ModelConfig = Field(ModelConfig(), description="shape of the model")
    train: TrainConfig = Field(TrainConfig(), description="how the model is optimised")
    prompts: tuple[str, ...] = Field(("def ", "The "), description="beginnings that the trained model continues")
    spark: Spark = Field(Spark(), description="where Spark runs")

    @field_validator("sources", "stages")
    @classmethod
    def _unique_names(cls, parts: tuple) -> tuple:
        names = [part.name for part in parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ, found twice: {', '.join(twice)}")
        return parts

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
                raise ValueError(f"{place}: expected names among {', '.join(sorted(known))}; found {', '.join(unknown)}")
        for i, stage in enumerate(self.stages):
            if self.train.batch_tokens % stage.seq_len:
                raise ValueError(f"stages[{i}].seq_len ({stage.seq_len}) must divide train.batch_tokens ({self.train.batch_tokens})")
            if stage.seq_len > self.window_tokens // 4:
                raise ValueError(f"stages[{i}].seq_len ({stage.seq_len}) must be at most a quarter of window_tokens ({self.window_tokens})")
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
            if found := getattr(self.edits, name):
                yield f"edits.{name}.domains", found.domains, domains

    @property
    def domains(self) -> set[str]:
        """Domains of documents: those of the sources, and those that routes lead to."""
        return {source.domain for source in self.sources} | {route.to for route in self.routes}

    def part(self, *names: str) -> dict[str, Any]:
        """The named fields as JSON values: what a step's fingerprint is made of."""
        return self.model_dump(mode="json", include=set(names))

    @property
    def data_fingerprint(self) -> str:
        """Hash of what decides the shards: the trainer's part left out."""
        return fingerprint(self.model_dump(mode="json", exclude={"home", "spark", "model", "train", "prompts"}))

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the result: home folder and Spark's place left out."""
        return fingerprint(self.model_dump(mode="json", exclude={"home", "spark"}))


def load(path: Path) -> Recipe:
    """Read a recipe. Raises RecipeError with the file, the field's path, what was expected and what was found."""
    return _validated(_yaml(path), path)


def with_rules(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the `rules:` of another file over its own. Raises RecipeError as `load` does."""
    value = _yaml(path)
    changes = value.get("rules") if isinstance(value, dict) else None
    if not isinstance(changes, dict):
        raise RecipeError(f"{path}: expected `rules:` with domains and thresholds, as in a recipe; found none")
    merged = {domain: recipe.rules.get(domain, {}) | new if isinstance(new, dict) else new for domain, new in changes.items()}
    return _validated(recipe.model_dump() | {"rules": recipe.rules | merged}, path)


def _yaml(path: Path) -> Any:
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe; `flows recipe fields` lists what one holds")
    if path.stat().st_size > RECIPE_BYTES:
        raise RecipeError(f"{path}: expected a recipe of at most {RECIPE_BYTES:,} bytes, found {path.stat().st_size:,}")
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error


def _validated(value: Any, path: Path) -> Recipe:
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        lines = [f"{path}: {_place(e['loc'])}{_said(e)}" for e in error.errors()]
        raise RecipeError("\n".join(lines)) from None


def _place(loc: tuple) -> str:
    path = re.sub(r"\.\[", "[", ".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in loc))
    return f"{path}: " if path else ""


def _said(error: dict) -> str:
    found = error["input"]
    if error["type"] == "extra_forbidden":
        return "no such field; `flows recipe fields` lists them"
    if error["type"] == "missing":
        return "missing"
    shown = "" if isinstance(found, dict | Recipe) else f", found {found!r:.80}"
    return error["msg"].removeprefix("Value error, ") + (shown if error["type"] != "value_error" else "")


def fields(part: type = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every field of a recipe as (path, type, default, description), parts within parts."""
    if dataclasses.is_dataclass(part):
        for item in dataclasses.fields(part):
            yield f"{prefix}{item.name}", str(item.type), f"{item.default}", item.metadata["description"]
        return
    for name, info in part.model_fields.items():
        inner, suffix = _inner(info.annotation)
        default = "required" if info.is_required() else "" if inner else f"{info.default}"
        yield f"{prefix}{name}{suffix}", "" if inner else _type_name(info.annotation), default, info.description
        if inner:
            yield from fields(inner, f"{prefix}{name}{suffix}.")


def _inner(annotation: Any) -> tuple[type | None, str]:
    """The part that a field holds, alone, in a list ([]) or by name (.<name>)."""
    container, arguments = get_origin(annotation), get_args(annotation)
    if container in (tuple, dict):
        found, _ = _inner(arguments[0] if container is tuple else arguments[1])
        return found, {tuple: "[]", dict: ".<name>"}[container] if found else ""
    if container is UnionType:
        return _inner(arguments[0])
    is_part = isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))
    return (annotation if is_part else None), ""


def _type_name(annotation: Any) -> str:
    container, arguments = get_origin(annotation), get_args(annotation)
    if container is Literal:
        return " | ".join(arguments)
    if container is Annotated:
        return _type_name(arguments[0])
    if container in (tuple, dict):
        return f"{container.__name__}[{', '.join('...' if a is ... else _type_name(a) for a in arguments)}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
