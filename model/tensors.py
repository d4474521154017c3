"""Safetensors files of fp32 tensors, written and read in parts by several processes.

The format is that of github.com/huggingface/safetensors: the header's length in 8 bytes, least first; the header, JSON
that says of each name its dtype, its shape and between which bytes behind the header it lies; then these bytes, without
holes. Stock readers read what is written here.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.training import require

LONGEST_HEADER = 100_000_000  # bytes; the library refuses longer ones
MOST_AXES = 64  # of a tensor of torch
PIECE = 1 << 26  # elements that a GPU's tensor takes of the host at a time


def create(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Make a file of tensors with these shapes, all zeros. It has its whole length at once, so that a disk without room
    for it raises OSError here. Raises ValueError if the format cannot say them."""
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    require(len(text) <= LONGEST_HEADER, f"{path}: expected names in {LONGEST_HEADER:,} bytes, found {len(text):,}")
    require(
        "__metadata__" not in shapes, f"{path}: expected names of tensors, found __metadata__, which is the format's"
    )
    with FileIO(path, "w") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        else:  # macOS: a full disk is an error of `write`
            file.truncate(8 + len(text) + end)
        _put(file, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), 0)


def write(path: Path, parts: dict[str, tuple[int, Tensor]]) -> None:
    """Write into a file that `create` made, and wait until that is on disk. `parts` holds of each name the first flat
    element and the values from there on: fp32, of any shape, on any device.

    Raises ValueError for elements that the file has no place for, OSError if they cannot be written.
    """
    with FileIO(path, "r+") as file:
        places = _places(file)
        for name, (first, values) in parts.items():
            found = str(values.dtype).removeprefix("torch.")
            require(values.dtype == torch.float32, f"{path}: expected {name} as float32, found {found}")
            offset = _offset(file, places, name, first, first + values.numel())
            for piece in values.detach().reshape(-1).split(PIECE):
                _put(file, piece.cpu().numpy().view(np.uint8), offset)
                offset += 4 * len(piece)
        os.fsync(file.fileno())


def read(path: Path, ranges: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
    """Each name with its flat elements from start to stop, fp32 on the CPU; one at a time is in memory, once. Raises
    ValueError, saying what was expected and found, for a file that is not what the format and `ranges` say."""
    with FileIO(path) as file:
        places = _places(file)
        for name, (start, stop) in ranges.items():
            offset = _offset(file, places, name, start, stop)
            values = torch.empty(stop - start, dtype=torch.float32, device="cpu")
            _get(file, values.numpy().view(np.uint8), offset)
            yield name, values


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a file. Raises as `read` does."""
    with FileIO(path) as file:
        return {name: shape for name, (shape, _) in _places(file).items()}


def _places(file: FileIO) -> dict[str, tuple[tuple[int, ...], int]]:
    """The shape of each tensor in a file and at which byte it begins. Nothing in the header is believed unseen."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    most = min(size - 8, LONGEST_HEADER)
    require(length <= most, f"{file.name}: expected a header of at most {most:,} bytes, found a length of {length:,}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_names_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: expected a header of JSON, found {error}") from None
    require(isinstance(header, dict), f"{file.name}: expected names in the header, found {reprlib.repr(header)}")
    header.pop("__metadata__", None)
    entries = sorted((_entry(file, name, entry) for name, entry in header.items()), key=lambda entry: entry[2:])
    places, end = {}, 0
    for name, shape, begin, stop in entries:
        fits = begin == end and stop - begin == 4 * math.prod(shape)
        require(fits, f"{file.name}: expected {name} {shape} from byte {end:,} on, found it from {begin:,} to {stop:,}")
        places[name], end = (shape, 8 + length + begin), stop
    require(8 + length + end == size, f"{file.name}: expected {8 + length + end:,} bytes, found {size:,}")
    return places


def _entry(file: FileIO, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """What the header says of a tensor: its name, shape, first byte and the one behind its last."""
    match entry:
        case {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, stop]} if len(shape) <= MOST_AXES:
            if all(type(number) is int and 0 <= number < 1 << 63 for number in (*shape, begin, stop)):
                return name, tuple(shape), begin, stop
    raise ValueError(f"{file.name}: expected F32, a shape and two offsets for {name}, found {reprlib.repr(entry)}")


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "a name that is there twice")
    return dict(pairs)


def _offset(file: FileIO, places: dict[str, tuple[tuple[int, ...], int]], name: str, start: int, stop: int) -> int:
    """At which byte element `start` of a tensor lies, which has them up to `stop`."""
    require(name in places, f"{file.name}: expected {name}, found {reprlib.repr(list(places))}")
    shape, offset = places[name]
    fits = 0 <= start <= stop <= math.prod(shape)
    require(fits, f"{file.name}: expected elements {start:,} to {stop:,} of {name}, found {math.prod(shape):,}")
    return offset + 4 * start


def _put(file: FileIO, data: np.ndarray, offset: int) -> None:
    """Write bytes at `offset`; the system may take fewer at a time than it is given (2 GiB on Linux)."""
    while len(data):
        count = os.pwrite(file.fileno(), data, offset)
        data, offset = data[count:], offset + count


def _get(file: FileIO, data: np.ndarray, offset: int) -> None:
    """Fill `data` with the bytes at `offset`."""
    while len(data):
        count = os.preadv(file.fileno(), [data], offset)
        require(count > 0, f"{file.name}: expected {len(data):,} bytes from {offset:,} on, found its end")
        data, offset = data[count:], offset + count
