"""Members of a tar archive, read here, as the library holds extended headers of any length in memory; its TarInfo
decodes the blocks."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.readers.compressed import Damaged, chunks
from pipelines.readers.files import File
from pipelines.readers.members import Member, allowed_bytes, too_unpacked

PAX_BYTES = 1 << 16  # of a tar's extended header, held in memory
BLOCK = 512  # of a tar
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=\n]+)=")


# --- tar: read here, as the library holds extended headers of any length in memory; its TarInfo decodes the blocks


class _Tape:
    """An unpacked tar, read from front to end, and not above what it may unpack to."""

    def __init__(self, stream: BinaryIO, uri: str) -> None:
        self.chunks = chunks(stream, uri)
        self.n_bytes = os.fstat(stream.fileno()).st_size
        self.left = self.limit = allowed_bytes(self.n_bytes)
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
            raise too_unpacked(self.limit, self.n_bytes)
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


def members_of_tar(file: File) -> Iterator[Member]:
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
                    yield Member(
                        extended.get("path", info.name), size, _tar_trouble(info, extended), lambda part=part: part
                    )
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
    # of all members, such as a commit's hash; where a link goes
    if info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
        return {}
    if info.size > PAX_BYTES:
        raise Damaged(f"expected an extended header of at most {PAX_BYTES:,} bytes, found {info.size:,}")
    data = part.read()
    return {"path": _text(data.partition(b"\0")[0])} if info.type == tarfile.GNUTYPE_LONGNAME else _pax(data)


def _pax(data: bytes) -> dict[str, str]:
    """Records of the form "length key=value\\n", where the length in bytes is that of the whole record."""
    records, start = {}, 0
    while start < len(data):
        record = PAX_RECORD.match(data, start)
        end = start + int(record[1]) if record else 0
        if not record or end <= record.end() or data[end - 1 : end] != b"\n":
            raise Damaged(f"expected a pax record, found {data[start : start + 40]!r}")
        records[_text(record[2])] = _text(data[record.end() : end - 1])
        start = end
    return records


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
