"""What a step works with: recipe, home folder, Spark, and the doors to the lake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flows.home import Home
from pipelines import deliveries, rules
from pipelines.deliveries import Delivery
from pipelines.readers import ingest
from pipelines.rules import Rule
from schemas.files import read_json
from schemas.recipe import Recipe, RecipeError
from schemas.tables import Table

if TYPE_CHECKING:  # Spark is imported by the steps that use it: `flows status` starts without
    from pyspark.sql import DataFrame, SparkSession

Counts = dict[str, float]


@dataclass
class Job:
    """What a step works with. `hashes` are those of all steps; `on_training` is told of every optimiser step,
    `on_bytes` of bytes sent, and of how many; `tell` says a line to people; `run` is the id of the run."""

    recipe: Recipe
    home: Home
    hashes: dict[str, str]
    on_training: Callable[[Any], None] = lambda step: None
    on_bytes: Callable[[int, int], None] = lambda done, total: None
    tell: Callable[[str], None] = lambda said: None
    run: str | None = None

    @cached_property
    def spark(self) -> SparkSession:
        from pipelines.spark import session

        return session(self.recipe.spark, str(self.home.root.resolve()), on_s3=self.home.lake.is_remote)

    @property
    def run_folder(self) -> Path:
        """Folder of the training run: its name is what it is made of, so a resumed run finds its checkpoints."""
        return self.home.runs / self.hashes["train"][:12]

    @cached_property
    def files(self) -> ingest.Listing:
        """The files of each delivery."""
        return ingest.listing(self.recipe)

    @cached_property
    def deliveries(self) -> dict[str, str]:
        """By delivery, the hash of its files and of how they are read."""
        return ingest.hashes(self.recipe, self.files)

    @property
    def rules(self) -> dict[str, tuple[Rule, ...]]:
        return domain_rules(self.recipe, self.home)

    def known(self, table: Table) -> dict[str, str]:
        """By delivery, the hash of what the table holds of it; empty where it does not say, or would be made anew by
        the next write, as its columns are others."""
        return self.home.lake.ancestry(table).get("deliveries", {}) if self.home.lake.has(table) else {}

    def read(self, table: Table) -> DataFrame:
        return self.home.lake.read(self.spark, table)

    def delivered(self, table: Table, chosen: list[Delivery]) -> DataFrame:
        """The rows of these deliveries, read from the files alone that may hold some: Delta takes two jobs, half a
        second, to find them."""
        from pipelines.lake import spark_url
        from pipelines.spark import escape_globs

        files = self.home.lake.files(table, deliveries.arrow_condition(chosen))
        reader = self.spark.read.schema(table.ddl)
        paths = [spark_url(escape_globs(file)) for file in files]
        rows = reader.parquet(*paths) if paths else self.spark.createDataFrame([], table.ddl)
        return rows.where(deliveries.sql_condition(chosen))

    def write(
        self, rows: DataFrame | pa.Table, table: Table, step: str, *,
        where: str | None = None, append: bool = False, deliveries: dict[str, str] | None = None,
    ) -> int:  # fmt: skip
        """`Lake.write` with an ancestry; `deliveries` are those that the table holds afterwards. Returns the rows
        written."""
        ancestry = {"step": step, "hash": self.hashes[step], "deliveries": deliveries or {}}
        self.store(rows, table, ancestry, where, append=append)
        return self.home.lake.rows_written(table)

    def write_or_empty(self, rows: DataFrame | None, table: Table, step: str) -> int:
        """Write a table that not every recipe fills; without rows only one that is there is emptied, as each write
        takes seconds."""
        if rows is None and self.home.lake.version(table) is None:
            return 0
        return self.write(self.spark.createDataFrame([], table.ddl) if rows is None else rows, table, step)

    def store(
        self,
        rows: DataFrame | pa.Table,
        table: Table,
        ancestry: dict[str, Any],
        where: str | None = None,
        *,
        append: bool = False,
    ) -> None:
        """`Lake.write`; Spark is started where the table is to be created."""
        if isinstance(rows, pa.Table) and not self.home.lake.has(table):
            self.spark  # noqa: B018 - the session that creates it
        self.home.lake.write(rows, table, ancestry, where, append=append)


def domain_rules(recipe: Recipe, home: Home | None = None) -> dict[str, tuple[Rule, ...]]:
    """The rules of the recipe's domains; with those thresholds that were fitted to languages in this home, if any.
    Raises RecipeError for a domain, rule or threshold that cannot be."""
    fitted = {}
    if home and recipe.languages.trusted:
        if not home.languages.is_file():
            raise FileNotFoundError(f"{home.languages} is missing: `flows run learn` fits thresholds to languages")
        fitted = read_json(home.languages)["thresholds"]
    try:
        return {domain: rules.load(domain, recipe.rules.get(domain), fitted) for domain in sorted(recipe.domains)}
    except ValueError as error:
        raise RecipeError(str(error)) from None
