"""Bytes as text in the encodings of the web: those that its labels stand for (WHATWG Encoding), by Python's codecs and
what they lack.

On the web a label names what pages hold that bear it: Shift_JIS is windows-31j, euc-kr is windows-949, gb2312 is GBK
with the euro, latin1 is windows-1252. resiliparse knows all of the standard's 228 labels but nine; its answers are
names of Python, whose codecs are those of older standards. Here stands what the standard's indexes have besides. Left
as Python has them: A2 41 and A2 42 of Big5, two slashes, and private characters of gb18030.
"""

from __future__ import annotations

import codecs
import re
from functools import cache

from resiliparse.parse.encoding import map_encoding_to_html5

# resiliparse's name -> the codec that is nearest to the standard's encoding
CODECS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
}
# What resiliparse does not know. HTML reads a declared x-user-defined as windows-1252. 7-bit Chinese and Korean are no
# text to a browser, lest a page hide its scripts from filters; nothing runs here.
LABELS = {
    "x-user-defined": "cp1252",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-mac-ukrainian": "mac-cyrillic",
    "hz-gb-2312": "hz",
    "iso-2022-kr": "iso2022_kr",
    "csiso2022kr": "iso2022_kr",
}
# Where a codec has another character than the index: these, by what they should be
OTHERS = {
    "big5hkscs": ("•､‾∼♁☉¥¢£", "‧﹑¯～⊕⊙￥￠￡"),
    "cp932": ("\uf8f0\uf8f1\uf8f2\uf8f3", "\ufffd" * 4),
    "euc_jp": ("〜‖−¢£¬", "～∥－￠￡￢"),
    "gb18030": (
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864",
        "\u3000︐︒︑︓︔︕︖︗︘︙ḿ龴龵龶龷龸龹龺龻",
    ),
}
# HKSCS-2008, from 87 7A on, and what Big5 has twice or thrice
HKSCS_2008 = (
    "㡵𡵓𣚞𦀡㻬𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠権袝瑌篅枂稬剏遆"
    "㓦珄𥶹瓆鿇垳䤯呌䄱𣚎堘穲𧭥讏䚮𦺈䆁𥶙箮𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿拁灮鿋"
)
BIG5_TWICE = (
    "8e69箸 8e6f簆 8e7e糎 8eab緒 8eb4縝 8ecd者 8ed0耨 8f57菁 8f69蒨 8f6e萏 8fcb覦 8fcc覩 8ffe起 906d都 907a銹 90dc靜 "
    "90f1響 91bf鼖 9244蔃 92af兙 92b0兛 92b1兝 92b2兞 92c8鍮 92d1瑹 9447浧 94ca禛 95d9邗 9644靝 96ed瀞 96fc嬨 9b76爁 "
    "9b78矗 9b7b纇 9bc6駖 9bde釔 9bec惞 9bf6澶 9c42輶 9c53侻 9c62營 9c68鄄 9c6b鷰 9c77菏 9cbc尐 9cbd秣 9cd0婧 9d57輋 "
    "9d5a筑 9dc4拐 9ea9恢 9eef痹 9efd汊 9f60鬮 9f66鼗 9fcb僭 9fd8弌 a063蠏 a077拎 a0d5瑨 a0df煢 a0e4牐 c6cf廴 c6d3无 "
    "c6d5癶 c6d7隶 c6de〃 c6df仝 fa5f倩 fa66偽 fabd包 fac5卄 fad5卿 fb48嘅 fbb8婷 fbf3幵 fbf9廐 fc4f彘 fc6c悤 fcb9撐 "
    "fce2晴 fcf1杞 fdb7沜 fdb8渝 fdbb港 fdf1煮 fe52猪 fe6f瑜 feaa瓩 fedd砉"
)
PAIRS = [(bytes.fromhex(pair[:4]), pair[4:]) for pair in BIG5_TWICE.split()]
PLACES = [bytes((0x87, trail)) for trail in (*range(0x7A, 0x7F), *range(0xA1, 0xE0))]
CONTROLS = [(bytes((0xA3, 0xC0 + i)), chr(0x2400 + i)) for i in range(32)]  # their pictures
BIG5 = dict([*PAIRS, *zip(PLACES, HKSCS_2008, strict=True), *CONTROLS, (b"\xa3\xe0", "␡"), (b"\xa3\xe1", "€")])
MULTIBYTE = (
    "big5hkscs",
    "cp932",
    "cp949",
    "euc_jp",
    "gb18030",
    "hz",
    "iso2022_kr",
    "utf-8",
    "utf-16-be",
    "utf-16-le",
    "utf-32-be",
    "utf-32-le",
)
SINGLES = {("koi8-u", 0xAE): "ў", ("koi8-u", 0xBE): "Ў", ("cp1255", 0xCA): "ֺ"}
ESCAPE = re.compile(rb"\x1b(\([BIJ]|\$[@B])")
EIGHT_BITS = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))
HANDLER = "millrace_web"


