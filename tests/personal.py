"""The evaluation set of personal data: hand-made lines (personal.jsonl) with what is to be found in each.

Nobody's data: addresses at domains that nobody registered, numbers that regulators keep for films (555-01xx, Ofcom's, ARCEP's,
the Bundesnetzagentur's), cards that the networks publish for tests, accounts of the IBAN registry, name servers' addresses.
Keys and tokens stand as {names} and are made here, seeded, so that no scanner of secrets trips over the file.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
import zlib
from pathlib import Path

FILE = Path(__file__).with_suffix(".jsonl")
ALNUM = string.digits + string.ascii_uppercase + string.ascii_lowercase  # the order of base 62


def cases() -> list[tuple[str, str, list[tuple[int, int]]]]:
    """(kind, text, spans in bytes of UTF-8) of every line."""
    made = secrets(random.Random(7))
    fill = lambda text: re.sub(r"\{(\w+)\}", lambda match: made[match[1]], text)  # noqa: E731
    lines = []
    for line in FILE.read_text("utf-8").splitlines():
        row = json.loads(line)
        text, spans, at = fill(row["text"]), [], 0
        for part in map(fill, row["spans"]):
            at = text.index(part, at)
            start = len(text[:at].encode())
            spans.append((start, start + len(part.encode())))
            at += len(part)
        lines.append((row["kind"], text, spans))
    return lines


def secrets(rng: random.Random) -> dict[str, str]:
    """Something of every form, and of some that only look so."""
    some = lambda n, alphabet=ALNUM: "".join(rng.choices(alphabet, k=n))  # noqa: E731
    hexes = lambda n: some(n, "0123456789abcdef")  # noqa: E731
    number = lambda n: some(1, "23456789") + some(n - 1, string.digits)  # noqa: E731
    url, random30 = ALNUM + "-_", some(30)
    blocks = {name: armour(label, some(800, ALNUM + "+/")) for name, label in LABELS.items()}
    body = some(200, ALNUM + "+/")
    blocks |= {
        "encrypted": armour("RSA PRIVATE KEY", some(400, ALNUM + "+/"), "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC," + hexes(32).upper() + "\n\n"),
        "empty": armour("RSA PRIVATE KEY", ""),
        "dotted": armour("RSA PRIVATE KEY", "..."),
        "unclosed": armour("EC PRIVATE KEY", body).split("-----END")[0],
        "mismatched": armour("EC PRIVATE KEY", body).replace("END EC", "END RSA"),
    }
    return blocks | {
        "aws": "AKIA" + some(16, string.ascii_uppercase + "234567"),
        "aws_secret": some(40, ALNUM + "+/"),
        "github": "ghp_" + checked(random30),
        "github_wrong": "ghp_" + checked(random30)[::-1],
        "github_fine": "github_pat_" + some(22) + "_" + some(59),
        "gitlab": "glpat-" + some(20, url[:-2]),
        "slack": f"xoxb-{number(12)}-{number(12)}-{some(24)}",
        "google": "AIza" + some(35, ALNUM),
        "stripe": "sk_" + "live_" + some(24),
        "stripe_test": some(24),
        "openai": "sk-proj-" + some(40) + "T3Blbk" + "FJ" + some(40),
        "openai_old": "sk-" + some(20) + "T3Blbk" + "FJ" + some(20),
        "anthropic": "sk-ant-api03-" + some(93) + "AA",
        "huggingface": "hf_" + some(34, string.ascii_letters),
        "lower_words": "transformers_pipeline_for_sentence",
        "npm": "npm_" + checked(some(30)),
        "npm_wrong": "npm_" + checked(random30)[::-1],
        "pypi": "pypi-AgE" + "IcHlwaS5vcmc" + some(140),
        "sendgrid": f"SG.{some(22)}.{some(43)}",
        "jwt": jwt({"alg": "HS256", "typ": "JWT"}, some(43)),
        "jwt_without_alg": jwt({"typ": "JWT", "kind": "none of them"}, some(43)),
        "telegram": number(10) + ":AA" + some(33),
        "discord": f"{encoded(number(18))}.{some(6)}.{some(38)}",
        "mailgun": "key-" + hexes(32),
        "digitalocean": "dop_v1_" + hexes(64),
        "shopify": "shpat_" + hexes(32),
        "databricks": "dapi" + hexes(32),
        "azure": some(86, ALNUM + "+/") + "==",
        "sha1": hexes(40),
        "sha256": hexes(64),
        "uuid": "-".join(map(hexes, (8, 4, 4, 4, 12))),
    }


LABELS = {
    "rsa": "RSA PRIVATE KEY",
    "ec": "EC PRIVATE KEY",
    "pkcs8": "PRIVATE KEY",
    "openssh": "OPENSSH PRIVATE KEY",
    "pgp": "PGP PRIVATE KEY BLOCK",
    "public": "PUBLIC KEY",
    "certificate": "CERTIFICATE",
}


def armour(label: str, body: str, head: str = "") -> str:
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{head}{lines}\n-----END {label}-----"


def checked(text: str) -> str:
    """With the check of GitHub's tokens behind it."""
    number, check = zlib.crc32(text.encode()), ""
    while number:
        check, number = ALNUM[number % 62] + check, number // 62
    return text + check.rjust(6, "0")


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def jwt(header: dict, signature: str) -> str:
    return f"{encoded(json.dumps(header))}.{encoded(json.dumps({'sub': 'miller', 'iat': 1700000000}))}.{signature}"
