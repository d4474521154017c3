"""What the finders of personal data share.

Each finder takes bytes and the place where something may begin, and gives the spans (begin, end) that it found there:
none or one; an access key and the secret beside it are two. It looks at most BEFORE bytes back and NEAR (keys: AFTER)
ahead, and every pattern is of bounded length, so the work a place is bounded whatever the text. Placeholders of manuals
(reserved domains, AKIAIOSFODNN7EXAMPLE, xxxx) are nobody's data and not found.
"""

from __future__ import annotations

Spans = tuple[tuple[int, int], ...]
BEFORE, NEAR, AFTER = 256, 8192, 20_000  # bytes; AFTER for keys: one of 16,384 bits takes 12,800 in PEM
NONE: Spans = ()


def digits(number: bytes) -> bytes:
    """Its digits alone."""
    return bytes(byte for byte in number if 48 <= byte <= 57)
