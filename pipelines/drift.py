"""What a delivery is like, and how far that is from another of its source: counts, shares, and the population stability
index (PSI) of every numeric signal. Narrow columns only, by DuckDB; no text is read.

A measure is called documents, bytes, rejects, kept, duplicates, fails:RULE, lang:en, domain:web, tier:best or
psi:SIGNAL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import duckdb
import numpy as np

from pipelines.deliveries import Delivery
from pipelines.lake import Lake
from pipelines.rules.judge import Terms, create_verdicts
from schemas.parts import Drift
from schemas.tables import REJECTS, Table

SHOWN = 5  # documents that are named of each measure beyond its limit
CHANCE = 0.9999  # of the differences that chance makes of a signal's PSI so many are no larger
ERRORS = 4  # standard errors that a difference of shares must exceed: chance alone does so 6 times in 100,000
NUMERIC = "TINYINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE"
LIMITS = {  # which limit of the recipe is whose
    "documents": "size", "bytes": "size", "rejects": "rejects", "kept": "kept", "fails": "rule", "lang": "share",
    "domain": "share", "tier": "share", "duplicates": "duplicates", "psi": "psi",
}  # fmt: skip


class Count(NamedTuple):
    """So many of so many."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        return self.hits / self.total if self.total else 0.0


@dataclass(frozen=True)
class Profile:
    """What a delivery is like. sizes: documents and bytes; counts: of every share."""

    delivery: Delivery
    sizes: dict[str, int]
    counts: dict[str, Count]

    @property
    def measured(self) -> dict[str, float]:
        shares = {name: count.share for name, count in self.counts.items()}
        return {name: float(size) for name, size in self.sizes.items()} | shares


@dataclass(frozen=True)
class Comparison:
    """Of each measure how far two deliveries differ; of those beyond a limit the limit, and what moved them: ids of
    documents, or uris of rejects."""

    drift: dict[str, float]
    beyond: dict[str, float]
    documents: dict[str, list[str]]


# A document is a copy if its cluster holds one of an earlier delivery, or of its own with a smaller id: deliveries
# that come later change nothing, as they would the ranks of clusters, where newer documents are preferred.
DOCUMENTS = """
    create temp table delivered as
    select s.doc_id, s.source, s.snapshot, s.n_bytes, coalesce(s.lang, 'und') as lang, s.domain, v.tier,
        list_filter(v.reasons, lambda reason: reason not in ('exact_duplicate', 'near_duplicate')) as reasons,
        row_number() over (partition by c.cluster_id order by o.position, s.doc_id) > 1 as copy
    from signals s join verdicts v using (doc_id) join clusters c using (doc_id)
        join (select unnest(?) as delivery, unnest(?) as position) o on s.source || '/' || s.snapshot = o.delivery
"""
OF = "source = ? and snapshot = ?"
SHARES = {
    "lang": f"select lang, count(*) from delivered where {OF} group by 1",
    "domain": f"select domain, count(*) from delivered where {OF} group by 1",
    "tier": f"select tier, count(*) from delivered where {OF} and tier is not null group by 1",
}
FAILED = f"select unnest(reasons) as reason, count(*) from delivered where {OF} group by 1"
SIZES = f"""
    select count(*), coalesce(sum(n_bytes), 0), count_if(reasons = []), count_if(copy) from delivered where {OF}
"""


def load(
    db: duckdb.DuckDBPyConnection, lake: Lake, judged: dict[str, Table], terms: Terms, order: list[Delivery]
) -> None:
    """Make tables of all documents ready in `db` for `profile` and `compare`.

    judged: signals and clusters, and where the recipe has them rests and contamination. order: every delivery, those of
    a source oldest first.
    """
    for name, table in (judged | {"rejects": REJECTS}).items():
        lake.view(db, name, table)
    create_verdicts(db, judged, terms)
    positions = [sum(other.source == one.source for other in order[:i]) for i, one in enumerate(order)]
    db.execute(DOCUMENTS, [list(map(str, order)), positions])


