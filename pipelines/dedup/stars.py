"""Connected components of any number of edges, in Spark."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipelines import capacity
from pipelines.dedup.clusters import named_components
from pipelines.spark import in_whole_groups


def connected_components(edges: DataFrame) -> DataFrame:
    """(text_hash, component) for every end of an edge (a, b): the smallest text_hash that it is connected with."""
    edges = edges.select("a", "b")
    if not capacity.fits(pairs=edges.count()):
        return alternating_stars(edges)
    return in_whole_groups(edges, [], named_components, "text_hash string, component string")


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
