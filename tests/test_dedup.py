"""Clusters against brute force: true Jaccard over all pairs, union-find, and a keeper chosen by hand."""

from __future__ import annotations

import random
import re
from itertools import combinations

from pyspark.sql import functions as F

from pipelines import dedup
from pipelines.measure import Context, measure
from schemas.recipe import NearDuplicates

WORDS = [f"word{i}" for i in range(400)]


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
        for edits in (0, 1, 2, 4, 8, 20):
            copy = list(base)
            for place in chance.sample(range(150), edits):
                copy[place] = chance.choice(WORDS)
            texts.append(("\n".join(copy)).upper() if edits == 0 else " ".join(copy))
    texts += ["short text", "Short  TEXT", "another short one"]
    return {f"{i:032x}": text for i, text in enumerate(chance.sample(texts, len(texts)))}


def test_clusters_are_those_of_brute_force_and_the_preferred_member_is_kept(spark):
    texts = planted()
    source = {doc_id: ("b" if int(doc_id, 16) % 3 == 0 else "a") for doc_id in texts}
    documents = spark.createDataFrame([(i, source[i], "docs", t) for i, t in texts.items()], "doc_id string, source string, domain string, text string")
    near = NearDuplicates(bands=28, rows=4)  # so many candidates that none is missed: verification decides
    signals = measured(documents, near)
    rows = {row.doc_id: row for row in dedup.clusters(signals, documents, near, {"a": 0, "b": 1}).collect()}

    pairs = [(a, b) for a, b in combinations(sorted(texts), 2) if jaccard(texts[a], texts[b]) >= near.threshold]
    expected = components(sorted(texts), pairs)
    assert {doc_id: row.cluster_id for doc_id, row in rows.items()} == expected
    assert len(set(expected.values())) < len(texts) - 20  # something was there to be found
    for doc_id, row in rows.items():
        members = [m for m in texts if expected[m] == expected[doc_id]]
        keeper = min(members, key=lambda m: (source[m] != "b", -len(texts[m].encode()), m))
        assert (row.size, row.keeper, row.rank == 1) == (len(members), keeper, doc_id == keeper)
        folded = [" ".join(texts[m].lower().split()) for m in (doc_id, keeper)]
        assert row.exact == (folded[0] == folded[1])


def measured(documents, near: NearDuplicates):
    from pipelines import assets

    context = Context(assets.LANGUAGE_MODEL.read_bytes(), {}, near.ngram, near.bands, near.rows, 1)
    return measure(documents, context)


def test_components_of_chains_stars_and_random_graphs_are_those_of_union_find(spark):
    chance = random.Random(3)
    chain = [(f"c{i:03}", f"c{i + 1:03}") for i in range(60)]
    star = [("s000", f"s{i:03}") for i in range(1, 40)]
    # Two local minima that share a larger neighbour: a contraction that groups by the smaller end never joins them.
    wedge = [("w1", "w9"), ("w2", "w9")]
    loose = [tuple(sorted(chance.sample([f"r{i:03}" for i in range(80)], 2))) for _ in range(60)]
    edges = sorted(set(chain + star + wedge + loose))
    found = dedup.connected_components(spark.createDataFrame(edges, "a string, b string")).collect()
    ends = sorted({end for edge in edges for end in edge})
    expected = components(ends, edges)
    smallest = {node: root for node, root in expected.items() if node != root}
    assert {row.doc_id: row.cluster_id for row in found} == smallest


def test_no_edges_give_no_components(spark):
    assert dedup.connected_components(spark.createDataFrame([], "a string, b string")).count() == 0


def test_a_bucket_of_many_copies_gives_a_linear_number_of_pairs(spark):
    n = 2000
    rows = spark.range(n).select(F.format_string("%032d", "id").alias("doc_id"), F.lit(9).alias("n_shingles"), F.array(F.lit(1), F.lit(2)).alias("band_keys"))
    pairs = dedup.candidate_pairs(rows).count()
    assert n - 1 <= pairs <= n * dedup.NEIGHBOURS
