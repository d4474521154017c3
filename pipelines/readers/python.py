"""Text that every machine with Millrace has: the modules of this interpreter and its packages (python-code), and what
they say of themselves (python-docs): docstrings, READMEs, manuals, licences.

Places are `stdlib/...` and `packages/...`. What a package is made of its RECORD says: what programs write among its
files is no part of it. Folders that no RECORD names, and the standard library, are read as they stand. A package is a
top-level folder or module; of each at most `package_bytes` are taken (modules and manuals counted apart, the standard
library without limit), in seeded order of their places.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

from pipelines.readers.docstrings import docstrings
from pipelines.readers.files import File, Record, Reject, decode_document, document, file_at, read_whole, walk
from pipelines.readers.suffixes import has_suffix
from schemas.parts import Source
from schemas.recipe import RecipeError

STDLIB_LICENCE = "PSF-2.0"
DOCS_CHARS = 200  # a module with shorter docstrings says nothing worth a document
SKIPPED_FOLDERS = (
    "__pycache__",
    "site-packages",
    "dist-packages",
    ".cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
)
MANUALS = (".rst", ".md", ".txt")
LICENCE_FILE = re.compile(r"(?i)(?:licen[cs]e|copying)(?!.*\.(?:pyc?|pyi|js|json|html|xml|h|so)$)[^/]*")
# A header that goes on in the next line holds the licence's text, not its name; so does a long one.
LICENCE_HEADER = re.compile(r"^(License-Expression|License|Classifier): (.*)$(?!\n[ \t])", re.MULTILINE)
LICENCE_CHARS = 100


def list_code(source: Source, seed: int) -> list[File]:
    """Modules, by uri. Raises RecipeError when the source has a path."""
    return _listed(source, seed, ("code",))


def list_docs(source: Source, seed: int) -> list[File]:
    """Modules (the same as of python-code), manuals and packages' metadata, by uri. Raises RecipeError when the source
    has a path."""
    return _listed(source, seed, ("code", "manual", "readme"))


def _listed(source: Source, seed: int, kinds: tuple[str, ...]) -> list[File]:
    if source.path is not None:
        raise RecipeError(
            f"sources.{source.name}.path: expected none for reader {source.reader}, found {source.path!r}"
        )
    by_kind: dict[str, list[File]] = {kind: [] for kind in kinds}
    wanted = lambda uri: kind_of(uri) in by_kind  # noqa: E731
    library = walk(sysconfig.get_path("stdlib"), wanted, "stdlib/", skip=SKIPPED_FOLDERS)
    packages = (file for root in package_roots() for file in package_files(root, wanted))
    for file in (*(file._replace(licence=STDLIB_LICENCE) for file in library), *packages):
        by_kind[kind_of(file.uri) or kinds[0]].append(file)  # no kind: a link to a folder, which becomes a reject
    taken = (
        files if kind == "readme" else cap_packages(files, source.package_bytes, seed)
        for kind, files in by_kind.items()
    )
    return sorted((file for files in taken for file in files), key=lambda file: file.uri)


def package_roots() -> list[str]:
    """The folders that packages are installed in: one in a virtual environment, two on some systems."""
    roots = dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    return [root for root in roots if os.path.isdir(root)]


def kind_of(uri: str) -> str | None:
    """code, manual, readme or None. Of a package's metadata folder only description and licences are text."""
    if uri.endswith(".py"):
        return "code"
    folder, _, name = uri.rpartition("/")
    if ".dist-info" in folder or ".egg-info" in folder:
        return "readme" if name in ("METADATA", "PKG-INFO") else "manual" if LICENCE_FILE.fullmatch(name) else None
    return "manual" if has_suffix(name, MANUALS) or LICENCE_FILE.fullmatch(name) else None


def cap_packages(files: Iterable[File], limit_bytes: int, seed: int) -> Iterator[File]:
    """Of each package the files that fit below the limit, tried in the order of a hash of seed and uri."""
    packages: dict[str, list[File]] = {}
    for file in files:
        top, package = file.uri.split("/", 2)[:2]
        packages.setdefault("stdlib" if top == "stdlib" else package, []).append(file)
    for package, members in packages.items():
        if package == "stdlib" or sum(file.bytes for file in members) <= limit_bytes:
            yield from members
            continue
        left = limit_bytes
        for file in sorted(members, key=lambda file: blake2b(f"{seed}\0{file.uri}".encode(), digest_size=8).digest()):
            if file.bytes <= left:
                left -= file.bytes
                yield file


