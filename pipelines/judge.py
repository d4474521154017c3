"""Verdicts: which rules a document fails, whether it is kept, its quality tier, and which documents are held out.

Works on narrow columns only: other thresholds can be tried without reading the corpus.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.rules import Rule
from schemas import tables
from schemas.recipe import Heldout

# Percentiles are read off a histogram of so many bins, exact to one bin: no task sorts a whole domain.
BINS = 10_000


def judge(
    signals: DataFrame, clusters: DataFrame, rules: dict[str, tuple[Rule, ...]], tiers: dict[str, float], heldout: Heldout, seed: int,
    *, rests: DataFrame | None = None, torso: float = 1.0, contaminated: DataFrame | None = None,
) -> DataFrame:  # fmt: skip
    """Columns of silver.verdicts. rules: by domain, in the order in which reasons are given; then what edits leave, evaluation
    items, duplicates.

    rests: signals of what edits leave of some documents. It is judged by the same rules (reasons rest_<rule>), graded in the
    document's place, and must be more than the share 1 - torso of it (reason torso).
    contaminated: doc_id of documents that hold an evaluation's items.
    """
    found = signals.join(clusters.select("doc_id", "cluster_id", "rank", "exact"), "doc_id", how="inner")
    spoilt = F.lit(None)
    if contaminated is not None:
        found = found.join(contaminated.select("doc_id", F.lit("contaminated").alias("spoilt")), "doc_id", how="left")
        spoilt = F.col("spoilt")
    duplicate = F.when(F.col("rank") > 1, F.when(F.col("exact"), F.lit("exact_duplicate")).otherwise(F.lit("near_duplicate")))
    found, of_rest = with_rests(found, rests, rules, torso)
    reasons = F.array_compact(F.concat(failed(rules), of_rest, F.array(spoilt, duplicate)))
    judged = found.select(
        "doc_id", "source", "domain", "n_bytes", "quality", "quality_model", "cluster_id",
        reasons.alias("reasons"), (F.size(reasons) == 0).alias("keep"),
    )  # fmt: skip
    graded = judged.join(F.broadcast(percentiles(judged.where("keep"))), _bin_of(judged), how="left")
    return graded.select(
        "doc_id", "source", judged.domain, "n_bytes", "keep",
        F.get("reasons", F.lit(0)).alias("reason"), "reasons",
        F.when(F.col("keep"), F.col("percentile")).alias("percentile"),
        F.when(F.col("keep"), tier_of(tiers)).alias("tier"),
        (F.col("keep") & is_heldout(heldout, seed)).alias("heldout"),
    ).select(*tables.VERDICTS.column_names)  # fmt: skip


def with_rests(found: DataFrame, rests: DataFrame | None, rules: dict[str, tuple[Rule, ...]], torso: float) -> tuple[DataFrame, Column]:
    """`found` with the quality of what is left where it was edited, and the reasons against that, null where there are none."""
    if rests is None:
        return found, F.array().cast("array<string>")
    named = F.transform(F.array_compact(failed(rules)), lambda rule: F.concat(F.lit("rest_"), rule))
    rest = rests.select("doc_id", F.struct("n_bytes", "quality", "quality_model", named.alias("failed")).alias("rest"))
    left = F.col("rest.n_bytes")
    shorter = F.when((left < (1 - torso) * F.col("n_bytes")) | (left == 0), F.lit("torso"))
    reasons = F.concat(F.array(shorter), F.coalesce("rest.failed", F.array().cast("array<string>")))
    edited = F.col("rest").isNotNull()
    graded = {name: F.when(edited, F.col(f"rest.{name}")).otherwise(F.col(name)) for name in ("quality", "quality_model")}
    return found.join(rest, "doc_id", how="left").withColumns(graded), reasons


def failed(rules: dict[str, tuple[Rule, ...]]) -> Column:
    """Array with the names of the rules that a document fails, null where it passes. A signal that is null fails no rule."""
    return F.array(*[
        F.when((F.col("domain") == domain) & F.expr(rule.sql), F.lit(rule.name)) for domain, members in rules.items() for rule in members
    ])


def percentiles(kept: DataFrame) -> DataFrame:
    """(of, bin, percentile): the share of a model's kept documents whose score lies in this bin or a lower one."""
    counts = kept.where("quality is not null").groupBy("quality_model", quality_bin().alias("bin")).agg(F.count("*").alias("n"))
    upto = Window.partitionBy("quality_model").orderBy("bin")
    total = F.sum("n").over(Window.partitionBy("quality_model"))
    return counts.select(F.col("quality_model").alias("of"), "bin", (F.sum("n").over(upto) / total).alias("percentile"))


def quality_bin() -> Column:
    return F.floor(F.col("quality") * BINS)


def _bin_of(judged: DataFrame) -> Column:
    return (judged.quality_model == F.col("of")) & (quality_bin() == F.col("bin"))


def tier_of(tiers: dict[str, float]) -> Column:
    """The tier that a percentile falls in. A document without a score counts as the median: it is not known to be bad."""
    percentile = F.coalesce("percentile", F.lit(0.5))
    falling = sorted(tiers.items(), key=lambda tier: -tier[1])
    return F.coalesce(*[F.when(percentile >= begins, F.lit(name)) for name, begins in falling])


def is_heldout(heldout: Heldout, seed: int) -> Column:
    """Drawn by cluster: the other members of a held-out document's cluster are dropped as its duplicates."""
    drawn = F.pmod(F.xxhash64(F.lit(seed), F.lit("heldout"), "cluster_id"), F.lit(1_000_000)) < int(heldout.fraction * 1_000_000)
    return drawn & (F.col("n_bytes") <= heldout.max_bytes)
