"""lid.176's kind of model, predicted without fastText: character n-grams, and labels in a tree (hierarchical softmax).

A model is linear: a text is the mean of the rows of its features (its words, their character n-grams, and `</s>` at the
end), and labels are told from that mean. The compiled passes take bytes of Arrow buffers and make no Python strings;
fastText's own prediction is their oracle in the tests.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.texts.characters import read_only
from pipelines.texts.fasttext_file import END, PREFIX, Words, fnv, read, row_of, words_of
from pipelines.texts.find import equal, stands

SOFTMAX, HIERARCHICAL = 3, 1  # values of `loss`
# ---- character n-grams and labels in a tree ----

# lid.176's; known to the compiler, which unrolls the loops and divides by multiplying
MIN_N, MAX_N, N_BUCKETS = 2, 4, 2_000_000
LABEL = np.frombuffer(PREFIX.encode(), np.uint8)  # fastText takes such a word for a label, not for text


class Classifier(NamedTuple):
    """A model of words and character n-grams whose labels are leaves of a Huffman tree (hierarchical softmax)."""

    words: Words
    row_of_bucket: np.ndarray  # int32[N_BUCKETS], -1 where the n-grams of a bucket were pruned
    kept: np.ndarray  # uint64[N_BUCKETS / 64], a bit a bucket: in a core's own cache, which 8 MB of rows are not
    kept: np.ndarray  # uint64[N_BUCKETS / 64], a bit a bucket: in a core's own cache, which 8 MB of rows are not
    inputs: np.ndarray  # float32[rows, dim]
    outputs: np.ndarray  # float32[labels - 1, dim], of the inner nodes
    # int32[labels - 1, 2], of the inner nodes: labels, or from `labels` on inner nodes, the root the last
    children: np.ndarray
    parents: np.ndarray  # int32[2 * labels - 1], inner node above a label or (behind the labels) an inner node


@functools.lru_cache(maxsize=16)
def classifier(model: bytes) -> Classifier:
    """The model as the passes below take it. Raises ValueError for one of another kind than lid.176."""
    file = read(model)
    found = tuple(file.arguments[name] for name in ("loss", "minn", "maxn", "bucket", "wordNgrams"))
    if found != (HIERARCHICAL, MIN_N, MAX_N, N_BUCKETS, 1):
        wanted = f"hierarchical softmax and character {MIN_N} to {MAX_N}-grams in {N_BUCKETS:,} buckets, as lid.176 has"
        raise ValueError(
            f"expected a fastText model with {wanted}; found loss, minn, maxn, bucket and wordNgrams {found}"
        )
    n_words = len(file.words)
    row_of_bucket = np.full(N_BUCKETS, -1, np.int32)
    kept = np.arange(N_BUCKETS) if file.buckets is None else file.buckets
    row_of_bucket[kept] = np.arange(n_words, n_words + len(kept))
    bits = np.packbits(row_of_bucket >= 0, bitorder="little").view(np.uint64)
    children, parents = huffman(file.counts)
    arrays = (row_of_bucket, bits, file.inputs, file.outputs[: len(children)], children, parents)
    return Classifier(words_of(file.words), *map(read_only, arrays))


def huffman(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(children int32[n - 1, 2], parents int32[2n - 1]) of the tree that fastText builds of n labels' counts,
    descending.

    Nodes are numbered as there: 0 to n - 1 the labels, then the inner nodes, the root last.
    """
    n = len(counts)
    total = np.concatenate([counts, np.full(n - 1, 10**15)])
    children, parents = np.zeros((n - 1, 2), np.int32), np.full(2 * n - 1, -1, np.int32)
    leaf, node = n - 1, n
    for made in range(n, 2 * n - 1):
        for side in (0, 1):
            if leaf >= 0 and total[leaf] < total[node]:
                least, leaf = leaf, leaf - 1
            else:
                least, node = node, node + 1
            children[made - n, side], parents[least] = least, made
        total[made] = total[children[made - n]].sum()
    return children, parents


@njit
def features(room, size, model, rows):
    """Write the rows of a text's features to `rows`, int32[at least 4 * size + 8]; how many.

    room: uint8[size + 2], the text from place 1 on, with a space before and behind it. Spaces become the < and > that
    fastText puts around a word.
    """
    words, kept, row_of_bucket = model.words, model.kept, model.row_of_bucket
    n, begin, hashes = 0, 1, np.empty(MAX_N, np.uint32)
    for i in range(1, size + 2):
        if not _ends_word(room[i]):
            continue
        if i > begin:
            word = room[begin:i]
            row = row_of(words, fnv(word), word)
            if row >= 0:
                rows[n] = row
                n += 1
            if equal(word, END):
                return n
            if not stands(word, 0, LABEL):
                room[begin - 1], room[i] = 60, 62
                n = _ngrams(room, begin - 1, i + 1, kept, row_of_bucket, hashes, rows, n)
        begin = i + 1
    rows[n] = row_of(words, fnv(END), END)
    return n + 1


