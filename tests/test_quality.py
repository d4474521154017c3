"""Quality models against what they are for: fastText predicts, naive loops count, planted faults must be seen in the card."""

from __future__ import annotations

import itertools
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest

from pipelines.models import audit, limits
from pipelines.models.examples import by_language
from pipelines.models.quality import _heldout, near_copies, train
from pipelines.signals import linear, quality
from pipelines.signals.context import Context

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
FILES = ("this.py", "textwrap.py", "heapq.py", "encodings/cp1252.py", "json/decoder.py", "token.py")
ODD = ("", " ", "\0", "one\0two", "…", "\u2028a\u2029b\u00a0c\u3000d", "İstanbul Σας ẞ", "é à ü ñ café 你好。世界！！", "_", "</s", "Ünï cödé 你好 " * 2000, "unseen words only")


def essays(n: int, seed: int) -> list[str]:
    return phrases("theorem proof lemma integral suppose therefore converges bounded operator continuous".split(), n, seed)


def adverts(n: int, seed: int) -> list[str]:
    return phrases("buy cheap click offer discount free shipping now subscribe deal".split(), n, seed)


def phrases(words: list[str], n: int, seed: int) -> list[str]:
    """Two thirds of the words are common to all kinds of phrases."""
    random = np.random.default_rng(seed)
    vocabulary = words + "the of a and in to is that for it with on as by this at from or an be".split()
    return [" ".join(random.choice(vocabulary, random.integers(30, 60))) for _ in range(n)]


def standard_library_texts() -> list[str]:
    return [(STANDARD_LIBRARY / name).read_text("utf-8")[:6000] for name in FILES]


# ---- training and scoring ----


def test_models_are_the_same_bytes_twice_and_separate_kinds():
    trained = train(essays(100, 1), adverts(150, 2), seed=7)
    assert trained == train(essays(100, 1), adverts(150, 2), seed=7)
    assert trained.model != train(essays(100, 1), adverts(150, 2), seed=8).model
    assert trained.auc > 0.99
    assert (trained.n_positives, trained.n_pool, trained.n_heldout, trained.n_empty, trained.n_copies) == (100, 150, 25, 0, 0)
    assert train(essays(150, 1), adverts(100, 2), seed=7).auc > 0.99  # fastText puts the commoner label first
    scores = quality.score(pa.array(essays(20, 3) + adverts(20, 4)), trained.model)
    assert scores[:20].min() > scores[20:].max()
    assert scores.min() >= 0 and scores.max() <= 1


def test_texts_that_cannot_be_told_apart_are_a_guess_and_the_interval_says_so():
    trained = train(essays(300, 1), essays(300, 2), seed=7)
    assert abs(trained.auc - 0.5) < 0.2
    assert trained.interval[0] < 0.5 < trained.interval[1]


@pytest.mark.parametrize(
    ("positives", "pool", "said"),
    [
        (essays(19, 1), adverts(20, 2), r"quality\.docs: expected at least 20 positives, found 19; let `positives` match more documents"),
        (essays(20, 1), adverts(3, 2), r"quality\.docs: expected at least 20 pool texts, found 3; let `positives` match fewer"),
        (essays(10, 1), [], "at least 20 positives, found 10"),
        (essays(40, 1), [], "at least 20 pool texts, found 0"),
        ([], adverts(40, 1), "at least 20 positives, found 0"),
        (essays(40, 1), essays(40, 1), r"at least 20 pool texts, found 0 of 40 \(40 are without words or near copies of positives\)"),
        ([""] * 15 + [" \n"] * 15, adverts(30, 1), r"at least 20 positives, found 0 of 30 \(30 are without words\)"),
        (essays(1, 1) * 40, adverts(40, 2), r"expected examples that differ, found 40 in 1 groups of near copies, none small enough"),
    ],
)
def test_examples_that_do_not_do_are_refused_with_what_to_do(positives, pool, said):
    with pytest.raises(ValueError, match=said):
        train(positives, pool, seed=1, name="docs")


