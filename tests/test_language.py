"""Languages: fastText's own prediction is the oracle of the compiled one; windows and what is left out, by hand."""

from __future__ import annotations

import random
import re
import tempfile

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.signals import language, linear, prose
from pipelines.signals.context import Context
from pipelines.texts import fasttext_file
from pipelines.texts.characters import utf8

SENTENCES = {
    "en": "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund, und niemand im Dorf war überrascht.",
    "fr": "Le renard brun saute par-dessus le chien paresseux, et personne au village n'en fut surpris.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, и никто в деревне не удивился.",
    "zh": "敏捷的棕色狐狸跳过了那只懒惰的狗，村子里的人谁也没有感到惊讶，因为这件事每天都会发生。",
    "ar": "يقفز الثعلب البني السريع فوق الكلب الكسول ولم يتفاجأ أحد في القرية بما حدث اليوم.",
    "hi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर से कूदती है और गाँव में किसी को आश्चर्य नहीं हुआ।",
    "ja": "すばしっこい茶色の狐はのろまな犬を飛び越えたが、村では誰も驚かなかった。",
    "tr": "Hızlı kahverengi tilki tembel köpeğin üzerinden atlar ve köyde kimse buna şaşırmadı.",
}
HOSTILE = (
    "", " ", "   \t\n\v\f\r", "\0", "a\0b c\0\0d", "</s>", "one </s> two", "<", ">", "__label__en", "__label__en bonjour tout le monde", "__label__",
    "🎉", "🎉🎉 🎉 👨‍👩‍👧‍👦", "é" * 5000, "x" * 1_000_000, "\u0085\u2028\ufeff", "\U0010ffff" * 9, "a", "ab", "é", "de la in", "ﷺ" * 50, "a " * 5000,
)  # fmt: skip


@pytest.fixture(scope="module")
def binding(language_model):
    with tempfile.NamedTemporaryFile(suffix=".ftz") as file:
        file.write(language_model)
        file.flush()
        yield fasttext.load_model(file.name).f


def identified(texts, language_model) -> list[tuple]:
    return list(zip(*(column.to_pylist() for column in language.measure(pa.array(texts, pa.string()), None, Context(language_model))), strict=True))


def assert_predicts(texts: list[str], language_model, binding) -> None:
    """Same labels as fastText, scores to 1e-5."""
    model, (data, offsets) = linear.classifier(language_model), utf8(pa.array(texts))
    labels, scores = np.empty(len(texts), np.int32), np.empty(len(texts))
    linear.predict(data, offsets, model, labels, scores)
    for text, label, score in zip(texts, labels, scores, strict=True):
        ((expected, name),) = binding.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
        assert (fasttext_file.PREFIX + fasttext_file.read(language_model).labels[label], score) == (name, pytest.approx(expected, abs=1e-5)), text[:100]


def mixtures(n: int) -> list[str]:
    """Distinct texts: words of one, two or all languages in disorder, some cut to pieces."""
    draw, words = random.Random(5), {name: sentence.split() for name, sentence in SENTENCES.items()}
    texts = []
    for _ in range(n):
        known = [word for name in draw.sample(sorted(words), draw.choice([1, 1, 2, len(words)])) for word in words[name]]
        pieces = [word[: draw.randrange(1, 9)] if draw.random() < 0.3 else word for word in draw.choices(known, k=draw.randrange(1, 80))]
        texts.append(" ".join(pieces))
    return texts


def test_labels_and_scores_are_those_of_fasttext(language_model, binding):
    assert_predicts([*SENTENCES.values(), *HOSTILE, *mixtures(3000)], language_model, binding)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=20))
def test_labels_of_any_unicode_are_those_of_fasttext(language_model, binding, texts):
    assert_predicts(texts, language_model, binding)


def test_a_label_s_own_probability_is_the_one_it_wins_with(language_model):
    model = linear.classifier(language_model)
    hidden = np.random.default_rng(3).normal(size=(50, model.inputs.shape[1])).astype(np.float32)
    n_labels = len(model.outputs) + 1
    for row in hidden:
        every = [linear.probability(model, row, label) for label in range(n_labels)]
        label, chance = linear.best(model, row, np.empty(len(model.parents), np.int64), np.empty(len(model.parents)))
        assert (label, chance) == (np.argmax(every), pytest.approx(max(every)))
        assert sum(every) == pytest.approx(1, abs=1e-3)


def test_a_file_that_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="expected a fastText model of version 12, found 5 bytes"):
        fasttext_file.read(b"hello")


def test_sentences_are_told_with_certainty(language_model):
    for expected, (lang, score, mixed) in zip(SENTENCES, identified(list(SENTENCES.values()), language_model), strict=True):
        assert (lang, mixed) == (expected, 0) and 0.8 < score <= 1


