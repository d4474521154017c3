"""The paths beyond one process: near copies, components, clusters and verdicts by Spark's shuffles, over up to 10^7
planted fingerprints, with the memory of 10^6; beside the same work in one process, where it fits.

    python -m benchmarks shuffles

Fingerprints are made (`planted`), not measured, and what is found must be what was planted, to the row. CPU time of
Java, Python and all workers, Parquet to Parquet, Java warm; each size has a Java of its own, of `HEAP`, which drives
and executes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.dataset import dataset
from pyspark.sql import functions as F

from benchmarks.planted import BLOCK, NEAR, write_block
from benchmarks.scale import is_worker, peak_memory
from benchmarks.timing import row
from pipelines.dedup import clusters, dedup, keepers, stars
from pipelines.rules import judge
from pipelines.spark import session
from schemas.parts import Heldout, Spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WARM, HERE, FEW, MANY = BLOCK, 4 * BLOCK, 10 * BLOCK, 100 * BLOCK  # documents; HERE: as many as fit
HEAP = "2g"
STEPS = "near copies", "components", "clusters", "verdicts"
TERMS = judge.Terms({}, {"low": 0.0, "high": 0.5}, Heldout(), 1)
MOST_GROWTH = 1.25  # of a document's cost and of memory, from FEW to MANY


def rows() -> list[dict]:
    """CPU microseconds a document of each step, and memory."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        place = Path(scratch)
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(write_block, repeat(place / "in"), range(MANY // BLOCK)))
        spent = {n: through_spark(place, n) for n in (HERE, FEW, MANY)}
    here, few, many = spent.values()
    cost = lambda told, names, n: sum(told[name] for name in names) / n * 1e6  # noqa: E731
    table = [
        row(f"{name}: Spark / one process, {HERE:,}", cost(here, [name], HERE), "us", cost(here["here"], [name], HERE))
        for name in STEPS
    ]
    names = [name for name in STEPS if name != "components"]  # part of the two before and behind
    whole = cost(here, names, HERE), cost(here["here"], names, HERE)
    table.append(row(f"to the verdicts: Spark / one process, {HERE:,}", whole[0], "us", whole[1]))
    for name in STEPS:
        table.append(row(f"{name}: {MANY:,} / {FEW:,}", cost(many, [name], MANY), "us", cost(few, [name], FEW)))
    grown = cost(many, names, MANY), cost(few, names, FEW)
    table.append(row(f"to the verdicts: {MANY:,} / {FEW:,}", grown[0], "us", grown[1], MOST_GROWTH) | {"at_most": True})
    held = many["workers"] / 1e9, few["workers"] / 1e9
    table.append(
        row(f"Python workers, peak: {MANY:,} / {FEW:,}", held[0], "GB", held[1], MOST_GROWTH) | {"at_most": True}
    )
    return [*table, row(f"wall time to the verdicts, {MANY:,}, load {os.getloadavg()[0]:.1f}", many["wall"], "s")]


def through_spark(place: Path, n: int) -> dict:
    """CPU seconds of each step over the first n documents, the most bytes that Python workers held, wall seconds; where
    they fit, the same steps in this process (here)."""
    spark = session(Spark(driver_memory=HEAP), str(place / f"spark-{n}"))
    try:
        run(spark, place, WARM)
        with peak_memory(is_worker) as peak:
            started = time.perf_counter()
            spent = run(spark, place, n)
            spent |= {"workers": peak(), "wall": time.perf_counter() - started}
        if n <= HERE:
            in_process(spark, place, WARM)
            spent["here"] = in_process(spark, place, n)
    finally:
        spark.stop()
    return spent


def run(spark: SparkSession, place: Path, n: int) -> dict[str, float]:
    """CPU seconds of each step. Raises RuntimeError for other rows than those planted."""
    read = lambda name: spark.read.parquet(*files(place, name, n))  # noqa: E731
    signals, documents, spent = read("signals"), read("documents"), {}

    def step(name: str, work: Callable[[], DataFrame]) -> DataFrame:
        out, before = str(place / "out" / name), cpu_seconds()
        work().write.mode("overwrite").parquet(out)
        spent[name] = cpu_seconds() - before
        return spark.read.parquet(out)

    pairs = step(STEPS[0], lambda: dedup.pairs(signals, documents, NEAR))
    components = step(STEPS[1], lambda: stars.alternating_stars(pairs.select("a", "b")))
    grouped = step(STEPS[2], lambda: dedup.group_clusters(signals, pairs, documents, NEAR, {}))
    verdicts = step(STEPS[3], lambda: judge.judge({"signals": signals, "clusters": grouped}, TERMS))
    right = read("clusters")
    require_same("pairs", pairs, read("pairs"))
    require_same("clusters", grouped, right)
    require_same("kept documents", verdicts.where("keep").select("doc_id"), right.where("rank = 1").select("doc_id"))
    require_same("components", sizes(components, signals), sizes_of_right(right, signals, read("pairs")))
    return spent


def sizes(components: DataFrame, signals: DataFrame) -> DataFrame:
    """(doc_id, component) of the documents that pairs connect with others, the component by its smallest doc_id."""
    named = signals.select("doc_id", "text_hash").join(components, "text_hash")
    least = named.groupBy("component").agg(F.min("doc_id").alias("least"))
    return named.join(least, "component").select("doc_id", "least")


def sizes_of_right(right: DataFrame, signals: DataFrame, pairs: DataFrame) -> DataFrame:
    ends = pairs.select(F.explode(F.array("a", "b")).alias("text_hash")).distinct()
    connected = signals.select("doc_id", "text_hash").join(ends, "text_hash", how="left_semi")
    return connected.select("doc_id").join(right, "doc_id").select("doc_id", "component")


def in_process(spark: SparkSession, place: Path, n: int) -> dict[str, float]:
    """CPU seconds of the same steps by what a run does where they fit: texts alone are read by Spark's workers."""
    texts, out, spent = files(place, "documents", n), place / "here", {}
    out.mkdir(exist_ok=True)
    read = lambda columns: dataset(files(place, "signals", n)).to_table(columns=list(columns))  # noqa: E731

    def step(name: str, work: Callable[[], pa.Table]) -> pa.Table:
        before = cpu_seconds()
        pq.write_table(table := work(), out / f"{name}.parquet")
        spent[name] = cpu_seconds() - before
        return table

    def pairs() -> pa.Table:
        signals = read(["doc_id", "text_hash", *dedup.FINGERPRINT])
        new = pa.array(np.ones(len(signals), bool))
        return dedup.pairs_here(signals.append_column("new", new), None, texts, spark, NEAR)

    def grouped() -> pa.Table:
        group = clusters.group(clusters.members(read(dedup.MEMBERS), {}, {}), found)
        return clusters.clusters(group, keepers.keep_here(clusters.undecided(group), texts, lambda: spark, NEAR))

    def verdicts() -> pa.Table:
        with duckdb.connect() as db:
            db.read_parquet(files(place, "signals", n)).create_view("signals")
            db.read_parquet(str(out / f"{STEPS[2]}.parquet")).create_view("clusters")
            judge.create_verdicts(db, ["signals", "clusters"], TERMS)
            return db.sql("from verdicts order by doc_id").to_arrow_table()

    found = step(STEPS[0], pairs)
    step(STEPS[1], lambda: clusters.named_components(found.select(["a", "b"])))
    step(STEPS[2], grouped)
    step(STEPS[3], verdicts)
    return spent


def files(place: Path, name: str, n: int) -> list[str]:
    return sorted(map(str, (place / "in" / name).glob("*.parquet")))[: n // BLOCK]


def require_same(name: str, made: DataFrame, right: DataFrame) -> None:
    """By count and a sum of hashes, whatever the order of rows; columns by position."""
    total = [F.count("*"), F.sum(F.xxhash64(*right.columns).cast("decimal(38,0)"))]
    made, right = (tuple(rows.toDF(*right.columns).agg(*total).first()) for rows in (made, right))
    if made != right:
        raise RuntimeError(f"expected the {name} that were planted, {right[0]:,} rows; found {made[0]:,}, or others")


def cpu_seconds() -> float:
    """Of this process and all that it started; of those that ended, as far as their parents know."""
    total = sum(os.times()[:4])
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue
    return total
