"""The signal word_order on sources that its tables were not fitted to: text against the same text with its words
shuffled.

    python -m benchmarks order FOLDER       folders of JSON lines: text, source

For each source and language, the table of the language is fitted to the other sources and tried on this one's pieces of
up to 3,000 characters, as AUC. The last row of a language is the table that is shipped: it has seen what it is tried
on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.timing import row
from pipelines.models.audit import auc
from pipelines.models.limits import shuffle
from pipelines.models.order import LEAST_OF_SOURCE, Piece, chosen, fit, pieces
from pipelines.signals import order

LEAST_AUC = 0.9
MOST_SOURCES, MOST_TRIED = 6, 1000  # of a language, the largest; pieces of a source


def rows(folder: str | None = None) -> list[dict]:
    if folder is None:
        return []
    given = pieces([Path(folder)])
    return [figure for lang in chosen(given) for figure in _of_language(lang, [one for one in given if one[1] == lang])]


def _of_language(lang: str, members: list[Piece]) -> list[dict]:
    languages, weights = order.tables()
    sizes, figures = Counter(source for source, *_ in members), []
    for source, size in sizes.most_common(MOST_SOURCES):
        if size >= LEAST_OF_SOURCE:
            rest = [text for other, _, text in members if other != source]
            table = fit(rest, seed=1)
            figures.append(_row(f"{lang}: {source}, fitted to the other sources", members, source, table))
    if lang in languages:
        figures.append(
            _row(f"{lang}: all, by the table that is shipped", members, None, weights[languages.index(lang)])
        )
    return figures


def _row(work: str, members: list[Piece], wanted: str | None, table: np.ndarray) -> dict:
    random, texts = np.random.default_rng(2), [text for source, _, text in members if wanted in (None, source)]
    tried = [texts[i] for i in random.permutation(len(texts))[:MOST_TRIED]]
    scores = [_scores(one, table) for one in (tried, [shuffle(text, "words", random) for text in tried])]
    told = auc(*[one[~np.isnan(one)] for one in scores])
    return row(f"{work} ({len(tried):,} pieces)", told, "AUC", reference=LEAST_AUC, must=1.0)


def _scores(texts: list[str], table: np.ndarray) -> np.ndarray:
    return order.score(pa.array(texts, pa.large_string()), np.zeros(len(texts), np.int64), table[None])
