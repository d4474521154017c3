"""The commonest characters of a script: a right reading of bytes is full of them, a wrong one has few.

A detector drops a charset at the first pair outside its own narrow table, or at a mark where it expects a letter; these
shares care for no single character. Measured on texts of 40 characters and more: the least that each set makes of its
own texts, and the most it makes of another encoding's read as its own: kana .41 and .33, Hangul .35 and .27, Chinese
.20 and .18 (of manuals; .4 of prose); Thai .57 and .56, Hebrew .52 and .46, Arabic .53 and .4, Greek .62 and .59,
Cyrillic .44 and .45. The reading counts that is furthest above its own least.
"""

from __future__ import annotations

import re
from collections import Counter

from pipelines.html.encodings import decode_as

KANA = "、。ぁ-んァ-ー"
HANGUL = (
    "이다는에의가을고한지하로기도를사어은인그리서자나대시있해들아정일으수여라만전부장보소제상면것주안스계원신관학국니동오과등"
    "게구모경교우물적문비방성생조요공무화회중거연세개입선진미내민년습"
)
HAN = (  # of Chinese in both its forms, and of its manuals
    "，。、的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家"
    "种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日"
    "這個們來為國說時會對著過發後裡從經麼還進當沒動學現樣開種機無與長見關點業將間應實"
    "更名令能路命式位址件檔請数使据码网络系统文信息示列表新建目"
)
THAI, HEBREW, ARABIC = "านรกเงอมยลวดทตสปคบ่้ัีิ", "יוהלארתבשמ", "اليمونرتبدةه"
GREEK, CYRILLIC = "αοιετσνηρπκς", "оеаинтсрвлі"


def _beside(letters: str) -> re.Pattern[str]:
    """Letters beside what is not ASCII, as an accented one among Latin letters is not."""
    return re.compile(f"(?<=[^\0-\x7f])[{letters}]|[{letters}](?=[^\0-\x7f])")


# By codec_of's names: the commonest characters, and the least share of what is not ASCII that they make
COMMONEST = {
    "shift_jis": (re.compile(f"[{KANA}]"), 0.35),
    "euc_jp": (re.compile(f"[{KANA}]"), 0.35),
    "euc_kr": (re.compile(f"[{HANGUL}]"), 0.3),
    "gb18030": (re.compile(f"[{HAN}]"), 0.2),
    "big5": (re.compile(f"[{HAN}]"), 0.2),
    "hz": (re.compile(f"[{HAN}]"), 0.2),
    "iso8859-11": (_beside(THAI), 0.6),
    "cp1255": (_beside(HEBREW), 0.5),
    "cp1256": (_beside(ARABIC), 0.55),
    "cp1253": (_beside(GREEK), 0.6),
    "cp1251": (_beside(CYRILLIC), 0.45),
    "koi8-u": (_beside(CYRILLIC), 0.45),
    "iso8859-5": (_beside(CYRILLIC), 0.45),
    "cp866": (_beside(CYRILLIC), 0.45),
}
EAST_ASIAN = ("shift_jis", "euc_jp", "euc_kr", "gb18030", "big5")
ALPHABETIC = ("iso8859-11", "cp1255", "cp1256", "cp1253", "cp1251", "koi8-u", "iso8859-5", "cp866")
FIRST = 4096  # bytes: enough to tell by
FEWEST = 4  # of so many common characters: a single one is chance, many times one a line of non-breaking spaces
PLAIN = re.compile(f"[\t\n\r -~\xa0-\xff{KANA}{HANGUL}{HAN}]")
LINE_ENDS = "\u0909\u090a\u090d\u0a09\u0a0a\u0a0d\u0d09\u0d0a\u0d0d"  # two of them or of tabs, as UTF-16


def commonest_in(data: bytes, names: tuple[str, ...]) -> str | None:
    """The one of these encodings in which the bytes are fullest of common characters; None where in none."""
    share, name = max((common_share(data[:FIRST], name), name) for name in names)
    return name if share >= 1 else None


def common_share(data: bytes, name: str) -> float:
    """Share of the commonest characters in what is not ASCII, over the least that a text in this encoding has of them;
    0 for fewer than FEWEST different ones."""
    text = decode_as(data, name)
    regex, least = COMMONEST[name]
    common, n_ascii = regex.findall(text), len(text.encode("ascii", "ignore"))
    return len(common) / (len(text) - n_ascii) / least if len(set(common)) >= FEWEST else 0.0


def plain_share(text: str) -> float:
    """Share of ASCII, of the commonest characters and of one other alphabet. Of texts of 200 characters read as the
    UTF-16 that they are in it is .40 at least; of others and of bytes in wrong order, whose characters come from
    everywhere, about .2 at most."""
    alphabets = Counter[int]()
    for char, n in Counter(text).items():
        if "\u0100" <= char < "\u2000" and char not in LINE_ENDS and char.isprintable():
            alphabets[ord(char) >> 8] += n
    return (len(PLAIN.findall(text)) + max(alphabets.values(), default=0)) / max(len(text), 1)
