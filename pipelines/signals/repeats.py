"""What repeats in a document: lines, paragraphs, n-grams, runs of the same over and over. Work on the pieces'
hashes."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.texts.pieces import SEEN_BITS

COMBINE = np.uint64(0x9E3779B97F4A7C15)  # of polynomials over pieces
LEAST_REPEATS = 32  # of a span (OLMoE, 2409.02060); fewer are none
LONGEST_SPAN = 13  # pieces
LEAST_CHARS = 32  # of a run of one character; fewer are none


@njit
def group(s, n):
    """Fill first[:n] and copies[:n] from key[:n]: open addressing, at most half full."""
    size = 2
    while size < 2 * n:
        size *= 2
    s.slots[:size] = -1
    s.copies[:n] = 0
    for i in range(n):
        slot = np.int64(s.key[i] & np.uint64(size - 1))
        while s.slots[slot] >= 0 and s.key[s.slots[slot]] != s.key[i]:
            slot = (slot + 1) & (size - 1)
        if s.slots[slot] < 0:
            s.slots[slot] = i
        s.first[i] = s.slots[slot]
        s.copies[s.first[i]] += 1


@njit
def repeats(s, n):
    """How many of key[:n] repeat an earlier one, and the sum of their sizes."""
    group(s, n)
    n_repeated = size = 0
    for i in range(n):
        if s.first[i] != i:
            n_repeated += 1
            size += s.size[i]
    return n_repeated, size


@njit
def count_ngrams(s, row):
    """Ink of the commonest 2-, 3- and 4-gram and of repeated 5- to 10-grams.

    An n-gram repeats only if both (n-1)-grams in it do, so after the first round few places are left, often none.
    """
    n_keys = max(row.pieces - 1, 0)
    for i in range(n_keys):
        s.key[i] = s.hash[i] * COMBINE + s.hash[i + 1]
    n_keys = _maybe_repeated(s, n_keys)
    for n in range(2, 11):
        if n > 2:
            n_keys = _extend(s, n_keys, n)
        group(s, n_keys)
        if n <= 4:
            row.top[n - 2] = _top(s, n_keys, n)
        else:
            row.dup[n - 5] = _dup(s, n_keys, n)
        n_keys = _keep_repeated(s, n_keys)
        if n_keys == 0:
            break


@njit
def _maybe_repeated(s, n):
    """Keep the keys that share one of 8 n places with another key: every one that repeats, and few others (more, above
    SEEN_BITS)."""
    bits = 6
    while 1 << bits < 8 * n and bits < SEEN_BITS:
        bits += 1
    shift = np.uint64(64 - bits)
    s.seen[: 1 << bits] = 0
    for i in range(n):
        slot = s.key[i] * COMBINE >> shift
        s.seen[slot] = min(s.seen[slot] + 1, 2)
    kept = np.uint64(0)
    for i in range(n):
        s.place[kept], s.key[kept] = i, s.key[i]
        kept += np.uint64(s.seen[s.key[i] * COMBINE >> shift] > 1)
    return np.int64(kept)


@njit
def _extend(s, n_keys, n):
    """Repeated (n-1)-grams to the n-grams that may repeat: those whose second (n-1)-gram is in the list too."""
    kept = 0
    for i in range(n_keys - 1):
        at = s.place[i]
        if s.place[i + 1] == at + 1:
            s.place[kept], s.key[kept] = at, s.key[i] * COMBINE + s.hash[at + n - 1]
            kept += 1
    return kept


@njit
def _keep_repeated(s, n_keys):
    kept = 0
    for i in range(n_keys):
        if s.copies[s.first[i]] > 1:
            s.place[kept], s.key[kept] = s.place[i], s.key[i]
            kept += 1
    return kept


@njit
def _top(s, n_keys, n):
    """Copies times ink of the n-gram that occurs most often, overlaps counted, the longest of equals; 0 if none
    repeats."""
    copies = 1
    ink = 0
    for i in range(n_keys):
        if s.copies[i] > 1 and s.copies[i] >= copies:  # copies stand at the first of equal keys, 0 at the others
            here = s.ink[s.place[i] + n] - s.ink[s.place[i]]
            ink = here if s.copies[i] > copies else max(ink, here)
            copies = s.copies[i]
    return copies * ink


@njit
def _dup(s, n_keys, n):
    """Ink of n-grams that were met before, from left to right; after one, on behind it (datatrove's rule)."""
    s.size[:n_keys] = 0
    ink = free = 0
    for i in range(n_keys):
        at, first = s.place[i], s.first[i]
        if at >= free and s.size[first] == 1:
            ink += s.ink[at + n] - s.ink[at]
            free = at + n
        elif at >= free:
            s.size[first] = 1
    return ink


@njit
def longest_span_run(s, n):
    """How often the same span of 1 to LONGEST_SPAN pieces stands in a row at most; 0 for fewer than LEAST_REPEATS.

    Pieces equal to the one p before them, 31 p in a row, are 32 repeats of a span of p. One piece in 31 p is looked at,
    and around it only if it is equal.
    """
    longest = 0
    for p in range(1, LONGEST_SPAN + 1):
        step = (LEAST_REPEATS - 1) * p
        end = p
        for probe in range(p + step - 1, n, step):
            if probe >= end and s.hash[probe] == s.hash[probe - p]:
                begin = probe
                while begin > end and s.hash[begin - 1] == s.hash[begin - 1 - p]:
                    begin -= 1
                end = probe + 1
                while end < n and s.hash[end] == s.hash[end - p]:
                    end += 1
                if end - begin >= step:
                    longest = max(longest, (end - begin) // p + 1)
    return longest


@njit
def longest_char_run(text, s, n):
    """Characters of the longest run of the same one inside a piece; 0 for fewer than LEAST_CHARS. ASCII only."""
    longest = LEAST_CHARS - 1
    for i in range(n):
        begin, end = s.edge[2 * i], s.edge[2 * i + 1]
        if end - begin <= longest:
            continue
        run = 0
        for at in range(begin, end):
            run = run + 1 if at > begin and text[at] == text[at - 1] and text[at] < 128 else 1
            longest = max(longest, run)
    return longest if longest >= LEAST_CHARS else 0
