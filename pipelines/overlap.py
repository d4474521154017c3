"""Which items of evaluations a text covers: an index of their word n-grams, and the compiled passes that ask it.

Words and their hashes are those of the fingerprints (runs of letters, digits and _, in lower case), so neither case nor
punctuation nor white space tells texts apart. A **passage** is what is searched of an item: all its fields together, and
apart its first field (the question) and every other one of at least `short` words; equal passages of several items are one.

A long passage, of `short` words or more, is covered by the share of its distinct n-grams that stand inside `SPAN` times
its length: a book does not cover it by n-grams scattered over chapters. A short one is covered whole or not at all.
Passages of fewer than n words are not searched, and n-grams that more than COMMON passages share count for none: they
are of a template, and so is a passage with too few others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from pipelines.signals.characters import Strings, constant, decode, longest, utf8
from pipelines.signals.shingles import ALONE, WORD, WORD_FOLD, fold_text, folded_room, hash_words, join_words, room

SPAN = 4  # of a passage's words: question and answer may stand apart, with as much between them
COMMON = 256  # passages: more than the questions on one text, fewer than the items of a benchmark that begin alike
FLOOR = 0.2  # covers below this are not told, so that lower thresholds than the recipe's can be tried
RUN_WORDS = 13  # a stretch of so many words is told whatever the cover (Brown et al. 2005.14165, GPT-3)
FILTER_BITS = 16  # a key, at least: some 2 % of other n-grams pass the filter
PLACES = 1 << 24  # at most so many (n-gram, passage) meetings of one document are looked at: 128 MB
NEVER = np.int32(2**31 - 1)


class Index(NamedTuple):
    """What the compiled passes need: G n-grams of P passages, by hash.

    keys: uint64[G], ascending. buckets: int32, where the keys of each value of their highest `64 - shift` bits begin.
    filter: uint64, two bits of one word for each key. owners[owner_bounds[g] : owner_bounds[g + 1]]: int32, passages of n-gram g.
    grams[bounds[p] : bounds[p + 1]]: int32, the n-grams of passage p in order, numbered as in keys.
    n_words, distinct (n-grams that count), least (so many of these a document must hold to be looked at): int32[P].
    is_short: bool[P].
    """

    keys: np.ndarray
    shift: int
    buckets: np.ndarray
    filter: np.ndarray
    owner_bounds: np.ndarray
    owners: np.ndarray
    bounds: np.ndarray
    grams: np.ndarray
    n_words: np.ndarray
    distinct: np.ndarray
    least: np.ndarray
    is_short: np.ndarray
    ngram: int


class Match(NamedTuple):
    """How a text covers a passage; start and end are bytes, `end` after the last."""

    passage: int
    cover: float
    matched: int
    run: int
    start: int
    end: int


def grams(texts: Strings, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of the n-grams of each text in order (uint64, none below n words), their bounds, and the numbers of words."""
    data, offsets = utf8(texts)
    found = np.empty((offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64)
    bounds, n_words = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts), np.int32)
    folded = np.empty(folded_room(longest(offsets)), np.uint8)
    _gram_batch(data, offsets, WORD_FOLD, *room(offsets), folded, ngram, found, bounds, n_words)
    return found[: bounds[-1]].copy(), bounds, n_words


