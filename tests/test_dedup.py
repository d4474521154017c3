"""Pairs and clusters against brute force; increments against runs over everything; one worker against many shuffles."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from pipelines import assets, capacity
from pipelines.dedup import buckets, clusters, deal, dedup, keepers, stars
from pipelines.dedup.verify import shingle_sets
from pipelines.signals.context import Context
from pipelines.signals.measure import measure
from schemas import tables
from schemas.parts import NearDuplicates

WORDS = [f"word{i}" for i in range(400)]
NEAR = NearDuplicates(bands=28, rows=4)  # so many candidates that none is missed: verification decides


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(a: str, b: str) -> float:
    x, y = shingles(a), shingles(b)
    return len(x & y) / len(x | y)


def components(nodes: list[str], edges: list[tuple[str, str]]) -> dict[str, str]:
    """Union-find; the smallest node names the component."""
    parent = {node: node for node in nodes}

    def root(node: str) -> str:
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in nodes}


def planted() -> dict[str, str]:
    """Texts by id: families of edited copies with similarities all over the scale, and exact copies in other case and spacing."""
    chance = random.Random(11)
    texts = []
    for _ in range(12):
        base = [chance.choice(WORDS) for _ in range(150)]
        texts.append(" ".join(base))
        for edits in (0, 1, 1, 2, 2, 3, 4, 8, 20):
            copy = list(base)
            for place in chance.sample(range(150), edits):
                copy[place] = chance.choice(WORDS)
            texts.append(("\n".join(copy)).upper() if edits == 0 else " ".join(copy))
    texts += ["short text", "Short  TEXT", "another short one"]
    return {f"{i:032x}": text for i, text in enumerate(chance.sample(texts, len(texts)))}


# ---- windows: supports, and what new nodes change ----


def naive_supports(keys: np.ndarray, neighbours: int) -> dict[tuple[int, int], int]:
    supports = Counter()
    for band in keys.T:
        by_key = defaultdict(list)
        for node, key in enumerate(band):
            by_key[key].append(node)
        supports.update(pair for members in by_key.values() for pair in combinations(members, 2) if close(members, pair, neighbours))
    return dict(supports)


def close(members: list[int], pair: tuple[int, int], neighbours: int) -> bool:
    return members.index(pair[1]) - members.index(pair[0]) <= neighbours


def changes(keys: np.ndarray, new: np.ndarray) -> dict[tuple[int, int], int]:
    same = np.zeros((len(keys), 1), np.uint32)  # every pair may be alike
    return {(int(a), int(b)): int(c) for a, b, c in zip(*buckets.window_changes(keys, new, same, 0.0), strict=True)}


BUCKETS = st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 5))


@settings(max_examples=200, deadline=None)
@given(BUCKETS)
def test_supports_are_those_of_a_naive_loop(drawn):
    n, bands, n_keys, seed, _ = drawn
    keys = np.random.default_rng(seed).integers(0, n_keys, (n, bands))
    assert changes(keys, np.ones(n, bool)) == naive_supports(keys, buckets.NEIGHBOURS)


@settings(max_examples=200, deadline=None)
@given(BUCKETS)
def test_increments_in_any_split_and_order_are_the_run_over_everything(drawn):
    n, bands, n_keys, seed, deliveries = drawn
    chance = np.random.default_rng(seed)
    keys, delivery = chance.integers(0, n_keys, (n, bands)), chance.integers(0, deliveries, n)
    supports = Counter()
    for now in range(deliveries):
        there = np.flatnonzero(delivery <= now)
        for (a, b), change in changes(keys[there], delivery[there] == now).items():
            supports[int(there[a]), int(there[b])] += change
    assert all(support >= 0 for support in supports.values())
    assert +supports == Counter(naive_supports(keys, buckets.NEIGHBOURS))


def test_pairs_of_unlike_signatures_are_left_out_but_never_what_old_pairs_lose():
    keys, new = np.zeros((40, 1), np.int64), np.arange(40) % 2 == 0
    unlike = np.arange(40, dtype=np.uint32)[:, None]
    changed = {(int(a), int(b)): int(c) for a, b, c in zip(*buckets.window_changes(keys, new, unlike, 0.5), strict=True)}
    assert changed and set(changed.values()) == {-1}
    assert changed == {pair: change for pair, change in changes(keys, new).items() if change < 0}


def test_no_rows_change_nothing():
    assert changes(np.zeros((0, 3), np.int64), np.zeros(0, bool)) == {}


@pytest.mark.parametrize("split", [0.0, 0.3, 1.0])
def test_spark_finds_in_parts_the_changes_that_are_found_whole(spark, split, monkeypatch):
    monkeypatch.setitem(capacity.LIMITS, "keys", 50)
    chance = np.random.default_rng(7)
    keys, new = chance.integers(0, 5, (90, 2)) + [0, 5], chance.random(90) >= split  # bands have keys of their own
    rows = [(f"{i:032d}", i // 3, keys[i].tolist(), bool(new[i])) for i in range(90)]
    nodes = spark.createDataFrame(rows, "text_hash string, n_shingles int, band_keys array<bigint>, new boolean")
    found = {(int(row.a), int(row.b)): row.change for row in dedup.window_changes(nodes).collect()}
    assert found == changes(keys, new)


@settings(max_examples=60, deadline=None)
@given(BUCKETS, st.integers(1, 7))
def test_keys_dealt_as_records_give_the_changes_of_all_whatever_copies_are_among_them(drawn, parts):
    n, bands, n_keys, seed, _ = drawn
    chance = np.random.default_rng(seed)
    keys, new = chance.integers(0, n_keys, (n, bands)) + n_keys * np.arange(bands), chance.random(n) < 0.6
    names = sorted(chance.bytes(16).hex() for _ in range(n))
    n_shingles = np.sort(chance.integers(1, 4, n))
    names = [name for count in range(1, 4) for name in sorted(name for name, mine in zip(names, n_shingles, strict=True) if mine == count)]
    rows = np.append(np.arange(n), chance.integers(0, n, n // 2))
    table = pa.table({"text_hash": [names[i] for i in rows], "n_shingles": pa.array(n_shingles[rows], pa.int32()), "new": new[rows], "band_keys": keys[rows].tolist()})
    dealt = pa.Table.from_batches(deal.deal(table.to_batches(max_chunksize=7), parts))
    assert len(dealt) <= parts
    got = Counter()
    for part in range(parts):
        mine = dealt.filter(pc.equal(dealt.column("part"), part)).to_batches(max_chunksize=1)
        for row in (row for batch in deal.changes_of_part(mine) for row in batch.to_pylist()):
            assert row["a"] < row["b"]
            got[tuple(sorted((names.index(row["a"]), names.index(row["b"]))))] += row["change"]
    assert {pair: change for pair, change in got.items() if change} == {pair: change for pair, change in changes(keys, new).items() if change}


def test_names_of_texts_as_numbers_and_back():
    names = sorted(random.Random(1).randbytes(16).hex() for _ in range(50))
    high, low = deal.hash_numbers(pa.array(["f" * 32, *names]).slice(1))
    assert deal.hash_texts(high, low).to_pylist() == names and [h << 64 | x for h, x in zip(high.tolist(), low.tolist(), strict=True)] == [int(name, 16) for name in names]


def test_marked_rows_are_all_found_and_few_others():
    chance = np.random.default_rng(1)
    keys = chance.integers(-(1 << 63), (1 << 63) - 1, 20_000)
    (part,) = buckets.select_marked([pa.record_batch([pa.array(keys)], names=["key"])], buckets.mark(keys[:2000]))
    left = set(part.column("key").to_pylist())
    assert set(keys[:2000].tolist()) <= left and len(left) < 2000 + 18_000 / 12


# ---- pairs and clusters ----


def measured(documents, near: NearDuplicates):
    context = Context(assets.LANGUAGE_MODEL.read_bytes(), {}, near.ngram, near.bands, near.rows, 1)
    return measure(documents, context)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return planted()


@pytest.fixture(scope="module")
def documents(spark, texts):
    rows = [(i, "b" if int(i, 16) % 3 == 0 else "a", str(int(i, 16) % 2), "docs", {}, text) for i, text in texts.items()]
    columns = "doc_id string, source string, snapshot string, domain string, facts map<string,string>, text string"
    return spark.createDataFrame(rows, columns).localCheckpoint()


@pytest.fixture(scope="module")
def signals(documents):
    score = F.when(F.conv(F.substring("doc_id", -1, 1), 16, 10).cast("int") % 4 > 0, F.col("n_chars") % 3 / 4)
    return measured(documents, NEAR).withColumn("quality", score).localCheckpoint()


@pytest.fixture(scope="module")
def files(documents, tmp_path_factory) -> list[str]:
    """The texts, as the table's files hold them."""
    folder = tmp_path_factory.mktemp("texts")
    documents.repartition(3).write.parquet(str(folder / "documents"))
    return sorted(map(str, folder.glob("documents/*.parquet")))


