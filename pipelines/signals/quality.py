"""Quality of a document: a fastText classifier per domain, trained here on examples of what is wanted (DCLM, 2406.11794).

The positives are the user's, the negatives a sample of the domain's pool; what counts is the rank of a score inside its
domain, never its value (a classifier across domains mostly sorts by domain). The model reads the head, middle and tail
of a text, 2,000 bytes each, so that neither length nor boilerplate at the top decides (a scorer of the first 4 KB only
was a real bug in the wild); it averages over their words, so one prediction is the mean over the three.

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
from typing import TYPE_CHECKING, NamedTuple

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipelines.signals import linear
from pipelines.signals.characters import FOLD, Strings, constant, decode, encode, utf8
from pipelines.signals.linear import PREFIX
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.measure import Context

COLUMNS = (
    Column("quality", "double", "probability of being like the positives of its domain; null where the domain has no model", nullable=True),
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

    `auc` is the chance that a held-out positive scores above a held-out text of the pool; .5 is guessing.
    """

    model: bytes
    auc: float
    n_positives: int
    n_pool: int
    n_heldout: int


def train(positives: list[str], pool: list[str], seed: int) -> Trained:
    """Train on nine tenths, test on the rest. Equal texts and seed give equal bytes (one thread, seeded order).

    Raises ValueError for fewer than 20 positives or pool texts.
    """
    for name, texts in (("positives", positives), ("pool texts", pool)):
        if len(texts) < MIN_EXAMPLES:
            raise ValueError(f"a quality model needs at least {MIN_EXAMPLES} {name}, found {len(texts)}")
    wanted, heldout_wanted = _split(positives, seed)
    other, heldout_other = _split(pool, seed + 1)
    lines = [f"{WANTED} {excerpt(text)}" for text in wanted] + [f"{OTHER} {excerpt(text)}" for text in other]
    np.random.default_rng(seed).shuffle(lines)  # fastText reads in the order of the file
    model = _fit(lines, seed)
    auc = _auc(score(pa.array(heldout_wanted), model), score(pa.array(heldout_other), model))
    return Trained(model, auc, len(positives), len(pool), len(heldout_wanted) + len(heldout_other))


def measure(texts: Strings, domains: pa.Array, context: Context) -> list[pa.Array]:
    """The column of COLUMNS, one value a document."""
    quality = np.full(len(texts), np.nan)
    for domain, model in context.quality_models.items():
        chosen = np.flatnonzero(pc.equal(domains, domain))
        quality[chosen] = score(texts.take(pa.array(chosen)), model)
    return [pa.array(quality, from_pandas=True)]  # NaN is null


def score(texts: Strings, model: bytes) -> np.ndarray:
    """Probability of being like the positives, float64, of each text."""
    logits = np.empty(len(texts))
    _score_batch(*utf8(texts), FOLD, np.empty(EXCERPT_BYTES, np.uint8), weights_of(model), logits)
    return 1 / (1 + np.exp(-logits))


def excerpt(text: str) -> str:
    """What training reads of a text: one line in lower case, without what fastText takes for a label or the end of a line."""
    room = np.empty(EXCERPT_BYTES, np.uint8)
    size = _excerpt(utf8(pa.array([text]))[0], FOLD, room)
    return room[:size].tobytes().decode().replace(PREFIX, "").replace("</s>", "")


def _split(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Nine tenths and one tenth, in seeded order."""
    order = np.random.default_rng(seed).permutation(len(texts))
    n_heldout = len(texts) // 10
    return [texts[i] for i in order[n_heldout:]], [texts[i] for i in order[:n_heldout]]


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


def _auc(wanted: np.ndarray, other: np.ndarray) -> float:
    """Share of pairs in the right order, ties half (Mann-Whitney)."""
    ordered = np.sort(other)
    below, up_to = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
    return float((below + up_to).mean() / (2 * len(other)))


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
def _score_batch(data, offsets, fold, out, model, logits):
    for d in range(len(logits)):
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
