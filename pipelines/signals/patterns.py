"""What e-mail addresses, IP and phone numbers, cards, accounts, keys and tokens look like, and what only looks like them.

Each finder takes bytes and the place where something may begin, and gives the spans (begin, end) that it found there:
none or one; an access key and the secret beside it are two. It looks at most BEFORE bytes back and NEAR (keys: AFTER) ahead, and every
pattern is of bounded length, so the work a place is bounded whatever the text. Placeholders of manuals (reserved domains,
AKIAIOSFODNN7EXAMPLE, xxxx) are nobody's data and not found.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable

Spans = tuple[tuple[int, int], ...]

BEFORE, NEAR, AFTER = 256, 8192, 20_000  # bytes; AFTER for keys: one of 16,384 bits takes 12,800 in PEM
NONE: Spans = ()

# ---- e-mail: the dot-atom of RFC 5322, without marks that text puts around addresses; limits of RFC 5321, 4.5.3.1 ----

EMAIL = re.compile(
    rb"(?<![\w%+-])(?<![\w%+-]\.)(?<!://)([\w%+-](?:\.?[\w%+-]){0,63})@"
    rb"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,18}))(?![\w(@]|-\w|\.\w)"
)
COUNTRIES = frozenset(  # ISO 3166-1 and the few that the root zone adds
    b"ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd cf cg ch ci ck "
    b"cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs "
    b"gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu "
    b"lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl "
    b"pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn "
    b"to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw".split()
)
GENERIC = frozenset(  # the oldest top-level domains and the commonest of the new; a list of all would take file names for addresses
    b"com org net edu gov mil int info biz name pro museum aero coop jobs mobi travel tel asia cat arpa app dev online site xyz shop store "
    b"tech blog cloud club live life world today email news space website top vip work agency company group solutions services systems "
    b"software digital media design studio network global international foundation health care london berlin wien hamburg paris nyc "
    b"law legal school academy university college church community social games art photography bank finance codes engineering".split()
)
RESERVED = re.compile(rb"(?i)(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")  # RFC 2606
STAND_IN = re.compile(  # of manuals; the companies are Microsoft's
    rb"(?i)^(?:(?:your|my|some|any|the)?-?(?:domain|company|site|server|host|mail|email|address)|foo|bar|baz|xxx+|abc|xyz)\.|"
    rb"(?:^|\.)(?:contoso|fabrikam|litwareinc|wingtiptoys|northwindtraders)\."
)
NOBODY = {b"git", b"hg", b"svn"}  # user names of repository addresses: git@github.com:owner/name


def email(text: bytes, at: int) -> Spans:
    """An address in a domain that exists, as far as its end tells."""
    found = EMAIL.match(text, at)
    if not found:
        return NONE
    local, domain, top = found[1].lstrip(b"%+-"), found[2].lower(), found[3].lower()
    real = top in COUNTRIES or top in GENERIC
    if not local or local in NOBODY or local.startswith(b"your") or not real or RESERVED.search(domain) or STAND_IN.match(domain):
        return NONE
    return ((found.end(1) - len(local), found.end(2)),)


# ---- IP addresses: Python's ipaddress says which are global (IANA's special-purpose registries) ----

IPV4 = re.compile(rb"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{2,36}(?![\w:])")  # 2000::/3 is all that IANA has allocated
NUMBERED = re.compile(
    rb"(?i)(?:versions?|\b(?:v|ver|releases?|rel|rev|revision|build|firmware|driver|kernel|patch|update|upgrade|section|sect?|chapter|"
    rb"clause|table|fig|figure|appendix|annex|article|rule|oid|model|part|step|item|edition|level)\b|\xc2\xa7)[\s.:=(#\"'v-]*$"
)
NETWORK = re.compile(
    rb"(?i)(?:\b|_)(?:ips?|ipv4|dns|hosts?|(?:name)?servers?|address(?:es)?|addr|ping|proxy|gateway|router|tcp|udp|client|remote|resolvers?|"
    rb"whois|traceroute|listen)(?:\b|_)"
)
PORT = re.compile(rb":\d{1,5}\b|/\d{1,2}(?![\d.])")  # or the length of a network's prefix
NAMED = re.compile(rb"[A-Za-z0-9]/$")  # a product with its version: Mozilla/5.0.1.2


def ipv4(text: bytes, at: int) -> Spans:
    """A public address. Four small numbers are a version or a section unless something near speaks of a network."""
    found = IPV4.match(text, at)
    if not found or not is_global(found[0]):
        return NONE
    parts = [int(part) for part in found[0].split(b".")]
    before = text[max(at - 48, 0) : at]
    counted = parts == list(range(parts[0], parts[0] + 4))  # 1.2.3.4, 5.6.7.8: manuals'
    if counted or NUMBERED.search(before[-24:]) or NAMED.search(before):
        return NONE
    if max(parts) < 100 and not (NETWORK.search(before) or before.endswith(b"//") or PORT.match(text, found.end())):
        return NONE
    return (found.span(),)


def ipv6(text: bytes, at: int) -> Spans:
    """A public address; a network (2a00::/32) is nobody's."""
    found = IPV6.match(text, at)
    if not found:
        return NONE
    address = found[0].rstrip(b".")
    address = address[:-1] if address.endswith(b":") and not address.endswith(b"::") else address
    return ((at, at + len(address)),) if is_global(address) and not address.endswith(b"::") else NONE


