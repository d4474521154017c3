"""The signal word_order on sources that its tables were not fitted to: text against the same text with its words
shuffled.

    python -m benchmarks order FOLDER       folders of JSON lines: text, source

For each source and language, the table of the language is fitted to the other sources and tried on this one's pieces of
up to 3,000 characters, as AUC; a language of one source is fitted to half of its texts. The last row is the table that
is shipped, on all pieces: it has seen them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.timing import row
from pipelines.models.audit import auc
from pipelines.models.limits import shuffle
from pipelines.models.order import LEAST_PIECES, Piece, fit, pieces
from pipelines.signals import order

LEAST_AUC = 0.9
LEAST_TRIED, MOST_TRIED = 100, 1000  # pieces of a source and language


def rows(folder: str | None = None) -> list[dict]:
    if folder is None:
        return []
    by_language: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces([Path(folder)]):
        by_language[piece[1]].append(piece)
    figures = []
    for lang, members in sorted(by_language.items()):
        if len(members) >= LEAST_PIECES:
            figures += _of_language(lang, members)
    return figures


def _of_language(lang: str, members: list[Piece]) -> list[dict]:
    by_source: dict[str, list[str]] = defaultdict(list)
    for source, _, text in members:
        by_source[source].append(text)
    figures = []
    for source, texts in sorted(by_source.items()):
        rest = [text for other, _, text in members if other != source]
        if len(texts) >= LEAST_TRIED and len(rest) >= LEAST_PIECES:
            figures.append(_row(f"{lang}: {source}, fitted to the other sources", texts, fit(rest, seed=1)))
    if not figures:
        half = len(members) // 2
        texts = [text for *_, text in members]
        figures.append(_row(f"{lang}: {members[0][0]}, fitted to half of it", texts[half:], fit(texts[:half], seed=1)))
    languages, weights = order.tables()
    if lang in languages:
        texts = [text for *_, text in members]
        figures.append(_row(f"{lang}: all, by the table that is shipped", texts, weights[languages.index(lang)]))
    return figures


def _row(work: str, texts: list[str], table: np.ndarray) -> dict:
    random = np.random.default_rng(2)
    tried = [texts[i] for i in random.permutation(len(texts))[:MOST_TRIED]]
    scores = [_scores(one, table) for one in (tried, [shuffle(text, "words", random) for text in tried])]
    told = auc(*[one[~np.isnan(one)] for one in scores])
    return row(f"{work} ({len(tried):,} pieces)", told, "AUC", reference=LEAST_AUC, must=1.0)


def _scores(texts: list[str], table: np.ndarray) -> np.ndarray:
    return order.score(pa.array(texts, pa.large_string()), np.zeros(len(texts), np.int64), table[None])
