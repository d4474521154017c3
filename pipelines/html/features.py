"""What the models of content.py see of a page's blocks, as columns of numbers.

`features`: what a block is (length, links, sentence ends, kind), what its containers are called and whether the page's
sentences stand in them. `context`: what a first model made of the neighbours, of the containers and of the whole page.
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
    E_TAG,
    E_TEXT,
)
from pipelines.html.tags import (
    CELLS,
    CLASS,
    CODE,
    COMMENT,
    CONTENT,
    FIGURE,
    FLAGS,
    HARD,
    HEADING,
    ITEM,
    LIST,
    OTHER,
    PARA,
    PARAGRAPH,
    QUOTE,
)

WRAPPER = 0.5  # an element with so much of the page's sentences is the page, whatever its class says
ALONE = 300  # bytes of sentences outside of flagged containers at which they count half
LEAST_MENU, MENU_LINKS = 100, 0.8  # bytes of a list, share of them in links
LIKELY, PARAGRAPH_WORDS = 0.6, 12  # what begins and ends the content of a page
OF_CONTENT = CONTENT | FIGURE | QUOTE
ARTICLE = 1500  # bytes of sentences in one element at which it is half an article
# Columns of what the first model sees, a group a line. LINK is the share of the bytes that links hold; WORDS, BYTES,
# TEXT (bytes) and ENDS (of sentences) are ln(1 + n); MARKS and CAPS are by word. PARENT: of the owner; ABOVE: of that.
F_ONE, F_WORDS, F_BYTES, F_LINK, F_LINKS, F_SENTENCE, F_ENDS, F_MARKS, F_CAPS = range(9)
F_PLACE, F_PLACE_SQUARED, F_BEFORE_TITLE = range(9, 12)
F_PARENT_LINK, F_PARENT_TEXT, F_ABOVE_LINK, F_ABOVE_TEXT = range(12, 16)
F_BEFORE_LINK, F_BEFORE_WORDS, F_BEHIND_LINK, F_BEHIND_WORDS = range(16, 20)
F_SCRAP = 20  # few words, and none ends a sentence
F_KIND = 21  # the first of a column a kind, headings of all levels together
F_FLAG = F_KIND + HEADING + 1  # the first of a column a flag
F_FIGURE = F_FLAG + FIGURE.bit_length() - 1
F_ALONE = F_FLAG + FLAGS  # flagged, on a page with few sentences that are not
F_ALIKE, F_ALIKE_SHARE = F_ALONE + 1, F_ALONE + 2  # ln(1 + how many like what holds it), their share of the sentences
F_HOLDER, F_ELSEWHERE = F_ALIKE_SHARE + 1, F_ALIKE_SHARE + 2  # is what holds it the article; is there one elsewhere
N_FIRST = F_ELSEWHERE + 1
FIRST_GROUPS = {
    "the block": F_ONE,
    "its place on the page": F_PLACE,
    "what holds it": F_PARENT_LINK,
    "its neighbours": F_BEFORE_LINK,
    "a scrap": F_SCRAP,
    "its kind": F_KIND,
    "flags": F_FLAG,
    "flagged among flagged": F_ALONE,
    "one of many alike": F_ALIKE,
    "an article here, elsewhere": F_HOLDER,
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
S_CODE, S_CELLS, S_FIGURE, S_FLAGGED = range(24, 28)
N_SECOND = 28
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


@njit(cache=True, nogil=True)
def features(elements, blocks):
    """float32[blocks, N_FIRST]: what the first model sees."""
    n = len(blocks)
    x = np.zeros((n, N_FIRST), np.float32)
    total = 0
    for k in range(n):
        total += blocks[k, B_END] - blocks[k, B_START]
    prose = _prose(elements, blocks)
    flags = _flags(elements, prose)
    alone = _alone(blocks, flags)
    alike, alike_share = _alike(elements, prose)
    holding = _holding(elements, blocks)
    article = holding.max()
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
            row[F_FLAG + f] = flags[b[B_OWNER]] >> f & 1
        row[F_ALIKE], row[F_ALIKE_SHARE] = np.log1p(alike[b[B_OWNER]]), alike_share[b[B_OWNER]]
        row[F_HOLDER] = holding[parent] / max(article, 1.0)
        row[F_ELSEWHERE] = (1 - row[F_HOLDER]) * article / (article + ARTICLE)
        row[F_ALONE] = alone if flags[b[B_OWNER]] & ~OF_CONTENT else 0
        before += size
    return x


@njit(cache=True, nogil=True)
def _prose(elements, blocks):
    """float64[elements]: bytes outside of links, of blocks that end a sentence."""
    prose = np.zeros(len(elements))
    for k in range(len(blocks)):
        if blocks[k, B_ENDS] > 0:
            prose[blocks[k, B_OWNER]] += blocks[k, B_END] - blocks[k, B_START] - blocks[k, B_LINK]
    for e in range(len(elements) - 1, 0, -1):
        prose[elements[e, E_PARENT]] += prose[e]
    return prose


@njit(cache=True, nogil=True)
def _flags(elements, prose):
    """int64[elements]: flags of an element and of those around it; of one that holds most of the page's sentences,
    menus aside, only COMMENT, for there may be more of these than of what they comment on."""
    flags = np.zeros(len(elements), np.int64)
    for e in range(len(elements)):
        own, above = elements[e, E_FLAGS], elements[e, E_PARENT]
        own = own & COMMENT if prose[e] > WRAPPER * prose[0] else own
        flags[e] = own | (flags[above] if above >= 0 else 0)
    return flags


@njit(cache=True, nogil=True)
def _alike(elements, prose):
    """Of the longest run of siblings of one tag that holds the element (paragraphs, items of lists and headings are no
    such siblings): int64[elements], its length, and float64[elements], its parent's share of the page's sentences."""
    n = len(elements)
    last, run, length = np.full(n, -1), np.arange(n), np.zeros(n, np.int64)
    for e in range(1, n):
        above = elements[e, E_PARENT]
        if last[above] >= 0 and elements[last[above], E_TAG] == elements[e, E_TAG]:
            run[e] = run[last[above]]
        length[run[e]] += not CLASS[elements[e, E_TAG]] & (PARA | ITEM | HARD)
        last[above] = e
    alike, share = np.zeros(n, np.int64), np.zeros(n)
    for e in range(1, n):
        above = elements[e, E_PARENT]
        alike[e], share[e] = alike[above], share[above]
        if length[run[e]] > alike[e]:
            alike[e] = length[run[e]]
            share[e] = prose[above] / max(prose[0], 1.0) if alike[e] > 2 else 0.0
    return alike, share


@njit(cache=True, nogil=True)
def _holding(elements, blocks):
    """float64[elements]: bytes of the sentences in its children, those of lists and tables aside."""
    holding = np.zeros(len(elements))
    for k in range(len(blocks)):
        b = blocks[k]
        size = b[B_END] - b[B_START]
        if b[B_ENDS] > 0 and (b[B_KIND] == PARAGRAPH or b[B_KIND] == OTHER) and 2 * b[B_LINK] < size:
            holding[max(elements[b[B_OWNER], E_PARENT], 0)] += size - b[B_LINK]
    return holding


@njit(cache=True, nogil=True)
def _alone(blocks, flags):
    """1 where no sentence of the page stands outside of containers that are called something else than content, as when
    each post of a thread is a comment; 0 where many bytes do."""
    outside = 0
    for k in range(len(blocks)):
        if blocks[k, B_ENDS] > 0 and not flags[blocks[k, B_OWNER]] & ~OF_CONTENT:
            outside += blocks[k, B_END] - blocks[k, B_START] - blocks[k, B_LINK]
    return ALONE / (outside + ALONE)


@njit(cache=True, nogil=True)
def leading_menus(elements, blocks, p):
    """bool[blocks]: whether a block stands in a list of little but links, before the first paragraph that is probably
    content (`p`, of the first model). Its headings and scraps are no links, and look like the page's own."""
    menu, leading = np.zeros(len(elements), np.bool_), np.zeros(len(blocks), np.bool_)
    for e in range(1, len(elements)):
        is_list = CLASS[elements[e, E_TAG]] & LIST and elements[e, E_TEXT] >= LEAST_MENU
        menu[e] = menu[elements[e, E_PARENT]] or (is_list and elements[e, E_LINK] > MENU_LINKS * elements[e, E_TEXT])
    for k in range(len(blocks)):
        leading[k] = menu[blocks[k, B_OWNER]]
        if not leading[k] and p[k] > LIKELY and blocks[k, B_WORDS] > PARAGRAPH_WORDS:
            break
    return leading


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
        if p[k] > LIKELY and blocks[k, B_WORDS] > PARAGRAPH_WORDS:
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
        row[S_FIGURE], row[S_FLAGGED] = x[k, F_FIGURE], x[k, F_ALONE] > 0
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
