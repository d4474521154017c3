"""Bytes of the web as text, whatever charset they are said to be in."""

from __future__ import annotations

import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

LOST = 0.01  # a page with a larger share of characters that cannot be decoded is none
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# Of the first bytes: <meta charset=...>, <meta ... content="text/html; charset=...">, <?xml encoding="..."?>
DECLARED = re.compile(
    rb"(?i)<(?:meta|\?xml)\b[^>]{0,300}?(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?\s{0,9}([a-z0-9_:-]{2,40})"
)
DECLARED_BYTES = 4096


def decode(data: bytes, label: str | None = None) -> tuple[str | None, str]:
    """(text, charset) of a page whose HTTP header says `label`; (None, why) when more than LOST of it cannot be
    decoded.

    Byte order mark, else UTF-8 when it is valid (no other charset's text is by chance), else the header, the page's own
    declaration, resiliparse's detector, in that order: the first by which little is lost.
    """
    for mark, name in BOMS:
        if data.startswith(mark):
            return _lossy(data[len(mark) :], name)
    if b"\0" not in data and b"\x1b" not in data:  # UTF-16 and ISO-2022 are valid UTF-8
        try:
            return data.decode(), "utf-8"
        except UnicodeDecodeError:
            pass
    declared = DECLARED.search(data, 0, DECLARED_BYTES)
    tried = []
    for name in (label, declared and declared[1].decode(), detect_encoding(data, html5_compatible=True), "utf-8"):
        known = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        if known and known not in tried:
            tried.append(known)
            text, charset = _lossy(data, known)
            if text is not None:
                return text, charset
    return None, f"more than {LOST:.0%} of the characters are lost as {', '.join(tried)}"


def _lossy(data: bytes, name: str) -> tuple[str | None, str]:
    try:
        text = data.decode(name, "replace")
    except (LookupError, UnicodeError):
        return None, f"charset {name} cannot be decoded"
    lost = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    return (
        (None, f"more than {LOST:.0%} of the characters are lost as {name}")
        if lost > LOST * len(text)
        else (text, name)
    )