def test_near_copies_stand_on_one_side_and_those_of_positives_leave_the_pool():
    letter = "dear reader this long letter was sent to every customer of ours without a single change but the name of"
    copies = [f"{letter} {name}" for name in ("ann", "bob", "cleo", "dora", "emil")]
    groups = near_copies([*essays(50, 1), *copies, *essays(50, 1)])
    assert len(set(groups[50:55])) == 1 and (groups[:50] == groups[55:]).all() and len(set(groups)) == 51
    trained = train([*essays(40, 1), *copies[:2]], [*adverts(40, 2), *copies[2:], "", "\0"], seed=3)
    assert (trained.n_positives, trained.n_pool, trained.n_copies, trained.n_empty) == (42, 40, 3, 2)
    groups = np.repeat(np.arange(30), 3)
    drawn = _heldout("docs", np.arange(90), groups, seed=5)
    assert 0 < drawn.sum() <= 9 and all(len(set(drawn[groups == group])) == 1 for group in range(30))


def test_a_memorised_copy_does_not_raise_the_held_out_figure():
    """Labels at random: whoever is tested on what it learnt by heart seems to know them."""
    shared = essays(120, 1)
    copies = [text + f" x{i}" for i, text in enumerate(shared)]
    trained = train(shared[:60] + copies[:60], shared[60:] + copies[60:], seed=2)
    assert trained.interval[0] < 0.5 < trained.interval[1]


def test_windows_are_head_middle_and_tail_and_hold_no_labels():
    long = "A" * 5000 + "B" * 5000 + "C" * 5000
    assert Counter(quality.excerpt(long)) == {"a": 2000, "b": 2000, "c": 2000, " ": 3}
    assert quality.excerpt("Short\ntext __label__wanted </s>\u2003É") == "short text  wanted   é "
    assert quality.excerpt("a" + "é" * 5000).split() == ["a" + "é" * 1000, "é" * 1000, "é" * 1000]  # never half a character


def test_scores_are_what_fasttext_predicts():
    trained = train(essays(100, 1), [*adverts(100, 2), *standard_library_texts()], seed=7)
    documents = [*essays(10, 3), *adverts(10, 4), *standard_library_texts(), *ODD]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(trained.model)
        file.flush()
        predict = fasttext.load_model(file.name).f.predict
    predictions = [predict(quality.excerpt(document) + "\n", 1, 0.0, "strict")[0] for document in documents]
    expected = [probability if label == quality.WANTED else 1 - probability for probability, label in predictions]
    assert quality.score(pa.array(documents), trained.model) == pytest.approx(expected, abs=2e-5)  # its sums are float32
    assert np.std(expected) > 0.1


def test_memory_that_was_used_before_does_not_leak_into_a_model():
    expected = train(essays(50, 1), adverts(50, 2), seed=7).model
    garbage = [np.random.default_rng(i).random(200_000 + i) for i in range(20)]  # 32 MB, some of it kept by malloc
    del garbage
    assert train(essays(50, 1), adverts(50, 2), seed=7).model == expected


def test_a_quality_model_is_no_language_model():
    with pytest.raises(ValueError, match="hierarchical softmax and character 2 to 4-grams in 2,000,000 buckets"):
        linear.classifier(train(essays(20, 1), adverts(20, 2), seed=7).model)


# ---- one model a domain, or a language of it ----


def test_the_language_s_model_scores_else_the_domain_s_else_none():
    web, german = (train(essays(30, seed), adverts(30, 2), seed=7).model for seed in (1, 3))
    context = Context(b"", {"web": web, "web.de": german})
    texts = pa.array(essays(6, 4))
    known = {"domain": pa.array(["web", "web", "code", "web", "web.de", "code"]), "lang": pa.array(["en", "de", "de", "und", "x", "en"])}
    scores, names = quality.measure(texts, known, context)
    assert names.to_pylist() == ["web", "web.de", None, "web", "web.de", None]
    alone = {"web": quality.score(texts, web), "web.de": quality.score(texts, german), None: [None] * 6}
    assert scores.to_pylist() == [alone[name][i] for i, name in enumerate(names.to_pylist())]
    assert scores[0].as_py() != alone["web.de"][0]
    nothing = quality.measure(texts, known, Context(b""))
    assert [column.to_pylist() for column in nothing] == [[None] * 6] * 2


