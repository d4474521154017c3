"""Arrow strings as bytes, and Unicode classes as tables by code point: what the compiled passes of several families
share.

A pass takes a document as a slice of the batch's bytes and steps from code point to code point. Every table has
2^21 entries, all that four bytes of UTF-8 can spell, so no byte sequence, valid or not, indexes past one.

Numba's cache of a pass looks at the pass's own file only: after a change here, delete the families' __pycache__.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Strings = pa.StringArray | pa.LargeStringArray
CODES = 1 << 21
UNICODE = np.arange(0x110000, dtype=np.uint32).view("<U1")  # every code point as a NumPy string of one character
IS_SPACE, IS_LETTER, IS_ALNUM = np.strings.isspace(UNICODE), np.strings.isalpha(UNICODE), np.strings.isalnum(UNICODE)


def table(members: np.ndarray, bit: int) -> np.ndarray:
    """A class table, uint8[CODES]: `bit` where `members`, bool[0x110000], is true."""
    classes = np.zeros(CODES, np.uint8)
    classes[: len(members)] = members * np.uint8(bit)
    return classes


def _fold() -> np.ndarray:
    fold = np.arange(CODES, dtype=np.uint32)
    for code in np.flatnonzero(np.strings.isupper(UNICODE) | np.strings.istitle(UNICODE)):
        small = chr(code).lower()
        if len(small) == 1:
            fold[code] = ord(small)
    fold[: len(UNICODE)][IS_SPACE] = ord(" ")
    return fold


# Lower case of each code point by itself, a space for white space: uint32[CODES]. Python's str.lower differs in two
# letters: it spells İ as two code points, and Σ at the end of a word as ς.
FOLD = _fold()


def utf8(texts: Strings) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8) and offsets (int64, one more than texts) of a string array, sliced or not. Text is not
    copied."""
    large = texts.cast(pa.large_string())
    if len(large) == 0:
        return read_only(np.zeros(0, np.uint8)), read_only(np.zeros(1, np.int64))
    _, offsets, data = large.buffers()
    bounds = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    return read_only(np.frombuffer(data or b"", np.uint8)), read_only(bounds)


def read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view. Arrow buffers come writable or not, which numba would compile every pass twice for."""
    view = array.view()
    view.flags.writeable = False
    return view


def longest(offsets: np.ndarray) -> int:
    """Bytes of the longest document."""
    return int(np.diff(offsets).max(initial=0))


@njit
def is_ascii(text):
    """Whether all bytes are. Without an early exit the loop runs on many bytes at once."""
    bits = np.uint8(0)
    for i in range(len(text)):
        bits |= text[i]
    return bits < 128


@njit(inline="always")
def decode(data, i):
    """The code point at byte i >= 128 of UTF-8, and its width in bytes."""
    lead = np.uint32(data[i])
    if lead < 0xE0:
        return (lead & np.uint32(31)) << np.uint32(6) | np.uint32(data[i + 1]) & np.uint32(63), 2
    middle = (np.uint32(data[i + 1]) & np.uint32(63)) << np.uint32(6) | np.uint32(data[i + 2]) & np.uint32(63)
    if lead < 0xF0:
        return (lead & np.uint32(15)) << np.uint32(12) | middle, 3
    return (lead & np.uint32(7)) << np.uint32(18) | middle << np.uint32(6) | np.uint32(data[i + 3]) & np.uint32(63), 4


@njit(inline="always")
def encode(code, out, at):
    """Write a code point as UTF-8 to out[at:]; the place after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
        out[at + 1] = 0x80 | code & 63
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> 12
        out[at + 1] = 0x80 | code >> 6 & 63
        out[at + 2] = 0x80 | code & 63
        return at + 3
    out[at] = 0xF0 | code >> 18
    out[at + 1] = 0x80 | code >> 12 & 63
    out[at + 2] = 0x80 | code >> 6 & 63
    out[at + 3] = 0x80 | code & 63
    return at + 4


@njit(inline="always")
def mix64(x):
    """Finaliser of MurmurHash3: every bit of x, a uint64, changes half of the bits of the result."""
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ x >> np.uint64(33)


@intrinsic
def load8(typing: Any, array: types.Array, place: types.Integer) -> tuple:
    """Bytes array[place : place + 8] as a little-endian uint64, wherever it lies."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        loaded = builder.load(pointer)
        loaded.align = 1
        return loaded

    return types.uint64(array, types.int64), generate


@intrinsic
def store8(typing: Any, array: types.Array, place: types.Integer, value: types.Integer) -> tuple:
    """Write a uint64 to array[place : place + 8], its lowest byte first."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], pointer).align = 1
        return context.get_dummy_value()

    return types.none(array, types.int64, types.uint64), generate
