"""Text to MinHash signatures and band keys, normalising included, beside Daft, rensa, datasketch and datatrove.

    python -m benchmarks signatures [folder with .jsonl, .jsonl.gz or .jsonl.zst files]

CPU seconds of one core, 112 hashes of word 5-grams, all on the same documents in the same run. Ours also hashes the
folded text for exact duplicates. `daft raw text` does less than the others: it neither folds case nor splits at
anything but spaces.
"""

from __future__ import annotations

import pyarrow as pa

from benchmarks.anchors import beside, documents, rates, sample
from benchmarks.timing import row
from pipelines.signals import fingerprints
from pipelines.signals.context import Context

MUST = {"daft": 1.0, "rensa": 10.0, "datasketch": 20.0, "datatrove signatures": 100.0}
LEAST_DOCS = 80_000  # documents/s a core
WORKS = ("daft", "daft raw text", "rensa", "datasketch", "datatrove signatures")


def rows(folder: str | None = None) -> list[dict]:
    texts = documents(folder)
    strings, context = pa.array(texts, pa.large_string()), Context(b"")
    fingerprints.measure(strings.slice(0, 10), strings, context)  # compiled
    rate, ours = rates("signatures and band keys", texts, lambda: fingerprints.measure(strings, strings, context))
    least = row("signatures / the least we accept", ours[0]["value"], "docs/s", reference=LEAST_DOCS, must=1.0)
    return [*sample(texts), *ours, least, *beside("signatures", rate, WORKS, texts, MUST)]
