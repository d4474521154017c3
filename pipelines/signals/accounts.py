"""What payment cards and bank accounts look like, and what only looks like them. Finders: see `spans`."""

from __future__ import annotations

import re

from pipelines.signals.spans import NONE, Spans, digits

# ---- payment cards: ISO/IEC 7812 (issuer prefixes of the networks, Luhn's check digit) ----

_BEGIN = rb"(?<![\w.,/#$%&=+*\\@-])"
# in a row of numbers only one that spaces do not group is told from its neighbours
SOLID_CARD = re.compile(
    _BEGIN + rb"(?:\d{14,19}|\d{4}-\d{4}-\d{4}-(?:\d{4}(?:-\d{3})?|\d)|3[47]\d\d-\d{6}-\d{5}|3[0689]\d\d-\d{6}-\d{4})"
    rb"(?![\w%]|[.,:/-]\d)"
)
SPACED_CARD = re.compile(
    _BEGIN + rb"(?:\d{4} \d{4} \d{4} (?:\d{4}(?: \d{3})?|\d)|3[47]\d\d \d{6} \d{5}|3[0689]\d\d \d{6} \d{4})"
    rb"(?![\w%]|[.,:/ -]\d)"
)
IN_ROW = re.compile(rb"(?:^|[^\d-])\d{1,6} $")  # before a group of digits: another one
# Visa, Mastercard, American Express, Diners Club, Discover and JCB and UnionPay, Mir, Maestro
ISSUERS = re.compile(
    rb"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|"
    rb"3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|"
    rb"(?:6011|64[4-9]\d|65\d\d|35(?:2[89]|[3-8]\d)|62\d\d)\d{12,15}|220[0-4]\d{12}|(?:50|5[6-9]|6[0-9])\d{14}"
)


def card(text: bytes, at: int) -> Spans:
    """A card number; 13 and 17 to 19 digits of a Visa only when grouped, as they are seldom cards."""
    match = SOLID_CARD.match(text, at) or SPACED_CARD.match(text, at)
    if not match or match.re is SPACED_CARD and IN_ROW.search(text[max(at - 8, 0) : at]):
        return NONE
    number = digits(match[0])
    plausible = ISSUERS.fullmatch(number) and len(set(number)) > 1 and not (match[0].isdigit() and len(number) > 16)
    return (match.span(),) if plausible and luhn(number) else NONE


def luhn(number: bytes) -> bool:
    """Whether the last digit checks the others: every second from the right doubled, the digits' sum divisible by
    ten."""
    values = [byte - 48 for byte in reversed(number)]
    return sum(values[::2] + [sum(divmod(2 * value, 10)) for value in values[1::2]]) % 10 == 0


# ---- bank accounts: ISO 13616 ----

IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,29}")
IBAN_CHARACTERS = dict(  # by country: SWIFT, IBAN Registry
    (pair[:2], int(pair[2:]))
    for pair in "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 "
    "KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 "
    "PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 "
    "VG24 XK20 YE30".split()
)


def iban(text: bytes, at: int) -> Spans:
    """An account number of its country's length, with or without spaces or hyphens."""
    match = IBAN.match(text, at)
    length = IBAN_CHARACTERS.get(text[at : at + 2].decode("latin-1")) if match else None
    if not length:
        return NONE
    end = at
    for _ in range(length):
        end += text[end : end + 1] in (b" ", b"-")
        end += 1
    whole = end <= match.end() and not text[end : end + 1].isalnum()
    return ((at, end),) if whole and mod97(text[at:end].replace(b" ", b"").replace(b"-", b"")) == 1 else NONE


def mod97(account: bytes) -> int:
    """ISO 7064 MOD 97-10: 1 for an IBAN. The first four characters go last, letters count 10 to 35."""
    return int("".join(str(int(chr(byte), 36)) for byte in account[4:] + account[:4])) % 97
