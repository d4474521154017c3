"""What e-mail addresses, IP addresses and phone numbers look like, and what only looks like them. Finders: see
`spans`."""

from __future__ import annotations

import ipaddress
import re

from pipelines.signals.spans import NONE, Spans, digits

# ---- e-mail: the dot-atom of RFC 5322, without marks that text puts around addresses; limits of RFC 5321, 4.5.3.1 ----

EMAIL = re.compile(
    rb"(?<![\w%+-])(?<![\w%+-]\.)(?<!://)([\w%+-](?:\.?[\w%+-]){0,63})@"
    rb"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,18}))(?![\w(@]|-\w|\.\w)"
)
COUNTRIES = frozenset(  # ISO 3166-1 and the few that the root zone adds
    b"ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc "
    b"cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga "
    b"gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp "
    b"ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms "
    b"mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro "
    b"rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt "
    b"tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw".split()
)
# the oldest top-level domains and the commonest of the new; a list of all would take file names for addresses
GENERIC = frozenset(
    b"com org net edu gov mil int info biz name pro museum aero coop jobs mobi travel tel asia cat arpa app dev online "
    b"site xyz shop store tech blog cloud club live life world today email news space website top vip work agency "
    b"company group solutions services systems software digital media design studio network global international "
    b"foundation health care london berlin wien hamburg paris nyc law legal school academy university college church "
    b"community social games art photography bank finance codes engineering".split()
)
RESERVED = re.compile(rb"(?i)(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")  # RFC 2606
STAND_IN = re.compile(  # whole hosts that manuals use: mail.com, abc.com and every mail.university.edu are somebody's
    rb"(?i)(?:^|\.)(?:(?:(?:your|my|some|any|the)-?(?:domain|company|site|server|host|organi[sz]ation)|"
    rb"your-?(?:e?mail|address)|domain|company|site|server|host|foo|bar|baz|foobar|xxx+|xyz)\.(?:com|org|net|edu|info)|"
    rb"(?:contoso|fabrikam|litwareinc|wingtiptoys|northwindtraders)\.(?:com|org|net|onmicrosoft\.com))$"  # Microsoft's
)
NOBODY = {b"git", b"hg", b"svn"}  # user names of repository addresses: git@github.com:owner/name


def email(text: bytes, at: int) -> Spans:
    """An address in a domain that exists, as far as its end tells."""
    match = EMAIL.match(text, at)
    if not match:
        return NONE
    local, domain, top = match[1].lstrip(b"%+-"), match[2].lower(), match[3].lower()
    real = top in COUNTRIES or top in GENERIC
    of_nobody = not local or local in NOBODY or local.startswith(b"your")
    if of_nobody or not real or RESERVED.search(domain) or STAND_IN.search(domain):
        return NONE
    return ((match.end(1) - len(local), match.end(2)),)


# ---- IP addresses: Python's ipaddress says which are global (IANA's special-purpose registries) ----