def is_global(address: bytes) -> bool:
    """Whether it is an address, routed on the internet, of one machine."""
    try:
        found = ipaddress.ip_address(address.decode())
    except ValueError:
        return False
    return found.is_global and not found.is_multicast


# ---- phone numbers: E.164, and what ITU-T E.123 and national habit put between the digits ----

GAP = rb"(?:[ .-]|\xc2\xa0|\xe2\x80[\x89\x90-\x93\xaf])"  # space, stop, hyphen; spaces and hyphens that do not break, thin, en dash
NOT_IN_NUMBER = rb"(?<!\d )(?<![\w.,/#$%&=+*^~\\@:-])"
PHONE_END = rb"(?![\w%]|[.,:/=-]\d|" + GAP + rb"\d)"
INTERNATIONAL = re.compile(
    rb"(?<![\w+.)^*-])\+[1-9]\d{0,14}(?:" + GAP + rb"\d{1,14}|" + GAP + rb"{0,2}(?:\(\d{1,5}\)|/)" + GAP + rb"{0,2}\d{1,14}){0,7}"
    + PHONE_END
)
NORTH_AMERICAN = re.compile(
    NOT_IN_NUMBER + rb"(?:1" + GAP + rb"|\+1" + GAP + rb"?)?(?:\([2-9]\d\d\)" + GAP + rb"?[2-9]\d\d" + GAP + rb"\d{4}|"
    rb"[2-9]\d\d(-|\.|\xe2\x80[\x90-\x93])[2-9]\d\d\1\d{4})" + PHONE_END
)
NATIONAL = re.compile(  # with the trunk prefix 0: French pairs, British groups, German area codes
    NOT_IN_NUMBER + rb"(?:0[1-9](" + GAP + rb")\d\d(?:\1\d\d){3}|0\d{4} \d{6}|0\d{4} \d{3} \d{3}|0\d{3} \d{3} \d{4}|02\d \d{4} \d{4}|"
    rb"0[1-9]\d{1,3} ?/ ?\d{5,8}|\(0[1-9]\d{1,4}\) ?\d{3,4}[ -]?\d{3,5})" + PHONE_END
)
AFTER_WORD = re.compile(  # what a word for phone makes one
    rb"(?<![\w,$=+])(?:\(\d{2,5}\)" + GAP + rb"?)?\d{1,13}(?:" + GAP + rb"{1,2}\d{1,8}|/\d{3,8}){0,6}" + PHONE_END
)
DIALLED = re.compile(
    rb"(?i)(?<![a-z])(?:(?:tele)?phones?|tel(?:e?(?:fon[eo]?)?|\xc3\xa9fono)|t\xc3\xa9l(?:\xc3\xa9phone)?|(?:tele)?fax|mobiles?|mob|m(?:o|\xc3\xb3)vil|cell|cellulare|"
    rb"handy|gsm|tlf|tfn|puh|hotline|whatsapp|\xe7\x94\xb5\xe8\xaf\x9d|\xe9\x9b\xbb\xe8\xa9\xb1|\xd1\x82\xd0\xb5\xd0\xbb|\xd1\x82\xd0\xb5\xd0\xbb\xd0\xb5\xd1\x84\xd0\xbe\xd0\xbd)"
    rb"(?:[ .]{0,2}(?:no|nr|num|number|numbers)\b)?(?:[ .:#()>*_|\t-]|\xc2\xa0|\xef\xbc\x9a){0,6}$"
)
DATE = re.compile(rb"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}|\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d|(?:19|20)\d\d[ -](?:19|20)\d\d")
CALLING_CODES = re.compile(  # ITU-T E.164, list of assigned country codes
    rb"1|7|2(?:[07]|[1234569]\d)|3(?:[0123469]|[578]\d)|4(?:[0134-9]|2\d)|5(?:[1-8]|[09]\d)|6(?:[0-6]|[789]\d)|8(?:[1246]|[0578]\d)|9(?:[0-58]|[679]\d)"
)
MIN_LOCAL, MAX_LOCAL, MIN_E164, MAX_E164 = 7, 13, 8, 15  # digits; of E.164 the country code included
COUNTED_UP = re.compile(rb"1234567|7654321")  # a manual's


