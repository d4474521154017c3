"""Other tools on the same documents, in an environment of their own: run by `benchmarks.anchors`, imports nothing of
ours.

    .bench/bin/python benchmarks/peers.py documents.parquet WORK [answers]

documents.parquet: a column `text`. With `answers`, prints what the work returns for all of them. Else prints one JSON
line: documents, bytes, cpu_seconds of the whole process tree and seconds by the clock, what was done and by which
version; or `missing`, where it is not installed. Each tool as its own documentation sets it up, with one process; what
it loads first (models, tables) is not counted.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq

HASHES, NGRAM, BANDS, ROWS = 112, 5, 14, 8  # of a signature, as FineWeb has them
THRESHOLD = 0.8
WARM = 5  # documents that come before the measured ones

Work = Callable[[list[str]], object]


def datatrove_filters() -> Work:
    """Gopher repetition, Gopher quality, C4 and FineWeb filters; every document goes through all four."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    chain = [
        filters.GopherRepetitionFilter(),
        filters.GopherQualityFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
    ]
    chain.append(filters.FineWebQualityFilter())
    return lambda texts: [one.filter(Document(text, "")) for text in texts for one in chain]


def datatrove_signatures() -> Work:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    step = MinhashDedupSignature(
        tempfile.mkdtemp(), MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    )

    def run(texts: list[str]) -> None:
        for text in texts:
            shingles = step.get_shingles(text)
            if shingles.size:
                step.get_signature(shingles)

    return run


def datatrove_dedup() -> Work:
    """All four stages, in one process, kept documents as JSON lines; nothing is checked against the texts."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)

    def run(texts: list[str]) -> None:
        root = tempfile.mkdtemp()
        documents = [Document(text, str(number)) for number, text in enumerate(texts)]
        stages = [
            [documents, dedup.MinhashDedupSignature(f"{root}/signatures", config)],
            [dedup.MinhashDedupBuckets(f"{root}/signatures", f"{root}/buckets", config=config)],
            [dedup.MinhashDedupCluster(f"{root}/buckets", f"{root}/removed", config=config)],
            [documents, dedup.MinhashDedupFilter(f"{root}/removed"), JsonlWriter(f"{root}/kept")],
        ]
        for number, stage in enumerate(stages):
            LocalPipelineExecutor(
                stage, tasks=BANDS if number == 1 else 1, workers=1, logging_dir=f"{root}/logs{number}"
            ).run()

    return run


def dolma_taggers() -> Work:
    """Gopher and C4 taggers, spans not written."""
    from dolma.core.data_types import Document
    from dolma.taggers.c4 import FasterC4Tagger
    from dolma.taggers.gopher import GopherTaggerV2

    taggers = GopherTaggerV2(), FasterC4Tagger()
    return lambda texts: [
        tagger.predict(Document("", str(i), text)) for i, text in enumerate(texts) for tagger in taggers
    ]


def shingles(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))]


def datasketch_signatures() -> Work:
    from datasketch import MinHash

    def run(texts: list[str]) -> None:
        for text in texts:
            MinHash(num_perm=HASHES).update_batch([one.encode() for one in shingles(text)])

    return run


def rensa_signatures() -> Work:
    from rensa import RMinHash

    def run(texts: list[str]) -> None:
        for text in texts:
            sketch = RMinHash(num_perm=HASHES, seed=1)
            sketch.update(shingles(text))
            sketch.digest()

    return run


def daft_minhash(texts: object, normalised: bool) -> object:
    from daft import col

    text = col("text")
    if normalised:
        text = text.normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
    return texts.with_column(
        "signature", text.minhash(num_hashes=HASHES, ngram_size=NGRAM, seed=42, hash_function="xxhash")
    )


def daft_signatures(normalised: bool = True) -> Work:
    import daft

    return lambda texts: (
        daft_minhash(daft.from_pydict({"text": texts}).collect(), normalised).select("signature").collect()
    )


def daft_raw_signatures() -> Work:
    """Of the text as it stands, which Daft splits at spaces only."""
    return daft_signatures(normalised=False)


def daft_dedup() -> Work:
    """Normalised signatures, documents that share a band in one component (union-find), kept documents to Delta.
    Nothing is checked."""
    import daft
    import deltalake  # noqa: F401 - Daft writes with it
    from daft import col

    def run(texts: list[str]) -> None:
        ids = list(range(len(texts)))
        signed = daft_minhash(daft.from_pydict({"id": ids, "text": texts}), True).collect()
        bands = signed.select("id", col("signature").chunk(ROWS).alias("band")).explode("band")
        buckets = (
            bands.groupby("band")
            .agg(col("id").list_agg().alias("ids"))
            .where(col("ids").list_count() > 1)
            .select("ids")
            .to_pydict()
        )
        kept = sorted({root for root in components(len(ids), buckets["ids"])})
        keepers = daft.from_pydict({"id": kept})
        signed.select("id", "text").join(keepers, on="id").write_deltalake(tempfile.mkdtemp())

    return run


def components(n: int, groups: list[list[int]]) -> list[int]:
    """The smallest member of each one's component."""
    parent = list(range(n))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        return x

    for group in groups:
        for other in group[1:]:
            low, high = sorted((root(group[0]), root(other)))
            parent[high] = low
    return [root(x) for x in range(n)]


def py3langid_labels() -> Work:
    import py3langid

    return lambda texts: [py3langid.classify(text)[0] for text in texts]


def pycld2_labels() -> Work:
    import pycld2

    def label(text: str) -> str:
        try:
            return pycld2.detect(text)[2][0][1]
        except pycld2.error:
            return "un"  # control characters

    return lambda texts: [label(text) for text in texts]


# name: (package, what makes the work, documents that take a few seconds)
WORKS = {
    "datatrove filters": ("datatrove", datatrove_filters, 400),
    "datatrove signatures": ("datatrove", datatrove_signatures, 400),
    "datatrove dedup": ("datatrove", datatrove_dedup, 400),
    "dolma taggers": ("dolma", dolma_taggers, 400),
    "datasketch": ("datasketch", datasketch_signatures, 1000),
    "rensa": ("rensa", rensa_signatures, 3000),
    "daft": ("daft", daft_signatures, 20_000),
    "daft raw text": ("daft", daft_raw_signatures, 20_000),
    "daft dedup to Delta": ("daft", daft_dedup, 20_000),
    "py3langid": ("py3langid", py3langid_labels, 1000),
    "pycld2": ("pycld2", pycld2_labels, 5000),
}


def cpu_seconds() -> float:
    """Of this process with its threads, and of the children that ended."""
    return sum(os.times()[:4])


def measured(texts: list[str], name: str) -> dict:
    package, make, most = WORKS[name]
    try:
        work = make()
    except ImportError as error:
        return {"work": name, "missing": str(error)}
    work(texts[:WARM])
    few = texts[WARM : WARM + most]
    began, before = time.perf_counter(), cpu_seconds()
    work(few)
    spent = {"cpu_seconds": cpu_seconds() - before, "seconds": time.perf_counter() - began}
    size = sum(len(text.encode()) for text in few)
    return {"work": name, "documents": len(few), "bytes": size, **spent, "version": f"{package} {version(package)}"}


def main() -> None:
    os.environ |= {"DAFT_PROGRESS_BAR": "0", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    path, name, *rest = sys.argv[1:]
    texts = pq.read_table(path, columns=["text"]).column("text").cast(pa.large_string()).to_pylist()
    print(json.dumps(WORKS[name][1]()(texts) if rest == ["answers"] else measured(texts, name)))


if __name__ == "__main__":
    main()
