"""Shards in an object store: a local folder that holds what is read of them, up to a number of bytes.

The folder has a file `source.json`, the store's URL and the limit; whoever reads shards there fetches the windows that
it lacks, by the manifest's hashes. So every rank of a machine shares one folder, and a run that goes on finds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from schemas.files import file_sha256, read_json, write_whole
from schemas.manifest import Window
from schemas.store import Store

BESIDE = "manifest.json", "plan.json", "settings.json"


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

    @classmethod
    def of(cls, root: Path) -> Source | None:
        """None for a folder that holds all of its windows itself."""
        file = root / "source.json"
        return cls(root, **read_json(file)) if file.is_file() else None

    def bring(self, window: Window) -> None:
        """Have the window's file in the folder, as the manifest names it. Raises OSError, or DataError for another file
        than the manifest's."""
        file = self.root / window.file
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)  # wanted: it is not the next to go
            if file_sha256(file) == window.sha256:
                return
        self._make_room(window.bytes)
        self.store.get(window.file, file, window.sha256)

    def _make_room(self, n_bytes: int) -> None:
        """Remove the windows that were opened longest ago. (Whoever has one mapped reads on.)"""
        files = []
        for file in self.root.rglob("*.mds"):
            with contextlib.suppress(FileNotFoundError):  # another rank makes room too
                files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
        kept = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if kept + n_bytes <= self.limit:
                break
            file.unlink(missing_ok=True)
            kept -= size
