"""Tables in an object store that stumbles, is away, refuses, lies or is left in the middle of a commit: no row is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading

import conftest
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.dedup.verify import TEXTS, read_rows
from pipelines.lake import Lake, storage_options
from schemas import tables
from schemas.files import file_sha256
from schemas.store import Store, refusal

pytestmark = pytest.mark.servers


SPARK = """
import json, sys, time
from pathlib import Path
from flows.home import Home
from pipelines.spark import session
from schemas import tables
from schemas.parts import Spark

home, table = Home(Path(sys.argv[1]), sys.argv[2]), tables.DOCUMENTS
spark = session(Spark(driver_memory="1g", master="local[2]"), sys.argv[1], on_s3=True)
print("ready", file=sys.stderr, flush=True)
for line in sys.stdin:
    kind, number = json.loads(line)
    row = (f"{number:032x}", "s", "1", f"u#{number}", "docs", None, {}, "hello", 5)
    began = time.monotonic()
    try:
        with home.tables_named():
            if kind == "append":
                told = home.lake.write(spark.createDataFrame([row], table.ddl), table, {"step": "a", "row": number}, append=True)
            else:
                told = sorted(int(one.doc_id, 16) for one in home.lake.read(spark, table).select("doc_id").collect())
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps([told, time.monotonic() - began]), file=sys.stderr, flush=True)
"""


class Worker:
    """A Spark of its own over a lake, that does what it is told: `append` a row of a number, or `read` the numbers."""

    def __init__(self, folder, lake: str):
        folder.mkdir()
        command = [sys.executable, "-c", SPARK, str(folder), lake]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=conftest.ROOT)
        assert self.read_line() == "ready"

    def read_line(self) -> str:
        for line in self.process.stderr:
            if line.startswith(("ready", "[")):
                return line.strip()
        return f"ended with {self.process.wait()}"

    def ask(self, kind: str, number: int = 0):
        self.process.stdin.write(json.dumps([kind, number]) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.read_line())
        print(kind, number, told)
        return told[0]


def test_spark_on_a_store_in_trouble_loses_and_doubles_no_row(trouble, tmp_path):
    lake = f"s3://bucket/{tmp_path.name}"
    spark = Worker(tmp_path / "home", lake)
    assert spark.ask("append", 1) == 1
    trouble.next = [503, "drop", "pass", 503, "cut", "pass", "drop", 503]
    assert spark.ask("append", 2) == 2 and trouble.next == []
    trouble.of, trouble.next = "^PUT .*_delta_log/.*json", ["lose"]
    assert spark.ask("append", 3) == 3 and trouble.next == []
    trouble.of, trouble.away = "", True
    threading.Timer(6, lambda: setattr(trouble, "away", False)).start()
    assert spark.ask("append", 4) == 4
    for requests in "^PUT .*parquet", "^PUT .*_delta_log", "":  # of Spark, and of all
        trouble.of, trouble.next = requests, ["expired"] * 10_000
        said = spark.ask("append", 5)
        assert said.startswith(f"PermissionError: {lake}: expected credentials that the object store takes") and "renew AWS_SESSION_TOKEN" in said
    trouble.of, trouble.next = "", []
    assert spark.ask("read") == [1, 2, 3, 4] and spark.ask("append", 5) == 5
    trouble.hidden = "_delta_log/0*5.json"
    assert Lake(lake).version(tables.DOCUMENTS) == 4
    assert "expected the object store to list all that it holds, found _delta_log/00000000000000000005.json there" in spark.ask("append", 6)
    trouble.hidden = None
    assert spark.ask("append", 6) == 6 and spark.ask("read") == [1, 2, 3, 4, 5, 6]
    spark.process.stdin.close()
    spark.process.wait(60)


ROWS = """
import sys
from pipelines.lake import Lake, from_rows
from schemas import tables

