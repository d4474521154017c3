"""Which blocks of a page are its main content: two logistic models, one of a block by itself, one of it among the
others.

The first sees what a block is (length, links, sentence ends, kind) and what its containers are called; the second what
the first made of the neighbours, of the containers and of the whole page. Their weights are fitted by `python -m
benchmarks.extraction GOLD --fit`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.html.markup import (
    B_CAPS,
    B_END,
    B_ENDS,
    B_KIND,
    B_LINK,
    B_LINKS,
    B_MARKS,
    B_OWNER,
    B_START,
    B_WORDS,
    E_FLAGS,
    E_LINK,
    E_PARENT,
    E_TEXT,
)
from pipelines.html.tags import CELLS, CODE, CONTENT, FLAGS, HEADING

WRAPPER = 0.6  # an element with so much of the page's text outside of links is the page, whatever its class says
ALONE = 1000  # bytes of sentences outside of all containers of a flag at which the flag counts half
CONTENT_FLAG = CONTENT.bit_length() - 1
# Columns of what the first model sees, a group a line. LINK is the share of the bytes that links hold; WORDS, BYTES,
# TEXT (bytes) and ENDS (of sentences) are ln(1 + n); MARKS and CAPS are by word. PARENT: of the owner; ABOVE: of that.
F_ONE, F_WORDS, F_BYTES, F_LINK, F_LINKS, F_SENTENCE, F_ENDS, F_MARKS, F_CAPS = range(9)
F_PLACE, F_PLACE_SQUARED, F_BEFORE_TITLE = range(9, 12)
F_PARENT_LINK, F_PARENT_TEXT, F_ABOVE_LINK, F_ABOVE_TEXT = range(12, 16)
F_BEFORE_LINK, F_BEFORE_WORDS, F_BEHIND_LINK, F_BEHIND_WORDS = range(16, 20)
F_SCRAP = 20  # few words, and none ends a sentence
F_KIND = 21  # the first of a column a kind, headings of all levels together
F_FLAG = F_KIND + HEADING + 1  # the first of a column a flag
N_FIRST = F_FLAG + FLAGS
FIRST_GROUPS = {
    "the block": F_ONE,
    "its place on the page": F_PLACE,
    "what holds it": F_PARENT_LINK,
    "its neighbours": F_BEFORE_LINK,
    "a scrap": F_SCRAP,
    "its kind": F_KIND,
    "flags": F_FLAG,
}
# And the second. What is good: bytes times the first model's probability. MAIN: whether the owner lies in the smallest
# element that holds most of it; NEAR: the best of eight before or of eight behind, the smaller one.
S_ONE, S_LOGIT = range(2)
S_OWNER, S_PARENT, S_ABOVE, S_PARENT_OF_PAGE, S_ABOVE_OF_PAGE, S_MAIN = range(2, 8)
S_BEFORE_FIRST, S_BEHIND_LAST = range(8, 10)
S_BEFORE, S_FOUR_BEFORE, S_BEHIND, S_FOUR_BEHIND = range(10, 14)
S_PAGE = 14
S_LINK, S_WORDS, S_SCRAP = range(15, 18)
S_SINCE_LAST, S_HEADING = range(18, 20)
S_NEAR, S_NEAR_LINK, S_NEAR_MAIN, S_NEAR_MAIN_LINK = range(20, 24)
S_CODE, S_CELLS = range(24, 26)
N_SECOND = 26
SECOND_GROUPS = {
    "the block": S_ONE,
    "what holds it": S_OWNER,
    "its place in what is good": S_BEFORE_FIRST,
    "its neighbours": S_BEFORE,
    "the page": S_PAGE,
    "as the first sees it": S_LINK,
    "blocks since the good ones, a heading": S_SINCE_LAST,
    "the best near it": S_NEAR,
    "its kind": S_CODE,
}
# WEIGHTS
FIRST = np.array([
    -1.676, 0.032, 0.001, -0.944, -0.202, 0.566, 0.240, -2.356, -0.570,  # the block
    -0.025, -1.276, -0.980,  # its place on the page
    -0.473, 0.233, -0.889, 0.193,  # what holds it
    -0.530, 0.358, -1.288, 0.033,  # its neighbours
    0.293,  # a scrap
    -0.919, 0.305, 0.161, 3.718, 1.709, -2.789, 3.091, -1.006,  # its kind
    0.509, -1.518, -5.125, -0.649, -0.424, -0.484, -1.813, -1.146, -2.848, 0.223, -1.469, 3.471, -1.185,  # flags
])  # fmt: skip
SECOND = np.array([
    -3.769, 0.183,  # the block
    2.926, 0.318, -0.503, 0.696, 0.551, 0.946,  # what holds it
    -0.426, 0.655,  # its place in what is good
    0.678, -0.172, 1.473, 0.255,  # its neighbours
    0.164,  # the page
    0.225, -0.007, 0.263,  # as the first sees it
    -1.558, -0.091,  # blocks since the good ones, a heading
    -0.546, -1.056, 1.445, -0.994,  # the best near it
    2.892, 0.650,  # its kind
])  # fmt: skip
CUT = 0.4  # of the logit: a probability of .6
# END
NEARLY = 1.0  # of the logit, below the best block of a page on which none passes
MENU = 0.5  # share of links from which on a block is a menu


@njit(cache=True, nogil=True)
def features(elements, blocks):
    """float32[blocks, N_FIRST]: what the first model sees."""
    n = len(blocks)
    x = np.zeros((n, N_FIRST), np.float32)
    total = linked = 0
    for k in range(n):
        total += blocks[k, B_END] - blocks[k, B_START]
        linked += blocks[k, B_LINK]
    flags = np.zeros(len(elements), np.int64)
    for e in range(len(elements)):
        above = elements[e, E_PARENT]
        is_page = elements[e, E_TEXT] - elements[e, E_LINK] > WRAPPER * (total - linked)
        flags[e] = (0 if is_page else elements[e, E_FLAGS]) | (flags[above] if above >= 0 else 0)
    worth = _worth(blocks, flags)
    before, title = 0, -1
    for k in range(n):
        if blocks[k, B_KIND] == HEADING and title < 0:
            title = k
    for k in range(n):
        b = blocks[k]
        size = b[B_END] - b[B_START]
        words = max(b[B_WORDS], 1)
        row = x[k]
        row[F_ONE] = 1
        row[F_WORDS], row[F_BYTES] = np.log1p(b[B_WORDS]), np.log1p(size)
        row[F_LINK] = b[B_LINK] / size
        row[F_LINKS] = min(b[B_LINKS], 5) / 5
        row[F_SENTENCE], row[F_ENDS] = b[B_ENDS] > 0, np.log1p(b[B_ENDS])
        row[F_MARKS], row[F_CAPS] = min(b[B_MARKS] / words, 1), min(b[B_CAPS] / words, 1)
        row[F_PLACE] = before / max(total, 1)
        row[F_PLACE_SQUARED] = row[F_PLACE] ** 2
        row[F_BEFORE_TITLE] = title >= 0 and k < title
        parent = elements[b[B_OWNER], E_PARENT]
        parent = parent if parent >= 0 else b[B_OWNER]
        above = elements[parent, E_PARENT]
        above = above if above >= 0 else parent
        row[F_PARENT_LINK] = elements[parent, E_LINK] / max(elements[parent, E_TEXT], 1)
        row[F_PARENT_TEXT] = np.log1p(elements[parent, E_TEXT])
        row[F_ABOVE_LINK] = elements[above, E_LINK] / max(elements[above, E_TEXT], 1)
        row[F_ABOVE_TEXT] = np.log1p(elements[above, E_TEXT])
        for step, link, n_words in ((-1, F_BEFORE_LINK, F_BEFORE_WORDS), (1, F_BEHIND_LINK, F_BEHIND_WORDS)):
            if 0 <= k + step < n:
                other = blocks[k + step]
                row[link] = other[B_LINK] / (other[B_END] - other[B_START])
                row[n_words] = np.log1p(other[B_WORDS])
        row[F_SCRAP] = b[B_ENDS] == 0 and b[B_WORDS] < 10
        row[F_KIND + min(b[B_KIND], HEADING)] = 1
        for f in range(FLAGS):
            row[F_FLAG + f] = worth[f] * (flags[b[B_OWNER]] >> f & 1)
        before += size
    return x


@njit(cache=True, nogil=True)
def _worth(blocks, flags):
    """float64[FLAGS]: how much each flag says on this page: little where hardly a sentence stands outside of it, as when
    each post of a thread is a comment."""
    outside = np.zeros(FLAGS)
    for k in range(len(blocks)):
        if blocks[k, B_ENDS] > 0:
            for f in range(FLAGS):
                if not flags[blocks[k, B_OWNER]] >> f & 1:
                    outside[f] += blocks[k, B_END] - blocks[k, B_START] - blocks[k, B_LINK]
    worth = outside / (outside + ALONE)
    worth[CONTENT_FLAG] = 1
    return worth


@njit(cache=True, nogil=True)
def context(elements, blocks, x, p):
    """float32[blocks, N_SECOND]: what the second model sees, from probabilities `p` of the first."""
    n, m = len(blocks), len(elements)
    z = np.zeros((n, N_SECOND), np.float32)
    mass, size = np.zeros(m), np.zeros(m)
    total = all_size = 0.0
    first, last = -1, -1
    for k in range(n):
        bytes_ = blocks[k, B_END] - blocks[k, B_START]
        mass[blocks[k, B_OWNER]] += bytes_ * p[k]
        size[blocks[k, B_OWNER]] += bytes_
        total += bytes_ * p[k]
        all_size += bytes_
        if p[k] > 0.6 and blocks[k, B_WORDS] > 12:
            first = k if first < 0 else first
            last = k
    for e in range(m - 1, 0, -1):
        if elements[e, E_PARENT] >= 0:
            mass[elements[e, E_PARENT]] += mass[e]
            size[elements[e, E_PARENT]] += size[e]
    main = _main(elements, mass, size, total)
    for k in range(n):
        row = z[k]
        row[S_ONE] = 1
        q = min(max(p[k], 1e-6), 1 - 1e-6)
        row[S_LOGIT] = np.log(q / (1 - q))
        owner = blocks[k, B_OWNER]
        parent = elements[owner, E_PARENT] if elements[owner, E_PARENT] >= 0 else owner
        above = elements[parent, E_PARENT] if elements[parent, E_PARENT] >= 0 else parent
        for column, e in ((S_OWNER, owner), (S_PARENT, parent), (S_ABOVE, above)):
            row[column] = mass[e] / max(size[e], 1.0)
        row[S_PARENT_OF_PAGE], row[S_ABOVE_OF_PAGE] = mass[parent] / max(total, 1.0), mass[above] / max(total, 1.0)
        row[S_MAIN] = main[owner]
        row[S_BEFORE_FIRST] = first >= 0 and k < first
        row[S_BEHIND_LAST] = first >= 0 and k > last
        row[S_BEFORE], row[S_FOUR_BEFORE], best_before = _near(blocks, p, k, -1)
        row[S_BEHIND], row[S_FOUR_BEHIND], best_behind = _near(blocks, p, k, 1)
        row[S_PAGE] = total / max(all_size, 1.0)
        row[S_LINK], row[S_WORDS], row[S_SCRAP] = x[k, F_LINK], x[k, F_WORDS], x[k, F_SCRAP]
        row[S_SINCE_LAST] = min(max(k - last, 0), 20) / 20 if last >= 0 else 0
        row[S_HEADING] = blocks[k, B_KIND] >= HEADING
        row[S_NEAR] = min(best_before, best_behind)
        row[S_NEAR_LINK] = row[S_NEAR] * x[k, F_LINK]
        row[S_NEAR_MAIN] = row[S_NEAR] * main[owner]
        row[S_NEAR_MAIN_LINK] = row[S_NEAR_MAIN] * x[k, F_LINK]
        row[S_CODE] = blocks[k, B_KIND] == CODE
        row[S_CELLS] = blocks[k, B_KIND] == CELLS
    return z


@njit(cache=True, nogil=True)
def _main(elements, mass, size, total):
    """bool[elements]: whether it is the smallest element that holds most of what is good, or in it."""
    main = np.zeros(len(elements), np.bool_)
    best, best_size = -1, 1e18
    for e in range(len(elements)):
        if mass[e] >= 0.75 * total and size[e] <= best_size:
            best, best_size = e, size[e]
    for e in range(len(elements)):
        main[e] = e == best or (elements[e, E_PARENT] >= 0 and main[elements[e, E_PARENT]])
    return main


@njit(cache=True, nogil=True)
def _near(blocks, p, k, step):
    """On one side of block k: the probability of the next, the mean of four, weighted by roots of bytes, the best of
    eight."""
    beside = good = seen = best = 0.0
    for d in range(1, 9):
        j = k + step * d
        if not 0 <= j < len(blocks):
            break
        best = max(best, p[j])
        if d <= 4:
            weight = (blocks[j, B_END] - blocks[j, B_START]) ** 0.5
            good += weight * p[j]
            seen += weight
        if d == 1:
            beside = p[j]
    return beside, good / max(seen, 1.0), best


def keep(elements: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """bool[blocks]: the main content."""
    x = features(elements, blocks)
    return passing(logits(context(elements, blocks, x, probability(logits(x, FIRST))), SECOND), x)


def passing(scores: np.ndarray, x: np.ndarray) -> np.ndarray:
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