def fingerprints(signals, new: str = "true") -> pa.Table:
    return signals.where("n_shingles > 0").selectExpr("doc_id", "text_hash", *dedup.FINGERPRINT, f"{new} as new").toArrow()


@pytest.fixture(scope="module")
def found(spark, signals, files) -> pa.Table:
    return dedup.pairs_here(fingerprints(signals), None, files, spark, NEAR)


def in_order(rows):
    table = rows if isinstance(rows, pa.Table) else rows.toArrow()
    return sorted(tuple(row.values()) for row in table.to_pylist())


def clustered(signals, pairs: pa.Table, files: list[str], priority: dict, recency: dict) -> pa.Table:
    grouped = clusters.group(clusters.members(signals.select(*dedup.MEMBERS).toArrow(), priority, recency), pairs)
    return clusters.clusters(grouped, keepers.keep_here(clusters.undecided(grouped), files, no_spark, NEAR))


def no_spark():
    raise AssertionError("expected few texts to be read in this process")


def first_independent_set(order: list[str], near, known=lambda a, b: False) -> dict[str, str]:
    """For each member, in the order of preference, the one that it is dropped for; itself where it is kept."""
    kept, keeper = [], {}
    for one in order:
        of_pairs = [other for other in kept if known(other, one)]
        keeper[one] = next((other for other in of_pairs or kept if near(other, one)), one)
        kept += [one] * (keeper[one] == one)
    return keeper


