"""Shards and batch order: against shards that Streaming wrote, and against orders found by sorting everything."""

import os
import threading
from collections import defaultdict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import shards as reader
from model.data import BLOCK, Batches, Places, Walk, block_order, draws_before
from model.shards import Shard, Shards
from schemas.manifest import Draw, LearningRate, Plan, Stage, Window
from tests.mds import HELDOUT, mds, sample_columns, write_shards

SEQ_LEN = 8
COUNTS = st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0).map(tuple)


def numbered(stream: int, window: int, samples: int) -> list[dict]:
    """Samples of two segments, the tokens of which say where they stand."""
    rows = []
    for i in range(samples):
        name = [stream, window, i, 0, 1, 2, 3, 4]
        rows.append({"tokens": np.array(name), "starts": [0, 3 + i % 4], "docs": [1000 * window + 2 * i + 1, 0 if i % 5 == 0 else 77]})
    return rows


def stage(name: str, first_token: int, draws: list[tuple[str, int, int]], seq_len: int = SEQ_LEN) -> Stage:
    draws = tuple(Draw(*draw) for draw in draws)
    return Stage(name, first_token, sum(draw.samples for draw in draws), seq_len, draws, LearningRate())


@pytest.fixture
def shards(tmp_path):
    """(root, manifest, plan): streams a (windows of 30, 17, 23 samples) and b (40, 40); the second stage starts where the first stopped."""
    folders = {("a", SEQ_LEN): [numbered(0, w, n) for w, n in enumerate((30, 17, 23))], ("b", SEQ_LEN): [numbered(1, w, 40) for w in (0, 1)]}
    stages = (stage("one", 0, [("a", 40, 0), ("b", 24, 0)]), stage("two", 64 * SEQ_LEN, [("a", 72, 2), ("b", 24, 1)]))
    heldout = [{"domain": "code", "doc": 5, "n_bytes": 9, "tokens": np.arange(300)}, {"domain": "docs é", "doc": -5, "n_bytes": 2, "tokens": [0, 0]}]
    return tmp_path, *write_shards(tmp_path, folders, heldout, stages, vocab_size=500)


def reading(batches: Batches, world: int = 1) -> list[list[int]]:
    """First three tokens (stream, window, sample) of every sample of a run, in order."""
    rows = []
    for step in range(batches.steps):
        for rank in range(world):
            rows += batches.batch(step, rank, world).tokens_BL[:, :3].tolist()
    return rows


@given(COUNTS)
def test_draws_before_a_position_are_those_of_a_full_sort(counts):
    due = sorted((Fraction(2 * k + 1, 2 * n), i) for i, n in enumerate(counts) for k in range(n))
    taken = [0] * len(counts)
    for position in range(len(due) + 1):
        if position:
            taken[due[position - 1][1]] += 1
        if position % 7 == 0 or position == len(due):
            assert draws_before(counts, position) == taken


