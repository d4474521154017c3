"""Fitting the tables of `pipelines.signals.order`: pairs of words in text, against the same words shuffled.

    python -m pipelines.models.order FOLDER ...

writes them anew from folders of JSON lines (fields text and source; plain, .gz or .zst). What lies there was fitted to
90,000 pieces of 60 repositories of books, pages, laws and documentation, most of it English. The weights are those of
naive Bayes: two counts a bucket are compared, nothing is trained. benchmarks/results/order.md says how well they tell
sources that they were not fitted to.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from pipelines import assets
from pipelines.models.limits import shuffle
from pipelines.readers.compressed import chunks
from pipelines.readers.jsonl import lines
from pipelines.signals import language, order
from pipelines.signals.context import Context

PIECE_CHARS = 3000  # a long text is cut into such: in pieces as long as what is read of a document, words are shuffled
TEXT_PIECES, SOURCE_PIECES = 20, 4000  # of a text, of a source and language: no book and no source decides alone
# Of a language, and of each of two sources of it: only what was tried on a source that it was not fitted to is shipped.
LEAST_PIECES, LEAST_OF_SOURCE = 500, 100
SHUFFLES = 3
PRIOR = 4  # pairs added to both counts of a bucket
LINE_BYTES = 64 << 20
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
Piece = tuple[str, str, str]  # source, language, text


def fit(pieces: list[str], seed: int) -> np.ndarray:
    """The table of a language, int8[BUCKETS]."""
    random = np.random.default_rng(seed)
    in_text = order.count(pa.array(pieces, pa.large_string())).astype(float)
    shuffled = sum(
        order.count(pa.array([shuffle(piece, "words", random) for piece in pieces], pa.large_string()))
        for _ in range(SHUFFLES)
    )
    shuffled = shuffled * (in_text.sum() / max(shuffled.sum(), 1))
    weights = np.log((in_text + PRIOR) / (shuffled + PRIOR)) * order.STEPS
    return np.clip(np.rint(weights), -127, 127).astype(np.int8)


def pieces(folders: Iterable[Path]) -> list[Piece]:
    """Pieces of the folders' texts, at most so many of a text and of a source and language; pages of HTML apart."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    context = Context(assets.LANGUAGE_MODEL.read_bytes())
    texts = _texts(folders)
    while batch := list(itertools.islice(texts, 1000)):
        cut = [(source, piece) for source, text in batch for piece in _cut(text)]
        labels = language.measure(pa.array([piece for _, piece in cut], pa.large_string()), {}, context)[0].to_pylist()
        for (source, piece), label in zip(cut, labels, strict=True):
            if label != language.UNDETERMINED and len(groups[source, label]) < SOURCE_PIECES:
                groups[source, label].append(piece)
    return [(source, label, piece) for (source, label), members in sorted(groups.items()) for piece in members]


def chosen(given: list[Piece]) -> dict[str, list[str]]:
    """The pieces of each language that has enough of them, and of two sources."""
    by_language: dict[str, list[str]] = defaultdict(list)
    for _, label, piece in given:
        by_language[label].append(piece)
    of_source = Counter((label, source) for source, label, _ in given)
    sources = Counter(label for (label, _), count in of_source.items() if count >= LEAST_OF_SOURCE)
    return {
        label: members
        for label, members in sorted(by_language.items())
        if len(members) >= LEAST_PIECES and sources[label] > 1
    }


def _texts(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(source, text) of each record; the file's name where it names no source."""
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.name.endswith(SUFFIXES)):
        with open(path, "rb") as stream:
            for line, _ in lines(chunks(stream, str(path)), LINE_BYTES):
                record = orjson.loads(line) if line else None
                text = record.get("text") if isinstance(record, dict) else None
                if isinstance(text, str) and not text.lstrip().startswith("<"):
                    yield record.get("source") or path.name, text


def _cut(text: str) -> list[str]:
    """The text's first pieces, spread over it where it has more."""
    begins = range(0, len(text), PIECE_CHARS)
    step = -(-len(begins) // TEXT_PIECES)
    return [text[begin : begin + PIECE_CHARS] for begin in begins[::step]]


def main() -> None:
    if not sys.argv[1:]:
        sys.exit(f"expected folders with files of JSON lines ({', '.join(SUFFIXES)}); found none")
    fitted = [(label, fit(of, seed=1)) for label, of in chosen(pieces(map(Path, sys.argv[1:]))).items()]
    np.save(Path(order.__file__).with_name(order.FILE), np.array(fitted, order.TABLE))
    print(", ".join(label for label, _ in fitted))


if __name__ == "__main__":
    main()
