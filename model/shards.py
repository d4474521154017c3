"""Reader of MDS shards (MosaicML Streaming's format, version 2), memory-mapped: no index, no processes, no shared
memory.

A shard is u32 n | u32 offsets[n + 1] | JSON head | samples, offsets from the start of the file; a sample is the u32
size of each column without a fixed one, then the columns' bytes, in the order of their names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from model.source import Need, Source
from schemas.files import file_sha256
from schemas.manifest import Manifest, Window
from schemas.training import require


class Shards:
    """All samples below the folder of a manifest. Raises FileNotFoundError or ValueError if a file is missing or of
    another size, and ValueError when a file is first read that is not what its hash in the manifest says."""

    def __init__(self, root: Path, manifest: Manifest):
        self.root, self._open = Path(root), {}
        self.windows = {window.file: window for window in manifest.windows}
        self.heldout_files = [window.file for window in manifest.heldout]
        self.source = Source.of(self.root)
        for window in () if self.source else manifest.windows:
            check_size(self.root, window)

    def sample(self, file: str, index: int) -> dict:
        """Sample `index` of a shard: column name to value."""
        if file not in self._open:
            self._open[file] = self._verified(file)
        return self._open[file][index]

    def fetched_ahead(self, needs: Iterator[Need]) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """`Source.fetched_ahead`; nothing where all windows are here."""
        return self.source.fetched_ahead(needs) if self.source else contextlib.nullcontext(lambda: None)

    def look_ahead(self, step: int) -> None:
        """`Source.look_ahead`, before the samples of a step are read."""
        if self.source:
            self.source.look_ahead(step)

    def heldout(self) -> Iterator[dict]:
        """The held-out documents, in order."""
        for file in self.heldout_files:
            yield from self._verified(file)

    def _verified(self, file: str) -> Shard:
        """The file is read once for its hash, which brings it into memory where its samples are wanted next."""
        if self.source:
            self.source.bring(self.windows[file])
            self._open = {name: shard for name, shard in self._open.items() if (self.root / name).exists()}
        else:
            verify(self.root, self.windows[file])
        return Shard(self.root / file)


class Shard:
    """One mapped file: shard[i] is sample i. Arrays are views of the file, not copies."""

    def __init__(self, path: Path):
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        count = int(self.bytes[:4].view(np.uint32)[0])
        self.offsets = self.bytes[4 : 4 * count + 8].view(np.uint32).astype(np.int64)
        head = json.loads(self.bytes[4 * count + 8 : self.offsets[0]].tobytes())
        self.names, self.sizes = head["column_names"], head["column_sizes"]
        self.decoders = [decoder(encoding) for encoding in head["column_encodings"]]
        self.varying = 4 * self.sizes.count(None)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a shard with {len(self)}")
        data = self.bytes[self.offsets[index] : self.offsets[index + 1]]
        varying, at, sample = iter(data[: self.varying].view(np.uint32).tolist()), self.varying, {}
        for name, size, decode in zip(self.names, self.sizes, self.decoders, strict=True):
            size = next(varying) if size is None else size
            sample[name] = decode(data[at : at + size])
            at += size
        return sample


def decoder(encoding: str) -> Callable[[np.ndarray], object]:
    """Bytes to value, for the encodings that our shards use: str, int, int64 and ndarray with a dtype; no pickle."""
    kind, _, rest = encoding.partition(":")
    if kind == "str":
        return lambda data: data.tobytes().decode()
    if kind in ("int", "int64"):
        return lambda data: int(data.view(np.int64)[0])
    dtype, _, shape = rest.partition(":")
    require(
        kind == "ndarray" and dtype != "",
        f"MDS encoding {encoding!r} is not one of str, int, int64, ndarray:<dtype>[:<length>]",
    )
    return lambda data: data[0 if shape else _shape_bytes(data) :].view(dtype)


def _shape_bytes(data: np.ndarray) -> int:
    """Length of the prefix that gives a one-dimensional array's shape: a byte (axes * 4 + log2 of the number's width),
    the number."""
    axes, width = divmod(int(data[0]), 4)
    require(axes == 1, f"expected an array of one dimension, found {axes}")
    return 1 + (1 << width)


def verify(root: Path, window: Window) -> None:
    """Read a window's file. Raises ValueError if its SHA-256 is not the manifest's."""
    sha256 = file_sha256(root / window.file)
    require(
        sha256 == window.sha256,
        f"{root / window.file} was changed: expected window {window.window} with the manifest's SHA-256 "
        f"{window.sha256}, found {sha256}: copy it here again, or have `flows run shard` write it again",
    )


def check_size(root: Path, window: Window) -> None:
    """Raises FileNotFoundError or ValueError if the window's file is missing or of another size."""
    path = root / window.file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, the manifest lists it: copy it here or run the shard step")
    size = path.stat().st_size
    require(
        size == window.bytes,
        f"{path} has {size} bytes, the manifest says {window.bytes}: copy it again or run the shard step",
    )
