"""What private keys and providers' tokens look like, and what only looks like them. Finders: see `spans`."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable

from pipelines.signals.spans import AFTER, NONE, Spans

# ---- private keys: PEM (RFC 7468), OpenSSH, OpenPGP (RFC 9580), SSH2 (RFC 4716), PuTTY ----

KEY = re.compile(rb"(?<!-)(---- |-----)BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)(-----| ----)")
KEY_BODY = re.compile(rb"[A-Za-z0-9+/=]{32}")
PUTTY = re.compile(
    rb"(?<![A-Za-z0-9_-])PuTTY-User-Key-File-\d: [^\n]{1,64}\n(?:[^\n]{1,128}\n){2,200}?Private-Lines: \d+\r?\n"
    rb"(?:[A-Za-z0-9+/=]{1,64}\r?\n){1,200}Private-(?:MAC|Hash): [0-9a-f]{40,64}"
)


def key(text: bytes, at: int) -> Spans:
    """The whole block, closed, with something in it."""
    if putty := PUTTY.match(text, at):
        return (putty.span(),)
    match = KEY.match(text, at)
    if not match:
        return NONE
    # the next of any kind, so that the search is as long as the block
    close = text.find(match[1], match.end(), at + AFTER)
    end = match[1] + b"END " + match[2] + match[3]
    real = close > 0 and text.startswith(end, close) and KEY_BODY.search(text, match.end(), close)
    return ((at, close + len(end)),) if real else NONE


# ---- tokens: formats that providers publish, or that secret scanning partners registered with GitHub ----

TOKENS = {
    "aws": rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS IAM, unique identifiers; base32
    # GitHub, "Behind GitHub's new authentication token formats": six characters of CRC-32
    "github": rb"gh[pousr]_[A-Za-z0-9]{36}",
    "github_fine": rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "gitlab": rb"gl(?:pat|dt|rt|cbt|ptt|ft|imt|oas|soat|agent)-[A-Za-z0-9_-]{20,64}",  # GitLab, token overview
    # Slack, token types
    "slack": rb"xox[abeoprs]-(?:\d{1,13}-){1,4}[A-Za-z0-9-]{16,128}|xapp-\d-[A-Z0-9]{8,14}-\d{8,16}-[a-f0-9]{64}",
    "google": rb"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}",  # Google Cloud, API keys; OAuth client secrets
    "stripe": rb"[sr]k_live_[A-Za-z0-9]{16,247}",  # Stripe, API keys
    # "OpenAI" in base64 in the middle
    "openai": rb"sk-(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,120}T3BlbkFJ[A-Za-z0-9_-]{20,120}",
    "anthropic": rb"sk-ant-(?:api|admin)\d\d-[A-Za-z0-9_-]{80,120}",
    "huggingface": rb"hf_[A-Za-z]{34}",
    "npm": rb"npm_[A-Za-z0-9]{36}",  # GitHub's format and check
    "pypi": rb"pypi-AgE[A-Za-z0-9_-]{60,500}",  # a macaroon of the Python package index: its documentation
    "sendgrid": rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "jwt": rb"eyJ[A-Za-z0-9_-]{17,1000}\.eyJ[A-Za-z0-9_-]{10,5000}\.[A-Za-z0-9_-]{20,1000}",  # RFC 7519, signed
    "telegram": rb"\d{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram, Bot API
    # Discord: the user's number in base64, time, HMAC
    "discord": rb"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",
    "mailgun": rb"key-[0-9a-f]{32}",
    "digitalocean": rb"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean, API reference
    "shopify": rb"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify, access tokens
    "databricks": rb"dapi[0-9a-f]{32}(?:-\d)?",
    "azure": rb"[A-Za-z0-9+/]{86}==",  # Azure Storage: 64 bytes in base64, after AccountKey=
    "twilio": rb"(?:AC|SK)[0-9a-f]{32}",  # Twilio, string identifiers: accounts, API keys
    "mailchimp": rb"[0-9a-f]{32}-us\d{1,2}",  # Mailchimp, API keys: the data centre behind
    "square": rb"sq0(?:csp-[A-Za-z0-9_-]{43}|atp-[A-Za-z0-9_-]{22})",
    "artifactory": rb"AKC[A-Za-z0-9]{61,73}",
    "google_oauth": rb"ya29\.[A-Za-z0-9_-]{30,400}",
    "groq": rb"gsk_[A-Za-z0-9]{52}",
    "linear": rb"lin_api_[A-Za-z0-9]{40}",
    "vault": rb"hvs\.[A-Za-z0-9_-]{90,120}",  # HashiCorp Vault
    "age": rb"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}",  # age, Bech32
    "terraform": rb"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}",
    "grafana": rb"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}",
    "newrelic": rb"NRAK-[A-Z0-9]{27}",
    "planetscale": rb"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_-]{32,64}",
    "docker": rb"dckr_pat_[A-Za-z0-9_-]{27}",
    "doppler": rb"dp\.pt\.[a-z0-9]{43}",
    # addresses that take messages from whoever knows them
    "slack_hook": rb"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Z0-9]{8,12}/[A-Z0-9]{8,13}/"
    rb"[A-Za-z0-9]{20,48}",
    "discord_hook": rb"https://(?:[a-z]{2,6}\.)?discord(?:app)?\.com/api/(?:v\d{1,2}/)?webhooks/\d{17,20}/[A-Za-z0-9_-]{60,80}",
    "teams_hook": rb"https://[a-z0-9-]{1,63}\.webhook\.office\.com/webhookb2/[0-9a-f@-]{73}/IncomingWebhook/"
    rb"[0-9a-f]{32}/[0-9a-f-]{36}(?:/[A-Za-z0-9_-]{20,64})?",
    "teams_flow": rb"https://[a-z0-9.-]{1,80}\.logic\.azure\.com(?::443)?/workflows/[0-9a-f]{32}/[!-!#-&(-;=?-_a-~]{1,200}"
    rb"[?&]sig=[A-Za-z0-9_-]{43}",
}
ANY_TOKEN = b"|".join(b"(?P<%s>%s)" % (provider.encode(), form) for provider, form in TOKENS.items())
TOKEN = re.compile(b"(?<![A-Za-z0-9_+/-])(?:%s)(?![A-Za-z0-9_]|-[A-Za-z0-9])" % ANY_TOKEN)
# AWS IAM: 40 characters of base64
AWS_SECRET = re.compile(rb"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=_-])")
STAND_IN_TOKEN = re.compile(
    rb"(?i)example|x{4}|your|dummy|fake|sample|redacted|placeholder|changeme|abcdefg|1234567|0{6}|secret_?key"
)
# a character of a token, at least: random base64 of 20 characters has 3.9, hex of 32 has 3.6, English words 2.5 to 3.5
MIN_BITS = 3.0
BESIDE = 200  # bytes between an access key and its secret


def token(text: bytes, at: int) -> Spans:
    """A provider's token that passes what check its format has; an AWS secret stands beside its access key."""
    match = TOKEN.match(text, at)
    if not match or not _is_random(match[0]):
        return NONE
    if not TOKEN_CHECKS.get(match.lastgroup, lambda text, match: True)(text, match):
        return NONE
    beside = ()
    if match.lastgroup == "aws":
        near = AWS_SECRET.finditer(text, max(at - BESIDE, 0), match.end() + BESIDE)
        beside = tuple(
            secret.span()
            for secret in near
            if _is_random(secret[0]) and not re.fullmatch(rb"[0-9a-f]+|[A-Z0-9]+", secret[0])
        )
    return (match.span(), *beside)


def _is_random(token: bytes) -> bool:
    return not STAND_IN_TOKEN.search(token) and entropy(token) >= MIN_BITS


def entropy(token: bytes) -> float:
    """Shannon's, of its characters, in bits."""
    return -sum(n / len(token) * math.log2(n / len(token)) for n in Counter(token).values())


def crc_checked(token: bytes) -> bool:
    """Whether the last six characters are the CRC-32 of those between prefix and them, in base 62 (digits, A-Z,
    a-z)."""
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
    # a word in capitals (ASIANFOODRECIPESBOOK) has no digit; so have 3 of 100 ids
    "aws": lambda text, match: (
        re.search(rb"\d", match[0]) or text[match.start() - 1 : match.start()] in (b"=", b'"', b"'")
    ),
    "github": lambda text, match: crc_checked(match[0]),
    "npm": lambda text, match: crc_checked(match[0]),
    "jwt": lambda text, match: _is_jwt(match[0]),
    "discord": lambda text, match: _unpadded(match[0].split(b".")[0]).isdigit(),
    "azure": lambda text, match: text[: match.start()].endswith((b"AccountKey=", b"SharedAccessKey=")),
}
