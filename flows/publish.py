"""What a home holds for others, in an object store: its shards, its training run, its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.home import Home
from schemas.files import file_sha256
from schemas.manifest import load_manifest
from schemas.store import Store

LAST = "shards/manifest.json", "result.json"  # who finds these may read all that they name


@dataclass(frozen=True)
class File:
    """A file to be sent: where it lies, and its name below the URL."""

    path: Path
    name: str
    n_bytes: int
    sha256: str

    @property
    def is_last(self) -> bool:
        return self.name.endswith(LAST)


def publish(home: Home, run: Path, url: str, on_bytes: Callable[[int, int], None]) -> dict[str, float]:
    """Send the shards, what is there of the training run in the folder `run`, and the reports, to the store at `url`;
    shards that are no longer named go. Returns what was sent.

    What is there already is not sent again. The manifest, and a run's result.json, are taken away before what they name
    is changed and come back last, so that nobody takes half of it for whole. on_bytes: bytes sent, and of how many.
    Raises FileNotFoundError for a home without shards, OSError for a store that does not answer.
    """
    store, journal = Store(url), Journal(home.root / "published.jsonl", url)
    files, there = list(wanted(home, run)), store.sizes()
    missing = [one for one in files if one.name not in there or journal.sent.get(one.name) != one.sha256]
    for one in missing:
        if one.is_last:  # whether it is listed or not
            store.delete(one.name)
    done, total = 0, sum(one.n_bytes for one in missing)
    for one in sorted(missing, key=lambda one: one.is_last):
        store.put(one.path, one.name)
        journal.add(one)
        done += one.n_bytes
        on_bytes(done, total)
    named = {one.name for one in files}
    for name in there:
        if name.startswith("shards/") and name not in named:
            store.delete(name)
    return {"files": len(missing), "bytes": done}


def wanted(home: Home, run: Path) -> Iterator[File]:
    """All files, hashes of windows as the manifest tells them."""
    manifest = load_manifest(home.shards / "manifest.json")
    known = {home.shards / window.file: window.sha256 for window in manifest.windows}
    shards = [*known, *filter(Path.is_file, home.shards.iterdir()), *home.shards.rglob("index.json")]
    reports = filter(Path.is_file, home.report.glob("*"))
    for path in sorted({*shards, *_inside(run), *reports}):
        name = str(path.relative_to(home.root))
        yield File(path, name, path.stat().st_size, known.get(path) or file_sha256(path))


def _inside(run: Path) -> Iterator[Path]:
    """A run's files, but for its lock and what a rank or a write that was stopped left of its own."""
    for path in run.rglob("*"):
        is_told = path != run / "lock" and "logs" not in path.relative_to(run).parts
        if path.is_file() and is_told and path.suffix not in (".tmp", ".half"):
            yield path


class Journal:
    """Which content was sent under which name: a store tells sizes only, and SeaweedFS wrong ones for *.gz. A line of
    JSON a file, the last one counts."""

    def __init__(self, file: Path, url: str):
        self.file, self.url, self.sent = file, url, {}
        for line in file.read_text().splitlines() if file.is_file() else ():
            try:
                told = json.loads(line)
            except ValueError:  # cut off by a kill: it is sent again
                continue
            if told["url"] == url:
                self.sent[told["name"]] = told["sha256"]

    def add(self, one: File) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"url": self.url, "name": one.name, "sha256": one.sha256}) + "\n")
