"""What passwords and keys look like where a text gives them: in an assignment, a header, a URL. Finders: see `spans`.

A password has no form of its own. The word before it says what it is, in the languages that people write passwords in,
and what is behind must look chosen or random: no variable, call, template, path, type or stand-in of a manual.
"""

from __future__ import annotations

import re

from pipelines.signals.secrets import MIN_BITS, STAND_IN_TOKEN, entropy
from pipelines.signals.spans import NONE, Spans

# ---- the word, and what stands between it and the value ----

PASSWORD_WORDS = (
    "password passwd pwd passphrase passwort passwört kennwort wachtwoord lösenord losenord adgangskode "
    "salasana contraseña contrasena senha passe hasło haslo heslo parola şifre jelszó khẩu пароль κωδικός סיסמה סיסמא "
    "المرور 密码 密碼 口令 パスワード 비밀번호 รหัสผ่าน"
).split()
KEY_WORDS = "key keybase key_base key-base secret token".split()
_PASSWORD = "|".join(PASSWORD_WORDS) + r"|(?:(?<![a-z])|(?:db|user|root|sudo|key|smtp|mail|ftp|admin|mysql)[_.-]?)pass"
_KEY = (
    r"(?:(?:api|auth|access|secret|private|priv|account|service|client|db|database|storage|encryption|encrypt|signing|"
    r"signature|master|shared|app|consumer|webhook|session|license|hmac|root|deploy|pass)[_. -]?key(?:[_-]?base)?|"
    r"secret|(?:(?<![a-z])|(?:access|auth|bearer|refresh|session|api|bot|secret|security|private|deploy|client)[_. -]?)"
    r"token)"
)
# keys and tokens that open nothing
HARMLESS = re.compile(
    r"(?:next|page|continuation|search|csrf|xsrf|sync|public|pub|cache|partition|primary|sort|foreign|unique|cancel|site|"
    r"idempotency|pad|eos|bos|mask)[_. -]?(?:page[_-]?)?(?:key|token)\W*$"
)
_BETWEEN = (
    r"[\"'`\])*]{0,3}(?:\[\d{0,3}\])?[ \t]{0,3}"
    r"(?:(?::=|=>|={1,3}|!==?|:|：)[ \t\u00a0]{0,2}\*{0,2} ?(?:(?:@|[bfru]{1,2})?[\"'`])?|"
    r"\((?:[bfru]{1,2})?[\"'`]|>)$"
)
ASSIGNED_PASSWORD = re.compile(rf"(?:(?:{_PASSWORD}){_BETWEEN}|--(?:password|passwd|pass|pwd) $)")
ASSIGNED_KEY = re.compile(rf"(?:{_KEY}{_BETWEEN}|--(?:[a-z-]*-)?(?:token|key|secret) $)")
SCHEME = re.compile(r"(?:bearer|authorization[\"']?\s?[:=]\s?[\"']?(?:token|basic|apikey)) {1,2}$")  # RFC 6750, 7617
WORD_BYTES = 80  # before a value, where its word stands

# ---- the value ----

QUOTED = re.compile(rb"[!#-&(-_a-~]{6,200}(?=[\"'`])")
BARE = re.compile(rb"[!#-%*+\--:=?-Z\\^_a-z~]{6,200}(?=$|[\s,;&<|\"'`)\]}])")
OPAQUE = re.compile(rb"[A-Za-z0-9_-]{20}[A-Za-z0-9_.~+/-]{0,4000}={0,2}")
KEY = re.compile(rb"[A-Za-z0-9+/_.~=-]{16,400}")
STAND_IN = re.compile(
    rb"(?i)p[a@4][s$5][s$5]w|passphrase|pwd|secret|change.?(?:me|this|it)|qwerty|letmein|abc123|hidden|insert|tiger|hunter2$|"
    rb"\*{3}|\.{3}|_{4}|12345|"
    rb"^(?:test|foo|bar|admin|guest|root|user|demo|none|null|true|false|string|pass)[\W\d_]*$"
)
TEMPLATE = re.compile(rb"^[$%!&*@=:]|[<>{]|\$\(|%[sd(]|://")
VARIABLE = re.compile(rb"[A-Za-z_]+\d{0,2}|(?:[A-Za-z_]\w*(?:\.|->|::))+[A-Za-z_]\w*")
# a path, a file, a quantity
IN_CODE = re.compile(
    rb"[~.]{0,2}/.*|[A-Za-z]:\\.*|(?:[^/]*/){2}.*|.*\.(?:pub|pem|key|crt|txt|json|ya?ml|py|js|html?|php)|"
    rb"0[xX][0-9a-fA-F]+|[\d.,:/-]+[A-Za-z%]{0,4}"
)
FILE = re.compile(rb"[~.]{0,2}/.*/.*|.*\.(?:pub|pem|key|crt|txt|json|ya?ml|py|js)")
SLUG = re.compile(rb"(?:(?:[A-Za-z]+\d{0,2}|\d+|v\d+)[-_.:/])+(?:[A-Za-z]+\d{0,2}|\d+|v\d+)")
MIN_PASSWORD_BITS = 2.5  # a character: eight different ones have 3


