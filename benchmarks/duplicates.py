"""Near duplicates: signatures against datasketch, the whole search in this process, the same through Spark with the
kept documents in Delta; recall and precision against the exact Jaccard index of all pairs.

    python -m benchmarks duplicates [folder with .jsonl, .jsonl.gz or .jsonl.zst files]

Without a folder the texts are those of this Python's packages. Edited copies are planted in either, so that
similarities lie all over the scale.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit

from benchmarks.anchors import peer, texts_of
from benchmarks.families import datasketch_signature
from benchmarks.timing import row, seconds
from pipelines.dedup import buckets, clusters, keepers, verify
from pipelines.signals import fingerprints
from pipelines.signals.context import Context
from pipelines.texts.scripts import IS_ALONE
from schemas.parts import NearDuplicates, Spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

N_DOCS = 40_000
CHARS = 300, 60_000  # of a document
PIECE_CHARS = 3000  # longer texts are cut at empty lines into pieces of about so many
PIECES = 8  # of one text at most
PLANTED = 1 / 15  # edited copies a document
N_DATASKETCH = 300
FILE_DOCUMENTS = 6000
# nothing here is found by the least and greatest values of a file
PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0"}
PEERS = "daft dedup to Delta", "datatrove dedup"
PART = 500  # texts that are measured at a time
ROUNDS = 7  # the first ones warm Java
NEAR = NearDuplicates()
CONTEXT = Context(b"", {}, NEAR.ngram, NEAR.bands, NEAR.rows)
EDGES = np.flatnonzero(np.diff(IS_ALONE, prepend=False, append=False)).tolist()
ALONE = "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in zip(EDGES[::2], EDGES[1::2], strict=True))
# by \w+ a line of Chinese is one word, and six of 2,801 dropped documents were near nothing kept
WORDS = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")


def rows(folder: str | None = None) -> list[dict]:
    """Rates, and shares of true duplicates found. `must` is the least ratio."""
    texts = pa.array(corpus(Path(folder) if folder else None))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        files = written(documents(texts), Path(scratch, "documents"))
        pairs = similar_pairs(texts.to_pylist(), NEAR)
        ours = [*in_process(files, pairs), *through_spark(files, Path(scratch, "home"), pairs, len(texts))]
    return [signatures(texts), *ours, *map(unchecked, PEERS, [texts.to_pylist()] * len(PEERS))]


def written(rows: pa.Table, folder: Path) -> list[str]:
    """Paths of the Parquet files that the documents are dealt out to, as a table's are."""
    folder.mkdir()
    files = [str(folder / f"{begin:08d}.parquet") for begin in range(0, len(rows), FILE_DOCUMENTS)]
    for number, file in enumerate(files):
        pq.write_table(
            rows.slice(number * FILE_DOCUMENTS, FILE_DOCUMENTS), file, compression="zstd", row_group_size=2000
        )
    return files


def unchecked(work: str, texts: list[str]) -> dict:
    """Another tool's whole job on all cores, by the clock, on the first of the texts; neither compares two texts."""
    theirs = peer(work, texts)
    if "missing" in theirs:
        return row(f"{work}: {theirs['missing']}", 0, "docs/s")
    return row(f"{theirs['version']}: {work}, unchecked", theirs["documents"] / theirs["seconds"], "docs/s")


def signatures(texts: pa.Array) -> dict:
    """Text hash, shingles, signature and bands here; the same shingles and as many permutations in datasketch."""
    few = texts.slice(0, N_DATASKETCH).to_pylist()
    fingerprints.measure(texts.slice(0, 9), texts, CONTEXT)  # compiled
    ours = len(texts) / seconds(lambda: fingerprints.measure(texts, texts, CONTEXT))
    theirs = len(few) / seconds(lambda: [datasketch_signature(text, CONTEXT) for text in few], repeats=2)
    return row("signatures / datasketch update_batch", ours, "docs/s", reference=theirs, must=20.0)


def in_process(files: list[str], pairs: np.ndarray) -> list[dict]:
    """Parquet to the numbers of the kept documents, one core."""
    read = lambda file: pq.read_table(file, columns=["text"], use_threads=False).column("text").combine_chunks()  # noqa: E731
    work = lambda: kept(pa.concat_arrays(list(map(read, files))), NEAR)  # noqa: E731
    root = work()
    rate = len(root) / seconds(work, repeats=3)
    speed = row("verified, in process / the least we accept", rate, "docs/s", reference=30_000, must=1.0)
    return [speed, *against_truth("in process", root, pairs)]