def phone(text: bytes, at: int) -> Spans:
    """A phone number: international, North American, national by its grouping, or said to be one by the word before it."""
    found = INTERNATIONAL.match(text, at)
    if not (found and _is_international(found[0])):
        found = NORTH_AMERICAN.match(text, at) or NATIONAL.match(text, at) or AFTER_WORD.match(text, at)
        if not found or found.re is AFTER_WORD and not _is_local(found[0], text[max(at - 32, 0) : at]):
            return NONE
    return NONE if COUNTED_UP.search(digits(found[0])) else (found.span(),)


def _is_local(number: bytes, before: bytes) -> bool:
    return MIN_LOCAL <= len(digits(number)) <= MAX_LOCAL and not DATE.match(number) and DIALLED.search(before) is not None


def _is_international(number: bytes) -> bool:
    """Enough digits, a country code that exists, and groups as people write them."""
    plain, groups = digits(number.replace(b"(0)", b"")), re.findall(rb"\d+", number)
    if not MIN_E164 <= len(plain) <= MAX_E164 or not CALLING_CODES.match(plain) or len(set(plain)) < 3:
        return False
    if plain[:1] == b"1":  # the North American plan: ten digits, neither area nor exchange begins with 0 or 1
        return len(plain) == 11 and plain[1] > ord("1") and plain[4] > ord("1")
    return len(groups[-1]) >= 2 and (len(groups) > 1 or len(plain) >= 10)


def digits(number: bytes) -> bytes:
    """Its digits alone."""
    return bytes(byte for byte in number if 48 <= byte <= 57)


# ---- payment cards: ISO/IEC 7812 (issuer prefixes of the networks, Luhn's check digit) ----

CARD = re.compile(
    rb"(?<![\w.,/#$%&=+*\\@-])(?<!\d )(?:(\d{14,19})|\d{4}([ -])\d{4}\2\d{4}\2(?:\d{4}(?:\2\d{3})?|\d)|3[47]\d\d([ -])\d{6}\3\d{5}|"
    rb"3[0689]\d\d([ -])\d{6}\4\d{4})(?![\w%]|[.,:/ -]\d)"
)
ISSUERS = re.compile(
    rb"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|"
    rb"(?:6011|64[4-9]\d|65\d\d|35(?:2[89]|[3-8]\d)|62\d\d)\d{12,15}|220[0-4]\d{12}|(?:50|5[6-9]|6[0-9])\d{14}"
)  # Visa, Mastercard, American Express, Diners Club, Discover and JCB and UnionPay, Mir, Maestro


