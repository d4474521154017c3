"""What the log of a Delta table tells: which commit changed its rows last, and whose it was.

A commit is a file of JSON lines, an action each (Delta's protocol, "Delta Log Entries"). Those that only move rows into
other files or delete files that no version needs (OPTIMIZE, VACUUM), and those that set properties, change no rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Commit:
    """A commit's version, the ancestry that it carries (None if it is not ours), and its author as people read it."""

    version: int
    ancestry: dict[str, Any] | None
    author: str


def commit_files(folder: Path) -> list[Path]:
    """The commits of the table in `folder`, oldest first."""
    return sorted(entry for entry in (folder / "_delta_log").glob("*.json") if entry.stem.isdigit())


def read_actions(file: Path) -> list[dict[str, Any]]:
    """Raises ValueError naming the commit if it is not whole."""
    try:
        return [json.loads(line) for line in file.read_text().splitlines()]
    except ValueError as error:
        raise ValueError(f"{file}: expected a commit of Delta, JSON lines; found {error}") from None


def last_change(folder: Path) -> Commit | None:
    """The newest commit that changed rows or carries an ancestry of ours; None if the log holds none.

    Ours carry one even where no row came or went. An append of ours stands on the rows that were there: if those are
    another's, it is the other's commit that is returned. Raises ValueError for a commit that is not whole.
    """
    newest = None
    for file in reversed(commit_files(folder)):
        actions = read_actions(file)
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        ancestry = _ancestry(info.get("userMetadata"))
        if ancestry is not None or any(map(_changes_rows, actions)):
            commit = Commit(int(file.stem), ancestry, _author(info))
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
