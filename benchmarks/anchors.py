"""What the groups that stand beside other tools share: documents, and a tool's figures from the environment of `make
bench-setup`."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.families import SUFFIXES
from benchmarks.timing import row, seconds
from pipelines.readers import jsonl
from pipelines.readers.compressed import chunks

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".bench" / "bin" / "python"
DOCUMENTS = 8000
# a document; longer ones are cut: the mean is 3.1 KB then, that of the set on which the rates to reach were set
CHARS = 200, 9000
FILE_DOCUMENTS = 4000  # of one file of a folder: every file has its part
LINE_BYTES = 16 << 20
TIMEOUT_SECONDS = 300


def documents(folder: str | None = None, most: int | None = DOCUMENTS, cut: int | None = CHARS[1]) -> list[str]:
    """Distinct texts in the order of a hash, so that the first ones are a fair sample: of the folder's JSON lines
    (field `text`, plain, .gz or .zst), else of the files of this Python's packages."""
    texts = texts_of(Path(folder), FILE_DOCUMENTS if most else None) if folder else _of_packages()
    distinct = {text[:cut] for text in texts if len(text) >= CHARS[0]}
    return sorted(distinct, key=lambda text: hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())[
        :most
    ]


def texts_of(folder: Path, most: int | None = None) -> Iterator[str]:
    """Texts of the folder's JSON lines, at most so many of a file. Pages as they came are left out: no tool here is
    made for markup."""
    files = sorted(
        path for path in folder.iterdir() if path.name.endswith(jsonl.SUFFIXES) and path.name != "MANIFEST.json"
    )
    if not files:
        raise ValueError(f"{folder} must hold files of JSON lines ({', '.join(jsonl.SUFFIXES)}), found none")
    for path in files:
        with open(path, "rb") as stream:
            lines = jsonl.lines(chunks(stream, str(path)), LINE_BYTES)
            for line, _ in itertools.islice(lines, most):
                if (
                    line
                    and isinstance(text := orjson.loads(line).get("text"), str)
                    and not text.lstrip().startswith("<")
                ):
                    yield text


def _of_packages() -> Iterator[str]:
    files = sorted(
        path for path in Path(sysconfig.get_path("purelib")).rglob("*") if path.suffix in SUFFIXES and path.is_file()
    )
    for path in files[:: max(1, len(files) // (2 * DOCUMENTS))]:
        yield path.read_text("utf-8", errors="ignore")


def peer(work: str, texts: list[str], *wanted: str) -> Any:
    """A tool's figures on these texts, or its answers (see benchmarks/peers.py); `missing` says why there are none."""
    if not PYTHON.exists():
        return {"work": work, "missing": "not installed: make bench-setup"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "documents.parquet")
        pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), file)
        command = [str(PYTHON), str(ROOT / "benchmarks" / "peers.py"), str(file), work, *wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=folder)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing said"]
        return {"work": work, "missing": f"failed: {said[-1]:.100}"}
    return json.loads(done.stdout.splitlines()[-1])


def beside(what: str, ours: float, works: tuple[str, ...], texts: list[str], must: dict[str, float]) -> list[dict]:
    """Our MB/s a core beside each tool's, and its documents a second: one row each; `must` is the least ratio. A tool
    that cannot be run has no figure."""
    rows = []
    for work in works:
        theirs = peer(work, texts)
        if "missing" in theirs:
            rows.append(row(f"{what} / {work}: {theirs['missing']}", ours, "MB/s"))
            continue
        rate, docs = theirs["bytes"] / theirs["cpu_seconds"] / 1e6, theirs["documents"] / theirs["cpu_seconds"]
        rows.append(
            row(
                f"{what} / {theirs['version']}: {work}, {docs:,.0f} docs/s",
                ours,
                "MB/s",
                reference=rate,
                must=must.get(work),
            )
        )
    return rows


def sample(texts: list[str]) -> list[dict]:
    """What the rows are measured on."""
    size = sum(len(text.encode()) for text in texts)
    return [row("documents", len(texts), ""), row("mean size", size / len(texts), "bytes")]


def rates(what: str, texts: list[str], work: Any) -> tuple[float, list[dict]]:
    """MB/s a core of our work, and the rows that say so."""
    spent = seconds(work, repeats=3)
    rate = sum(len(text.encode()) for text in texts) / spent / 1e6
    return rate, [row(what, len(texts) / spent, "docs/s"), row(what, rate, "MB/s")]
