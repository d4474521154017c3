"""The lakehouse in an object store: the tables behave as on a disk, no commit is lost among many writers, and a whole run over it
makes the same bytes and writes no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import conftest
import corpus
import objects
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from flows.home import Home
from pipelines.lake import Lake, from_rows, spark_url, storage_options
from schemas import tables

pytestmark = pytest.mark.servers
RACES, THREADS = 40, 8


@pytest.fixture(autouse=True)
def store(port, monkeypatch):
    for name, value in objects.environment(port).items():
        monkeypatch.setenv(name, value)


def python(program: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=conftest.ROOT)


LAKE = """
import json, sys
from pipelines.lake import Lake, from_rows
from pipelines.spark import session
from schemas import tables
from schemas.parts import Spark

spark = session(Spark(driver_memory="1g", master="local[2]"), sys.argv[1], on_s3=True)
lake, table = Lake(sys.argv[2]), tables.DOCUMENTS
row = lambda i, source="s": (f"{i:032x}", source, "1", f"u#{i}", "docs", None, {}, "hello", 5)
frame = lambda *rows: spark.createDataFrame(list(rows), table.ddl)
told = [lake.version(table), lake.has(table)]
told.append(lake.write(frame(row(1), row(2, "t")), table, {"step": "a"}))
told.append(lake.write(frame(row(3)), table, {"step": "b"}, append=True))
told.append(lake.write(frame(row(4)), table, {"step": "c"}, where="source = 's'"))
told.append(lake.write(frame(), table, {"step": "d"}, where="source = 'u'"))
ids = lambda version: sorted(int(row.doc_id, 16) for row in lake.read(spark, table, version).select("doc_id").collect())
told += [[ids(version) for version in (1, 2, 3)], lake.ancestry(table), lake.rows(table), lake.has(table)]
print(json.dumps(told))
"""


def test_tables_behave_as_on_a_disk(tmp_path):
    """The same program over both: versions, time travel, replaced parts, commits without rows."""
    places = [str(tmp_path / "lake"), "s3://bucket/behave"]
    told = []
    for i, place in enumerate(places):
        (tmp_path / f"home{i}").mkdir()
        said = python(LAKE, str(tmp_path / f"home{i}"), place).communicate(timeout=300)[0]
        told.append(json.loads(said.splitlines()[-1]))  # behind the lines of a first set-up
    assert told[0] == told[1] == [None, False, 1, 2, 3, 4, [[1, 2], [1, 2, 3], [2, 4]], {"step": "d"}, 2, True]
    here, there = Lake(Path(places[0])), Lake(places[1])
    assert there.arrow(tables.DOCUMENTS).sort_by("doc_id") == here.arrow(tables.DOCUMENTS).sort_by("doc_id")
    assert there.count(tables.DOCUMENTS) == 2 and there.damage("bronze.documents", 4) is None
    row = there.arrow(tables.DOCUMENTS).to_pylist()[0] | {"doc_id": "f" * 32}
    there.write(from_rows([row], tables.DOCUMENTS), tables.DOCUMENTS, {"step": "e"}, append=True)
    assert there.count(tables.DOCUMENTS) == 3 and there.ancestry(tables.DOCUMENTS) == {"step": "e"}
    write_deltalake(there.path(tables.DOCUMENTS), there.arrow(tables.DOCUMENTS).slice(0, 1), mode="append", storage_options=storage_options("s3://x"))
    assert "changed by another" in there.damage("bronze.documents", 5) and there.ancestry(tables.DOCUMENTS) == {}


RACE = """
import os, sys, threading, time
from py4j.java_gateway import JavaGateway
from py4j.protocol import Py4JJavaError
from pipelines import s3
name, races, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
gateway = s3.java_gateway(s3.jars())
conf = gateway.jvm.org.apache.hadoop.conf.Configuration()
for key, value in s3.settings().items():
    conf.set(key.removeprefix("spark.hadoop."), value)
