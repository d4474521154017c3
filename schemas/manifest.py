"""The wall between pipelines and trainer: two JSON files beside the shards, all that the trainer knows of the data.

`manifest.json` names the streams and, for each sequence length that a stage reads them at, the windows that were
written. `plan.json` lists the stages. On disk, below the folder of the manifest:

    <stream>/<seq_len>/window-00007.mds   one window: a shard of fixed-length samples (columns docs, starts, tokens)
    <stream>/<seq_len>/index.json         a plain MDS folder: stock Streaming reads it
    heldout/window-00000.mds              held-out documents, one a sample (columns domain, doc, n_bytes, tokens)

A sample's columns (MDS version 2 encodings):
    tokens  ndarray:uint16:L (uint32 for vocabularies above 65,536)   token ids; each document starts with the
                                                                      end-of-text token and ends with it
    starts  ndarray:uint32    [S]  where each segment begins; starts[0] == 0, increasing, below L
    docs    ndarray:int64     [S]  64-bit key of each segment's document; 0 is padding (never learnt from)
A segment is a whole document or a piece of one longer than L. Attention, positions and loss stay inside a segment.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import DataError
from schemas.files import json_hash, read_json, write_json
from schemas.training import check_numbers, doc, require


@dataclass(frozen=True)
class Window:
    """One window of a stream, packed for one sequence length: one MDS shard.

    `tokens` counts real tokens (padding apart); `sha256` is of the file's bytes.
    """

    window: int
    file: str
    samples: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Stream:
    """A source's quality tier as packed sequences in final order; `windows` is how many the whole stream has."""

    name: str
    source: str
    tier: str
    documents: int
    tokens: int
    windows: int


@dataclass(frozen=True)
class Folder:
    """The windows of one stream that were written for one sequence length, in order of their number."""

    stream: str
    seq_len: int
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Draw:
    """What a stage takes of a stream: `samples` in order from the start of `first_window`, wrapping to window 0."""

    stream: str
    samples: int
    first_window: int


@dataclass(frozen=True)
class LearningRate:
    """A stage's phase: `start` and `end` are fractions of the peak, reached by `shape` over the stage after
    `warmup_tokens`.

    Shapes: constant; linear; one_minus_sqrt, lr = start + (end - start) * sqrt(t) (Haegele et al. 2405.18392, whose
    1 - sqrt cooldown is start=1, end=0).
    """

    shape: str = doc("constant", "constant, linear or one_minus_sqrt")
    start: float = doc(1.0, "fraction of train.peak_lr at the beginning of the stage, after the warm-up", least=0)
    end: float = doc(1.0, "fraction of train.peak_lr at the end of the stage", least=0)
    warmup_tokens: int = doc(0, "tokens over which the rate rises from 0 to `start`", least=0)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic when a recipe is checked

    def __post_init__(self):
        check_numbers(self)
        require(
            self.shape in ("constant", "linear", "one_minus_sqrt"),
            f"learning-rate shape must be constant, linear or one_minus_sqrt, found {self.shape!r}",
        )
        ends_at = self.start if self.shape == "constant" else self.end
        require(self.start > 0 or ends_at > 0, "start must be above 0 (or end, of another shape than constant)")


@dataclass(frozen=True)
class Stage:
    """One entry of the plan: `samples` sequences of `seq_len` tokens, the first at `first_token` of the whole run,
    positions turned by angles of base `rope_theta`; None: the model's."""

    name: str
    first_token: int
    samples: int
    seq_len: int
    draws: tuple[Draw, ...]
    lr: LearningRate
    rope_theta: float | None = doc(None, "base of the rotary position angles", above=0)

    def __post_init__(self):
        check_numbers(self)
        drawn = sum(draw.samples for draw in self.draws)
        require(drawn == self.samples, f"stage {self.name}: its draws give {drawn} samples, expected {self.samples}")


@dataclass(frozen=True)
class Plan:
    """Stages in order, append-only. `seed` orders the samples inside blocks."""

    seed: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Manifest:
    """What the shards hold. `tables` maps each lake table to the hash of the step that wrote it.

    `tokenizer` has name, vocab_size, eot (the end-of-text id), sha256 (of the ranks file) and file (relative to the
    manifest's folder).
    """

    recipe: str
    tokenizer: dict
    tables: dict
    streams: tuple[Stream, ...]
    folders: tuple[Folder, ...]
    heldout: tuple[Window, ...]

    @property
    def windows(self) -> list[Window]:
        """All that were written, the held-out documents' last."""
        return [*(window for folder in self.folders for window in folder.windows), *self.heldout]

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def folder(self, stream: str, seq_len: int) -> Folder:
        """Raises KeyError naming stream and length if no stage reads it at that length."""
        for folder in self.folders:
            if (folder.stream, folder.seq_len) == (stream, seq_len):
                return folder
        raise KeyError(f"the manifest has no windows of stream {stream!r} at sequence length {seq_len}")


def save(value: Manifest | Plan, path: Path) -> None:
    """Write as JSON with its own hash under `hash`."""
    told = content(value)
    write_json(path, {"hash": json_hash(told), **told})


def content(value: Manifest | Plan) -> dict:
    """As JSON values. What says nothing (None) is left out, so that a plan without it has the hash that it had before
    there was such a field."""
    return dataclasses.asdict(value, dict_factory=lambda pairs: {name: one for name, one in pairs if one is not None})


def load_manifest(path: Path) -> Manifest:
    """Raises FileNotFoundError, or DataError if the file is not what its hash says."""
    body = _load(path)
    streams = tuple(Stream(**stream) for stream in body.pop("streams"))
    folders = tuple(Folder(f["stream"], f["seq_len"], _windows(f["windows"])) for f in body.pop("folders"))
    return Manifest(streams=streams, folders=folders, heldout=_windows(body.pop("heldout")), **body)


def load_plan(path: Path) -> Plan:
    """Raises FileNotFoundError, or DataError if the file is not what its hash says."""
    body = _load(path)
    stages = tuple(
        Stage(**{**stage, "draws": tuple(Draw(**d) for d in stage["draws"]), "lr": LearningRate(**stage["lr"])})
        for stage in body.pop("stages")
    )
    return Plan(stages=stages, **body)


def _windows(rows: list[dict]) -> tuple[Window, ...]:
    return tuple(Window(**row) for row in rows)


def _load(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `flows run shard` writes it")
    body = read_json(path)
    stored_hash = body.pop("hash", None) if isinstance(body, dict) else None
    if json_hash(body) != stored_hash:
        raise DataError(
            f"{path} was changed by hand: its content has hash {json_hash(body)}, it says {stored_hash}; copy it again "
            "from where it is whole, or delete it, and `flows run shard` writes it"
        )
    return body
