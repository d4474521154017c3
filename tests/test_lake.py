"""Tables as their schema says, read by two other implementations of Delta's protocol and Parquet."""

from __future__ import annotations

import dataclasses
import json
import random
import resource

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows.home import DiskFull, Home
from pipelines.dedup.verify import TEXTS, read_rows
from pipelines.deliveries import Delivery, arrow_condition
from pipelines.lake import Lake, from_rows
from pipelines.signals import TABLE
from schemas import tables

ROW = ("a" * 32, "s", "1", "u#1", "docs", None, {"title": "t"}, "hello", 5)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def frame(spark, *rows):
    return spark.createDataFrame(list(rows), tables.DOCUMENTS.ddl)


def test_a_table_has_comments_constraints_and_ancestry_and_others_can_read_it(spark, lake):
    import duckdb

    version = lake.write(frame(spark, ROW), tables.DOCUMENTS, {"step": "ingest", "hash": "f"})
    path = lake.path(tables.DOCUMENTS)
    history = spark.sql(f"describe history delta.`{path}`").first()
    assert json.loads(history.userMetadata) == {"step": "ingest", "hash": "f"} and history.version == version
    comments = {field.name: field.metadata["comment"] for field in lake.read(spark, tables.DOCUMENTS).schema}
    assert comments == {column.name: column.meaning for column in tables.DOCUMENTS.columns}
    assert lake.rows_written(tables.DOCUMENTS) == 1
    assert lake.arrow(tables.DOCUMENTS, ["text"], pc.field("n_bytes") == 5).to_pylist() == [{"text": "hello"}]
    assert duckdb.sql(f"select text from '{path}/*.parquet'").fetchall() == [("hello",)]


def test_duckdb_sees_a_table_with_rows_and_one_without(spark, lake):
    """Of contamination, say, where no document holds an evaluation's item: delta-rs leaves no file."""
    import duckdb

    one, none = frame(spark, ROW), from_rows([], tables.DOCUMENTS)
    for rows, count in ((one, 1), (frame(spark), 0), (none, 0), (one, 1)):
        lake.write(rows, tables.DOCUMENTS, {})
        with duckdb.connect() as db:
            lake.view(db, "documents", tables.DOCUMENTS)
            read = db.sql("select * from documents").to_arrow_table()
        assert read.column_names == list(tables.DOCUMENTS.column_names)
        assert read.num_rows == count
    lake.write(none, tables.DOCUMENTS, {})
    assert lake.files(tables.DOCUMENTS) == []


def test_a_write_that_changes_nothing_carries_its_ancestry_all_the_same(spark, lake):
    for told in ({"step": "a"}, {"step": "b"}, {"step": "a"}):
        lake.write(frame(spark), tables.DOCUMENTS, told, where="source = 't'")
        assert lake.ancestry(tables.DOCUMENTS) == told and lake.rows_written(tables.DOCUMENTS) == 0
    lake.write(frame(spark, ROW), tables.DOCUMENTS, {"step": "c"})
    assert lake.ancestry(tables.DOCUMENTS) == {"step": "c"} and lake.rows_written(tables.DOCUMENTS) == 1


def test_rows_are_counted_and_summed_as_spark_does(spark, lake):
    lake.write(frame(spark, *[(f"{i:032x}", *ROW[1:8], i + 1) for i in range(40)]), tables.DOCUMENTS, {})
    assert (lake.count(tables.DOCUMENTS), lake.count(tables.DOCUMENTS, pc.field("n_bytes") > 30)) == (40, 10)
    assert lake.total(tables.DOCUMENTS, pc.field("n_bytes") - 1) == sum(range(40))
    lake.write(frame(spark), tables.DOCUMENTS, {})
    assert (lake.count(tables.DOCUMENTS), lake.total(tables.DOCUMENTS, pc.field("n_bytes"))) == (0, 0)


def test_a_row_that_breaks_a_constraint_stops_the_write_and_the_old_version_stays(spark, lake):
    version = lake.write(frame(spark, ROW), tables.DOCUMENTS, {})
    with pytest.raises(Exception, match="has_text"):
        lake.write(frame(spark, (*ROW[:8], 0)), tables.DOCUMENTS, {})
    with pytest.raises(Exception, match="source"):
        lake.write(frame(spark, (ROW[0], None, *ROW[2:])), tables.DOCUMENTS, {})
    assert lake.version(tables.DOCUMENTS) == version and lake.arrow(tables.DOCUMENTS).num_rows == 1


