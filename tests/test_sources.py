"""Sources as they lie in the wild: tables of a lakehouse, folders that are columns, names in capitals, homes below a source."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from deltalake import DeltaTable, write_deltalake
from test_ingest import hashes, outcome, read, recipe, source

from flows.preflight import check_home
from pipelines.decontaminate import items
from pipelines.readers import READERS, Record, ingest
from pipelines.spark import escape_globs
from schemas.parts import Decontaminate
from schemas.recipe import RecipeError


def texts(path, reader="parquet", **fields):
    return sorted(outcome(one) for one in read(path, reader, **fields))


def refused(path, reader="parquet", **fields):
    with pytest.raises(RecipeError) as error:
        ingest.listing(recipe(source(path, reader, **fields)))
    return str(error.value)


# --- tables


def table(folder, *versions, **options):
    """A Delta table whose content was replaced by each of `versions`, lists of texts."""
    for rows in versions:
        write_deltalake(str(folder), pa.table({"text": pa.array(rows, pa.string())}), mode="overwrite", **options)
    return folder


def test_a_delta_folder_is_the_table_as_it_is_or_was(tmp_path):
    folder = table(tmp_path / "lake" / "t", ["old a", "old b"], ["new"])
    write_deltalake(str(folder), pa.table({"text": ["more", "less"]}), mode="append")
    DeltaTable(str(folder)).delete("text = 'less'")
    DeltaTable(str(folder)).create_checkpoint()  # it is Parquet too
    assert texts(folder) == texts(folder, version=3) == ["more", "new"]
    assert texts(folder, version=0) == ["old a", "old b"] and texts(folder, version=2) == ["less", "more", "new"]
    assert "version: expected a Delta table that can be read" in refused(folder, version=9)
    table(tmp_path / "lake" / "deep" / "u", ["removed"], ["other"])
    pq.write_table(pa.table({"text": ["plain"]}), tmp_path / "lake" / "plain.parquet")
    assert texts(tmp_path / "lake") == texts(tmp_path / "**" / "*.parquet") == ["more", "new", "other", "plain"]
    assert texts(tmp_path / "lake" / "*" / "*.parquet") == texts(folder / "*.parquet") == texts(tmp_path / "lake" / "?") == ["more", "new"]
    uris = {one.uri for one in read(tmp_path / "lake", "parquet")}
    assert {uri.partition("/part-")[0] for uri in uris} == {"deep/u", "t", "plain.parquet#0"}


def test_one_file_of_a_table_is_read_if_the_table_holds_it(tmp_path):
    folder = table(tmp_path / "t", ["old"], ["new"])
    for file in folder.glob("*.parquet"):
        (text,) = pq.read_table(file)["text"].to_pylist()
        if text == "new":
            assert texts(file) == ["new"]
        else:
            assert "none at" in refused(file) and texts(file, version=0) == ["old"]


def test_the_hash_of_a_table_is_that_of_its_files_at_the_version(tmp_path):
    folder = table(tmp_path / "t", ["a"])
    of = lambda **fields: hashes(recipe(source(folder, "parquet", **fields)))["web/1"]  # noqa: E731
    first, pinned = of(), of(version=0)
    table(folder, ["b"])
    assert of() != first and of(version=0) == pinned


def test_tables_that_cannot_be_read_whole_are_refused(tmp_path):
    folder = table(tmp_path / "t", ["old"], ["new"])
    DeltaTable(str(folder)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert texts(folder) == ["new"]
    assert "version: expected all 1 files of version 0" in refused(folder, version=0)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "x.parquet")
    assert "version: expected a Delta table at" in refused(tmp_path / "x.parquet", version=0)
    (folder / "_delta_log" / "00000000000000000001.json").write_text("{")
    assert "path: expected a Delta table that can be read" in refused(folder)
    for place in ("ice/metadata/v1.metadata.json", "vectors/_versions/1.manifest", "w.lance/data/x", "h/.hoodie/x"):
        (tmp_path / "f" / place).parent.mkdir(parents=True)
        (tmp_path / "f" / place).write_text("{}")
    for name, kind in {"ice": "Iceberg", "vectors": "Lance", "w.lance": "Lance", "h": "Hudi"}.items():
        said = refused(tmp_path / "f" / name)
        assert said.startswith("sources.web.path: expected plain Parquet files or Delta tables, not a table of " + kind) and "\n" not in said
        assert kind in refused(tmp_path / "f" / name, "jsonl")
    assert "not a table of" in refused(tmp_path / "f") and "not a table of Lance" in refused(tmp_path / "f" / "v*")
    assert "sources.web.reader: expected parquet for a Delta table, found jsonl" in refused(table(tmp_path / "u", ["a"]), "jsonl")


def test_the_log_of_a_table_is_no_text(tmp_path):
    table(tmp_path / "t", ["a"])
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    assert [one.uri for one in read(tmp_path, "jsonl")] == ["a.jsonl#1"]


def test_rows_that_a_deletion_vector_takes_out_are_not_read(spark, tmp_path):
    rows = spark.createDataFrame([(f"t{i}", "a b" if i % 2 else "x:y%z/é") for i in range(20)], "text string, lang string")
    writer = rows.repartition(1).write.format("delta").partitionBy("lang").option("delta.enableDeletionVectors", "true")
    writer.save(str(tmp_path / "t"))
    before = hashes(recipe(source(tmp_path / "t", "parquet")))
    spark.sql(f"delete from delta.`{tmp_path}/t` where text in ('t3', 't4', 't5')")
    origin = source(tmp_path / "t", "parquet")
    assert hashes(recipe(origin)) != before
    listed = ingest.listing(recipe(origin))
    made = ingest.read_records(spark, recipe(origin), listed).collect()  # what is listed reaches the workers
    assert sorted(row.text for row in made) == sorted(f"t{i}" for i in range(20) if i not in (3, 4, 5))
    assert {row.facts["lang"] for row in made if int(row.text[1:]) % 2 == 0} == {"x:y%z/é"}
    assert len(read(tmp_path / "t", "parquet", version=0)) == 20


def test_columns_under_other_names_are_refused(spark, tmp_path):
    spark.sql(f"create table delta.`{tmp_path}/t` (text string) using delta tblproperties('delta.columnMapping.mode' = 'name')")
    assert "column mapping" in refused(tmp_path / "t")


# --- columns


def test_every_type_that_holds_text_is_text(tmp_path):
    """string_view is what Polars writes since 1.38."""
    plain = pa.array(["a", None, "é"])
    kinds = [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()), pa.json_(pa.string_view()), pa.json_(),
        pa.opaque(pa.large_string(), "t", "v"),
    ]  # fmt: skip
    for kind in kinds:
        stored = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(stored)
        column = pa.ExtensionArray.from_storage(kind, column) if stored is not kind else column
        pq.write_table(pa.table({"text": column, "l": column}), tmp_path / "a.parquet")
        made = read(tmp_path / "a.parquet", "parquet", licence_field="l", licence="MIT")
        assert [outcome(one) for one in made] == ["a", "no_text", "é"], kind
        assert [one.licence for one in made if isinstance(one, Record)] == ["a", "é"]


def test_folders_of_hive_are_columns(tmp_path):
    for place, text in {"year=2024/l=CC%20BY/a": "x", "year=__HIVE_DEFAULT_PARTITION__/l=MIT/b": "y", "year=/=z/c": "z"}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [text]}), tmp_path / f"{place}.parquet")
        (tmp_path / f"{place}.jsonl").write_text(json.dumps({"text": text}))
    for reader in ("parquet", "jsonl"):
        made = {outcome(one): (one.licence, dict(one.facts)) for one in read(tmp_path, reader, licence_field="l", licence="CC0")}
        assert made == {"x": ("CC BY", {"year": "2024", "l": "CC BY"}), "y": ("MIT", {"l": "MIT"}), "z": ("CC0", {})}
    assert {one.licence for one in read(tmp_path / "year=*" / "*" / "*.parquet", "parquet", licence_field="l")} == {"CC BY", "MIT", None}
    assert "expected a column 'm'" in refused(tmp_path, licence_field="m")


# --- names


def test_suffixes_may_be_in_capitals(tmp_path):
    line, words = b'{"text": "line"}', "A page that has some words, as pages have, and a few more of them."
    page = f"<html><body><p>{words}</p></body></html>".encode()
    with zipfile.ZipFile(tmp_path / "A.ZIP", "w") as archive:
        archive.writestr("IN.JSONL", line)
        archive.writestr("IN.TXT", "text")
        archive.writestr("IN.HTM", page)
    (tmp_path / "a.JSONL.GZ").write_bytes(gzip.compress(line))
    (tmp_path / "a.Ndjson.Zst").write_bytes(zstandard.compress(line))
    pq.write_table(pa.table({"text": ["row"]}), tmp_path / "a.Parquet")
    (tmp_path / "a.Md").write_text("text")
    (tmp_path / "a.HTML").write_bytes(page)
    (tmp_path / "a.Py").write_text("code")
    shutil.copy(tmp_path / "A.ZIP", tmp_path / "B.Zip")
    assert [(one.uri, outcome(one)) for one in read(tmp_path, "jsonl")] == [
        (uri, "line") for uri in ("A.ZIP/IN.JSONL#1", "B.Zip/IN.JSONL#1", "a.JSONL.GZ#1", "a.Ndjson.Zst#1")]  # fmt: skip
    assert texts(tmp_path) == ["row"] and texts(tmp_path, "text") == ["text"] * 3
    assert texts(tmp_path, "html") == [words] * 3 and texts(tmp_path / "A.ZIP", "tree")[-1] == "text"
    assert [one.facts for one in read(tmp_path, "tree") if one.uri == "a.Py"] == [(("language", "Python"),)]
    assert ingest._most_tokens(READERS["jsonl"].list_files(source(tmp_path), 1)[2]) > 1000
    record = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n"
    (tmp_path / "A.WARC.WET.GZ").write_bytes(gzip.compress(record))
    assert texts(tmp_path, "wet") == ["text"]


def test_evaluation_files_have_the_same_suffixes_and_types(tmp_path):
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(b'{"q": "What is asked?"}'))
    column = pa.array(["What is asked?"])
    pq.write_table(pa.table({"q": column.cast(pa.string_view())}), tmp_path / "B.PARQUET")
    pq.write_table(pa.table({"q": pa.ExtensionArray.from_storage(pa.json_(), column)}), tmp_path / "c.parquet")
    for name in ("A.JSONL.GZ", "B.PARQUET", "c.parquet"):
        (only,) = items.read(Decontaminate(files=[{"path": str(tmp_path / name), "fields": ["q"]}]))
        assert [item.texts for item in only.items] == [("What is asked?",)]


# --- homes


@pytest.fixture
def home(tmp_path):
    """A home as a run leaves it, below a folder of texts."""
    home = tmp_path / "texts" / "home"
    for part in ("lake/a.jsonl", "tmp/a.jsonl", "report/a.jsonl", "mine/a.jsonl"):
        (home / part).parent.mkdir(parents=True)
        (home / part).write_text(json.dumps({"text": part}))
    table(home / "lake" / "bronze" / "documents", ["a"])
    (home / "lock").write_text("process 7")
    (home.parent / "b.jsonl").write_text('{"text": "b"}')
    return home


def test_a_home_below_a_source_is_never_read(home):
    assert texts(home.parent, "jsonl") == texts(home.parent / "**" / "*.jsonl", "jsonl") == ["b", "mine/a.jsonl"]
    assert texts(home, "jsonl") == ["mine/a.jsonl"]
    pq.write_table(pa.table({"text": ["x"]}), home.parent / "x.parquet")
    assert texts(home.parent) == ["x"]
    (home / "lock").write_text("another's lock")
    assert len(texts(home.parent, "jsonl")) == 5


def test_a_source_in_the_home_is_refused(home):
    for path, bad in ((home / "lake", True), (home / "lake" / "bronze" / "*.parquet", True), (home, True), (home / "*.jsonl", True), (home / "mine", False), (home.parent, False)):
        given = recipe(source(path), home=str(home))
        if bad:
            with pytest.raises(ValueError, match=r"sources\.web\.path: expected text from outside of the home"):
                check_home(given)
        else:
            check_home(given)


@pytest.mark.parametrize("name", ["exp[1]", "run%20a", "a\\b", "a|b", "a^b", "`a`", "a?b", "${a}", "a\nb", "a:*", "{a}:b"])
def test_homes_that_the_lake_would_not_find_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"^home: expected a path without .*; found .* in ") as error:
        check_home(recipe(source("x"), home=str(tmp_path / name / "home")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place, said", [("file", "file, a file"), ("file/below", "file, a file"), ("/proc/x", "/proc/x, and nothing can be made in /proc"), ("/proc/version/x/y", "/proc/version, a file")])
def test_homes_that_no_folder_can_be_made_for_are_refused(tmp_path, monkeypatch, place, said):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ValueError, match=rf"^home: expected a folder, or a place for one; found \S*{said}$"):
        check_home(recipe(source("x"), home=place))
    for good in ("new", "a/b/c", "."):
        check_home(recipe(source(tmp_path.parent), home=good))


@pytest.mark.parametrize("path", ["s3://bucket/home", "file:///home/a", "gs://a", "dbfs:/a", "file:/a", "", "a\0b"])
def test_urls_are_no_paths(path):
    for place, given in (("home", {"home": path}), ("sources.0.path", {"sources": [{"name": "a", "reader": "jsonl", "domain": "docs", "path": path}]})):
        with pytest.raises(ValueError, match="expected a path"):
            recipe(source("x"), **given), place


def test_the_home_folder_of_the_user_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    files = {"files": [{"path": "~/e.jsonl", "fields": ["q"]}]}
    made = recipe(source("~/texts/*.jsonl"), home="~/runs", decontaminate=files)
    assert (made.home, made.sources[0].path, made.decontaminate.files[0].path) == ("/home/ada/runs", "/home/ada/texts/*.jsonl", "/home/ada/e.jsonl")


ODD = """we "are", it's #1 {x,y} é日 a&b=c * $a;d"""


