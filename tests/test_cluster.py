"""The small run on a standalone cluster and over Spark Connect, both started from pip's Spark: the bytes are those of local[2]."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import corpus
import pyspark
import pytest
from conftest import ROOT, flows

from flows.home import Home
from pipelines import assets
from pipelines.lake import creation, literal
from pipelines.spark import SETTINGS, check_address, check_workers
from schemas import tables
from schemas.errors import DataError
from schemas.parts import FIXED, Spark

SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
SPARK_SUBMIT = Path(pyspark.__file__).parent / "bin" / "spark-submit"
LOOPBACK = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
SMALL = {"SPARK_DAEMON_MEMORY": "256m"}
SECONDS = 120


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command: list[str], log: Path, said: str, folder: Path, **env: str) -> subprocess.Popen:
    """A server, once its log says that it is there."""
    with log.open("w") as file:
        started = subprocess.Popen(
            list(map(str, command)), env=os.environ | LOOPBACK | env, stdout=file, stderr=file, cwd=folder, start_new_session=True
        )
    until = time.monotonic() + SECONDS
    while said not in log.read_text():
        assert started.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.2)
    return started


def stop(*servers: subprocess.Popen) -> None:
    for server in servers:
        os.killpg(server.pid, signal.SIGTERM)
    for server in servers:
        server.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """A master and two workers of a core each; its address."""
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    of = "org.apache.spark.deploy"
    address = f"spark://127.0.0.1:{port}"
    master = [SPARK_CLASS, f"{of}.master.Master", "--host", "127.0.0.1", "--port", port, "--webui-port", free_port()]
    servers = [start(master, folder / "master.log", "I have been elected leader", folder, **SMALL)]
    for i in range(2):
        worker = [SPARK_CLASS, f"{of}.worker.Worker", address, "--host", "127.0.0.1", "--cores", 1, "--memory", "1500m"]
        worker += ["--work-dir", folder / f"work{i}", "--webui-port", free_port()]
        servers.append(start(worker, folder / f"worker{i}.log", "Successfully registered with master", folder, **SMALL))
    yield address
    stop(*reversed(servers))


def connect_server(folder: Path, settings: dict[str, str]) -> tuple[subprocess.Popen, str]:
    """A Spark Connect server with these settings, and its address."""
    port = free_port()
    settings = settings | {"spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": str(port)}
    command = [SPARK_SUBMIT, "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", "local[2]"]
    command += ["--driver-class-path", os.pathsep.join(map(str, assets.JARS)), "--driver-memory", "1g"]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    return start([*command, "spark-internal"], folder / "connect.log", "Spark Connect server started at", folder), f"sc://127.0.0.1:{port}"


def made(home: Path) -> dict[str, bytes]:
    """Everything that leaves for the trainer, but for what the recipe tells it, which `train` writes."""
    shards = Home(home).shards
    files = (file for file in sorted(shards.rglob("*")) if file.is_file() and file.name != "settings.json")
    return {str(file.relative_to(shards)): file.read_bytes() for file in files}


def elsewhere(finished, folder: Path, spark: dict) -> str:
    """The small recipe in another home, on another Spark."""
    value = corpus.recipe(finished.file.parent / "text", folder / "home") | {"spark": {"driver_memory": "1g", **spark}}
    return str(corpus.save(value, folder / "recipe.yaml"))


def run(finished, folder: Path, spark: dict, **env: str):
    """All of it."""
    return flows("run", "curriculum", "--recipe", elsewhere(finished, folder, spark), env=env)


def run_to_shards(finished, folder: Path, spark: dict) -> str:
    """As far as Spark is needed; what it said."""
    command = [sys.executable, "-u", "-m", "flows.cli", "run", "curriculum", "--recipe", elsewhere(finished, folder, spark)]
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout:
            said.append(line)
            if line.split()[1:2] == ["train"]:
                running.terminate()
    return "".join(said)


@pytest.mark.servers
def test_a_cluster_makes_the_same_bytes(finished_home, prefect_server, cluster, tmp_path):
    said = run_to_shards(finished_home, tmp_path, {"master": cluster, "settings": {"spark.executor.memory": "1g", "spark.sql.shuffle.partitions": 4}})
    assert made(tmp_path / "home") == made(finished_home.home.root), said


@pytest.mark.servers
def test_spark_connect_makes_the_same_bytes(finished_home, prefect_server, tmp_path):
    server, address = connect_server(tmp_path, {name: SETTINGS[name] for name in FIXED})
    try:
        done = run(finished_home, tmp_path, {"master": address})
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert made(tmp_path / "home") == made(finished_home.home.root)
    finally:
        stop(server)


@pytest.mark.servers
def test_a_connect_server_without_delta_is_refused_at_once(finished_home, prefect_server, tmp_path):
    server, address = connect_server(tmp_path, {})
    try:
        done = run(finished_home, tmp_path, {}, SPARK_REMOTE=address)
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 11 and f"--conf spark.sql.extensions={SETTINGS['spark.sql.extensions']}, found None" in said, said
    finally:
        stop(server)


def test_workers_that_do_not_see_the_home_are_named(spark, tmp_path, monkeypatch):
    """A path that leads elsewhere in another process, as a machine's own disk does."""
    check_workers(spark, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"home: expected a folder that .* share, found /proc/self/cwd unseen by {re.escape(socket.gethostname())}"):
        check_workers(spark, Path("/proc/self/cwd"))
    assert not list((tmp_path / "tmp").iterdir())