conf.set("fs.s3a.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
store = gateway.jvm.millrace.ConditionalLogStore(conf)

def write(key, text):
    lines = gateway.jvm.java.util.ArrayList()
    lines.append(text)
    store.write(gateway.jvm.org.apache.hadoop.fs.Path(f"s3a://bucket/{key}"), lines.iterator(), False, conf)

write(f"warm/{name}.json", "classes are loaded")
print("ready", flush=True)
start = float(sys.stdin.readline())

def race(thread):
    for version in range(races):
        time.sleep(max(0, start + version * .4 - time.time()))  # all at once
        try:
            write(f"races/{version:020}.json", f"{name}.{thread}")
            os.write(1, f"{version} {name}.{thread}\\n".encode())
        except Py4JJavaError as error:
            assert "FileAlreadyExistsException" in str(error.java_exception), error

workers = [threading.Thread(target=race, args=(i,)) for i in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
gateway.shutdown()
"""


def test_of_many_writers_of_a_version_one_wins():
    """Sixteen threads in two JVMs; oracle: what lies there is what its one winner wrote."""
    from pyarrow.fs import FileSelector

    from schemas.store import files_at

    racers = [python(RACE, name, str(RACES), str(THREADS)) for name in ("one", "two")]
    for racer in racers:
        while racer.stdout.readline() != "ready\n":
            assert racer.poll() is None
    start = time.time() + 1
    for racer in racers:
        racer.stdin.write(f"{start}\n")
        racer.stdin.flush()
    won = [line.split() for racer in racers for line in racer.communicate(timeout=300)[0].splitlines()]
    assert all(racer.returncode == 0 for racer in racers)
    assert Counter(int(version) for version, _ in won) == {version: 1 for version in range(RACES)}
    files = files_at("s3://bucket/races")
    there = {info.base_name: files.open_input_stream(info.path).read().decode() for info in files.get_file_info(FileSelector(""))}
    assert there == {f"{int(version):020}.json": f"{writer}\n" for version, writer in won}
    assert len({writer.split(".")[0] for _, writer in won}) == 2


APPEND = """
import sys
from pipelines.lake import spark_url
from pipelines.spark import session
from schemas.parts import Spark

spark = session(Spark(driver_memory="1g", master="local[1]"), sys.argv[1], on_s3=True)
for i in range(int(sys.argv[3])):
    spark.range(i, i + 1).write.format("delta").mode("append").save(spark_url(sys.argv[2]))
"""


def test_two_sparks_and_delta_rs_append_to_one_table_and_nothing_is_lost(tmp_path):
    place = "s3://bucket/shared"
    write_deltalake(place, pa.table({"id": pa.array([], pa.int64())}), storage_options=storage_options(place))
    sparks = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sparks.append(python(APPEND, str(tmp_path / name), place, "5"))
    appended = 0
    while appended < 40 and any(spark.poll() is None for spark in sparks):  # many more, and the Sparks come to nothing
        write_deltalake(place, pa.table({"id": [100 + appended]}), mode="append", storage_options=storage_options(place))
        appended += 1
    assert [spark.wait(300) for spark in sparks] == [0, 0] and appended
    table = DeltaTable(place, storage_options=storage_options(place))
    rows = pa.table(table.to_pyarrow_dataset().to_table()).column("id").to_pylist()
    assert sorted(rows) == sorted([*range(5), *range(5), *range(100, 100 + appended)]) and table.version() == 10 + appended


def test_a_run_over_a_lake_in_the_store_makes_the_same_and_writes_no_secret(finished_home, prefect_server, tmp_path):
    place = "s3://bucket/run"
    value = corpus.recipe(finished_home.file.parent / "text", tmp_path / "home") | {"lake": f"{place}/lake", "publish": f"{place}/out"}
    file = str(corpus.save(value, tmp_path / "recipe.yaml"))
    done = conftest.flows("run", "curriculum", "--recipe", file)
    assert done.returncode == 0, done.stdout + done.stderr
    home, local = Home(tmp_path / "home", f"{place}/lake"), finished_home.home
    for path in local.shards.rglob("*"):
        assert path.is_dir() or (home.shards / path.relative_to(local.shards)).read_bytes() == path.read_bytes(), path
    assert home.lake.count(tables.VERDICTS) == local.lake.count(tables.VERDICTS) and not (home.root / "lake" / "silver").exists()
    assert "Nothing to do" in conftest.flows("run", "curriculum", "--recipe", file).stdout
    doc_id = home.lake.arrow(tables.DOCUMENTS, ["doc_id"]).column(0)[0].as_py()
    assert "verdict" in conftest.flows("trace", doc_id, "--recipe", file).stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if objects.SECRET.encode() in path.read_bytes()]
    assert objects.SECRET not in done.stdout + done.stderr


def test_urls_are_spelt_as_each_library_wants_them(monkeypatch):
    assert spark_url("s3://a/b s3://c") == "s3a://a/b s3://c" and spark_url("/s3://a") == "/s3://a"
    assert storage_options("/a") is None and storage_options("s3://a")["AWS_ALLOW_HTTP"] == "true"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://example.org")
    told = lambda: {name: value for name, value in storage_options("s3://a").items() if name.startswith("AWS_")}  # noqa: E731
    assert told() == {"AWS_ENDPOINT_URL": "https://example.org"}
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert told() == {} and os.environ["AWS_SECRET_ACCESS_KEY"] == objects.SECRET
