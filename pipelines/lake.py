"""The lakehouse: the only place that knows where tables are and how they are written."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType, SubTreeFileSystem

from pipelines.commits import Commit, commit_files, last_change, read_actions, unlisted, version_of
from schemas.errors import DataError
from schemas.store import PATIENCE_SECONDS, ask_again, endpoint, files_at, is_url
from schemas.tables import Table

if TYPE_CHECKING:  # 1 s of imports that `flows status` and `flows trace` do without
    from deltalake import DeltaTable
    from duckdb import DuckDBPyConnection
    from pyarrow.dataset import Dataset
    from pyspark.sql import DataFrame, SparkSession

# Rows are replaced and read by conditions on these columns; ids are hashes, whose least and greatest tell nothing.
# Delta would gather them of the first 32 columns, text among them, in a sixth of the time of a write, and parse them
# whenever it reads the log.
SKIPPED_BY = "source", "snapshot", "run", "step"
# Delta's names of the plain types of `schemas.tables`; others are not compared.
PLAIN = "string", "float", "double", "boolean", "binary"
DELTA_NAMES = {"int": "integer", "bigint": "long", **dict(zip(PLAIN, PLAIN, strict=True))}

ARROW = {"string": pa.string(), "bigint": pa.int64(), "int": pa.int32(), "double": pa.float64(), "boolean": pa.bool_()}

# By default delta-rs gives a request up after ten attempts, in two to six seconds: a store is away for a minute.
RETRIES = {
    "max_retries": "100",
    "retry_timeout": f"{PATIENCE_SECONDS:g}s",
    "backoff_config.init_backoff": "500ms",
    "backoff_config.max_backoff": "5s",
}

MENDED = "Delete the file, and `flows run curriculum` makes the table again"


@dataclass(frozen=True)
class Lake:
    """Delta tables below `root`, a folder or an object store's URL: bronze.documents is root/bronze/documents."""

    root: Path | str

    def path(self, table: Table) -> str:
        """Where the table is, for delta-rs and Arrow."""
        return self.place(table.name)

    def place(self, name: str) -> str:
        """The same of a table's name. Delta takes relative paths for names."""
        root = str(self.root) if self.is_remote else str(Path(self.root).resolve())
        return "/".join([root, *name.split(".")])

    @property
    def is_remote(self) -> bool:
        return isinstance(self.root, str) and is_url(self.root)

    def spark_path(self, table: Table) -> str:
        """Where the table is, for Spark."""
        return spark_url(self.path(table))

    def _folder(self, name: str) -> SubTreeFileSystem:
        return files_at(self.place(name))

    def _delta(self, name: str, version: int | None = None) -> DeltaTable:
        """The table as delta-rs has it, which asks a store again by itself but for a body that was cut."""
        from deltalake import DeltaTable

        place = self.place(name)
        open_table = functools.partial(DeltaTable, place, version=version, storage_options=storage_options(place))
        return ask_again(place, open_table) if self.is_remote else open_table()

    def version(self, table: Table) -> int | None:
        """Newest committed version, read from the log's file names; None if there is no table."""
        return self.version_of(table.name)

    def version_of(self, name: str) -> int | None:
        return max(map(version_of, commit_files(self._folder(name))), default=None)

    def has(self, table: Table) -> bool:
        """Whether the table is there with just these columns, of these types, and its log can be read."""
        from deltalake.exceptions import DeltaError

        if self.version(table) is None:
            return False
        try:
            fields = self._delta(table.name).schema().fields
        except DeltaError:
            return False
        stored = {field.name: getattr(field.type, "type", None) for field in fields}
        wanted = {column.name: DELTA_NAMES.get(column.type, stored.get(column.name)) for column in table.columns}
        return list(stored.items()) == list(wanted.items())

    def rows_written(self, table: Table) -> int:
        """Rows of the newest commit, as Delta counted them while it wrote."""
        folder = self._folder(table.name)
        actions = read_actions(folder, commit_files(folder)[-1])
        metrics = next(action["commitInfo"] for action in actions if "commitInfo" in action).get("operationMetrics", {})
        return int(metrics.get("numOutputRows", metrics.get("num_added_rows", 0)))  # as Spark and delta-rs call them

    def rows(self, table: Table) -> int:
        """Rows of the table, from the statistics in its log."""
        files = self._delta(table.name).get_add_actions(flatten=True)
        return sum(pa.table(files).column("num_records").to_pylist())

    def ancestry(self, table: Table) -> dict[str, Any]:
        """What our last commit says of the table; empty where there is none, or where the table is not what it left:
        rows were changed by another since, or a file is damaged."""
        last = self.last_change(table.name)
        return {} if last is None or self.damage(table.name, last.version) else last.ancestry

    def last_change(self, name: str) -> Commit | None:
        """`commits.last_change` of the table; None too if its log is damaged."""
        with contextlib.suppress(ValueError):  # `damage` says it
            return last_change(self._folder(name))
        return None

    def damage(self, name: str, version: int | None) -> str | None:
        """Why the table is not what our commit `version` left; None if it is. Commits of others that change no rows
        (OPTIMIZE, VACUUM, properties) do no harm."""
        try:
            last = last_change(self._folder(name))
        except ValueError as error:
            return f"table {name}: {error}"
        if last and last.ancestry is None:
            return f"table {name} was changed by another: version {last.version}, {last.author}"
        if (last and last.version) != version:
            return f"table {name} is at version {last and last.version}, the step left {version}"
        return last and self._damaged_file(name)

    def _damaged_file(self, name: str) -> str | None:
        """What is wrong with the first file that is not as large as the log says."""
        from deltalake.exceptions import DeltaError

        try:
            listed = self._delta(name).get_add_actions(flatten=True)  # pa.table() of it would import pandas: 1 s
        except DeltaError as error:
            return f"table {name}: its log cannot be read: {error}"
        files, sizes = listed.column("path").to_pylist(), listed.column("size_bytes").to_pylist()
        infos = self._folder(name).get_file_info(files)
        for file, size, info in zip(files, sizes, infos, strict=True):
            found = f"{info.size:,} bytes" if info.is_file else "no file"
            if found != f"{size:,} bytes":
                return f"table {name}: expected {file} with {size:,} bytes, found {found}"
        return None

    def read(self, spark: SparkSession, table: Table, version: int | None = None) -> DataFrame:
        """The table as it is now, or at an older version."""
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.spark_path(table))

    def write(
        self,
        rows: DataFrame | pa.Table,
        table: Table,
        ancestry: dict[str, Any],
        where: str | None = None,
        *,
        append: bool = False,
    ) -> int:
        """Replace the table's content, or the rows `where` a condition holds, in one commit that carries its ancestry.

        append: nothing is replaced, which saves Delta the search for it (a second). Returns the new version. The rows
        are brought to the table's columns, in order. A stopped write leaves the old version in place. A new table needs
        an active Spark session. Of a table with a damaged file all is replaced, as the rows that should stay cannot be
        read.
        """
        spark = None if isinstance(rows, pa.Table) else rows.sparkSession
        append = self._create(table, spark) or append
        where = None if where and self._damaged_file(table.name) else where
        if spark is None:
            mode = "append" if append else "overwrite"
            return self._commit(rows.select(table.column_names), table, ancestry, mode, None if append else where)
        writer = rows.select(*table.column_names).write.format("delta").mode("append" if append else "overwrite")
        if where and not append:
            writer = writer.option("replaceWhere", where)
        before = self.version(table)
        writer.option("userMetadata", json.dumps(ancestry, sort_keys=True)).save(self.spark_path(table))
        if self.version(table) == before:  # no row came and none went: Delta commits nothing
            self._commit(None, table, ancestry, "append" if where or append else "overwrite")
        return self.version(table)

    def _commit(
        self, rows: pa.Table | None, table: Table, ancestry: dict[str, Any], mode: str, where: str | None = None
    ) -> int:
        """By delta-rs: rows that are here already take it .01 s, Spark a second; and it commits where there are
        none."""
        from deltalake import CommitProperties, write_deltalake

        if rows is None:
            rows = pa.schema(self._delta(table.name).schema().to_arrow()).empty_table()
        told = CommitProperties(custom_metadata={"userMetadata": json.dumps(ancestry, sort_keys=True)})
        write_deltalake(self._delta(table.name), rows, mode=mode, predicate=where, commit_properties=told)
        return self.version(table)

    def arrow(
        self,
        table: Table,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows that fit in memory (traces, notebooks), found by delta-rs and read by Arrow: no Java starts."""
        with self._named(table):
            return self._dataset(table, version).to_table(columns=columns, filter=where)

    def batches(
        self, table: Table, columns: list[str] | dict[str, pc.Expression], where: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The same, a part at a time."""
        with self._named(table):
            yield from self._dataset(table).to_batches(columns=columns, filter=where)

    def count(self, table: Table, where: pc.Expression | None = None) -> int:
        """Rows, or those where a condition holds, without Spark: a job for a number takes it half a second."""
        with self._named(table):
            return self._dataset(table).count_rows(filter=where)

    def total(self, table: Table, value: pc.Expression) -> int:
        """Sum of an integer expression over the rows, read a batch at a time."""
        return sum(pc.sum(part.column(0)).as_py() or 0 for part in self.batches(table, {"value": value}))

    @contextlib.contextmanager
    def _named(self, table: Table) -> Iterator[None]:
        """Raise DataError naming the table for a file of it that cannot be read."""
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"table {table.name}: expected Parquet files, found {error}. {MENDED}") from error

    def _dataset(self, table: Table, version: int | None = None) -> Dataset:
        """Arrow reads the files itself. Through delta-rs's own file system (Python) its threads can outlive the
        interpreter, and then abort the process at exit (apache/arrow#45214; 1 of some 60 exits).
        """
        return self._delta(table.name, version).to_pyarrow_dataset(filesystem=self._folder(table.name))

    def files(self, table: Table, where: pc.Expression | None = None) -> list[str]:
        """Paths of the Parquet files that make up the table now, or of those that may hold rows `where` a condition on
        SKIPPED_BY holds, for readers of plain Parquet."""
        return [f"{self.path(table)}/{file.path}" for file in self._dataset(table).get_fragments(where)]

    def view(self, db: DuckDBPyConnection, name: str, table: Table) -> None:
        """Let DuckDB know the table by that name. Of one without a row there is no file; those in an object store Arrow
        reads for it."""
        files = self.files(table)
        if files and not self.is_remote:
            db.read_parquet(files).create_view(name)
        else:
            db.register(name, self._dataset(table))

    def _create(self, table: Table, spark: SparkSession | None = None) -> bool:
        """Create the table with its columns, comments and constraints, unless it is there with just these columns; by
        the active session where none is given. Returns whether it is new.

        One with others is of an older Millrace or of other signals: it goes, with its history, as all of it can
        be made again. A folder without a log is no table but what a stopped run left behind: Delta would refuse to
        create one. Raises OSError for a store whose listing lacks commits: none is taken for a table that is not there.
        """
        if self.has(table):
            return False
        from pyspark.sql import SparkSession

        folder = self._folder(table.name)
        if self.is_remote and (hidden := unlisted(folder)):
            raise OSError(
                f"{self.path(table)}: expected the object store to list all that it holds, found {hidden[0]} there and "
                "not listed. Nothing was changed: the same command goes on"
            )
        if folder.get_file_info("").type == FileType.Directory:
            folder.delete_dir_contents("", accept_root_dir=True)
        (spark or SparkSession.active()).sql(creation(table, self.spark_path(table)))
        return True