def kept(texts: pa.Array, near: NearDuplicates, seed: int = 1) -> np.ndarray:
    """For each text the number of the one that it is dropped for, itself where it is kept: int64. All in this process.

    The clusters are those that the job makes of the same texts.
    """
    context = Context(b"", {}, near.ngram, near.bands, near.rows, seed)
    # What a pass over so many texts writes stays in the processor's cache.
    parts = [texts.slice(begin, PART) for begin in range(0, len(texts), PART)]
    columns = zip(*(fingerprints.measure(part, part, context) for part in parts), strict=True)
    text_hash, n_shingles, signature, band_keys = map(pa.concat_arrays, columns)
    numbers, new = pa.array(np.arange(len(texts))), pa.array(np.ones(len(texts), bool))
    names = ["doc_id", "text_hash", "n_shingles", "signature", "band_keys", "new"]
    rows = pa.table([numbers, text_hash, n_shingles, signature, band_keys, new], names=names)
    pairs = buckets.changes(rows.filter(pc.greater(n_shingles, 0)), near.threshold)
    a, b = (pairs.column(side).to_numpy() for side in ("doc_a", "doc_b"))
    ends, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    sets = verify.shingle_sets(texts.take(pa.array(ends)), near.ngram)
    true = verify.alike(sets, *(pa.array(side.astype(np.int32)) for side in np.split(places, 2)), near.threshold)
    columns = {"doc_id": numbers, "text_hash": text_hash, "n_shingles": n_shingles}
    alike = pa.array(np.zeros(len(texts)))
    members = pa.table(columns | dict.fromkeys(("quality", "priority", "recency"), alike))
    grouped = clusters.group(members, pairs.filter(pa.array(true)))
    asked = clusters.undecided(grouped)
    sets = verify.shingle_sets(texts.take(asked.column("doc_id").cast(pa.int64())).combine_chunks(), near.ngram)
    asked = asked.append_column("shingles", sets.cast(pa.large_binary())).select(keepers.SETS.names)
    table = clusters.clusters(grouped, pa.Table.from_batches(keepers.keep([asked], near.threshold), clusters.KEPT))
    return keeper_of_each(*(table.column(side).to_numpy() for side in ("doc_id", "keeper")))


def keeper_of_each(doc: np.ndarray, keeper: np.ndarray) -> np.ndarray:
    root = np.empty(len(doc), np.int64)
    root[doc] = keeper
    return root


def through_spark(files: list[str], home: Path, pairs: np.ndarray, n: int) -> list[dict]:
    """Wall time from documents in Parquet to the kept ones in a new Delta table, Java running and warm."""
    from pipelines.spark import session

    spark = session(Spark(master="local[2]"), str(home))
    speeds, ways = [], {"kept ones in Delta": False, "all tables in Delta": True}
    for way, store in ways.items():
        spent = [deduplicate(spark, files, home / f"{way} {i}", store) for i in range(ROUNDS)]
        best = min(spent, key=lambda stages: sum(stages.values()))
        print(f"  {way}: " + ", ".join(f"{stage} {value:.2f} s" for stage, value in best.items()), file=sys.stderr)
        rate = n / sum(best.values())
        least = {} if store else {"reference": 12_000, "must": 1.0}
        speeds.append(row(f"verified, Spark, {way}" + " / the least we accept" * bool(least), rate, "docs/s", **least))
    stored = deltalake.DeltaTable(str(home / "all tables in Delta 0" / "clusters"))
    named = stored.to_pyarrow_table(columns=["doc_id", "keeper"])
    spark.stop()
    root = keeper_of_each(
        *(np.array([int(name, 16) for name in named.column(side).to_pylist()]) for side in ("doc_id", "keeper"))
    )
    return [*speeds, *against_truth("Spark", root, pairs)]


