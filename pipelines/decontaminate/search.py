"""Which passages of an index a text covers: the compiled passes that ask it.

A long passage, of `short` words or more, is covered by the share of its distinct n-grams that stand inside `SPAN` times
its length: a book does not cover it by n-grams scattered over chapters. A short one is covered whole or not at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.decontaminate.index import FLOOR, RUN_WORDS, Index, filter_bits, hashed_words, number
from pipelines.decontaminate.phrases import Phrases, find_phrases
from pipelines.decontaminate.phrases import build as build_phrases
from pipelines.decontaminate.plain import bisect, inner, plain_batch, plain_places
from pipelines.texts.characters import Strings, decode, longest, read_only
from pipelines.texts.words import ALONE, WORD, WORD_FOLD, fold_text, folded_room, hash_words, join_words, room

NEAR = 0.8  # from this share of words on a passage is told though its n-grams are not covered: flagged, not dropped
SLACK = 1 / 8  # of a passage's words: what edits may shift
SPAN = 4  # of a passage's words: question and answer may stand apart, with as much between them
PLACES = 1 << 24  # at most so many (n-gram, passage) meetings of one document are looked at: 128 MB


class Match(NamedTuple):
    """How a text covers a passage; start and end are bytes, `end` after the last. Phrases are numbered behind the
    passages of the index. near: the share of the words, weighed, that stand about where they should."""

    passage: int
    cover: float
    near: float
    matched: int
    run: int
    start: int
    end: int


class Searcher:
    """An index with the room that searching takes, for one worker: arrays as long as the index that documents share."""

    def __init__(self, index: Index, phrases: Phrases | None = None):
        frozen = lambda parts: (read_only(part) if isinstance(part, np.ndarray) else part for part in parts)  # noqa: E731
        self.index, self.phrases = Index(*frozen(index)), Phrases(*frozen(phrases or build_phrases([], index.ngram)))
        self.seen = np.zeros(len(index.keys), np.int32)
        self.counts = np.zeros(len(index.n_words), np.int32)
        self.slots = np.full(len(index.n_words), -1, np.int32)

    def search(self, texts: Strings) -> list[tuple[int, list[Match]]]:
        """(number of the text, its matches by passage) of the texts that cover anything, in order."""
        data, offsets = plain_batch(texts)
        most = (offsets[-1] - offsets[0]) // 2 + len(texts)
        positions, grams = np.empty(most, np.int32), np.empty(most, np.int32)
        bounds = np.zeros(len(texts) + 1, np.int64)
        folded = np.empty(folded_room(longest(offsets)), np.uint8)
        edges, words = room(offsets)
        joined, told = np.empty_like(words), np.full(len(self.phrases.known), -1)
        standing = _find_batch(
            data,
            offsets,
            WORD_FOLD,
            edges,
            words,
            folded,
            joined,
            self.index,
            self.phrases,
            told,
            positions,
            grams,
            bounds,
        ).reshape(-1, 5)
        matches = []
        for d in np.union1d(np.flatnonzero(np.diff(bounds)), standing[:, 0]).tolist():
            hits, phrases = slice(bounds[d], bounds[d + 1]), standing[standing[:, 0] == d, 1:]
            if mine := self._matches(texts.slice(d, 1), positions[hits], grams[hits], phrases):
                matches.append((d, mine))
        return matches

    def _matches(self, text: Strings, positions: np.ndarray, grams: np.ndarray, phrases: np.ndarray) -> list[Match]:
        words, _ = hashed_words(text)
        rows, near = _covers(words, positions, grams, self.index, self.seen, self.counts, self.slots)
        if len(rows) + len(phrases) == 0:
            return []
        ngram, n_passages = self.index.ngram, len(self.index.n_words)
        last = max(rows[:, 3].max(initial=0) + ngram, phrases[:, 2].max(initial=0) + 1)
        smooth, begins, ends = plain_places(read_only(np.frombuffer(text[0].as_buffer(), np.uint8)))
        places = _word_places(smooth, WORD_FOLD, int(last))
        place = lambda first, last: (int(begins[places[first, 0]]), int(ends[places[last, 1] - 1]))  # noqa: E731
        matches = []
        for i in np.argsort(rows[:, 0]):
            passage, held, first, last, matched, run = rows[i].tolist()
            whole, part = self.index.is_short[passage] and held, held / int(self.index.distinct[passage])
            cover = 1.0 if whole else part
            matches.append(Match(passage, cover, float(near[i]), matched, run, *place(first, last + ngram - 1)))
        for phrase, first, last, held in phrases.tolist():
            matches.append(Match(n_passages + phrase, 1.0, 1.0, held, held, *place(first, last)))
        return matches


@njit(cache=True, nogil=True)
def _find_batch(data, offsets, fold, edges, words, folded, joined, index, phrases, told, positions, grams, bounds):
    """The n-grams of every text that the index knows: at which word they begin, and their numbers. Returns the rows of
    `find_phrases`, one behind the other."""
    rows = [np.int64(0) for _ in range(0)]
    for d in range(len(offsets) - 1):
        _, n = fold_text(data[offsets[d] : offsets[d + 1]], fold, folded, 0, edges)
        hash_words(folded, 0, edges, n, words)
        if len(phrases.keys) > 0:
            find_phrases(words, n, joined, phrases, d, told, rows)
        n = join_words(words, n, index.ngram) if n >= index.ngram else 0
        at = end = bounds[d]
        for i in range(n):  # no branches: the loads of many n-grams are under way together
            word, bits = filter_bits(words[i], index.filter)
            positions[end] = i
            end += index.filter[word] & bits == bits
        for i in positions[at:end]:
            positions[at], grams[at] = i, number(words[i], index)
            at += grams[at] >= 0
        bounds[d + 1] = at
    return np.array(rows, np.int64)


@njit(cache=True, nogil=True)
def _covers(words, positions, grams, index, seen, counts, slots):
    """Passages that a document covers: int64[n, 6] of passage, n-grams held (0 of a short one that is not whole), first
    and last n-gram's word, words matched, run; and float64[n], near.

    seen, counts, slots: of the length of keys, passages, passages; 0, 0, -1 before and after.
    """
    candidates = _candidates(grams, index, seen, counts)
    for c in range(len(candidates)):
        slots[candidates[c]] = c
    bounds, members = _members(grams, index, slots, len(candidates))
    rows, near, n = np.empty((len(candidates), 6), np.int64), np.empty(len(candidates), np.float64), 0
    for c in range(len(candidates)):
        passage = candidates[c]
        slots[passage] = -1
        mine = members[bounds[c] : bounds[c + 1]]
        if len(mine) == 0:
            continue
        held, begin, end = _window(mine, positions, grams, seen, SPAN * index.n_words[passage] - index.ngram)
        first, last = np.int64(positions[mine[begin]]), np.int64(positions[mine[end]])
        matched, _ = _extent(mine[begin : end + 1], positions, index.ngram)
        _, run = _extent(mine, positions, index.ngram)
        run = min(run, index.n_words[passage])
        near[n] = _near(words, first, grams[mine[begin]], passage, index)
        least = FLOOR * index.distinct[passage]  # a run of one n-gram over and over is none
        told = held >= least or run >= RUN_WORDS and held > RUN_WORDS - index.ngram
        if index.is_short[passage]:
            start = _whole(mine, positions, grams, index.grams[index.bounds[passage] : index.bounds[passage + 1]])
            told, held = start >= 0, np.int64(index.distinct[passage] if start >= 0 else 0)
            if told:
                first, last, near[n] = start, start + index.n_words[passage] - index.ngram, 1.0
                matched = run = index.n_words[passage]
        rows[n, 0], rows[n, 1] = passage, held
        rows[n, 2], rows[n, 3], rows[n, 4], rows[n, 5] = first, last, matched, run
        n += told or near[n] >= NEAR
    return rows[:n], near[:n]


@inner
def _near(words, first, gram, passage, index):
    """The share of a passage's words, weighed, that stand where it would, were its n-gram at the document's word
    `first` in its place: within its length and SLACK of that at either end, in any order."""
    place, n_words = index.bounds[passage], index.n_words[passage]
    while index.grams[place] != gram:
        place += 1
    begin = first - (place - index.bounds[passage])
    slack = np.int64(SLACK * n_words) + 1
    words_at, words_end = index.word_bounds[passage], index.word_bounds[passage + 1]
    mine, weights = index.words[words_at:words_end], index.weights[words_at:words_end]
    standing = np.zeros(len(mine), np.int64)  # how often each word does, at the first of the equal ones
    for word in words[max(0, begin - slack) : begin + n_words + slack]:
        w = bisect(mine, word)
        if w < len(mine) and mine[w] == word:
            standing[w] += 1
    total, same = 0.0, 0
    for w in range(len(mine)):
        same = w if mine[w] != mine[same] else same
        if w - same < standing[same]:
            total += weights[w]
    return min(total, 1.0)  # weights are float32: their sum may be more


@inner
def _candidates(grams, index, seen, counts):
    """Passages of which a document holds enough n-grams anywhere, in the order in which they are met."""
    touched = [np.int32(0) for _ in range(0)]
    for g in grams:
        if seen[g] == 0:
            seen[g] = 1
            for o in range(index.owner_bounds[g], index.owner_bounds[g + 1]):
                if counts[index.owners[o]] == 0:
                    touched.append(index.owners[o])
                counts[index.owners[o]] += 1
    for g in grams:
        seen[g] = 0
    enough = [np.int32(0) for _ in range(0)]
    for passage in touched:
        if counts[passage] >= index.least[passage]:
            enough.append(passage)
        counts[passage] = 0
    return enough


@inner
def _members(grams, index, slots, n):
    """For each of n candidates the places in `grams` of its n-grams, in order: bounds and places."""
    bounds, total, upto = np.zeros(n + 1, np.int64), 0, 0
    while upto < len(grams) and total < PLACES:
        for o in range(index.owner_bounds[grams[upto]], index.owner_bounds[grams[upto] + 1]):
            slot = slots[index.owners[o]]
            if slot >= 0:
                bounds[slot + 1] += 1
                total += 1
        upto += 1
    for slot in range(n):
        bounds[slot + 1] += bounds[slot]
    places, filled = np.empty(total, np.int32), bounds[:-1].copy()
    for h in range(upto):
        for o in range(index.owner_bounds[grams[h]], index.owner_bounds[grams[h] + 1]):
            slot = slots[index.owners[o]]
            if slot >= 0:
                places[filled[slot]] = h
                filled[slot] += 1
    return bounds, places


@inner
def _whole(mine, positions, grams, sequence):
    """The word at which `sequence` first stands in the document, n-gram after n-gram; -1 if nowhere."""
    for h in mine:
        if grams[h] != sequence[0] or h + len(sequence) > len(grams):
            continue
        same = 0
        while same < len(sequence) and grams[h + same] == sequence[same] and positions[h + same] == positions[h] + same:
            same += 1
        if same == len(sequence):
            return np.int64(positions[h])
    return np.int64(-1)


@inner
def _window(mine, positions, grams, inside, span):
    """The most distinct n-grams that begin within `span` words, and the first and last of the first such window, places
    in `mine`.

    inside: zeros before and after, one an n-gram of the index.
    """
    best, best_begin, best_end = 0, 0, 0
    held, begin = 0, 0
    for end in range(len(mine)):
        inside[grams[mine[end]]] += 1
        held += inside[grams[mine[end]]] == 1
        while positions[mine[end]] - positions[mine[begin]] > span or inside[grams[mine[begin]]] > 1:
            inside[grams[mine[begin]]] -= 1
            held -= inside[grams[mine[begin]]] == 0
            begin += 1
        if held > best:
            best, best_begin, best_end = held, begin, end
    for h in mine:
        inside[grams[h]] = 0
    return best, best_begin, best_end


@inner
def _extent(mine, positions, ngram):
    """Words in the n-grams at these places, and in the longest stretch of n-grams that begin at one word after the
    other."""
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
