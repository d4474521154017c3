"""Exact and near duplicates: candidates by LSH, decided by true Jaccard, grouped by connected components.

Everything runs in Spark; nothing proportional to the corpus reaches the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.signals import fingerprints
from schemas import tables
from schemas.recipe import NearDuplicates

# Each member of a bucket meets the next so many, in order of shingle count: linear cost for 10^5 copies of one licence,
# every pair in buckets up to this size. Similar texts have similar counts, so true pairs stand close together.
NEIGHBOURS = 16
# A pair is verified only if its estimated similarity is not this far below the threshold: 4 standard deviations of a
# 112-row estimate at 0.8 (0.038 each), measured to lose nothing.
SLACK = 0.15
# Shingles of the documents of one block, 16 MB. A Python worker holds two blocks at once.
BLOCK = 1 << 21


def clusters(signals: DataFrame, documents: DataFrame, near: NearDuplicates, priority: dict[str, int]) -> DataFrame:
    """Columns of silver.clusters for every document of `signals`.

    signals: doc_id, source, n_bytes, text_hash, n_shingles, signature, band_keys. documents: doc_id, text.
    Among members the source with the higher priority is preferred, then the longer text, then the smaller doc_id.
    """
    ranks = F.create_map(*[F.lit(x) for item in priority.items() for x in item])
    fingerprint = "text_hash", "n_shingles", "signature", "band_keys"
    members = signals.select("doc_id", ranks[F.col("source")].alias("priority"), "n_bytes", *fingerprint)
    copies = Window.partitionBy("text_hash").orderBy(*preference())
    members = members.withColumn("twin", F.first("doc_id").over(copies))
    unique = members.where(F.col("doc_id") == F.col("twin"))
    pairs = in_tiles(likely_pairs(candidate_pairs(unique), unique, near.threshold), unique)
    return ranked(members, connected_components(verified_pairs(pairs, documents, near)))


def preference() -> tuple[Column, ...]:
    return F.desc("priority"), F.desc("n_bytes"), F.asc("doc_id")


def candidate_pairs(unique: DataFrame) -> DataFrame:
    """Pairs (a < b) of documents that share a band's key; unique: doc_id, n_shingles, band_keys."""
    rows = unique.select("doc_id", "n_shingles", F.posexplode("band_keys").alias("band", "key"))
    rows = rows.withColumn("size", F.count("*").over(Window.partitionBy("band", "key"))).where("size > 1")  # most keys are of one document
    bucket = Window.partitionBy("band", "key").orderBy("n_shingles", "doc_id")
    next_ones = F.array(*[F.lead("doc_id", k).over(bucket) for k in range(1, NEIGHBOURS + 1)])
    pairs = rows.select("doc_id", next_ones.alias("others")).select("doc_id", F.explode(F.array_compact("others")).alias("other"))
    return pairs.select(F.least("doc_id", "other").alias("a"), F.greatest("doc_id", "other").alias("b")).distinct()


