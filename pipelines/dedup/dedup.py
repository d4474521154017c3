"""Exact and near duplicates: candidates by LSH, decided by true Jaccard, grouped by connected components.

Narrow columns that fit into this process are compared and grouped here (`pairs_here`, `buckets`, `clusters`), which
saves a dozen shuffles and Delta tables' way through Java; texts are read by Spark's workers all the same. What does not
fit is done by joins and windows (`pairs`, `clusters`). Both give the same rows. `buckets` defines nodes, buckets and
support, and says why an increment is exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipelines.dedup import buckets, verify
from pipelines.dedup.buckets import BLOCK, NEIGHBOURS, SLACK
from pipelines.dedup.clusters import LAST, named_components
from pipelines.dedup.verify import SETS, sets_of, verified_here
from pipelines.signals import fingerprints
from pipelines.spark import ID_BYTES, sent
from schemas import tables
from schemas.parts import NearDuplicates

# Up to so many one process does the work. Its peak memory, measured: comparing 400,000 fingerprints (0.66 KB each) 1.4
# GB in pairs of copies, 3.3 GB in families of 1,000 near copies, which make 11 million candidates; grouping 2 million
# documents, and judging them, 1.3 GB, 4 million pairs 0.4 GB more.
FINGERPRINTS_IN_ONE_PROCESS = 400_000
DOCUMENTS_IN_ONE_PROCESS = 2_000_000
PAIRS_IN_ONE_PROCESS = 4_000_000
FINGERPRINT = "n_shingles", "signature", "band_keys"
Known = tuple[DataFrame, str]


def fits_one_process(*, fingerprints: int = 0, documents: int = 0, pairs: int = 0) -> bool:
    """Whether so much is compared, grouped or judged in one process, not by joins and windows. Who calls has the
    counts: a table's log holds them, where Spark would take half a second."""
    fits = fingerprints <= FINGERPRINTS_IN_ONE_PROCESS and documents <= DOCUMENTS_IN_ONE_PROCESS
    return fits and pairs <= PAIRS_IN_ONE_PROCESS


def pairs_here(
    rows: pa.Table, known: pa.Table | None, texts: list[str], spark: SparkSession, near: NearDuplicates
) -> pa.Table:
    """Columns of silver.pairs, as `pairs` gives them, of what fits into this process.

    rows: those of `matching.changes`, of all documents or of those that new ones touch. known: the pairs (a, b,
    support) among those that are not new, None where all are. texts: paths of the Parquet files, which every worker can
    open, that hold doc_id and text of all documents.
    """
    found = buckets.changes(rows, near.threshold)
    fresh = verified_here(found.filter(pc.greater(found.column("change"), 0)), texts, spark, near)
    return fresh if known is None else buckets.updated(known, found.filter(pc.less(found.column("change"), 0)), fresh)


def pairs(signals: DataFrame, documents: DataFrame, near: NearDuplicates, known: Known | None = None) -> DataFrame:
    """Columns of silver.pairs: the near copies among all documents of `signals`, verified by true Jaccard.

    signals: doc_id, text_hash, n_shingles, signature, band_keys. documents: doc_id, text.
    known: what was found before among part of these documents, with the same settings of `near` and of measuring: its
    pairs (a, b, support), and the SQL condition on `signals` that says which documents these are. Then only the texts
    of new candidates are read, and the result is that of a run over everything. Documents may be added, not taken away.
    """
    new = F.lit(True) if known is None else ~F.expr(known[1])
    rows = signals.where("n_shingles > 0").select("doc_id", "text_hash", *FINGERPRINT, new.alias("new"))
    found = (in_shuffles(rows, near.threshold) if known is None else of_touched(rows, near.threshold)).localCheckpoint()
    fresh = verified_pairs(found.where("change > 0"), documents, near)
    if known is None:
        return fresh
    lost = found.where("change < 0").select("a", "b", "change")
    left = (
        known[0]
        .join(lost, ["a", "b"], how="left")
        .withColumn("support", F.col("support") + F.coalesce("change", F.lit(0)))
    )
    return left.where("support > 0").select("a", "b", "support").union(fresh)


def of_touched(rows: DataFrame, threshold: float) -> DataFrame:
    """The columns CHANGES of an increment: what it concerns may fit into this process where the whole does not."""
    rows = touched(rows).localCheckpoint()
    if not fits_one_process(fingerprints=rows.count()):
        return in_shuffles(rows, threshold)
    return rows.sparkSession.createDataFrame(buckets.changes(rows.toArrow(), threshold))


def touched(rows: DataFrame) -> DataFrame:
    """`rows` that an increment concerns: texts not seen before, and the old ones in their buckets."""
    before = rows.where("not new")
    fresh = rows.where("new").join(before.select("text_hash"), "text_hash", how="left_anti").localCheckpoint()
    keys = fresh.select(F.explode("band_keys").alias("key")).distinct()
    met = (
        before.select("doc_id", F.explode("band_keys").alias("key"))
        .join(keys, "key", how="left_semi")
        .select("doc_id")
        .distinct()
    )
    return fresh.select(*rows.columns).union(before.join(met, "doc_id", how="left_semi").select(*rows.columns))


