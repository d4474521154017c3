"""Columns that folders stand for, as Hive writes them (year=2024/lang=en/): facts of what lies below."""

from __future__ import annotations

from urllib.parse import unquote

from pipelines.readers.files import File, Record, Reject
from schemas.parts import Source

NULL = "__HIVE_DEFAULT_PARTITION__"


def with_folder_columns(file: File, source: Source) -> File:
    """The file with the columns that its folders stand for (name=value, encoded as in a URL): as facts, one as its
    licence."""
    pairs = [map(unquote, part.split("=", 1)) for part in file.uri.split("/")[:-1] if "=" in part.strip("=")]
    columns = {name: value for name, value in pairs if value not in ("", NULL)} | dict(file.facts)
    licence = columns.get(source.licence_field) or file.licence
    return file._replace(licence=licence, facts=tuple((name, value) for name, value in columns.items() if name))


def with_facts(made: Record | Reject, file: File) -> Record | Reject:
    """A record with what its file's folders say of it besides."""
    if isinstance(made, Reject) or not file.facts:
        return made
    return made._replace(facts=tuple((dict(made.facts) | dict(file.facts)).items()))
