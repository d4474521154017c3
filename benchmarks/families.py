"""The one pass over the text: each family alone and all together, on one core; signatures against datasketch, same
texts, same run.

    python -m benchmarks.families [folder with .txt, .md, .rst or .py files]

CPU seconds, not wall time: the machine may be shared. Without a folder the texts are those of this Python's packages.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import datasketch
import pyarrow as pa

from benchmarks.timing import row, seconds, show
from pipelines import assets
from pipelines.models import quality
from pipelines.signals import FAMILIES, fingerprints
from pipelines.signals.context import Context
from pipelines.signals.measure import batch_of, measure_batch

DOC_CHARS = 3400  # the mean of the corpus that the peers were measured on
N_DOCS = 3000  # 10 MB
N_DATASKETCH = 300  # it is that slow
SUFFIXES = {".txt", ".md", ".rst", ".py"}
LEAST_MB = 10.0  # of the fused pass, MB/s a core; the goal is 25


def rows(folder: str | None = None) -> list[dict]:
    """The whole pass, each family alone, signatures against datasketch. `must` is the least ratio."""
    batch, context = documents(Path(folder or sysconfig.get_path("purelib")))
    mb = sum(len(text.encode()) for text in batch.column("text").to_pylist()) / 1e6
    measure_batch(batch.slice(0, 10), context)  # compiled, models loaded
    whole = seconds(lambda: measure_batch(batch, context))
    figures = [row("all signals, fused / the least we accept", mb / whole, "MB/s", reference=LEAST_MB, must=1.0)]
    for family in FAMILIES:
        name = family.__name__.rsplit(".", 1)[1]
        known = {"domain": batch.column("domain"), "lang": pa.array(["en"] * len(batch))}
        spent = seconds(lambda family=family, known=known: family.measure(batch.column("text"), known, context))
        figures += [
            row(name, mb / spent, "MB/s"),
            row(name, len(batch) / spent, "docs/s"),
            row(name, 100 * spent / whole, "% of all"),
        ]
    return [*figures, signatures(batch.column("text"), context)]


def signatures(texts: pa.Array, context: Context) -> dict:
    """Text hash, shingles, signature and bands here; the same shingles and as many permutations in datasketch."""
    few = texts.slice(0, N_DATASKETCH)
    ours = len(texts) / seconds(lambda: fingerprints.measure(texts, texts, context))
    theirs = len(few) / seconds(lambda: [datasketch_signature(text, context) for text in few.to_pylist()], repeats=2)
    return row("signatures / datasketch update_batch", ours, "docs/s", reference=theirs, must=10.0)


def datasketch_signature(text: str, context: Context) -> datasketch.MinHash:
    words = re.findall(r"\w+", text.lower())
    sketch = datasketch.MinHash(num_perm=context.bands * context.rows)
    sketch.update_batch(
        [" ".join(words[i : i + context.ngram]).encode() for i in range(len(words) - context.ngram + 1)]
    )
    return sketch


def documents(folder: Path) -> tuple[pa.RecordBatch, Context]:
    """Pieces of the folder's files as one batch of two domains, and a context whose quality models were trained on
    them."""
    texts = pieces(folder)
    n = len(texts)
    trained = quality.train(texts[: n // 4], texts[-n // 4 :], seed=1)
    context = Context(assets.LANGUAGE_MODEL.read_bytes(), {"web": trained.model, "code": trained.model})
    return batch_of(texts, ["web"] * (n // 2) + ["code"] * (n - n // 2)), context


def pieces(folder: Path) -> list[str]:
    """The first pieces of the files, every tenth file in the order of their names, until there are enough."""
    texts: list[str] = []
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    for path in files[::10] + files[1::10]:
        text = path.read_text("utf-8", errors="ignore")
        texts += [text[at : at + DOC_CHARS] for at in range(0, min(len(text), 10 * DOC_CHARS), DOC_CHARS)]
        if len(texts) >= N_DOCS:
            return texts[:N_DOCS]
    if len(texts) < 4 * quality.MIN_EXAMPLES:
        wanted = 4 * quality.MIN_EXAMPLES
        raise ValueError(f"{folder} must hold text for {wanted} pieces of {DOC_CHARS} characters, found {len(texts)}")
    return texts


if __name__ == "__main__":
    show(rows(*sys.argv[1:2]))