def lacking(pairs: pa.Table) -> pa.Table:
    """Without every other pair, as if no bucket had proposed it."""
    return pairs.sort_by([("a", "ascending"), ("b", "ascending")]).take(pa.array(range(0, len(pairs), 2)))


@pytest.mark.parametrize("proposed", ["all", "some"])
def test_pairs_and_clusters_are_those_of_brute_force_and_of_near_copies_the_preferred_is_kept(texts, signals, files, found, proposed):
    hashes = {row.doc_id: row.text_hash for row in signals.collect()}
    alike = [(a, b) for a, b in combinations(sorted(texts), 2) if jaccard(texts[a], texts[b]) >= NEAR.threshold]
    pairs = {(row["a"], row["b"]) for row in found.to_pylist()}
    assert pairs == {tuple(sorted((hashes[a], hashes[b]))) for a, b in alike if hashes[a] != hashes[b]}

    facts = {row.doc_id: row for row in signals.collect()}
    recency = {("a", "0"): 1, ("a", "1"): 2, ("b", "0"): 4, ("b", "1"): 3}
    found = found if proposed == "all" else lacking(found)
    pairs = {(row["a"], row["b"]) for row in found.to_pylist()}
    rows = {row["doc_id"]: row for row in clustered(signals, found, files, {"a": 0, "b": 1}, recency).to_pylist()}

    def known(a: str, b: str) -> bool:
        return hashes[a] == hashes[b] or tuple(sorted((hashes[a], hashes[b]))) in pairs

    component = components(sorted(texts), [(a, b) for a, b in combinations(sorted(texts), 2) if known(a, b)])
    order, close = sorted(texts, key=lambda i: preference(facts[i], recency)), set(alike)
    near = lambda a, b: component[a] == component[b] and tuple(sorted((a, b))) in close  # noqa: E731
    keeper = first_independent_set(order, near, known)
    copies = {hashes[i]: keeper[i] for i in reversed(order)}  # copies of one text go together
    keeper = {i: copies[hashes[i]] for i in order}
    assert len(set(keeper.values())) < len(texts) - 20 and len(set(component.values())) < len(set(keeper.values()))
    for doc_id, row in rows.items():
        cluster = [i for i in order if keeper[i] == keeper[doc_id]]
        assert (row["keeper"], row["cluster_id"], row["component"]) == (keeper[doc_id], min(cluster), component[doc_id])
        assert (row["size"], row["rank"]) == (len(cluster), cluster.index(doc_id) + 1)
        assert row["exact"] == (hashes[doc_id] == hashes[keeper[doc_id]])
    assert len(rows) == len(texts)


