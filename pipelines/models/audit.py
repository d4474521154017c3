"""What a quality model is worth: held-out figures, and what its scores go by in the corpus.

A classifier can win by sorting sources, languages or lengths instead of judging texts (a deployed one was told by the
source alone with AUC .85, facts/curation.md, 0). So each model's card says how well these alone tell whether a document
scores above the median, and shows texts from both ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.edits.preview import SHOWN_BEHIND, beginnings

N_BINS = 10  # of the calibration table
LEVEL = 0.8  # AUC of source, language or length alone from which a model is flagged
LOGIT_STEP, LOGIT_BINS = 0.05, 400  # scores are counted by their logit: ranks stay apart near 0 and 1 too
LENGTH_STEP = 0.25  # of the binary logarithm of the bytes
# share of the documents at either end, how many are shown, and of each so many characters
END, SHOWN, CHARS = 0.01, 5, 200


# ---- on held-out examples ----


def auc(wanted: np.ndarray, other: np.ndarray) -> float:
    """Share of pairs (wanted, other) in the right order, ties half (Mann-Whitney)."""
    ordered = np.sort(other)
    below, up_to = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
    return float((below + up_to).mean() / (2 * len(other)))


def auc_interval(observed: float, n_wanted: int, n_other: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of an AUC: the values that z standard errors of their own reach from it.

    The error is Hanley and McNeil's (1982) for equal group sizes, as Newcombe (2006, method 5) advises: unlike DeLong's
    it does not vanish at AUC 1, which small held-out sets reach by luck.
    """
    a, n = np.linspace(0, 1, 10_001), (n_wanted + n_other) / 2 - 1
    variance = a * (1 - a) * (1 + n * (1 - a) / (2 - a) + n * a / (1 + a)) / (n_wanted * n_other)
    inside = a[np.abs(a - observed) <= z * np.sqrt(variance) + 1e-9]
    low, high = min(inside.min(initial=observed), observed), max(inside.max(initial=observed), observed)
    return round(float(low), 4), round(float(high), 4)


