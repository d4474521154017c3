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

# ---- private keys: PEM (RFC 7468), OpenSSH, OpenPGP (RFC 9580), PuTTY's apart ----

KEY = re.compile(rb"(?<!-)-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----")
KEY_BODY = re.compile(rb"[A-Za-z0-9+/=]{32}")


def key(text: bytes, at: int) -> Spans:
    """The whole block, closed, with something in it."""
    match = KEY.match(text, at)
    if not match:
        return NONE
    # the next of any kind, so that the search is as long as the block
    close = text.find(b"-----", match.end(), at + AFTER)
    end = b"-----END " + match[1] + b"-----"
    real = close > 0 and text.startswith(end, close) and KEY_BODY.search(text, match.end(), close)
    return ((at, close + len(end)),) if real else NONE


# ---- tokens: formats that providers publish, or that secret scanning partners registered with GitHub ----

TOKENS = {
    "aws": rb"(?:AKIA|ASIA)[A-Z2-7]{16}",  # AWS IAM, unique identifiers; base32
    # GitHub, "Behind GitHub's new authentication token formats": six characters of CRC-32
    "github": rb"gh[pousr]_[A-Za-z0-9]{36}",
    "github_fine": rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "gitlab": rb"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_-]{20,64}",  # GitLab, token overview
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
    "github": lambda text, match: crc_checked(match[0]),
    "npm": lambda text, match: crc_checked(match[0]),
    "jwt": lambda text, match: _is_jwt(match[0]),
    "discord": lambda text, match: _unpadded(match[0].split(b".")[0]).isdigit(),
    "azure": lambda text, match: text[: match.start()].endswith((b"AccountKey=", b"SharedAccessKey=")),
}