def test_rows_of_this_process_are_written_like_sparks(spark, lake):
    mixed = [("a" * 32, "b" * 32, 1), ("b" * 32, "c" * 32, 2), ("c" * 32, "d" * 32, 3)]
    rows = [pa.table(dict(zip("a b support".split(), ([value], [other], pa.array([n], pa.int32())), strict=True))) for value, other, n in mixed]
    lake.write(rows[0], tables.PAIRS, {"step": "a"})
    lake.write(spark.createDataFrame(mixed[1:2], "a string, b string, support int"), tables.PAIRS, {"step": "b"}, append=True)
    lake.write(rows[2], tables.PAIRS, {"step": "c"}, append=True)
    assert lake.ancestry(tables.PAIRS) == {"step": "c"} and lake.rows_written(tables.PAIRS) == 1
    assert sorted(map(tuple, lake.read(spark, tables.PAIRS).collect())) == mixed
    path = lake.path(tables.PAIRS)
    assert [json.loads(row.userMetadata or "{}") for row in spark.sql(f"describe history delta.`{path}`").collect()][:2] == [{"step": "c"}, {"step": "b"}]
    version = lake.version(tables.PAIRS)
    for broken in (rows[0].set_column(0, "a", [["z"]]), rows[0].set_column(0, "a", [pa.nulls(1, pa.string())])):
        with pytest.raises(Exception, match=r"failed validation check|[Nn]ull"):
            lake.write(broken, tables.PAIRS, {})
    assert lake.version(tables.PAIRS) == version
    lake.write(rows[0], tables.PAIRS, {"step": "d"})
    lake.write(rows[0].slice(0, 0), tables.PAIRS, {"step": "none"}, append=True)
    assert list(map(tuple, lake.read(spark, tables.PAIRS).collect())) == mixed[:1] and lake.ancestry(tables.PAIRS) == {"step": "none"}


def test_a_deliverys_rows_are_sought_in_the_files_that_may_hold_some(spark, lake):
    for snapshot in "123":
        lake.write(frame(spark, (snapshot * 32, "s", snapshot, *ROW[3:])), tables.DOCUMENTS, {}, append=True)
    files = lake.files(tables.DOCUMENTS, arrow_condition([Delivery("s", "1"), Delivery("s", "3")]))
    assert sorted(name for file in files for name in pq.read_table(file, columns=["snapshot"])["snapshot"].to_pylist()) == ["1", "3"]
    assert len(lake.files(tables.DOCUMENTS)) == 3 and lake.files(tables.DOCUMENTS, arrow_condition([Delivery("t", "1")])) == []


def test_few_texts_stand_in_a_page_and_those_that_are_wanted_are_found(spark, lake):
    texts = {f"{i:032x}": f"{i} " * (1 + i % 50 * 50) for i in range(600)}
    lake.write(frame(spark, *[(i, *ROW[1:7], text, len(text)) for i, text in texts.items()]), tables.DOCUMENTS, {})
    files = lake.files(tables.DOCUMENTS)
    assert sum(pages(spark, file, "text") for file in files) > sum(map(len, texts.values())) / 40_000  # of 16 KB and a text at the most
    wanted = [*list(texts)[5::7], "f" * 32]
    found = pa.Table.from_batches(read_rows(files, pa.array(wanted), TEXTS))
    assert dict(zip(*found.to_pydict().values(), strict=True)) == {i: texts[i] for i in wanted[:-1]}


def pages(spark, file: str, column: str) -> int:
    """How many pages hold the column, by the file's own index."""
    java = spark._jvm.org.apache
    path = java.parquet.hadoop.util.HadoopInputFile.fromPath(java.hadoop.fs.Path(file), spark._jsc.hadoopConfiguration())
    reader = java.parquet.hadoop.ParquetFileReader.open(path)
    columns = [chunk for block in reader.getFooter().getBlocks() for chunk in block.getColumns()]
    return sum(reader.readOffsetIndex(chunk).getPageCount() for chunk in columns if chunk.getPath().toDotString() == column)


def test_old_versions_can_be_read_and_a_part_can_be_replaced(spark, lake):
    first = lake.write(frame(spark, ROW), tables.DOCUMENTS, {})
    lake.write(frame(spark, ("b" * 32, "t", *ROW[2:])), tables.DOCUMENTS, {}, where="source = 't'")
    lake.write(frame(spark, ("c" * 32, "t", *ROW[2:])), tables.DOCUMENTS, {}, where="source = 't'")
    assert sorted(row.source for row in lake.read(spark, tables.DOCUMENTS).collect()) == ["s", "t"]
    assert [row.source for row in lake.read(spark, tables.DOCUMENTS, first).collect()] == ["s"]


