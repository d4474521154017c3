"""Zip and tar archives as folders: the members that a reader wants are read one after another, none is ever unpacked to disk.

A reader lists archives beside its own files (`suffixes + ARCHIVES`) and reads through `each`. A member's uri is the archive's
and its own place, without "." and doubled slashes. Folders, devices and members that are not wanted are no input records; a
wanted name that cannot be read (a link, an encrypted member, a place outside of the archive, an archive) is a reject.
An archive is one file to the driver and one task: it is read from front to end, in memory bounded by the reader's.

Not read: members of a zip packed otherwise than by deflate, sparse members of a tar. A damaged zip loses the damaged
members, or all if its directory (at the end) is damaged; a damaged tar all that follows the damage.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from pipelines.readers.files import File, Record, Reject, uri_of
from pipelines.readers.packed import DAMAGE, Damaged, chunks
from schemas.recipe import Source

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")

# What one archive may cost. deflate reaches 1,032:1 and zstd 30,000:1 on zeros; text 3-10:1, pages of one site in zstd 30:1
# (measured), logs 100:1: above 200:1 it is a bomb or not worth reading.
RATIO = 200
FREE_BYTES = 64 << 20  # which small archives may unpack to at any ratio: half a second
UNPACKED_BYTES = 256 << 30  # an hour of one task at 75 MB/s; larger archives should be several
MEMBERS = 1_000_000  # their names are remembered, in about 100 bytes each
DIRECTORY_BYTES = 16 << 20  # of a zip, held in memory: some 150,000 members; tars have no such limit
NAME_BYTES = 4096  # PATH_MAX of Linux
PAX_BYTES = 1 << 16  # of a tar's extended header, held in memory

BLOCK = 512  # of a tar
EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=\n]+)=")


class Member(NamedTuple):
    """One name in an archive; `trouble` says why it cannot be read."""

    name: str
    bytes: int
    trouble: str | None
    opened: Callable[[], BinaryIO]


class TooUnpacked(Exception):
    """An archive that unpacks to more than it may."""


def each(
    file: File, source: Source, wanted: Callable[[str], bool], read: Callable[[File, Source], Iterator[Record | Reject]]
) -> Iterator[Record | Reject]:
    """What is `read` of the file or, when it is an archive, of each member with a `wanted` name, and rejects for what is lost.

    Raises OSError when the file cannot be opened or read.
    """
    if not file.uri.endswith(ARCHIVES):
        yield from read(file, source)
        return
    names: set[bytes] = set()
    members = (_zip if file.uri.endswith(".zip") else _tar)(file)
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
    elif uri.endswith(ARCHIVES):
        yield Reject(uri, "nested_archive", "expected no archive in an archive; unpack the outer one", member.bytes)
    elif name in names:
        yield Reject(uri, "repeated_name", "expected every name once", member.bytes)
    else:
        names.add(name)
        try:
            yield from read(File(file.path, uri, member.bytes, file.mtime_ns, file.licence, file.facts, member.opened()), source)
        except DAMAGE as error:
            yield Reject(uri, "damaged", f"{type(error).__name__}: {error!s:.200}", 0)


def _trouble(member: Member, parts: list[str]) -> str | None:
    if ".." in parts:
        return "expected a place inside of the archive, found .. in the name"
    if len(os.fsencode(member.name)) > NAME_BYTES:
        return f"expected a name of at most {NAME_BYTES:,} bytes"
    return member.trouble


def allowed(n_bytes: int) -> int:
    """Bytes that an archive of `n_bytes` may unpack to."""
    return min(UNPACKED_BYTES, max(FREE_BYTES, RATIO * n_bytes))


def _excess(limit: int, n_bytes: int) -> TooUnpacked:
    return TooUnpacked(f"expected at most {limit:,} bytes unpacked of {n_bytes:,}: {RATIO} to 1, or {FREE_BYTES:,}")


# --- zip: the library reads the directory and inflates


class _Directory(io.BufferedReader):
    """A zip file; ZipFile reads its whole directory at once, as long as the file says."""

    most = DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise TooUnpacked(f"expected a directory of at most {self.most:,} bytes, found {size:,}; pack fewer members, or a tar")
        return super().read(size)


def _zip(file: File) -> Iterator[Member]:
    with _Directory(io.FileIO(file.path)) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
            raise Damaged(f"no directory of a zip file: {error}") from None
        stream.most = UNPACKED_BYTES
        n_bytes = os.fstat(stream.fileno()).st_size
        left = limit = allowed(n_bytes)
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.orig_filename.endswith("/") or kind == stat.S_IFDIR:  # its own is_dir fails on an empty name
                continue

            def opened(info: zipfile.ZipInfo = info) -> BinaryIO:
                nonlocal left
                left -= info.file_size  # no more is ever unpacked of it, and then its checksum must be right
                if left < 0:
                    raise _excess(limit, n_bytes)
                return _zip_member(archive, info)

            yield Member(_zip_name(info), info.file_size, _zip_trouble(info, kind), opened)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Names without the UTF-8 flag are read as code page 437; most hold UTF-8 all the same."""
    name = info.orig_filename
    try:
        return name if info.flag_bits & 0x800 else name.encode("cp437").decode()
    except UnicodeError:
        return name