def in_shuffles(rows: DataFrame, threshold: float) -> DataFrame:
    """The columns CHANGES of any number of rows."""
    copies = Window.partitionBy("text_hash").orderBy("doc_id")
    nodes = rows.withColumn("copy", F.row_number().over(copies)).where("copy = 1").drop("copy").localCheckpoint()
    found = window_changes(nodes).localCheckpoint()
    gained = in_tiles(likely_pairs(found.where("change > 0"), nodes, threshold), nodes)
    lost = found.where("change < 0").select("a", "b", "change", *[F.lit(None).cast("string") for _ in range(3)])
    return gained.union(lost)


def window_changes(nodes: DataFrame) -> DataFrame:
    """(a, b, change): pairs (a < b, text_hash) whose support changes by the nodes that are new, and by how much.

    nodes: text_hash, n_shingles, band_keys, new. The definition is that of `matching.window_changes`.
    """
    rows = nodes.select("text_hash", "n_shingles", "new", F.posexplode("band_keys").alias("band", "key"))
    bucket, order = Window.partitionBy("band", "key"), ("n_shingles", "text_hash")
    rows = rows.withColumn("size", F.count("*").over(bucket)).withColumn("touched", F.max("new").over(bucket))
    rows = rows.where("size > 1 and touched")  # most keys are of one document
    rows = rows.withColumn("place", F.row_number().over(bucket.orderBy(*order)))
    gained = neighbours(rows, bucket.orderBy(*order)).where("new or other.new")
    lost = neighbours(rows.where("not new"), bucket.orderBy(*order)).where(f"other.place - place > {NEIGHBOURS}")
    moved = gained.withColumn("change", F.lit(1)).union(lost.withColumn("change", F.lit(-1)))
    ends = F.col("text_hash"), F.col("other.text_hash")
    moved = moved.select(F.least(*ends).alias("a"), F.greatest(*ends).alias("b"), "change")
    return moved.groupBy("a", "b").agg(F.sum("change").cast("int").alias("change"))


def neighbours(rows: DataFrame, bucket: Window) -> DataFrame:
    """Each row with each `other` of the next NEIGHBOURS of its bucket."""
    member = F.struct("text_hash", "place", "new")
    others = F.array_compact(F.array(*[F.lead(member, k).over(bucket) for k in range(1, NEIGHBOURS + 1)]))
    return rows.withColumn("others", others).select("text_hash", "place", "new", F.explode("others").alias("other"))