row = lambda i: {"doc_id": f"{i:032x}", "source": "s", "snapshot": "1", "uri": f"u#{i}", "domain": "docs", "licence": None, "meta": {}, "text": "x" * 1000, "n_bytes": 1000}
rows = from_rows([row(i) for i in range(int(sys.argv[2]))], tables.DOCUMENTS)
if not Lake(sys.argv[1]).has(tables.DOCUMENTS):
    from deltalake import DeltaTable
    from pipelines.lake import storage_options
    place = Lake(sys.argv[1]).path(tables.DOCUMENTS)
    DeltaTable.create(place, rows.schema, storage_options=storage_options(place))
Lake(sys.argv[1]).write(rows, tables.DOCUMENTS, {"step": "a", "rows": int(sys.argv[2])})
"""


def write(lake: str, rows: int) -> subprocess.Popen:
    """A process that replaces a table's rows by so many, in one commit of delta-rs."""
    return subprocess.Popen([sys.executable, "-c", ROWS, lake, str(rows)], cwd=conftest.ROOT)


@pytest.mark.parametrize("what", ["hang", "hold"])
@pytest.mark.parametrize("request_of", [r"^PUT .*\.parquet", r"^PUT .*_delta_log/0*1\.json"], ids=["file", "commit"])
def test_a_writer_killed_in_a_commit_leaves_the_old_rows_or_the_new_and_the_next_one_goes_on(trouble, tmp_path, what, request_of):
    """kill -9 while a file, or the commit, is on its way: before the store has it, and when it has."""
    lake = f"s3://bucket/{tmp_path.name}"
    trouble.of, trouble.next = request_of, [what]
    writer = write(lake, 20)
    assert trouble.hangs.wait(60)
    writer.kill()
    writer.wait()
    committed = what == "hold" and "json" in request_of
    assert Lake(lake).count(tables.DOCUMENTS) == (20 if committed else 0)
    assert Lake(lake).ancestry(tables.DOCUMENTS) == ({"step": "a", "rows": 20} if committed else {})
    assert write(lake, 20).wait(60) == 0
    rows = Lake(lake).arrow(tables.DOCUMENTS).sort_by("doc_id")
    assert rows.column("doc_id").to_pylist() == [f"{i:032x}" for i in range(20)] and set(rows.column("text").to_pylist()) == {"x" * 1000}
    assert Lake(lake).damage("bronze.documents", Lake(lake).version(tables.DOCUMENTS)) is None


def test_delta_rs_on_a_store_in_trouble_loses_and_doubles_no_row(trouble, tmp_path):
    place = f"s3://bucket/{tmp_path.name}"
    append = lambda number: write_deltalake(place, pa.table({"id": [number]}), mode="append", storage_options=storage_options(place))  # noqa: E731
    append(0)
    for number, troubles in enumerate(([503, "drop"], ["pass", 503, 503], ["pass", "drop", "drop"]), 1):
        trouble.next = troubles
        append(number)
        assert not trouble.next
    trouble.of, trouble.next = "^PUT .*_delta_log", ["lose"]
    append(4)
    trouble.of, trouble.away = "", True
    threading.Timer(5, lambda: setattr(trouble, "away", False)).start()
    append(5)
    trouble.next = ["expired"] * 100
    with pytest.raises(Exception, match="ExpiredToken") as told:
        append(6)
    assert "renew AWS_SESSION_TOKEN" in refusal(str(told.value))
    trouble.next = []
    table = DeltaTable(place, storage_options=storage_options(place))
    assert sorted(pa.table(table.to_pyarrow_dataset().to_table()).column("id").to_pylist()) == [0, 1, 2, 3, 4, 5]


