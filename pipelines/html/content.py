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
from pipelines.html.tags import CELLS, CODE, FLAGS, HEADING

WRAPPER = 0.6  # an element with so much of the page's text is the page, whatever its class says
N_FIRST = 21 + 8 + FLAGS
N_SECOND = 26
# WEIGHTS
FIRST = np.array([
    -1.676, 0.032, 0.001, -0.944, -0.202, 0.566, 0.240, -2.356, -0.570, -0.025, -1.276, -0.980,
    -0.473, 0.233, -0.889, 0.193, -0.530, 0.358, -1.288, 0.033, 0.293, -0.919, 0.305, 0.161,
    3.718, 1.709, -2.789, 3.091, -1.006, 0.509, -1.518, -5.125, -0.649, -0.424, -0.484, -1.813,
    -1.146, -2.848, 0.223, -1.469, 3.471, -1.185,
])  # fmt: skip
SECOND = np.array([
    -3.769, 0.183, 2.926, 0.318, -0.503, 0.696, 0.551, 0.946, -0.426, 0.655, 0.678, -0.172,
    1.473, 0.255, 0.164, 0.225, -0.007, 0.263, -1.558, -0.091, -0.546, -1.056, 1.445, -0.994,
    2.892, 0.650,
])  # fmt: skip
CUT = 0.4  # of the logit: a probability of .6
# END


@njit(cache=True, nogil=True)
def features(elements, blocks):
    """float32[blocks, N_FIRST]: what the first model sees."""
    n = len(blocks)
    x = np.zeros((n, N_FIRST), np.float32)
    total = 0
    for k in range(n):
        total += blocks[k, B_END] - blocks[k, B_START]
    flags = np.zeros(len(elements), np.int64)
    for e in range(len(elements)):
        above = elements[e, E_PARENT]
        own = 0 if elements[e, E_TEXT] > WRAPPER * total else elements[e, E_FLAGS]
        flags[e] = own | (flags[above] if above >= 0 else 0)
    before, title = 0, -1
    for k in range(n):
        if blocks[k, B_KIND] == HEADING and title < 0:
            title = k
    for k in range(n):
        b = blocks[k]
        size = b[B_END] - b[B_START]
        words = max(b[B_WORDS], 1)
        row = x[k]
        row[0] = 1
        row[1], row[2] = np.log1p(b[B_WORDS]), np.log1p(size)
        row[3] = b[B_LINK] / size
        row[4] = min(b[B_LINKS], 5) / 5
        row[5], row[6] = b[B_ENDS] > 0, np.log1p(b[B_ENDS])
        row[7], row[8] = min(b[B_MARKS] / words, 1), min(b[B_CAPS] / words, 1)
        row[9] = before / max(total, 1)
        row[10] = row[9] ** 2
        row[11] = title >= 0 and k < title
        parent = elements[b[B_OWNER], E_PARENT]
        parent = parent if parent >= 0 else b[B_OWNER]
        above = elements[parent, E_PARENT]
        above = above if above >= 0 else parent
        row[12] = elements[parent, E_LINK] / max(elements[parent, E_TEXT], 1)
        row[13] = np.log1p(elements[parent, E_TEXT])
        row[14] = elements[above, E_LINK] / max(elements[above, E_TEXT], 1)
        row[15] = np.log1p(elements[above, E_TEXT])
        for step, at in ((-1, 16), (1, 18)):
            if 0 <= k + step < n:
                other = blocks[k + step]
                row[at] = other[B_LINK] / (other[B_END] - other[B_START])
                row[at + 1] = np.log1p(other[B_WORDS])
        row[20] = b[B_ENDS] == 0 and b[B_WORDS] < 10
        row[21 + min(b[B_KIND], HEADING)] = 1
        for f in range(FLAGS):
            row[29 + f] = flags[b[B_OWNER]] >> f & 1
        before += size
    return x


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
    main = np.zeros(m, np.bool_)  # in the deepest element that holds most of what is good
    best, best_size = -1, 1e18
    for e in range(m):
        if mass[e] >= 0.75 * total and size[e] <= best_size:
            best, best_size = e, size[e]
    for e in range(m):
        main[e] = e == best or (elements[e, E_PARENT] >= 0 and main[elements[e, E_PARENT]])
    for k in range(n):
        row = z[k]
        row[0] = 1
        q = min(max(p[k], 1e-6), 1 - 1e-6)
        row[1] = np.log(q / (1 - q))
        owner = blocks[k, B_OWNER]
        parent = elements[owner, E_PARENT] if elements[owner, E_PARENT] >= 0 else owner
        above = elements[parent, E_PARENT] if elements[parent, E_PARENT] >= 0 else parent
        for at, e in ((2, owner), (3, parent), (4, above)):
            row[at] = mass[e] / max(size[e], 1.0)
        row[5], row[6] = mass[parent] / max(total, 1.0), mass[above] / max(total, 1.0)
        row[7] = main[owner]
        row[8] = first >= 0 and k < first
        row[9] = first >= 0 and k > last
        for step, at in ((-1, 10), (1, 12)):
            good = seen = best_near = 0.0
            for d in range(1, 9):
                j = k + step * d
                if 0 <= j < n:
                    best_near = max(best_near, p[j])
                if 0 <= j < n and d <= 4:
                    w = (blocks[j, B_END] - blocks[j, B_START]) ** 0.5
                    good += w * p[j]
                    seen += w
                    if d == 1:
                        row[at] = p[j]
            row[at + 1] = good / max(seen, 1.0)
            row[20] = min(row[20], best_near) if step > 0 else best_near
        row[14] = total / max(all_size, 1.0)
        row[15] = x[k, 3]
        row[16] = x[k, 1]
        row[17] = x[k, 20]
        row[18] = min(max(k - last, 0), 20) / 20 if last >= 0 else 0
        row[19] = blocks[k, B_KIND] >= HEADING
        row[21] = row[20] * x[k, 3]
        row[22] = row[20] * main[owner]
        row[23] = row[22] * x[k, 3]
        row[24] = blocks[k, B_KIND] == CODE
        row[25] = blocks[k, B_KIND] == CELLS
    return z


def keep(elements: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """bool[blocks]: the main content."""
    x = features(elements, blocks)
    return logits(context(elements, blocks, x, probability(logits(x, FIRST))), SECOND) > CUT


@njit(cache=True, nogil=True)
def logits(x, weights):
    """x @ weights, summed from left to right: the same bits on every machine, which a BLAS does not promise."""
    found = np.zeros(len(x))
    for k in range(len(x)):
        for j in range(len(weights)):
            found[k] += x[k, j] * weights[j]
    return found


def probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
