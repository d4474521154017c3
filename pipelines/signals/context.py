"""What the signals need besides the text."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.parts import Route


@dataclass(frozen=True)
class Context:
    """What the signals need besides the text. It travels inside the Arrow function, so a cluster needs no shared files.

    `quality_models` holds models (bytes of fastText files) by domain or domain.language; a domain without one has no
    quality. 16 bands of 7 rows let pairs of Jaccard .8 meet with a chance of .98, of .5 with .12 (datatrove's 14 of 8:
    .92, .05); the exact check of every pair that meets makes the extra candidates harmless.
    """

    language_model: bytes = field(repr=False)
    quality_models: dict[str, bytes] = field(default_factory=dict, repr=False)
    ngram: int = 5
    bands: int = 16
    rows: int = 7
    seed: int = 1
    routes: tuple[Route, ...] = ()
    stop_words: dict[str, list[str]] = field(default_factory=dict, repr=False)