def preference(fact, recency) -> tuple:
    quality = -1.0 if fact.quality is None else fact.quality
    return fact.source != "b", -quality, -recency[fact.source, fact.snapshot], fact.doc_id


def test_increments_give_the_pairs_of_a_run_over_everything(spark, signals, files, found):
    known = None
    for upto in range(3):
        number = "pmod(xxhash64(doc_id), 3)"
        rows = fingerprints(signals.where(f"{number} <= {upto}"), f"{number} = {upto}")
        known = dedup.pairs_here(rows, known, files, spark, NEAR)
    assert in_order(known) == in_order(found)
    assert in_order(dedup.pairs_here(fingerprints(signals, "false"), known, files, spark, NEAR)) == in_order(found)  # nothing new changes nothing
    assert len(dedup.pairs_here(rows.slice(0, 0), None, files, spark, NEAR)) == 0


def test_an_increment_concerns_what_shares_a_bands_key_with_a_new_text(signals):
    rows = fingerprints(signals, f"doc_id = '{5:032x}'")
    new = {key for row in rows.to_pylist() if row["new"] for key in row["band_keys"]}
    expected = {row["doc_id"] for row in rows.to_pylist() if new & set(row["band_keys"])}
    marked = buckets.mark_keys(rows.filter(pc.field("new")).to_batches())
    parts = [buckets.select_touched(part, marked) for part in rows.to_batches(max_chunksize=20)]
    assert {i for part in parts for i in part.column("doc_id").to_pylist()} == expected and 1 < len(expected) < len(rows) / 2


@pytest.mark.parametrize("touched_fits", [True, pytest.param(False, marks=pytest.mark.servers)])
def test_what_does_not_fit_into_one_process_gives_the_same_rows(spark, signals, documents, files, found, monkeypatch, touched_fits):
    monkeypatch.setitem(capacity.LIMITS, "pairs", 0)  # nor do components
    monkeypatch.setitem(capacity.LIMITS, "keys", 400)  # several parts
    monkeypatch.setitem(capacity.LIMITS, "documents", 20)
    monkeypatch.setitem(capacity.LIMITS, "fingerprints", 400_000 if touched_fits else 0)
    half = "pmod(xxhash64(doc_id), 2) = 0"
    of_some, pairs = signals.where(half).select("text_hash").localCheckpoint(), spark.createDataFrame(found)
    old = pairs.join(of_some, pairs.a == of_some.text_hash, how="left_semi").join(of_some, pairs.b == of_some.text_hash, how="left_semi")
    assert in_order(dedup.pairs(signals, documents, NEAR, (old, half))) == in_order(found)
    if not touched_fits:
        assert in_order(dedup.pairs(signals, documents, NEAR)) == in_order(found)
        some, columns = lacking(found), list(tables.CLUSTERS.column_names)
        in_parts = dedup.group_clusters(signals, spark.createDataFrame(some), documents, NEAR, {})
        assert in_order(in_parts) == in_order(clustered(signals, some, files, {}, {}).select(columns))