def deduplicate(spark: SparkSession, files: list[str], home: Path, store: bool) -> dict[str, float]:
    """Seconds of each stage; `store`: the narrow tables between are written to Delta too, by Spark or here as in the
    job."""
    from pyspark.sql import functions as F

    from pipelines.dedup import dedup

    spent, started = {}, time.perf_counter()

    def stage(name: str, made: DataFrame | pa.Table) -> pa.Table:
        nonlocal started
        if not store:
            made = made if isinstance(made, pa.Table) else made.toArrow()
        else:
            if isinstance(made, pa.Table):
                deltalake.write_deltalake(str(home / name), made, configuration=PROPERTIES)
            else:
                made.write.format("delta").options(**PROPERTIES).save(str(home / name))
            made = deltalake.DeltaTable(str(home / name)).to_pyarrow_table()
        now = time.perf_counter()
        spent[name], started = now - started, now
        return made

    given = spark.read.parquet(*files)
    columns = ", ".join(f"{column.name} {column.type}" for column in fingerprints.COLUMNS)
    signals = given.mapInArrow(
        fingerprint_batches, f"doc_id string, source string, snapshot string, quality double, {columns}"
    )
    signals = stage("signals", signals)
    rows = signals.filter(pc.field("n_shingles") > 0).select(["doc_id", "text_hash", *dedup.FINGERPRINT])
    rows = rows.append_column("new", pa.array(np.ones(len(rows), bool)))
    pairs = stage("pairs", dedup.pairs_here(rows, None, files, spark, NEAR))
    grouped = clusters.group(clusters.members(signals, {"web": 0}, {}), pairs)
    asked = keepers.keep_here(clusters.undecided(grouped), files, lambda: spark, NEAR)
    grouped = stage("clusters", clusters.clusters(grouped, asked))
    kept = spark.createDataFrame(grouped.filter(pc.field("rank") == 1).select(["doc_id"]))
    # 43,000 ids are sent to every task: Spark does not know how few they are, and would shuffle the texts.
    given.join(F.broadcast(kept), "doc_id", how="left_semi").write.format("delta").options(**PROPERTIES).save(
        str(home / "kept")
    )
    return spent | {"kept": time.perf_counter() - started}


