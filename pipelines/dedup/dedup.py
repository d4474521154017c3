"""Exact and near duplicates: candidates by LSH, decided by true Jaccard, and of each component what is kept.

`buckets` says what nodes, buckets and support are, and why an increment is exact; `clusters` which member is preferred,
and what is left to be asked of texts; `keepers` asks it.
Narrow columns that fit into this process are worked on whole (`pairs_here`), which saves a dozen shuffles and Delta
tables' way through Java; of what does not fit, Spark gives the same functions parts that hold whole buckets or
components (`pairs`, `group_clusters`). Texts are read by Spark's workers in either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipelines import capacity
from pipelines.dedup import buckets, clusters, deal, keepers, verify
from pipelines.dedup.buckets import BLOCK, SLACK
from pipelines.dedup.stars import connected_components
from pipelines.dedup.verify import SETS, sets_of, verify_here
from pipelines.spark import ID_BYTES, broadcast_small, in_whole_groups, shuffle_partitions
from schemas import tables
from schemas.parts import NearDuplicates

FINGERPRINT = "n_shingles", "signature", "band_keys"
MEMBERS = "doc_id", "source", "snapshot", "text_hash", "n_shingles", "quality"  # that clusters are made of
UNDECIDED = "component string, place bigint, doc_id string, text_hash string, n_shingles bigint, known array<bigint>"
SETS_OF_COMPONENTS = "component string, place bigint, text_hash string, known array<bigint>, shingles binary"
KEPT = "text_hash string, keeper string"
# silver.clusters of a document that nothing is connected with: 8 of 10 need not go through Python
ALONE = [f"doc_id as {name}" for name in ("doc_id", "cluster_id", "component")]
ALONE += ["1L as size", "1 as rank", "doc_id as keeper", "true as exact"]
MOST_MARKED = 1 << 24  # ends of candidates: 32 MB of bits, which every task of a scan is sent
Known = tuple[DataFrame, str]


def pairs_here(
    rows: pa.Table, known: pa.Table | None, texts: list[str], spark: SparkSession, near: NearDuplicates
) -> pa.Table:
    """Columns of silver.pairs, as `pairs` gives them, of what fits into this process.

    rows: those of `buckets.changes`, of all documents or of those that new ones touch. known: the pairs (a, b,
    support) among those that are not new, None where all are. texts: paths of the Parquet files, which every worker can
    open, that hold doc_id and text of all documents.
    """
    changes = buckets.changes(rows, near.threshold)
    fresh = verify_here(changes.filter(pc.greater(changes.column("change"), 0)), texts, spark, near)
    return (
        fresh
        if known is None
        else buckets.update_support(known, changes.filter(pc.less(changes.column("change"), 0)), fresh)
    )


def pairs(signals: DataFrame, documents: DataFrame, near: NearDuplicates, known: Known | None = None) -> DataFrame:
    """Columns of silver.pairs: the near copies among all documents of `signals`, verified by true Jaccard.

    signals: doc_id, text_hash, n_shingles, signature, band_keys. documents: doc_id, text.
    known: what was found before among part of these documents, with the same settings of `near` and of measuring: its
    pairs (a, b, support), and the SQL condition on `signals` that says which documents these are. Then only the texts
    of new candidates are read, and the result is that of a run over everything. Documents may be added, not taken away.
    """
    new = F.lit(True) if known is None else ~F.expr(known[1])
    rows = signals.where("n_shingles > 0").select("doc_id", "text_hash", *FINGERPRINT, new.alias("new"))
    changes = (
        changes_in_parts(rows, near.threshold) if known is None else changes_of_increment(rows, near.threshold)
    ).localCheckpoint()
    fresh = verify_pairs(changes.where("change > 0"), documents, near)
    if known is None:
        return fresh
    lost = changes.where("change < 0").select("a", "b", "change")
    left = (
        known[0]
        .join(lost, ["a", "b"], how="left")
        .withColumn("support", F.col("support") + F.coalesce("change", F.lit(0)))
    )
    return left.where("support > 0").select("a", "b", "support").union(fresh)


def changes_of_increment(rows: DataFrame, threshold: float) -> DataFrame:
    """The columns CHANGES of an increment: what it concerns may fit into this process where the whole does not."""
    rows = select_touched(rows).localCheckpoint()
    if not capacity.fits(fingerprints=rows.count()):
        return changes_in_parts(rows, threshold)
    return rows.sparkSession.createDataFrame(buckets.changes(rows.toArrow(), threshold))


def select_touched(rows: DataFrame) -> DataFrame:
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


def changes_in_parts(rows: DataFrame, threshold: float) -> DataFrame:
    """The columns CHANGES of any number of rows. Of all rows only keys travel, the rest of those of candidates."""
    moved = window_changes(rows).localCheckpoint()
    gained = moved.where("change > 0")
    nodes = select_ends(rows, gained).localCheckpoint()
    gained = place_in_tiles(likely_pairs(gained, nodes, threshold), nodes)
    lost = moved.where("change < 0").select("a", "b", "change", *[F.lit(None).cast("string") for _ in range(3)])
    return gained.union(lost)


def window_changes(rows: DataFrame) -> DataFrame:
    """(a, b, change): pairs (a < b, text_hash) whose support changes by the texts that are new, and by how much.

    rows: text_hash, n_shingles, band_keys, new; copies may be among them. A part holds whole buckets.
    """
    keys = rows.select("text_hash", "n_shingles", "new", "band_keys")
    n_keys = rows.count() * sum(row.n for row in rows.select(F.size("band_keys").alias("n")).take(1))
    parts = max(capacity.parts(keys=n_keys), shuffle_partitions(rows.sparkSession))
    dealt = keys.mapInArrow(lambda batches: deal.deal(batches, parts), deal.DEALT)
    moved = dealt.repartitionById(parts, "part").mapInArrow(deal.changes_of_part, "a string, b string, change int")
    return moved.groupBy("a", "b").agg(F.sum("change").cast("int").alias("change"))


def select_ends(rows: DataFrame, pairs: DataFrame) -> DataFrame:
    """(text_hash, doc_id, n_shingles, signature) of the ends of pairs (a, b), each text by the smallest doc_id."""
    ends = pairs.select(F.explode(F.array("a", "b")).alias("text_hash")).distinct().localCheckpoint()
    wanted = rows.select("text_hash", "doc_id", "n_shingles", "signature")
    if ends.count() <= MOST_MARKED:
        bits = buckets.mark(ends.select(F.xxhash64("text_hash").alias("key")).toArrow().column("key").to_numpy())
        keyed = wanted.withColumn("key", F.xxhash64("text_hash"))
        wanted = keyed.mapInArrow(partial(buckets.select_marked, marked=bits), f"{keyed.schema.simpleString()[7:-1]}")
    first = F.min_by(F.struct("doc_id", "n_shingles", "signature"), "doc_id").alias("first")
    return ends.join(wanted.groupBy("text_hash").agg(first), "text_hash").select("text_hash", "first.*")


def likely_pairs(moved: DataFrame, nodes: DataFrame, threshold: float) -> DataFrame:
    """Pairs whose signatures do not rule the threshold out: two kilobytes of text need not be read for most others."""
    signed = moved
    for side in ("a", "b"):
        signature = nodes.select(F.col("text_hash").alias(side), F.col("signature").alias(f"signature_{side}"))
        signed = signed.join(signature, side, how="inner")

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield buckets.likely_pairs(batch, threshold - SLACK).select(["a", "b", "change"])

    return signed.mapInArrow(run, "a string, b string, change int")


def place_in_tiles(moved: DataFrame, nodes: DataFrame) -> DataFrame:
    """Pairs (a, b, change) with the columns CHANGES. A part holds whole components."""
    moved = moved.localCheckpoint()  # read three times below
    ends = moved.select(F.col("a").alias("text_hash")).union(moved.select("b")).distinct()
    known = ends.join(nodes.select("text_hash", "doc_id", "n_shingles"), "text_hash", how="inner")
    known = known.join(connected_components(moved), "text_hash", how="left").localCheckpoint()
    parts = (known.agg(F.sum("n_shingles")).first()[0] or 0) // BLOCK + 1
    columns = "text_hash string, doc_id string, block string"
    placed = in_whole_groups(known, ["component"], buckets.blocks_of_components, columns, parts).localCheckpoint()
    for side in ("a", "b"):
        end = [
            F.col(name).alias(f"{new}{side}")
            for name, new in (("text_hash", ""), ("doc_id", "doc_"), ("block", "block_"))
        ]
        moved = moved.join(placed.select(*end), side, how="inner")
    tile = F.concat_ws("-", F.least("block_a", "block_b"), F.greatest("block_a", "block_b"))
    return moved.select("a", "b", "change", "doc_a", "doc_b", tile.alias("tile"))


def verify_pairs(changes: DataFrame, documents: DataFrame, near: NearDuplicates) -> DataFrame:
    """(a, b, support) of the pairs whose true Jaccard similarity of word n-grams reaches the threshold;
    changes: CHANGES.

    Reads the text of candidates only, and moves each one's set of shingles once for every tile that it is in.
    """
    sides = F.array(
        *[F.struct(F.col(side).alias("text_hash"), F.col(f"doc_{side}").alias("doc_id")) for side in ("a", "b")]
    )
    ends = (
        changes.select("tile", F.explode(sides).alias("end")).groupBy("end").agg(F.collect_set("tile").alias("tiles"))
    )
    ends = broadcast_small(ends.select("end.*", "tiles"), ID_BYTES + ID_BYTES * F.size("tiles"))
    texts = documents.select("doc_id", "text").join(ends, "doc_id", how="inner")
    sets = texts.mapInArrow(lambda batches: (sets_of(batch, near.ngram) for batch in batches), SETS)
    return verify_tiles(changes, sets, near.threshold)


def verify_tiles(changes: DataFrame, sets: DataFrame, threshold: float) -> DataFrame:
    """(a, b, support) of the pairs in changes (tile, a, b, change) whose sets (SETS) are alike, a tile in one task."""

    def alike(changes: pa.Table, sets: pa.Table) -> pa.Table:
        return verify.keep_near(changes.select(["a", "b", "change"]), sets, threshold).rename_columns(
            buckets.PAIRS.names
        )

    tiles = changes.select("tile", "a", "b", "change").groupBy("tile")
    return tiles.cogroup(sets.groupBy("tile")).applyInArrow(alike, "a string, b string, support int")


def group_clusters(
    signals: DataFrame, pairs: DataFrame, documents: DataFrame, near: NearDuplicates,
    priority: dict[str, int], recency: dict[tuple[str, str], int] | None = None,
) -> DataFrame:  # fmt: skip
    """Columns of silver.clusters for every document of `signals`: doc_id, source, snapshot, text_hash, n_shingles,
    quality.

    pairs: a, b (text_hash). documents: doc_id, text. recency by source and snapshot, the greater the later. A part
    holds whole components.
    """
    members = with_components(signals.select(*MEMBERS), pairs).localCheckpoint()  # read thrice
    parts = capacity.parts(documents=members.count())

    def undecided(rows: pa.Table) -> pa.Table:
        return clusters.undecided(clusters.group_components(rows, priority, recency or {}))

    def clustered(rows: pa.Table) -> pa.Table:
        kept = rows.select(["text_hash", "kept_for"]).rename_columns(clusters.KEPT.names)
        grouped = clusters.group_components(rows, priority, recency or {})
        return clusters.clusters(grouped, kept.filter(pc.is_valid(kept.column("keeper"))))

    alone, several = members.where("n_members = 1"), members.where("n_members > 1").drop("n_members")
    asked = in_whole_groups(several.where(F.size("near") > 0), ["component"], undecided, UNDECIDED, parts)
    kept = keep_in_parts(asked, documents, near).withColumnRenamed("keeper", "kept_for")
    known = several.join(kept, "text_hash", how="left")
    return alone.selectExpr(ALONE).union(in_whole_groups(known, ["component"], clustered, tables.CLUSTERS.ddl, parts))


def with_components(members: DataFrame, pairs: DataFrame) -> DataFrame:
    """members with component, a text's own hash where it has no pair, how many documents it has (n_members), and near,
    the texts that it has a pair with."""
    both = pairs.select("a", "b").union(pairs.select("b", "a")).toDF("text_hash", "end")
    near = both.groupBy("text_hash").agg(F.collect_list("end").alias("near"))
    found = members.join(connected_components(pairs), "text_hash", how="left").join(near, "text_hash", how="left")
    found = found.withColumn("component", F.coalesce("component", "text_hash"))
    found = found.withColumn("near", F.coalesce("near", F.array().cast("array<string>")))
    return found.withColumn("n_members", F.count("*").over(Window.partitionBy("component")))


def keep_in_parts(undecided: DataFrame, documents: DataFrame, near: NearDuplicates) -> DataFrame:
    """KEPT of any number of rows of UNDECIDED. Each text is read once, and its set of shingles moves once."""
    wanted = broadcast_small(undecided, 3 * ID_BYTES + F.lit(8) * F.size("known"))
    texts = documents.select("doc_id", "text").join(wanted, "doc_id", how="inner")

    def sets(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            shingles = verify.shingle_sets(batch.column("text"), near.ngram)
            yield batch.append_column("shingles", shingles).select([*keepers.SETS.names])

    def keep(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from keepers.keep((pa.Table.from_batches([b]).cast(keepers.SETS) for b in batches), near.threshold)

    dealt = texts.mapInArrow(sets, SETS_OF_COMPONENTS).repartition("component")
    return dealt.sortWithinPartitions("component", "place").mapInArrow(keep, KEPT)
