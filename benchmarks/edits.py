"""Repeated lines and passages: the compiled loops that find and compare them, on one core.

    python -m benchmarks.edits [folder with .txt, .md, .rst or .py files]

CPU seconds, not wall time. Counting is Spark's and not in these figures: a text gives about one seed in 13 words to
count, and a row a word only where a seed repeats, which is why the last line is of texts that repeat everywhere.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np

from benchmarks.families import pieces
from benchmarks.timing import row, seconds, show
from pipelines.edits import lines, passages
from pipelines.texts.characters import read_only

WORDS, MIN_CHARS = 50, 10
LEAST_MB = 50.0  # of each loop, MB/s a core: twice what the measuring pass aims at


def rows(folder: str | None = None) -> list[dict]:
    """Each loop over the same texts. `must` is the least ratio."""
    texts = [
        read_only(np.frombuffer(piece.encode(), np.uint8))
        for piece in pieces(Path(folder or sysconfig.get_path("purelib")))
    ]
    mb = sum(map(len, texts)) / 1e6
    seeds = [np.sort(passages.seeds(text, WORDS).view(np.uint64)) for text in texts]
    work = {
        "lines, hashed": lambda: [lines.line_hashes(text, MIN_CHARS) for text in texts],
        "seeds of passages": lambda: [passages.seeds(text, WORDS) for text in texts],
        "passages, every seed repeated": lambda: [
            passages.passages(text, WORDS, known) for text, known in zip(texts, seeds, strict=True)
        ],
    }
    for loop in work.values():
        loop()  # compiled
    speeds = [row(name, mb / seconds(loop), "MB/s", reference=LEAST_MB, must=1.0) for name, loop in work.items()]
    return [*speeds, row("seeds", sum(map(len, seeds)) / mb / 1e3, "per kB")]


if __name__ == "__main__":
    show(rows(*sys.argv[1:2]))
