"""What phone numbers look like, and what only looks like them. Finder: see `spans`.

E.164 says how long an international number is, ITU-T E.123 and national habit what stands between its digits. A number
without its country is told by its grouping, where a country's is its own, or by the word before it, in the language and
the script of the text.
"""

from __future__ import annotations

import re

from pipelines.signals.spans import NONE, Spans, digits

# space, stop, hyphen; spaces and hyphens that do not break, thin, en dash
GAP = rb"(?:[ .-]|\xc2\xa0|\xe2\x80[\x89\x90-\x93\xaf])"
NOT_IN_NUMBER = rb"(?<!\d )(?<![\w.,/#$%&=+*^~\\@:-])"
PHONE_END = rb"(?![\w%]|[.,:/=-]\d|GAP\d)"


def _number(pattern: bytes) -> re.Pattern[bytes]:
    """Of a phone, with GAP spelt out."""
    return re.compile((pattern + PHONE_END).replace(b"GAP", GAP))


INTERNATIONAL = _number(
    rb"(?<![\w+.)^*-])\+[1-9]\d{0,14}(?:GAP\d{1,14}|GAP{0,2}(?:\(\d{1,5}\)|/)GAP{0,2}\d{1,14}){0,7}"
)
NORTH_AMERICAN = _number(
    NOT_IN_NUMBER + rb"(?:1GAP|\+1GAP?)?(?:\([2-9]\d\d\)GAP?[2-9]\d\dGAP\d{4}|"
    rb"[2-9]\d\d(-|\.|\xe2\x80[\x90-\x93])[2-9]\d\d\1\d{4})"
)
NATIONAL = _number(
    NOT_IN_NUMBER + rb"(?:0[1-9](GAP)\d\d(?:\1\d\d){3}|04\d\d \d{3} \d{3}|"  # French pairs, Australian mobiles
    rb"0\d{4} \d{6}|0\d{4} \d{3} \d{3}|0\d{3} \d{3} \d{4}|02\d \d{4} \d{4}|01\d\d \d{7}|"  # British groups
    rb"0[1-9]\d{1,3} ?/ ?\d{5,8}|\(0[1-9]\d{0,4}\) ?\d{3,4}[ -]?\d{3,5}|"  # German and Australian area codes
    rb"8[ -]?\(\d{3,5}\)[ -]?\d{1,3}[ -]\d\d[ -]\d\d|8([ -])[89]\d\d\2\d{3}\2\d\d\2\d\d|"  # Russian, with the prefix 8
    rb"0\d-\d{4}-\d{4}|0\d\d-\d{3,4}-\d{4}|02-\d{3}-\d{4}|0\d{3}-\d\d-\d{4}|"  # Japanese and Korean
    rb"0(?:[2-489]|5\d|7\d)-\d{7}|0[1-9]\d-\d{7,8}|0[3-9]\d\d-\d{7,8}|06-\d{8}|"  # Israeli, Dutch, Chinese
    rb"\([1-9]\d\) ?9?\d{4}-\d{4})"  # Brazilian
)
# what a word for phone makes one; a stroke stands behind an area code alone
AFTER_WORD = _number(
    rb"(?<![\w,$=+])(?:(?:\d{1,2}GAP?)?\(\d{2,5}\)GAP?)?(?:0\d{1,5}/)?\d{1,13}(?:GAP{1,2}\d{1,8}){0,6}"
)
# words that mean a phone and nothing else, in small letters; in the scripts behind no space stands between words
WORDS = frozenset(
    "phone phones telephone telephones tel tel fax faxes telefax hotline helpline landline whatsapp ph cellphone "
    "telefon telefons telefone telefonen telefoni telefono telefonos telefonas telefonu telefoonnummer telefoon "
    "telefonnummer rufnummer handynummer mobilnummer mobiltelefon mobilnr faxnummer téléphone téléphones telephone tél "
    "télécopie telecopie teléfono teléfonos teléf telef tfno tlf tlfn telemóvel telemovel telemóveis telèfon telefón "
    "telefonszám telefonico cellulare celular faks faxe tfn puh puhelin matkapuhelin sími tālrunis tālr telepon telp "
    "đt sđt телефон телефоны телефона телефону тел факс моб мобильный мобільний мобилен сотовый утас τηλέφωνο τηλεφωνο "
    "τηλ κινητό κινητο φαξ հեռ հեռախոս ტელ ტელეფონი მობ טלפון הטלפון טל נייד הנייד פקס هاتف الهاتف جوال الجوال موبايل "
    "فاكس الفاكس تلفن تلفون موبایل ٹیلیفون فون फ़ोन फ़ोन फोन टेलीफोन दूरभाष मोबाइल फैक्स টেলিফোন ফোন মোবাইল தொலைபேசி "
    "ఫోన్ ഫോൺ".split()
)
JOINED_WORDS = tuple(
    "电话 電話 手机 手機 传真 傳真 热线 熱線 联系方式 携帯 ファックス ｔｅｌ ｆａｘ 전화 휴대폰 휴대전화 핸드폰 팩스 "
    "연락처 โทร โทรศัพท์ มือถือ แฟกซ์ ☎ ☏ 📞 📱 📠 ✆".split()
) + ("toll free", "toll-free", "điện thoại")
# words that mean much besides
WEAK_WORDS = frozenset(
    "mobile mobiles mob movil móvil cell handy gsm mobil mobiel portable hp wa cep kom fon fone".split()
)
WEAK_PHRASES = (
    "contact number",
    "my number",
    "meine nummer",
    "mon numéro",
    "mi número",
    "call us",
    "call me",
    "call us at",
    "call us on",
    "call me at",
    "call me on",
)
# what may stand between the word and the number
NUMBER_WORDS = tuple(
    "no nr num number numbers numero nummer numarası № n° nº č 番号 番號 号码 號碼 号 番 번호 नंबर contact "
    "telefonu".split()
)
SAID = " is", " ist", " est", " es", "は"
MARKS = " .:#()>*_|\t\u00a0\uff1a、/׳-"
MAX_MARKS, MAX_WORDS = 6, 3  # between a word and a number; words of another script than ASCII, behind the word
LAST_WORD = re.compile(r"[^\s(){}\[\]<>*_|/,;:.!?\"'=·•–—-]+$")
DATE = re.compile(
    rb"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}|\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d|(?:19|20)\d\d[ -](?:19|20)\d\d"
)
CALLING_CODES = re.compile(  # ITU-T E.164, list of assigned country codes
    rb"1|7|2(?:[07]|[1234569]\d)|3(?:[0123469]|[578]\d)|4(?:[0134-9]|2\d)|5(?:[1-8]|[09]\d)|"
    rb"6(?:[0-6]|[789]\d)|8(?:[1246]|[0578]\d)|9(?:[0-58]|[679]\d)"
)
MIN_LOCAL, MAX_LOCAL, MIN_E164, MAX_E164 = 7, 13, 8, 15  # digits; of E.164 the country code included
COUNTED_UP = re.compile(rb"1234567|7654321|0102030")  # a manual's
WORD_BYTES = 64  # before a number, where its word stands
PAGE = 1 << 16  # a multiple of it is a size of memory


