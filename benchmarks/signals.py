"""The whole measuring pass, every signal and fingerprint, beside the filters of datatrove and the taggers of dolma.

    python -m benchmarks signals [folder with .jsonl, .jsonl.gz or .jsonl.zst files]

CPU seconds of one core, all on the same documents in the same run. datatrove's four filters see every document and give
a verdict, dolma's taggers give spans; we give every signal and fingerprint, without a quality model, which neither has.
The quality signals alone are those that the rules of all domains read, every one of every document.
"""

from __future__ import annotations

import pyarrow as pa

from benchmarks.anchors import beside, documents, rates, sample
from benchmarks.timing import row, seconds
from pipelines import assets
from pipelines.signals import code, stopwords, text
from pipelines.signals.context import Context
from pipelines.signals.measure import batch_of, measure_batch

MUST = {"datatrove filters": 20.0, "dolma taggers": 5.0}
QUALITY = code, stopwords, text
LEAST_DOCS = 25_000  # of quality signals, documents/s a core


def rows(folder: str | None = None) -> list[dict]:
    texts = documents(folder)
    batch, context = batch_of(texts, ["docs"] * len(texts)), Context(assets.LANGUAGE_MODEL.read_bytes())
    measure_batch(batch.slice(0, 10), context)  # compiled, model loaded
    rate, ours = rates("all signals and fingerprints", texts, lambda: measure_batch(batch, context))
    known = {"domain": batch.column("domain"), "lang": pa.array(["en"] * len(batch))}
    spent = seconds(lambda: [family.measure(batch.column("text"), known, context) for family in QUALITY], repeats=3)
    alone = row(
        "quality signals alone / the least we accept", len(texts) / spent, "docs/s", reference=LEAST_DOCS, must=1.0
    )
    return [*sample(texts), *ours, alone, *beside("all signals", rate, tuple(MUST), texts, MUST)]
