"""sequences: seeded order, windows and packing, against naive Python."""

import hashlib
import struct
from collections import Counter, defaultdict

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.shards import sequences
from pipelines.shards.sequences import HELDOUT, assign_windows, pack, shuffle_samples, stream_sizes, window_samples
from pipelines.shards.tokens import doc_key

TOKENS = "doc_id string, doc_key bigint, stream string, n_tokens bigint"
LENGTHS = st.lists(st.integers(1, 70) | st.integers(1, 9), min_size=1, max_size=60)


def documents(count: int = 400) -> list[tuple]:
    rows = []
    for i in range(count):
        doc_id = hashlib.blake2b(b"%d" % i, digest_size=16).hexdigest()
        n_tokens = 3000 if i % 97 == 5 else 0 if i % 101 == 7 else i * i % 211 + 1
        rows.append((doc_id, doc_key(doc_id), ("a.all", "b.low", HELDOUT)[min(i % 7, 2)], n_tokens))
    return rows


def naive_order(seed: int, stream: str, doc_id: str) -> tuple:
    """Spark's xxhash64 chains: the hash of the seed as a 64-bit number is the hash seed of the doc_id."""
    if stream == HELDOUT:
        return (0, doc_id)
    hashed = xxhash.xxh64_intdigest(doc_id.encode(), seed=xxhash.xxh64_intdigest(struct.pack("<q", seed), seed=42))
    return (struct.unpack("<q", struct.pack("<Q", hashed))[0], doc_id)


