"""Packed sequences to MDS shards, and the plan and manifest beside them: all that leaves for the trainer.

A window is one file, written by one task: under a temporary name, renamed when it is on disk, the same bytes on any
cluster. `root` must be a folder that the driver and every worker see.
"""

from __future__ import annotations

import hashlib
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.shards.mds import (
    heldout_columns,
    mds,
    ndarray,
    remove_stale,
    sample_columns,
    window_file,
    write,
    write_index,
)
from pipelines.shards.sequences import HELDOUT, MARKS, Packing, assign_windows, pack, shuffle_samples, window_samples
from pipelines.shards.tokens import id_type
from schemas.manifest import Draw, Folder, Manifest, Plan, Stage, Stream, Window, save
from schemas.recipe import Recipe
from schemas.tables import SPANS

WRITTEN = {"samples": "bigint", "tokens": "bigint", "bytes": "bigint", "sha256": "string"}  # what is told of a file


class Shards(NamedTuple):
    """What `shard` wrote. `spans` has the columns of gold.spans; it is checkpointed, so reading it writes nothing
    again."""

    manifest: Manifest
    plan: Plan
    spans: DataFrame


def shard(tokens: DataFrame, mixture: list[dict], recipe: Recipe, root: Path, tokenizer: dict, tables: dict) -> Shards:
    """Write the windows that the recipe's stages draw, the held-out documents, plan.json and manifest.json below
    `root`.

    tokens: silver.tokens. mixture: rows of gold.mixture. tokenizer: `tokens.about`. tables: hash of the step
    that wrote each lake table. The manifest is taken away first and comes back last: a run that was killed leaves none.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.json").unlink(missing_ok=True)
    assigned = assign_windows(tokens, recipe.seed, recipe.window_tokens).persist()
    counts = [
        row.asDict() for row in window_samples(assigned, sorted({stage.seq_len for stage in recipe.stages})).collect()
    ]
    plan, needed = plan_windows(recipe, mixture, counts)
    written = write_windows(tokens, assigned, needed, recipe.seed, root, tokenizer).localCheckpoint()
    heldout = write_heldout(tokens, assigned, root, tokenizer)
    assigned.unpersist()
    folders = written_folders(written, counts)
    for folder in folders:
        write_index(
            root / folder.stream / str(folder.seq_len), folder.windows, sample_columns(tokenizer, folder.seq_len)
        )
    if heldout:
        write_index(root / HELDOUT, heldout, heldout_columns(tokenizer))
    manifest = Manifest(recipe.data_hash, tokenizer, tables, streams(counts), folders, heldout)
    remove_stale(root, manifest)
    save(plan, root / "plan.json")
    save(manifest, root / "manifest.json")
    return Shards(manifest, plan, written.select(*SPANS.column_names))


def plan_windows(recipe: Recipe, mixture: list[dict], counts: list[dict]) -> tuple[Plan, set[tuple[str, int, int]]]:
    """The plan, and the windows (stream, seq_len, window) that it draws. counts: rows of `window_samples`.

    Each stream has a cursor: a stage begins at the window after the last one that the stage before it touched.
    """
    ordered = sorted(counts, key=lambda row: (row["stream"], row["seq_len"], row["window"]))
    by_folder = groupby(ordered, lambda row: (row["stream"], row["seq_len"]))
    samples = {folder: np.array([row["samples"] for row in rows]) for folder, rows in by_folder}
    cursor = {stream: 0 for stream, _ in samples}
    needed, stages, first_token = set(), [], 0
    for position, (stage, theta) in enumerate(zip(recipe.stages, recipe.rope_thetas, strict=True)):
        draws = []
        for row in sorted(
            (r for r in mixture if r["position"] == position and r["samples"] > 0), key=lambda r: r["stream"]
        ):
            stream, of_window = row["stream"], samples[row["stream"], stage.seq_len]
            draws.append(Draw(stream, row["samples"], cursor[stream]))
            touched = count_windows(of_window, cursor[stream], row["samples"])
            needed |= {
                (stream, stage.seq_len, (cursor[stream] + i) % len(of_window))
                for i in range(min(touched, len(of_window)))
            }
            cursor[stream] = (cursor[stream] + touched) % len(of_window)
        total = sum(draw.samples for draw in draws)
        stages.append(Stage(stage.name, first_token, total, stage.seq_len, tuple(draws), stage.lr, theta))
        first_token += total * stage.seq_len
    return Plan(recipe.seed, tuple(stages)), needed


def count_windows(samples: np.ndarray, first: int, wanted: int) -> int:
    """How many windows are walked, from `first` and round again, until they gave `wanted` (at least 1) samples."""
    rounds, rest = divmod(wanted - 1, int(samples.sum()))
    return rounds * len(samples) + int(np.searchsorted(np.cumsum(np.roll(samples, -first)), rest, side="right")) + 1


def streams(counts: list[dict]) -> tuple[Stream, ...]:
    """Every stream with its size; the rows of any one sequence length tell it."""
    all_streams = []
    for name in sorted({row["stream"] for row in counts}):
        rows = [row for row in counts if row["stream"] == name]
        rows = [row for row in rows if row["seq_len"] == rows[0]["seq_len"]]
        source, tier = name.split(".", 1)
        all_streams.append(
            Stream(name, source, tier, sum(r["documents"] for r in rows), sum(r["tokens"] for r in rows), len(rows))
        )
    return tuple(all_streams)


def write_windows(
    tokens: DataFrame, assigned: DataFrame, needed: set, seed: int, root: Path, tokenizer: dict
) -> DataFrame:
    """Pack and write the needed windows. Rows: columns of gold.spans, and those of WRITTEN on a window's first row,
    else null."""
    folder = str(root)

    def run(key: tuple, table: pa.Table) -> pa.Table:
        stream, seq_len, window = place = tuple(part.as_py() for part in key)
        table = table.sort_by("position")
        packing, data = packed_window(table, place, seed, tokenizer)
        write(Path(folder, window_file(f"{stream}/{seq_len}", window)), data)
        told = [packing.samples, int(packing.n_tokens.sum()), len(data), hashlib.sha256(data).hexdigest()]
        return span_rows(place, table.column("doc_id"), packing, told)

    wanted = tokens.sparkSession.createDataFrame(sorted(needed), "stream string, seq_len int, window int")
    placed = assigned.join(F.broadcast(wanted), ["stream", "window"], how="inner").drop("doc_key")
    schema = ", ".join([SPANS.ddl, *(f"{name} {kind}" for name, kind in WRITTEN.items())])
    wide = tokens.select("doc_id", "doc_key", "tokens").join(placed, "doc_id", how="inner")
    return wide.groupBy("stream", "seq_len", "window").applyInArrow(run, schema)


def packed_window(
    documents: pa.Table, place: tuple[str, int, int], seed: int, tokenizer: dict
) -> tuple[Packing, bytes]:
    """The packing and the shard of a window's documents (doc_key, n_tokens, tokens), in their order; place: stream,
    seq_len, window."""
    stream, seq_len, window = place
    lengths = documents.column("n_tokens").to_numpy() + MARKS
    packing = shuffle_samples(pack(lengths, seq_len), seed, stream, seq_len, window)
    ids = mark_ends(documents.column("tokens"), tokenizer)
    rows = token_rows(ids, lengths, packing, seq_len, tokenizer["eot"])
    return packing, mds(
        sample_columns(tokenizer, seq_len), encoded_samples(rows, documents.column("doc_key").to_numpy(), packing)
    )


def span_rows(window: tuple[str, int, int], doc_ids: pa.ChunkedArray, packing: Packing, told: list) -> pa.Table:
    count = len(packing.sample)
    place = [
        pa.repeat(pa.scalar(value, kind), count)
        for value, kind in zip(window, (pa.string(), pa.int32(), pa.int32()), strict=True)
    ]
    sample, slot, start, n_tokens = (
        pa.array(a, pa.int32()) for a in (packing.sample, packing.slot, packing.start, packing.n_tokens)
    )
    span = [sample, slot, doc_ids.take(pa.array(packing.doc)), pa.array(packing.doc_start, pa.int64()), start, n_tokens]
    first_row = [pa.array([value] + [None] * (count - 1)) for value in told]
    return pa.table([*place, *span, *first_row], [*SPANS.column_names, *WRITTEN])


def written_folders(written: DataFrame, counts: list[dict]) -> tuple[Folder, ...]:
    """The folders of a manifest from the rows of `write_windows`. Raises ValueError if a window is not the one that was
    planned."""
    rows = (
        written.where(F.col("sha256").isNotNull())
        .select("stream", "seq_len", "window", *WRITTEN)
        .orderBy("stream", "seq_len", "window")
    )
    planned = {(row["stream"], row["seq_len"], row["window"]): (row["samples"], row["tokens"]) for row in counts}
    folders = []
    for (stream, seq_len), group in groupby(rows.collect(), lambda row: (row.stream, row.seq_len)):
        windows = []
        for row in group:
            expected, found = planned[stream, seq_len, row.window], (row.samples, row.tokens)
            if found != expected:
                place = f"{stream} window {row.window}"
                raise ValueError(
                    f"silver.tokens changed: {place}: expected (samples, tokens) {expected}, found {found}"
                )
            windows.append(
                Window(row.window, window_file(f"{stream}/{seq_len}", row.window), *(row[name] for name in WRITTEN))
            )
        folders.append(Folder(stream, seq_len, tuple(windows)))
    return tuple(folders)


def write_heldout(tokens: DataFrame, assigned: DataFrame, root: Path, tokenizer: dict) -> tuple[Window, ...]:
    """Write the held-out documents, whole, in order of doc_id, in shards of a window's tokens."""
    folder = str(root)

    def run(key: tuple, table: pa.Table) -> pa.Table:
        window = key[0].as_py()
        table = table.sort_by("position")
        lengths = table.column("n_tokens").to_numpy() + MARKS
        ends = np.cumsum(lengths)
        ids = np.split(mark_ends(table.column("tokens"), tokenizer), ends[:-1])
        doc, n_bytes = (np.split(table.column(name).to_numpy(), len(ids)) for name in ("doc_key", "n_bytes"))
        domain = [name.encode() for name in table.column("domain").to_pylist()]
        documents = [
            [d.tobytes(), e, n.tobytes(), ndarray(i)] for d, e, n, i in zip(doc, domain, n_bytes, ids, strict=True)
        ]
        data = mds(heldout_columns(tokenizer), documents)
        write(Path(folder, window_file(HELDOUT, window)), data)
        told = [window, len(documents), int(ends[-1]), len(data), hashlib.sha256(data).hexdigest()]
        return pa.table(
            [pa.array([told[0]], pa.int32()), *(pa.array([value]) for value in told[1:])], ["window", *WRITTEN]
        )

    places = assigned.where(F.col("stream") == HELDOUT).select("doc_id", "window", "position")
    wide = tokens.select("doc_id", "doc_key", "domain", "n_bytes", "n_tokens", "tokens").join(
        places, "doc_id", how="inner"
    )
    schema = ", ".join(["window int", *(f"{name} {kind}" for name, kind in WRITTEN.items())])
    rows = wide.groupBy("window").applyInArrow(run, schema).collect()
    return tuple(Window(row.window, window_file(HELDOUT, row.window), *row[1:]) for row in sorted(rows))


