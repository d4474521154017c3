"""Quality of a document: a fastText classifier per domain, trained here on examples of what is wanted (DCLM, 2406.11794).

The positives are the user's, the negatives a sample of the domain's pool; what counts is the rank of a score among those
of the same model, never its value (a classifier across domains mostly sorts by domain). A language with examples enough
has a model of its own, named domain.language. The model reads the head, middle and tail of a text, 2,000 bytes each, so
that neither length nor boilerplate at the top decides (a scorer of the first 4 KB only was a real bug in the wild); it
averages over their words, so one prediction is the mean over the three.

fastText trains; a compiled pass predicts, several times as fast and without Python strings. With two labels the model
is linear in its features, the words and the hashed pairs of words: one weight each, and the probability is the logistic
function of their mean. fastText's own prediction is the oracle in the tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipelines import audit
from pipelines.signals import linear
from pipelines.signals.characters import FOLD, Strings, constant, decode, encode, utf8
from pipelines.signals.linear import PREFIX
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.measure import Context

COLUMNS = (
    Column("quality", "double", "probability of being like the positives of its domain; null where the domain has no model", nullable=True),
    Column("quality_model", "string", "the model that the score is of: a domain, or domain.language; null without one", nullable=True),
)

WINDOW_BYTES = 2000
EXCERPT_BYTES = 3 * (WINDOW_BYTES + 3) * 3 // 2 + 3  # lower case may take three bytes for two
MIN_EXAMPLES = 20  # of each kind: below, a held-out tenth has no two texts to compare
WANTED, OTHER = "__label__wanted", "__label__other"
# Small, so that training takes seconds and a model 7 MB; word pairs are worth 1 point of CORE in DCLM's table.
SETTINGS = {"dim": 16, "wordNgrams": 2, "bucket": 100_000, "lr": 0.5, "minCount": 2, "thread": 1, "verbose": 0}
# DCLM's rate of .1 and 5 epochs are for 400,000 examples. Told apart pieces of the standard library and of two packages
# from 100 / 400 / 1,200 examples of each: AUC .80 / .83 / .88 as in DCLM, .93 / .99 / .99 with .5 and this rule.
MIN_EPOCHS, MAX_EPOCHS, EXAMPLES_SEEN = 5, 25, 20_000
M_PERTURB = -6  # malloc.h of glibc


@dataclass(frozen=True)
class Trained:
    """A quality model: the bytes of its file, and what its card says.

    `auc` is the chance that a held-out positive scores above a held-out text of the pool, .5 is guessing; `interval` has the
    true one with 95 % confidence. `n_empty` examples had no words, `n_copies` of the pool were near copies of positives: neither
    are used.
    """

    model: bytes
    auc: float
    interval: tuple[float, float]
    calibration: dict[str, Any]
    n_positives: int
    n_pool: int
    n_heldout: int
    n_empty: int
    n_copies: int


def train(positives: list[str], pool: list[str], seed: int, name: str = "model") -> Trained:
    """Train on nine tenths, test on the rest. Equal texts and seed give equal bytes (one thread, seeded order).

    Near copies of one another stand on one side, so the test is of texts that were not seen. Raises ValueError for fewer
    than 20 usable positives or pool texts, or too few that differ; `name` stands in its message.
    """
    read = [excerpt(text) for text in (*positives, *pool)]
    wanted, worded = np.arange(len(read)) < len(positives), np.array([bool(line.strip(" \0")) for line in read], bool)
    groups = near_copies(read)
    copied = worded & ~wanted & np.isin(groups, groups[wanted & worded])
    for kind, which, left_out in (("positives", wanted, ~worded), ("pool texts", ~wanted, ~worded | copied)):
        _require(name, kind, int(which.sum()), int((which & left_out).sum()))
    kinds = [np.flatnonzero(which & worded & ~copied) for which in (wanted, ~wanted)]
    heldout = [_heldout(name, members, groups[members], seed + i) for i, members in enumerate(kinds)]
    lines = [f"{label} {read[i]}" for label, members, out in zip((WANTED, OTHER), kinds, heldout, strict=True) for i in members[~out]]
    np.random.default_rng(seed).shuffle(lines)  # fastText reads in the order of the file
    model = _fit(lines, seed)
    scores = [score(pa.array([read[i] for i in members[out]]), model) for members, out in zip(kinds, heldout, strict=True)]
    sizes, auc = [len(one) for one in scores], audit.auc(*scores)
    calibration = audit.calibration(np.concatenate(scores), np.repeat([1.0, 0.0], sizes))
    counts = (*map(len, kinds), sum(sizes), int((~worded).sum()), int(copied.sum()))
    return Trained(model, auc, audit.auc_interval(auc, *sizes), calibration, *counts)


def near_copies(texts: list[str]) -> np.ndarray:
    """int64[texts]: equal numbers for texts that share a MinHash band, or are connected by others that do."""
    from pipelines.measure import Context
    from pipelines.signals import fingerprints

    keys = fingerprints.measure(pa.array(texts, pa.string()), None, Context(b""))[3]
    owner, first = np.repeat(np.arange(len(texts)), pc.list_value_length(keys)), {}
    groups = list(range(len(texts)))

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = i = groups[groups[i]]
        return i

    for i, key in zip(owner.tolist(), keys.flatten().to_pylist(), strict=True):
        a, b = root(i), root(first.setdefault(key, i))
        groups[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(texts))], np.int64)


def _require(name: str, kind: str, given: int, left_out: int) -> None:
    if given - left_out >= MIN_EXAMPLES:
        return
    why = "without words" if kind == "positives" else "without words or near copies of positives"
    without = f" of {given} ({left_out} are {why})" if left_out else ""
    raise ValueError(
        f"quality.{name}: expected at least {MIN_EXAMPLES} {kind}, found {given - left_out}{without}; "
        f"{'let `positives` match more documents' if kind == 'positives' else 'let `positives` match fewer documents of the domain'}"
    )


def _heldout(name: str, members: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """bool[members]: whole groups of near copies in seeded order, as long as they are no more than a tenth together."""
    numbers, sizes = np.unique(groups, return_counts=True)
    order, most = np.random.default_rng(seed).permutation(len(numbers)), len(members) // 10
    order = order[sizes[order] <= most]
    drawn = np.isin(groups, numbers[order[np.cumsum(sizes[order]) <= most]])
    if not drawn.any():
        raise ValueError(
            f"quality.{name}: expected examples that differ, found {len(members)} in {len(numbers)} groups of near copies, none "
            "small enough to test on; let `positives` match other documents"
        )
    return drawn


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document. known: `domain` and `lang` of every document."""
    names = models_of(known, context)
    logits = np.full(len(texts), np.nan)
    data, offsets = utf8(texts)
    for name, model in context.quality_models.items():
        chosen = np.flatnonzero(pc.equal(names, name).fill_null(False))
        _score_batch(data, offsets, chosen, FOLD, np.empty(EXCERPT_BYTES, np.uint8), weights_of(model), logits)
    return [pa.array(_logistic(logits), from_pandas=True), names]  # NaN is null


