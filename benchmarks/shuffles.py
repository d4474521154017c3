"""The paths beyond one process: near copies, components, clusters and verdicts by Spark's shuffles, over up to 10^7
planted fingerprints, with the memory of 10^6; beside the same work in one process, where it fits.

    python -m benchmarks shuffles

Fingerprints are made (`planted`), not measured, and what is found must be what was planted, to the row. Wall time,
Parquet to Parquet, Java warm; each size has a Java of its own, of `HEAP`, which drives and executes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from benchmarks.planted import BLOCK, NEAR, write_block
from benchmarks.scale import is_worker, peak_memory
from benchmarks.timing import row
from pipelines.dedup import clusters, dedup, keepers, stars
from pipelines.lake import Lake
from pipelines.rules import judge
from pipelines.spark import session
from schemas import tables
from schemas.parts import Heldout, Spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WARM, HERE, FEW, MANY = BLOCK, 4 * BLOCK, 10 * BLOCK, 100 * BLOCK  # documents; HERE: as many as fit
HEAP = "2g"
STEPS = {"near copies": "pairs", "components": "components", "clusters": "clusters", "verdicts": "verdicts"}
TERMS = judge.Terms({}, {"low": 0.0, "high": 0.5}, Heldout(), 1)
MOST_GROWTH = 1.25  # of a row's cost, and of memory


def rows() -> list[dict]:
    """Microseconds a document of each step, and memory."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        place = Path(scratch)
        deliver(place / "in", MANY // BLOCK)
        here = in_process(place, HERE)
        few_here, few, many = (through_spark(place, n) for n in (HERE, FEW, MANY))
    return []


def deliver(folder: Path, n_blocks: int) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_block, repeat(folder), range(n_blocks)))


def through_spark(place: Path, n: int) -> dict[str, float]:
    """Seconds of each step over the first n documents, and the most bytes that Python workers and all processes held."""
    spark = session(Spark(driver_memory=HEAP), str(place / f"spark-{n}"))
    try:
        run(spark, place, place / "warm", WARM)
        with peak_memory(is_worker) as workers, peak_memory() as all_of_it:
            return run(spark, place, place / str(n), n) | {"workers": workers(), "memory": all_of_it()}
    finally:
        spark.stop()


def run(spark: SparkSession, place: Path, out: Path, n: int) -> dict[str, float]:
    """Seconds of each of STEPS. Raises RuntimeError for other pairs, components or clusters than those planted."""
    read = lambda name: spark.read.parquet(*files(place / "in" / name, n))  # noqa: E731
    signals, documents, seconds = read("signals"), read("documents"), {}

    def step(name: str, work: Callable[[], DataFrame]) -> DataFrame:
        started = time.perf_counter()
        work().write.mode("overwrite").parquet(str(out / name))
        seconds[name] = time.perf_counter() - started
        return spark.read.parquet(str(out / name))

    pairs = step("near copies", lambda: dedup.pairs(signals, documents, NEAR))
    components = step("components", lambda: stars.alternating_stars(pairs))
    grouped = step("clusters", lambda: dedup.group_clusters(signals, pairs, documents, NEAR, {}))
    verdicts = step("verdicts", lambda: judge.judge({"signals": signals, "clusters": grouped}, TERMS))
    require_same("pairs", pairs, read("pairs"))
    require_same("clusters", grouped, read("clusters"))
    require_same("components", components, right_components(signals, read("clusters"), pairs))
    kept = read("clusters").where("rank = 1").select("doc_id")
    require_same("verdicts", verdicts.where("keep").select("doc_id"), kept)
    return seconds