GERMAN = "der die das und nicht ist mit auf für ein eine dem sich auch werden haben über nach noch durch".split()
ENGLISH = "the and not is with for one this also they have over after still through because would where".split()


def written(words: list[str], n: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, 40)) for _ in range(n)]


@pytest.mark.parametrize(
    ("german", "english", "models"),
    [
        ((120, 110), (150, 130), {"web": (270, 240), "web.de": (120, 110), "web.en": (150, 130)}),
        ((90, 300), (150, 130), {"web": (240, 430), "web.en": (150, 130)}),  # too few German positives
        ((20, 20), (300, 300), {"web": (320, 320)}),  # too little else for English to need one of its own
        ((0, 0), (300, 300), {"web": (300, 300)}),
    ],
)
def test_a_language_with_examples_enough_has_a_model_of_its_own(language_model, german, english, models):
    kinds = [
        [("web", text) for text in written(GERMAN, g, 1 + i) + written(ENGLISH, e, 5 + i)] for i, (g, e) in enumerate(zip(german, english, strict=True))
    ]
    examples = by_language("web", *kinds, language_model)
    assert {name: tuple(map(len, texts)) for name, texts in examples.items()} == models
    if "web.de" in examples:
        assert set(" ".join(text for _, text in itertools.chain(*examples["web.de"])).split()) <= set(GERMAN)


# ---- the card ----


def test_auc_counts_pairs_ties_half():
    random = np.random.default_rng(1)
    wanted, other = random.integers(0, 9, 60) / 8, random.integers(0, 7, 40) / 8
    assert audit.auc(wanted, other) == pytest.approx(np.mean([(w > o) + (w == o) / 2 for w in wanted for o in other]))


@pytest.mark.parametrize(("n_wanted", "n_other", "shift"), [(20, 20, 1.0), (10, 60, 1.5), (200, 200, 0.5)])
def test_the_interval_holds_the_true_auc_about_as_often_as_it_says(n_wanted, n_other, shift):
    from math import erf

    random, truth, n = np.random.default_rng(2), (1 + erf(shift / 2)) / 2, 600  # of two normal distributions `shift` apart
    held = 0
    for _ in range(n):
        low, high = audit.auc_interval(audit.auc(random.normal(shift, 1, n_wanted), random.normal(0, 1, n_other)), n_wanted, n_other)
        held += low <= truth <= high
    assert 0.92 <= held / n <= 0.985


def test_a_perfect_test_of_two_texts_is_no_certainty():
    assert audit.auc_interval(1.0, 2, 2)[0] < 0.5
    assert audit.auc_interval(1.0, 500, 500)[0] > 0.98
    assert audit.auc_interval(0.0, 2, 2)[1] > 0.5


def test_calibration_is_the_naive_one():
    random = np.random.default_rng(4)
    scores = random.random(500)
    wanted = (random.random(500) < scores).astype(float)
    calibration = audit.calibration(scores, wanted)
    assert calibration["ece"] < 0.1 and calibration["brier"] == pytest.approx(sum((s - w) ** 2 for s, w in zip(scores, wanted, strict=True)) / 500)
    assert sum(row["n"] for row in calibration["bins"]) == 500 and len(calibration["bins"]) == 10
    inside = [w for s, w in zip(scores, wanted, strict=True) if 0.3 <= s < 0.4]
    assert (calibration["bins"][3]["n"], calibration["bins"][3]["wanted"]) == (len(inside), pytest.approx(np.mean(inside)))
    assert audit.calibration(np.ones(4), np.zeros(4)) == {"brier": 1.0, "ece": 1.0, "bins": [{"from": 0.9, "n": 4, "score": 1.0, "wanted": 0.0}]}