IPV4 = re.compile(rb"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
# 2000::/3 is all that IANA has allocated
IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{2,36}(?![\w:])")
NUMBERED = re.compile(
    rb"(?i)(?:versions?|\b(?:v|ver|releases?|rel|rev|revision|build|firmware|driver|kernel|patch|"
    rb"update|upgrade|section|sect?|chapter|clause|table|fig|figure|appendix|annex|article|rule|oid|model|part|step|"
    rb"item|edition|level)\b|\xc2\xa7)[\s.:=(#\"'v-]*$"
)
NETWORK = re.compile(
    rb"(?i)(?:\b|_)(?:ips?|ipv4|dns|hosts?|(?:name)?servers?|address(?:es)?|addr|ping|"
    rb"proxy|gateway|router|tcp|udp|client|remote|resolvers?|whois|traceroute|listen)(?:\b|_)"
)
PORT = re.compile(rb":\d{1,5}\b|/\d{1,2}(?![\d.])")  # or the length of a network's prefix
NAMED = re.compile(rb"[A-Za-z0-9]/$")  # a product with its version: Mozilla/5.0.1.2


def ipv4(text: bytes, at: int) -> Spans:
    """A public address. Four small numbers are a version or a section unless something near speaks of a network."""
    match = IPV4.match(text, at)
    if not match or not is_global(match[0]):
        return NONE
    parts = [int(part) for part in match[0].split(b".")]
    before = text[max(at - 48, 0) : at]
    counted = parts == list(range(parts[0], parts[0] + 4))  # 1.2.3.4, 5.6.7.8: manuals'
    if counted or NUMBERED.search(before[-24:]) or NAMED.search(before):
        return NONE
    if max(parts) < 100 and not (NETWORK.search(before) or before.endswith(b"//") or PORT.match(text, match.end())):
        return NONE
    return (match.span(),)


def ipv6(text: bytes, at: int) -> Spans:
    """A public address; a network (2a00::/32) is nobody's."""
    match = IPV6.match(text, at)
    if not match:
        return NONE
    address = match[0].rstrip(b".")
    address = address[:-1] if address.endswith(b":") and not address.endswith(b"::") else address
    return ((at, at + len(address)),) if is_global(address) and not address.endswith(b"::") else NONE


def is_global(address: bytes) -> bool:
    """Whether it is an address, routed on the internet, of one machine."""
    try:
        parsed = ipaddress.ip_address(address.decode())
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


# ---- phone numbers: E.164, and what ITU-T E.123 and national habit put between the digits ----

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
# with the trunk prefix 0: French pairs, British groups, German area codes
NATIONAL = _number(
    NOT_IN_NUMBER + rb"(?:0[1-9](GAP)\d\d(?:\1\d\d){3}|"
    rb"0\d{4} \d{6}|0\d{4} \d{3} \d{3}|0\d{3} \d{3} \d{4}|02\d \d{4} \d{4}|"
    rb"0[1-9]\d{1,3} ?/ ?\d{5,8}|\(0[1-9]\d{1,4}\) ?\d{3,4}[ -]?\d{3,5})"
)
# what a word for phone makes one
AFTER_WORD = _number(rb"(?<![\w,$=+])(?:\(\d{2,5}\)GAP?)?\d{1,13}(?:GAP{1,2}\d{1,8}|/\d{3,8}){0,6}")
DIALLED = re.compile(
    rb"(?i)(?<![a-z])(?:(?:tele)?phones?|tel(?:e?(?:fon[eo]?)?|\xc3\xa9fono)|t\xc3\xa9l(?:\xc3\xa9phone)?|"
    rb"(?:tele)?fax|mobiles?|mob|m(?:o|\xc3\xb3)vil|cell|cellulare|handy|gsm|tlf|tfn|puh|hotline|whatsapp|"
    rb"\xe7\x94\xb5\xe8\xaf\x9d|\xe9\x9b\xbb\xe8\xa9\xb1|"
    rb"\xd1\x82\xd0\xb5\xd0\xbb|\xd1\x82\xd0\xb5\xd0\xbb\xd0\xb5\xd1\x84\xd0\xbe\xd0\xbd)"
    rb"(?:[ .]{0,2}(?:no|nr|num|number|numbers)\b)?(?:[ .:#()>*_|\t-]|\xc2\xa0|\xef\xbc\x9a){0,6}$"
)
DATE = re.compile(
    rb"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}|\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d|(?:19|20)\d\d[ -](?:19|20)\d\d"
)
CALLING_CODES = re.compile(  # ITU-T E.164, list of assigned country codes
    rb"1|7|2(?:[07]|[1234569]\d)|3(?:[0123469]|[578]\d)|4(?:[0134-9]|2\d)|5(?:[1-8]|[09]\d)|"
    rb"6(?:[0-6]|[789]\d)|8(?:[1246]|[0578]\d)|9(?:[0-58]|[679]\d)"
)
MIN_LOCAL, MAX_LOCAL, MIN_E164, MAX_E164 = 7, 13, 8, 15  # digits; of E.164 the country code included
COUNTED_UP = re.compile(rb"1234567|7654321")  # a manual's


def phone(text: bytes, at: int) -> Spans:
    """A phone number: international, North American, national by its grouping, or said to be one by the word before
    it."""
    match = INTERNATIONAL.match(text, at)
    if not (match and _is_international(match[0])):
        match = NORTH_AMERICAN.match(text, at) or NATIONAL.match(text, at) or AFTER_WORD.match(text, at)
        if not match or match.re is AFTER_WORD and not _is_local(match[0], text[max(at - 32, 0) : at]):
            return NONE
    return NONE if COUNTED_UP.search(digits(match[0])) else (match.span(),)


def _is_local(number: bytes, before: bytes) -> bool:
    long_enough = MIN_LOCAL <= len(digits(number)) <= MAX_LOCAL
    return long_enough and not DATE.match(number) and DIALLED.search(before) is not None


def _is_international(number: bytes) -> bool:
    """Enough digits, a country code that exists, and groups as people write them."""
    plain, groups = digits(number.replace(b"(0)", b"")), re.findall(rb"\d+", number)
    if not MIN_E164 <= len(plain) <= MAX_E164 or not CALLING_CODES.match(plain) or len(set(plain)) < 3:
        return False
    if plain[:1] == b"1":  # the North American plan: ten digits, neither area nor exchange begins with 0 or 1
        return len(plain) == 11 and plain[1] > ord("1") and plain[4] > ord("1")
    return len(groups[-1]) >= 2 and (len(groups) > 1 or len(plain) >= 10)
