"""Items whose question is shorter than an n-gram: the question stands whole, and so does enough of what goes with it.

A question of a few words is a phrase that others use. It is an item's where its answer, or options as printed, stand
behind it within SPAN times the item's length, with SAFE_WORDS and SAFE_BYTES in all; label words may stand between. A
question of as many words and ALONE_BYTES is looked for by itself, unless more than SHARED items ask it: of 705 such
questions of 4 to 7 words of ARC, SciQ, OpenBookQA and Jeopardy four stand in a corpus of 900 MB that holds no
evaluations, one of them as the question it is, the others of 14 to 22 letters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.decontaminate.index import filter_bits, filter_of, hashed_words, strings
from pipelines.decontaminate.plain import bisect, inner
from pipelines.texts.words import join_words

ANCHOR = np.int64(3)  # the last words of a question, by which it is looked for; shorter ones are not
SPAN = 4  # as of search.SPAN
SAFE_WORDS, SAFE_BYTES, ALONE_BYTES = 6, 24, 28  # bytes of words: where a character is a word, six are soon met
SHARED = 4  # items
MEETINGS = 1 << 20  # at most so many (anchor, question) meetings of one document are looked at


class Phrases(NamedTuple):
    """P short questions and their parts, by the hash of each question's last words.

    keys: uint64, ascending; filter: as of an Index; owners[owner_bounds[k] : owner_bounds[k + 1]]: int32, questions of
    key k. words[bounds[s] : bounds[s + 1]]: uint64, words of segment s; segments[p] to segments[p + 1]: int64, those of
    phrase p, the question first; sizes: int64, bytes of a segment's words. n_words: int64[P], of all segments. known,
    alone (the question suffices): bool[P].
    """

    keys: np.ndarray
    filter: np.ndarray
    owner_bounds: np.ndarray
    owners: np.ndarray
    words: np.ndarray
    bounds: np.ndarray
    segments: np.ndarray
    sizes: np.ndarray
    n_words: np.ndarray
    known: np.ndarray
    alone: np.ndarray


def build(items: Sequence[Sequence[str]], ngram: int) -> Phrases:
    """items: the question and its parts, each. Known is a question of ANCHOR to ngram - 1 words that can be safe."""
    segments, texts = np.cumsum([0, *map(len, items)]), [text for item in items for text in item]
    words, bounds = hashed_words(strings(texts))
    sizes = np.array([sum(map(len, re.findall(rb"[\w\x80-\xff]+", text.encode()))) for text in texts], np.int64)
    n_words, n_bytes = (np.append(0, np.cumsum(of))[segments] for of in (np.diff(bounds), sizes))
    n_words, n_bytes = np.diff(n_words), np.diff(n_bytes)
    firsts = segments[:-1] if len(items) else np.zeros(0, np.int64)
    lengths = np.diff(bounds)[firsts]
    asked = Counter(questions := [words[bounds[s] : bounds[s + 1]].tobytes() for s in firsts])
    alone = (lengths >= SAFE_WORDS) & (sizes[firsts] >= ALONE_BYTES)
    alone &= np.array([asked[question] <= SHARED for question in questions], bool)
    known = (n_words >= SAFE_WORDS) & (n_bytes >= SAFE_BYTES) & (n_words > lengths) | alone
    known &= (lengths >= ANCHOR) & (lengths < ngram)
    ends = bounds[firsts] + lengths
    anchors = np.array([_anchor(words[ends[p] - ANCHOR : ends[p]]) for p in np.flatnonzero(known)], np.uint64)
    keys, places, counts = np.unique(anchors, return_inverse=True, return_counts=True)
    owners = np.flatnonzero(known)[np.argsort(places, kind="stable")].astype(np.int32)
    owner_bounds = np.append(0, np.cumsum(counts)).astype(np.int64)
    return Phrases(keys, filter_of(keys), owner_bounds, owners, words, bounds, segments, sizes, n_words, known, alone)


def _anchor(words: np.ndarray) -> np.uint64:
    joined = words.copy()
    join_words(joined, ANCHOR, ANCHOR)
    return joined[0]


@inner
def find_phrases(words, n, joined, phrases, document, told, rows):
    """Append to rows, of the phrases that stand in n words: document, phrase, first word, last word, words that stand.

    joined: room for n hashes. told: the last document that holds each phrase, so that it is told once.
    """
    for i in range(n):
        joined[i] = words[i]
    left = MEETINGS
    n_anchors = join_words(joined, n, ANCHOR) if n >= ANCHOR else 0
    for i in range(n_anchors):
        word, bits = filter_bits(joined[i], phrases.filter)
        if phrases.filter[word] & bits != bits:
            continue
        key = bisect(phrases.keys, joined[i])
        if key == len(phrases.keys) or phrases.keys[key] != joined[i]:
            continue
        begin = phrases.owner_bounds[key]
        owners = phrases.owners[begin : min(phrases.owner_bounds[key + 1], begin + left)]
        left -= len(owners)
        for phrase in owners:
            if told[phrase] != document:
                first, last, held = _stands(words[:n], i + ANCHOR, phrases, phrase)
                if held > 0:
                    told[phrase] = document
                    rows.extend((np.int64(document), np.int64(phrase), np.int64(first), np.int64(last), np.int64(held)))


@inner
def _stands(words, end, phrases, phrase):
    """First and last word, and how many stand, of a phrase whose question ends before word `end`; 0 if too few do."""
    segment, behind = phrases.segments[phrase], phrases.segments[phrase + 1]
    question = phrases.words[phrases.bounds[segment] : phrases.bounds[segment + 1]]
    first, last, held, size = end - len(question), end, len(question), phrases.sizes[segment]
    if first < 0 or not _is_at(words, first, question):
        return first, last, 0
    reach = min(len(words), end + SPAN * phrases.n_words[phrase])
    for s in range(segment + 1, behind):
        part = phrases.words[phrases.bounds[s] : phrases.bounds[s + 1]]
        for i in range(end, reach - len(part) + 1):
            if _is_at(words, i, part):
                held, size = held + len(part), size + phrases.sizes[s]
                last = max(last, i + len(part))
                break
    is_safe = held > len(question) and held >= SAFE_WORDS and size >= SAFE_BYTES
    return first, last - 1, held if is_safe or phrases.alone[phrase] else 0


@inner
def _is_at(words, i, part):
    for j in range(len(part)):
        if words[i + j] != part[j]:
            return False
    return True