def test_rank_correlation_and_source_alone_of_a_table_are_those_of_its_documents():
    from scipy.stats import spearmanr

    table = np.random.default_rng(5).integers(0, 6, (4, 7))
    rows, columns = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))
    assert audit.spearman(table) == pytest.approx(spearmanr(rows, columns).statistic)
    upto = np.cumsum(table.sum(axis=0))
    cut = min(range(1, 7), key=lambda c: abs(2 * upto[c - 1] - upto[-1]))
    share = [np.mean(columns[rows == row] >= cut) for row in range(4)]
    guess = np.array([share[row] for row in rows])
    assert audit.auc_alone(table) == pytest.approx(audit.auc(guess[columns >= cut], guess[columns < cut]))
    assert audit.auc_alone(np.array([[3, 0], [0, 3]])) == 1 and audit.auc_alone(np.array([[2, 2], [5, 5]])) == 0.5
    assert audit.auc_alone(np.array([[4]])) == 0.5 and audit.spearman(np.array([[4]])) == 0


def test_the_audit_sees_a_model_that_sorts_sources_and_shows_both_ends(spark):
    random, rows = np.random.default_rng(6), []
    for i in range(600):
        source, blind = ("a", "b")[i % 2], random.random()
        sorting = 0.5 + 0.4 * blind if source == "a" else 0.5 * blind
        rows.append((f"{i:03}", source, "en", int(100 * 2 ** (8 * blind)), sorting, "sorting"))
        rows.append((f"{i + 600:03}", source, "de", int(2 ** random.integers(6, 16)), blind, "blind"))
        rows.append((f"{i + 1200:04}", source, "de", 9, None, None))
    signals = spark.createDataFrame(rows, "doc_id string, source string, lang string, n_bytes long, quality double, quality_model string")
    documents = spark.createDataFrame([(row[0], f"text of {row[0]}" + "." * 300) for row in rows], "doc_id string, text string")
    by_model = audit.audit(signals, documents)
    assert sorted(by_model) == ["blind", "sorting"]
    assert by_model["sorting"]["source_alone"] > 0.99 and "source alone tells with AUC 1.00" in by_model["sorting"]["warnings"][0]
    assert by_model["blind"]["source_alone"] < 0.6 and by_model["blind"]["warnings"] == []
    assert by_model["blind"]["language_alone"] == 0.5 and by_model["blind"]["documents"] == 600
    assert abs(by_model["blind"]["length_spearman"]) < 0.15 and by_model["blind"]["length_alone"] < 0.6
    inside = [row for row in rows if row[5] == "sorting" and row[1] == "a"]
    assert by_model["sorting"]["length_spearman"] > 0.3
    best = {row[0] for row in sorted(inside, key=lambda row: -row[4])[:15]}  # a bin may reach beyond the percent
    assert len(by_model["sorting"]["top"]) == audit.SHOWN and {one["doc_id"] for one in by_model["sorting"]["top"]} <= best
    for end in ("top", "bottom"):
        for one in by_model["blind"][end]:
            assert one["text"] == f"text of {one['doc_id']}".ljust(audit.CHARS, ".")
    assert max(one["quality"] for one in by_model["blind"]["bottom"]) < 0.03 < 0.97 < min(one["quality"] for one in by_model["blind"]["top"])


# ---- what a model does not do ----


def sentences(n: int, seed: int) -> list[str]:
    """Texts in which a word says what follows it."""
    random, texts = np.random.default_rng(seed), []
    for _ in range(n):
        pairs = random.permutation(np.repeat([f"noun{i} verb{i}." for i in range(12)], 3))
        texts.append("\n".join(" ".join(pairs[at : at + 6]) for at in range(0, 36, 6)))
    return texts


PARTS = {"words": str.split, "lines": lambda text: text.split("\n"), "sentences": lambda text: text.replace("? ", "?|").replace(". ", ".|").replace("\n", " ").split("|")}