def likely_pairs(found: DataFrame, nodes: DataFrame, threshold: float) -> DataFrame:
    """Pairs whose signatures do not rule the threshold out: two kilobytes of text need not be read for most others."""
    signed = found
    for side in ("a", "b"):
        signature = nodes.select(F.col("text_hash").alias(side), F.col("signature").alias(f"signature_{side}"))
        signed = signed.join(signature, side, how="inner")

    def close(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            estimate = fingerprints.estimate(batch.column("signature_a"), batch.column("signature_b"))
            yield batch.select(["a", "b", "change"]).filter(pa.array(estimate >= threshold - SLACK))

    return signed.mapInArrow(close, "a string, b string, change int")


def in_tiles(found: DataFrame, nodes: DataFrame) -> DataFrame:
    """Pairs (a, b, change) with the columns CHANGES: tiles are cut as `matching.in_tiles` says, within buckets of
    components."""
    found = found.localCheckpoint()  # read three times below
    ends = found.select(F.col("a").alias("text_hash")).union(found.select("b")).distinct()
    known = ends.join(nodes.select("text_hash", "doc_id", "n_shingles"), "text_hash", how="inner")
    known = known.join(connected_components(found), "text_hash", how="left").localCheckpoint()
    buckets = (known.agg(F.sum("n_shingles")).first()[0] or 0) // BLOCK + 1  # sorted side by side
    order = Window.partitionBy("bucket").orderBy("component", "n_shingles", "text_hash")
    block = F.concat_ws(".", "bucket", F.floor(F.sum("n_shingles").over(order) / BLOCK))
    placed = known.withColumn("bucket", F.pmod(F.xxhash64("component"), F.lit(buckets)))
    placed = placed.select("text_hash", "doc_id", block.alias("block")).localCheckpoint()
    for side in ("a", "b"):
        end = (
            F.col("text_hash").alias(side),
            F.col("doc_id").alias(f"doc_{side}"),
            F.col("block").alias(f"block_{side}"),
        )
        found = found.join(placed.select(*end), side, how="inner")
    tile = F.concat_ws("-", F.least("block_a", "block_b"), F.greatest("block_a", "block_b"))
    return found.select("a", "b", "change", "doc_a", "doc_b", tile.alias("tile"))


def verified_pairs(found: DataFrame, documents: DataFrame, near: NearDuplicates) -> DataFrame:
    """(a, b, support) of the pairs whose true Jaccard similarity of word n-grams reaches the threshold; found: CHANGES.

    Reads the text of candidates only, and moves each one's set of shingles once for every tile that it is in.
    """
    sides = F.array(
        *[F.struct(F.col(side).alias("text_hash"), F.col(f"doc_{side}").alias("doc_id")) for side in ("a", "b")]
    )
    ends = found.select("tile", F.explode(sides).alias("end")).groupBy("end").agg(F.collect_set("tile").alias("tiles"))
    ends = sent(ends.select("end.*", "tiles"), ID_BYTES + ID_BYTES * F.size("tiles"))
    texts = documents.select("doc_id", "text").join(ends, "doc_id", how="inner")
    sets = texts.mapInArrow(lambda batches: (sets_of(batch, near.ngram) for batch in batches), SETS)
    return decided(found, sets, near.threshold)


def decided(found: DataFrame, sets: DataFrame, threshold: float) -> DataFrame:
    """(a, b, support) of the pairs found (tile, a, b, change) whose sets (SETS) are alike, a tile in one task."""

    def alike(found: pa.Table, sets: pa.Table) -> pa.Table:
        return verify.verified(found.select(["a", "b", "change"]), sets, threshold).rename_columns(buckets.PAIRS.names)

    tiles = found.select("tile", "a", "b", "change").groupBy("tile")
    return tiles.cogroup(sets.groupBy("tile")).applyInArrow(alike, "a string, b string, support int")


def clusters(
    signals: DataFrame, pairs: DataFrame, priority: dict[str, int], recency: dict[tuple[str, str], int] | None = None
) -> DataFrame:
    """Columns of silver.clusters for every document of `signals`: doc_id, source, snapshot, text_hash, quality.

    pairs: a, b (text_hash). Preferred in a cluster is the source of higher priority, then the better quality (none is
    worst), then the snapshot that came later (recency by source and snapshot, the greater the later), then the smaller
    doc_id. `matching.clusters` gives the same of what fits into this process.
    """
    members = signals.select("doc_id", "text_hash", *preference(priority, recency or {}))
    found = members.join(connected_components(pairs), "text_hash", how="left")
    cluster = Window.partitionBy(F.coalesce("component", "text_hash"))
    order = cluster.orderBy(F.desc("priority"), F.desc_nulls_last("quality"), F.desc("recency"), F.asc("doc_id"))
    return found.select(
        "doc_id",
        F.min("doc_id").over(cluster).alias("cluster_id"),
        F.count("*").over(cluster).alias("size"),
        F.row_number().over(order).alias("rank"),
        F.first("doc_id").over(order).alias("keeper"),
        (F.col("text_hash") == F.first("text_hash").over(order)).alias("exact"),
    ).select(*tables.CLUSTERS.column_names)


def preference(priority: dict[str, int], recency: dict[tuple[str, str], int]) -> tuple[Column, ...]:
    """The columns priority, quality, recency; a source or snapshot that is not named comes last."""
    ranks = [F.when(F.col("source") == source, F.lit(rank)) for source, rank in priority.items()]
    times = [
        F.when((F.col("source") == of) & (F.col("snapshot") == name), F.lit(time))
        for (of, name), time in recency.items()
    ]
    last = F.lit(LAST)
    return F.coalesce(*ranks, last).alias("priority"), F.col("quality"), F.coalesce(*times, last).alias("recency")


def removed_shares(clusters: DataFrame, signals: DataFrame) -> DataFrame:
    """(source, documents, removed, share): how much of each source goes as a copy. Above half, look at the pairs."""
    found = clusters.select("doc_id", "rank").join(signals.select("doc_id", "source"), "doc_id", how="inner")
    counted = found.groupBy("source").agg(
        F.count("*").alias("documents"), F.count_if(F.col("rank") > 1).alias("removed")
    )
    return counted.withColumn("share", F.col("removed") / F.col("documents"))


def connected_components(edges: DataFrame) -> DataFrame:
    """(text_hash, component) for every end of an edge (a, b): the smallest text_hash that it is connected with."""
    edges = edges.select("a", "b")
    if edges.count() > PAIRS_IN_ONE_PROCESS:
        return alternating_stars(edges)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        read = list(batches)
        if read:
            yield from named_components(pa.Table.from_batches(read)).to_batches(max_chunksize=100_000)

    return edges.coalesce(1).mapInArrow(run, "text_hash string, component string")


def alternating_stars(edges: DataFrame) -> DataFrame:
    """`connected_components` of any number of edges.

    Alternating large-star and small-star (Kiveris et al., Connected Components in MapReduce and Beyond, 2014):
    O(log^2 n) rounds, each of a size linear in the edges.
    """
    edges = edges.localCheckpoint()
    before = None
    while (now := _checksum(edges)) != before:
        before = now
        edges = small_star(large_star(edges)).localCheckpoint()
    smallest = edges.select(F.col("a").alias("text_hash"), F.col("b").alias("component"))
    return smallest.union(edges.select("b", "b").distinct())


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