def phone(text: bytes, at: int) -> Spans:
    """A phone number: international, North American, national by its grouping, or said to be one by the word before
    it."""
    match = INTERNATIONAL.match(text, at)
    if not (match and _is_international(match[0])):
        match = NORTH_AMERICAN.match(text, at) or NATIONAL.match(text, at) or AFTER_WORD.match(text, at)
        if not match or match.re is AFTER_WORD and not _is_local(match[0], text[max(at - WORD_BYTES, 0) : at]):
            return NONE
    return NONE if COUNTED_UP.search(digits(match[0])) else (match.span(),)


def _is_local(number: bytes, before: bytes) -> bool:
    """Whether a word before it says so. A word that means much besides needs a number in groups or with its 0."""
    if not MIN_LOCAL <= len(digits(number)) <= MAX_LOCAL or DATE.match(number) or _is_quantity(number):
        return False
    said = before.decode("utf-8", "ignore").lower()
    word = said.rstrip(MARKS)
    if len(said) - len(word) > MAX_MARKS:
        return False
    return _means_phone(word) or (number[:1] in b"0(" or not number.isdigit()) and _may_mean_phone(word)


def _means_phone(said: str) -> bool:
    """Whether it ends in a word for phone, with `number` or `is` behind it or not."""
    for ending in SAID:
        said = said.removesuffix(ending)
    if said.endswith(JOINED_WORDS) or _last(said) in WORDS:
        return True
    if not said.endswith(NUMBER_WORDS):
        return False
    for ending in NUMBER_WORDS:
        bare = said.removesuffix(ending)
        apart = not ending.isascii() or not bare[-1:].isalpha() or len(ending) > 5  # TelephoneNumber
        bare = bare.rstrip(" .")
        if apart and len(bare) < len(said) and (bare.endswith(JOINED_WORDS) or _last(bare) in WORDS):
            return True
    return False


def _may_mean_phone(said: str) -> bool:
    """Whether it ends in a word that may mean a phone, or in one that does and a few in another script than ASCII."""
    for ending in SAID:
        said = said.removesuffix(ending)
    if said.endswith(WEAK_PHRASES) or _last(said) in WEAK_WORDS:
        return True
    for _ in range(MAX_WORDS):
        said, _, word = said.rpartition(" ")
        if not word or any(character < "\x80" for character in word):
            return False
        if _last(said.rstrip(" .")) in WORDS:
            return True
    return False


def _last(said: str) -> str:
    match = LAST_WORD.search(said)
    return match[0] if match else ""


def _is_quantity(number: bytes) -> bool:
    """Bands (900 1800 1900), versions (1.2.3.4567), sizes of memory (10485760)."""
    groups = re.findall(rb"\d+", number)
    if len(groups) == 1:
        return int(number) % PAGE == 0 if number.isdigit() else False
    return (
        all(len(group) in (3, 4) and int(group) % 50 == 0 for group in groups)
        or sum(len(group) == 1 for group in groups) > 2
    )


def _is_international(number: bytes) -> bool:
    """Enough digits, a country code that exists, and groups as people write them."""
    plain, groups = digits(number.replace(b"(0)", b"")), re.findall(rb"\d+", number)
    if not MIN_E164 <= len(plain) <= MAX_E164 or not CALLING_CODES.match(plain) or len(set(plain)) < 3:
        return False
    if plain[:1] == b"1":  # the North American plan: ten digits, neither area nor exchange begins with 0 or 1
        return len(plain) == 11 and plain[1] > ord("1") and plain[4] > ord("1")
    return len(groups[-1]) >= 2 and (len(groups) > 1 or len(plain) >= 10)
