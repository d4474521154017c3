"""Source trees: a folder that is a repository or holds many, or archives of such. One document a file whose name has a
language.

Which files: those whose name `languages.py` knows, as `text` takes those with its suffixes; all others (images,
objects, archives in a tree, files without suffix) are no input records. Folders of version control, __pycache__ and
checkpoints of notebooks are not entered. Python is decoded as it declares, a notebook is its cells without their
outputs. With a glob, a file that it does not match says nothing of others either. Links are read as `files.py`
says, but not out of the tree: a repository does not choose which files of this machine are read.

Licence: an SPDX line in the file; else the nearest folder upward, inside of the source, that has a licence file or
names a licence in a package's manifest. A licence file that nobody can name gives NOASSERTION and ends the search;
where there are several, the manifest decides, else all of them hold. Facts: language; vendored and generated ("1") by
the parts and names below, which `.gitattributes` (linguist-vendored, linguist-generated) overrules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache

import re2

from pipelines.readers.archives import read_each
from pipelines.readers.files import (
    File,
    Record,
    Reject,
    decode_document,
    glob_regex,
    list_matching,
    open_stream,
    read_whole,
)
from pipelines.readers.licences import (
    LICENCE_FILE,
    MANIFESTS,
    TEXT_BYTES,
    UNKNOWN,
    declared_licence,
    join_licences,
    licence_of,
    spdx_named,
)
from pipelines.readers.members import ARCHIVES
from pipelines.readers.notebook import SUFFIX, notebook
from pipelines.readers.python import module
from pipelines.readers.suffixes import has_suffix, language_of
from schemas.parts import Source
from schemas.recipe import RecipeError

SKIPPED_FOLDERS = (".git", ".hg", ".svn", ".bzr", "CVS", "_darcs", "__pycache__", ".ipynb_checkpoints")
DECLARING = ("Python", "Cython")  # languages whose files may declare their encoding as PEP 263 says
VENDORED = re.compile(
    r"(?i)(?:^|/)(?:vendor|vendors|_vendor|vendored|third[-_]?party|3rd[-_]?party|externals?|extern|deps|dependencies"
    r"|submodules|node_modules|bower_components|jspm_packages|godeps|carthage|pods|site-packages|dist-packages|\.yarn)/"
    r"|(?:^|/)(?:jquery|bootstrap|d3|angular|react|vue|lodash|moment|modernizr)(?:[-.][0-9][^/]*)?(?:\.min)?"
    r"\.(?:js|css)$"
)
# lock files ending in .lock, source maps and configure scripts have no language: they are never read
GENERATED = re.compile(
    r"(?:\.pb\.(?:go|cc|h|c)|\.pb\.(?:gw|validate)\.go|_pb2(?:_grpc)?\.pyi?|_pb\.(?:js|d\.ts|rb)"
    r"|\.min\.(?:js|css)|[-.]bundle\.js|\.gr?\.dart|\.freezed\.dart|\.g\.(?:cs|i\.cs)|\.[dD]esigner\.(?:cs|vb)"
    r"|[._]generated\.\w+|\.gen\.go|(?:^|/)zz_generated\.[^/]*\.go|[-.]lock\.(?:json|ya?ml)|npm-shrinkwrap\.json"
    r"|(?:^|/)(?:moc|qrc)_[^/]*\.cpp|(?:^|/)ui_[^/]*\.h|\.tab\.[ch]|lex\.yy\.c|aclocal\.m4|Makefile\.in|gradlew\.bat|mvnw\.cmd)$"
)
ATTRIBUTES = ".gitattributes"
ATTRIBUTE = re.compile(r"(-|!)?linguist-(vendored|generated)(?:=(.*))?")
# Each pattern is asked of every file below its folder, so a file waits for at most 32 x 50 of them: 2 ms.
ATTRIBUTES_PER_FILE, ATTRIBUTES_DEPTH, PATTERN_CHARS = 50, 32, 200
ATTRIBUTES_IN_ALL = 100_000  # what a tree may hold in memory: 30 MB


class Tree:
    """What the files of a tree say of others: licences, packages' licences and attributes, by folder."""

    def __init__(self) -> None:
        self.licences: dict[str, set[str]] = {}
        self.declared: dict[str, str] = {}
        self.attributes: dict[str, list[tuple[str, str, bool]]] = {}
        self.left = ATTRIBUTES_IN_ALL

    def note(self, file: File) -> None:
        """Learn from a file that `says_more`; one that cannot be read says nothing."""
        folder, _, name = file.uri.rpartition("/")
        with open_stream(file) as stream:
            data = stream.read(TEXT_BYTES)
        if name == ATTRIBUTES:
            entries = attributes(data.decode(errors="replace"))[: self.left]
            self.left -= len(entries)
            self.attributes |= {folder: entries} if entries else {}
        elif name not in MANIFESTS:
            self.licences.setdefault(folder, set()).add(licence_of(data.decode(errors="replace")) or UNKNOWN)
        elif licence := declared_licence(name, data):
            self.declared.setdefault(folder, licence)

    def marked(self, file: File) -> File:
        """The file with its licence and facts."""
        marks = {"vendored": VENDORED.search(file.uri) is not None, "generated": GENERATED.search(file.uri) is not None}
        folders = [file.uri[: slash.start()] for slash in re.finditer("/", file.uri)]
        for folder in ["", *folders[:ATTRIBUTES_DEPTH]] if self.attributes else ():
            place = file.uri[len(folder) + 1 :] if folder else file.uri
            marks |= {
                mark: value
                for regex, mark, value in self.attributes.get(folder, ())
                if compile_pattern(regex).fullmatch(place)
            }
        facts = [("language", language_of(file.uri) or "")] + [(mark, "1") for mark, value in marks.items() if value]
        return file._replace(
            licence=self.licence(file.uri) or file.licence, facts=tuple((name, value) for name, value in facts if value)
        )

    def licence(self, uri: str) -> str | None:
        """That of the nearest folder upward that says something."""
        while uri:
            uri = uri.rpartition("/")[0]
            licences = self.licences.get(uri, set())
            if uri in self.declared and (len(licences) != 1 or UNKNOWN in licences):
                return self.declared[uri]
            if licences:
                return UNKNOWN if UNKNOWN in licences else join_licences(licences)
        return None


