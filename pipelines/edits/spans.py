"""Spans of one document's text that are left out or masked: brought in order, and applied. No Spark.

Where spans overlap, a line goes before a passage, a passage before a mask; what the stronger leaves of the weaker stays
an edit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

Span = tuple[int, int, str, str]  # start, end, replacement, why
LINE, PASSAGE = REMOVALS = ("repeated_line", "repeated_passage")  # the strongest first; then all masks


class BrokenEdit(ValueError):
    """Edits that do not fit the text they are to be applied to."""


def merge_spans(spans: list[Span]) -> list[Span]:
    """The spans of one document, in any order, as edits in order and apart.

    A line beats a passage, a passage a mask; of two equally strong ones the one that begins first, then the longer,
    keeps its place. A weaker span is cut to what is free of it. Neighbours that are left out for the same reason are
    one edit.
    """
    taken: list[Span] = []
    for strength in (LINE, PASSAGE, None):
        mine = [span for span in spans if (span[3] if span[3] in REMOVALS else None) == strength]
        taken = sorted(taken + list(_free(sorted(mine, key=lambda span: (span[0], -span[1], *span[2:])), taken)))
    joined: list[Span] = []
    for span in taken:
        if joined and joined[-1][1] == span[0] and span[3] in REMOVALS and joined[-1][3] == span[3]:
            span = (joined.pop()[0], *span[1:])
        joined.append(span)
    return joined


def _free(spans: list[Span], taken: list[Span]) -> Iterator[Span]:
    """The parts of spans, in order of their beginnings, that lie in none of `taken` (in order, apart) and in no earlier
    span."""
    i = at = 0
    for start, end, *rest in spans:
        at = max(at, start)
        while at < end:
            while i < len(taken) and taken[i][1] <= at:
                i += 1
            stop = min(end, taken[i][0]) if i < len(taken) else end
            if at < stop:
                yield (at, stop, *rest)
            at = min(end, taken[i][1]) if i < len(taken) and stop < end else end


def apply_spans(text: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    """The text with its edits (start, end, replacement). Raises BrokenEdit unless they are in order, apart, inside and
    on code points."""
    pieces, at = [], 0
    for start, end, replacement in edits:
        if not at <= start < end <= len(text):
            wanted = f"edits in order, apart and inside the text's {len(text)} bytes"
            raise BrokenEdit(f"expected {wanted}, found {start} to {end} behind {at}")
        if _inside_character(text, start) or _inside_character(text, end):
            found = f"{start} to {end} at bytes {text[start : end + 1][:16]!r}..."
            raise BrokenEdit(f"expected an edit between characters, found {found}")
        pieces += [text[at:start], replacement.encode()]
        at = end
    return b"".join([*pieces, text[at:]])


def _inside_character(text: bytes, at: int) -> bool:
    return at < len(text) and text[at] & 0xC0 == 0x80


def apply_to_batch(texts: pa.Array, edits: pa.ListArray) -> pa.Array:
    """Texts as they are learnt; edits: a list of structs (start, end, replacement) a text, null or empty where there
    are none."""
    has = pc.greater(pc.list_value_length(edits), 0).fill_null(False)
    if not has.true_count:
        return texts
    named = zip(texts.filter(has).cast(pa.binary()).to_pylist(), edits.filter(has).to_pylist(), strict=True)
    new = [apply_spans(text, [tuple(edit.values()) for edit in its_edits]) for text, its_edits in named]
    return pc.replace_with_mask(texts, has, pa.array(new, pa.binary()).cast(texts.type))
