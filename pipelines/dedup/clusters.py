"""Clusters of copies and near copies: a kept document and those that drop for it. Plain functions, no Spark.

Pairs connect texts to components. In each the most preferred text, its *head*, is kept, and so is every other that is
near no kept one that is preferred to it: the first maximal independent set of the similarity graph, in the order of
preference. What is dropped is near to what is kept, which in a chain of near copies a component's head is not: of
windows that run along a text the first and the last share nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

LAST = -(1 << 31)  # in preference: a source or snapshot that is not named
# A text whose keeper pairs do not tell, in the order of components and preference: its component (the head's
# text_hash), its place there by preference, the member whose text is read, and the places of those preferred to it that
# it has a pair with.
UNDECIDED = pa.schema([
    ("component", pa.string()), ("place", pa.int64()), ("doc_id", pa.string()), ("text_hash", pa.string()),
    ("n_shingles", pa.int64()), ("known", pa.list_(pa.int64())),
])  # fmt: skip
KEPT = pa.schema([("text_hash", pa.string()), ("keeper", pa.string())])  # one that is kept is its own keeper


def components(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """The smallest node that each of n nodes is connected with by the edges (a, b): int64[n]."""
    parent = np.arange(n)
    _unite(a.astype(np.int64), b.astype(np.int64), parent)
    return parent


def named_components(pairs: pa.Table) -> pa.Table:
    """(text_hash, component) for every end of a pair (a, b): the smallest text_hash that it is connected with."""
    both = pa.chunked_array([*pairs.column("a").chunks, *pairs.column("b").chunks], pa.string())
    names = pc.unique(both)
    names = names.take(pc.sort_indices(names))
    a, b = (pc.index_in(pairs.column(side), names).to_numpy() for side in ("a", "b"))
    return pa.table([names, names.take(pa.array(components(a, b, len(names))))], names=["text_hash", "component"])


def members(signals: pa.Table, priority: dict[str, int], recency: dict[tuple[str, str], int]) -> pa.Table:
    """(doc_id, text_hash, n_shingles, quality, priority, recency) of signals: doc_id, source, snapshot, text_hash,
    n_shingles, quality.

    A source or snapshot that is not named comes last.
    """
    snapshot = pc.binary_join_element_wise(signals.column("source"), signals.column("snapshot"), "/")  # names hold none
    times = {f"{source}/{name}": time for (source, name), time in recency.items()}
    ranks = {"priority": _rank(signals.column("source"), priority), "recency": _rank(snapshot, times)}
    kept = {name: signals.column(name) for name in ("doc_id", "text_hash", "n_shingles", "quality")}
    return pa.table(kept | ranks)


def _rank(values: pa.ChunkedArray, ranks: dict[str, int]) -> pa.ChunkedArray:
    places = pc.index_in(values, pa.array(list(ranks), pa.string()))
    return pc.fill_null(pa.chunked_array([pa.array(list(ranks.values()), pa.int64())]).take(places), LAST)


class Grouped(NamedTuple):
    """Documents of components, by preference. Texts and components are numbered.

    members: doc_id, text_hash and n_shingles in the order of doc_id, so that a member's number tells it. order:
    int64[members], in the order of components and preference. text, component: int64[members]. a, b: int64[pairs],
    texts.
    """

    members: pa.Table
    order: np.ndarray
    text: np.ndarray
    component: np.ndarray
    a: np.ndarray
    b: np.ndarray


def group(members: pa.Table, pairs: pa.Table) -> Grouped:
    """members: as `members` gives them. pairs: a, b, any text_hash.

    Preferred is the greater priority, then quality (none is the least), then recency, then the smaller doc_id.
    """
    members = members.sort_by("doc_id").combine_chunks()
    text, a, b = _numbers(members.column("text_hash"), pairs)
    n = 1 + max(one.max(initial=-1) for one in (text, a, b))
    return _grouped(members, text, components(a, b, n)[text], a, b)


def group_components(signals: pa.Table, priority: dict[str, int], recency: dict[tuple[str, str], int]) -> Grouped:
    """The same of all documents of some components. signals: as `members` takes them, with component, a text, and
    near, the texts that it has a pair with."""
    signals = signals.sort_by("doc_id").combine_chunks()
    near = signals.column("near").combine_chunks()
    ends = pa.table([signals.column("text_hash").take(pc.list_parent_indices(near)), near.flatten()], names=["a", "b"])
    component = signals.column("component").dictionary_encode().combine_chunks().indices.to_numpy()
    text, a, b = _numbers(signals.column("text_hash"), ends)
    return _grouped(members(signals, priority, recency), text, component, a, b)


def _numbers(texts: pa.ChunkedArray, pairs: pa.Table) -> list[np.ndarray]:
    """Equal numbers, from 0 on, for equal hashes: of the texts, and of the ends of pairs."""
    columns = [texts, pairs.column("a"), pairs.column("b")]
    hashes = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    numbers = hashes.dictionary_encode().combine_chunks().indices.to_numpy()
    return np.split(numbers.astype(np.int64), np.cumsum([len(column) for column in columns[:2]]))


def _grouped(members: pa.Table, text: np.ndarray, component: np.ndarray, a: np.ndarray, b: np.ndarray) -> Grouped:
    quality = pc.fill_null(members.column("quality"), -np.inf).to_numpy()
    priority, recency = (members.column(name).to_numpy().astype(np.int64) for name in ("priority", "recency"))
    order = np.lexsort((-recency, -quality, -priority, component))
    return Grouped(members.select(["doc_id", "text_hash", "n_shingles"]), order, text, component, a, b)


def undecided(grouped: Grouped) -> pa.Table:
    """The columns of UNDECIDED: heads with texts that no pair connects with them, and these.

    Whether such a text is kept, true similarity must say. What has a pair with its head drops for it, so nothing is
    asked of pairs and stars: no text of theirs is read.
    """
    rows = grouped.order[np.sort(np.unique(grouped.text[grouped.order], return_index=True)[1])]  # the first of a text
    head = _begins(grouped.component[rows])
    a, b = _places_of_pairs(grouped, rows)
    left = head != np.arange(len(rows))
    left[b[head[b] == a]] = False
    asked = left.copy()
    asked[head[left]] = True
    a, b = (side[asked[a] & asked[b]] for side in (a, b))
    texts = grouped.members.take(pa.array(rows[asked]))
    heads = grouped.members.column("text_hash").take(pa.array(rows[head[asked]]))
    bounds = np.append(0, np.cumsum(np.bincount(b, minlength=len(rows))[asked])).astype(np.int32)
    known = pa.ListArray.from_arrays(bounds, (a - head[a])[np.argsort(b, kind="stable")])
    places = pa.array((np.arange(len(rows)) - head)[asked])
    columns = [heads, places, *(texts.column(name) for name in UNDECIDED.names[2:5]), known]
    return pa.table(columns, names=UNDECIDED.names).cast(UNDECIDED)


def _places_of_pairs(grouped: Grouped, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs once, the preferred end first, as places of texts; rows: their members. None of a text that is not
    there."""
    place = np.full(1 + max(one.max(initial=-1) for one in (grouped.text, grouped.a, grouped.b)), -1)
    place[grouped.text[rows]] = np.arange(len(rows))
    a, b = place[grouped.a], place[grouped.b]
    pairs = np.unique((np.minimum(a, b) << 32 | np.maximum(a, b))[(a >= 0) & (b >= 0)])
    return pairs >> 32, pairs & 0xFFFFFFFF