@given(COUNTS, st.integers(0, 2**63))
@settings(max_examples=40)
def test_a_stage_gives_each_draw_once_and_blocks_keep_their_shares(counts, seed):
    plan = Plan(seed, (stage("s", 0, [(str(i), n, 0) for i, n in enumerate(counts)]),))
    total, seen = sum(counts), [0] * len(counts)
    order = []
    for block in range(-(-total // BLOCK)):
        order += block_order(plan, 0, block)
        for stream, _ in order[block * BLOCK :]:
            seen[stream] += 1
        for n, drawn in zip(counts, seen, strict=True):
            assert abs(drawn - Fraction(n * len(order), total)) <= Fraction(1, 2) + Fraction(len(counts) * n, 2 * total)
    assert sorted(order) == [(i, k) for i, n in enumerate(counts) for k in range(n)]


def test_order_inside_a_block_is_seeded_and_differs_between_blocks_and_stages():
    counts = [("a", 200, 0), ("b", 200, 0)]
    plan = Plan(1, (stage("s", 0, counts), stage("t", 0, counts)))
    def streams(*place):
        return [stream for stream, _ in block_order(*place)]
    assert streams(plan, 0, 0) == streams(plan, 0, 0)
    different = [streams(plan, 0, 0), streams(plan, 0, 1), streams(plan, 1, 0), streams(Plan(2, plan.stages), 0, 0)]
    assert len({tuple(order) for order in different}) == 4


def test_order_is_pinned():
    """A change of this order would silently change what a resumed run reads."""
    plan = Plan(17, (stage("s", 0, [("a", 6, 0), ("b", 3, 0), ("c", 1, 0)]),))
    assert block_order(plan, 0, 0) == [(1, 0), (0, 3), (1, 2), (0, 2), (2, 0), (0, 5), (1, 1), (0, 4), (0, 1), (0, 0)]


def test_stages_read_windows_in_order_and_wrap(shards):
    root, manifest, plan = shards
    rows = reading(Batches(root, manifest, plan, batch_tokens=4 * SEQ_LEN))
    def in_order(rows, stream):
        return sorted(row[1:] for row in rows if row[0] == stream)
    assert in_order(rows[:64], 0) == [[0, i] for i in range(30)] + [[1, i] for i in range(10)]
    assert in_order(rows[:64], 1) == [[0, i] for i in range(24)]
    everything = [[0, i] for i in range(30)] + [[1, i] for i in range(17)] + [[2, i] for i in range(23)]
    assert in_order(rows[64:], 0) == sorted(everything + [[2, 0], [2, 1]])  # 72 of 70: from window 2, round, 2 of it again
    assert in_order(rows[64:], 1) == [[1, i] for i in range(24)]


def test_nothing_is_read_twice_before_all_of_a_stream_was_read(shards):
    _, manifest, _ = shards
    walk = Walk(manifest, Draw("a", 200, 1), SEQ_LEN)
    places = [walk.at(k) for k in range(200)]
    assert len(set(places[:70])) == 70 and places[70:140] == places[:70]
    assert places[0] == ("a/8/window-00001.mds", 0)


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_reads_the_same_global_batches(shards, world):
    root, manifest, plan = shards
    batches = Batches(root, manifest, plan, batch_tokens=8 * SEQ_LEN)
    assert reading(batches, world) == reading(batches)


def test_a_batch_does_not_depend_on_what_was_read_before(shards):
    root, manifest, plan = shards
    batches = Batches(root, manifest, plan, batch_tokens=4 * SEQ_LEN)
    backwards = [batches.batch(step).tokens_BL for step in reversed(range(batches.steps))][::-1]
    for step, tokens in enumerate(backwards):
        assert (Batches(root, manifest, plan, 4 * SEQ_LEN).batch(step).tokens_BL == tokens).all()


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_batches_that_are_read_ahead_are_those_of_their_steps(shards, depth):
    root, manifest, plan = shards
    batches = Batches(root, manifest, plan, batch_tokens=4 * SEQ_LEN)
    found = list(batches.ahead(2, depth=depth))
    assert len(found) == batches.steps - 2
    for step, batch in enumerate(found, 2):
        assert (batch.tokens_BL == batches.batch(step).tokens_BL).all() and (batch.targets_BL == batches.batch(step).targets_BL).all()
    before = threading.active_count()
    unfinished = batches.ahead(0, depth=depth)
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before


@given(COUNTS, st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_window_is_said_to_be_needed_when_it_is_read_and_hardly_longer(counts, size, seed, first):
    """Oracle: the windows that the steps read. Their order is that in which they begin to be needed."""
    counts = (*counts, -sum(counts) % size)  # a whole number of batches
    streams = {str(i): [window(str(i), w, 1 + (7 * w + i) % 23) for w in range(12)] for i in range(len(counts))}
    places = [Places(manifest_of(streams), Plan(seed, (stage("s", 0, [(name, n, 1) for name, n in zip(streams, counts, strict=True)]),)), 0)]
    batches = Batches.__new__(Batches)
    batches.places, batches.batch_samples, batches.stage_ends = places, [size], [sum(counts) // size]
    batches.shards = SimpleNamespace(windows={one.file: one for windows in streams.values() for one in windows})
    needs = list(batches.needs(first))
    assert [need.first for need in needs] == sorted(need.first for need in needs) and all(need.last >= first for need in needs)
    read = defaultdict(set)
    for step in range(first, batches.steps):
        for position in range(step * size, (step + 1) * size):
            read[step].add(batches.sample(0, position)[0])
    for step, files in read.items():
        assert files <= {need.window.file for need in needs if need.first <= step <= need.last}
    wider = sum(need.last - need.first + 1 for need in batches.needs(0)) - sum(len({batches.sample(0, p)[0] for p in range(s * size, s * size + size)}) for s in range(batches.steps))
    assert wider <= len(list(batches.needs(0))) * (2 + 4 * (BLOCK + 2 * len(counts)) / size)


def window(stream: str, number: int, samples: int) -> Window:
    return Window(number, f"{stream}/{number}", samples, samples, 10, "")


def manifest_of(streams: dict[str, list[Window]]) -> SimpleNamespace:
    """As much of one as a walk reads."""
    return SimpleNamespace(
        stream=lambda name: SimpleNamespace(windows=len(streams[name])), folder=lambda name, seq_len: SimpleNamespace(windows=streams[name])
    )


def test_segments_positions_and_documents_are_those_of_the_samples(shards):
    root, manifest, plan = shards
    batches = Batches(root, manifest, plan, batch_tokens=4 * SEQ_LEN)
    batch = batches.batch(0)
    for row in range(4):
        sample = batches.shards.sample(*batches.sample(0, row))
        starts = [*sample["starts"].tolist(), SEQ_LEN]
        assert batch.tokens_BL[row].tolist() == sample["tokens"].tolist()
        assert batch.packing.positions_BL[row].tolist() == [i for a, b in zip(starts, starts[1:], strict=False) for i in range(b - a)]
        lengths = np.diff(starts)
        assert batch.docs_S[batch.packing.segments_BL[row]].tolist() == np.repeat(sample["docs"], lengths).tolist()
    assert batch.packing.segments_BL.unique().tolist() == list(range(8))


@pytest.mark.parametrize(("batch_tokens", "message"), [(4 * SEQ_LEN + 1, "multiple of seq_len"), (128 * SEQ_LEN, "64 samples must be a multiple")])
def test_batches_that_do_not_fit_the_plan_are_refused(shards, batch_tokens, message):
    with pytest.raises(ValueError, match=message):
        Batches(*shards, batch_tokens)


def test_a_window_that_was_not_written_is_named(shards):
    root, manifest, _ = shards
    with pytest.raises(KeyError, match="sequence length 16"):
        Batches(root, manifest, Plan(0, (stage("s", 0, [("a", 4, 0)], seq_len=16),)), 64)
    folders = tuple(f if f.stream != "a" else type(f)("a", SEQ_LEN, f.windows[:1]) for f in manifest.folders)
    with pytest.raises(ValueError, match="window 1 of stream a at sequence length 8"):
        Walk(type(manifest)(**{**vars(manifest), "folders": folders}), Draw("a", 31, 0), SEQ_LEN)


def test_missing_short_and_changed_files_are_named(shards):
    root, manifest, _ = shards
    path = root / "b/8/window-00001.mds"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=f"has {len(data) - 1} bytes, the manifest says {len(data)}"):
        Shards(root, manifest)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"window-00001\.mds is missing"):
        Shards(root, manifest)


def flip(path, at: int) -> None:
    """Another byte, the same size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_window_that_was_changed_with_its_size_kept_is_not_read(shards):
    root, manifest, plan = shards
    window = manifest.folder("b", SEQ_LEN).windows[1]
    flip(root / window.file, -1)
    batches = Batches(root, manifest, plan, 4 * SEQ_LEN)  # its size is right
    said = rf"b/8/window-00001\.mds was changed: expected window 1 with the manifest's SHA-256 {window.sha256}, found [0-9a-f]{{64}}: .*`flows run shard`"
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            for step in range(batches.steps):
                batches.batch(step)
    flip(root / manifest.heldout[0].file, -1)
    with pytest.raises(ValueError, match=r"heldout/window-00000\.mds was changed"):
        list(batches.shards.heldout())


def test_a_window_is_read_for_its_hash_once(shards, monkeypatch):
    root, manifest, plan = shards
    hashed, compute = [], reader.file_sha256
    monkeypatch.setattr(reader, "file_sha256", lambda path: hashed.append(path) or compute(path))
    batches = Batches(root, manifest, plan, 4 * SEQ_LEN)
    assert hashed == []
    for step in [*range(batches.steps), *range(batches.steps)]:
        batches.batch(step)
    assert len(hashed) == len(set(hashed)) > 1


def test_heldout_documents_are_read_back(shards):
    root, manifest, _ = shards
    first, second = Shards(root, manifest).heldout()
    assert (first["domain"], first["doc"], first["n_bytes"], first["tokens"].tolist()) == ("code", 5, 9, list(range(300)))
    assert (second["domain"], second["doc"], second["tokens"].tolist()) == ("docs é", -5, [0, 0])


def test_an_index_outside_the_shard_is_an_error(shards):
    with pytest.raises(IndexError, match="sample 30 of a shard with 30"):
        Shard(shards[0] / "a/8/window-00000.mds")[30]


@pytest.mark.parametrize("width", [np.uint16, np.uint32])
def test_shards_are_those_that_streaming_writes_and_reads(tmp_path, width):
    """Our reader on MDSWriter's file, StreamingDataset on it too, and the tests' own writer byte for byte."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from streaming import MDSWriter, StreamingDataset

    random = np.random.default_rng(0)
    columns = {**sample_columns(64), **HELDOUT, "tokens": f"ndarray:{width.__name__}:64", "text": "ndarray:uint16"}
    samples = [
        {"docs": random.integers(-(2**63), 2**63, n), "starts": np.arange(n, dtype=np.uint32), "tokens": random.integers(0, 9, 64).astype(width),
         "doc": int(n), "domain": "é" * n, "n_bytes": 2**40 + n, "text": random.integers(0, 9, 250 * n).astype(np.uint16)}
        for n in range(1, 30)
    ]
    with MDSWriter(out=str(tmp_path), columns=columns, size_limit=None) as writer:
        for sample in samples:
            writer.write(sample)
    (path,) = tmp_path.glob("*.mds")
    theirs = StreamingDataset(local=str(tmp_path), shuffle=False, batch_size=1)
    for ours, read, written in zip(Shard(path), theirs, samples, strict=True):
        for name in columns:
            np.testing.assert_array_equal(ours[name], written[name])
            np.testing.assert_array_equal(read[name], written[name])
    assert mds(columns, samples)[0][-1000:] == path.read_bytes()[-1000:]  # the JSON head's order of keys differs


def test_streaming_reads_a_folder_of_ours(shards):
    from streaming import StreamingDataset

    root, manifest, _ = shards
    theirs = StreamingDataset(local=str(root / "a/8"), shuffle=False, batch_size=1)
    ours = [sample for window in manifest.folder("a", SEQ_LEN).windows for sample in Shard(root / window.file)]
    assert len(ours) == len(theirs) == 70
    for mine, read in zip(ours, theirs, strict=True):
        assert all((mine[name] == read[name]).all() for name in sample_columns(SEQ_LEN))