@njit(inline="always")
def _ends_word(byte):
    return byte == 32 or byte == 0 or 9 <= byte <= 13


@njit
def _ngrams(room, begin, end, kept, row_of_bucket, hashes, rows, n):
    """Append the rows of the n-grams of the code points in room[begin:end], in the order of their ends.

    hashes: uint32[MAX_N], of the last one, two ... code points; each goes on from that of one fewer before.
    """
    i, length = begin, 0
    while i < end:
        for k in range(MAX_N - 1, 0, -1):
            hashes[k] = hashes[k - 1]
        hashes[0] = 2166136261
        while True:
            for k in range(MAX_N):
                hashes[k] = np.uint32((hashes[k] ^ np.uint32(np.int8(room[i]))) * np.uint32(16777619))
            i += 1
            if i >= end or room[i] & 0xC0 != 0x80:
                break
        length += 1
        for k in range(MIN_N - 1, min(length, MAX_N)):
            bucket = hashes[k] % np.uint32(N_BUCKETS)
            if kept[bucket >> np.uint32(6)] >> np.uint64(bucket & np.uint32(63)) & np.uint64(1):  # one in nine
                rows[n] = row_of_bucket[bucket]
                n += 1
    return n


@njit
def mean(inputs, rows, n, out):
    """The mean of some rows, float32[dim], summed in their order as fastText does."""
    out[:] = 0
    for i in range(n):
        row = inputs[rows[i]]
        for k in range(len(out)):
            out[k] += row[k]
    out *= np.float32(1 / max(n, 1))


@njit
def best(model, hidden, stack, chances):
    """(label, its probability): the most probable leaf, searched depth first, the likelier child before the other.

    fastText adds 1e-5 to each probability on the way, so that its logarithm is finite: done here too. stack:
    int64[labels], chances: float64[labels].
    """
    n_labels = len(model.parents) + 1 >> 1
    label, most, top = -1, -1.0, 0
    stack[0], chances[0] = len(model.parents) - 1, 1.0
    while top >= 0:
        node, chance = stack[top], chances[top]
        top -= 1
        if chance <= most:
            continue
        if node < n_labels:
            label, most = node, chance
            continue
        right = _sigmoid(model.outputs[node - n_labels], hidden)
        first = 1 if right > 0.5 else 0
        for side in (1 - first, first):
            top += 1
            stack[top] = model.children[node - n_labels, side]
            chances[top] = chance * ((right if side else 1 - right) + 1e-5)
    return label, most


@njit
def probability(model, hidden, label):
    """The probability of one label, as `best` has it."""
    n_labels = len(model.parents) + 1 >> 1
    chance, node = 1.0, label
    while model.parents[node] >= 0:
        parent = model.parents[node]
        right = _sigmoid(model.outputs[parent - n_labels], hidden)
        chance *= (right if model.children[parent - n_labels, 1] == node else 1 - right) + 1e-5
        node = parent
    return chance


@njit
def _sigmoid(row, hidden):
    total = np.float32(0)
    for k in range(len(hidden)):
        total += row[k] * hidden[k]
    return 1 / (1 + math.exp(-total))


@njit(cache=True, nogil=True)
def predict(data, offsets, model, labels, scores):
    """Write the label's number and its probability for every text, as fastText's predict tells them.

    labels: int32[texts], scores: float64[texts]. Line ends count as spaces, where fastText would stop.
    """
    longest = 0
    for d in range(len(labels)):
        longest = max(longest, offsets[d + 1] - offsets[d])
    room, rows = np.empty(longest + 2, np.uint8), np.empty(4 * longest + 8, np.int32)
    hidden = np.empty(model.inputs.shape[1], np.float32)
    stack, chances = np.empty(len(model.parents), np.int64), np.empty(len(model.parents))
    for d in range(len(labels)):
        size = offsets[d + 1] - offsets[d]
        room[0] = room[size + 1] = 32
        room[1 : size + 1] = data[offsets[d] : offsets[d + 1]]
        mean(model.inputs, rows, features(room, size, model, rows), hidden)
        labels[d], scores[d] = best(model, hidden, stack, chances)