def clusters(grouped: Grouped, kept: pa.Table) -> pa.Table:
    """The columns of silver.clusters, in the order of components, keepers and preference.

    kept: text_hash, keeper (a text_hash) of what was undecided. All else drops for its component's head.
    """
    order, ids = grouped.order, grouped.members.column("doc_id")
    begins = _begins(grouped.component[order])
    keeper = _keepers(grouped, kept, begins)
    rows = np.argsort(keeper, kind="stable")
    first = _begins(keeper[rows])  # where each one's cluster begins
    text, members, keepers = grouped.text, order[rows], order[keeper[rows]]
    return pa.table({
        "doc_id": ids.take(pa.array(members)),
        "cluster_id": ids.take(pa.array(_least(members, first))),
        "component": ids.take(pa.array(_least(order, begins)[rows])),
        "size": np.bincount(first, minlength=len(first))[first],
        "rank": (np.arange(len(rows)) - first + 1).astype(np.int32),
        "keeper": ids.take(pa.array(keepers)),
        "exact": text[members] == text[keepers],
    })  # fmt: skip


def _keepers(grouped: Grouped, kept: pa.Table, begins: np.ndarray) -> np.ndarray:
    """The place in `order` of each one's keeper, in this order: that of its text, or the head where a component
    begins."""
    texts, keeper = pc.index_in(grouped.members.column("text_hash"), kept.column("text_hash")), begins.copy()
    text = pc.fill_null(texts, -1).to_numpy()[grouped.order]
    asked = np.flatnonzero(text >= 0)
    place = np.zeros(len(kept), np.int64)
    place[text[asked[::-1]]] = asked[::-1]  # a text's first place, its preferred member's, is written last
    keeper[asked] = place[pc.index_in(kept.column("keeper"), kept.column("text_hash")).to_numpy()[text[asked]]]
    return keeper


def _begins(groups: np.ndarray) -> np.ndarray:
    """For each place, where its group begins; groups: int64, equal ones next to each other."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.repeat(starts, np.diff(starts, append=len(groups)))


def _least(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """For each place, the least value of its group."""
    starts, group = np.unique(begins, return_inverse=True)
    return np.minimum.reduceat(values, starts)[group] if len(values) else values


@njit(cache=True)
def _unite(a, b, parent):
    """Union-find by smallest root, paths halved; parents are roots at the end."""
    for i in range(len(a)):
        x, y = a[i], b[i]
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        while parent[y] != y:
            parent[y] = parent[parent[y]]
            y = parent[y]
        parent[max(x, y)] = min(x, y)
    for x in range(len(parent)):  # a root's number is smaller than its members'
        parent[x] = parent[parent[x]]
