"""Marks in the bytes of a text: whether one stands at a place, and where the next one ends.

text, mark: uint8. Inlined where a pass asks at many bytes and mostly hears no.
"""

from __future__ import annotations

from numba import njit


@njit(inline="always")
def stands(text, at, mark):
    """Whether the mark stands at text[at:]; at >= 0."""
    if at + len(mark) > len(text):
        return False
    for i in range(len(mark)):
        if text[at + i] != mark[i]:
            return False
    return True


@njit(inline="always")
def stands_in_any_case(text, at, mark):
    """Whether the mark stands at text[at:], its ASCII letters in any case; in the mark they are small."""
    if at + len(mark) > len(text):
        return False
    for i in range(len(mark)):
        if text[at + i] != mark[i] and not (65 <= text[at + i] <= 90 and text[at + i] | 32 == mark[i]):
            return False
    return True


@njit
def equal(a, b):
    """Whether two runs of bytes are the same. With a loop of its own: by `stands`, inlined here, the words of lid.176
    were looked up so much slower that languages took a quarter more time."""
    if len(a) != len(b):
        return False
    for i in range(len(a)):
        if a[i] != b[i]:
            return False
    return True


@njit
def find_end(text, at, mark):
    """The place behind the first mark in text[at:], its letters in any case, or the text's end. A mark's first byte is
    no letter: most places are told by it alone."""
    while at < len(text):
        if text[at] == mark[0] and stands_in_any_case(text, at, mark):
            return at + len(mark)
        at += 1
    return at
