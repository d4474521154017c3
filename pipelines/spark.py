"""The one SparkSession, each setting with its reason."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window, is_remote
from pyspark.sql import functions as F

from pipelines import assets, s3
from schemas.errors import DataError
from schemas.parts import FIXED, Spark

SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Our tables are addressed by path: nothing of a session may land in the folder it was started from.
    "spark.sql.catalogImplementation": "in-memory",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # A new table's log is replayed in so many tasks: 50 by default, 7 s for a count that takes 0.5 s with 2.
    "spark.databricks.delta.snapshotPartitions": "2",
    # Text is large and its rows uneven: Arrow batches are bounded by bytes, so a Python worker's memory is constant.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(16 << 20),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # One task reads so much of a table: enough tasks to balance the cores and to show progress.
    "spark.sql.files.maxPartitionBytes": str(16 << 20),
    # A group of rows is read by one task, however large its file: 128 MB by default, which keep one core busy for
    # seconds alone.
    "spark.hadoop.parquet.block.size": str(16 << 20),
    # A page holds few texts, 1 MB of them by default, so that a few that are wanted are read without decompressing all
    # others; for that the writer must look at its pages' sizes after every row, not when by those before it the page
    # should be half full.
    "spark.hadoop.parquet.page.size": str(16 << 10),
    "spark.hadoop.parquet.page.size.check.estimate": "false",
    "spark.hadoop.parquet.page.size.row.check.min": "1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": "pipelines.workers",
}
LOCAL_SETTINGS = {
    # Both, or workers of a machine without a resolvable name are refused.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.default.parallelism": "4",
}
# A laptop's run lasts minutes, too short for Java's second compiler and concurrent collector to pay: the default run's
# data steps took 127 s with these options and 190 s without (one reading each, on a machine with other work). The first
# compiler alone gets 48 MB for its code, which a run of 60 MB of text fills; Java then interprets what comes after.
# Java writes counters to /tmp, whatever its tmpdir, where a full disk ends it.
JAVA_OPTIONS = "-XX:-UsePerfData -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseParallelGC"
Batches = Iterator[pa.RecordBatch]
CONNECTED = {"spark": 7077, "sc": 15002}  # masters that listen at an address, with their usual ports
CONNECT_SECONDS = 10.0
SENT_BYTES = 64 << 20  # 600,000 documents' ids; Java holds them twice
ID_BYTES = 100  # of a row with a document's id and little else


def java_options() -> str:
    archive = (
        f'"-XX:SharedArchiveFile={assets.CLASSES}" -Xlog:cds=off -Xlog:cds+dynamic=off'
        if assets.CLASSES.is_file()
        else ""
    )
    return f"{JAVA_OPTIONS} {archive}"


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """PySpark takes Ctrl-C for itself, to cancel its jobs and say so at length; who stops a run ends Java anyway."""
    kept = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, kept)


@contextlib.contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Send what is written to stderr to a file: the JVM inherits it at its start and keeps it, so that its chatter does
    not tear the progress display apart."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def session(spark: Spark, home: str, *, on_s3: bool = False) -> SparkSession:
    """Start Spark, or return the session of this process; with what a lake on S3 needs.

    `SPARK_REMOTE` in the environment, or a master sc://..., connects to that Spark Connect server. Raises
    FileNotFoundError if Delta's JARs are not installed, DataError for a cluster that would give other results, does not
    see `home`, or does not answer.
    """
    master = os.environ.get("SPARK_REMOTE") or spark.master
    check_address(master)
    started = connect(master, spark.values) if master.startswith("sc://") else start(spark, home, on_s3)
    if not master.startswith("local"):
        check_workers(started, Path(home))
    return started


def check_address(master: str) -> None:
    """Raises DataError for a master or Spark Connect server where nothing listens: Spark itself asks for minutes."""
    kind, _, rest = master.partition("://")
    if os.environ.get("SPARK_REMOTE") and kind != "sc":
        raise DataError(f"SPARK_REMOTE: expected sc://host:port of a Spark Connect server, found {master!r:.200}")
    if kind not in CONNECTED:
        return
    said = []
    for address in re.split(r"[/;]", rest)[0].split(","):  # of several masters one leads
        parts = urlsplit(f"//{address}")
        try:
            socket.create_connection((parts.hostname, parts.port or CONNECTED[kind]), CONNECT_SECONDS).close()
            return
        except (OSError, ValueError) as error:
            said.append(str(error))
    raise DataError(f"spark.master: expected {master:.200} to answer, found {'; '.join(said)}")


def connect(address: str, settings: dict[str, str]) -> SparkSession:
    """A session of the Spark Connect server, with those of SETTINGS and of `settings` that a session may set. Raises
    DataError for one whose own settings lack what the lake needs."""
    try:
        started = SparkSession.builder.remote(address).getOrCreate()
        found = {name: started.conf.get(name, None) for name in FIXED}
    except PySparkException as error:
        raise DataError(f"spark.master: expected a Spark Connect server at {address:.200}, found {error}") from None
    for name, value in (SETTINGS | settings).items():
        if started.conf.isModifiable(name):
            started.conf.set(name, value)
        elif name.startswith("spark.hadoop."):
            started.conf.set(name.removeprefix("spark.hadoop."), value)  # a session hands it on to what writes
    fixed = {name: SETTINGS[name] for name in FIXED if not started.conf.isModifiable(name)}
    if wrong := [f"{name}={value}, found {found[name]}" for name, value in fixed.items() if value != found[name]]:
        raise DataError(
            f"the Spark Connect server at {address}: expected it to be started with --conf {'; --conf '.join(wrong)}"
        )
    return started


def check_workers(started: SparkSession, home: Path) -> None:
    """Raises DataError for workers that do not see the home folder, in which they write shards, or that have other
    code than this process. (Another Python is Spark's own error.)"""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    mark, ours = home / "tmp" / f"seen-{uuid.uuid4().hex}", code_hash()
    mark.write_text(ours)

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from ()
        for _ in batches:
            told = [socket.gethostname(), mark.is_file(), code_hash()]
            yield pa.RecordBatch.from_pylist([dict(zip(("host", "sees", "code"), told, strict=True))])

    try:
        tasks = 4 * int(started.conf.get("spark.default.parallelism", "4"))
        rows = started.range(0, tasks, 1, tasks).mapInArrow(look, "host string, sees boolean, code string").collect()
    finally:
        mark.unlink(missing_ok=True)
    if blind := sorted({row.host for row in rows if not row.sees}):
        raise DataError(
            f"home: expected a folder that this machine and Spark's workers share, found {home} unseen by "
            f"{', '.join(blind[:5])}: choose one on a file system that all mount"
        )
    if others := sorted({row.host for row in rows if row.code != ours}):
        raise DataError(
            f"expected the same Millrace and libraries on Spark's workers as here, found others on "
            f"{', '.join(others[:5])}: install this one there, from the same lock"
        )


def code_hash() -> str:
    """Hash of what decides results: our code that workers call, Python's version and those of numeric libraries."""
    versions = [sys.version, *(version(name) for name in ("numpy", "numba", "pyarrow", "pyspark"))]
    digest = hashlib.sha256("\n".join(versions).encode())
    for folder in ("pipelines", "schemas"):
        for file in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def start(spark: Spark, home: str, on_s3: bool) -> SparkSession:
    """Spark itself, driven by this process."""
    assets.check()
    assets.java()
    os.environ["SPARK_LAUNCHER_OPTS"] = "-XX:-UsePerfData"
    # else workers may be another Python, without our packages
    os.environ["PYSPARK_PYTHON"] = spark.values.get("spark.pyspark.python", sys.executable)
    local = spark.master.startswith("local")
    builder = SparkSession.builder.master(spark.master).appName("millrace")
    settings = SETTINGS | (LOCAL_SETTINGS if local else {}) | (s3.settings() if on_s3 else {})
    jars = [str(jar) for jar in (*assets.JARS, *(s3.jars() if on_s3 else ()))]
    # A cluster has them sent; here they need not even be copied.
    settings |= {"spark.driver.extraClassPath": os.pathsep.join(jars)} if local else {"spark.jars": ",".join(jars)}
    quoted = home.replace('"', '\\"')
    settings |= {
        "spark.driver.memory": spark.driver_memory,
        "spark.sql.warehouse.dir": f"{home}/lake/warehouse",
        # a list, divided at commas: a folder with one in its name is "." to a JVM that starts there
        "spark.local.dir": "." if "," in home else f"{home}/tmp",
        # The JVM's own scratch files too: a full or read-only /tmp must not stop a run.
        "spark.driver.extraJavaOptions": f'"-Djava.io.tmpdir={quoted}/tmp" {java_options() if local else ""}',
    }
    for name, value in (settings | spark.values).items():
        builder = builder.config(name, value)
    with (
        _stderr_to(Path(home, "tmp", "spark.log")),
        _interrupts_kept(),
        contextlib.chdir(Path(home, "tmp")) if "," in home else contextlib.nullcontext(),
    ):
        started = builder.getOrCreate()
    started.sparkContext.setLogLevel("OFF")  # what fails is raised, with its cause, to the step that asked for it
    return started


def end() -> None:
    """End the session of this process and its Java, if there are any, with the files that they hold open. For
    processes that end."""
    if is_remote() and (remote := SparkSession.getActiveSession()):
        remote.stop()
    if context := SparkContext._active_spark_context:
        context.stop()
    if gateway := SparkContext._gateway:
        gateway.shutdown()
        gateway.proc.stdin.close()  # Java ends with it
        gateway.proc.wait(timeout=20)


def escape_globs(path: str) -> str:
    """A path as Spark's readers of plain files take it: they expand globs, and nothing else may be read."""
    return re.sub(r"[\[\]{}*?\\]", r"\\\g<0>", path)


def broadcast_small(rows: DataFrame, n_bytes: Column) -> DataFrame:
    """`rows`, for a join with texts: computed now, and sent to every task if they are at most SENT_BYTES, so that no
    text is shuffled.

    n_bytes: of a row. Spark itself learns how few the rows are when it has shuffled both sides.
    """
    rows = rows.localCheckpoint()
    size = rows.agg(F.sum(n_bytes)).first()[0] or 0
    return F.broadcast(rows) if size <= SENT_BYTES else rows


def shuffle_partitions(spark: SparkSession) -> int:
    return int(spark.conf.get("spark.sql.shuffle.partitions"))


def in_whole_groups(
    rows: DataFrame, keys: list[str], work: Callable[[pa.Table], pa.Table], schema: str, parts: int = 1
) -> DataFrame:
    """`work` over `rows` in so many partitions or more, each with all rows of the values of `keys` that it has any of;
    in one where there are no keys.

    work: a table of one row or more to one of the columns `schema` (DDL). A worker holds a partition in memory whole.
    """
    dealt = rows.repartition(max(parts, shuffle_partitions(rows.sparkSession)), *keys) if keys else rows.coalesce(1)
    return dealt.mapInArrow(whole_partition(work), schema)


def whole_partition(work: Callable[[pa.Table], pa.Table]) -> Callable[[Batches], Batches]:
    """An Arrow function: `work` over all rows of a partition that has any."""

    def run(batches: Batches) -> Batches:
        if read := list(batches):
            yield from work(pa.Table.from_batches(read)).to_batches(max_chunksize=100_000)

    return run


def rehearse(home: Path) -> None:
    """What a run does with Spark and Delta, once: Java then has loaded their classes (`assets.archive_classes`)."""
    from pipelines.lake import Lake
    from schemas.tables import DOCUMENTS

    spark, lake = session(Spark(driver_memory="1g"), str(home)), Lake(home / "lake")
    rows = spark.createDataFrame(
        [(f"{i:032x}", "s", "1", "u", "docs", None, {}, "text", 4) for i in range(9)], DOCUMENTS.ddl
    )
    lake.write(rows, DOCUMENTS, {})
    lake.write(rows.where("source = 's'"), DOCUMENTS, {}, where="source = 's'")
    joined = lake.read(spark, DOCUMENTS).join(rows.select("doc_id"), "doc_id", how="left_semi")
    joined = joined.withColumn(
        "n", F.row_number().over(Window.partitionBy("source").orderBy("doc_id"))
    ).localCheckpoint()
    hopped = joined.select("doc_id").mapInArrow(lambda batches: batches, "doc_id string")
    hopped.groupBy("doc_id").cogroup(joined.groupBy("doc_id")).applyInArrow(lambda a, b: a, "doc_id string").count()
    lake.read(spark, DOCUMENTS).groupBy("domain").agg(F.sum("n_bytes"), F.collect_list("uri")).orderBy(
        "domain"
    ).collect()
    spark.stop()


if __name__ == "__main__":
    rehearse(Path(sys.argv[1]).resolve())
