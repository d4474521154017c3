"""Clusters of copies and near copies: connected components, and the order of preference in each. Plain functions, no
Spark."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

LAST = -(1 << 31)  # in preference: a source or snapshot that is not named


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
    """(doc_id, text_hash, priority, quality, recency) of signals: doc_id, source, snapshot, text_hash, quality.

    A source or snapshot that is not named comes last.
    """
    snapshot = pc.binary_join_element_wise(signals.column("source"), signals.column("snapshot"), "/")  # names hold none
    times = {f"{source}/{name}": time for (source, name), time in recency.items()}
    ranks = {"priority": _rank(signals.column("source"), priority), "recency": _rank(snapshot, times)}
    kept = {name: signals.column(name) for name in ("doc_id", "text_hash", "quality")}
    return pa.table(kept | ranks)


def _rank(values: pa.ChunkedArray, ranks: dict[str, int]) -> pa.ChunkedArray:
    places = pc.index_in(values, pa.array(list(ranks), pa.string()))
    return pc.fill_null(pa.chunked_array([pa.array(list(ranks.values()), pa.int64())]).take(places), LAST)


def clusters(members: pa.Table, pairs: pa.Table) -> pa.Table:
    """The columns of silver.clusters, in the order of clusters and preference.

    members: as `members` gives them. pairs: a, b, any text_hash. Preferred is the greater priority, then quality (none
    is the least), then recency, then the smaller doc_id.
    """
    members = members.sort_by("doc_id").combine_chunks()
    columns = [members.column("text_hash"), pairs.column("a"), pairs.column("b")]
    names = _codes(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    text, a, b = np.split(names, np.cumsum([len(column) for column in columns[:2]]))
    return _ranked(members, text, components(a, b, names.max(initial=-1) + 1)[text])


def clusters_of_components(
    signals: pa.Table, priority: dict[str, int], recency: dict[tuple[str, str], int]
) -> pa.Table:
    """The same of all documents of some components. signals: as `members` takes them, and component, a text."""
    signals = signals.sort_by("doc_id").combine_chunks()
    text, component = (_codes(signals.column(name)) for name in ("text_hash", "component"))
    return _ranked(members(signals, priority, recency), text, component)


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers, from 0 on, for equal values."""
    return values.dictionary_encode().combine_chunks().indices.to_numpy()


def _ranked(members: pa.Table, text: np.ndarray, component: np.ndarray) -> pa.Table:
    """members: in the order of doc_id, so that a member's number tells it; text, component: int64 of each."""
    quality = pc.fill_null(members.column("quality"), -np.inf).to_numpy()
    priority, recency = (members.column(name).to_numpy().astype(np.int64) for name in ("priority", "recency"))
    order = np.lexsort((-recency, -quality, -priority, component))
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    first = np.repeat(starts, sizes)  # where each one's cluster begins
    keepers = order[first]
    ids = members.column("doc_id")
    return pa.table({
        "doc_id": ids.take(order),
        "cluster_id": ids.take(np.repeat(np.minimum.reduceat(order, starts), sizes)),
        "size": np.repeat(sizes, sizes),
        "rank": (np.arange(len(order)) - first + 1).astype(np.int32),
        "keeper": ids.take(keepers),
        "exact": text[order] == text[keepers],
    })  # fmt: skip


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
