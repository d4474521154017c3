"""What fits into one process: the one place that decides who carries narrow work, this process (or one task) or Spark.

What does not fit is done by the same functions over partitions that hold whole groups (`spark.in_whole_groups`). Who
asks has the counts: a table's log holds them, where Spark would take half a second.
"""

from __future__ import annotations

# Peak memory, measured: comparing 400,000 fingerprints (0.66 KB each) 1.4 GB in pairs of copies, 3.3 GB in families of
# 1,000 near copies, which make 11 million candidates; grouping 2 million documents, and judging them, 1.3 GB, 4 million
# pairs 0.4 GB more; beside what comes in (0.1 and 0.3 GB, up to three times) counting keys takes 0.7 GB, comparing
# passages 0.4.
LIMITS = {
    "fingerprints": 400_000,
    "documents": 2_000_000,
    "pairs": 4_000_000,
    "keys": 1 << 23,
    "passages": 1 << 23,
}


def fits(**counts: int) -> bool:
    """Whether so much of each kind of LIMITS is worked on in one process."""
    return all(n <= LIMITS[kind] for kind, n in counts.items())


def parts(**counts: int) -> int:
    """Into how many parts, at least one, so much of each kind is dealt that each part fits."""
    return max([1, *(-(-n // LIMITS[kind]) for kind, n in counts.items())])