def test_copies_go_by_their_text_no_quality_is_the_worst_and_a_text_that_is_no_longer_there_connects():
    members = {"doc_id": ["1", "2", "3", "4"], "text_hash": ["x", "z", "z", "w"], "n_shingles": [9] * 4, "priority": [0] * 4, "recency": [1, 1, 0, 0]}
    members = pa.table(members | {"quality": pa.array([None, 0.0, 0.0, None], pa.float64())})
    grouped = clusters.group(members, pa.table({"a": ["x", "y"], "b": ["y", "z"]}))
    asked = clusters.undecided(grouped)
    assert [tuple(row.values()) for row in asked.to_pylist()] == [("z", 0, "2", "z", 9, []), ("z", 1, "1", "x", 9, [])]
    for near in (True, False):
        table = clusters.clusters(grouped, pa.table({"text_hash": ["z", "x"], "keeper": ["z", "z" if near else "x"]}))
        rows = [tuple(row.values()) for row in table.to_pylist()]
        first = ("1", "1", "1", 3, 3, "2", False) if near else ("1", "1", "1", 1, 1, "1", True)
        least, size = ("1", 3) if near else ("2", 2)
        assert sorted(rows) == [first, ("2", least, "1", size, 1, "2", True), ("3", least, "1", size, 2, "2", True), ("4", "4", "4", 1, 1, "4", True)]
    none = clusters.group(members.slice(0, 0), pa.table({"a": ["x"], "b": ["y"]}))
    assert len(clusters.undecided(none)) == len(clusters.clusters(none, clusters.KEPT.empty_table())) == 0


# ---- keepers ----


def sets_of_components(texts: list[str], component: np.ndarray, known: list[list[int]], ngram: int) -> pa.Table:
    shingles = shingle_sets(pa.array(texts, pa.large_string()), ngram).cast(pa.large_binary())
    names = [f"{number:03}" for number in component]
    return pa.table([names, range(len(texts)), list(map(str, range(len(texts)))), known, shingles], schema=keepers.SETS)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.95, 1.0]), st.sampled_from([1, 60, 10**9]))
def test_what_is_kept_is_the_first_independent_set_of_the_whole_graph_however_little_is_held(seed, n, threshold, at_a_time):
    chance = np.random.default_rng(seed)
    base = chance.integers(0, 50, 40)
    texts = []
    for _ in range(n):
        words = np.where(chance.random(40) < chance.choice([0.0, 0.05, 0.2]), chance.integers(50, 60, 40), base)
        texts.append(" ".join(f"w{word}" for word in words[: chance.integers(20, 41)]))
    component = np.sort(chance.integers(0, 3, n))
    sets = [shingles(text, 2) for text in texts]
    near = lambda a, b: component[a] == component[b] and len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold  # noqa: E731
    known = [[a for a in range(b) if near(a, b) and chance.random() < 0.3] for b in range(n)]
    expected = first_independent_set(range(n), near, lambda a, b: a in known[b])
    starts = np.searchsorted(component, component)
    rows = sets_of_components(texts, component, [[int(a - starts[b]) for a in known[b]] for b in range(n)], 2)
    rows = rows.set_column(1, "place", pa.array(np.arange(n) - starts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keepers, "AT_A_TIME", at_a_time)
        kept = pa.Table.from_batches(keepers.keep([rows.slice(i, 3) for i in range(0, n, 3)], threshold))
    assert {int(row["text_hash"]): int(row["keeper"]) for row in kept.to_pylist()} == expected


def test_of_windows_that_run_along_a_text_enough_are_kept_that_each_is_near_one():
    words = [f"word{i}" for i in range(60 * 7 + 200)]
    texts = [" ".join(words[7 * i : 7 * i + 200]) for i in random.Random(5).sample(range(60), 60)]
    rows = sets_of_components(texts, np.zeros(60, int), [[] for _ in texts], 5)
    keeper = keepers.choose(rows, 0, 0.8)
    assert keeper.tolist() == list(first_independent_set(range(60), lambda a, b: jaccard(texts[a], texts[b]) >= 0.8).values())
    left = set().union(*(shingles(texts[i]) for i in set(keeper.tolist())))
    assert 60 / 7 <= len(set(keeper.tolist())) <= 60 / 4 and len(left) > 0.93 * (len(words) - 4)  # of windows 3 apart Jaccard is 175 / 217, 4 apart .75


def test_pages_of_one_template_that_are_no_near_copies_are_all_kept():
    chance = np.random.default_rng(1)
    template = " ".join(f"w{i}" for i in range(200))
    texts = [template + " " + " ".join(f"v{i}" for i in chance.integers(0, 10**6, 40)) for _ in range(300)]  # Jaccard .69
    assert keepers.choose(sets_of_components(texts, np.zeros(300, int), [[] for _ in texts], 5), 0, 0.8).tolist() == list(range(300))


def test_texts_of_whole_components_are_dealt_to_tasks_of_spark(spark, signals, files, found, monkeypatch):
    grouped = clusters.group(clusters.members(signals.select(*dedup.MEMBERS).toArrow(), {}, {}), lacking(found))
    asked = clusters.undecided(grouped)
    here = keepers.keep_here(asked, files, no_spark, NEAR)
    monkeypatch.setattr(keepers, "BLOCK", 500)
    tasks = keepers.task_of_each(asked, 4)
    assert 1 < len(set(tasks.tolist())) <= 4 and len(set(zip(tasks, asked.column("component").to_pylist(), strict=True))) == len(asked.column("component").unique())
    assert in_order(keepers.keep_here(asked, files, lambda: spark, NEAR)) == in_order(here) and len(here) == len(asked) > 10


# ---- components ----


@pytest.mark.parametrize("way", ["in one process", "by alternating stars"])
def test_components_of_chains_stars_and_random_graphs_are_those_of_union_find(spark, way):
    chance = random.Random(3)
    chain = [(f"c{i:03}", f"c{i + 1:03}") for i in range(60)]
    star = [("s000", f"s{i:03}") for i in range(1, 40)]
    # Two local minima that share a larger neighbour: a contraction that groups by the smaller end never joins them.
    wedge = [("w1", "w9"), ("w2", "w9")]
    loose = [tuple(sorted(chance.sample([f"r{i:03}" for i in range(80)], 2))) for _ in range(60)]
    edges = sorted(set(chain + star + wedge + loose))
    method = stars.connected_components if way == "in one process" else stars.alternating_stars
    rows = method(spark.createDataFrame(edges, "a string, b string")).collect()
    assert len(rows) == len({end for edge in edges for end in edge})
    assert {row.text_hash: row.component for row in rows} == components(sorted({end for edge in edges for end in edge}), edges)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 5))
