"""Compressed bytes unpacked in pieces of bounded size, whatever they claim to hold: gzip, zstd, bzip2, xz, or none by
the name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO
from zipfile import BadZipFile

import zstandard

from pipelines.readers.suffixes import has_suffix

CHUNK_BYTES = 1 << 18
# 4 bytes of zstd can stand for a block of 128 KiB: a step of 512 bytes gives at most 16 MiB, whatever the file claims.
ZSTD_STEP_BYTES = 512
XZ_MEMORY_BYTES = 128 << 20  # the strongest setting, xz -9, needs 65 MiB; a header may ask for 4 GiB


class Damaged(Exception):
    """Bytes that are not what they must be; the message says what was expected."""


DAMAGE = (Damaged, EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, lzma.LZMAError, BadZipFile)


def chunks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The stream unpacked as its name says. Raises one of DAMAGE after the last piece that could be had."""
    if has_suffix(name, ".zst"):
        return _zstd(stream)
    if has_suffix(name, ".bz2"):
        return _bounded(stream, bz2.BZ2Decompressor)
    if has_suffix(name, ".xz"):
        return _bounded(stream, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES))
    plain = gzip.GzipFile(fileobj=stream) if has_suffix(name, (".gz", ".tgz")) else stream
    return iter(lambda: plain.read1(CHUNK_BYTES), b"")


def _zstd(stream: BinaryIO) -> Iterator[bytes]:
    """zstandard's own stream reader ends in silence inside a truncated frame; this does not."""
    frame = None
    while data := stream.read(ZSTD_STEP_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the file ends inside a zstd frame")


def _bounded(stream: BinaryIO, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Iterator[bytes]:
    """bz2 and lzma decompress one of many streams at a time, and say when they want more; the library's files know no
    memory limit."""
    data = b""
    while data := data.lstrip(b"\0") or stream.read(CHUNK_BYTES):  # xz pads with zeros between streams
        one = new()
        while not one.eof:
            if one.needs_input and not (data := data or stream.read(CHUNK_BYTES)):
                raise EOFError("the file ends inside a compressed stream")
            yield _step(one, data)
            data = b""
        data = one.unused_data


def _step(one: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes) -> bytes:
    try:
        return one.decompress(data, CHUNK_BYTES)
    except (OSError, ValueError) as error:  # bz2 calls its damage so
        raise Damaged(str(error)) from None