def naive_windows(rows: list[tuple], seed: int, window_tokens: int) -> set[tuple]:
    offsets, windows = defaultdict(int), set()
    for doc_id, key, stream, n_tokens in sorted(rows, key=lambda row: naive_order(seed, row[2], row[0])):
        if n_tokens:
            windows.add((doc_id, key, stream, offsets[stream] // window_tokens, offsets[stream], n_tokens))
            offsets[stream] += min(n_tokens + 2, window_tokens)
    return windows


@pytest.mark.parametrize(("seed", "partitions", "bits"), [(17, 1, 12), (2**31 - 1, 7, 1)])
def test_windows_are_those_of_one_long_walk(spark, monkeypatch, seed, partitions, bits):
    monkeypatch.setattr(sequences, "BUCKET_BITS", bits)
    tokens = spark.createDataFrame(documents(), TOKENS).repartition(partitions)
    assigned = assign_windows(tokens, seed, 1024)
    assert assigned.columns == ["doc_id", "doc_key", "stream", "window", "position", "n_tokens"]
    rows = {tuple(row) for row in assigned.collect()}
    assert rows == naive_windows(documents(), seed, 1024)
    for stream in ("a.all", "b.low", HELDOUT):
        numbers = {row[3] for row in rows if row[2] == stream}
        assert numbers == set(range(len(numbers))), "windows have no gaps, though documents are longer than a window"


def test_what_windows_give_is_counted_from_lengths(spark):
    tokens = spark.createDataFrame(documents(), TOKENS)
    found = {tuple(row) for row in window_samples(assign_windows(tokens, 17, 1024), [16, 256]).collect()}
    expected = set()
    windows = defaultdict(list)
    for _, _, stream, window, _, n_tokens in naive_windows(documents(), 17, 1024):
        windows[stream, window].append(n_tokens + 2)
    for (stream, window), lengths in windows.items():
        for seq_len in (16, 256) if stream != HELDOUT else ():
            expected.add((stream, seq_len, window, len(lengths), pack(np.array(lengths), seq_len).samples, sum(lengths)))
    assert found == expected
    sizes = Counter()
    for stream, seq_len, _, count, _, tokens_of_window in expected:
        sizes[stream, "documents"] += count * (seq_len == 16)
        sizes[stream, "tokens"] += tokens_of_window * (seq_len == 16)
    for row in stream_sizes(tokens).collect():
        assert (row.documents, row.tokens) == (sizes.pop((row.stream, "documents")), sizes.pop((row.stream, "tokens")))
    assert not sizes


def naive_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """The bin of each size; bins are tried one by one, the fullest that fits wins, of equals the one changed last."""
    room, changed, chosen = [], [], []
    for time, size in enumerate(sizes):
        fitting = [b for b in range(len(room)) if room[b] >= size]
        best = min(fitting, key=lambda b: (room[b], -changed[b]), default=len(room))
        if best == len(room):
            room.append(capacity)
            changed.append(time)
        room[best] -= size
        changed[best] = time
        chosen.append(best)
    return chosen


@settings(max_examples=300, deadline=None)
@given(lengths=LENGTHS, seq_len=st.sampled_from([1, 2, 7, 8, 16, 31, 64]))
@example(lengths=[64, 64, 128, 1], seq_len=64)
def test_packing_holds_every_token_once_and_cuts_only_what_must_be_cut(lengths, seq_len):
    packing = pack(np.array(lengths), seq_len)
    segments = list(zip(packing.doc, packing.doc_start, packing.sample, packing.start, packing.n_tokens, strict=True))
    tokens = Counter((doc, doc_start + i) for doc, doc_start, _, _, n in segments for i in range(n))
    assert tokens == Counter((doc, token) for doc, length in enumerate(lengths) for token in range(length))
    places = Counter((sample, start + i) for _, _, sample, start, n in segments for i in range(n))
    assert max(places.values()) == 1 and max(place for _, place in places) < seq_len
    pieces = Counter(packing.doc.tolist())
    assert all(pieces[doc] == -(-length // seq_len) for doc, length in enumerate(lengths)), "as few pieces as possible"
    assert set(packing.sample.tolist()) == set(range(packing.samples))
    keys = list(zip(packing.sample, packing.slot, packing.start, strict=True))
    assert keys == sorted(keys) and len({key[:2] for key in keys}) == len(keys)
    filled = Counter(sample for sample, _ in places)
    room = sorted(seq_len - filled[sample] for sample in range(packing.samples))
    assert sum(1 for left in room if 2 * left >= seq_len) <= 1, "two samples that are half empty would have been one"


@settings(max_examples=300, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=80), capacity=st.integers(40, 70), decreasing=st.booleans())
def test_best_fit_is_the_naive_one(sizes, capacity, decreasing):
    sizes = sorted(sizes, reverse=True) if decreasing else sizes
    bins, starts, count = sequences.best_fit(np.array(sizes), capacity)
    assert bins.tolist() == naive_best_fit(sizes, capacity)
    used = defaultdict(int)
    for bin_, start, size in zip(bins.tolist(), starts.tolist(), sizes, strict=True):
        assert start == used[bin_], "bins are filled from the left"
        used[bin_] += size
    assert count == len(used)


@pytest.mark.parametrize("seq_len", [256, 2048, 16384])
def test_real_lengths_pack_almost_without_padding(seq_len):
    lengths = np.random.RandomState(0).lognormal(6.3, 1.3, 1500).astype(np.int64) + 3
    assert pack(lengths, seq_len).samples <= -(-lengths.sum() // seq_len) + 3


def test_shuffling_moves_whole_samples_and_depends_on_every_part_of_its_key():
    packing = pack(np.random.RandomState(1).randint(1, 300, 500), 128)
    keys = [(1, "a", 128, 0), (2, "a", 128, 0), (1, "b", 128, 0), (1, "a", 64, 0), (1, "a", 128, 1)]
    moved = [shuffle_samples(packing, *key) for key in keys]
    contents = {content(one) for one in [packing, *moved]}
    assert len(contents) == 6, "every key its own order"
    assert {tuple(sorted(one)) for one in contents} == {tuple(sorted(content(packing)))}, "the same samples in each"
    assert content(shuffle_samples(packing, *keys[0])) == content(moved[0])
    assert shuffle_samples(pack(np.full(6, 8), 8), 17, "a.all", 8, 3).doc.tolist() == FROZEN


FROZEN = [1, 2, 4, 5, 0, 3]  # what every machine must give


def content(packing) -> tuple:
    """For each sample, in order, its segments."""
    inside = defaultdict(list)
    for sample, *segment in zip(packing.sample, packing.slot, packing.start, packing.doc, packing.doc_start, packing.n_tokens, strict=True):
        inside[int(sample)].append(tuple(map(int, segment)))
    return tuple(tuple(inside[sample]) for sample in range(packing.samples))
