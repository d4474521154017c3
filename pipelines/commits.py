"""What the log of a Delta table tells: which commit changed its rows last, and whose it was.

A commit is a file of JSON lines, an action each (Delta's protocol, "Delta Log Entries"). Those that only move rows into
other files or delete files that no version needs (OPTIMIZE, VACUUM), and those that set properties, change no rows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileSystem


@dataclass(frozen=True)
class Commit:
    """A commit's version, the ancestry that it carries (None if it is not ours), and its author as people read it."""

    version: int
    ancestry: dict[str, Any] | None
    author: str


def commit_files(table: FileSystem) -> list[str]:
    """Names of the commits in a table's folder, oldest first."""
    listed = table.get_file_info(FileSelector("_delta_log", allow_not_found=True))
    return sorted(info.path for info in listed if re.search(r"/\d+\.json$", info.path))


def unlisted(table: FileSystem) -> list[str]:
    """Commits that are there and that a store does not list: of those before the newest that it does, and the next."""
    listed = set(map(version_of, commit_files(table)))
    others = [f"_delta_log/{n:020}.json" for n in range(max(listed, default=-1) + 2) if n not in listed]
    return [info.path for info in table.get_file_info(others) if info.is_file]


def version_of(commit: str) -> int:
    """The version that a commit made, by its name."""
    return int(Path(commit).stem)


def read_actions(table: FileSystem, commit: str) -> list[dict[str, Any]]:
    """Raises ValueError naming the commit if it is not whole."""
    try:
        with table.open_input_stream(commit) as stream:
            return [json.loads(line) for line in stream.read().decode().splitlines()]
    except ValueError as error:
        raise ValueError(f"{commit}: expected a commit of Delta, JSON lines; found {error}") from None


def last_change(table: FileSystem) -> Commit | None:
    """The newest commit that changed rows or carries an ancestry of ours; None if the log holds none.

    Ours carry one even where no row came or went. An append of ours stands on the rows that were there: if those are
    another's, it is the other's commit that is returned. Raises ValueError for a commit that is not whole.
    """
    newest = None
    for file in reversed(commit_files(table)):
        actions = read_actions(table, file)
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        ancestry = _ancestry(info.get("userMetadata"))
        if ancestry is not None or any(map(_changes_rows, actions)):
            commit = Commit(version_of(file), ancestry, _author(info))
            if ancestry is None:
                return commit
            newest = newest or commit
            if info.get("operationParameters", {}).get("mode") != "Append":
                break
    return newest


def _changes_rows(action: dict[str, Any]) -> bool:
    return any(action.get(kind, {}).get("dataChange", False) for kind in ("add", "remove"))


def _ancestry(told: str | None) -> dict[str, Any] | None:
    """Other tools write what they like there."""
    try:
        value = json.loads(told or "null")
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.keys() & {"step", "run"} else None


def _author(info: dict[str, Any]) -> str:
    engine = info.get("engineInfo") or info.get("clientVersion") or "an unnamed tool"
    user = info.get("userName") or info.get("userId")
    return f"{info.get('operation', 'a commit')} by {engine}" + (f", {user}" if user else "")