@lru_cache(4096)
def compile_pattern(regex: str) -> re2._Regexp:
    """In linear time, whatever the pattern: a backtracking one may take for ever."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(regex, options)
    except re2.error:
        return re2.compile("[^\x00-\U0010ffff]")  # a set such as [z-a] matches nothing


def attributes(text: str) -> list[tuple[str, str, bool]]:
    """(expression of places below, mark, whether it is set) of a .gitattributes, in order: the last that matches
    holds."""
    entries: list[tuple[str, str, bool]] = []
    for line in text.split("\n"):
        pattern, *words = line.split() or [""]
        for word in words if len(pattern) <= PATTERN_CHARS and not pattern.startswith(("#", '"')) else ():
            if match := ATTRIBUTE.fullmatch(word):
                regex = ("" if "/" in pattern else "(?:.*/)?") + glob_regex(pattern.lstrip("/"))
                entries.append((regex, match[2], match[1] is None and match[3] != "false"))
        if len(entries) >= ATTRIBUTES_PER_FILE:
            break
    return entries


def says_more(name: str) -> bool:
    """Whether a file of this name says something of others."""
    name = name.rpartition("/")[2]
    return name == ATTRIBUTES or name in MANIFESTS or LICENCE_FILE.fullmatch(name) is not None


def has_language(name: str) -> bool:
    """Whether a file of this name, in an archive, is an input record."""
    return language_of(name) is not None and not any(part in SKIPPED_FOLDERS for part in name.split("/")[:-1])


def list_files(source: Source, seed: int) -> list[File]:
    """Files with their licences and facts, by uri. Raises RecipeError when the path holds no file whose name has a
    language."""
    files = list_matching(
        source, ("the suffix of a known language",), lambda uri: has_language(uri) or says_more(uri), SKIPPED_FOLDERS
    )
    tree = Tree()
    for file in files:
        if says_more(file.uri) and os.path.isfile(file.path):
            try:
                tree.note(file)
            except OSError:
                continue  # where it is an input record too, it becomes a reject
    whole_folder = os.path.isdir(source.path)
    chosen = [file for file in files if _is_record(file, whole_folder)]
    if not chosen:
        raise RecipeError(
            f"sources.{source.name}.path: expected files with names of known languages, found none at {source.path!r}"
        )
    return [tree.marked(file) for file in chosen]


def _is_record(file: File, whole_folder: bool) -> bool:
    """By its name; a link to a folder or a folder that cannot be opened is listed by itself and becomes a reject."""
    if has_language(file.uri) or (has_suffix(file.uri, ARCHIVES) and not whole_folder):
        return True
    return not says_more(file.uri) and not os.path.isfile(file.path)


def read(file: File, source: Source) -> Iterator[Record | Reject]:
    """The file's text, or those of an archive, which is read twice: first for what its files say of others. Raises
    OSError."""
    if not has_suffix(file.uri, ARCHIVES):
        yield from _read(file, source)
        return
    tree = Tree()

    def note(member: File, source: Source) -> Iterator[Record | Reject]:
        tree.note(member)
        return iter(())

    for _ in read_each(file, source, says_more, note):
        pass  # what is wrong with the archive is told by the second reading
    yield from read_each(file, source, has_language, lambda member, source: _read(tree.marked(member), source))


def _read(file: File, source: Source) -> Iterator[Record | Reject]:
    if file.stream is None and _leads_out(file):
        yield Reject(file.uri, "unreadable", "expected a file of the tree, found a link that leads out of it", 0)
        return
    data = read_whole(file, source)
    if isinstance(data, Reject):
        yield data
    elif b"\0" in data:
        yield Reject(file.uri, "nul", f"{data.count(0):,} NUL bytes, the first at {data.index(0):,}", len(data))
    else:
        made = _decode(file, data, source)
        yield (
            made._replace(licence=spdx_named(made.text) or made.licence, facts=file.facts)
            if isinstance(made, Record)
            else made
        )


def _decode(file: File, data: bytes, source: Source) -> Record | Reject:
    if has_suffix(file.uri, SUFFIX):
        return notebook(file, data, source)
    if language_of(file.uri) in DECLARING:
        return module(file, data, source)
    return decode_document(file.uri, data, file.licence, source)


def _leads_out(file: File) -> bool:
    root = os.path.realpath(file.path.removesuffix(file.uri)) + "/"
    return os.path.islink(file.path) and not os.path.realpath(file.path).startswith(root)