def test_stars_of_whole_partitions_end_in_those_of_union_find(seed, n, partitions):
    """As Spark deals the edges, without it."""
    chance = random.Random(seed)
    names = [f"n{i:02}" for i in range(n + 1)]
    edges = {tuple(sorted(chance.sample(names, 2))) for _ in range(n)}
    expected = components(names, sorted(edges))

    def step(edges, work):
        dealt = [[edge for edge in edges if hash(edge[0]) % partitions == part] for part in range(partitions)]
        made = [work(pa.table({"a": [a for a, _ in some], "b": [b for _, b in some]})) for some in dealt if some]
        return [(row["a"], row["b"]) for table in made for row in table.to_pylist()]

    rows, before = step([(b, a) for a, b in edges], stars.spanning_stars), None
    while sorted(rows) != before:
        before = sorted(rows)
        assert len(set(rows)) <= len(edges)
        rows = step(step([*rows, *((b, a) for a, b in rows)], stars.larger_to_smallest), stars.spanning_stars)
    assert dict(rows) == {a: b for a, b in expected.items() if a != b} and len(rows) == len(dict(rows))


def test_no_edges_give_no_components(spark):
    none = spark.createDataFrame([], "a string, b string")
    assert stars.connected_components(none).count() == stars.alternating_stars(none).count() == 0


# ---- size ----


def test_a_bucket_of_many_near_copies_gives_a_linear_number_of_pairs_in_few_tiles():
    n = 20_000
    keys, new = np.ones((n, 16), np.int64), np.ones(n, bool)
    a, b, change = buckets.window_changes(keys, new, np.zeros((n, 4), np.uint32), 0.5)
    assert n - 1 <= len(a) <= n * buckets.NEIGHBOURS
    assert set(change.tolist()) == {16}
    tiles = buckets.place_in_tiles(a, b, change > 0, np.full(n, 1000))
    blocks = n * 1000 // buckets.BLOCK + 1
    assert len(tiles.unique()) <= 2 * blocks
