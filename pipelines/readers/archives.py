"""Zip and tar archives as folders: the members that a reader wants are read one after another, none is ever unpacked to
disk.

A reader lists archives beside its own files (`suffixes + ARCHIVES`), reads through `read_each`. A member's uri is the
archive's and its own place, without "." and doubled slashes. Folders, devices and members that are not wanted are no
input records; a wanted name that cannot be read (a link, an encrypted member, a place outside of the archive, an
archive) is a reject. An archive is one file to the driver and one task: it is read from front to end, in memory bounded
by the reader's.

Not read: members of a zip packed otherwise than by deflate, sparse members of a tar. A damaged zip loses the damaged
members, or all if its directory (at the end) is damaged; a damaged tar all that follows the damage.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import blake2b

from pipelines.readers.compressed import DAMAGE
from pipelines.readers.files import File, Record, Reject, uri_of
from pipelines.readers.members import ARCHIVES, Member, TooUnpacked
from pipelines.readers.suffixes import has_suffix
from pipelines.readers.tar_members import members_of_tar
from pipelines.readers.zip_members import members_of_zip
from schemas.parts import Source

MEMBERS = 1_000_000  # their names are remembered, in about 100 bytes each
NAME_BYTES = 4096  # PATH_MAX of Linux


def read_each(
    file: File, source: Source, wanted: Callable[[str], bool], read: Callable[[File, Source], Iterator[Record | Reject]]
) -> Iterator[Record | Reject]:
    """What is `read` of the file or, when it is an archive, of each member with a `wanted` name, and rejects for what
    is lost.

    Raises OSError when the file cannot be opened or read.
    """
    if not has_suffix(file.uri, ARCHIVES):
        yield from read(file, source)
        return
    names: set[bytes] = set()
    members = (members_of_zip if has_suffix(file.uri, ".zip") else members_of_tar)(file)
    n = 0
    try:
        for n, member in enumerate(members, 1):
            if n > MEMBERS:
                raise TooUnpacked(f"expected at most {MEMBERS:,} members")
            if wanted(member.name):
                yield from _read(file, member, source, read, names)
    except TooUnpacked as error:
        yield Reject(file.uri, "too_unpacked", f"{error}; stopped at member {n:,}", file.bytes)
    except DAMAGE as error:
        yield Reject(file.uri, "damaged", f"{type(error).__name__}: {error!s:.200}, after {n:,} members", file.bytes)


def _read(file: File, member: Member, source: Source, read: Callable, names: set[bytes]) -> Iterator[Record | Reject]:
    parts = [part for part in member.name[:NAME_BYTES].split("/") if part not in ("", ".")]
    uri = f"{file.uri}/{uri_of('/'.join(parts))}".replace("\0", "\\x00")
    name = blake2b(uri.encode(), digest_size=16).digest()
    if trouble := _trouble(member, parts):
        yield Reject(uri, "unreadable", trouble, 0)
    elif has_suffix(uri, ARCHIVES):
        yield Reject(uri, "nested_archive", "expected no archive in an archive; unpack the outer one", member.bytes)
    elif name in names:
        yield Reject(uri, "repeated_name", "expected every name once", member.bytes)
    else:
        names.add(name)
        try:
            yield from read(
                File(file.path, uri, member.bytes, file.mtime_ns, file.licence, file.facts, member.opened()), source
            )
        except DAMAGE as error:
            yield Reject(uri, "damaged", f"{type(error).__name__}: {error!s:.200}", 0)


def _trouble(member: Member, parts: list[str]) -> str | None:
    if ".." in parts:
        return "expected a place inside of the archive, found .. in the name"
    if len(os.fsencode(member.name)) > NAME_BYTES:
        return f"expected a name of at most {NAME_BYTES:,} bytes"
    return member.trouble