@pytest.mark.servers
def test_spark_starts_and_writes_in_a_home_of_any_name_and_nowhere_else(tmp_path):
    """A process of its own: there is one JVM a process, and its settings are those of its start."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.lake import Lake\nfrom pipelines.spark import session, escape_globs\n"
        "from schemas.parts import Spark\nfrom schemas.tables import REJECTS\n"
        "home = Path(sys.argv[1]).resolve()\nspark, lake = session(Spark(driver_memory='1g'), str(home)), Lake(home / 'lake')\n"
        "rows = spark.range(9).selectExpr('\"s\" source', '\"1\" snapshot', 'string(id) uri', '\"nul\" reason', '\"d\" detail', 'id n_bytes')\n"
        "lake.write(rows.repartition(3), REJECTS, {})\nlake.write(lake.arrow(REJECTS), REJECTS, {}, append=True)\n"
        "print(lake.read(spark, REJECTS).count(), lake.rows(REJECTS), spark.read.parquet(*map(escape_globs, lake.files(REJECTS))).count())\n"
    )
    (tmp_path / ODD).mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script, f"{ODD}/home"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["18", "18", "18"], done.stderr[-2000:]
    assert os.listdir(tmp_path) == [ODD] and os.listdir(tmp_path / ODD) == ["home"]


def test_globs_are_escaped():
    assert escape_globs("/a/{x,y}*[1]?") == r"/a/\{x,y\}\*\[1\]\?"