def fingerprint_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Given columns and fingerprints: the part of the measuring pass that duplicates need."""
    for batch in batches:
        texts = batch.column("text")
        given = [batch.column(name) for name in ("doc_id", "source", "snapshot")]
        quality = pa.nulls(len(texts), pa.float64())
        measured = fingerprints.measure(texts, texts, CONTEXT)
        names = ["doc_id", "source", "snapshot", "quality", *(column.name for column in fingerprints.COLUMNS)]
        yield pa.RecordBatch.from_arrays([*given, quality, *measured], names=names)


def documents(texts: pa.Array) -> pa.Table:
    n = len(texts)
    ids, same = pa.array([f"{i:032x}" for i in range(n)]), pa.array(["web"] * n)
    return pa.table([ids, same, same, texts], names=["doc_id", "source", "snapshot", "text"])


def against_truth(way: str, root: np.ndarray, pairs: np.ndarray) -> list[dict]:
    """Of pairs: not both kept. Of documents: those that the first independent set of all true pairs drops. Dropped ones
    that are near nothing kept, against what is kept of each component (single linkage)."""
    everything = np.arange(len(root))
    dropped, should = root != everything, ~independent(pairs, len(root))
    right = (dropped & should).sum()
    shares = {
        "pair recall": 1 - (~dropped[pairs]).all(axis=1).mean(),
        "document recall": right / should.sum(),
        "document precision": right / max(dropped.sum(), 1),
    }
    linked = clusters.components(pairs[:, 0], pairs[:, 1], len(root)) != everything
    lost = row(f"near nothing kept, {way} / single linkage", far(dropped, pairs), "", far(linked, pairs))
    return [*(row(f"{name}, {way}", share, "", reference=0.995, must=1.0) for name, share in shares.items()), lost]


def independent(pairs: np.ndarray, n: int) -> np.ndarray:
    """bool[n]: the first independent set of a graph in the order of its n nodes, by a plain loop."""
    kept, before = np.ones(n, bool), [[] for _ in range(n)]
    for a, b in np.sort(pairs, axis=1).tolist():
        before[b].append(a)
    for node in range(n):
        kept[node] = not any(kept[other] for other in before[node])
    return kept


def far(dropped: np.ndarray, pairs: np.ndarray) -> int:
    """How many are dropped that no pair connects with one that is not."""
    alone = dropped.copy()
    for a, b in (pairs.T, pairs[:, ::-1].T):
        alone[a[~dropped[b]]] = False
    return int(alone.sum())


# ---- texts ----


def corpus(folder: Path | None) -> list[str]:
    """At most N_DOCS documents, no two of them equal, and edited copies, in random order."""
    chance = np.random.default_rng(7)
    texts = list(
        dict.fromkeys(piece for text in (texts_of(folder) if folder else packages()) for piece in pieces(text))
    )
    texts = [texts[i] for i in chance.permutation(len(texts))[:N_DOCS]]
    texts += [edited(text, chance) for text in texts[: int(len(texts) * PLANTED)]]
    return [texts[i] for i in chance.permutation(len(texts))]


def packages() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        yield path.read_text("utf-8", errors="ignore")


def pieces(text: str) -> list[str]:
    groups, length = [[]], 0
    for part in text.split("\n\n")[: 400 * PIECES]:
        if length >= PIECE_CHARS:
            groups.append([])
            length = 0
        groups[-1].append(part)
        length += len(part) + 2
    joined = ("\n\n".join(parts) for parts in groups[:PIECES])
    return [piece for piece in joined if CHARS[0] <= len(piece) <= CHARS[1]]


def edited(text: str, chance: np.random.Generator) -> str:
    """A copy with some of its words replaced: one in 4,000 to one in 15, so that the index falls to one half and
    below."""
    parts = re.split(r"(\w+)", text)
    words = len(parts) // 2
    for place in chance.integers(0, words, 1 + int(words * 10 ** chance.uniform(-3.6, -1.2))):
        parts[2 * place + 1] = f"word{chance.integers(10**6)}"
    return "".join(parts)


# ---- truth ----


def similar_pairs(texts: list[str], near: NearDuplicates) -> np.ndarray:
    """All pairs int64[n, 2] whose Jaccard index reaches the threshold: Python's words, their n-grams, exact; a
    character of a script without spaces is a word.

    Prefix filter (Chaudhuri et al., A Primitive Operator for Similarity Joins, 2006): with shingles in order of rarity,
    two sets this similar share one of each one's first |set| - ceil(threshold |set|) + 1.
    """
    numbers: dict[str, int] = {}
    sets = []
    for text in texts:
        words = [numbers.setdefault(word, len(numbers)) for word in WORDS.findall(text.lower())]
        words = np.array(words, np.uint64)
        n = min(near.ngram, len(words))
        hashed = np.zeros(len(words) - n + 1 if n else 0, np.uint64)
        for k in range(n):
            hashed = (hashed ^ words[k : k + len(hashed)]) * np.uint64(0x9E3779B97F4A7C15)
            hashed ^= hashed >> np.uint64(29)
        sets.append(np.unique(hashed))
    bounds = np.concatenate([[0], np.cumsum([len(one) for one in sets])])
    _, codes, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    values = ranks[codes]
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        values[begin:end].sort()
    return np.array(_join(values, bounds, near.threshold, len(counts)), np.int64).reshape(-1, 2)


@njit
def _join(values, bounds, threshold, n_values):
    prefix = np.empty(len(bounds) - 1, np.int64)
    starts = np.zeros(n_values + 1, np.int64)
    for d in range(len(prefix)):
        size = bounds[d + 1] - bounds[d]
        prefix[d] = bounds[d] + (size - int(np.ceil(threshold * size - 1e-9)) + 1 if size else 0)
        for k in range(bounds[d], prefix[d]):
            starts[values[k] + 1] += 1
    starts = np.cumsum(starts)
    free, where = starts[:-1].copy(), np.empty(starts[-1], np.int64)
    met = np.full(len(prefix), -1)
    pairs = [(0, 0) for _ in range(0)]
    for d in range(len(prefix)):
        for k in range(bounds[d], prefix[d]):
            value = values[k]
            for place in range(starts[value], free[value]):
                other = where[place]
                if met[other] != d:
                    met[other] = d
                    if _reaches(
                        values[bounds[d] : bounds[d + 1]], values[bounds[other] : bounds[other + 1]], threshold
                    ):
                        pairs.append((other, d))
            where[free[value]] = d
            free[value] += 1
    return pairs


@njit
def _reaches(a, b, threshold):
    if min(len(a), len(b)) < threshold * max(len(a), len(b)):
        return False
    i = j = common = 0
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        common += x == y
        i += x <= y
        j += y <= x
    return common / (len(a) + len(b) - common) >= threshold
