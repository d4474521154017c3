"""A small writer of what the trainer reads, independent of the one in `pipelines`: for the trainer's tests and benchmarks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from schemas.manifest import Folder, Manifest, Plan, Stage, Stream, Window, save

HELDOUT = {"doc": "int64", "domain": "str", "n_bytes": "int64", "tokens": "ndarray:uint16"}


def sample_columns(seq_len: int) -> dict[str, str]:
    return {"docs": "ndarray:int64", "starts": "ndarray:uint32", "tokens": f"ndarray:uint16:{seq_len}"}


def encode(encoding: str, value) -> bytes:
    if encoding == "str":
        return value.encode()
    if encoding == "int64":
        return np.int64(value).tobytes()
    dtype, _, shape = encoding.removeprefix("ndarray:").partition(":")
    data = np.asarray(value, dtype).tobytes()
    width = next(w for w in range(4) if len(value) < 1 << (8 << w))
    return data if shape else bytes([1 << 2 | width]) + len(value).to_bytes(1 << width, "little") + data


def mds(columns: dict[str, str], samples: list[dict]) -> tuple[bytes, dict]:
    """(bytes of a shard, its JSON head): MDS version 2."""
    names = sorted(columns)
    fixed = [8 if columns[n] == "int64" else None if columns[n].count(":") < 2 else len(encode(columns[n], samples[0][n])) for n in names]
    body = []
    for sample in samples:
        data = [encode(columns[name], sample[name]) for name in names]
        sizes = [len(part) for part, size in zip(data, fixed, strict=True) if size is None]
        body.append(np.array(sizes, np.uint32).tobytes() + b"".join(data))
    head = {"version": 2, "format": "mds", "compression": None, "hashes": [], "size_limit": None, "column_names": names,
            "column_encodings": [columns[name] for name in names], "column_sizes": fixed}
    text = json.dumps(head, sort_keys=True).encode()
    offsets = np.cumsum([8 + 4 * len(body) + len(text), *map(len, body)]).astype(np.uint32)
    return np.uint32(len(body)).tobytes() + offsets.tobytes() + text + b"".join(body), head


def write_window(root: Path, file: str, number: int, columns: dict[str, str], samples: list[dict]) -> tuple[Window, dict]:
    data, head = mds(columns, samples)
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    tokens = sum(len(sample["tokens"]) for sample in samples)
    window = Window(number, file, len(samples), tokens, len(data), hashlib.sha256(data).hexdigest())
    raw = {"basename": path.name, "bytes": window.bytes, "hashes": {"sha256": window.sha256}}
    return window, {**head, "raw_data": raw, "zip_data": None, "samples": len(samples)}


def write_shards(root: Path, folders: dict[tuple[str, int], list[list[dict]]], heldout: list[dict], stages: tuple[Stage, ...],
                 vocab_size: int, seed: int = 3) -> tuple[Manifest, Plan]:
    """Write windows of samples per (stream, sequence length), held-out documents, manifest.json and plan.json below `root`."""
    written = []
    for (stream, seq_len), windows in folders.items():
        pairs = [write_window(root, f"{stream}/{seq_len}/window-{n:05d}.mds", n, sample_columns(seq_len), window)
                 for n, window in enumerate(windows)]
        (root / stream / str(seq_len) / "index.json").write_text(json.dumps({"version": 2, "shards": [entry for _, entry in pairs]}))
        written.append(Folder(stream, seq_len, tuple(window for window, _ in pairs)))
    names = dict.fromkeys(stream for stream, _ in folders)
    counts = {folder.stream: len(folder.windows) for folder in written}
    streams = tuple(Stream(name, name.split(".")[0], "all", 0, 0, counts[name]) for name in names)
    held = (write_window(root, "heldout/window-00000.mds", 0, HELDOUT, heldout)[0],) if heldout else ()
    tokenizer = {"name": "test", "vocab_size": vocab_size, "eot": 0, "sha256": "", "file": "tokenizer"}
    manifest, plan = Manifest("recipe", tokenizer, {}, streams, tuple(written), held), Plan(seed, stages)
    save(manifest, root / "manifest.json")
    save(plan, root / "plan.json")
    return manifest, plan


def pack_documents(documents: list[np.ndarray], keys: list[int], seq_len: int, eot: int = 0) -> list[dict]:
    """Documents one after the other, cut at the ends of sequences; the last one is padded (document 0)."""
    room, samples, current = 0, [], None
    for tokens, key in zip(documents, keys, strict=True):
        at = 0
        while at < len(tokens):
            if room == 0:
                current, room = {"tokens": np.full(seq_len, eot), "starts": [], "docs": []}, seq_len
                samples.append(current)
            take = min(room, len(tokens) - at)
            start = seq_len - room
            current["tokens"][start : start + take] = tokens[at : at + take]
            current["starts"].append(start)
            current["docs"].append(key)
            at, room = at + take, room - take
    if room:
        current["starts"].append(seq_len - room)
        current["docs"].append(0)
    return samples
