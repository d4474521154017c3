"""Values as JSON: written whole or not at all, told apart by a hash, and where two differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import DataError


def json_hash(value: Any) -> str:
    """Hash of a JSON value or dataclass: 32 hex digits, the same for equal content."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes, attempt: str = "") -> None:
    """Write a file that readers see as it was or whole and new, also after a power cut.

    attempt: told apart from others that may write the same file at the same time, as two attempts of a Spark task.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{attempt}.tmp")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_whole` of a JSON value."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value of a file that a step wrote. Raises FileNotFoundError, or DataError for one that is cut off or
    damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{path}: expected whole JSON, found {path.stat().st_size:,} bytes that are not ({error}); copy it again "
            "from where it is whole, or delete it, and `flows run curriculum` writes it"
        ) from None


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: (path, old, new) of the deepest places, None where there is no value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif old != new:
        yield path, old, new