def models_of(known: dict[str, pa.Array], context: Context) -> pa.Array:
    """The name of the model that scores each document: its language's if there is one, else its domain's, else null."""
    names = pa.nulls(len(known["domain"]), pa.string())
    if not context.quality_models:
        return names
    domains = known["domain"].cast(pa.string())
    for exact in (domains, pc.binary_join_element_wise(domains, known["lang"].cast(pa.string()), ".")):
        names = pc.if_else(pc.is_in(exact, pa.array(list(context.quality_models))), exact, names)
    return names


def score(texts: Strings, model: bytes) -> np.ndarray:
    """Probability of being like the positives, float64, of each text."""
    logits = np.empty(len(texts))
    _score_batch(*utf8(texts), np.arange(len(texts)), FOLD, np.empty(EXCERPT_BYTES, np.uint8), weights_of(model), logits)
    return _logistic(logits)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def excerpt(text: str) -> str:
    """What training reads of a text: one line in lower case, without what fastText takes for a label or the end of a line."""
    room = np.empty(EXCERPT_BYTES, np.uint8)
    size = _excerpt(utf8(pa.array([text]))[0], FOLD, room)
    return room[:size].tobytes().decode().replace(PREFIX, " ").replace("</s>", " ")


def _fit(lines: list[str], seed: int) -> bytes:
    epochs = min(max(EXAMPLES_SEEN // len(lines), MIN_EPOCHS), MAX_EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        examples, model = Path(folder, "examples.txt"), Path(folder, "model.bin")
        examples.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with _zeroed_memory():
            fasttext.train_supervised(str(examples), seed=seed, epoch=epochs, **SETTINGS).save_model(str(model))
        return model.read_bytes()


@contextlib.contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Let malloc hand out zeros.

    fastText 0.9.3 with one thread starts nine tenths of its matrix from whatever stood in that memory (densematrix.cc:
    the random start fills a tenth a thread, aligned.h does not clear): no two runs agree, some end in "Encountered NaN".
    glibc fills what it hands out with the complement of M_PERTURB's byte. Other C libraries have no mallopt; there
    blocks of this size come fresh from the kernel, which is zeros too.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: None)
    mallopt(M_PERTURB, 0xFF)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)


