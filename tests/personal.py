"""The evaluation set of personal data: hand-made lines (personal.jsonl) with what is to be found in each.

Nobody's data: addresses at domains that nobody registered, numbers that regulators keep for films (555-01xx, Ofcom's, ARCEP's,
the Bundesnetzagentur's), cards that the networks publish for tests, accounts of the IBAN registry, name servers' addresses.
Keys, tokens and passwords stand as {names} and are made here, seeded, so that no scanner of secrets trips over the file.

A line that has `after` is of a kind that this tool's own tests cover; its text is ours. What counts: an address is somebody's if it
is public; a password or a key if an assignment, a header or a URL gives it, and no template, call, type or stand-in of a manual; a
random string that no word calls a key is a hash.
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
    known = secrets(random.Random(7)) | providers(random.Random(8))
    fill = lambda text: re.sub(r"\{(\w+)\}", lambda match: known.get(match[1]) or of_form(match[1]) or match[0], text)  # noqa: E731
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


def origins() -> list[str]:
    """Of every line, the tool whose tests cover its kind; "" for ours."""
    return [json.loads(line).get("after", "") for line in FILE.read_text("utf-8").splitlines()]


FORMS = {
    "alnum": ALNUM,
    "hex": "0123456789abcdef",
    "lower": string.ascii_lowercase,
    "url": ALNUM + "-_",
    "b64": ALNUM + "+/",
    "pass": ALNUM + "!#%^*?+-_",
    "passurl": ALNUM + "!-_.~",
    "plain": ALNUM,
}


def of_form(name: str) -> str | None:
    """As many characters of a form as the name says, other ones for another name (hex_32, hex_32_b); None if it says no form."""
    match = re.fullmatch(r"([a-z0-9]+)_(\d+)(?:_[a-z])?", name)
    if not match or match[1] not in FORMS:
        return None
    rng, marks = random.Random(name), {"pass": "!7", "passurl": "~4", "plain": "9"}.get(match[1], "")
    return "".join(rng.choices(FORMS[match[1]], k=int(match[2]) - len(marks) - 1)) + marks + rng.choice("abcdef")


def providers(rng: random.Random) -> dict[str, str]:
    """Tokens, webhooks and keys of more providers."""
    some = lambda n, alphabet=ALNUM: "".join(rng.choices(alphabet, k=n))  # noqa: E731
    hexes = lambda n: some(n, "0123456789abcdef")  # noqa: E731
    number = lambda n: some(1, "23456789") + some(n - 1, string.digits)  # noqa: E731
    url, upper, low = ALNUM + "-_", string.ascii_uppercase + string.digits, string.ascii_lowercase + string.digits
    uuid = lambda: "-".join(map(hexes, (8, 4, 4, 4, 12)))  # noqa: E731
    slack, discord = "https://hooks.slack" + ".com/services/", "/api/webhooks/"
    flow = "https://prod-12.westeurope.logic.azure" + ".com:443/workflows/"
    put = "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nComment: mill\nPublic-Lines: 1\n" + some(64) + "\nPrivate-Lines: 2\n"
    return {
        "aws_b": "ASIA" + some(16, string.ascii_uppercase + "234567"),
        "aws_c": "AKIA" + some(16, string.ascii_uppercase + "234567"),
        "slack_user": f"xoxp-{number(12)}-{number(12)}-{number(12)}-{hexes(32)}",
        "slack_app": f"xapp-1-{some(11, upper)}-{number(13)}-{hexes(64)}",
        "slack_hook": f"{slack}T{some(8, upper)}/B{some(8, upper)}/{some(24)}",
        "slack_hook_b": f"{slack}T{some(10, upper)}/B{some(10, upper)}/{some(24)}",
        "discord_hook": f"https://discord.com{discord}{number(18)}/{some(68, url)}",
        "discord_hook_old": f"https://discordapp.com{discord}{number(19)}/{some(68, url)}",
        "teams_hook": f"https://weirhouse.webhook.office.com/webhookb2/{uuid()}@{uuid()}/IncomingWebhook/{hexes(32)}/{uuid()}",
        "teams_hook_b": f"{flow}{hexes(32)}/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={some(43, url)}",
        "twilio_sid": "AC" + hexes(32),
        "twilio_sid_b": "AC" + hexes(32),
        "twilio_key": "SK" + hexes(32),
        "mailchimp": hexes(32) + "-us12",
        "mailchimp_b": hexes(32) + "-us7",
        "square": "sq0csp-" + some(43, url),
        "square_token": "sq0atp-" + some(22, url),
        "artifactory": "AKCp" + some(69),
        "artifactory_b": "AKCp8" + some(68),
        "sendgrid_b": f"SG.{some(22)}.{some(43)}",
        "npm_b": "npm_" + checked(some(30)),
        "jwt_b": jwt({"alg": "RS256", "typ": "JWT"}, some(86)),
        "jwt_cut": jwt({"alg": "HS256", "typ": "JWT"}, "").rstrip("."),
        "telegram_b": number(9) + ":AA" + some(33),
        "pypi_b": "pypi-AgE" + "IcHlwaS5vcmc" + some(150, url),
        "pypi_test": "pypi-AgE" + "NdGVzdC5weXBpLm9yZw" + some(150, url),
        "gitlab_b": "glpat-" + some(20),
        "gitlab_runner": "glrt-" + some(20),
        "gitlab_cbt": "glcbt-" + some(20),
        "gitlab_ptt": "glptt-" + hexes(40),
        "openai_proj": "sk-proj-" + some(74) + "T3Blbk" + "FJ" + some(74),
        "openai_proj_b": "sk-proj-" + some(40) + "T3Blbk" + "FJ" + some(40),
        "stripe_b": "sk_" + "live_" + some(24),
        "stripe_c": "sk_" + "live_" + some(99),
        "stripe_restricted": "rk_" + "live_" + some(24),
        "discord_b": f"{encoded(number(18))}.{some(6)}.{some(27)}",
        "google_oauth": "ya29." + some(120, url),
        "groq": "gsk_" + some(52),
        "linear": "lin_api_" + some(40),
        "vault": "hvs." + some(95, url),
        "age": "AGE-SECRET-KEY-1" + some(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
        "github_app": "ghs_" + checked(some(30)),
        "terraform": some(14, ALNUM) + ".atlasv1." + some(67),
        "grafana": f"glsa_{some(32)}_{hexes(8)}",
        "newrelic": "NRAK-" + some(27, upper),
        "planetscale": "pscale_tkn_" + some(43),
        "docker_pat": "dckr_pat_" + some(27),
        "doppler": "dp.pt." + some(43, low),
        "basic": base64.b64encode(b"anna:water-and-wheel-42").decode(),
        "basic_b": base64.b64encode(b"deploy:" + some(18).encode()).decode(),
        "uuid_b": uuid(),
        "uuid_c": uuid(),
        "dsa": armour("DSA PRIVATE KEY", some(600, ALNUM + "+/")),
        "ssh2": f"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{some(70)}\n{some(70)}\n---- END SSH2 ENCRYPTED PRIVATE KEY ----",
        "putty": put + some(64) + "\n" + some(64) + "\nPrivate-MAC: " + hexes(40),
    }


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