@pytest.mark.parametrize("text", ["", "12 + 30 = 42 <b> -- 3.14", "too few words here", "x_1 = f(y_2)\n" * 50, "<a href='where all is in a tag'>", "🎉" * 99, "你好世界"])
def test_too_little_prose_is_undetermined(language_model, text):
    assert identified([text], language_model) == [("und", 0.0, 0)]


def test_line_ends_do_not_end_what_is_read(language_model):
    assert identified(["The\n" + "\n\n".join(SENTENCES["de"].split())], language_model)[0][0] == "de"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("See  https://a.org/b?c=d or www.a.org/x/y\tnow", "See or now"),
        ("call foo.bar() and json.dumps or std::vector with a_b, aB, x1", "call and or with"),
        ("it costs 3,50 in 2019, or 7%", "it costs in or"),
        ("he/she said (no), e-mail me@here.org: well...", "he/she said (no), e-mail well..."),
        ("<p class='big'>Fish &amp; chips</p><br/> 1 < 2 < three", "Fish chips three"),
        ("# Title\n\n* **bold** and [this](http://a.b/c_d) `some code` | `open", "Title\nbold and this open"),
        ("one\n \t\r\n\n two\n\n# three\n x_1 \nfour\r\n<b>\nfive", "one\ntwo\nthree\rfour\rfive"),
        ("使用[这个](http://a.b/c)方法2019年　中文foo_bar中文", "使用 这个 方法年 中文中文"),
        ("l&#39;homme à la café&nbsp;noir", "l homme à la café noir"),
        ("a & b &unended thing", "a b thing"),
        ("so f[i].value and p->next; he said ...and left", "so i and next; he said ...and left"),
    ],
)  # fmt: skip
def test_links_code_numbers_and_markup_are_left_out(text, left):
    """A line's end is left as \\r, a blank line as \\n."""
    assert prose.prose(text).strip() == left


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aB1 .<>/&;`é你\u00a0_\n\0🎉"), max_size=60))
def test_what_is_left_is_whole_characters_of_the_text_in_their_order(text):
    left = prose.prose(text)
    characters = iter(re.sub(r"[\s\0]", " ", text))
    assert all(character in " \r\n" or character in characters for character in left)
    assert not re.search(r"\s\s", left)


def test_a_licence_at_the_top_does_not_decide(language_model):
    english, german = " ".join([SENTENCES["en"]] * 12), " ".join([SENTENCES["de"]] * 60)
    label, score, mixed = identified([english + "\n\n" + german], language_model)[0]
    assert label == "de" and 0.5 < score < 0.95  # one place of six
    assert mixed == pytest.approx(1 / 6, abs=0.05)


def test_windows_of_one_language_are_not_mixed_and_their_score_is_the_mean(language_model):
    pieces = [" ".join([SENTENCES["ru"]] * 4), " ".join([SENTENCES["ru"]] * 40)]
    assert [(label, mixed) for label, _, mixed in identified(pieces, language_model)] == [("ru", 0), ("ru", 0)]


@pytest.mark.parametrize("n_bytes", [700, 961, 2000, 20_000])
def test_the_last_bytes_are_read(language_model, n_bytes):
    """A tail in another language than all before it, up to the last byte."""
    tail = " ".join([SENTENCES["de"]] * 2)
    text = " ".join([SENTENCES["en"]] * 300)[: n_bytes - len(tail.encode()) - 2] + "\n\n" + tail
    label, _, mixed = identified([text], language_model)[0]
    assert (label, mixed > 0) == ("en", True)
    assert identified([text[: -len(tail)]], language_model)[0][::2] == ("en", 0)


@pytest.mark.parametrize("n_foreign", [0, 1, 2])
def test_mixed_is_the_share_of_paragraphs_in_another_language(language_model, n_foreign):
    paragraphs = [" ".join([SENTENCES["en" if i < n_foreign else "fr"]] * 2) for i in range(5)]  # all of which is read
    random.Random(3).shuffle(paragraphs)
    letters = [len(re.sub(r"[^\w]", "", text).encode()) for text in paragraphs]
    foreign = sum(n for n, text in zip(letters, paragraphs, strict=True) if text.startswith("The"))
    label, _, mixed = identified(["\n\n".join(paragraphs)], language_model)[0]
    assert (label, mixed) == ("fr", pytest.approx(foreign / sum(letters), abs=0.01))


def test_of_a_long_text_six_places_tell_the_share(language_model):
    """Each is right to about a sixth, many together on average."""
    draw, told, truth = random.Random(4), [], []
    for share in (0.1, 0.2, 0.3, 0.4) * 20:
        chosen = ["en" if draw.random() < share else "fr" for _ in range(40)]
        truth.append(chosen.count("en") / 40)
        (label, _, mixed), *_ = identified(["\n\n".join(" ".join([SENTENCES[lang]] * 3) for lang in chosen)], language_model)
        told.append(mixed if label == "fr" else 1 - mixed)
    assert np.mean(told) == pytest.approx(np.mean(truth), abs=0.04)
    assert np.sqrt(np.mean((np.array(told) - truth) ** 2)) < 0.2


def test_paragraphs_too_short_to_judge_make_no_text_mixed(language_model):
    text = "\n\n".join([SENTENCES["en"], "Guten Morgen!", SENTENCES["en"], "Bonjour."])
    assert identified([text], language_model)[0][::2] == ("en", 0)


CASED = [*(name for name in SENTENCES if SENTENCES[name].upper() != SENTENCES[name]), "el", "hy", "ka"]
MORE = {
    "el": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί και κανείς στο χωριό δεν ξαφνιάστηκε.",
    "hy": "Արագաշարժ շագանակագույն աղվեսը ցատկում է ծույլ շան վրայով, և գյուղում ոչ ոք չզարմացավ։",
    "ka": "სწრაფი ყავისფერი მელა ზარმაც ძაღლს გადაახტა და სოფელში არავის გაჰკვირვებია ეს ამბავი.",
}


@pytest.mark.parametrize("name", CASED)
@pytest.mark.parametrize("times", [1, 30])
def test_capitals_are_read_as_small_letters_in_every_script_that_has_them(language_model, name, times):
    sentence = (SENTENCES | MORE)[name]
    small, capital = " ".join([sentence] * times).lower(), " ".join([sentence] * times).upper()
    told = identified([small, capital], language_model)
    assert [label for label, *_ in told] == [name, name]
    if name not in ("el", "hy", "tr") and times == 1:  # ς, և and ı do not come back
        assert told[0] == told[1]


def test_a_heading_in_capitals_changes_no_small_letters(language_model):
    """Only a passage whose letters are mostly capitals is lowered."""
    room = prose.prose("NASA UND ESA haben " + SENTENCES["de"]).encode()
    assert not language._passage(np.frombuffer(room, np.uint8), 1, len(room), prose.CLASSES)[2]


def test_code_between_windows_or_in_them_costs_no_language(language_model):
    code = "self.items[i].value = foo(bar_1, 2) + baz->qux;\n" * 40
    text = " ".join([SENTENCES["fr"]] * 12) + code + " ".join([SENTENCES["fr"]] * 12)
    assert identified([text], language_model)[0][::2] == ("fr", 0)


def test_a_foreign_phrase_in_a_window_of_code_is_no_second_language(language_model):
    code = "x_1 = y_2\n" * 60
    text = " ".join([SENTENCES["fr"]] * 12) + code + SENTENCES["de"][:40] + code + " ".join([SENTENCES["fr"]] * 12)
    assert identified([text], language_model)[0][::2] == ("fr", 0)


def test_windows_begin_at_whole_characters(language_model):
    for shift in range(4):
        text = "a" * shift + "你好，世界上的人们都在说中文。" * 200
        assert identified([text], language_model)[0][0] == "zh"


def test_batches_sliced_large_or_empty_are_measured_alike(language_model):
    texts = pa.array([*SENTENCES.values(), *HOSTILE])
    whole = language.measure(texts, None, Context(language_model))
    for kind in (pa.string(), pa.large_string()):
        assert all(a.equals(b.slice(3, 9)) for a, b in zip(language.measure(texts.cast(kind).slice(3, 9), None, Context(language_model)), whole, strict=True))
    assert [len(column) for column in language.measure(texts.slice(2, 0), None, Context(language_model))] == [0, 0, 0]


def test_hostile_texts_are_read_in_bounded_windows():
    """What the passes write stays within their rooms: numba does not check."""
    for text in ("<" * 9000, "`" * 9000, "&" * 9000, "a." * 9000, "\U0010ffff" * 9000, "é<" * 9000):
        room, data = np.full(language.WHOLE_BYTES + 64, 7, np.uint8), utf8(pa.array([text]))[0]
        size = prose.write_prose(data, 0, len(data), language.WHOLE_BYTES, prose.CLASSES, room)
        assert size <= language.WHOLE_BYTES + 3
        assert (room[language.WHOLE_BYTES + 8 :] == 7).all()


@pytest.mark.parametrize(("limit", "most"), [(language.WHOLE_BYTES, language.PASSAGES), (language.PLACE_BYTES, language.PASSAGES // language.PLACES)])
def test_no_more_passages_are_read_than_there_is_room_for(limit, most):
    """Paragraphs as short as one that is judged."""
    for paragraph in ("a" * 40, "Ⱥ" * 20, "好" * 14, "a " * 40, "é" * 20 + "\t"):
        data, room = utf8(pa.array([(paragraph + "\n\n") * 400]))[0], np.full(language.WHOLE_BYTES + 8, 7, np.uint8)
        end, i, passages = prose.write_prose(data, 0, len(data), limit, prose.CLASSES, room) + 1, 1, 0
        while i < end:
            i, passages = language._passage(room, i, end, prose.CLASSES)[0] + 1, passages + 1
        assert 1 < passages <= most
