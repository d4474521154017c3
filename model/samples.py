"""A stage's samples as a map-style torch dataset, for those who train with Composer, Lightning or a loop of their own.

The same samples in the same order as `model.data.Batches` gives our trainer: item n stands at position n of the stage,
and the order knows neither workers nor epochs. Files are read, and with `remote` fetched window by window, through
stock `streaming.StreamingDataset`, of which only random access is used: its own order and resumption know no plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from model.data import Places, make_batch
from model.shards import check_size, verify
from schemas.manifest import Plan, Window, load_manifest, load_plan
from schemas.training import require

IGNORED = -100  # the label that cross_entropy and Transformers' models leave out


class PlannedSamples(Dataset):
    """The samples of the stage called `stage`, of the plan in the folder `shards`; `len` is how many the stage has.

    An item is a dict of tensors [L], L = `max_seq_len`, so default_collate makes [B, L] of each:
        tokens     int64  token ids
        segments   int32  number of the token's segment in its sample, from 0: attention stays inside a segment
        positions  int64  place of the token in its segment
        docs       int64  key of the token's document, 0 for padding
        labels     int64  the token itself, -100 at the start of a segment and in padding; as in Transformers, a loss
                          compares logits[:, :-1] with labels[:, 1:]

    `rope_theta` is the base of the rotary angles that the stage is to be read with, None: that of the model.

    `remote` is the URL of a copy of the folder, for a `shards` that holds manifest.json and plan.json alone: windows
    are fetched when first read, checked by SHA-256 and kept. Streaming then lets a stream's folder belong to one
    dataset at a time: drop a stage's samples and loader before the next stage is opened.

    Open it in the process of every rank, not in workers, which inherit it forked or spawned. Where WORLD_SIZE is above
    1 Streaming makes ranks wait for each other: have torch.distributed initialised, and open it in all of them.

    Raises FileNotFoundError without a manifest or plan, ValueError if the plan has no such stage or a window that it
    draws is missing or of another size; an item ValueError if its window, which is read once in each process for that,
    has another SHA-256 than the manifest says.
    """

    def __init__(self, shards: Path, stage: str, remote: str | None = None):
        root = Path(shards).resolve()
        manifest, plan = load_manifest(root / "manifest.json"), load_plan(root / "plan.json")
        number = _number(plan, stage)
        self.samples, self.max_seq_len = plan.stages[number].samples, plan.stages[number].seq_len
        self.rope_theta = plan.stages[number].rope_theta
        self.places = Places(manifest, plan, number)
        drawn = dict.fromkeys(draw.stream for draw in plan.stages[number].draws if draw.samples)
        folders = [manifest.folder(stream, self.max_seq_len) for stream in drawn]
        self.dataset = _open(root, [f"{folder.stream}/{folder.seq_len}" for folder in folders], remote)
        self.firsts = _first_samples(root, self.dataset)
        self.root, self.unverified = root, {w.file: w for folder in folders for w in folder.windows}
        _check(root, list(self.unverified.values()), self.firsts, kept=remote is None)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        if not 0 <= position < self.samples:
            raise IndexError(f"position {position} of a stage with {self.samples} samples")
        file, index = self.places.at(position)
        sample = self.dataset[self.firsts[file] + index]
        if window := self.unverified.get(file):  # Streaming compares what it fetches alone, and with its index
            verify(self.root, window)
            del self.unverified[file]
        return _tensors(sample)


class PlannedSampler(DistributedSampler):
    """One rank's positions: of every `batch` samples from `first` on the share that `Batches.batch` gives the rank.

    For a DataLoader whose batch_size is `batch // world`. To resume, `first` is the position of the next sample: how
    many were read, over all ranks (0 for Composer, which itself skips what it has done). Only whole batches are given.
    A DistributedSampler, because Composer demands one and Lightning would deal the positions of others once more.

    Raises ValueError if `batch` does not divide by `world`, or if rank or `first` is out of range.
    """

    def __init__(self, samples: PlannedSamples, batch: int, rank: int = 0, world: int = 1, first: int = 0):
        super().__init__(samples, num_replicas=world, rank=rank, shuffle=False)
        require(batch > 0 and batch % world == 0, f"a batch of {batch} samples does not divide by {world} ranks")
        require(0 <= first <= len(samples), f"first must be a position from 0 to {len(samples)}, found {first}")
        self.batch, self.first, self.share = batch, first, batch // world

    def __len__(self) -> int:
        return (len(self.dataset) - self.first) // self.batch * self.share

    def __iter__(self) -> Iterator[int]:
        for taken in range(0, len(self), self.share):
            start = self.first + taken * self.num_replicas + self.rank * self.share
            yield from range(start, start + self.share)


def _number(plan: Plan, stage: str) -> int:
    names = [planned.name for planned in plan.stages]
    require(stage in names, f"the plan has no stage {stage!r}: its stages are {', '.join(names)}")
    return names.index(stage)


def _open(root: Path, folders: list[str], remote: str | None):
    """A StreamingDataset over folders below `root`; samples are numbered through them in this order."""
    from streaming import Stream, StreamingDataset  # 8 s, mostly torchvision and transformers

    streams = [Stream(local=str(root / folder), remote=remote and f"{remote}/{folder}") for folder in folders]
    return StreamingDataset(streams=streams, shuffle=False, batch_size=1, validate_hash="sha256")


def _first_samples(root: Path, dataset) -> dict[str, int]:
    """The number of each shard's first sample, by the shard's file as the manifest names it."""
    files = [Path(shard.dirname, shard.raw_data.basename).relative_to(root).as_posix() for shard in dataset.shards]
    return dict(zip(files, dataset.sample_offset_per_shard.tolist(), strict=True))


def _check(root: Path, windows: list[Window], firsts: dict[str, int], kept: bool) -> None:
    """Streaming takes any file of the right name. With `remote` (not `kept`) a file may be missing, not be another."""
    for window in windows:
        if kept or (root / window.file).exists():
            check_size(root, window)
        require(
            window.file in firsts,
            f"{(root / window.file).with_name('index.json')} does not list {window.file}, the manifest does: "
            "delete that index.json and fetch it again",
        )


def _tensors(sample: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """An item of `PlannedSamples` from a stored sample (columns tokens, starts, docs)."""
    batch = make_batch(0, [sample])
    tokens, segments, positions = batch.tokens_BL[0], batch.packing.segments_BL[0], batch.packing.positions_BL[0]
    docs = batch.docs_S[segments]
    labels = tokens.masked_fill((positions == 0) | (docs == 0), IGNORED)
    return {"tokens": tokens, "segments": segments.int(), "positions": positions, "docs": docs, "labels": labels}