def card(text: bytes, at: int) -> Spans:
    """A card number; 13 and 17 to 19 digits of a Visa only when grouped, as they are seldom cards."""
    found = CARD.match(text, at)
    if not found:
        return NONE
    number = digits(found[0])
    plausible = ISSUERS.fullmatch(number) and len(set(number)) > 1 and not (found[1] and len(number) > 16)
    return (found.span(),) if plausible and luhn(number) else NONE


def luhn(number: bytes) -> bool:
    """Whether the last digit checks the others: every second from the right doubled, the digits' sum divisible by ten."""
    values = [byte - 48 for byte in reversed(number)]
    return sum(values[::2] + [sum(divmod(2 * value, 10)) for value in values[1::2]]) % 10 == 0


# ---- bank accounts: ISO 13616 ----

IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,29}")
IBAN_CHARACTERS = dict(  # by country: SWIFT, IBAN Registry
    (pair[:2], int(pair[2:]))
    for pair in "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 "
    "FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
    "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
    "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30".split()
)


def iban(text: bytes, at: int) -> Spans:
    """An account number of its country's length, with or without spaces."""
    found = IBAN.match(text, at)
    length = IBAN_CHARACTERS.get(text[at : at + 2].decode("latin-1")) if found else None
    if not length:
        return NONE
    end = at
    for _ in range(length):
        end += text[end : end + 1] == b" "
        end += 1
    whole = end <= found.end() and not text[end : end + 1].isalnum()
    return ((at, end),) if whole and mod97(text[at:end].replace(b" ", b"")) == 1 else NONE


def mod97(account: bytes) -> int:
    """ISO 7064 MOD 97-10: 1 for an IBAN. The first four characters go last, letters count 10 to 35."""
    return int("".join(str(int(chr(byte), 36)) for byte in account[4:] + account[:4])) % 97


# ---- private keys: PEM (RFC 7468), OpenSSH, OpenPGP (RFC 9580), PuTTY's apart ----

KEY = re.compile(rb"(?<!-)-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----")
KEY_BODY = re.compile(rb"[A-Za-z0-9+/=]{32}")


def key(text: bytes, at: int) -> Spans:
    """The whole block, closed, with something in it."""
    found = KEY.match(text, at)
    if not found:
        return NONE
    close = text.find(b"-----", found.end(), at + AFTER)  # the next of any kind, so that the search is as long as the block
    end = b"-----END " + found[1] + b"-----"
    real = close > 0 and text.startswith(end, close) and KEY_BODY.search(text, found.end(), close)
    return ((at, close + len(end)),) if real else NONE


# ---- tokens: formats that providers publish, or that secret scanning partners registered with GitHub ----

