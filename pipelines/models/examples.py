"""Which documents a domain's quality model learns from."""

from __future__ import annotations

import fnmatch
from collections import Counter
from functools import reduce
from operator import or_

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from pipelines.signals import language
from pipelines.signals.context import Context
from schemas.parts import Languages, Quality

# A model reads 6,000 characters of a text: longer ones would only fill the driver's memory.
MAX_BYTES = 200_000
# A language has a model of its own from so many examples of each kind on, if so much of all is in other languages.
OWN_EXAMPLES, OTHERS_SHARE = 100, 0.1
ELSEWHERE = 100  # texts of each source of other domains, on which a model is tried
Example = tuple[str, str]  # source, text
Examples = tuple[list[Example], list[Example]]  # positives, pool


def draw_examples(documents: DataFrame, domain: str, spec: Quality, seed: int) -> Examples:
    """(positives, pool): at most `spec.documents` of each, the first in seeded order.

    documents: doc_id, source, uri, domain, n_bytes, text. The ids are chosen on narrow columns, then their texts are
    read.
    """
    candidates = documents.where((F.col("domain") == domain) & (F.col("n_bytes") <= MAX_BYTES)).select(
        "doc_id", "source", "uri"
    )
    good = is_positive(spec)
    order = F.xxhash64(F.lit(seed), F.lit("examples"), "doc_id")
    chosen = [candidates.where(which).orderBy(order, "doc_id").limit(spec.documents) for which in (good, ~good)]
    ids = chosen[0].select("doc_id", F.lit(True).alias("good")).union(chosen[1].select("doc_id", F.lit(False)))
    rows = _read(documents, ids)
    good, rest = ([(row.source, row.text) for row in rows if row.good == kind] for kind in (True, False))
    return good, rest


def draw_elsewhere(documents: DataFrame, domain: str, seed: int) -> dict[str, list[str]]:
    """Texts of each source of other domains, at most ELSEWHERE, the first in seeded order."""
    order = F.xxhash64(F.lit(seed), F.lit("elsewhere"), "doc_id")
    others = documents.where((F.col("domain") != domain) & (F.col("n_bytes") <= MAX_BYTES)).select("doc_id", "source")
    first = Window.partitionBy("source").orderBy(order, "doc_id")
    ids = others.withColumn("place", F.row_number().over(first)).where(F.col("place") <= ELSEWHERE).select("doc_id")
    texts: dict[str, list[str]] = {}
    for row in _read(documents, ids):
        texts.setdefault(row.source, []).append(row.text)
    return texts


def trusted_texts(documents: DataFrame, spec: Languages, seed: int) -> list[str]:
    """Texts that show what is usual in their languages, at most `spec.documents`, the first in seeded order."""
    wanted = is_positive(Quality(positives=spec.trusted)) & (F.col("n_bytes") <= MAX_BYTES)
    order = F.xxhash64(F.lit(seed), F.lit("trusted"), "doc_id")
    ids = documents.where(wanted).select("doc_id").orderBy(order, "doc_id").limit(spec.documents)
    return [row.text for row in _read(documents, ids)]


def _read(documents: DataFrame, ids: DataFrame) -> list[Row]:
    """Source and text of these documents, and the columns of `ids`, in the order of doc_id."""
    texts = documents.select("doc_id", "source", "text")
    return texts.join(F.broadcast(ids), "doc_id", how="inner").orderBy("doc_id").collect()


def is_positive(spec: Quality) -> Column:
    """Whether a document's source and uri match one of the positives."""
    matches = [
        (F.col("source") == one.source) & F.col("uri").rlike(f"^{fnmatch.translate(one.uri)}") for one in spec.positives
    ]
    return reduce(or_, matches)


def by_language(
    domain: str, positives: list[Example], pool: list[Example], language_model: bytes
) -> dict[str, Examples]:
    """Examples by the name of the model that learns from them: `domain` from all, `domain.language` where that pays.

    The languages are those that the signals will find: no language is a reason to score high or low inside its own
    model.
    """
    told = [
        language.measure(pa.array([text for _, text in kind], pa.string()), {}, Context(language_model))[0].to_pylist()
        for kind in (positives, pool)
    ]
    counts, total = [Counter(labels) for labels in told], len(positives) + len(pool)
    named = {
        label: sum(count[label] for count in counts)
        for label in counts[0] | counts[1]
        if label != language.UNDETERMINED
    }
    own = [label for label in named if min(count[label] for count in counts) >= OWN_EXAMPLES]
    own = sorted(label for label in own if sum(named.values()) - named[label] >= OTHERS_SHARE * total)
    examples = {domain: (positives, pool)}
    for label in own:
        kinds = [
            [example for example, one in zip(*kind, strict=True) if one == label]
            for kind in ((positives, told[0]), (pool, told[1]))
        ]
        examples[f"{domain}.{label}"] = (kinds[0], kinds[1])
    return examples
