"""The parts of a recipe: frozen, unknown fields refused."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.manifest import LearningRate
from schemas.store import is_url

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Snapshot = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _local_path(path: str) -> str:
    """With ~ written out. Raises ValueError for what is no path of this machine, or of nobody's home on it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise ValueError(f"expected a path of this machine, found the URL {path!r:.200}")
    if not path or "\0" in path:
        raise ValueError(f"expected a path, found {path!r:.200}")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(
            f"expected a user of this machine after ~, found {path!r:.200}; ./{path:.200} is a folder's name"
        )
    return expanded


# As SparkContext parses them, and as Spark Connect does
MASTER = re.compile(
    r"local(?:\[(?:\*|[1-9]\d*)(?:\s*,\s*\d+)?\])?|local-cluster\[\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\]|yarn|(?:spark|k8s|sc)://\S+"
)
SETTING, SECRET = (
    re.compile(r"spark\.[A-Za-z0-9_.-]+"),
    re.compile(r"secret|password|token|access\.?key|credential", re.I),
)
# Without them no table can be written, other bytes come out, or workers lack what they call.
FIXED = (
    "spark.sql.extensions",
    "spark.sql.catalog.spark_catalog",
    "spark.sql.catalogImplementation",
    "spark.sql.session.timeZone",
    "spark.sql.ansi.enabled",
    "spark.python.daemon.module",
)


def store_url(url: str) -> str:
    """Without a slash at its end. Raises ValueError for what is no object store's URL, or has secrets in it."""
    if not is_url(url) or re.search(r"//[^/]*:[^/]*@", url):
        raise ValueError(f"expected s3://bucket/folder (gs:// and abfs:// too), without secrets; found {url!r:.200}")
    return url.rstrip("/")


StoreUrl = Annotated[str, AfterValidator(store_url)]
LocalPath = Annotated[str, AfterValidator(_local_path)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Part):
    """Where text comes from."""

    name: Name = Field(description="name of the source; streams and tables use it")
    reader: str = Field(
        description="how records are read: jsonl, parquet, text, html, warc, wet, chat, tree, python-code, python-docs"
    )
    domain: str = Field(
        description="what its documents are treated as; picks the rules: code, docs, instruct, math, multilingual, web"
    )
    path: LocalPath | None = Field(
        None,
        description="file, folder or glob, relative to where flows is called (not for the python readers); "
        "may hold {snapshot} and begin with ~",
    )
    version: int | None = Field(
        None, ge=0, description="version of a Delta table that is read instead of its newest (parquet)"
    )
    snapshots: tuple[Snapshot, ...] = Field(
        ("1",),
        min_length=1,
        description="its deliveries, oldest first; the names stand for {snapshot} in path, "
        "and a new one costs only itself; the word delivered: those that `flows deliver` was told",
    )
    text_field: str = Field(
        "text", description="field or column that holds the text (jsonl, parquet) or the messages (chat)"
    )
    content: Literal["text", "html", "mixed"] = Field(
        "text",
        description="what text_field holds: of html, main content is taken; "
        "mixed: both, a page is known by its first tag (jsonl, parquet)",
    )
    extractor: Literal["blocks", "trafilatura"] = Field(
        "blocks", description="what finds a page's main content: our own, or trafilatura, 20 times slower (html, warc)"
    )
    licence_field: str | None = Field(None, description="field or column that holds the licence (jsonl, chat, parquet)")
    licence: str | None = Field(None, description="licence of records that name none themselves")
    suffixes: tuple[str, ...] = Field((".txt", ".md", ".rst"), description="file names that the text reader takes")
    package_bytes: int = Field(
        2_000_000, gt=0, description="the python readers take so many bytes of a package, in seeded order"
    )
    max_document_bytes: int = Field(16 << 20, gt=0, le=256 << 20, description="a larger record is rejected")
    priority: int = Field(
        0, description="among near duplicates the document of the source with the highest priority is kept"
    )

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


DEFAULT_THRESHOLD, DEFAULT_BANDS, DEFAULT_ROWS = 0.8, 16, 7
# How datasketch is asked to choose. It takes the bands and rows with the least weighted sum of two areas: that of pairs
# below the threshold that meet, and that of pairs above it that do not. Of 112 to 256 entries and weights of .5 to .99
# for the second, 112 entries with .97 to .992 alone give 16 x 7 at .8. With .985 a pair at the threshold meets with a
# chance of .95 to 1, .985 on average (.977 at .8); with .975 of .92 at the least. A pair that meets in vain costs only
# a look at two texts, one that does not meet is lost.
ENTRIES = DEFAULT_BANDS * DEFAULT_ROWS
MISSED_WEIGHT = 0.985
CHOSEN_BETWEEN = 0.1, 0.95  # beyond, the numbers of the nearer end: 58 bands of 1 row, 6 of 18


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """(bands, rows) by datasketch: from .06 on, a pair of this Jaccard similarity meets with a chance of .95 or
    more."""
    if threshold == DEFAULT_THRESHOLD:
        return DEFAULT_BANDS, DEFAULT_ROWS
    from datasketch import MinHashLSH  # imports SciPy: a second that recipes with the default threshold do without

    least, most = CHOSEN_BETWEEN
    weights = 1 - MISSED_WEIGHT, MISSED_WEIGHT
    chosen = MinHashLSH(threshold=min(max(threshold, least), most), num_perm=ENTRIES, weights=weights)
    return chosen.b, chosen.r


