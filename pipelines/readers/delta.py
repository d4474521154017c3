"""Folders that are tables. A Delta table is what its log says at one version: files that were replaced and rows that
were deleted lie in the folder all the same. Tables of other formats are refused by name: nothing here reads their logs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from urllib.parse import unquote

import pyarrow as pa

from pipelines.readers.files import DELTA_LOG, MAGIC, File, file_at, home_parts, uri_of
from schemas.parts import Source
from schemas.recipe import RecipeError

ENTRIES = {".hoodie": "Hudi", "_versions": "Lance", DELTA_LOG: "Delta"}


def table_format(names: list[str], folder: str) -> str | None:
    """Which format's table a folder with entries of these names is."""
    for name, kind in ENTRIES.items():
        if name in names:
            return kind
    if folder.endswith(".lance"):
        return "Lance"
    return "Iceberg" if "metadata" in names and glob("*.metadata.json", root_dir=f"{folder}/metadata") else None


def table_folders(source: Source) -> list[str]:
    """Folders of the Delta tables that the source's path is or holds, or that its glob matches.

    Raises RecipeError for a table of another format.
    """
    path = os.path.abspath(source.path or "")
    is_glob = not os.path.lexists(path) and MAGIC.search(path)
    tables = []
    for start in sorted(glob(path, recursive=True)) if is_glob else [path]:
        for folder, folders, names in os.walk(start):
            kind = table_format(folders + names, folder)
            if kind not in (None, "Delta"):
                raise RecipeError(f"sources.{source.name}.path: {_refusal(kind)}, found one at {folder!r}")
            tables += [folder] * (kind is not None)
            parts = home_parts(folder, folders + names)
            # what a glob matches is a table itself: the files below are for it to match
            folders[:] = [] if kind or is_glob else [name for name in folders if name not in parts]
    return tables


def _refusal(kind: str) -> str:
    return f"expected plain Parquet files or Delta tables, not a table of {kind}: write its rows out as Parquet"


def refuse_table(source: Source) -> None:
    """Raises RecipeError when a source that is not read by `parquet` is a table."""
    if source.path and os.path.isdir(source.path) and (kind := table_format(os.listdir(source.path), source.path)):
        wanted = _refusal(kind) if kind != "Delta" else "expected parquet for a Delta table"
        raise RecipeError(f"sources.{source.name}.reader: {wanted}, found {source.reader} for {source.path!r}")


def table_of(folder: str, known: dict[str, str | None]) -> str | None:
    """The Delta table that a folder is part of; `known` remembers."""
    if folder not in known:
        above = os.path.dirname(folder)
        is_table = os.path.isdir(f"{folder}/{DELTA_LOG}")
        known[folder] = folder if is_table else None if above == folder else table_of(above, known)
    return known[folder]


def table_files(root: str, source: Source) -> list[File]:
    """The files of a Delta table at the source's version, or its newest, with their partitions' columns as facts and
    the rows that deletion vectors take out.

    Raises RecipeError for a table, or a version of it, that cannot be read whole.
    """
    from deltalake import DeltaTable

    field = f"sources.{source.name}.{'path' if source.version is None else 'version'}"
    try:
        table = DeltaTable(root, version=source.version)
        actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        removed = dict(_removed(table)) if "deletionVectors" in (table.protocol().reader_features or ()) else {}
    except Exception as error:  # delta-rs has no class that all of its errors are of
        detail = f"{str(error).splitlines()[0]:.200}"
        raise RecipeError(f"{field}: expected a Delta table that can be read, found {root!r}: {detail}") from None
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise RecipeError(
            f"{field}: expected a Delta table whose files name their columns as it does, found column mapping in "
            f"{root!r}: write a copy of it without"
        )
    files = [_file(root, action) for action in actions]
    gone = [file.uri for file in files if not os.path.isfile(file.path)]
    if gone:
        raise RecipeError(
            f"{field}: expected all {len(files):,} files of version {table.version()} of {root!r}, found {len(gone):,} "
            f"missing, such as {gone[0]!r}: vacuumed, or deleted by hand"
        )
    return [file._replace(removed=removed.get(os.path.realpath(file.path), ())) for file in files]


def _file(root: str, action: dict) -> File:
    """Paths in the log are encoded as in a URL, relative to the table or, of a clone, absolute."""
    place = unquote(action["path"])
    absolute = place.startswith("file:")
    path = "/" + place.removeprefix("file:").lstrip("/") if absolute else os.path.join(root, place)
    columns = [(name[10:], str(value)) for name, value in action.items() if name.startswith("partition.")]
    facts = tuple((name, said) for name, said in columns if action[f"partition.{name}"] is not None)
    return file_at(path, uri_of(os.path.basename(place) if absolute else place))._replace(facts=facts)


def _removed(table) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(real path, numbers of the rows that are no more) of files with a deletion vector."""
    for batch in table.deletion_vectors():
        for one in pa.record_batch(batch).to_pylist():
            path = os.path.realpath(unquote(one["filepath"]).removeprefix("file://"))
            yield path, tuple(number for number, kept in enumerate(one["selection_vector"]) if not kept)
