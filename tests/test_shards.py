"""shards: files that stock Streaming reads, the same bytes on any partitions and after any accident, and a plan that fits them."""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards.mds import heldout_columns, mds, ndarray, sample_columns, write, write_index
from pipelines.shards.mixture import mix
from pipelines.shards.sequences import stream_sizes
from pipelines.shards.tokens import doc_key
from pipelines.shards.write import count_windows, plan_windows, shard, written_folders
from schemas import manifest as contract
from schemas.manifest import Draw, Window
from schemas.recipe import Recipe
from schemas.tables import SPANS, TOKENS

TOKENIZER = {"name": "bpe", "vocab_size": 300, "eot": 299, "sha256": "0" * 64, "file": "tokenizer.ranks"}
RECIPE = Recipe.model_validate({
    "home": "nowhere",
    "sources": [{"name": name, "reader": "text", "domain": "docs"} for name in ("a", "b")],
    "window_tokens": 4096,
    "train": {"batch_tokens": 1024},
    "stages": [
        {"name": "main", "tokens": 16_000, "seq_len": 128},
        {"name": "same", "tokens": 4_000, "seq_len": 128, "mixture": {"method": "manual", "weights": {"a": 0.5, "b": 0.5}}},
        {"name": "long", "tokens": 30_000, "seq_len": 512, "lr": {"shape": "linear", "end": 0.0}},
    ],
})  # fmt: skip


def documents() -> dict[str, tuple]:
    """doc_id: stream, n_bytes, ids."""
    random = np.random.RandomState(5)
    by_id = {}
    for i in range(260):
        doc_id = hashlib.blake2b(b"%d" % i, digest_size=16).hexdigest()
        length = 6000 if i % 80 == 1 else 0 if i == 77 else int(random.lognormal(4.3, 1))
        by_id[doc_id] = (("a.all", "a.all", "b.low", "heldout")[i % 4], 3 * length + 1, random.randint(0, 299, length).astype("<u2"))
    return by_id


def tokens_table(spark, partitions: int):
    rows = [(d, doc_key(d), stream, "docs", size, len(ids), ids.tobytes()) for d, (stream, size, ids) in documents().items()]
    return spark.createDataFrame(rows, ", ".join(f"{c.name} {c.type}" for c in TOKENS.columns)).repartition(partitions)


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """(root, Shards, rows of gold.spans, file contents) of one run over one partition."""
    root, tokens = tmp_path_factory.mktemp("home") / "shards", tokens_table(spark, 1)
    streams = [(row.stream, *row.stream.split("."), row.tokens) for row in stream_sizes(tokens).collect()]
    rows = mix(RECIPE.stages, streams, RECIPE.max_epochs, RECIPE.train.batch_tokens, RECIPE.tiers)
    result = shard(tokens, rows, RECIPE, root, TOKENIZER, {"silver.tokens": "f00d"})
    return root, result, result.spans.collect(), rows