def password(text: bytes, at: int) -> Spans:
    """The value of an assignment to a word for password."""
    before = text[max(at - WORD_BYTES, 0) : at]
    if not ASSIGNED_PASSWORD.search(before.decode("utf-8", "ignore").lower()):
        return NONE
    value = _value(text, at, before)
    return ((at, at + len(value)),) if value and _is_chosen(value, quoted=before[-1:] in b"\"'`") else NONE


def key(text: bytes, at: int) -> Spans:
    """The value of an assignment to a word for a key that opens something, or of an Authorization header."""
    before = text[max(at - WORD_BYTES, 0) : at]
    said = before.decode("utf-8", "ignore").lower()
    if SCHEME.search(said):
        value = match[0] if (match := OPAQUE.match(text, at)) else b""
    elif ASSIGNED_KEY.search(said) and not HARMLESS.search(said):
        value = _value(text, at, before)
        value = value if KEY.fullmatch(value) else b""
    else:
        return NONE
    return ((at, at + len(value)),) if _is_random(value) else NONE


def _value(text: bytes, at: int, before: bytes) -> bytes:
    """As far as its quotes, or as the line's marks; nothing if it is no value."""
    match = (QUOTED if before[-1:] in (b'"', b"'", b"`") else BARE).match(text, at)
    return match[0] if match and match.re is QUOTED else match[0].rstrip(b".,:;?!") if match else b""


def _is_chosen(value: bytes, quoted: bool) -> bool:
    has_digit, has_letter = re.search(rb"\d", value), re.search(rb"[A-Za-z]", value)
    has_mark = quoted and re.search(rb"[!#%^&*+?~@|\\]", value)
    if len(value) < 6 or not has_letter or not (has_digit or has_mark) or entropy(value) < MIN_PASSWORD_BITS:
        return False
    made_up = STAND_IN.search(value) or STAND_IN_TOKEN.search(value) or TEMPLATE.search(value)
    written = IN_CODE.fullmatch(value) or SLUG.fullmatch(value) or not quoted and VARIABLE.fullmatch(value)
    return not made_up and not written


def _is_random(value: bytes) -> bool:
    mixed = re.search(rb"\d", value) and re.search(rb"[A-Za-z]", value)
    if len(value) < 16 or not mixed or entropy(value) < MIN_BITS:
        return False
    made_up = STAND_IN.search(value) or STAND_IN_TOKEN.search(value) or SLUG.fullmatch(value)
    return not made_up and not VARIABLE.fullmatch(value) and not FILE.fullmatch(value)


# ---- in URLs: RFC 3986, 3.2.1 ----

USER = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{1,30}://([^\x00-\x20/@:'\"`<>]{0,64}):$")
URL_PASSWORD = re.compile(rb"([!#-&(-.0-9;=?A-_a-~]{3,100})@([A-Za-z0-9_.\[-][A-Za-z0-9_.:\]-]*)")
NOT_CHOSEN = re.compile(
    rb"(?i)(?:my|the|some)?(?:pass(?:wd|word|code|phrase)?|pwd|pw|secret|token|key|tiger|guest|root|admin|postgres|test|foo|bar|"
    rb"user|doe)\d{0,3}"
)
RESERVED_HOST = re.compile(rb"(?i)(?:^|\.)(?:example(?:\.(?:com|net|org))?|invalid|test)$")  # RFC 2606
URL_BYTES = 128


def url_password(text: bytes, at: int) -> Spans:
    """What stands between user and @ in a URL."""
    user = USER.search(text[max(at - URL_BYTES, 0) : at])
    match = URL_PASSWORD.match(text, at) if user else None
    if not match:
        return NONE
    value, host = match[1], match[2].split(b":")[0]
    made_up = NOT_CHOSEN.fullmatch(value) or STAND_IN.search(value) or STAND_IN_TOKEN.search(value)
    if (
        made_up
        or user[1].lower() in (value.lower(), b"mailto")
        or TEMPLATE.search(value)
        or value.isdigit()
        or RESERVED_HOST.search(host)
    ):
        return NONE
    return (match.span(1),) if re.search(rb"[A-Za-z]", value) else NONE
