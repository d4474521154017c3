"""Members of a zip archive: the library reads the directory and inflates, within bounds."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.readers.compressed import Damaged
from pipelines.readers.files import File
from pipelines.readers.members import UNPACKED_BYTES, Member, TooUnpacked, allowed_bytes, too_unpacked

DIRECTORY_BYTES = 16 << 20  # of a zip, held in memory: some 150,000 members; tars have no such limit


# --- zip: the library reads the directory and inflates


class _Directory(io.BufferedReader):
    """A zip file; ZipFile reads its whole directory at once, as long as the file says."""

    most = DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise TooUnpacked(
                f"expected a directory of at most {self.most:,} bytes, found {size:,}; pack fewer members, or a tar"
            )
        return super().read(size)


def members_of_zip(file: File) -> Iterator[Member]:
    with _Directory(io.FileIO(file.path)) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
            raise Damaged(f"no directory of a zip file: {error}") from None
        stream.most = UNPACKED_BYTES
        n_bytes = os.fstat(stream.fileno()).st_size
        left = limit = allowed_bytes(n_bytes)
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.orig_filename.endswith("/") or kind == stat.S_IFDIR:  # its own is_dir fails on an empty name
                continue

            def opened(info: zipfile.ZipInfo = info) -> BinaryIO:
                nonlocal left
                left -= info.file_size  # no more is ever unpacked of it, and then its checksum must be right
                if left < 0:
                    raise too_unpacked(limit, n_bytes)
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
    # the library's bz2 and lzma know no memory limit
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"expected a member packed by deflate, found method {info.compress_type}"
    return None


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    try:
        return archive.open(info)
    # a place outside of the file, among others
    except (NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error, OSError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