TOKENS = {
    "aws": rb"(?:AKIA|ASIA)[A-Z2-7]{16}",  # AWS IAM, unique identifiers; base32
    "github": rb"gh[pousr]_[A-Za-z0-9]{36}",  # GitHub, "Behind GitHub's new authentication token formats": six characters of CRC-32
    "github_fine": rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "gitlab": rb"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_-]{20,64}",  # GitLab, token overview
    "slack": rb"xox[abeoprs]-(?:\d{1,13}-){1,4}[A-Za-z0-9-]{16,128}|xapp-\d-[A-Z0-9]{8,14}-\d{8,16}-[a-f0-9]{64}",  # Slack, token types
    "google": rb"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}",  # Google Cloud, API keys; OAuth client secrets
    "stripe": rb"[sr]k_live_[A-Za-z0-9]{16,247}",  # Stripe, API keys
    "openai": rb"sk-(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,120}T3BlbkFJ[A-Za-z0-9_-]{20,120}",  # "OpenAI" in base64 in the middle
    "anthropic": rb"sk-ant-(?:api|admin)\d\d-[A-Za-z0-9_-]{80,120}",
    "huggingface": rb"hf_[A-Za-z]{34}",
    "npm": rb"npm_[A-Za-z0-9]{36}",  # GitHub's format and check
    "pypi": rb"pypi-AgE[A-Za-z0-9_-]{60,500}",  # a macaroon of the Python package index: its documentation
    "sendgrid": rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "jwt": rb"eyJ[A-Za-z0-9_-]{17,1000}\.eyJ[A-Za-z0-9_-]{10,5000}\.[A-Za-z0-9_-]{20,1000}",  # RFC 7519, signed
    "telegram": rb"\d{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram, Bot API
    "discord": rb"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",  # Discord: the user's number in base64, time, HMAC
    "mailgun": rb"key-[0-9a-f]{32}",
    "digitalocean": rb"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean, API reference
    "shopify": rb"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify, access tokens
    "databricks": rb"dapi[0-9a-f]{32}(?:-\d)?",
    "azure": rb"[A-Za-z0-9+/]{86}==",  # Azure Storage: 64 bytes in base64, after AccountKey=
}
ANY_TOKEN = b"|".join(b"(?P<%s>%s)" % (provider.encode(), form) for provider, form in TOKENS.items())
TOKEN = re.compile(b"(?<![A-Za-z0-9_+/-])(?:%s)(?![A-Za-z0-9_]|-[A-Za-z0-9])" % ANY_TOKEN)
AWS_SECRET = re.compile(rb"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=_-])")  # AWS IAM: 40 characters of base64
STAND_IN_TOKEN = re.compile(rb"(?i)example|x{4}|your|dummy|fake|sample|redacted|placeholder|changeme|abcdefg|1234567|0{6}|secret_?key")
MIN_BITS = 3.0  # a character of a token, at least: random base64 of 20 characters has 3.9, hex of 32 has 3.6, English words 2.5 to 3.5
BESIDE = 200  # bytes between an access key and its secret


def token(text: bytes, at: int) -> Spans:
    """A provider's token that passes what check its format has; an AWS secret stands beside its access key."""
    found = TOKEN.match(text, at)
    if not found or not _is_random(found[0]) or not TOKEN_CHECKS.get(found.lastgroup, lambda text, found: True)(text, found):
        return NONE
    beside = ()
    if found.lastgroup == "aws":
        near = AWS_SECRET.finditer(text, max(at - BESIDE, 0), found.end() + BESIDE)
        beside = tuple(secret.span() for secret in near if _is_random(secret[0]) and not re.fullmatch(rb"[0-9a-f]+|[A-Z0-9]+", secret[0]))
    return (found.span(), *beside)


def _is_random(token: bytes) -> bool:
    return not STAND_IN_TOKEN.search(token) and entropy(token) >= MIN_BITS


def entropy(token: bytes) -> float:
    """Shannon's, of its characters, in bits."""
    return -sum(n / len(token) * math.log2(n / len(token)) for n in Counter(token).values())


def crc_checked(token: bytes) -> bool:
    """Whether the last six characters are the CRC-32 of those between prefix and them, in base 62 (digits, A-Z, a-z)."""
    check, left = b"", zlib.crc32(token[token.index(b"_") + 1 : -6])
    for _ in range(6):
        left, digit = divmod(left, 62)
        check = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[digit : digit + 1] + check
    return token.endswith(check)


def _unpadded(text: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _is_jwt(token: bytes) -> bool:
    try:
        header = json.loads(_unpadded(token.split(b".")[0]))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


TOKEN_CHECKS: dict[str, Callable[[bytes, re.Match], bool]] = {
    "github": lambda text, found: crc_checked(found[0]),
    "npm": lambda text, found: crc_checked(found[0]),
    "jwt": lambda text, found: _is_jwt(found[0]),
    "discord": lambda text, found: _unpadded(found[0].split(b".")[0]).isdigit(),
    "azure": lambda text, found: text[: found.start()].endswith((b"AccountKey=", b"SharedAccessKey=")),
}