@pytest.mark.parametrize("unit", limits.UNITS)
def test_shuffled_is_the_same_units_in_another_order(unit):
    text = "One two three. Four, five? Six seven eight\nnine. Ten? Eleven 3.5 twelve. Thirteen\nfourteen"
    shuffled = limits.shuffle(text, unit, np.random.default_rng(2))
    assert shuffled != text and shuffled == limits.shuffle(text, unit, np.random.default_rng(2))
    if unit == "sentences":
        assert all(part in " ".join(shuffled.split()) for part in PARTS[unit](text)) and len(shuffled) == len(text)
    else:
        assert Counter(PARTS[unit](shuffled)) == Counter(PARTS[unit](text))


def test_the_order_test_tells_a_model_that_sees_the_order_from_one_that_does_not():
    random, texts = np.random.default_rng(1), sentences(200, 1)
    seeing = train(texts, [limits.shuffle(text, "words", random) for text in sentences(200, 2)], seed=7)
    blind = train(essays(200, 1), adverts(200, 3), seed=7)
    sees, does_not = limits.order_test(seeing.model, sentences(60, 4), seed=5), limits.order_test(blind.model, essays(60, 4), seed=5)
    assert sees["words"] > 0.95 and abs(does_not["words"] - 0.5) < 0.1
    assert sees["lines"] < sees["words"] and does_not["lines"] == does_not["sentences"] == 0.5  # of one line, one sentence


def shop(n: int, seed: int) -> list[str]:
    """Adverts but for two words, which who has not met them cannot know."""
    return [f"{text} whisk butter whisk butter" for text in adverts(n, seed)]


def test_a_source_that_was_left_out_shows_whether_the_model_travels():
    """Essays of one source are like those of another; what a shop says is to a model of essays like the pool."""
    positives = [("a", text) for text in essays(60, 1)] + [("b", text) for text in essays(60, 2)] + [("shop", text) for text in shop(60, 3)]
    pool = [("ads", text) for text in adverts(120, 4)]
    trained = train([text for _, text in positives], [text for _, text in pool], seed=7)
    card = limits.limits(trained, (positives, pool), {"more": essays(30, 5), "spam": adverts(30, 6)}, seed=7)
    rows = {row["source"]: row for row in card["transfer"]}
    assert [(row["source"], row["kind"]) for row in card["transfer"]] == [
        ("a", "positives"), ("b", "positives"), ("shop", "positives"), ("ads", "pool"), ("more", "elsewhere"), ("spam", "elsewhere"),
    ]  # fmt: skip
    assert sum(rows[source]["texts"] for source in ("a", "b", "shop", "ads")) == trained.n_heldout
    assert rows["a"]["unseen"] > 0.95 and rows["b"]["unseen"] > 0.95 and rows["shop"]["unseen"] < 0.8 < rows["shop"]["auc"]
    assert rows["ads"]["unseen"] is None and rows["more"]["auc"] > 0.95 and abs(rows["spam"]["auc"] - 0.5) < 0.2
    assert [warning.split(":")[0] for warning in card["warnings"]] == ["the order of words hardly counts", "it does not travel to shop (positives)"]


def test_of_one_source_each_the_card_says_that_it_cannot_tell():
    positives, pool = [("a", text) for text in essays(40, 1)], [("ads", text) for text in adverts(40, 4)]
    trained = train([text for _, text in positives], [text for _, text in pool], seed=7)
    card = limits.limits(trained, (positives, pool), {}, seed=7)
    assert [row["unseen"] for row in card["transfer"]] == [None, None]
    assert card["warnings"][-1].startswith("whether it travels cannot be told")


def test_near_copies_of_what_was_learnt_are_no_test_of_travel():
    positives = [(source, text) for source in ("a", "b") for text in essays(40, 1)]  # the same texts
    pool = [("ads", text) for text in adverts(80, 4)]
    trained = train([text for _, text in positives], [text for _, text in pool], seed=7)
    assert [row["unseen"] for row in limits.transfer(trained, (positives, pool), {}, seed=7)] == [None] * 3