class NearDuplicates(Part):
    """MinHash with banding finds candidates (Broder 1997); true Jaccard decides."""

    threshold: Fraction = Field(
        DEFAULT_THRESHOLD,
        description="documents of at least this Jaccard similarity of word n-grams are near duplicates",
    )
    ngram: int = Field(5, ge=1, le=13, description="words of a shingle")
    bands: int = Field(
        default_factory=lambda validated: bands_and_rows(validated["threshold"])[0],
        ge=1,
        le=64,
        description="bands of the signature; more find more candidates. Named with rows, or both are chosen for "
        "threshold: 16 of 7 for 0.8",
    )
    rows: int = Field(
        default_factory=lambda validated: bands_and_rows(validated["threshold"])[1],
        ge=1,
        le=32,
        description="rows of a band; a pair of similarity s meets with probability 1-(1-s^rows)^bands. Named "
        "with bands, or both are chosen",
    )

    @model_validator(mode="after")
    def _bands_with_rows(self) -> NearDuplicates:
        named = self.model_fields_set & {"bands", "rows"}
        if len(named) == 1:
            (one,) = named
            raise ValueError(
                f"expected bands and rows together, or neither, which chooses both for threshold {self.threshold:g}; "
                f"found {one} alone ({getattr(self, one)})"
            )
        return self


class Positives(Part):
    """Documents that a domain's quality model learns as good."""

    source: Name = Field(description="source they are taken from")
    uri: str = Field("*", description="glob that their uri matches")


class Quality(Part):
    """One domain's quality model: fastText, positives against the pool (Li et al. 2406.11794, DCLM)."""

    positives: tuple[Positives, ...] = Field(min_length=1, description="which documents are good examples")
    documents: int = Field(
        2000, ge=20, le=20_000, description="at most so many positives, and as many others, are trained on"
    )


class Languages(Part):
    """Documents that show what is usual in their languages: thresholds and stop words are taken from them (2506.20920,
    FineWeb-2)."""

    trusted: tuple[Positives, ...] = Field(
        (), description="which documents to trust; without any the default thresholds hold"
    )
    documents: int = Field(5000, ge=30, le=20_000, description="at most so many are read")


class Route(Part):
    """Documents of one domain that are treated as another by what was measured of them. The first route that holds is
    taken."""

    domain: Name = Field(description="domain of the source")
    to: Name = Field(
        description="domain that they are treated as; it picks rules, and the quality model if a source has that domain"
    )
    signal: str = Field(description="what decides: a signal of the text, code, language or order family")
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

    domains: tuple[str, ...] = Field(
        min_length=1, description="domains whose documents are looked at; lines of code repeat by nature"
    )
    documents: int = Field(
        6, ge=1, description="a line of more than so many documents of a source is left out of all of them"
    )
    min_chars: int = Field(10, ge=1, description="shorter lines stay")


class RepeatedPassages(Part):
    """Long word sequences that occur again (Lee et al. 2107.06499): the first copy stays."""

    domains: tuple[str, ...] = Field(
        min_length=1, description="domains whose documents are compared, all with one another"
    )
    words: int = Field(
        50, ge=8, le=1000, description="a passage of so many words that occurs earlier in the corpus is left out"
    )


class Edits(Part):
    """What is left out of kept documents or masked in them."""

    repeated_lines: RepeatedLines | None = Field(
        None, description="lines that many documents share; null leaves them in"
    )
    repeated_passages: RepeatedPassages | None = Field(
        None, description="passages that occur again; null leaves them in"
    )
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

    name: Literal["bpe", "cl100k_base"] = Field(
        "bpe", description="bpe: trained on the kept documents; cl100k_base: GPT-4's"
    )
    vocab_size: int = Field(
        4096, ge=300, le=200_000, description="vocabulary of a bpe trained here, end-of-text included"
    )
    sample_bytes: int = Field(
        8_000_000, ge=10_000, description="bytes of kept text, in seeded order, that a bpe is trained on"
    )


class Heldout(Part):
    """Documents set aside for evaluation, with all that near copies connect: none of their near duplicates is trained
    on."""

    fraction: Fraction = Field(0.005, lt=1, description="share of kept documents")
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

    path: LocalPath = Field(
        description="file or glob, relative to where flows is called: .jsonl or .parquet with `fields`, else text"
    )
    fields: tuple[str, ...] = Field((), description="fields of an item, the question first (jsonl, parquet)")
    whole: bool = Field(False, description="the text file is one item; else each of its lines is")


