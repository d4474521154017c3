"""Synthetic fingerprints of any number of documents, with duplicates, chains and false candidates planted whose right
answer is known: no step of the pipeline has a part in it.

A block of 100,000 documents is made by itself, by a seed of its own: 4 % are copies, in fours; 8 % families of eight
near copies (Jaccard .84) that meet in some of their bands; 5 % one chain of windows along a text, of which neighbours
are near (.87) and no others (.75); 3 % pairs whose fingerprints agree and whose texts do not; 4 % share a band's key
with another by chance. The rest are alone, and of these and of copies no text is made: none is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dedup.buckets import PAIRS
from pipelines.lake import arrow_type
from schemas import tables
from schemas.parts import NearDuplicates

NEAR = NearDuplicates()
ENTRIES = NEAR.bands * NEAR.rows
BLOCK = 100_000  # documents
COPIES, FAMILY, UNLIKE = 4, 8, 2  # members
SHARES = {"copies": 0.04, "family": 0.08, "chain": 0.05, "unlike": 0.03, "chance": 0.04}
WORDS, STEP = 60, 4  # of a text, between windows of a chain
MET = 0.5  # of the bands that a family's member shares with it, besides the first
CHANGED = 0.05  # of a signature's entries in a near copy
CLUSTERS = pa.schema([(column.name, arrow_type(column.type)) for column in tables.CLUSTERS.columns])
DOCUMENTS = pa.schema([("doc_id", pa.string()), ("text", pa.string())])
ROWS = 20_000  # of a Parquet file's group: 12 MB


def write_block(folder: Path, number: int) -> None:
    """Write signals, documents, and the right pairs and clusters of a block, a file each."""
    for name, table in make_block(number).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name / f"{number:05}.parquet", row_group_size=ROWS)


def make_block(number: int, size: int = BLOCK) -> dict[str, pa.Table]:
    """signals, documents, pairs and clusters; size: documents, 1,000 or more."""
    chance = np.random.default_rng([18, number])
    count = {kind: int(share * size) // FAMILY * FAMILY for kind, share in SHARES.items()}
    at = dict(zip([*count, "alone"], np.cumsum([0, *count.values()]).tolist(), strict=True))
    group = _groups(count, size)
    text_of = np.where(np.arange(size) < at["family"], group, np.arange(size))
    ids, hashes = np.sort(_names(chance, size)), _names(chance, size)[text_of]
    quality = chance.random(size)
    signatures, keys = _fingerprints(chance, group, text_of, at)
    signals = {
        "doc_id": ids, "source": ["one"] * size, "snapshot": ["1"] * size, "domain": ["docs"] * size,
        "n_bytes": np.full(size, WORDS * 8), "text_hash": hashes, "quality": quality, "quality_model": ["one"] * size,
        "n_shingles": pa.array(np.full(size, WORDS - NEAR.ngram + 1), pa.int32()),
        "signature": _binaries(signatures),
        "band_keys": pa.FixedSizeListArray.from_arrays(keys.ravel(), NEAR.bands).cast(pa.list_(pa.int64())),
    }  # fmt: skip
    a, b, support = _near_pairs(keys, at)
    ends = np.sort(np.stack([hashes[a], hashes[b]]), axis=0)
    rank = np.argsort(np.lexsort((np.arange(size), -quality)))
    connected = np.where(np.arange(size) < at["unlike"], group, np.arange(size))
    return {
        "signals": pa.table(signals).take(pa.array(chance.permutation(size))),
        "documents": pa.table([ids[at["family"] : at["chance"]], _texts(number, at)], schema=DOCUMENTS),
        "pairs": pa.table([*ends, support.astype(np.int32)], schema=PAIRS),
        "clusters": _clusters(ids, rank, connected, _keepers(rank, group, at), text_of),
    }


def _names(chance: np.random.Generator, n: int) -> np.ndarray:
    """Distinct names of 32 hex digits."""
    digits = chance.bytes(16 * n).hex()
    return np.array([digits[32 * i : 32 * i + 32] for i in range(n)])


def _binaries(signatures: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(signatures))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * ENTRIES), len(signatures), buffers).cast(pa.binary())


def _groups(count: dict[str, int], size: int) -> np.ndarray:
    """For each document the first of those that are planted with it: int64[size]."""
    sizes = {"copies": COPIES, "family": FAMILY, "chain": count["chain"], "unlike": UNLIKE, "chance": UNLIKE}
    members = np.concatenate([np.arange(n) % sizes[kind] for kind, n in count.items()])
    return np.arange(size) - np.append(members, np.zeros(size - len(members), np.int64))


def _fingerprints(chance: np.random.Generator, group: np.ndarray, text_of: np.ndarray, at: dict[str, int]):
    """Signatures (uint32[documents, entries]) and band keys (int64[documents, bands])."""
    size = len(group)
    own = chance.integers(0, 1 << 32, (size, ENTRIES), np.uint32)
    alike = (np.arange(size) < at["chance"])[:, None] & (chance.random((size, ENTRIES), np.float32) >= CHANGED)
    signatures = np.where(alike, own[group], own)
    keys = chance.integers(-(1 << 63), (1 << 63) - 1, (size, NEAR.bands))
    met = chance.random((size, NEAR.bands)) < MET
    met[:, 0] = True
    family, chain = slice(at["family"], at["chain"]), np.arange(at["chain"], at["unlike"] - 1)
    keys[family] = np.where(met[family], keys[group[family]], keys[family])
    keys[chain + 1, chain % NEAR.bands] = keys[chain, chain % NEAR.bands]
    pairs = slice(at["unlike"], at["alone"])
    keys[pairs, 1] = keys[group[pairs], 1]
    return signatures[text_of], keys[text_of]


def _near_pairs(keys: np.ndarray, at: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, support) of near copies: all of a family, neighbours in the chain."""
    first, chain = np.arange(at["family"], at["chain"], FAMILY), np.arange(at["chain"], at["unlike"] - 1)
    a, b = (first[:, None] + side for side in np.triu_indices(FAMILY, 1))
    a, b = np.append(a.ravel(), chain), np.append(b.ravel(), chain + 1)
    return a, b, (keys[a] == keys[b]).sum(axis=1)


