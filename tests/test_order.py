"""The order of words: a naive reading of pairs is the oracle; what was never fitted to is told from itself shuffled."""

from __future__ import annotations

import re
from pathlib import Path

import corpus
import numpy as np
import pyarrow as pa
import pytest

from pipelines.models import audit
from pipelines.models.limits import shuffle
from pipelines.models.order import fit
from pipelines.signals import order
from pipelines.signals.context import Context

ROOT = Path(__file__).parents[1]
ODD = ("", " ", "one", "a b, c d. e\nf\t g - h", "Über-ALLES über alles", "你好世界", "中a 文b", "x_1 y2 3", "é" * 3000, "a " * 4000, "\0 \0", "don't  stop")


def naive(text: str) -> list[tuple[str, str]]:
    """Neighbouring words with nothing but white space between them; each Han character is a word."""
    words = list(re.finditer(r"[一-鿿]|[^\W一-鿿]+", text.lower()))
    between = [(a, b, text[a.end() : b.start()]) for a, b in zip(words[:-1], words[1:], strict=True)]
    alone = lambda word: "一" <= word[0] <= "鿿"  # noqa: E731
    return [(a[0], b[0]) for a, b, gap in between if gap.isspace() or (not gap and (alone(a[0]) or alone(b[0])))]


def counted(texts: list[str]) -> np.ndarray:
    return order.count(pa.array(texts, pa.string()))


def bucket(first: str, second: str) -> int:
    return int(np.argmax(counted([f"{first} {second}"])))


def measured(texts: list[str], lang: str = "en") -> list[float | None]:
    return order.measure(pa.array(texts, pa.string()), {"lang": pa.array([lang] * len(texts))}, Context(b""))[0].to_pylist()


@pytest.mark.parametrize("text", [text for text in ODD if len(text) < 3000])
def test_pairs_are_those_that_a_naive_reading_has(text):
    pairs = naive(text)
    assert counted([text]).sum() == len(pairs)
    assert sorted(np.repeat(np.arange(order.BUCKETS), counted([text]))) == sorted(bucket(*pair) for pair in pairs)


def test_a_score_is_the_mean_weight_of_the_pairs():
    languages, weights = order.tables()
    text = (ROOT / "docs" / "design.md").read_text("utf-8")[:2900]
    expected = np.mean([weights[languages.index("en")][bucket(*pair)] / order.STEPS for pair in naive(text)])
    assert measured([text]) == [pytest.approx(expected)]


def test_a_long_text_is_read_at_its_head_its_middle_and_its_tail():
    head, middle, tail, other = ("the first of these " * 50, "in the middle of it " * 50, "and at the very end " * 50, "green ideas sleep furiously " * 200)
    text = head[:1000] + other + middle[:1000] + other + tail[-1000:]
    apart = [counted([part]) for part in (text[:1000], text[(len(text) - 1000) // 2 :][:1000], text[-1000:])]
    assert (counted([text]) == sum(apart)).all()
    assert counted(["é" + "ß" * 5000]).sum() == 0  # windows begin at whole characters


def test_without_a_table_or_with_too_few_pairs_there_is_no_score():
    text = "it is one of the things that we have to do in order to be " * 5
    assert measured([text], "xx") == measured([text], "und") == measured(["of the " * 16], "en") == [None]
    assert measured([text])[0] > 0 and measured(["of the " * 17])[0] is not None


def test_prose_that_no_table_was_fitted_to_is_told_from_its_words_shuffled():
    """Docstrings of the standard library, and the pages of this repository."""
    texts = [text for text in corpus.docstrings(corpus.modules()) if measured([text])[0] is not None]
    pages = "\n\n".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    texts += [pages[at : at + 1500] for at in range(0, len(pages), 1500)]
    random = np.random.default_rng(1)
    shuffled = [shuffle(text, "words", random) for text in texts]
    scores = [np.array([one for one in measured(kind) if one is not None]) for kind in (texts, shuffled)]
    assert len(texts) > 80 and audit.auc(*scores) > 0.95
    assert np.median(scores[0]) > 0.2 and np.median(scores[1]) < 0.1


def test_sentences_and_lines_in_another_order_are_the_same_to_it():
    text = (ROOT / "docs" / "operation.md").read_text("utf-8")[:2900]
    (before, after) = measured([text, shuffle(text, "lines", np.random.default_rng(1))])
    assert after == pytest.approx(before, abs=0.05)


def test_a_table_holds_what_stands_in_the_texts_and_not_in_their_shuffled_words():
    random = np.random.default_rng(3)
    texts = [" ".join(random.permutation([f"noun{i} verb{i}" for i in range(40)])) for _ in range(200)]
    table = fit(texts, seed=1)
    assert all(table[bucket(f"noun{i}", f"verb{i}")] > 2 * order.STEPS for i in range(40))
    assert np.median([table[bucket(f"verb{i}", f"verb{i + 1}")] for i in range(39)]) < 0
    assert np.median([table[bucket(f"never{i}", f"met{i}")] for i in range(40)]) == 0
    assert (table == fit(texts, seed=1)).all()


def test_batches_sliced_large_or_empty_are_measured_alike():
    texts = pa.array([*ODD, "it is one of the things that we have to do in order to be " * 5])
    known = {"lang": pa.array(["en"] * len(texts))}
    (whole,) = order.measure(texts, known, Context(b""))
    for kind in (pa.string(), pa.large_string()):
        (part,) = order.measure(texts.cast(kind).slice(4), {"lang": known["lang"].slice(4)}, Context(b""))
        assert part.equals(whole.slice(4)) and part[-1].as_py() is not None
    assert len(order.measure(texts.slice(2, 0), {"lang": known["lang"].slice(2, 0)}, Context(b""))[0]) == 0