def index(texts: Strings, ngram: int, short: int, bucket_bits: int | None = None) -> Index:
    """Index the passages `texts`, all different. `bucket_bits` is for tests: few make keys meet in one bucket."""
    hashes, bounds, n_words = grams(texts, ngram)
    keys, places = np.unique(hashes, return_inverse=True)
    places = places.astype(np.int32)
    bits = max(1, len(keys).bit_length()) if bucket_bits is None else bucket_bits
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    buckets = np.append(np.searchsorted(keys, edges), len(keys)).astype(np.int32)
    owner_bounds, owners, distinct = _owners(places, bounds, len(keys))
    filter = np.zeros(1 << max(1, (len(keys) * FILTER_BITS // 64).bit_length()), np.uint64)
    _set_filter(keys, filter)
    is_short = n_words < short
    least = np.minimum(np.ceil(FLOOR * distinct), RUN_WORDS - ngram + 1).astype(np.int32)
    known = distinct >= np.where(is_short, 1, max(1, RUN_WORDS - ngram + 1))
    least = np.where(known, np.where(is_short, distinct, np.maximum(least, 1)), NEVER).astype(np.int32)
    return Index(keys, 64 - bits, buckets, filter, owner_bounds, owners, bounds, places, n_words, distinct, least, is_short, ngram)


def _owners(places: np.ndarray, bounds: np.ndarray, n_keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """owner_bounds and owners of an index, n-grams of too many passages left out; and `distinct`, what that leaves of each passage."""
    passages = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    pairs = np.unique(places.astype(np.int64) * len(bounds) + passages)
    of_key, owners = pairs // len(bounds), (pairs % len(bounds)).astype(np.int32)
    rare = (np.bincount(of_key, minlength=n_keys) <= COMMON)[of_key]
    of_key, owners = of_key[rare], owners[rare]
    ends = np.cumsum(np.bincount(of_key, minlength=n_keys))
    return np.append(0, ends).astype(np.int64), owners, np.bincount(owners, minlength=len(bounds) - 1).astype(np.int32)


class Searcher:
    """An index with the room that searching takes, for one worker: arrays as long as the index that documents share."""

    def __init__(self, index: Index):
        self.index = Index(*(constant(part) if isinstance(part, np.ndarray) else part for part in index))
        self.seen = np.zeros(len(index.keys), np.int32)
        self.counts = np.zeros(len(index.n_words), np.int32)
        self.slots = np.full(len(index.n_words), -1, np.int32)

    def search(self, texts: Strings) -> list[tuple[int, list[Match]]]:
        """(number of the text, its matches by passage) of the texts that cover anything, in order."""
        data, offsets = utf8(texts)
        most = (offsets[-1] - offsets[0]) // 2 + len(texts)
        positions, found, bounds = np.empty(most, np.int32), np.empty(most, np.int32), np.zeros(len(texts) + 1, np.int64)
        folded = np.empty(folded_room(longest(offsets)), np.uint8)
        _find_batch(data, offsets, WORD_FOLD, *room(offsets), folded, self.index, positions, found, bounds)
        matches = []
        for d in np.flatnonzero(np.diff(bounds)):
            hits = slice(bounds[d], bounds[d + 1])
            text = data[offsets[d] : offsets[d + 1]]
            if mine := self._matches(text, positions[hits], found[hits]):
                matches.append((int(d), mine))
        return matches

    def _matches(self, text: np.ndarray, positions: np.ndarray, found: np.ndarray) -> list[Match]:
        rows = _covers(positions, found, self.index, self.seen, self.counts, self.slots)
        if len(rows) == 0:
            return []
        places = _word_places(text, WORD_FOLD, int(rows[:, 3].max()) + self.index.ngram)
        matches = []
        for passage, held, first, last, matched, run in rows[np.argsort(rows[:, 0])].tolist():
            cover = 1.0 if self.index.is_short[passage] else held / int(self.index.distinct[passage])
            matches.append(Match(passage, cover, matched, run, int(places[first, 0]), int(places[last + self.index.ngram - 1, 1])))
        return matches


def strings(texts: Sequence[str]) -> pa.Array:
    """Texts as the passes take them."""
    return pa.array(texts, pa.large_string())


@njit(cache=True, nogil=True)
def _gram_batch(data, offsets, fold, edges, words, folded, ngram, found, bounds, n_words):
    for d in range(len(offsets) - 1):
        _, n = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        n_words[d] = n
        hash_words(folded, 0, edges, n, words)
        n = join_words(words, n, ngram) if n >= ngram else 0
        found[bounds[d] : bounds[d] + n] = words[:n]
        bounds[d + 1] = bounds[d] + n


@njit(cache=True, nogil=True)
def _find_batch(data, offsets, fold, edges, words, folded, index, positions, found, bounds):
    """The n-grams of every text that the index knows: at which word they begin, and their numbers."""
    for d in range(len(offsets) - 1):
        _, n = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        hash_words(folded, 0, edges, n, words)
        n = join_words(words, n, index.ngram) if n >= index.ngram else 0
        at = end = bounds[d]
        for i in range(n):  # no branches: the loads of many n-grams are under way together
            word, bits = _filter_bits(words[i], index.filter)
            positions[end] = i
            end += index.filter[word] & bits == bits
        for i in positions[at:end]:
            positions[at], found[at] = i, _number(words[i], index)
            at += found[at] >= 0
        bounds[d + 1] = at


@njit(inline="always")
def _filter_bits(hash, filter):
    """Where in the filter a hash has its bits, and which: two of one word, so that a look-up is one load."""
    bits = np.uint64(1) << (hash >> np.uint64(26) & np.uint64(63)) | np.uint64(1) << (hash >> np.uint64(32) & np.uint64(63))
    return hash & np.uint64(len(filter) - 1), bits


@njit(cache=True, nogil=True)
def _set_filter(keys, filter):
    for key in keys:
        word, bits = _filter_bits(key, filter)
        filter[word] |= bits


@njit
def _number(hash, index):
    """The place of a hash among the keys, -1 where it is none of them."""
    bucket = hash >> np.uint64(index.shift)
    for i in range(index.buckets[bucket], index.buckets[bucket + np.uint64(1)]):
        if index.keys[i] == hash:
            return i
    return -1


@njit(cache=True, nogil=True)
def _covers(positions, found, index, seen, counts, slots):
    """Passages that a document covers: int64[n, 6] of passage, n-grams held, first and last n-gram's word, words matched, run.

    seen, counts, slots: of the length of keys, passages, passages; 0, 0, -1 before and after.
    """
    candidates = _candidates(found, index, seen, counts)
    for c in range(len(candidates)):
        slots[candidates[c]] = c
    bounds, members = _members(found, index, slots, len(candidates))
    rows, n = np.empty((len(candidates), 6), np.int64), 0
    for c in range(len(candidates)):
        passage = candidates[c]
        slots[passage] = -1
        mine = members[bounds[c] : bounds[c + 1]]
        if len(mine) == 0:
            continue
        if index.is_short[passage]:
            first = _whole(mine, positions, found, index.grams[index.bounds[passage] : index.bounds[passage + 1]])
            held, last, told = index.distinct[passage], first + index.n_words[passage] - index.ngram, first >= 0
            matched = run = index.n_words[passage]
        else:
            held, begin, end = _window(mine, positions, found, seen, SPAN * index.n_words[passage] - index.ngram)
            first, last = positions[mine[begin]], positions[mine[end]]
            matched, _ = _extent(mine[begin : end + 1], positions, index.ngram)
            _, run = _extent(mine, positions, index.ngram)
            run = min(run, index.n_words[passage])
            told = held >= FLOOR * index.distinct[passage] or run >= RUN_WORDS
        rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3], rows[n, 4], rows[n, 5] = passage, held, first, last, matched, run
        n += told
    return rows[:n]


@njit
def _candidates(found, index, seen, counts):
    """Passages of which a document holds enough n-grams anywhere, in the order in which they are met."""
    touched = [np.int32(0) for _ in range(0)]
    for g in found:
        if seen[g] == 0:
            seen[g] = 1
            for o in range(index.owner_bounds[g], index.owner_bounds[g + 1]):
                if counts[index.owners[o]] == 0:
                    touched.append(index.owners[o])
                counts[index.owners[o]] += 1
    for g in found:
        seen[g] = 0
    enough = [np.int32(0) for _ in range(0)]
    for passage in touched:
        if counts[passage] >= index.least[passage]:
            enough.append(passage)
        counts[passage] = 0
    return enough


@njit
def _members(found, index, slots, n):
    """For each of n candidates the places in `found` of its n-grams, in order: bounds and places."""
    bounds, total, upto = np.zeros(n + 1, np.int64), 0, 0
    while upto < len(found) and total < PLACES:
        for o in range(index.owner_bounds[found[upto]], index.owner_bounds[found[upto] + 1]):
            slot = slots[index.owners[o]]
            if slot >= 0:
                bounds[slot + 1] += 1
                total += 1
        upto += 1
    bounds = np.cumsum(bounds)
    places, filled = np.empty(total, np.int32), bounds[:-1].copy()
    for h in range(upto):
        for o in range(index.owner_bounds[found[h]], index.owner_bounds[found[h] + 1]):
            slot = slots[index.owners[o]]
            if slot >= 0:
                places[filled[slot]] = h
                filled[slot] += 1
    return bounds, places


@njit
def _whole(mine, positions, found, sequence):
    """The word at which `sequence` first stands in the document, n-gram after n-gram; -1 if nowhere."""
    for h in mine:
        if found[h] != sequence[0] or h + len(sequence) > len(found):
            continue
        same = 0
        while same < len(sequence) and found[h + same] == sequence[same] and positions[h + same] == positions[h] + same:
            same += 1
        if same == len(sequence):
            return np.int64(positions[h])
    return np.int64(-1)


@njit
def _window(mine, positions, found, inside, span):
    """The most distinct n-grams that begin within `span` words, and the first and last of the first such window, places in `mine`.

    inside: zeros before and after, one an n-gram of the index.
    """
    best, best_begin, best_end = 0, 0, 0
    held, begin = 0, 0
    for end in range(len(mine)):
        inside[found[mine[end]]] += 1
        held += inside[found[mine[end]]] == 1
        while positions[mine[end]] - positions[mine[begin]] > span or inside[found[mine[begin]]] > 1:
            inside[found[mine[begin]]] -= 1
            held -= inside[found[mine[begin]]] == 0
            begin += 1
        if held > best:
            best, best_begin, best_end = held, begin, end
    for h in mine:
        inside[found[h]] = 0
    return best, best_begin, best_end


@njit
def _extent(mine, positions, ngram):
    """Words in the n-grams at these places, and in the longest stretch of n-grams that begin at one word after the other."""
    matched = longest = run = 0
    for i in range(len(mine)):
        gap = positions[mine[i]] - positions[mine[i - 1]] if i > 0 else ngram
        matched += min(gap, ngram)
        run = run + 1 if i > 0 and gap == 1 else ngram
        longest = max(longest, run)
    return matched, longest


@njit(cache=True, nogil=True)
def _word_places(text, fold, n):
    """First byte of each of the first n words and the byte after its last: int64[n, 2]."""
    places, word, i, inside = np.zeros((n, 2), np.int64), 0, 0, False
    while i < len(text) and word < n:
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        is_word, alone = fold[code] & WORD != 0, fold[code] & ALONE != 0
        if inside and not is_word:
            places[word, 1] = i
            word += 1
        if word < n and (alone or is_word and not inside):
            places[word, 0] = i
        if word < n and alone:
            places[word, 1] = i + width
            word += 1
        inside = is_word
        i += width
    if inside and word < n:
        places[word, 1] = len(text)
    return places
