"""Which documents a domain's quality model learns from."""

from __future__ import annotations

import fnmatch
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.recipe import Languages, Quality

# A model reads 6,000 characters of a text: longer ones would only fill the driver's memory.
MAX_BYTES = 200_000


def examples(documents: DataFrame, domain: str, spec: Quality, seed: int) -> tuple[list[str], list[str]]:
    """(positives, pool): texts, at most `spec.documents` of each, the first in seeded order.

    documents: doc_id, source, uri, domain, n_bytes, text. The ids are chosen on narrow columns, then their texts are read.
    """
    candidates = documents.where((F.col("domain") == domain) & (F.col("n_bytes") <= MAX_BYTES)).select("doc_id", "source", "uri")
    good = is_positive(spec)
    order = F.xxhash64(F.lit(seed), F.lit("examples"), "doc_id")
    chosen = [candidates.where(which).orderBy(order, "doc_id").limit(spec.documents) for which in (good, ~good)]
    ids = chosen[0].select("doc_id", F.lit(True).alias("good")).union(chosen[1].select("doc_id", F.lit(False)))
    rows = documents.select("doc_id", "text").join(F.broadcast(ids), "doc_id", how="inner").orderBy("doc_id").collect()
    return [row.text for row in rows if row.good], [row.text for row in rows if not row.good]


def trusted(documents: DataFrame, spec: Languages, seed: int) -> list[str]:
    """Texts that show what is usual in their languages, at most `spec.documents`, the first in seeded order."""
    wanted = is_positive(Quality(positives=spec.trusted)) & (F.col("n_bytes") <= MAX_BYTES)
    order = F.xxhash64(F.lit(seed), F.lit("trusted"), "doc_id")
    ids = documents.where(wanted).select("doc_id").orderBy(order, "doc_id").limit(spec.documents)
    rows = documents.select("doc_id", "text").join(F.broadcast(ids), "doc_id", how="inner").orderBy("doc_id").collect()
    return [row.text for row in rows]


def is_positive(spec: Quality) -> Column:
    """Whether a document's source and uri match one of the positives."""
    matches = [(F.col("source") == one.source) & F.col("uri").rlike(f"^{fnmatch.translate(one.uri)}") for one in spec.positives]
    return reduce(or_, matches)