def creation(table: Table, path: str) -> str:
    """The statement that creates the table at `path`. (Delta's builder needs a plugin in a Spark Connect server that
    is not to be had for Spark 4.2.)"""
    columns = [
        f"`{column.name}` {column.type}{'' if column.nullable else ' NOT NULL'} COMMENT {literal(column.meaning)}"
        for column in table.columns
    ]
    properties = {
        "delta.dataSkippingStatsColumns": ",".join(name for name in table.column_names if name in SKIPPED_BY),
        **{f"delta.constraints.{name}": condition for name, condition in table.checks.items()},
    }
    told = ", ".join(f"{literal(name)} = {literal(value)}" for name, value in properties.items())
    return (
        f"CREATE TABLE delta.`{path}` ({', '.join(columns)}) USING delta COMMENT {literal(table.meaning)} "
        f"TBLPROPERTIES ({told})"
    )


def literal(text: str) -> str:
    """A text as Spark's SQL reads it; it would put a setting in the place of ${...}."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024") + "'"


def spark_url(place: str) -> str:
    """A path or URL as Hadoop's file systems take it: theirs for S3 is called s3a."""
    return place.replace("s3://", "s3a://", 1) if place.startswith("s3://") else place


def storage_options(place: str) -> dict[str, str] | None:
    """What delta-rs is to know of a store, besides what it reads in the environment itself."""
    if not is_url(place):
        return None
    told = {"AWS_ENDPOINT_URL": endpoint()} if endpoint() else {}
    return RETRIES | told | ({"AWS_ALLOW_HTTP": "true"} if (endpoint() or "").startswith("http://") else {})


def from_rows(rows: list[dict[str, Any]], table: Table) -> pa.Table:
    """Rows as the table's columns; what they hold besides is left out."""
    columns = {column.name: arrow_type(column.type) for column in table.columns}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))


def arrow_type(name: str) -> pa.DataType:
    """The type that Spark calls so; of arrays, and of maps with plain keys, too. Raises KeyError for one that no table
    of ours has."""
    if name.startswith("array<"):
        return pa.list_(arrow_type(name[6:-1]))
    if name.startswith("map<"):
        key, _, value = name[4:-1].partition(",")
        return pa.map_(ARROW[key], arrow_type(value))
    return ARROW[name]
