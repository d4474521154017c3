"""What the scripts without spaces between words are, by the Unicode data of the package regex, and texts in them taken
apart by hand."""

from __future__ import annotations

import unicodedata

import regex

NAMES = "Thai Lao Tibetan Myanmar Khmer Tai_Le New_Tai_Lue Tai_Tham Tai_Viet Ahom Hiragana Katakana Han"
COMMON = "〆〼〱〲〳〴〵\u3099\u309aーｰﾞﾟ"  # of kana and Han, so of no script by itself
UNSPACED = regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in NAMES.split()) + COMMON + "]")
DICTIONARY = regex.compile(r"\p{Line_Break=SA}")  # no line is broken there without one
GEORGIAN = "საქართველო მდებარეობს კავკასიაში და მისი დედაქალაქია თბილისი სადაც ბევრი ცხოვრობს"
# text -> its words: runs of letters and digits, or of ink, but where a script has no spaces characters
SHINGLED = {
    GEORGIAN: GEORGIAN.split(),
    "བོད་ཡིག་ གི།": ["བ", "ོ", "ད", "ཡ", "ི", "ག", "ག", "ི"],
    "ភាសា ខ្មែរ។": ["ភ", "ា", "ស", "ា", "ខ", "្", "ម", "ែ", "រ"],
    "ພາສາລາວ ໑໒": ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ", "໑", "໒"],
    "Version 2は「新しい」、ＡＢＣ一九!": ["version", "2", "は", "新", "し", "い", "ａｂｃ", "一", "九"],
    "ሰላም ለዓለም 한국어 ꆈꌠ": ["ሰላም", "ለዓለም", "한국어", "ꆈꌠ"],
}
CUT = {
    GEORGIAN: GEORGIAN.split(),
    "བོད་ཡིག་ གི།": ["བ", "ོ", "ད", "་", "ཡ", "ི", "ག", "་", "ག", "ི", "།"],
    "ភាសា ខ្មែរ។": ["ភ", "ា", "ស", "ា", "ខ", "្", "ម", "ែ", "រ", "។"],
    "ພາສາລາວ ໑໒": ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ", "໑", "໒"],
    "Version 2は「新しい」、ＡＢＣ一九!": ["Version", "2", "は", "「", "新", "し", "い", "」、ＡＢＣ", "一", "九", "!"],
    "ሰላም ለዓለም 한국어 ꆈꌠ": ["ሰላም", "ለዓለም", "한국어", "ꆈꌠ"],
}


def stands_alone(character: str) -> bool:
    """Whether it is a letter, digit or mark of a script without spaces."""
    return unicodedata.category(character)[0] in "LMN" and UNSPACED.match(character) is not None
