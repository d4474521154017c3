"""Connected components of any number of edges, in Spark."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines import capacity
from pipelines.dedup.clusters import named_components
from pipelines.spark import in_whole_groups, shuffle_partitions, whole_partition

EDGES = "a string, b string"
NAMED = "text_hash string, component string"


def connected_components(edges: DataFrame) -> DataFrame:
    """(text_hash, component) for every end of an edge (a, b): the smallest text_hash that it is connected with."""
    edges = contracted(edges).localCheckpoint()
    if not capacity.fits(pairs=edges.count()):
        return alternating_stars(edges)
    return in_whole_groups(edges, [], named_components, NAMED)


def contracted(edges: DataFrame) -> DataFrame:
    """Edges (a, b), b < a, of the same components: those of each partition alone, of which each text is in one edge."""
    return edges.select("a", "b").mapInArrow(whole_partition(spanning_stars), EDGES)


def alternating_stars(edges: DataFrame) -> DataFrame:
    """`connected_components` of any number of edges.

    Alternating large-star and small-star (Kiveris et al., Connected Components in MapReduce and Beyond, 2014):
    O(log^2 n) rounds, each of a size linear in the edges. A partition works on all its nodes at once, and its small
    stars are joined to whole components, which saves rounds.
    """
    edges = contracted(edges).localCheckpoint()
    before = None
    while (now := _checksum(edges)) != before:
        before = now
        edges = small_star(large_star(edges)).localCheckpoint()
    smallest = edges.select(F.col("a").alias("text_hash"), F.col("b").alias("component"))
    return smallest.union(edges.select("b", "b").distinct())


def large_star(edges: DataFrame) -> DataFrame:
    """Connect every larger neighbour of a node with the smallest of its neighbours and itself."""
    both = edges.union(edges.select("b", "a"))
    return both.repartition(shuffle_partitions(edges.sparkSession), "a").mapInArrow(
        whole_partition(larger_to_smallest), EDGES
    )


def small_star(edges: DataFrame) -> DataFrame:
    """Connect every smaller neighbour of a node, and the node, with the smallest of them, and with what these are
    connected with in the same partition. edges: b < a."""
    return edges.repartition(shuffle_partitions(edges.sparkSession), "a").mapInArrow(
        whole_partition(spanning_stars), EDGES
    )


def spanning_stars(edges: pa.Table) -> pa.Table:
    """Of each component an edge from every node to the smallest (a, b)."""
    named = named_components(edges)
    return named.filter(pc.not_equal(*named.columns)).rename_columns(["a", "b"])


def larger_to_smallest(edges: pa.Table) -> pa.Table:
    """edges: (a, b) of all neighbours b of each node a. What `large_star` makes of them, each edge once."""
    least = edges.group_by("a").aggregate([("b", "min")])
    of = pc.index_in(edges.column("a"), least.column("a"))
    smallest = pc.min_element_wise(least.column("a"), least.column("b_min")).take(of)
    starred = pa.table([edges.column("b"), smallest], names=["a", "b"])
    return starred.filter(pc.greater(edges.column("b"), edges.column("a"))).group_by(["a", "b"]).aggregate([])


def _checksum(edges: DataFrame) -> tuple:
    return tuple(edges.agg(F.count("*"), F.sum(F.xxhash64("a", "b").cast("decimal(38,0)"))).first())