class Weights(NamedTuple):
    """A two-label fastText model with word pairs as one weight a feature."""

    words: linear.Words
    weights: np.ndarray  # float32[words + buckets]: half a megabyte, which a core's own cache holds


@functools.lru_cache(maxsize=64)
def weights_of(model: bytes) -> Weights:
    """The weights of a model, from the bytes of its file."""
    file = linear.read(model)
    wanted = file.labels.index(WANTED.removeprefix(PREFIX))
    return Weights(linear.words_of(file.words), constant(file.inputs @ (file.outputs[wanted] - file.outputs[1 - wanted])))


@njit(cache=True, nogil=True)
def _excerpt(text, fold, out):
    """Write the folded text, or its three windows, to out; bytes written."""
    if len(text) <= 3 * WINDOW_BYTES:
        return _window(text, 0, len(text), fold, out, 0)
    at = 0
    for begin in (0, (len(text) - WINDOW_BYTES) // 2, len(text) - WINDOW_BYTES):
        at = _window(text, begin, begin + WINDOW_BYTES, fold, out, at)
    return at


@njit
def _window(text, i, end, fold, out, at):
    """Append the code points that begin in text[i:end], in lower case, a space for white space and one at the end."""
    while i < end and text[i] & 0xC0 == 0x80:
        i += 1
    while i < end:
        code, width = np.uint32(text[i]), 1
        if code >= 128:
            code, width = decode(text, i)
        at = encode(fold[code], out, at)
        i += width
    out[at] = 32
    return at + 1


@njit(cache=True, nogil=True)
def _score_batch(data, offsets, chosen, fold, out, model, logits):
    for d in chosen:
        size = _excerpt(data[offsets[d] : offsets[d + 1]], fold, out)
        logits[d] = _logit(out[:size], model)


@njit
def _logit(text, model):
    """Mean weight of the words, of </s> behind them, and of each two neighbours."""
    n_words = len(model.words.offsets) - 1
    total, n = 0.0, 0
    begin, previous, has_previous = 0, np.uint64(0), False
    for i in range(len(text) + 1):
        at_end = i == len(text)
        if at_end or text[i] == 32 or text[i] == 0:
            if i > begin or at_end:
                hash = linear.fnv(linear.END) if at_end else linear.fnv(text[begin:i])
                row = linear.row_of(model.words, hash, linear.END) if at_end else linear.row_of(model.words, hash, text[begin:i])
                if row >= 0:
                    total += model.weights[row]
                    n += 1
                signed = np.uint64(np.int64(np.int32(hash)))  # fastText widens the hash as a signed number
                if has_previous:
                    pair = (previous * np.uint64(116049371) + signed) % np.uint64(len(model.weights) - n_words)
                    total += model.weights[n_words + np.int64(pair)]
                    n += 1
                previous, has_previous = signed, True
            begin = i + 1
    return total / max(n, 1)
