"""MDS version 2, the shard format of mosaicml-streaming, written by ourselves: importing `streaming` takes 8 s and
torch.

A shard: u32 n | u32 offsets[n + 1] from the file's beginning | JSON of the columns | samples. A sample: u32 size of
each column of variable size | the columns in order of their names. The bytes are those of streaming 0.13's MDSWriter.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import numpy as np

from pipelines.shards.tokens import id_type
from schemas.files import write_whole
from schemas.manifest import Manifest, Window


def sample_columns(tokenizer: dict, seq_len: int) -> dict[str, str]:
    """Columns of a packed sample; schemas/manifest.py says what they mean."""
    return {
        "docs": "ndarray:int64",
        "starts": "ndarray:uint32",
        "tokens": f"ndarray:{id_type(tokenizer['vocab_size']).name}:{seq_len}",
    }


def heldout_columns(tokenizer: dict) -> dict[str, str]:
    """Columns of a held-out document; schemas/manifest.py says what they mean."""
    return {
        "doc": "int",
        "domain": "str",
        "n_bytes": "int",
        "tokens": f"ndarray:{id_type(tokenizer['vocab_size']).name}",
    }


def window_file(folder: str, window: int) -> str:
    """A window's path below the manifest's folder."""
    return f"{folder}/window-{window:05d}.mds"


def ndarray(values: np.ndarray) -> bytes:
    """A vector of known type and free length: byte 4 + log2 of the length's width, the length, the values. Not
    empty."""
    width = next(code for code in range(4) if len(values) < 1 << (8 << code))
    return bytes([4 | width]) + len(values).to_bytes(1 << width, "little") + values.tobytes()


def mds(columns: dict[str, str], samples: list[list[bytes]]) -> bytes:
    """A shard. columns: encoding by name; samples: encoded values in order of the names. Raises ValueError from 4 GiB
    on."""
    head = json.dumps(_config(columns), sort_keys=True).encode()
    variable = [size is None for size in _config(columns)["column_sizes"]]
    bodies = []
    for values in samples:
        sizes = [len(value).to_bytes(4, "little") for value, varies in zip(values, variable, strict=True) if varies]
        bodies.append(b"".join(sizes + values))
    offsets = np.cumsum([4 + 4 * (len(bodies) + 1) + len(head), *map(len, bodies)])
    if offsets[-1] >= 1 << 32:
        raise ValueError(f"a shard holds less than 4 GiB, found {offsets[-1]:,} bytes: choose a smaller window_tokens")
    return b"".join([len(bodies).to_bytes(4, "little"), offsets.astype("<u4").tobytes(), head, *bodies])


def _config(columns: dict[str, str]) -> dict:
    names = sorted(columns)
    encodings = [columns[name] for name in names]
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["sha256"],
        "size_limit": None,
        "column_names": names,
        "column_encodings": encodings,
        "column_sizes": [_size(encoding) for encoding in encodings],
    }


def _size(encoding: str) -> int | None:
    """Bytes of a column, None if they vary: `int` is 8, `ndarray:uint16:L` 2 L."""
    parts = encoding.split(":")
    return np.dtype(parts[1]).itemsize * int(parts[2]) if len(parts) == 3 else 8 if encoding == "int" else None


def write_index(folder: Path, windows: tuple[Window, ...], columns: dict[str, str]) -> None:
    """index.json: with it the folder is a dataset that stock Streaming reads."""
    shards = []
    for window in windows:
        file = {"basename": Path(window.file).name, "bytes": window.bytes, "hashes": {"sha256": window.sha256}}
        shards.append({**_config(columns), "samples": window.samples, "raw_data": file, "zip_data": None})
    write(folder / "index.json", json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode())


def write(path: Path, data: bytes) -> None:
    """Make `path` hold `data`; a file that holds it already is left alone."""
    if (
        path.is_file()
        and path.stat().st_size == len(data)
        and hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    ):
        return
    write_whole(path, data, attempt=uuid.uuid4().hex)


def remove_stale(root: Path, manifest: Manifest) -> None:
    """Remove shards, indexes and scratch files below `root` that the manifest does not name, and folders that this
    empties."""
    named = {root / window.file for window in manifest.windows}
    named |= {file.with_name("index.json") for file in named}
    for path in sorted(root.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in named and (path.suffix in (".mds", ".tmp") or path.name == "index.json"):
            path.unlink()
