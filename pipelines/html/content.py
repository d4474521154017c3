"""Which blocks of a page are its main content: two logistic models, one of a block by itself, one of it among the
others, in two versions: for pages of one text, and for pages of many posts, offers or entries.

A third model tells from the page which version to take. Their weights (weights.py) are fitted by `python -m
benchmarks.blocks FOLDER`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.html import weights
from pipelines.html.features import F_LINK, context, features, leading_menus
from pipelines.html.markup import B_END, B_LINK, B_START

CUT = 0.4  # of the logit from which on a block is content: a probability of .6
NEARLY = 1.0  # of the logit, below the best block of a page on which none passes
MENU = 0.5  # share of links from which on a block is a menu
MANY = 0.5  # of the logit from which on a page is one of many: a probability of .62


def keep(elements: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """bool[blocks]: the main content."""
    x = features(elements, blocks)
    if is_many(x, blocks, weights.PAGE):
        return choose(elements, blocks, x, weights.FIRST_OF_MANY, weights.SECOND_OF_MANY)
    return choose(elements, blocks, x, weights.FIRST, weights.SECOND)


def choose(
    elements: np.ndarray, blocks: np.ndarray, x: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """The same by these weights. What stands in a menu before it is left out, and not seen beside the rest."""
    p = probability(logits(x, first))
    rest = ~leading_menus(elements, blocks, p)
    rest = rest if rest.any() else ~rest
    kept = np.zeros(len(blocks), bool)
    kept[rest] = select(logits(context(elements, blocks[rest], x[rest], p[rest]), second), x[rest])
    return kept


def is_many(x: np.ndarray, blocks: np.ndarray, page: np.ndarray) -> bool:
    """Whether a page is one of many posts, offers or entries, rather than of one text."""
    return len(x) > 0 and float(logits(page_means(x, blocks), page)[0]) > MANY


@njit(cache=True, nogil=True)
def page_means(x, blocks):
    """float64[1, N_FIRST]: the mean of what the first model sees, by bytes outside of links."""
    sums, total = np.zeros((1, x.shape[1])), 0.0
    for k in range(len(x)):
        weight = blocks[k, B_END] - blocks[k, B_START] - blocks[k, B_LINK] + 1e-3
        total += weight
        for j in range(x.shape[1]):
            sums[0, j] += weight * x[k, j]
    return sums / max(total, 1e-3)


def select(scores: np.ndarray, x: np.ndarray) -> np.ndarray:
    """bool[blocks]: those above the cut; where none is, those that are no menus and almost as good as the best such."""
    kept = scores > CUT
    if not kept.any():
        text = x[:, F_LINK] < MENU
        kept = text & (scores >= scores[text].max(initial=-np.inf) - NEARLY)
    return kept


@njit(cache=True, nogil=True)
def logits(x, weights):
    """x @ weights, summed from left to right: the same bits on every machine, which a BLAS does not promise."""
    sums = np.zeros(len(x))
    for k in range(len(x)):
        for j in range(len(weights)):
            sums[k] += x[k, j] * weights[j]
    return sums


def probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
