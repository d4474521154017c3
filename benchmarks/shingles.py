"""Extracted text against the main content by hand: precision, recall and F1 of 4-gram shingles of the words (\\w+), as
multisets; and the files of pages that are judged by them.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import zstandard

GOLD, KINDS = "articles.jsonl.zst", "kinds.jsonl.zst"
N_WORDS = re.compile(r"\w+")


def read(file: str | Path) -> Iterator[dict]:
    """The objects of a .jsonl.zst file."""
    with open(file, "rb") as packed:
        yield from map(json.loads, io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), "utf-8"))


def shingles(text: str) -> Counter:
    words = N_WORDS.findall(text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(len(words) - 3, 1))) if words else Counter()


def score(pairs: Iterable[tuple[str, str]]) -> tuple[float, float, float]:
    """(precision, recall, F1) of (text, gold) pairs."""
    sums = np.zeros(3)
    for text, gold in pairs:
        ours, theirs = shingles(text), shingles(gold)
        both = (ours & theirs).total()
        counts = np.array([both, ours.total() - both, theirs.total() - both])
        sums += counts / max(counts.sum(), 1)
    precision, recall = sums[0] / (sums[0] + sums[1]), sums[0] / (sums[0] + sums[2])
    return precision, recall, 2 * precision * recall / (precision + recall)
