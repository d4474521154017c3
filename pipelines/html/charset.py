"""Bytes of the web as text, whatever charset they are said to be in."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import NamedTuple

from resiliparse.parse.encoding import detect_encoding

from pipelines.html.commonest import ALPHABETIC, EAST_ASIAN, FEWEST, common_share, commonest_in, plain_share
from pipelines.html.encodings import CODECS, codec_of, decode_as

LOST = 0.01  # a page with a larger share of characters that cannot be decoded is none
ODD = 0.05  # a label is wrong when a larger share of what is not ASCII makes no sense in its encoding
BROKEN = 0.1  # at most so much of what is not ASCII is broken in UTF-8: no other charset comes near it by chance
BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# Of the first bytes: <meta charset=...>, <meta ... content="text/html; charset=...">, <?xml encoding="..."?>
DECLARED = re.compile(
    rb"(?i)<(?:meta|\?xml)\b[^>]{0,300}?(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?\s{0,9}([a-z0-9_:-]{2,40})"
)
DECLARED_BYTES, DECLARED_MOST = 4096, 3
ASCII = bytes(range(128))
# Of bytes that are UTF-8, and may be something else all the same: escapes; spaces of UTF-16, and the upper bytes of its
# scripts that have none (Thai and Lao, Tibetan, Burmese, Khmer)
HINTS = (b"\x1b", b"~{", b"\0", b"\x0e", b"\x0f", b"\x10", b"\x17")
# UTF-16 and UTF-32 without a mark: more than LOST of the first bytes are no text's, and so much of them is as wide text
WIDE, WIDE_BYTES, WIDE_FRAC = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"), 4096, 0.3
SAID_NUL_FRAC = 0.001  # of every second byte: line ends of Chinese that is said to be UTF-16
NO_TEXT = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b")
# What no other charset needs its escapes for: rows of JIS, of KS and of GB are called by ESC $ and a letter
ISO_2022_JP, ISO_2022_KR = re.compile(rb"\x1b\$[@B]"), b"\x1b$)C"
SEVEN_BITS = ("iso2022_jp", "iso2022_kr", "hz")
# Around what is not ASCII: a page may begin with 100 KB of markup, and a detector asked of that knows nothing
TELLING, TELLING_MOST = re.compile(rb"[\0-\x7f]{0,40}[\x80-\xff][\0-\xff]{0,63}"), 200
# What is left of a wrong reading: nothing, controls, signs and brackets inside of words, capitals behind small letters,
# three letters with accents in a row, Cyrillic beside Latin letters, one Han character behind a Latin word, signs where
# Greek words begin, an accent alone and capitals behind its small letters
SENSELESS = re.compile(
    "[\ufffd\x80-\x84\x86-\x9f\ue000-\uf8ff]"
    "|(?<=[^\\W\\d_])[¡-©«¬®-±´-¶¸»-¿×÷‚„†‡‰‹›€ˆ˜˘˙˛˝‗☺-☼│-╬▀-▓](?=[^\\W\\d_])"
    "|(?<=[a-zß-ÿ])[À-ÖØ-Þ](?=[a-zß-ÿ])"
    "|[ªºÀ-ÖØ-öø-žƒ]{3,}"
    "|(?<=[A-Za-z])[Ѐ-ӿ]|[Ѐ-ӿ](?=[A-Za-z])|(?<=[а-я])[Ѐ-Я]"
    "|(?<![^\\W\\d_])[¶’](?=[Ά-ώ])|΅|(?<=[α-ώ])[ΆΈ-ΏΑ-Ϋ]"
    "|(?<=[a-z])[\u3400-\u9fff\uac00-\ud7af\uff61-\uff9f](?![^\0-\x7f])"
)
LETTER = re.compile("[^\\W\\d_\0-\x7f]")
CONTROLS = re.compile("[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")  # of no text
# Letters that the languages of an encoding add to ASCII's, a language a word, for encodings that a detector takes for
# one another: a Spanish page in windows-1252 is Hungarian and Polish in windows-1250, but no language has both ń and á.
CENTRAL = "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű ăâîşţ čćđšž"
ALPHABETS = {
    "cp1252": "àâæçèéêëîïôœùûüÿ äöüßéà áéíñóúü àçèéíïòóúü áâãàçéêíóôõúü àèéìíîòóù åäöæøéü áðéíóúýþæö ëéïöüèêáóçñ",
    "cp1250": CENTRAL,
    "iso8859-2": CENTRAL,
    "cp1254": "çğıöşüâîûi̇",
    "cp1257": "ąčęėįšųūž āčēģīķļņšūž äõöüšž",
}
# The detector's answers that are not taken as they stand: wider ones of the same letters; two where it takes one for
# the other (Italian's è alone is Latvian's č, but a page of Latvian has ā and ē too; Greek's Ά is where the other has
# signs; letters of Persian are where the other has none); and for five that hardly any page was ever in, Catalan and
# Italian were taken.
RARE = dict.fromkeys(("iso8859-3", "iso8859-4", "iso8859-10", "iso8859-14", "iso8859-16"), ())
BALTIC, GREEK, ARABIC = ("cp1252", "cp1257"), ("cp1253", "iso8859-7"), ("iso8859-6", "cp1256")
DETECTED: dict[str | None, tuple[str, ...]] = {
    **RARE,
    "cp949": ("euc_kr",),
    "koi8-r": ("koi8-u",),
    "cp1257": BALTIC,
    "iso8859-13": BALTIC,
    "cp1253": GREEK,
    "iso8859-7": GREEK,
    "iso8859-6": ARABIC,
}
LATIN = ("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257")
FALLBACKS = (*LATIN[:4], "cp1251", "cp1257")


class Reading(NamedTuple):
    """How little sense the telling parts of a page make in an encoding: characters of `n`, those not of ASCII."""

    charset: str
    senseless: int
    foreign: int
    n: int


def decode(data: bytes, label: str | None = None) -> tuple[str | None, str]:
    """(text, charset) of a page whose HTTP header says `label`; (None, why) when more than LOST of it cannot be
    decoded. The charset by Python's name.

    Byte order mark, else UTF-8 when it is valid (no other charset's text is by chance) or nearly so, else the header or
    the page's own declaration where the page makes sense in it, else what makes most sense of the detector's answer
    and the encodings that are commonest where it has none (uchardet refuses a page of a few letters). What is full of
    the commonest characters of Chinese, Japanese or Korean is theirs, whatever the detector says.
    """
    mark, marked = next((one for one in BOMS if data.startswith(one[0])), (b"", ""))
    data = data[len(mark) :]
    if mark and (whole := _whole(data, marked))[0] is not None:
        return whole
    text = _utf8(data)
    if text and not any(hint in data for hint in HINTS):
        return text, "utf-8"
    if name := _shifted(data, label) or _wide(data, label):
        return _whole(data, name)
    if text or not data:
        return text, "utf-8"
    return _whole(data, "utf-8" if _is_nearly_utf8(data) else _charset(data, label))


def _utf8(data: bytes) -> str:
    """Valid UTF-8, without the half character at which a crawler may have cut it; empty for all else."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        whole = data[: error.start]
        return whole.decode() if error.reason == "unexpected end of data" and not whole.isascii() else ""


def _whole(data: bytes, name: str) -> tuple[str | None, str]:
    text = decode_as(data, name)
    lost = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    if name != "utf-8":
        lost += len(CONTROLS.findall(text))
    if lost > LOST * len(text):
        return None, f"more than {LOST:.0%} of the characters are lost as {name}"
    return text, name


def _wide(data: bytes, label: str | None) -> str | None:
    """UTF-16 or UTF-32 without a mark: what would be full of controls, and is text as one of them. What is said to be
    UTF-16 is so with a few NULs in it."""
    first = data[:WIDE_BYTES]
    if len(first) - len(first.translate(None, NO_TEXT)) >= max(LOST * len(first), FEWEST):
        share, name = max((plain_share(first.decode(name, "replace")), name) for name in WIDE)
        if share > WIDE_FRAC:
            return name
    few = data.count(0) > SAID_NUL_FRAC * len(data) / 2
    return said if (said := codec_of(label)) in WIDE and few else None


def _shifted(data: bytes, label: str | None) -> str | None:
    """The 7-bit encoding of what is ASCII to the eye. HZ's escapes may stand in any program: it must be said, or be
    Chinese."""
    if not data.isascii():
        return None
    if ISO_2022_JP.search(data):
        return "iso2022_jp"
    if ISO_2022_KR in data:
        return "iso2022_kr"
    if b"~{" not in data:
        return None
    return "hz" if "hz" in map(codec_of, (label, *_declared(data))) or common_share(data, "hz") >= 1 else None


def _is_nearly_utf8(data: bytes) -> bool:
    """Whether UTF-8 is broken in few places."""
    lost = data.decode("utf-8", "replace").count("\ufffd") - data.count(b"\xef\xbf\xbd")
    return lost <= BROKEN * len(data.translate(None, ASCII))


def _declared(data: bytes) -> list[str]:
    return [match[1].decode() for match in islice(DECLARED.finditer(data, 0, DECLARED_BYTES), DECLARED_MOST)]


def _charset(data: bytes, label: str | None) -> str:
    """Of a page that is not UTF-8: what it is said to be if it makes sense so, else what makes most sense.

    Where header and page contradict each other, what is Chinese, Japanese or Korean counts, then the detector's word;
    windows-1252 counts last in a header, as servers say it of every page.
    """
    telling = b"".join(match[0] for match in islice(TELLING.finditer(data), TELLING_MOST))
    header = codec_of(label)
    said = list(dict.fromkeys(name for name in (header, *map(codec_of, _declared(data))) if _is_legacy(name)))
    if len(said) == 1 and _makes_sense(telling, said[0]):
        return said[0]
    eastern = commonest_in(telling, EAST_ASIAN)
    answer, guesses = (eastern, (eastern,)) if eastern else _detected(telling)
    codecs = {CODECS.get(name, name) for name in (answer, *guesses)}
    for name in sorted(said, key=lambda name: (name == header == "cp1252", CODECS.get(name, name) not in codecs)):
        if _makes_sense(telling, name):
            return name
    if eastern:
        return eastern
    names = dict.fromkeys((*guesses, *said, *FALLBACKS))
    return min((_reading(telling, name) for name in names), key=lambda one: one.senseless + one.foreign).charset


def _detected(telling: bytes) -> tuple[str | None, tuple[str, ...]]:
    """The detector's answer, and the encodings that it stands for: the first of them wins a tie. Where it has none or a
    Latin one, what is full of another alphabet's letters comes first."""
    detected = detect_encoding(telling, html5_compatible=False)
    answer = detected if detected in DETECTED else codec_of(detected)
    names = DETECTED.get(answer, (answer,))
    if not answer or answer.startswith("utf-") or answer in LATIN:
        names = (commonest_in(telling, ALPHABETIC), *names)
    return answer, tuple(name for name in names if _is_legacy(name))


def _makes_sense(telling: bytes, name: str) -> bool:
    reading = _reading(telling, name)
    return reading.senseless <= ODD * reading.n


def _is_legacy(name: str | None) -> bool:
    return name is not None and not name.startswith("utf-") and name not in SEVEN_BITS


def _reading(telling: bytes, name: str) -> Reading:
    text = decode_as(telling, name)
    senseless = sum(len(match) for match in SENSELESS.findall(text))
    alphabets = ALPHABETS.get(name, "").split()
    letters = Counter(LETTER.findall(text.lower())) if alphabets else {}
    foreign = (sum(n for char, n in letters.items() if char not in alphabet) for alphabet in alphabets)
    return Reading(name, senseless, min(foreign, default=0), len(telling.translate(None, ASCII)))
