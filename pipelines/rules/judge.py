"""Verdicts: which rules a document fails, whether it is kept, its quality tier, and which documents are held out.

Works on narrow columns only: other thresholds can be tried without reading the corpus. One statement, in the SQL that
Spark and DuckDB share, says what a verdict is; DuckDB executes it in this process where the columns fit (`judge_here`),
Spark where they do not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from pyspark.sql import DataFrame

from pipelines.lake import Lake
from pipelines.rules import Rule, number
from schemas.parts import Heldout
from schemas.tables import Table

# Percentiles are read off a histogram of so many bins, exact to one bin: no task sorts a whole domain.
BINS = 10_000
DRAWN_BITS = 32  # of a component's hash, by which it is held out
Rules = dict[str, tuple[Rule, ...]]


@dataclass(frozen=True)
class Terms:
    """By what is judged. rules: by domain, in the order in which reasons are given; then what edits leave, evaluation
    items, duplicates.

    torso: what edits leave must be more than the share 1 - torso of a document. cover: a document that covers this
    share of an evaluation's item is contaminated.
    """

    rules: Rules
    tiers: dict[str, float]
    heldout: Heldout
    seed: int
    torso: float = 1.0
    cover: float = 1.0


def judge(tables: dict[str, DataFrame], terms: Terms) -> DataFrame:
    """Columns of silver.verdicts. tables: signals and clusters; and where the recipe has them rests and contamination.

    Rests are judged by the same rules (reasons rest_<rule>) and graded in their documents' place.
    """
    spark = tables["signals"].sparkSession
    judged = spark.sql(judged_statement(tables, terms), **tables).localCheckpoint()  # read twice, by other columns
    return spark.sql(verdicts_statement(terms, "cast(array() as array<string>)"), judged=judged)


def judge_here(lake: Lake, tables: dict[str, Table], terms: Terms) -> pa.Table:
    """The same of what fits into this process, in the order of doc_id."""
    with duckdb.connect() as db:
        for name, table in tables.items():
            lake.view(db, name, table)
        create_verdicts(db, tables, terms)
        return db.sql("from verdicts order by doc_id").to_arrow_table()


def create_verdicts(db: duckdb.DuckDBPyConnection, tables: Collection[str], terms: Terms) -> None:
    """`verdicts` as a view of a DuckDB that has the tables under these names."""
    judged = f"judged as ({judged_statement(tables, terms)}),"
    text = verdicts_statement(terms, "[]::varchar[]", judged).format(judged="judged", **{name: name for name in tables})
    db.sql(text).create_view("verdicts")


def contaminated_documents(cover: float) -> str:
    """SQL: doc_id of the documents that cover an evaluation's item so far; the table `contamination` as a field in
    braces."""
    return f"select distinct doc_id from {{contamination}} where cover >= {number(cover)}"


def judged_statement(tables: Collection[str], terms: Terms) -> str:
    """What speaks against each document as SQL, with the tables as fields in braces."""
    rules, has_rests, has_items = terms.rules, "rests" in tables, "contamination" in tables
    graded = {
        name: f"case when r.doc_id is not null then r.{name} else s.{name} end" if has_rests else f"s.{name}"
        for name in QUALITY
    }
    # null, so no torso, where nothing was edited
    shorter = f"r.n_bytes < {number(1 - terms.torso)} * s.n_bytes or r.n_bytes = 0"
    reasons = ["nullif(s.failed, '')"]
    reasons += [f"case when {shorter} then 'torso' end", "nullif(r.failed, '')"] * has_rests
    reasons += ["case when x.doc_id is not null then 'contaminated' end"] * has_items
    reasons += ["case when c.rank > 1 then case when c.exact then 'exact_duplicate' else 'near_duplicate' end end"]
    joins = [
        f"left join ({RESTS.format(failed=_braced(failed_rules(rules, 'rest_')))}) r on s.doc_id = r.doc_id"
    ] * has_rests
    joins += [f"left join ({contaminated_documents(terms.cover)}) x on s.doc_id = x.doc_id"] * has_items
    failed, told = _braced(failed_rules(rules)), ", ".join(reasons)
    return JUDGED.format(failed=failed, reasons=told, joins=" ".join(joins), **graded)


def verdicts_statement(terms: Terms, none: str, before: str = "") -> str:
    """The verdicts as SQL, with `judged` as a field in braces.

    none: an empty list of texts, the one thing that the engines spell differently. before: a query that is named first.
    """
    hashed = f"md5(concat('{terms.seed}/heldout/', component))"
    drawn = f"concat('0', substr({hashed}, 1, {DRAWN_BITS // 4})) < '{_share(terms.heldout.fraction)}'"
    heldout = f"n_bytes <= {terms.heldout.max_bytes} and {drawn}"
    return VERDICTS.format(
        before=before, tier=_tier(terms.tiers), none=none, heldout=heldout, bin=f"floor(quality * {BINS})"
    )


QUALITY = "quality", "quality_model"
RESTS = "select doc_id, n_bytes, quality, quality_model, {failed} as failed from {{rests}}"
# `told` are all reasons, joined by commas: both engines leave nulls out of what they join, and have no other way for
# that in common.
JUDGED = """
    select s.doc_id, s.source, s.domain, s.n_bytes, c.component,
        {quality} as quality, {quality_model} as quality_model, concat_ws(',', {reasons}) as told
    from (select doc_id, source, domain, n_bytes, quality, quality_model, {failed} as failed from {{signals}}) s
        join {{clusters}} c on s.doc_id = c.doc_id {joins}
"""
VERDICTS = """
    with {before} counted as (
        select quality_model as model, {bin} as bin, count(*) as n from {{judged}} judged
        where told = '' and quality is not null group by 1, 2
    ),
    graded as (
        select model, bin,
            sum(n) over (partition by model order by bin) / sum(n) over (partition by model) as percentile
        from counted
    ),
    placed as (
        select judged.*, told = '' as keep, case when told = '' then percentile end as percentile
        from {{judged}} judged left join graded on quality_model = model and {bin} = bin
    )
    select doc_id, source, domain, n_bytes, keep, nullif(split_part(told, ',', 1), '') as reason,
        case when keep then {none} else split(told, ',') end as reasons, percentile,
        case when keep then {tier} end as tier, keep and {heldout} as heldout
    from placed
"""


def failed_rules(rules: Rules, prefix: str = "") -> str:
    """SQL: the names of the rules that a document fails, joined by commas. A signal that is null fails no rule."""
    cases = [rule.case(domain, prefix) for domain, members in rules.items() for rule in members]
    return f"concat_ws(',', {', '.join(cases) or 'cast(null as string)'})"


def _tier(tiers: dict[str, float]) -> str:
    """SQL: the tier that a percentile falls in. A document without a score counts as the median: it is not known to be
    bad."""
    falling = sorted(tiers.items(), key=lambda tier: -tier[1])
    cases = [f"when coalesce(percentile, 0.5e0) >= {number(begins)} then '{name}'" for name, begins in falling]
    return f"case {' '.join(cases)} end"


def _share(fraction: float) -> str:
    """The hash, as hex digits with one before them, below which a cluster is held out.

    Drawn by component: what is kept beside a held-out document may share most of its text with it, as do the windows of
    a chain.
    """
    return format(int(fraction * (1 << DRAWN_BITS)), f"0{DRAWN_BITS // 4 + 1}x")


def _braced(text: str) -> str:
    """For a text that is formatted once more."""
    return text.replace("{", "{{").replace("}", "}}")
