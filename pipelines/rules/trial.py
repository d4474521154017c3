"""Other thresholds against a measured corpus, in seconds: no Java starts, and no text is read but that of a few
samples.

Works on the signals and verdicts that a run left. Duplicates, what holds evaluation items, and documents dropped for
what edits leave of them stay what they are; a document is gained if it fails no rule any more, lost if it fails one
now. What the judge would say of all others does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow.compute as pc

from pipelines.lake import Lake
from pipelines.rules import Rule
from schemas import tables

SAMPLES = 3  # documents shown of those gained, and of those lost
PREVIEW_CHARACTERS = 120


@dataclass(frozen=True)
class Trial:
    """What other rules would do. `changes`: rows (source, rule, gained, gained_bytes, lost, lost_bytes), a document
    counted at the first rule that it failed, or fails now. `kept`: rows (source, before, after, bytes_before,
    bytes_after, tokens_per_byte), the last one of what the source gives now, None where nothing of it is tokenised.
    `samples`: (gained or lost, rule, doc_id, text).
    """

    changes: list[dict[str, Any]]
    kept: list[dict[str, Any]]
    samples: list[tuple[str, str, str, str]]


def try_rules(lake: Lake, rules: dict[str, tuple[Rule, ...]]) -> Trial:
    """Judge again by `rules` (by domain). Raises FileNotFoundError if nothing was judged yet."""
    for table in (tables.SIGNALS, tables.VERDICTS):
        if lake.version(table) is None:
            raise FileNotFoundError(f"{lake.root} holds no {table.name} yet: `flows run judge` writes it")
    with duckdb.connect() as db:
        lake.view(db, "signals", tables.SIGNALS)
        lake.view(db, "verdicts", tables.VERDICTS)
        db.execute(f"create table judged as {_judged(rules)}")
        changes = _rows(db, CHANGES)
        kept = _rows(db, KEPT)
        drawn = db.execute(DRAWN, [SAMPLES]).fetchall()
    density = _tokens_per_byte(lake)
    texts = _texts(lake, [doc_id for *_, doc_id in drawn])
    samples = [(change, rule, doc_id, texts[doc_id]) for change, rule, doc_id in drawn]
    return Trial(changes, [{**row, "tokens_per_byte": density.get(row["source"])} for row in kept], samples)


# A document's rules then and now; `fails` and `failed` are lists of names in the order of the rules.
JUDGED = """
    select doc_id, source, n_bytes, keep as before, len(fails) = 0 and len(others) = 0 as after, fails, failed from (
        select s.doc_id, s.source, s.n_bytes, v.keep,
            list_filter(s.named, lambda rule: rule is not null) as fails,
            list_filter(v.reasons, lambda rule: not {stays}) as failed,
            list_filter(v.reasons, lambda rule: {stays}) as others
        from (select doc_id, source, n_bytes, [{cases}] as named from signals) s join verdicts v using (doc_id)
    )
"""
# Reasons that are no rules on the document itself.
STAYS = "(ends_with(rule, '_duplicate') or starts_with(rule, 'rest_') or rule in ('torso', 'contaminated'))"
CHANGES = """
    select source, rule,
        count(*) filter (after) as gained, coalesce(sum(n_bytes) filter (after), 0)::bigint as gained_bytes,
        count(*) filter (before) as lost, coalesce(sum(n_bytes) filter (before), 0)::bigint as lost_bytes
    from (select *, if(after, failed, fails)[1] as rule from judged where before != after)
    group by all order by source, rule
"""
KEPT = """
    select source, count(*) filter (before) as before, count(*) filter (after) as after,
        coalesce(sum(n_bytes) filter (before), 0)::bigint as bytes_before,
        coalesce(sum(n_bytes) filter (after), 0)::bigint as bytes_after
    from judged group by source order by source
"""
DRAWN = """
    select if(after, 'gained', 'lost') as change, if(after, failed, fails)[1] as rule, doc_id
    from judged where before != after
    qualify row_number() over (partition by change order by md5(doc_id)) <= ? order by change, rule, doc_id
"""


def _judged(rules: dict[str, tuple[Rule, ...]]) -> str:
    cases = [rule.case(domain) for domain, members in rules.items() for rule in members]
    return JUDGED.format(cases=", ".join(cases) or "null::varchar", stays=STAYS)


def _rows(db: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    return db.sql(query).to_arrow_table().to_pylist()


def _tokens_per_byte(lake: Lake) -> dict[str, float]:
    """By source, of the documents that are tokenised now."""
    if lake.version(tables.TOKENS) is None:
        return {}
    query = """
        select v.source, sum(t.n_tokens) / sum(v.n_bytes) as density
        from tokens t join verdicts v using (doc_id) group by v.source
    """
    with duckdb.connect() as db:
        lake.view(db, "tokens", tables.TOKENS)
        lake.view(db, "verdicts", tables.VERDICTS)
        return dict(db.execute(query).fetchall())


def _texts(lake: Lake, doc_ids: list[str]) -> dict[str, str]:
    if not doc_ids:
        return {}
    rows = lake.arrow(tables.DOCUMENTS, ["doc_id", "text"], where=pc.field("doc_id").isin(doc_ids)).to_pylist()
    return {row["doc_id"]: " ".join(row["text"].split())[:PREVIEW_CHARACTERS] for row in rows}