def codec_of(label: str | None) -> str | None:
    """Python's name of the encoding that a label stands for; None for what is no label."""
    label = (label or "").strip().lower()
    return LABELS.get(label) or map_encoding_to_html5(label, fallback_utf8=False)


def decode_as(data: bytes, name: str) -> str:
    """The text in the encoding of this name (codec_of's), U+FFFD for what is none."""
    if name == "iso2022_jp":
        return _iso_2022_jp(data)
    codec = CODECS.get(name, name)
    if codec not in MULTIBYTE:
        return codecs.charmap_decode(data, "strict", _table(codec))[0]
    if codec == "euc_jp":
        data = data.replace(b"\x8f\xa2\xb7", b"\xa1\xc1")  # two tildes, one index
    text = data.decode(codec, HANDLER)
    for has, should in zip(*OTHERS.get(codec, ("", "")), strict=True):
        text = text.replace(has, should)
    return text


@cache
def _table(codec: str) -> str:
    """The 256 characters of a single-byte encoding. Of Windows' code pages the standard makes C1 controls of what they
    leave open."""
    plain = (bytes((byte,)).decode(codec, "replace") for byte in range(256))
    made = (chr(byte) if char == "�" and byte < 0xA0 else char for byte, char in enumerate(plain))
    return "".join(SINGLES.get((codec, byte), char) for byte, char in enumerate(made))


def _iso_2022_jp(data: bytes) -> str:
    """Python's codec knows neither NEC's and IBM's characters nor half-width katakana: rows are read as EUC-JP's."""
    first, *rest = ESCAPE.split(data)
    text = [first.decode("ascii", "replace")]
    for shift, piece in zip(rest[::2], rest[1::2], strict=True):
        if shift == b"(I":
            text.append("".join(chr(0xFF40 + byte) if 0x21 <= byte <= 0x5F else chr(byte) for byte in piece))
        elif shift == b"(J":
            text.append(piece.decode("ascii", "replace").replace("\\", "¥").replace("~", "‾"))
        elif shift == b"(B":
            text.append(piece.decode("ascii", "replace"))
        else:
            text.append(decode_as(piece.translate(EIGHT_BITS), "euc_jp"))
    return "".join(text)


def _lacking(error: UnicodeError) -> tuple[str, int]:
    """What stands in the standard's index where Python's codec has nothing, and where to go on."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    pair = error.object[error.start : error.start + 2]
    if error.encoding == "gb18030" and pair[0] == 0x80:
        return "€", error.start + 1
    if error.encoding == "big5hkscs" and pair in BIG5:
        return BIG5[pair], error.start + 2
    if error.encoding == "euc_jp" and len(pair) == 2 and min(pair) >= 0xA1 and max(pair) < 0xFF:
        return _row_of_jis(*pair), error.start + 2
    return "\ufffd", error.end


def _row_of_jis(lead: int, trail: int) -> str:
    """The character of EUC-JP's two bytes, as Shift_JIS has it: the two share the index jis0208."""
    row, cell = divmod((lead - 0xA1) * 94 + trail - 0xA1, 188)
    pair = bytes((row + (0x81 if row < 0x1F else 0xC1), cell + (0x40 if cell < 0x3F else 0x41)))
    return decode_as(pair, "shift_jis")[0]


codecs.register_error(HANDLER, _lacking)