def test_arrow_reads_a_table_from_a_store_in_trouble_and_a_body_that_is_cut_is_asked_for_again(trouble, tmp_path):
    lake = Lake(f"s3://bucket/{tmp_path.name}")
    assert write(lake.root, 30).wait(60) == 0
    whole = lake.arrow(tables.DOCUMENTS)
    for troubles in (["cut"] * 2, [503, "drop", "cut"], ["pass", "pass", "pass", "cut", "drop"], ["pass"] * 5 + ["cut"]):
        trouble.next = list(troubles)
        assert lake.arrow(tables.DOCUMENTS) == whole and lake.version(tables.DOCUMENTS) == 1
        trouble.next = []
    trouble.away = True
    threading.Timer(8, lambda: setattr(trouble, "away", False)).start()
    assert lake.arrow(tables.DOCUMENTS) == whole


def test_a_listing_that_hides_commits_is_not_taken_for_no_table(trouble, tmp_path):
    lake = Lake(f"s3://bucket/{tmp_path.name}")
    assert write(lake.root, 30).wait(60) == 0
    there = lake.arrow(tables.DOCUMENTS)
    for hidden in ("_delta_log/", r"_delta_log/0*0\.json", r"_delta_log/0*1\.json"):
        trouble.hidden = hidden
        with contextlib.suppress(OSError, DeltaError):
            lake.write(there.slice(0, 0), tables.DOCUMENTS, {"step": "b"}, append=True)
    trouble.hidden = None
    assert lake.arrow(tables.DOCUMENTS) == there


def test_a_few_texts_are_read_without_all_others(trouble, tmp_path):
    """Of 40 groups of rows those with one of the ids, in two files; oracle: the rows that were written."""
    place, chance = f"s3://bucket/{tmp_path.name}", random.Random(3)
    rows = [{"doc_id": chance.randbytes(16).hex(), "text": chance.randbytes(10_000).hex()} for _ in range(2000)]
    for i, half in enumerate((rows[:1000], rows[1000:])):
        pq.write_table(pa.Table.from_pylist(half), tmp_path / f"{i}.parquet", row_group_size=50)
        Store(place).put(tmp_path / f"{i}.parquet", f"{i}.parquet")
    files = [f"{place}/{i}.parquet" for i in (0, 1)]
    for wanted in (rows[7:9], rows[0:1] + rows[49:51] + rows[999:1001] + rows[-1:], rows, []):
        before = trouble.n_bytes
        ids = pa.array([*(row["doc_id"] for row in wanted), "0" * 32], pa.string())
        got = [row for part in read_rows(files, ids, TEXTS) for row in part.to_pylist()]
        assert sorted(map(str, got)) == sorted(map(str, wanted))
        assert len(wanted) == 2000 or trouble.n_bytes - before < 9e6, "of 40 MB"


@pytest.mark.parametrize("part", [1, 2, 3])
def test_an_upload_that_is_killed_is_not_there_and_the_next_makes_it_whole(trouble, tmp_path, part):
    """kill -9 while a part of a large file is on its way; oracle: its bytes."""
    place = f"s3://bucket/{tmp_path.name}"
    (tmp_path / "file").write_bytes(random.Random(part).randbytes(40 << 20))
    program = "import sys; from pathlib import Path; from schemas.store import Store; Store(sys.argv[1]).put(Path(sys.argv[2]), 'large')"
    for old in (b"", b"old"):
        if old:
            (tmp_path / "old").write_bytes(old)
            Store(place).put(tmp_path / "old", "large")
        trouble.of, trouble.next = "^PUT .*partNumber" if part < 3 else "^POST .*uploadId", ["pass"] * (part - 1) * (part < 3) + ["hang"]
        trouble.hangs.clear()
        sender = subprocess.Popen([sys.executable, "-c", program, place, str(tmp_path / "file")], cwd=conftest.ROOT)
        assert trouble.hangs.wait(60)
        sender.kill()
        sender.wait()
        trouble.of, trouble.next = "", []
        assert Store(place).sizes() == ({"large": len(old)} if old else {}) and (not old or Store(place).read("large") == old)
        assert subprocess.run([sys.executable, "-c", program, place, str(tmp_path / "file")], cwd=conftest.ROOT).returncode == 0
        Store(place).get("large", tmp_path / "got", file_sha256(tmp_path / "file"))
