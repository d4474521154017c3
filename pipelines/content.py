"""Which blocks of a page are its main content: two logistic models, one of a block by itself, one of it among the others.

The first sees what a block is (length, links, sentence ends, kind) and what its containers are called; the second what the first
made of the neighbours, of the containers and of the whole page. Their weights are fitted by
`python -m benchmarks.extraction GOLD --fit`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.markup import (
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
    FLAGS,
    HEADING,
)  # fmt: skip

WRAPPER = 0.6  # an element with so much of the page's text is the page, whatever its class says
N_FIRST = 21 + 8 + FLAGS
N_SECOND = 20
# WEIGHTS
FIRST = np.array([
    -4.496, 0.099, 0.023, -0.649, -0.771, 0.455, 0.188, -3.243, -0.201, -0.363, -1.355, -0.610,
    -0.124, 0.324, -0.501, 0.300, -0.504, 0.404, -0.865, 0.139, 0.294, -0.486, 0.996, -0.081,
    0.000, 1.788, -2.233, 1.806, -0.706, 0.111, -1.007, -4.542, -0.441, 0.096, -0.048, -1.131,
    -1.085, -2.168, 0.098, -0.904, 2.960, -1.024,
])
SECOND = np.array([
    -4.514, 0.178, 3.140, 0.109, -0.765, 0.505, 0.851, 1.956, -0.306, 0.389, 0.451, -0.131,
    1.319, -0.159, 0.730, -0.411, 0.145, 0.448, -0.849, 0.007,
])
CUT = 0.4  # logit: probability .6
# END


@njit(cache=True, nogil=True)
def features(elements, blocks):
    """float64[blocks, N_FIRST]: what the first model sees."""
    n = len(blocks)
    x = np.zeros((n, N_FIRST))
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
    """float64[blocks, N_SECOND]: what the second model sees, from probabilities `p` of the first."""
    n, m = len(blocks), len(elements)
    z = np.zeros((n, N_SECOND))
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
            good = seen = 0.0
            for d in range(1, 5):
                j = k + step * d
                if 0 <= j < n:
                    w = (blocks[j, B_END] - blocks[j, B_START]) ** 0.5
                    good += w * p[j]
                    seen += w
                    if d == 1:
                        row[at] = p[j]
            row[at + 1] = good / max(seen, 1.0)
        row[14] = total / max(all_size, 1.0)
        row[15] = x[k, 3]
        row[16] = x[k, 1]
        row[17] = x[k, 20]
        row[18] = min(max(k - last, 0), 20) / 20 if last >= 0 else 0
        row[19] = blocks[k, B_KIND] >= HEADING
    return z


def keep(elements: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """bool[blocks]: the main content."""
    x = features(elements, blocks)
    z = context(elements, blocks, x, _probability(x @ FIRST))
    return z @ SECOND > CUT


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