def test_workers_with_other_code_are_named(spark, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.spark.code_hash", lambda: uuid.uuid4().hex)
    with pytest.raises(DataError, match=f"expected the same Millrace and libraries .* found others on {re.escape(socket.gethostname())}"):
        check_workers(spark, tmp_path)


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch):
    for master in (f"spark://127.0.0.1:{free_port()}", f"sc://127.0.0.1:{free_port()}/;user_id=x"):
        with pytest.raises(DataError, match=rf"spark\.master: expected {re.escape(master)} to answer, found .*refused"):
            check_address(master)
    check_address("local[2]")
    monkeypatch.setenv("SPARK_REMOTE", "local[2]")
    with pytest.raises(DataError, match=r"SPARK_REMOTE: expected sc://host:port of a Spark Connect server, found 'local\[2\]'"):
        check_address("local[2]")
    monkeypatch.delenv("SPARK_REMOTE")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        check_address(f"spark://127.0.0.1:{free_port()},127.0.0.1:{listening.getsockname()[1]}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"executor.memory": "1g"}, "expected names of Spark's such as spark.executor.memory, found 'executor.memory'"),
        ({"spark.sql.ansi.enabled": False}, "spark.sql.ansi.enabled, which Millrace sets itself"),
        ({"spark.hadoop.fs.s3a.secret.key": "x"}, "expected no secrets in a recipe, found spark.hadoop.fs.s3a.secret.key"),
    ],
)
def test_settings_that_may_not_be_set(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Spark(settings=settings)


def test_settings_are_handed_on_as_spark_spells_them():
    assert Spark(settings={"spark.ui.enabled": True, "spark.cores.max": 4, "spark.x": "a"}).values == {
        "spark.ui.enabled": "true", "spark.cores.max": "4", "spark.x": "a",
    }  # fmt: skip


def test_tables_are_created_with_all_that_their_definition_says(spark, tmp_path):
    """Oracle: Delta's own builder, which Spark Connect has not."""
    from delta.tables import DeltaTable
    from pyspark.sql.types import StructField, StructType

    for table in tables.VERDICTS, tables.DOCUMENTS:
        by_sql, by_builder = tmp_path / "sql's" / table.name, tmp_path / "builder" / table.name
        spark.sql(creation(table, str(by_sql)))
        columns = zip(table.columns, StructType.fromDDL(table.ddl), strict=True)
        fields = [StructField(column.name, parsed.dataType, column.nullable, {"comment": column.meaning}) for column, parsed in columns]
        builder = DeltaTable.create(spark).location(str(by_builder)).comment(table.meaning).addColumns(StructType(fields))
        builder = builder.property("delta.dataSkippingStatsColumns", ",".join(c for c in table.column_names if c in ("source", "snapshot", "run")))
        for name, condition in table.checks.items():
            builder = builder.property(f"delta.constraints.{name}", condition)
        builder.execute()
        one, other = (DeltaTable.forPath(spark, str(path)) for path in (by_sql, by_builder))
        assert one.toDF().schema == other.toDF().schema
        told = ["description", "properties", "minReaderVersion", "minWriterVersion"]
        assert one.detail().select(*told).first() == other.detail().select(*told).first()


def test_a_text_with_quotes_is_one_literal(spark):
    for text in "it's", 'a\\n"b"', "\\'", "${x}":
        assert spark.sql(f"SELECT {literal(text)} AS said").first().said == text
