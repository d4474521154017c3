"""Beginnings of texts that people are shown, personal data masked."""

from __future__ import annotations

import pyarrow as pa

from pipelines.edits.spans import apply_spans

SHOWN_BEHIND = 20_000  # signals.spans.AFTER: the longest that is looked for is a private key


def beginnings(texts: list[str], chars: int) -> list[str]:
    """The first characters of a few texts that people are shown, all personal data masked: a page travels further than
    the lake.

    texts: each with SHOWN_BEHIND characters more, if it has them, so that what is cut in two is still known for what it
    is.
    """
    from pipelines.signals import personal

    spans = personal.measure(pa.array(texts, pa.large_string()), None, None)[-1].to_pylist()
    edits = (
        [(span["start"], span["end"], personal.PLACEHOLDERS[span["kind"]]) for span in its_spans] for its_spans in spans
    )
    return [
        apply_spans(text.encode(), its_edits).decode()[:chars] for text, its_edits in zip(texts, edits, strict=True)
    ]