class Decontaminate(Part):
    """Documents that hold an evaluation's items are dropped: n-gram cover, as of Tulu 3 (2411.15124)."""

    files: tuple[EvaluationFile, ...] = Field((), description="evaluation files; none: nothing is compared")
    ngram: int = Field(8, ge=4, le=13, description="words of an n-gram")
    threshold: float = Field(
        0.5, gt=0, le=1, description="a document that covers this share of an item's n-grams is dropped"
    )
    short_tokens: int = Field(20, ge=4, le=1000, description="an item of fewer words counts only where it stands whole")

    @model_validator(mode="after")
    def _short_reaches(self) -> Decontaminate:
        if self.short_tokens < self.ngram:
            raise ValueError(f"short_tokens ({self.short_tokens}) must be at least ngram ({self.ngram})")
        return self


class Mixture(Part):
    """In what shares a stage draws from the sources."""

    method: Literal["manual", "proportional", "temperature", "unimax"] = Field(
        "proportional",
        description="manual: `weights`; proportional: by size; temperature: size^(1/T); unimax: even (2304.09151)",
    )
    weights: dict[str, Fraction] = Field({}, description="share of each source (manual); must sum to 1")
    temperature: float = Field(2.0, gt=0, description="T of the temperature method")
    tiers: dict[str, float] = Field(
        {}, description="multiplies a tier's share inside its source; tiers not named have 1, 0 leaves one out"
    )
    upsampling: Upsampling | None = Field(
        None, description="multiplies the tiers by a curve over their percentiles, in place of `tiers`"
    )

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
    rope_theta: float | None = Field(
        None,
        gt=0,
        exclude_if=lambda theta: theta is None,  # so that recipes without it keep their hashes
        description="base of the rotary position angles from this stage on, raised with seq_len; null: as in the stage "
        "before, in the first model.rope_theta",
    )


class Drift(Part):
    """How far a delivery may be from the last accepted one of its source before the gate closes. No part of any step's
    hash: a limit decides no output."""

    size: float | None = Field(
        10.0, ge=1, description="factor by which its documents or bytes may be more or fewer; null: not compared"
    )
    rejects: Fraction | None = Field(
        0.05, description="change of the share of records that are rejected; null: not compared"
    )
    kept: Fraction | None = Field(
        0.2, description="change of the share of documents that the rules keep; null: not compared"
    )
    rule: Fraction | None = Field(
        0.2, description="change of the share of documents that fail any one rule; null: not compared"
    )
    share: Fraction | None = Field(
        0.2, description="change of the share of any language, domain or tier; null: not compared"
    )
    duplicates: Fraction | None = Field(
        0.2, description="change of the share of exact and near copies; null: not compared"
    )
    psi: float | None = Field(
        0.25,
        ge=0,
        description="population stability index of any numeric signal, by deciles; above .25 is customarily called a "
        "large shift; null: not compared",
    )


class Spark(Part):
    """Where Spark runs. No part of any step's hash: the same bytes come out of any cluster."""

    master: str = Field(
        "local[*]",
        description="local[N], spark://host:port, yarn, k8s://..., or sc://host:port of a Spark Connect server; "
        "SPARK_REMOTE in the environment wins",
    )
    settings: dict[str, str | int | float | bool] = Field(
        {},
        description="Spark's own, such as spark.executor.memory: 8g; of a Connect server those that it lets change",
    )
    driver_memory: str = Field(
        "2g", pattern=r"^[1-9]\d*[mg]$", description="heap of the driver, which does all the work in local mode"
    )
    timeout_minutes: float | None = Field(
        None, gt=0, description="Spark jobs of a step that takes longer are interrupted, and the run fails"
    )

    @field_validator("master")
    @classmethod
    def _known_to_spark(cls, master: str) -> str:
        if not MASTER.fullmatch(master):
            raise ValueError(
                f"expected local, local[4], local[*], spark://host:port, sc://host:port, yarn or k8s://..., "
                f"found {master!r:.100}"
            )
        return master

    @field_validator("settings")
    @classmethod
    def _may_be_set(cls, settings: dict) -> dict:
        for name in settings:
            if not SETTING.fullmatch(name):
                raise ValueError(f"expected names of Spark's such as spark.executor.memory, found {name!r:.100}")
            if name in FIXED:
                raise ValueError(f"expected settings that change no result, found {name}, which Millrace sets itself")
            if SECRET.search(name):
                raise ValueError(
                    f"expected no secrets in a recipe, found {name}: set the environment's variable, such as "
                    "AWS_SECRET_ACCESS_KEY, or Spark's own spark-defaults.conf"
                )
        return settings

    @property
    def values(self) -> dict[str, str]:
        """The settings as Spark takes them."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in self.settings.items()
        }