def profile(db: duckdb.DuckDBPyConnection, delivery: Delivery) -> Profile:
    """What a delivery is like."""
    documents, n_bytes, kept, copies = db.execute(SIZES, delivery).fetchone()
    (rejects,) = db.execute(f"select count(*) from rejects where {OF}", delivery).fetchone()
    counts = {
        "rejects": Count(rejects, rejects + documents),
        "kept": Count(kept, documents),
        "duplicates": Count(copies, documents),
    }
    counts |= {f"fails:{name}": Count(n, documents) for name, n in db.execute(FAILED, delivery).fetchall()}
    for kind, statement in SHARES.items():
        rows = db.execute(statement, delivery).fetchall()
        total = sum(n for _, n in rows)
        counts |= {f"{kind}:{name}": Count(n, total) for name, n in sorted(rows)}
    return Profile(delivery, {"documents": documents, "bytes": int(n_bytes)}, counts)


def compare(db: duckdb.DuckDBPyConnection, new: Profile, old: Profile, limits: Drift) -> Comparison:
    """How far `new` is from `old`. Beyond a limit is what exceeds it and chance; a limit that is null closes nothing.

    Sizes differ by their factor, shares by their difference, signals by their PSI.
    """
    drift, beyond, documents = {}, {}, {}

    def add(measure: str, change: float, chance: float, size: float | None = None) -> bool:
        limit = getattr(limits, LIMITS[measure.split(":")[0]])
        drift[measure] = change
        size = abs(change) if size is None else size
        if limit is None or size <= max(limit, chance):
            return False
        beyond[measure] = limit
        return True

    for name in new.sizes:
        n, m = (max(one.sizes[name], 1) for one in (new, old))
        if add(name, n / m, 0.0, max(n / m, m / n)):
            documents[name] = largest(db, new.delivery)
    for measure in [*old.counts, *(name for name in new.counts if name not in old.counts)]:
        a, b = count_of(new, measure), count_of(old, measure)
        if a.total and b.total and add(measure, a.share - b.share, share_bound(a, b)):
            documents[measure] = moved(db, new, old, measure)
    n, m = new.sizes["documents"], old.sizes["documents"]
    for signal in numeric_signals(db) if n and m else ():
        bins = binned(db, signal, new.delivery, old.delivery)
        value, largest_bin = psi(bins[:, 1], bins[:, 2])
        if add(f"psi:{signal}", value, psi_bound(len(bins), n, m)):
            documents[f"psi:{signal}"] = in_bin(db, signal, new.delivery, old.delivery, int(bins[largest_bin, 0]))
    return Comparison(drift, beyond, documents)


def count_of(one: Profile, measure: str) -> Count:
    """The count of a measure that may be missing there, as no document of the delivery has it."""
    kind = measure.split(":")[0]
    if measure in one.counts or kind == "fails":
        return one.counts.get(measure, Count(0, one.sizes["documents"]))
    return Count(0, next((count.total for name, count in one.counts.items() if name.startswith(f"{kind}:")), 0))


def share_bound(a: Count, b: Count) -> float:
    """The difference of two shares that chance may make: 4 standard errors of it.

    The larger of that of the pooled share, and of Agresti & Caffo (2000), a success and a failure added to each: the
    one is too small where a rare thing meets a small delivery, the other where both are small.
    """
    pooled = Count(a.hits + b.hits, a.total + b.total).share
    variance = pooled * (1 - pooled) * (1 / a.total + 1 / b.total)
    shares = [(Count(one.hits + 1, one.total + 2).share, one.total + 2) for one in (a, b)]
    return ERRORS * math.sqrt(max(variance, sum(share * (1 - share) / n for share, n in shares)))


def psi(new: np.ndarray, old: np.ndarray) -> tuple[float, int]:
    """(population stability index of two histograms, the bin that grew and contributes most to it).

    The sum of (p - q) ln(p / q); half a document is added to every bin, so that an empty one has a logarithm.
    """
    p, q = ((one + 0.5) / (one.sum() + 0.5 * len(one)) for one in (new, old))
    terms = (p - q) * np.log(p / q)
    return float(terms.sum()), int(np.argmax(np.where(p > q, terms, -1.0)))