def calibration(scores: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """Brier score, expected calibration error, and of ten bins of the score: n, mean score, share that is wanted."""
    bins = np.minimum((scores * N_BINS).astype(int), N_BINS - 1)
    table = [
        {
            "from": b / N_BINS,
            "n": int(inside.sum()),
            "score": float(scores[inside].mean()),
            "wanted": float(wanted[inside].mean()),
        }
        for b in range(N_BINS)
        if (inside := bins == b).any()
    ]
    error = sum(row["n"] * abs(row["score"] - row["wanted"]) for row in table) / len(scores)
    return {"brier": float(np.mean((scores - wanted) ** 2)), "ece": error, "bins": table}


# ---- on the corpus ----


def audit(signals: DataFrame, documents: DataFrame) -> dict[str, dict[str, Any]]:
    """What the scores go by, for each quality_model of `signals` that scored a document.

    signals: doc_id, source, lang, n_bytes, quality, quality_model. documents: doc_id, text. Narrow columns are counted
    in one aggregate, whose rows are bounded by sources, languages and bins; text is read of the few documents shown.
    """
    scored = signals.where("quality is not null").withColumn("bin", score_bin())
    counts = _counts(scored)
    ends = {name: _ends(by_kind["source"][0], by_kind["source"][2]) for name, by_kind in counts.items()}
    shown = _shown(scored, documents, ends)
    return {
        name: _told(by_kind) | {"top": shown[name, "top"], "bottom": shown[name, "bottom"]}
        for name, by_kind in sorted(counts.items())
    }


def score_bin() -> Column:
    """The bin of a score: its logit in steps, within +-LOGIT_BINS."""
    inside = F.least(F.greatest(F.col("quality"), F.lit(1e-12)), F.lit(1 - 1e-12))
    steps = F.round(F.ln(inside / (1 - inside)) / LOGIT_STEP)
    return F.least(F.greatest(steps, F.lit(-LOGIT_BINS)), F.lit(LOGIT_BINS)).cast("int")


def _counts(scored: DataFrame) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """By model and kind (source, language, length): counts int64[values, bins], the values, and the bins, both
    ascending."""
    length = F.format_string("%06.2f", F.floor(F.log2("n_bytes") / LENGTH_STEP) * LENGTH_STEP)
    kinds = {"source": F.col("source"), "language": F.col("lang"), "length": length}
    pairs = F.explode(
        F.array(*[F.struct(F.lit(kind).alias("kind"), value.alias("value")) for kind, value in kinds.items()])
    ).alias("of")
    rows = (
        scored.select("quality_model", "bin", pairs)
        .groupBy("quality_model", "of.kind", "of.value", "bin")
        .count()
        .collect()
    )
    by_model: dict[str, dict[str, Any]] = {}
    for name, kind in sorted({(row.quality_model, row.kind) for row in rows}):
        members = [row for row in rows if (row.quality_model, row.kind) == (name, kind)]
        values, at = np.unique([row.value for row in members], return_inverse=True)
        bins, column = np.unique([row.bin for row in members], return_inverse=True)
        table = np.zeros((len(values), len(bins)), np.int64)
        table[at, column] = [row["count"] for row in members]
        by_model.setdefault(name, {})[kind] = table, values, bins
    return by_model


def _told(counts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    told = {f"{kind}_alone": auc_alone(table) for kind, (table, _, _) in counts.items() if kind != "length"}
    lengths = counts["length"][0]
    by_length = _ordered_auc(*_halves(lengths))
    told |= {"length_alone": max(by_length, 1 - by_length), "length_spearman": spearman(lengths)}
    warnings = [
        f"{kind} alone tells with AUC {told[f'{kind}_alone']:.2f} whether a document scores above the median: "
        "the model may sort by it"
        for kind in ("source", "language", "length")
        if told[f"{kind}_alone"] >= LEVEL
    ]
    return {"documents": int(lengths.sum()), **told, "level": LEVEL, "warnings": warnings}


def auc_alone(table: np.ndarray) -> float:
    """AUC of the best guess, from a value alone, whether a score is above the median. table: counts[values, bins of the
    score]."""
    above, below = _halves(table)
    order = np.argsort(above / np.maximum(above + below, 1), kind="stable")
    return _ordered_auc(above[order], below[order])


def _halves(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each value the documents above the median and those not: the bins are cut where the halves are most alike."""
    upto = np.cumsum(table.sum(axis=0))
    cut = int(np.argmin(np.abs(2 * upto[:-1] - upto[-1]))) + 1 if len(upto) > 1 else 1
    return table[:, cut:].sum(axis=1), table[:, :cut].sum(axis=1)


def _ordered_auc(above: np.ndarray, below: np.ndarray) -> float:
    """AUC of the order of the rows; a row's own documents are ties. One half where there is nothing to tell apart."""
    if not above.sum() or not below.sum():
        return 0.5
    lower = np.cumsum(below) - below
    return float((above * (lower + below / 2)).sum() / (above.sum() * below.sum()))


def spearman(table: np.ndarray) -> float:
    """Rank correlation of rows and columns of a table of counts; documents of one bin share its mean rank. 0 for one
    row or column."""
    weights = [table.sum(axis=1), table.sum(axis=0)]
    x, y = (np.cumsum(w) - w / 2 - table.sum() / 2 for w in weights)
    spread = np.sqrt((weights[0] * x**2).sum() * (weights[1] * y**2).sum())
    return float(x @ table @ y / spread) if spread else 0.0


def _ends(table: np.ndarray, bins: np.ndarray) -> tuple[int, int]:
    """The bin up to which a score belongs to the lowest percent, and the one from which to the highest."""
    upto = np.cumsum(table.sum(axis=0))
    low, high = np.searchsorted(upto, END * upto[-1]), np.searchsorted(upto, (1 - END) * upto[-1], "right")
    return int(bins[low]), int(bins[min(high, len(bins) - 1)])


def _shown(
    scored: DataFrame, documents: DataFrame, ends: dict[str, tuple[int, int]]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The first documents, in the order of their ids, of each model's ends: doc_id, source, quality, beginning of the
    text."""
    shown: dict[tuple[str, str], list[dict[str, Any]]] = {(name, end): [] for name in ends for end in ("top", "bottom")}
    if not ends:
        return shown
    sides = [
        F.when((F.col("quality_model") == name) & within, F.lit(end))
        for name, (low, high) in ends.items()
        for end, within in (("top", F.col("bin") >= high), ("bottom", F.col("bin") <= low))
    ]
    at_end = scored.select("doc_id", "source", "quality", "quality_model", F.coalesce(*sides).alias("end")).where(
        "end is not null"
    )
    first = Window.partitionBy("quality_model", "end").orderBy("doc_id")
    chosen = at_end.withColumn("place", F.row_number().over(first)).where(F.col("place") <= SHOWN).collect()
    wanted = documents.where(F.col("doc_id").isin(sorted({row.doc_id for row in chosen})))
    rows = wanted.select("doc_id", F.substring("text", 1, CHARS + SHOWN_BEHIND).alias("text")).collect()
    texts = dict(zip([row.doc_id for row in rows], beginnings([row.text for row in rows], CHARS), strict=True))
    for row in sorted(chosen, key=lambda row: row.doc_id):
        one = {"doc_id": row.doc_id, "source": row.source, "quality": row.quality, "text": texts.get(row.doc_id, "")}
        shown[row.quality_model, row.end].append(one)
    return shown