def read(folder: Path) -> list[dict]:
    """All samples of a folder, by stock Streaming, which also compares the hashes in its index."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=False, batch_size=1, validate_hash="sha256")
    return [dataset[i] for i in range(dataset.num_samples)]


def test_the_files_and_rows_are_what_the_contracts_say(made):
    root, result, _, rows = made
    assert contract.load_manifest(root / "manifest.json") == result.manifest
    assert contract.load_plan(root / "plan.json") == result.plan
    assert tuple(result.spans.columns) == SPANS.column_names
    windows = [window for folder in result.manifest.folders for window in folder.windows] + list(result.manifest.heldout)
    for window in windows:
        data = (root / window.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (window.bytes, window.sha256)
    folders = {str(Path(window.file).parent) for window in windows}
    assert set(contents(root)) == {w.file for w in windows} | {f"{f}/index.json" for f in folders} | {"manifest.json", "plan.json"}
    assert result.manifest.recipe == RECIPE.data_hash and result.manifest.tables == {"silver.tokens": "f00d"}
    trained = {stream: [ids for s, _, ids in documents().values() if s == stream and len(ids)] for stream in ("a.all", "b.low")}
    for stream in result.manifest.streams:
        own = trained.pop(stream.name)
        assert (stream.source, stream.tier) == tuple(stream.name.split("."))
        assert (stream.documents, stream.tokens) == (len(own), sum(len(ids) + 2 for ids in own))
    assert not trained
    assert [stage.samples for stage in result.plan.stages] == [
        sum(row["samples"] for row in rows if row["position"] == i) for i in range(3)
    ]
    assert [stage.first_token for stage in result.plan.stages] == [0, 16_384, 20_480]
    assert result.plan.stages[2].lr.end == 0.0


def test_streaming_reads_every_sample_and_each_holds_what_its_spans_say(made):
    root, result, spans, _ = made
    by_sample = defaultdict(list)
    for row in sorted(spans, key=lambda row: row.slot):
        by_sample[row.stream, row.seq_len, row.window, row.sample].append(row)
    for folder in result.manifest.folders:
        samples = read(root / folder.stream / str(folder.seq_len))
        places = [(folder.stream, folder.seq_len, w.window, s) for w in folder.windows for s in range(w.samples)]
        assert len(samples) == len(places)
        for sample, place in zip(samples, places, strict=True):
            check_sample(sample, by_sample.pop(place), folder.seq_len)
    assert not by_sample, "no span without a sample"


def check_sample(sample: dict, spans: list, seq_len: int) -> None:
    assert sample["tokens"].shape == (seq_len,) and sample["tokens"].dtype == np.uint16
    assert sample["docs"].dtype == np.int64 and sample["starts"].dtype == np.uint32
    keys, starts, at = [], [], 0
    for slot, span in enumerate(spans):
        stream, _, ids = documents()[span.doc_id]
        marked = np.concatenate([[299], ids, [299]])
        assert stream == span.stream and span.slot == slot and span.start == at
        assert np.array_equal(sample["tokens"][at : at + span.n_tokens], marked[span.doc_start : span.doc_start + span.n_tokens])
        keys, starts, at = [*keys, doc_key(span.doc_id)], [*starts, at], at + span.n_tokens
    if at < seq_len:
        keys, starts = [*keys, 0], [*starts, at]
        assert set(sample["tokens"][at:]) == {299}, "padding is end-of-text"
    assert sample["docs"].tolist() == keys and sample["starts"].tolist() == starts


def test_a_folder_with_all_its_windows_holds_every_token_once(made):
    _, result, spans, _ = made
    complete = [f for f in result.manifest.folders if len(f.windows) == result.manifest.stream(f.stream).windows]
    assert complete, "the long stage reads everything"
    for folder in complete:
        counts = Counter()
        for row in spans:
            if (row.stream, row.seq_len) == (folder.stream, folder.seq_len):
                counts.update((row.doc_id, row.doc_start + i) for i in range(row.n_tokens))
        own = {d: len(ids) + 2 for d, (stream, _, ids) in documents().items() if stream == folder.stream and len(ids)}
        assert counts == Counter((d, i) for d, length in own.items() for i in range(length))


def test_held_out_documents_are_whole_and_in_order(made):
    root, result, _, _ = made
    expected = sorted((d, size, ids) for d, (stream, size, ids) in documents().items() if stream == "heldout" and len(ids))
    samples = read(root / "heldout")
    assert len(result.manifest.heldout) > 1, "in shards of bounded size"
    assert [s["doc"] for s in samples] == [doc_key(d) for d, _, _ in expected]
    assert [(s["domain"], s["n_bytes"]) for s in samples] == [("docs", size) for _, size, _ in expected]
    assert all(np.array_equal(s["tokens"], [299, *ids, 299]) for s, (_, _, ids) in zip(samples, expected, strict=True))


def test_other_partitions_and_the_remains_of_a_killed_run_change_no_byte(spark, made):
    root, result, spans, rows = made
    before, untouched = contents(root), result.manifest.folders[0].windows[0].file
    first = root / untouched
    identity = (first.stat().st_ino, first.stat().st_mtime_ns)
    torn = root / result.manifest.folders[0].windows[1].file
    torn.write_bytes(torn.read_bytes()[:100])
    changed = root / result.manifest.heldout[0].file
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    for stale in ("a.all/128/window-00099.mds", "a.all/128/.window-00000.mds.dead.tmp", "old.all/64/window-00000.mds", "old.all/64/index.json"):
        write(root / stale, b"stale")
    (root / "manifest.json").unlink()
    again = shard(tokens_table(spark, 7), rows, RECIPE, root, TOKENIZER, {"silver.tokens": "f00d"})
    assert contents(root) == before and not (root / "old.all").exists()
    assert (again.manifest, again.plan) == (result.manifest, result.plan)
    assert sorted(again.spans.collect()) == sorted(spans)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == identity, "what was right was left alone"


@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_shards_and_index_are_streamings_own_bytes(tmp_path, vocab_size):
    from streaming import MDSWriter

    tokenizer, random = {**TOKENIZER, "vocab_size": vocab_size}, np.random.RandomState(0)
    dtype = np.uint16 if vocab_size == 300 else np.uint32
    packed = [
        {"docs": random.randint(-9, 9, n), "starts": np.arange(n, dtype=np.uint32), "tokens": random.randint(0, 300, 64).astype(dtype)}
        for n in (1, 255, 256, 70_000)
    ]
    held = [{"doc": -5, "domain": "übung", "n_bytes": 2**40, "tokens": np.arange(n, dtype=dtype)} for n in (2, 300)]
    for name, samples, columns in (("packed", packed, sample_columns(tokenizer, 64)), ("held", held, heldout_columns(tokenizer))):
        with MDSWriter(columns=columns, out=str(tmp_path / name), hashes=["sha256"], size_limit=None) as writer:
            for sample in samples:
                writer.write(sample)
        data = mds(columns, [[encoded(sample[column], columns[column]) for column in sorted(columns)] for sample in samples])
        assert data == (tmp_path / name / "shard.00000.mds").read_bytes()
        window = Window(0, f"{name}/shard.00000.mds", len(samples), 0, len(data), hashlib.sha256(data).hexdigest())
        write_index(tmp_path / "ours", (window,), columns)
        assert json.loads((tmp_path / "ours/index.json").read_text()) == json.loads((tmp_path / name / "index.json").read_text())


def encoded(value, encoding: str) -> bytes:
    if encoding.count(":") == 1:
        return ndarray(value)
    return value.encode() if encoding == "str" else np.int64(value).tobytes() if encoding == "int" else value.tobytes()


@settings(max_examples=300, deadline=None)
@given(samples=st.lists(st.integers(1, 5), min_size=1, max_size=6), first=st.integers(0, 5), wanted=st.integers(1, 60))
def test_windows_are_walked_one_by_one(samples, first, wanted):
    first %= len(samples)
    given, touched = 0, 0
    while given < wanted:
        given += samples[(first + touched) % len(samples)]
        touched += 1
    assert count_windows(np.array(samples), first, wanted) == touched


def planned(windows: dict[str, list[int]], draws: list[dict[str, int]]) -> tuple[list[list[Draw]], set]:
    seq_lens = [128, 128, 512]
    counts = [{"stream": s, "seq_len": n, "window": w, "samples": k} for s, ks in windows.items() for n in (128, 512) for w, k in enumerate(ks)]
    mixture = [{"position": p, "stream": s, "samples": k, "seq_len": seq_lens[p]} for p, stage in enumerate(draws) for s, k in stage.items()]
    plan, needed = plan_windows(RECIPE, mixture, counts)
    return [list(stage.draws) for stage in plan.stages], needed


def test_a_stage_begins_at_the_window_after_the_last_one_touched():
    draws, needed = planned({"a": [4, 4, 4, 4], "b": [2, 2]}, [{"a": 5, "b": 2}, {"a": 1, "b": 0}, {"a": 9, "b": 5}])
    assert draws == [[Draw("a", 5, 0), Draw("b", 2, 0)], [Draw("a", 1, 2)], [Draw("a", 9, 3), Draw("b", 5, 1)]]
    assert needed == {
        ("a", 128, 0), ("a", 128, 1), ("b", 128, 0), ("a", 128, 2), ("a", 512, 3), ("a", 512, 0), ("a", 512, 1), ("b", 512, 0), ("b", 512, 1),
    }  # fmt: skip


def test_a_plan_says_the_base_of_each_stage_from_the_one_that_says_it_on():
    stages = tuple(stage.model_copy(update={"rope_theta": theta}) for stage, theta in zip(RECIPE.stages, (None, 5e5, None), strict=True))
    mixture = [{"position": p, "stream": "a", "samples": 2, "seq_len": stage.seq_len} for p, stage in enumerate(stages)]
    counts = [{"stream": "a", "seq_len": n, "window": 0, "samples": 4} for n in (128, 512)]
    plan, _ = plan_windows(RECIPE.model_copy(update={"stages": stages}), mixture, counts)
    assert [stage.rope_theta for stage in plan.stages] == [None, 5e5, 5e5]


def test_a_window_that_is_not_the_planned_one_is_refused(spark):
    written = spark.createDataFrame([("a", 128, 0, 3, 300, 9, "x")], "stream string, seq_len int, window int, samples bigint, "
                                    "tokens bigint, bytes bigint, sha256 string")  # fmt: skip
    counts = [{"stream": "a", "seq_len": 128, "window": 0, "samples": 4, "tokens": 400}]
    with pytest.raises(ValueError, match=r"silver.tokens changed: a window 0: expected \(samples, tokens\) \(4, 400\), found \(3, 300\)"):
        written_folders(written, counts)


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "x.mds"
    write(target, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(target, b"new content")
    assert target.read_bytes() == b"old"
