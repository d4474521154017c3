"""Which licence a text is: SPDX names, from words that only that licence holds; and what packages declare of
themselves."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

# that are read of a licence file or manifest: the longest licences name themselves in their first lines
TEXT_BYTES = 1 << 16
NAME_CHARS = 100
# SPDX's word for terms that nobody has named: a file that lies beside them is under them all the same
UNKNOWN = "NOASSERTION"

# Found in lower-case words, all else one space. The first in the text wins; of two at one place the first here.
PHRASES = {
    "AGPL-3.0": r"gnu affero general public license version 3 19 november 2007",
    "LGPL-3.0": r"gnu lesser general public license version 3 29 june 2007",
    "LGPL-2.1": r"gnu lesser general public license version 2 1 february 1999",
    "LGPL-2.0": r"gnu library general public license version 2 june 1991",
    "GPL-3.0": r"gnu general public license version 3 29 june 2007",
    "GPL-2.0": r"gnu general public license version 2 june 1991",
    "Apache-2.0": r"apache license version 2 0 january 2004|licensed under the apache license version 2 0",
    "MPL-2.0": r"mozilla public license (?:version|v) 2 0",
    "EPL-2.0": r"eclipse public license v 2 0",
    "BSL-1.0": r"boost software license version 1 0",
    "GNU": r"gnu( affero| lesser| library)? general public license as published by the free software foundation"
    r" either version ([123](?: 1)?) of the license or at your option any later version",
    "BUSL-1.1": r"business source license 1 1",
    "PSF-2.0": r"python software foundation license version 2",
    "Artistic-2.0": r"the artistic license 2 0",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "CC0-1.0": r"cc0 1 0 universal",
    "CC": r"creative commons attribution( noncommercial| non commercial)?"
    r"( sharealike| share alike| noderivatives| noderivs)? ([1-4] [0-9])",
    "Zlib": r"this software is provided as is without any express or implied warranty"
    r" in no event will the authors be held liable",
    "MIT": r"permission is hereby granted free of charge to any person obtaining a copy"
    r" of this software and associated documentation",
    "MIT-CMU": r"permission to use copy modify and distribute this software and its"
    r" (?:associated )?documentation for any purpose",
    "ISC": r"permission to use copy modify and (?:or )?distribute this software for any purpose"
    r" with or without fee is hereby granted",
    "BSD": r"redistribution and use in source and binary forms with or without modification are permitted",
}
FIRST_CHARS = 2500  # where a file names its own licence; behind other terms come the licences of what they include
CONDITIONS_CHARS = 2500  # in which the conditions of MIT, ISC and BSD licences end
GNU = {" affero": "AGPL", " lesser": "LGPL", " library": "LGPL", None: "GPL"}
CC = {None: "", " noncommercial": "-NC", " non commercial": "-NC", " sharealike": "-SA", " share alike": "-SA",
      " noderivatives": "-ND", " noderivs": "-ND"}  # fmt: skip

PROGRAMS = "pyc?|[jt]sx?|json|html|xml|h|so|go|java|svg|rb"
LICENCE_FILE = re.compile(rf"(?i)(?:(?:mit-)?(?:un)?licen[cs]es?|copying)(?!.*\.(?:{PROGRAMS})$)(?:[-._].*)?")
SPDX_LINE = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+()][A-Za-z0-9.+() -]{0,98}[A-Za-z0-9.+)])")
SPDX_LINES, SPDX_CHARS = 30, 4096  # of the beginning of a file


def licence_of(text: str) -> str | None:
    """The licence whose text or notice this is, when it is a known one."""
    words = " ".join(re.findall("[a-z0-9]+", text.lower())).replace("licence", "license")
    first = words[:FIRST_CHARS]
    matches = [(match.start(), name, match) for name, phrase in PHRASES.items() if (match := re.search(phrase, first))]
    if not matches:
        return None
    start, name, match = min(matches, key=lambda one: one[0])
    rest = words[start : start + CONDITIONS_CHARS]
    if name == "BSD":
        clauses = 4 if "advertising materials mentioning" in rest else 3 if "endorse or promote products" in rest else 2
        return f"BSD-{clauses}-Clause"
    if name == "MIT":
        return "MIT" if "permission notice shall be included" in rest else "MIT-0"
    if name == "ISC":
        return "ISC" if "provided that the above copyright notice" in rest else "0BSD"
    if name == "GNU":
        version = match[2].replace(" ", ".")
        return f"{GNU[match[1]]}-{version if '.' in version else version + '.0'}-or-later"
    return f"CC-BY{CC[match[1]]}{CC[match[2]]}-{match[3].replace(' ', '.')}" if name == "CC" else name


def spdx_named(text: str) -> str | None:
    """The expression of an SPDX line among the first lines of a file."""
    match = SPDX_LINE.search("\n".join(text[:SPDX_CHARS].split("\n", SPDX_LINES)[:SPDX_LINES]))
    return match[1] if match else None


def join_licences(licences: set[str]) -> str:
    """One name for the licence files of one folder: all of them hold. The LGPL comes with the GPL that it adds to."""
    if any(name.startswith("LGPL-") for name in licences):
        licences = {name for name in licences if not name.startswith("GPL-")}
    return " AND ".join(sorted(licences))


def declared_licence(name: str, data: bytes) -> str | None:
    """The licence field of a package's manifest; None when it has none that is a short text."""
    try:
        return _short(MANIFESTS[name](data.decode()))
    except (ValueError, RecursionError, AttributeError):  # broken JSON, TOML or UTF-8, or parts of other types
        return None


def _short(value: Any) -> str | None:
    value = value.get("text", value.get("type")) if isinstance(value, dict) else value
    value = value.strip() if isinstance(value, str) else ""
    return value if 0 < len(value) <= NAME_CHARS and value.isprintable() else None


def _pyproject(text: str) -> Any:
    manifest = tomllib.loads(text)
    return manifest.get("project", {}).get("license") or manifest.get("tool", {}).get("poetry", {}).get("license")


MANIFESTS = {
    "pyproject.toml": _pyproject,
    "Cargo.toml": lambda text: tomllib.loads(text).get("package", {}).get("license"),
    "package.json": lambda text: json.loads(text).get("license"),
    "composer.json": lambda text: json.loads(text).get("license"),
}