def test_a_folder_without_a_log_is_what_a_stopped_run_left(spark, lake):
    folder = lake.root / "bronze" / "documents" / "part"
    folder.mkdir(parents=True)
    (folder / "part-0.parquet").write_bytes(b"half a file")
    assert lake.version(tables.DOCUMENTS) is None
    lake.write(frame(spark, ROW), tables.DOCUMENTS, {})
    assert lake.arrow(tables.DOCUMENTS).num_rows == 1


def test_a_table_whose_columns_changed_is_made_anew(spark, lake):
    fewer = dataclasses.replace(tables.DOCUMENTS, columns=tables.DOCUMENTS.columns[:1], checks={})
    lake.write(frame(spark, ROW), fewer, {})
    lake.write(frame(spark, ROW), tables.DOCUMENTS, {})
    assert lake.read(spark, tables.DOCUMENTS).columns == list(tables.DOCUMENTS.column_names)
    retyped = [dataclasses.replace(c, type="double") if c.name == "n_bytes" else c for c in tables.DOCUMENTS.columns]
    other = dataclasses.replace(tables.DOCUMENTS, columns=tuple(retyped))
    assert lake.has(tables.DOCUMENTS) and not lake.has(other)
    lake.write(frame(spark, ROW).selectExpr("* except (n_bytes)", "double(n_bytes) n_bytes"), other, {})
    assert dict(lake.read(spark, other).dtypes)["n_bytes"] == "double" and lake.has(other)


def test_a_table_that_was_made_is_there(spark, lake):
    for table in [tables.DOCUMENTS, TABLE, tables.LEDGER]:
        lake.write(spark.createDataFrame([], table.ddl), table, {})
        assert lake.has(table), table.name


def test_a_full_disk_is_named_and_the_old_version_stays(spark, tmp_path):
    """Java's files may not grow past 200 kB. Text that does not compress needs 1 MB."""
    home = Home(tmp_path)
    version = home.lake.write(frame(spark, ROW), tables.DOCUMENTS, {})
    text = random.Random(1).randbytes(1_000_000).hex()
    java = spark.sparkContext._gateway.proc.pid
    limits = resource.prlimit(java, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(DiskFull, match=rf"ingest could not write: the disk of {tmp_path} is full .* goes on from ingest"):
            with home.space_named("ingest"):
                home.lake.write(frame(spark, (*ROW[:7], text, len(text))), tables.DOCUMENTS, {})
    finally:
        resource.prlimit(java, resource.RLIMIT_FSIZE, limits)
    assert home.lake.version(tables.DOCUMENTS) == version and home.lake.arrow(tables.DOCUMENTS).num_rows == 1
    home.lake.write(frame(spark, (*ROW[:7], text, len(text))), tables.DOCUMENTS, {})
    assert home.lake.arrow(tables.DOCUMENTS, ["n_bytes"]).to_pylist() == [{"n_bytes": len(text)}]


def test_every_table_has_distinct_columns_and_a_key_among_them():
    for table in tables.ALL:
        assert len(set(table.column_names)) == len(table.columns), table.name
        assert set(table.key) <= set(table.column_names), table.name


def test_workers_have_their_imports_from_before_the_fork(spark):
    def run(batches):
        import gc
        import sys

        told = [gc.get_freeze_count() > 100_000, "pipelines.signals.measure" in sys.modules, "torch" in sys.modules]
        yield from (pa.RecordBatch.from_arrays([pa.array([one]) for one in told], ["frozen", "measure", "torch"]) for _ in batches)

    rows = spark.range(4).repartition(2).mapInArrow(run, "frozen boolean, measure boolean, torch boolean").distinct().collect()
    assert [tuple(row) for row in rows] == [(True, True, False)]


def test_rows_become_the_columns_of_each_table(spark):
    """Against Spark's own reading of the same types."""
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructType

    for table in (tables.RUNS, tables.DELIVERIES, tables.DOCUMENTS):
        made = from_rows([], table).schema
        assert made.names == list(table.column_names)
        assert made.types == to_arrow_schema(StructType.fromDDL(table.ddl)).types
    row = {"source": "s", "documents": {"psi:x": ["a", "b"]}, "measured": {"bytes": 2.0}, "else": 1}
    (back,) = from_rows([row], tables.DELIVERIES).to_pylist()
    assert dict(back["documents"]) == row["documents"] and dict(back["measured"]) == row["measured"] and back["why"] is None and "else" not in back
