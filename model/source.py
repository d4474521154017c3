"""Shards in an object store: a local folder that holds what is read of them, up to a number of bytes, and what will be
read next.

The folder has a file `source.json`, the store's URL and the limit; whoever reads shards there fetches the windows that
it lacks, by the manifest's hashes. So every rank of a machine shares one folder, and a run that goes on finds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from schemas.files import file_sha256, read_json, write_whole
from schemas.manifest import Window
from schemas.store import Store

BESIDE = "manifest.json", "plan.json", "settings.json"
AHEAD = 8  # windows fetched that no step has come to yet: MB each, so many that one of a slow stream keeps none waiting


class Need(NamedTuple):
    """A window, and the steps that read it."""

    first: int
    last: int
    window: Window


def open_folder(url: str, folder: Path, limit: int) -> Path:
    """`folder`, with the manifest below `url` and what stands beside it. Several ranks may call it at once.

    limit: bytes of windows that are kept. Raises FileNotFoundError where there is no manifest.
    """
    store = Store(url)
    for name in BESIDE:
        store.get(name, folder / name)
    told = json.dumps({"url": url, "limit": limit}).encode()
    write_whole(folder / "source.json", told, attempt=uuid.uuid4().hex)
    return folder


class Source:
    """The store behind a folder of shards."""

    def __init__(self, root: Path, url: str, limit: int):
        self.root, self.store, self.limit = root, Store(url), limit
        self._needs, self._next = iter(()), None
        self._ahead: dict[Need, Future[None]] = {}  # asked for; those that no step reads any more are left out
        self._kept: frozenset[str] = frozenset()  # files of these

    @classmethod
    def of(cls, root: Path) -> Source | None:
        """None for a folder that holds all of its windows itself."""
        file = root / "source.json"
        return cls(root, **read_json(file)) if file.is_file() else None

    @contextlib.contextmanager
    def fetched_ahead(self, needs: Iterator[Need]) -> Iterator[Callable[[], None]]:
        """Let a thread fetch windows in the order of `needs` before steps read them: AHEAD of them, and as many as fit
        into the folder beside those that are being read. What it did not get, the reader asks for again.

        Gives what ends the waiting for a store that is away.
        """
        self.store.closed.clear()
        self._needs, self._next = needs, next(needs, None)
        with ThreadPoolExecutor(1, thread_name_prefix="windows") as self._fetcher:
            try:
                yield self.store.closed.set
            finally:
                self._next, self._ahead, self._kept = None, {}, frozenset()
                self.store.closed.set()
                self._fetcher.shutdown(cancel_futures=True)

    def look_ahead(self, step: int) -> None:
        """Ask for the windows that are needed next, as `step` is about to be read."""
        self._ahead = {need: got for need, got in self._ahead.items() if need.last >= step}
        while self._next and (self._next.last < step or self._has_room(self._next, step)):
            if self._next.last >= step:
                self._kept |= {self._next.window.file}
                self._ahead[self._next] = self._fetcher.submit(self._fetch, self._next.window)
            self._next = next(self._needs, None)
        self._kept = frozenset(need.window.file for need in self._ahead)

    def _has_room(self, need: Need, step: int) -> bool:
        kept = {one.window.file: one.window.bytes for one in (*self._ahead, need)}
        return sum(one.first > step for one in self._ahead) < AHEAD and sum(kept.values()) <= self.limit

    def bring(self, window: Window) -> None:
        """Have the window's file in the folder, as the manifest names it. Raises OSError, or DataError for another file
        than the manifest's."""
        for got in [got for need, got in self._ahead.items() if need.window == window and not got.done()]:
            got.result()  # what went wrong before this is tried again
        self._fetch(window)

    def _fetch(self, window: Window) -> None:
        file = self.root / window.file
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)  # wanted: it is not the next to go
            if file_sha256(file) == window.sha256:
                return
        self._make_room(window.bytes)
        self.store.get(window.file, file, window.sha256)

    def _make_room(self, n_bytes: int) -> None:
        """Remove the windows that were opened longest ago, of those that are needed no more if that is enough. (Whoever
        has one mapped reads on.)"""
        files, needed = [], self._kept
        for file in self.root.rglob("*.mds"):
            with contextlib.suppress(FileNotFoundError):  # another rank makes room too
                is_needed = str(file.relative_to(self.root)) in needed
                files.append((is_needed, file.stat().st_mtime_ns, file.stat().st_size, file))
        kept = sum(size for *_, size, _ in files)
        for *_, size, file in sorted(files):
            if kept + n_bytes <= self.limit:
                break
            file.unlink(missing_ok=True)
            kept -= size