def package_files(root: str, wanted: Callable[[str], bool]) -> Iterator[File]:
    """The files of the packages in a folder, with their licences: those that RECORDs list and that are there, and all
    of what lies in folders that no RECORD names."""
    licences = recorded_files(root)
    for uri, licence in licences.items():
        path = f"{root}/{uri.partition('/')[2]}"
        if wanted(uri) and os.path.isfile(path):
            yield file_at(path, uri)._replace(licence=licence)
    known = {uri.split("/", 2)[1] for uri in licences}
    for file in walk(root, wanted, "packages/", skip=SKIPPED_FOLDERS):
        if file.uri.split("/", 2)[1] not in known:
            yield file


def recorded_files(root: str) -> dict[str, str | None]:
    """uri -> licence, None where its package names none, of every file below `root` that an installed package's RECORD
    lists."""
    licences: dict[str, str | None] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        try:
            with open(f"{entry.path}/METADATA", encoding="utf-8", errors="replace") as metadata:
                licence = licence_named(metadata.read().partition("\n\n")[0])
            with open(f"{entry.path}/RECORD", encoding="utf-8", errors="replace", newline="") as record:
                places = [row[0] for row in csv.reader(record) if row]
        except (OSError, csv.Error):
            continue  # no package's metadata folder, or one without RECORD: nothing is known of its files
        licences |= {f"packages/{place}": licence for place in places if not place.startswith(("/", "../"))}
    return licences


def licence_named(headers: str) -> str | None:
    """License-Expression, else License, else the classifiers, of a METADATA file's headers."""
    pairs = LICENCE_HEADER.findall(headers)
    classifiers = [
        value.rpartition(" :: ")[2] for name, value in pairs if name == "Classifier" and value.startswith("License ::")
    ]
    for wanted in ("License-Expression", "License"):
        for name, value in pairs:
            if name == wanted and 0 < len(value.strip()) <= LICENCE_CHARS and value.strip() != "UNKNOWN":
                return value.strip()
    return ", ".join(classifiers) or None


def read_code(file: File, source: Source) -> Iterator[Record | Reject]:
    """The module's text. Raises OSError when it cannot be read."""
    data = read_whole(file, source)
    yield data if isinstance(data, Reject) else module(file, data, source)


def module(file: File, data: bytes, source: Source) -> Record | Reject:
    """A module's bytes decoded as Python does it: byte order mark, else the declared encoding (PEP 263), else UTF-8."""
    try:
        text = data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])
    except (SyntaxError, LookupError, ValueError) as error:  # UnicodeError is a ValueError
        return Reject(
            file.uri, "nul" if b"\0" in data else "invalid_utf8", f"{type(error).__name__}: {error}"[:200], len(data)
        )
    return document(file.uri, text, file.licence, source)


def read_docs(file: File, source: Source) -> Iterator[Record | Reject]:
    """A manual's text, a package's description, or a module's docstrings. Raises OSError when the file cannot be read.

    Modules without docstrings and metadata without description are no input records: they yield nothing.
    """
    data = read_whole(file, source)
    kind = kind_of(file.uri)
    made = data if isinstance(data, Reject) else (module if kind == "code" else _plain)(file, data, source)
    if isinstance(made, Reject) or kind == "manual":
        if kind == "manual" or made.reason != "empty_text":
            yield made
    elif text := page(file.uri, made.text) if kind == "code" else made.text.partition("\n\n")[2].strip("\n"):
        yield document(file.uri, text, file.licence, source)


def _plain(file: File, data: bytes, source: Source) -> Record | Reject:
    return decode_document(file.uri, data, file.licence, source)


def page(uri: str, text: str) -> str:
    """A module's docstrings under their names, as Markdown; empty when they are shorter than DOCS_CHARS."""
    docs = [(name, doc) for name, doc in docstrings(text) if doc]
    if sum(len(doc) for _, doc in docs) < DOCS_CHARS:
        return ""
    title = uri.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    body = [f"## {name}\n\n{doc}" if name else doc for name, doc in docs]
    return "\n\n".join([f"# {title}", *body]) + "\n"
