"""Numbers as people read them, in tables of the terminal and of the report."""

from __future__ import annotations


def short(value: float | None) -> str:
    """Three digits: 0.25, 1,024, 12.3k, 4.56M."""
    if value is None:
        return ""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def size(n_bytes: float) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:,.1f} {unit}"
    return f"{n_bytes:,.0f} B"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def count(value: float) -> str:
    return f"{value:,.0f}"


FORMATS = {"n": count, "short": short, "size": size, "share": share}
