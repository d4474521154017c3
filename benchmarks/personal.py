"""Personal data and secrets: precision and recall on the evaluation set, and what is found in a corpus, for reading.

python -m benchmarks.personal                  kinds of tests/personal.jsonl
python -m benchmarks.personal folder [every]   of .jsonl.zst, .jsonl, .txt, .md, .rst and .py files, every nth record
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import zstandard

from pipelines.signals import personal
from tests.personal import cases

SHOWN, AROUND = 5, 50  # findings of each kind, and bytes on either side
TEXT = {".txt", ".md", ".rst", ".py"}
BATCH = 1000


def rates() -> list[tuple[str, int, float, int, float]]:
    """Rows (kind, spans found, precision, spans expected, recall) of the evaluation set; a span counts if both ends are
    right."""
    expected, found = defaultdict(set), defaultdict(set)
    given = cases()
    for line, ((kind, _, spans), row) in enumerate(zip(given, spans_of([text for _, text, _ in given]), strict=True)):
        expected[kind] |= {(line, *span) for span in spans}
        for span in row:
            found[span["kind"]].add((line, span["start"], span["end"]))
    return [
        (kind, len(found[kind]), len(found[kind] & expected[kind]) / max(len(found[kind]), 1), len(expected[kind]),
         len(found[kind] & expected[kind]) / max(len(expected[kind]), 1))
        for kind in personal.PLACEHOLDERS
    ]  # fmt: skip


def spans_of(texts: list[str]) -> list[list[dict]]:
    return personal.measure(pa.array(texts, pa.large_string()), None, None)[-1].to_pylist()


def records(path: Path) -> Iterator[str]:
    if path.suffix in TEXT:
        yield path.read_text("utf-8", errors="ignore")
        return
    with (
        zstandard.open(path, "rt", encoding="utf-8") if path.suffix == ".zst" else path.open(encoding="utf-8") as lines
    ):
        yield from (json.loads(line).get("text") or "" for line in lines)


def corpus(path: Path, every: int) -> None:
    """Counts, speed and a few findings of one file or of all plain texts of a folder."""
    findings, documents, size, seconds = defaultdict(list), 0, 0, 0.0
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.suffix in TEXT]
    texts = islice((text for file in files for text in records(file)), 0, None, every)
    while batch := list(islice(texts, BATCH)):
        array, start = pa.array(batch, pa.large_string()), time.process_time()
        spans = personal.measure(array, None, None)[-1]
        seconds += time.process_time() - start
        documents, size = documents + len(batch), size + sum(len(text.encode()) for text in batch)
        for text, row in zip(batch, spans.to_pylist(), strict=True):
            data = text.encode() if row else b""
            for span in row:
                start, end = span["start"], span["end"]
                parts = (
                    data[max(start - AROUND, 0) : start],
                    data[start : min(end, start + 90)],
                    data[end : end + AROUND],
                )
                shown = (" ".join(part.decode("utf-8", "ignore").split()) for part in parts)
                findings[span["kind"]].append("{} >>>{}<<< {}".format(*shown))
    print(
        f"{path.name}: {documents:,} documents, {size / 1e6:.1f} MB, {size / 1e6 / max(seconds, 1e-9):.0f} MB/s a core"
    )
    for kind, lines in findings.items():
        print(f"  {kind}: {len(lines):,}, {1000 * len(lines) / documents:.1f} per 1,000 documents")
        for line in random.Random(1).sample(lines, min(SHOWN, len(lines))):
            print(f"    {line}")


def main() -> None:
    if len(sys.argv) == 1:
        print(f"{'kind':8}{'found':>8}{'precision':>11}{'expected':>10}{'recall':>8}")
        for kind, found, precision, expected, recall in rates():
            print(f"{kind:8}{found:8}{precision:11.3f}{expected:10}{recall:8.3f}")
        return
    folder, every = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    spans_of(["compiled"])
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".jsonl", ".jsonl.zst")))
    for path in files or [folder]:
        corpus(path, every)


if __name__ == "__main__":
    main()
