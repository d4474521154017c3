"""Scripts that put no spaces between words: there every letter, digit or mark is taken for a word by itself.

They are those in which Unicode breaks lines by a dictionary only (class SA of UAX #14), Han and kana, and Tibetan,
whose tsheg (U+0F0B) stands between syllables. Georgian, Ethiopic, Hangul and Yi have words apart; Bopomofo stands
beside Han.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np

from pipelines.texts.characters import IS_ALNUM


class Script(NamedTuple):
    """A script by Unicode's name, its ranges of code points, first and last, and the languages written in it.

    Of the ranges only letters, digits and marks count. Codes are lid.176's, and dz, which it lacks. Kana are Hiragana
    and Katakana with the marks that both share.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]
    languages: tuple[str, ...] = ()


UNSPACED = (
    Script("Thai", ((0x0E00, 0x0E7F),), ("th",)),
    Script("Lao", ((0x0E80, 0x0EFF),), ("lo",)),
    Script("Tibetan", ((0x0F00, 0x0FFF),), ("bo", "dz")),
    Script("Myanmar", ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0x116D0, 0x116FF)), ("my",)),
    Script("Khmer", ((0x1780, 0x17FF),), ("km",)),
    Script("Tai Le", ((0x1950, 0x197F),)),
    Script("New Tai Lue", ((0x1980, 0x19DF),)),
    Script("Tai Tham", ((0x1A20, 0x1AAF),)),
    Script("Tai Viet", ((0xAA80, 0xAADF),)),
    Script("Ahom", ((0x11700, 0x1174F),)),
    Script("Kana", (
        (0x3031, 0x3035), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F),
    ), ("ja",)),
    Script("Han", (
        (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303C), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
        (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF1), (0x20000, 0x3FFFF),
    ), ("zh", "yue", "wuu", "ja")),
)  # fmt: skip
LANGUAGES = frozenset(language for script in UNSPACED for language in script.languages)


def _alone() -> np.ndarray:
    alone = np.zeros(len(IS_ALNUM), bool)
    for first, last in (bounds for script in UNSPACED for bounds in script.ranges):
        for code in range(first, last + 1):
            alone[code] = IS_ALNUM[code] or unicodedata.category(chr(code)).startswith("M")
    return alone


IS_ALONE = _alone()  # a word by itself: bool[0x110000]