def _zip_trouble(info: zipfile.ZipInfo, kind: int) -> str | None:
    if info.flag_bits & 1:
        return "expected plain bytes, found an encrypted member"
    if kind not in (0, stat.S_IFREG):
        return "expected a file, found a link or device"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the library's bz2 and lzma know no memory limit
        return f"expected a member packed by deflate, found method {info.compress_type}"
    return None


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    try:
        return archive.open(info)
    except (NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error, OSError) as error:  # a place outside of the file
        raise Damaged(f"{type(error).__name__}: {error}") from None


# --- tar: read here, as the library holds extended headers of any length in memory; its TarInfo decodes the blocks


class _Tape:
    """An unpacked tar, read from front to end, and not above what it may unpack to."""

    def __init__(self, stream: BinaryIO, uri: str) -> None:
        self.chunks = chunks(stream, uri)
        self.n_bytes = os.fstat(stream.fileno()).st_size
        self.left = self.limit = allowed(self.n_bytes)
        self.kept = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`, none at the end."""
        while not self.kept:
            chunk = next(self.chunks, None)
            if chunk is None:
                return b""
            self.kept = memoryview(chunk)
        piece, self.kept = self.kept[:size], self.kept[size:]
        self.left -= len(piece)
        if self.left < 0:
            raise _excess(self.limit, self.n_bytes)
        return bytes(piece)

    def block(self) -> bytes:
        """The next block, none at the end."""
        block = self.read(BLOCK)
        while block and len(block) < BLOCK:
            more = self.read(BLOCK - len(block))
            if not more:
                raise EOFError("the tar ends inside a block")
            block += more
        return block


class _Part(io.BufferedIOBase):
    """The next `size` bytes of a tape."""

    def __init__(self, tape: _Tape, size: int) -> None:
        self.tape, self.left, self.padding = tape, size, -size % BLOCK

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        size = self.left if size is None or size < 0 else min(size, self.left)
        piece = self.tape.read(size) if size else b""
        if size and not piece:
            raise EOFError("the tar ends inside a member")
        self.left -= len(piece)
        return piece

    def read(self, size: int | None = -1, /) -> bytes:
        pieces, wanted = [], self.left if size is None or size < 0 else size
        while piece := self.read1(wanted):
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def skip(self) -> None:
        """Go to the end of the member and its last block."""
        self.left, self.padding = self.left + self.padding, 0
        while self.left:
            self.read1(self.left)


def _tar(file: File) -> Iterator[Member]:
    with open(file.path, "rb") as stream:
        tape, extended, ended = _Tape(stream, file.uri), {}, False
        while block := tape.block():
            ended = not any(block)
            if ended:  # and on: tars may be joined, and bytes behind the end are not lost in silence
                continue
            info = _header(block)
            if info.type == tarfile.GNUTYPE_SPARSE:
                _skip_map(block, tape)
            if info.type in EXTENSIONS:
                part = _Part(tape, info.size)
                extended |= _extension(info, part)
            else:
                size = _number(extended["size"]) if "size" in extended else info.size
                part = _Part(tape, 0 if info.type in WITHOUT_DATA else size)
                if not info.isdir():
                    yield Member(extended.get("path", info.name), size, _tar_trouble(info, extended), lambda part=part: part)
                extended = {}
            part.skip()
        if not ended:
            raise EOFError("the tar ends without the block of zeros at its end")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        raise Damaged(f"no header of a tar's member: {error}") from None
    if info.size < 0:
        raise Damaged(f"expected the size of a tar's member, found {info.size}")
    return info


def _tar_trouble(info: tarfile.TarInfo, extended: dict[str, str]) -> str | None:
    is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended)
    return None if info.isreg() and not is_sparse else "expected a file, found a link, device or sparse file"


def _extension(info: tarfile.TarInfo, part: _Part) -> dict[str, str]:
    """What an extended header says of the next member: pax records, or GNU's long name as `path`."""
    if info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):  # of all members, such as a commit's hash; where a link goes
        return {}
    if info.size > PAX_BYTES:
        raise Damaged(f"expected an extended header of at most {PAX_BYTES:,} bytes, found {info.size:,}")
    data = part.read()
    return {"path": _text(data.partition(b"\0")[0])} if info.type == tarfile.GNUTYPE_LONGNAME else _pax(data)


def _pax(data: bytes) -> dict[str, str]:
    """Records of the form "length key=value\\n", where the length in bytes is that of the whole record."""
    found, start = {}, 0
    while start < len(data):
        record = PAX_RECORD.match(data, start)
        end = start + int(record[1]) if record else 0
        if not record or end <= record.end() or data[end - 1 : end] != b"\n":
            raise Damaged(f"expected a pax record, found {data[start : start + 40]!r}")
        found[_text(record[2])] = _text(data[record.end() : end - 1])
        start = end
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Damaged(f"expected a size in a pax header, found {text[:20]!r}")
    return int(text)


def _skip_map(block: bytes, tape: _Tape) -> None:
    """Of GNU's old sparse files: blocks with a map follow the header, as long as a flag says so."""
    more = block[482]
    while more:
        following = tape.block()
        if not following:
            raise EOFError("the tar ends inside the map of a sparse file")
        more = following[504]