def mark_ends(blobs: pa.ChunkedArray, tokenizer: dict) -> np.ndarray:
    """Ids of documents one after the other, end-of-text before and after each."""
    dtype = id_type(tokenizer["vocab_size"])
    mark = np.array(tokenizer["eot"], dtype).tobytes()
    return np.frombuffer(b"".join(part for blob in blobs.to_pylist() for part in (mark, blob, mark)), dtype)


def token_rows(ids: np.ndarray, lengths: np.ndarray, packing: Packing, seq_len: int, eot: int) -> np.ndarray:
    """[samples, seq_len] ids, end-of-text as padding; ids are those of `mark_ends`, lengths of its documents with their
    marks."""
    rows = np.full(packing.samples * seq_len, eot, ids.dtype)
    sources = (np.cumsum(lengths) - lengths)[packing.doc] + packing.doc_start
    targets = packing.sample * seq_len + packing.start
    for source, target, n in zip(sources.tolist(), targets.tolist(), packing.n_tokens.tolist(), strict=True):
        rows[target : target + n] = ids[source : source + n]
    return rows.reshape(packing.samples, seq_len)


def encoded_samples(rows: np.ndarray, doc_keys: np.ndarray, packing: Packing) -> list[list[bytes]]:
    """Encoded columns docs, starts, tokens of each sample; what is left of a sample is a last segment of document 0."""
    used = np.bincount(packing.sample, packing.n_tokens, len(rows)).astype(np.int64)
    padded = np.flatnonzero(used < rows.shape[1])
    sample = np.concatenate([packing.sample, padded])
    order = np.argsort(sample, kind="stable")
    docs = np.concatenate([doc_keys[packing.doc], np.zeros(len(padded), np.int64)])[order]
    starts = np.concatenate([packing.start, used[padded]]).astype(np.uint32)[order]
    edges = np.searchsorted(sample[order], np.arange(len(rows) + 1))
    return [
        [ndarray(docs[a:b]), ndarray(starts[a:b]), row.tobytes()]
        for a, b, row in zip(edges, edges[1:], rows, strict=False)
    ]
