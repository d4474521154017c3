"""Characters and names that stand for others, as tables for the compiled pass of plain.py.

Numba's cache of the pass looks at the pass's own file only: after a change here, delete its __pycache__.
"""

from __future__ import annotations

import unicodedata
from html.entities import html5
from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.html.tags import INLINE, LINK, TAGS
from pipelines.texts.characters import CODES

DROP, HYPHEN, MARK, MAP = 1, 2, 3, 4  # what a code point is to the pass, where it is not only itself
MAPPED = 0x1D800  # behind the mathematical alphabets
# zero width, directions, variants of glyphs
INVISIBLE = (0x034F, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065),
             *range(0x2066, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF)  # fmt: skip
FULL_WIDTH = slice(0xFF01, 0xFF5F)
HYPHENS = 0x00AD, 0x2010  # the soft one, and that of typesetters
APOSTROPHES = 0x02B9, 0x02BB, 0x02BC, 0x02BD  # letters to Unicode
SYLLABLES = range(0xAC00, 0xD7A4)  # Hangul: composed by sums, not by a table
JAMO = range(0x3131, 0x318F)  # of Hangul, each by itself, with compatibility forms that no text is written in
CONJOINED = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # vowels and final consonants of syllables in pieces


class Forms(NamedTuple):
    """Tables that the pass takes as arguments.

    kinds: uint8[CODES], of DROP to MAP; leads: bool[256], the bytes that these, a tag or a hyphen may begin with.
    mapped: uint32[MAPPED], up to four bytes of UTF-8, the first one lowest. pairs: int64, ascending, base << 21 | mark,
    and composed: uint32, what they are together. entities: int64, ascending, and their code points; tags: int64,
    ascending, and whether they part words: names by `next_hash`.
    """

    kinds: np.ndarray
    leads: np.ndarray
    mapped: np.ndarray
    pairs: np.ndarray
    composed: np.ndarray
    entities: np.ndarray
    codes: np.ndarray
    tags: np.ndarray
    parts: np.ndarray


def _forms() -> Forms:
    kinds, mapped = np.zeros(CODES, np.uint8), np.zeros(MAPPED, np.uint32)
    pairs = {}
    for code in (code for code in range(0xA0, MAPPED) if code not in SYLLABLES and code not in JAMO):
        parts, letter = unicodedata.decomposition(chr(code)).split(), chr(code)
        folded = unicodedata.normalize("NFKC", letter).encode() if parts else b""
        if len(parts) == 2 and parts[0][0] != "<" and folded == letter.encode():
            pairs[int(parts[0], 16) << 21 | int(parts[1], 16)] = code
            kinds[int(parts[1], 16)] = MARK
        elif folded and letter.isalnum() and len(folded) <= len(letter.encode()):
            mapped[code], kinds[code] = int.from_bytes(folded, "little"), MAP
    mapped[FULL_WIDTH], kinds[FULL_WIDTH] = np.arange(0x21, 0x7F), MAP  # their punctuation too: it closes labels
    mapped[list(APOSTROPHES)], kinds[list(APOSTROPHES)] = ord("'"), MAP
    kinds[list(INVISIBLE)], kinds[list(HYPHENS)], kinds[list(CONJOINED)] = DROP, HYPHEN, MARK
    entities = {_hash(name[:-1]): ord(text) for name, text in html5.items() if name[-1] == ";" and len(text) == 1}
    tags = {_hash(name): not flags & (INLINE | LINK) for flags, names in TAGS.items() for name in names.split()}
    leads = np.zeros(256, np.bool_)
    leads[[chr(code).encode()[0] for code in np.flatnonzero(kinds)] + [ord("<"), ord("-")]] = True
    return Forms(
        kinds, leads, mapped, *_columns(pairs, np.uint32), *_columns(entities, np.uint32), *_columns(tags, np.bool_)
    )


def _columns(rows: dict[int, int], kind: type) -> tuple[np.ndarray, np.ndarray]:
    keys = sorted(rows)
    return np.array(keys, np.int64), np.array([rows[key] for key in keys], kind)


def _hash(name: str) -> int:
    total = 0
    for byte in name.encode():
        total = next_hash.py_func(total, byte)
    return total


@njit
def next_hash(total, byte):
    """Of a name's bytes one by one, from 0: below 2^55."""
    return (total * 127 + byte) % (1 << 55)


FORMS = _forms()
