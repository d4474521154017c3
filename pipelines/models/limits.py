"""What a quality model does not do, on its card: it hardly sees the order of words, and it need not travel.

A model of words and word pairs scores a page much as it scores the same page with its words shuffled; and it learns
whatever tells its two kinds of examples apart, which elsewhere may be something else. Both are measured for each model,
on texts that it did not see: by its held-out examples, shuffled; by each source left out of training in turn, as far
as there is another of its kind; by the sources of other domains.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.models import quality
from pipelines.models.audit import auc
from pipelines.models.examples import Example
from pipelines.models.quality import Trained, near_copies
from pipelines.signals.quality import score
from schemas.errors import DataError

UNITS = ("words", "sentences", "lines")
SENTENCE_END = re.compile(r"(?<=[.!?…؟।])\s+|(?<=[。！？])")
SEES = 0.8  # AUC of texts against their shuffled selves, below which a model is said not to see the order
TRAVELS = 0.8  # AUC on a source that was left out of training, below which it is said not to travel there
MOST_SOURCES = 4  # of each kind that are left out in turn, the largest: each costs a training
KINDS = ("positives", "pool")


def limits(
    trained: Trained, examples: tuple[list[Example], list[Example]], elsewhere: dict[str, list[str]], seed: int
) -> dict[str, Any]:
    """For the card: `shuffled` (order_test of the held-out positives), `transfer`, and both as `warnings` in words.

    examples: what it was trained on and tested with, in that order; elsewhere: texts by source of other domains.
    """
    heldout = [examples[0][place][1] for place in trained.heldout[0]]
    shuffled, rows = order_test(trained.model, heldout, seed), transfer(trained, examples, elsewhere, seed)
    return {"shuffled": shuffled, "transfer": rows, "warnings": _warnings(shuffled["words"], rows)}


def shuffle(text: str, unit: str, random: np.random.Generator) -> str:
    """The text's words (its pieces of ink), sentences or lines in random order."""
    if unit == "lines":
        parts, joint = text.split("\n"), "\n"
    else:
        parts, joint = (text.split() if unit == "words" else SENTENCE_END.split(text)), " "
    return joint.join(parts[i] for i in random.permutation(len(parts)))


def order_test(model: bytes, texts: list[str], seed: int) -> dict[str, float]:
    """By unit, the AUC of the texts against the same texts shuffled; .5 is a model that does not see the order."""
    random, scores = np.random.default_rng(seed), _scores(model, texts)
    return {unit: auc(scores, _scores(model, [shuffle(text, unit, random) for text in texts])) for unit in UNITS}


def transfer(
    trained: Trained, examples: tuple[list[Example], list[Example]], elsewhere: dict[str, list[str]], seed: int
) -> list[dict[str, Any]]:
    """A row a source: its kind (positives, pool, elsewhere), how many texts were tried, and two AUCs.

    auc     of its held-out texts against held-out ones of the other kind; elsewhere of its texts against the pool's
    unseen  the same by a model trained without this source; None where its kind has no other, or too few are left
    """
    tested = [[kind[place] for place in places] for kind, places in zip(examples, trained.heldout, strict=True)]
    scores = [_scores(trained.model, [text for _, text in kind]) for kind in tested]
    rows = []
    for side, kind in enumerate(KINDS):
        for source in sorted({source for source, _ in examples[side]}):
            own = scores[side][np.array([one == source for one, _ in tested[side]], bool)]
            row = {"source": source, "kind": kind, "texts": len(own), "auc": _told(side, own, scores[1 - side])}
            rows.append(row | {"unseen": _unseen(examples, side, source, seed)})
    for source, texts in sorted(elsewhere.items()):
        figure = _told(0, _scores(trained.model, texts), scores[1])
        rows.append({"source": source, "kind": "elsewhere", "texts": len(texts), "auc": figure, "unseen": None})
    return rows


def _unseen(examples: tuple[list[Example], list[Example]], side: int, source: str, seed: int) -> float | None:
    """AUC on a source of a model that learnt from the others, near copies of which are no test."""
    texts = [text for _, text in examples[side]]
    is_own = np.array([one == source for one, _ in examples[side]])
    largest = [name for name, _ in Counter(one for one, _ in examples[side]).most_common(MOST_SOURCES)]
    if is_own.all() or source not in largest:
        return None
    groups = near_copies(texts)
    is_tried = is_own & ~np.isin(groups, groups[~is_own])
    kinds = [[text for _, text in kind] for kind in examples]
    kinds[side] = [text for text, own in zip(texts, is_own, strict=True) if not own]
    try:
        trained = quality.train(*kinds, seed, f"without {source}")
    except DataError:
        return None
    own = _scores(trained.model, [text for text, tried in zip(texts, is_tried, strict=True) if tried])
    others = _scores(trained.model, [kinds[1 - side][place] for place in trained.heldout[1 - side]])
    return _told(side, own, others)


def _told(side: int, own: np.ndarray, others: np.ndarray) -> float | None:
    """AUC of a kind's scores against the other's; positives should have the higher ones."""
    if not len(own) or not len(others):
        return None
    return auc(own, others) if side == 0 else auc(others, own)


def _scores(model: bytes, texts: list[str]) -> np.ndarray:
    return score(pa.array(texts, pa.large_string()), model)


def _warnings(words: float, rows: list[dict[str, Any]]) -> list[str]:
    told, tried = [], [row for row in rows if row["unseen"] is not None]
    if words < SEES:
        told.append(
            f"the order of words hardly counts: held-out positives score above themselves with their words shuffled "
            f"with AUC {words:.2f} (0.5 is not at all); the signal word_order sees it"
        )
    told += [
        f"it does not travel to {row['source']} ({row['kind']}): left out of training, AUC {row['unseen']:.2f} "
        f"instead of {row['auc']:.2f}"
        for row in tried
        if row["unseen"] < TRAVELS and row["auc"] is not None
    ]
    if not tried:
        told.append(
            "whether it travels cannot be told: neither positives nor pool have two sources with examples enough"
        )
    return told
