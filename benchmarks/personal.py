"""Personal data and secrets: precision and recall on the evaluation set beside other tools', and what is found in a
corpus, for reading.

    python -m benchmarks personal                  kinds of tests/personal.jsonl, ours and other tools'
    python -m benchmarks.personal                  ours alone, both ends of a span right
    python -m benchmarks.personal folder [every]   of .jsonl.zst, .jsonl, .txt, .md, .rst, .py files, every nth record

Beside other tools a finding is right if it touches what is to be found, for they draw its ends elsewhere (a whole line,
a key's first line, a network's length); findings of a tool that touch one another are one. Every tool sees every line.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import zstandard

from benchmarks.anchors import PYTHON, ROOT, TIMEOUT_SECONDS
from benchmarks.timing import row
from pipelines.signals import personal
from tests.personal import cases, origins

SHOWN, AROUND = 5, 50  # findings of each kind, and bytes on either side
TEXT = {".txt", ".md", ".rst", ".py"}
BATCH = 1000
SECRETS = "key", "token", "password"  # one kind to other tools
PEERS = {  # what each looks for
    "datatrove": ("email", "ip"),
    "presidio": ("email", "ip", "phone", "card", "iban"),
    "detect-secrets": ("secret",),  # its own filters drop every address, as it has no letters
}
Spans = list[tuple[str, int, int]]  # kind, begin, end


def rows() -> list[dict]:
    """Precision and recall of ours and of each tool on the kinds that it looks for, kind by kind and all together, then
    on the lines after its own tests. `must` is the least ratio."""
    given, after = cases(), origins()
    wanted = [[(_common(kind), *span) for span in spans] for kind, _, spans in given]
    ours = [
        [(_common(one["kind"]), one["start"], one["end"]) for one in line]
        for line in spans_of([text for _, text, _ in given])
    ]
    n_after = sum(map(bool, after))
    figures = [row("labelled lines", len(given), ""), row("of kinds that other tools' tests cover", n_after, "")]
    every = tuple(dict.fromkeys(map(_common, personal.PLACEHOLDERS)))
    for kind in [*((kind,) for kind in every), every]:
        figures += _beside("ours", kind, wanted, ours, None)
    for name, kinds in PEERS.items():
        theirs = peer_spans(name, [text for _, text, _ in given])
        if isinstance(theirs, str):
            figures.append(row(f"{name}: {theirs}", 0, ""))
            continue
        version, found = theirs
        for kind in dict.fromkeys([*((kind,) for kind in kinds), kinds]):
            figures += _beside(version, kind, wanted, ours, found, must=1.0 if kind == kinds else None)
        mine = [i for i, origin in enumerate(after) if origin == name]
        some = ([lines[i] for i in mine] for lines in (wanted, ours, found))
        figures += _beside(f"{version}, after its tests", kinds, *some)
    return figures


def _common(kind: str) -> str:
    return "secret" if kind in SECRETS else kind


def _beside(
    name: str,
    kinds: tuple[str, ...],
    wanted: list[Spans],
    ours: list[Spans],
    theirs: list[Spans] | None,
    must: float | None = None,
) -> list[dict]:
    what = "all of these" if len(kinds) > 1 else kinds[0]
    mine, other = touching(wanted, ours, kinds), touching(wanted, theirs, kinds) if theirs else (None, None)
    return [
        row(f"{what}, {measure} / {name}", value, "", reference=reference, must=must)
        for measure, value, reference in zip(("precision", "recall"), mine, other, strict=True)
    ]


def touching(wanted: list[Spans], found: list[Spans], kinds: tuple[str, ...]) -> tuple[float, float]:
    """Precision and recall of the findings of these kinds, by line; right are those that touch one of their kind."""
    n_found = n_right = n_wanted = n_met = 0
    for kind in kinds:
        for expected, line in zip(wanted, found, strict=True):
            expected, spans = _joined(expected, kind), _joined(line, kind)
            n_found, n_wanted = n_found + len(spans), n_wanted + len(expected)
            n_right += sum(any(a < d and c < b for c, d in expected) for a, b in spans)
            n_met += sum(any(a < d and c < b for c, d in spans) for a, b in expected)
    return n_right / max(n_found, 1), n_met / max(n_wanted, 1)


def _joined(spans: Spans, kind: str) -> list[tuple[int, int]]:
    """Those of the kind, such as overlap made one."""
    joined: list[tuple[int, int]] = []
    for _, start, end in sorted(span for span in spans if span[0] == kind):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def peer_spans(name: str, texts: list[str]) -> tuple[str, list[Spans]] | str:
    """A tool's name with its version, and its findings in bytes of UTF-8 (see benchmarks/personal_peers.py), or why
    there are none."""
    if not PYTHON.exists():
        return "not installed: make bench-setup"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "texts.json")
        file.write_text(json.dumps(texts), "utf-8")
        command = [str(PYTHON), str(ROOT / "benchmarks" / "personal_peers.py"), str(file), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=folder)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]:.100}"
    answer = json.loads(done.stdout.splitlines()[-1])
    if "missing" in answer:
        return answer["missing"]
    in_bytes = [
        [(kind, len(text[:start].encode()), len(text[:end].encode())) for kind, start, end in line]
        for text, line in zip(texts, answer["spans"], strict=True)
    ]
    return answer["version"], in_bytes


def rates() -> list[tuple[str, int, float, int, float]]:
    """Rows (kind, spans found, precision, spans expected, recall) of the evaluation set; a span counts if both ends are
    right."""
    expected, found = defaultdict(set), defaultdict(set)
    given = cases()
    for line, ((kind, _, spans), findings) in enumerate(
        zip(given, spans_of([text for _, text, _ in given]), strict=True)
    ):
        expected[kind] |= {(line, *span) for span in spans}
        for span in findings:
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
    shown, documents, size, seconds = defaultdict(list), 0, 0, 0.0
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.suffix in TEXT]
    texts = islice((text for file in files for text in records(file)), 0, None, every)
    while batch := list(islice(texts, BATCH)):
        array, start = pa.array(batch, pa.large_string()), time.process_time()
        spans = personal.measure(array, None, None)[-1]
        seconds += time.process_time() - start
        documents, size = documents + len(batch), size + sum(len(text.encode()) for text in batch)
        for text, findings in zip(batch, spans.to_pylist(), strict=True):
            data = text.encode() if findings else b""
            for span in findings:
                start, end = span["start"], span["end"]
                parts = (
                    data[max(start - AROUND, 0) : start],
                    data[start : min(end, start + 90)],
                    data[end : end + AROUND],
                )
                clean = (" ".join(part.decode("utf-8", "ignore").split()) for part in parts)
                shown[span["kind"]].append("{} >>>{}<<< {}".format(*clean))
    print(
        f"{path.name}: {documents:,} documents, {size / 1e6:.1f} MB, {size / 1e6 / max(seconds, 1e-9):.0f} MB/s a core"
    )
    for kind, lines in shown.items():
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