def psi_bound(bins: int, n: int, m: int) -> float:
    """The PSI that chance may make of n and m documents: without a change it is (1/n + 1/m) times a chi-square of
    bins - 1 degrees of freedom (Yurdakul 2018); its quantile by Wilson & Hilferty (1931)."""
    free = max(bins - 1, 1)
    spread = 2 / (9 * free)
    quantile = free * (1 - spread + NormalDist().inv_cdf(CHANCE) * math.sqrt(spread)) ** 3
    return (1 / n + 1 / m) * quantile


def numeric_signals(db: duckdb.DuckDBPyConnection) -> list[str]:
    """Columns of silver.signals that hold numbers."""
    columns = db.sql("select * from signals limit 0")
    return [name for name, kind in zip(columns.columns, columns.types, strict=True) if str(kind) in NUMERIC]


def bin_of(db: duckdb.DuckDBPyConnection, signal: str, old: Delivery) -> str:
    """SQL: the bin of a value between the deciles of the delivery `old`, from 0; -1 where it is null.

    A value that is several deciles at once has a bin of its own: else all that is below it would count as it.
    """
    tenths = [n / 10 for n in range(1, 10)]
    (deciles,) = db.execute(f"select quantile_disc({signal}, {tenths}) from signals where {OF}", old).fetchone()
    deciles = deciles or []
    edges = [f"({signal} > {one!r})::int" for one in sorted(set(deciles))]
    edges += [f"({signal} >= {one!r})::int" for one in sorted(set(deciles)) if deciles.count(one) > 1]
    return f"case when {signal} is null then -1 else {' + '.join(edges) or '0'} end"


def binned(db: duckdb.DuckDBPyConnection, signal: str, new: Delivery, old: Delivery) -> np.ndarray:
    """int64 [bins, 3]: the bins of a signal that hold documents: their number, documents of `new`, of `old`."""
    statement = f"""
        select {bin_of(db, signal, old)} as bin, count_if(snapshot = ?), count_if(snapshot = ?) from signals
        where source = ? and snapshot in (?, ?) group by 1 order by 1
    """
    given = [new.snapshot, old.snapshot, new.source, new.snapshot, old.snapshot]
    return np.array(db.execute(statement, given).fetchall(), np.int64).reshape(-1, 3)


def in_bin(db: duckdb.DuckDBPyConnection, signal: str, new: Delivery, old: Delivery, number: int) -> list[str]:
    """Documents of a delivery whose signal is in a bin."""
    bin_sql = bin_of(db, signal, old)
    statement = f"select doc_id from signals where {OF} and {bin_sql} = {number} order by 1 limit {SHOWN}"
    return [doc_id for (doc_id,) in db.execute(statement, new).fetchall()]


def largest(db: duckdb.DuckDBPyConnection, delivery: Delivery) -> list[str]:
    """The largest documents of a delivery."""
    statement = f"select doc_id from delivered where {OF} order by n_bytes desc, doc_id limit {SHOWN}"
    return [doc_id for (doc_id,) in db.execute(statement, delivery).fetchall()]


def moved(db: duckdb.DuckDBPyConnection, new: Profile, old: Profile, measure: str) -> list[str]:
    """What moved a share: uris of rejects, or documents that have what is measured; of a language, domain or tier that
    shrank those of the one that grew most in its place."""
    kind, _, value = measure.partition(":")
    if kind == "rejects":
        statement = f"select uri from rejects where {OF} order by 1 limit {SHOWN}"
        return [uri for (uri,) in db.execute(statement, new.delivery).fetchall()]
    if kind in SHARES:
        grown = {
            one: new.counts[one].share - count_of(old, one).share for one in new.counts if one.startswith(f"{kind}:")
        }
        value = max(grown, key=grown.get).partition(":")[2]
    fewer = new.counts.get("kept").share < old.counts.get("kept").share
    condition = {"kept": "reasons <> []" if fewer else "reasons = []", "duplicates": "copy"}.get(kind)
    condition = condition or ("list_contains(reasons, ?)" if kind == "fails" else f"{kind} = ?")
    statement = f"select doc_id from delivered where {OF} and {condition} order by 1 limit {SHOWN}"
    return [doc_id for (doc_id,) in db.execute(statement, [*new.delivery, *[value] * ("?" in condition)]).fetchall()]
