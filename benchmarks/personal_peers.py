"""What other tools find in texts, in an environment of their own: run by `benchmarks.personal`, nothing of ours inside.

    .bench/bin/python benchmarks/personal_peers.py texts.json NAME

texts.json: a list of texts. Prints one JSON line: `version`, and `spans` (kind, start, end in characters) of each text;
or `missing`, where the tool is not installed. Each tool as its own documentation sets it up: datatrove's formatter and
its check of addresses; the recognisers of Presidio that are patterns, without a model, at its threshold of none;
detect-secrets with all plugins and default filters, each text a file of its own (.txt: no kind of file is known).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

Span = tuple[str, int, int]


def datatrove() -> Callable[[str], list[Span]]:
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    replacers = {"email": formatter.emails_replacer, "ip": formatter.ip_replacer}
    return lambda text: [
        (kind, *match.span())
        for kind, replacer in replacers.items()
        for match in replacer.regex.finditer(text)
        if not replacer.validator or replacer.validator(match[0])
    ]


def presidio() -> Callable[[str], list[Span]]:
    """An address that is not public is not held against it: it means any."""
    import ipaddress

    from presidio_analyzer import predefined_recognizers as known

    made = {
        "email": known.EmailRecognizer(),
        "ip": known.IpRecognizer(),
        "phone": known.PhoneRecognizer(),
        "card": known.CreditCardRecognizer(),
        "iban": known.IbanRecognizer(),
    }

    def public(text: str) -> bool:
        return ipaddress.ip_interface(text.split("%")[0]).ip.is_global

    def spans(text: str) -> list[Span]:
        found = [
            (kind, result.start, result.end)
            for kind, recogniser in made.items()
            for result in recogniser.analyze(text, recogniser.supported_entities) or []
        ]
        return [one for one in found if one[0] != "ip" or public(text[one[1] : one[2]])]

    return spans


def detect_secrets() -> Callable[[str], list[Span]]:
    """The first place of the secret in its line; of what it replaced, the line. A public address is an `ip`."""
    from detect_secrets import SecretsCollection
    from detect_secrets.settings import default_settings

    folder = Path(tempfile.mkdtemp())

    def spans(text: str) -> list[Span]:
        file = folder / "text.txt"
        file.write_text(text, "utf-8")
        found, lines = SecretsCollection(), text.split("\n")
        starts = [sum(len(line) + 1 for line in lines[:i]) for i in range(len(lines))]
        with default_settings():
            found.scan_file(str(file))
        places = []
        for _, secret in found:
            line, value = secret.line_number - 1, secret.secret_value
            at = max(lines[line].find(value), 0)
            size = len(value) if value in lines[line] else len(lines[line])
            kind = "ip" if secret.type.startswith("Public IP") else "secret"
            places.append((kind, starts[line] + at, starts[line] + at + size))
        return places

    return spans


PEERS = {
    "datatrove": ("datatrove", datatrove),
    "presidio": ("presidio-analyzer", presidio),
    "detect-secrets": ("detect-secrets", detect_secrets),
}


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    path, name = sys.argv[1:]
    package, make = PEERS[name]
    try:
        find = make()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    spans = [find(text) for text in json.loads(Path(path).read_text("utf-8"))]
    print(json.dumps({"version": f"{package} {version(package)}", "spans": spans}))


if __name__ == "__main__":
    main()