def _keepers(rank: np.ndarray, group: np.ndarray, at: dict[str, int]) -> np.ndarray:
    """For each document the one that it is dropped for, itself where it is kept, by a plain loop in the order of
    preference. All of a family or of copies are near each other, of a chain neighbours."""
    keeper, kept, best = np.arange(len(group)), set(), {}
    for i in np.argsort(rank).tolist():
        if at["chain"] <= i < at["unlike"]:
            near = sorted((j for j in (i - 1, i + 1) if j in kept), key=rank.__getitem__)
            keeper[i] = near[0] if near else i
            kept |= set() if near else {i}
        elif i < at["unlike"]:
            keeper[i] = best.setdefault(group[i], i)
    return keeper


def _clusters(ids: np.ndarray, rank: np.ndarray, component: np.ndarray, keeper: np.ndarray, text_of: np.ndarray):
    """The columns of silver.clusters; ids: ascending."""
    order = np.lexsort((rank, keeper))
    first = np.flatnonzero(np.diff(keeper[order], prepend=-1))
    sizes = np.diff(first, append=len(order))
    begins = np.repeat(first, sizes)
    columns = {
        "doc_id": ids[order],
        "cluster_id": ids[np.repeat(np.minimum.reduceat(order, first), sizes)],
        "component": ids[component[order]],
        "size": np.repeat(sizes, sizes),
        "rank": pa.array(np.arange(len(order)) - begins + 1, pa.int32()),
        "keeper": ids[keeper[order]],
        "exact": text_of[order] == text_of[keeper[order]],
    }
    return pa.table(columns, schema=CLUSTERS)


def _texts(number: int, at: dict[str, int]) -> list[str]:
    """Those of families, chain and unlike ones, in order: a family's members have one word of their own, at one place;
    windows of the chain are `STEP` words apart; unlike ones share their first half."""
    texts = []
    for start in range(at["family"], at["chain"], FAMILY):
        words = _words(f"{number}f{start}", WORDS)
        texts += [" ".join([*words[:30], f"own{member}", *words[31:]]) for member in range(FAMILY)]
    words = _words(f"{number}c", STEP * (at["unlike"] - at["chain"]) + WORDS)
    texts += [" ".join(words[begin : begin + WORDS]) for begin in range(0, len(words) - WORDS, STEP)]
    for start in range(at["unlike"], at["chance"], UNLIKE):
        words = _words(f"{number}u{start}", 2 * WORDS)
        texts += [" ".join(words[:WORDS]), " ".join(words[: WORDS // 2] + words[WORDS : WORDS + WORDS // 2])]
    return texts


def _words(name: str, n: int) -> list[str]:
    return [f"{name}w{i}" for i in range(n)]
