"""The whole measuring pass, every signal and fingerprint, beside the filters of datatrove and the taggers of dolma.

    python -m benchmarks signals [folder with .jsonl, .jsonl.gz or .jsonl.zst files]

CPU seconds of one core, all on the same documents in the same run. datatrove's four filters see every document and give a
verdict, dolma's taggers give spans; we give every signal and fingerprint, without a quality model, which neither has.
"""

from __future__ import annotations

from benchmarks.anchors import beside, documents, rates, sample
from pipelines import assets
from pipelines.measure import Context, batch_of, measure_batch

MUST = {"datatrove filters": 20.0, "dolma taggers": 5.0}


def rows(folder: str | None = None) -> list[dict]:
    texts = documents(folder)
    batch, context = batch_of(texts, ["docs"] * len(texts)), Context(assets.LANGUAGE_MODEL.read_bytes())
    measure_batch(batch.slice(0, 10), context)  # compiled, model loaded
    rate, ours = rates("all signals and fingerprints", texts, lambda: measure_batch(batch, context))
    return [*sample(texts), *ours, *beside("all signals", rate, tuple(MUST), texts, MUST)]