def likely_pairs(pairs: DataFrame, unique: DataFrame, threshold: float) -> DataFrame:
    """Pairs whose signatures do not rule the threshold out: two kilobytes of text need not be read for most others."""
    signed = pairs
    for side in ("a", "b"):
        signature = unique.select(F.col("doc_id").alias(side), F.col("signature").alias(f"signature_{side}"))
        signed = signed.join(signature, side, how="inner")

    def close(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            estimate = fingerprints.estimate(batch.column("signature_a"), batch.column("signature_b"))
            yield batch.select(["a", "b"]).filter(pa.array(estimate >= threshold - SLACK))

    return signed.mapInArrow(close, "a string, b string")


def in_tiles(pairs: DataFrame, unique: DataFrame) -> DataFrame:
    """Pairs (a, b) with the `tile` in which they are verified: the two blocks of about `BLOCK` shingles that a and b lie in.

    Blocks are cut from the documents in order of component, then shingle count: components lie together, and so do, in one
    of 10^5 copies, the neighbours that `candidate_pairs` makes. A document's text is then in few tiles, however many its pairs.
    """
    pairs = pairs.localCheckpoint()  # read three times below
    ends = pairs.select(F.col("a").alias("doc_id")).union(pairs.select("b")).distinct()
    known = ends.join(unique.select("doc_id", "n_shingles"), "doc_id", how="inner").join(connected_components(pairs), "doc_id", how="left")
    known = known.withColumn("component", F.coalesce("cluster_id", "doc_id")).localCheckpoint()
    buckets = (known.agg(F.sum("n_shingles")).first()[0] or 0) // BLOCK + 1  # sorted side by side
    order = Window.partitionBy("bucket").orderBy("component", "n_shingles", "doc_id")
    block = F.concat_ws(".", "bucket", F.floor(F.sum("n_shingles").over(order) / BLOCK))
    placed = known.withColumn("bucket", F.pmod(F.xxhash64("component"), F.lit(buckets)))
    placed = placed.select("doc_id", block.alias("block")).localCheckpoint()
    for side in ("a", "b"):
        pairs = pairs.join(placed.select(F.col("doc_id").alias(side), F.col("block").alias(f"block_{side}")), side, how="inner")
    tile = F.concat_ws("-", F.least("block_a", "block_b"), F.greatest("block_a", "block_b"))
    return pairs.select("a", "b", tile.alias("tile"))


def verified_pairs(pairs: DataFrame, documents: DataFrame, near: NearDuplicates) -> DataFrame:
    """Pairs (a, b) whose true Jaccard similarity of word n-grams reaches the threshold; pairs: a, b, tile.

    Reads the text of candidates only, and moves each one's set of shingles once for every tile that it is in.
    """
    pairs = pairs.localCheckpoint()  # read twice below
    needed = pairs.select("tile", F.col("a").alias("doc_id")).union(pairs.select("tile", "b")).distinct().localCheckpoint()
    texts = documents.select("doc_id", "text").join(needed.select("doc_id").distinct(), "doc_id", how="left_semi")
    sets = texts.mapInArrow(shingler(near.ngram), "doc_id string, shingles array<bigint>").join(needed, "doc_id", how="inner")

    def alike(pairs: pa.Table, sets: pa.Table) -> pa.Table:
        shingles, ids = sets.column("shingles").combine_chunks(), sets.column("doc_id")
        places = [pc.index_in(pairs.column(side), ids).combine_chunks() for side in ("a", "b")]
        return pairs.select(["a", "b"]).filter(pa.array(fingerprints.jaccard(shingles, *places) >= near.threshold))

    return pairs.groupBy("tile").cogroup(sets.groupBy("tile")).applyInArrow(alike, "a string, b string")


def shingler(ngram: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """An Arrow function: doc_id, text -> doc_id, sorted distinct shingle hashes."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            sets = fingerprints.shingle_sets(batch.column("text"), ngram)
            yield pa.RecordBatch.from_arrays([batch.column("doc_id"), sets], ["doc_id", "shingles"])

    return run


def connected_components(edges: DataFrame) -> DataFrame:
    """(doc_id, cluster_id) for every end of an edge (a, b); cluster_id is the smallest doc_id that it is connected with.

    Alternating large-star and small-star (Kiveris et al., Connected Components in MapReduce and Beyond, 2014):
    O(log^2 n) rounds, each of a size linear in the edges.
    """
    edges = edges.select("a", "b").localCheckpoint()
    before = None
    while (now := _checksum(edges)) != before:
        before = now
        edges = small_star(large_star(edges)).localCheckpoint()
    return edges.select(F.col("a").alias("doc_id"), F.col("b").alias("cluster_id"))


def large_star(edges: DataFrame) -> DataFrame:
    """Connect every larger neighbour of a node with the smallest of its neighbours and itself."""
    both = edges.union(edges.select("b", "a"))
    starred = both.select("a", "b", F.least("a", F.min("b").over(Window.partitionBy("a"))).alias("m"))
    return starred.where("b > a").select(F.col("b").alias("a"), F.col("m").alias("b")).distinct()


def small_star(edges: DataFrame) -> DataFrame:
    """Connect every smaller neighbour of a node, and the node, with the smallest of them."""
    down = edges.select(F.greatest("a", "b").alias("a"), F.least("a", "b").alias("b"))
    starred = down.select("a", "b", F.min("b").over(Window.partitionBy("a")).alias("m"))
    return starred.select("a", "m").union(starred.where("b != m").select("b", "m")).toDF("a", "b").distinct()


def _checksum(edges: DataFrame) -> tuple:
    return tuple(edges.agg(F.count("*"), F.sum(F.xxhash64("a", "b").cast("decimal(38,0)"))).first())


def ranked(members: DataFrame, components: DataFrame) -> DataFrame:
    """Columns of silver.clusters: members with their twin, and the components of the twins."""
    found = members.join(components.withColumnRenamed("doc_id", "twin"), "twin", how="left")
    found = found.withColumn("root", F.coalesce("cluster_id", "twin")).drop("cluster_id")
    cluster = Window.partitionBy("root")
    order = cluster.orderBy(*preference())
    keeper_hash = F.first("text_hash").over(order)
    return found.select(
        "doc_id",
        F.min("doc_id").over(cluster).alias("cluster_id"),
        F.count("*").over(cluster).alias("size"),
        F.row_number().over(order).alias("rank"),
        F.first("doc_id").over(order).alias("keeper"),
        (F.col("text_hash") == keeper_hash).alias("exact"),
    ).select(*tables.CLUSTERS.column_names)
