"""Contamination against a naive oracle (sets of word tuples in Python), planted items, hostile evaluation files, and partitions."""

from __future__ import annotations

import gzip
import html
import json
import random
import re
import time
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.decontaminate import forms, index, items, phrases, plain, search
from pipelines.decontaminate.overlap import contamination, suite
from pipelines.decontaminate.record import _reach, kinds, record
from pipelines.rules.judge import Terms, judge
from pipelines.texts.words import WORD_FOLD
from schemas import tables
from schemas.parts import Decontaminate, Heldout
from schemas.recipe import RecipeError

WORDS = [f"word{i}" for i in range(3000)]


def words(text: str) -> list[tuple[str, int, int]]:
    """(word in lower case, first byte, byte after the last)."""
    return [(m[0].lower(), len(text[: m.start()].encode()), len(text[: m.end()].encode())) for m in re.finditer(r"\w+", text)]


def naive(text: str, passage: str, n: int, short: int) -> tuple[float, int, int, int] | None:
    """(cover, run, start, end), or None where nothing is told: every window of the text, as sets of tuples."""
    there, wanted = words(text), [word for word, _, _ in words(passage)]
    if len(wanted) < n:
        return None
    grams = [tuple(word for word, _, _ in there[i : i + n]) for i in range(len(there) - n + 1)]
    if len(wanted) < short:
        plain = [word for word, _, _ in there]
        at = next((i for i in range(len(plain)) if plain[i : i + len(wanted)] == wanted), None)
        return None if at is None else (1.0, len(wanted), there[at][1], there[at + len(wanted) - 1][2])
    target = {tuple(wanted[i : i + n]) for i in range(len(wanted) - n + 1)}
    if len(target) < index.RUN_WORDS - n + 1:
        return None
    hits = [i for i, gram in enumerate(grams) if gram in target]
    best, place = 0, (0, 0)
    for last in hits:
        for first in (i for i in hits if 0 <= last - i <= search.SPAN * len(wanted) - n):
            held = len({grams[i] for i in hits if first <= i <= last})
            if held > best or (held == best and last == place[1] and first > place[0]):
                best, place = held, (first, last)
    stretch = longest = 0
    for i in range(len(grams)):
        stretch = stretch + 1 if grams[i] in target else 0
        longest = max(longest, stretch)
    run = min(longest + n - 1, len(wanted)) if longest else 0
    if best / len(target) < index.FLOOR and run < index.RUN_WORDS:
        return None
    return best / len(target), run, there[place[0]][1], there[place[1] + n - 1][2]


def found(texts: list[str], passages: list[str], n: int = 8, short: int = 20, **tuning) -> dict[tuple[int, int], tuple]:
    searcher = search.Searcher(index.build(index.strings(passages), n, short, **tuning))
    return {(d, m.passage): (m.cover, m.run, m.start, m.end) for d, matches in searcher.search(index.strings(texts)) for m in matches if m.cover >= index.FLOOR or m.run >= index.RUN_WORDS}


def expected(texts: list[str], passages: list[str], n: int = 8, short: int = 20) -> dict[tuple[int, int], tuple]:
    pairs = {(d, p): naive(text, passage, n, short) for d, text in enumerate(texts) for p, passage in enumerate(passages)}
    return {pair: told for pair, told in pairs.items() if told is not None}


def prose(seed: int, n: int, vocabulary: list[str] = WORDS) -> list[str]:
    chance = random.Random(seed)
    return [chance.choice(vocabulary) for _ in range(n)]


def test_whole_half_scattered_and_short_items_are_told_as_by_the_oracle():
    long, short = prose(1, 60), prose(2, 12)
    far = [word for i in range(0, 60, 12) for word in [*long[i : i + 12], *prose(100 + i, 400)]]
    texts = {
        "whole": prose(3, 50) + long + prose(4, 50),
        "half": long[:34] + prose(5, 20),
        "two halves with an answer between": [*long[:30], *prose(6, 40), *long[30:]],
        "scattered": far,
        "twelve words": long[:12],
        "thirteen words": prose(7, 9) + long[20:33],
        "short whole": prose(8, 30) + short + prose(9, 30),
        "short but for one": short[:-1] + prose(10, 30),
        "short in another order": short[4:] + short[:4],
        "short in two pieces": short[:8] + prose(12, 5) + short[1:],
        "clean": prose(11, 500),
    }
    passages = [" ".join(long), " ".join(short)]
    told = found([" ".join(text) for text in texts.values()], passages)
    assert told == expected([" ".join(text) for text in texts.values()], passages)
    by_name = {(list(texts)[d], p): value[:2] for (d, p), value in told.items()}
    assert by_name["whole", 0] == (1.0, 60) and by_name["half", 0][0] > 0.5 and by_name["two halves with an answer between", 0][0] > 0.7
    assert by_name["thirteen words", 0] == (6 / 53, 13) and by_name["short whole", 1] == (1.0, 12)
    assert {name for name, _ in by_name} == {"whole", "half", "two halves with an answer between", "thirteen words", "short whole"}


def test_a_book_does_not_cover_an_item_by_ngrams_scattered_over_it():
    item = prose(1, 40)
    book = [word for i in range(33) for word in [*prose(50 + i, 300), *item[i : i + 8]]]
    assert found([" ".join(book)], [" ".join(item)]) == {}
    close = [word for i in range(0, 33, 8) for word in [*item[i : i + 8], *prose(50 + i, 10)]]
    assert found([" ".join(book + close)], [" ".join(item)]) == expected([" ".join(book + close)], [" ".join(item)]) == {}


def test_case_punctuation_and_white_space_hide_nothing_in_any_script():
    item = "Wie viele Äpfel ißt der Bär, wenn Μαρία τρώει τρία μήλα и Иван съедает семь груш? Ответ: dîx (10) pommes!"
    text = "öde " * 9 + item.upper().replace("SS", "ß").replace(" ", " -\n") + " … fin"
    (told,) = found([text], [item]).values()
    assert told[0] == 1.0 and text.encode()[told[2] : told[3]].decode().startswith("WIE -\nVIELE") and text.encode()[: told[3]].decode().endswith("POMMES")
    assert told == naive(text, item, 8, 20)


TEXTS = st.lists(st.lists(st.sampled_from("abcd é 好".split()), max_size=60).map(" ".join), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.lists(st.sampled_from(["a", "b", "é", "好"]), max_size=40).map(" ".join), min_size=1, max_size=6, unique=True), st.sampled_from([4, 5]))
def test_texts_of_few_words_give_what_the_oracle_says_even_when_all_keys_share_a_bucket(texts, passages, n):
    told = expected(texts, passages, n, 12)
    assert found(texts, passages, n, 12) == told
    assert found(texts, passages, n, 12, bucket_bits=1) == told


def test_the_words_are_those_of_the_fingerprints():
    text = "x_1 naïve—Straße 北京 İstanbul ΣΑΣ 3.14 \u00a0end"
    _, _, n_words = index.grams(index.strings([text, "", "..."]), 8)
    places = search._word_places(np.frombuffer(text.encode(), np.uint8), WORD_FOLD, 10)
    assert [text.encode()[a:b].decode() for a, b in places if b] == re.findall(r"[北京]|[^\W北京]+", text) and n_words.tolist() == [10, 0, 0]


def test_what_many_items_share_is_a_template_and_counts_for_nothing():
    template = prose(1, 40)
    passages = [" ".join([*template, *prose(100 + i, 25)]) for i in range(index.COMMON + 1)] + [" ".join(template), " ".join(template[:15])]
    known = index.build(index.strings(passages), 8, 20)
    assert (known.distinct[:-2] == 25).all() and set(known.least[-2:]) == {index.NEVER}
    assert found([" ".join(template)], passages) == {}
    told = found([" ".join([*prose(7, 9), *prose(103, 25)])], passages)
    assert list(told) == [(0, 3)] and told[0, 3][0] == 18 / 25


def test_a_document_of_one_ngram_a_million_times_over_takes_linear_time_and_bounded_memory(monkeypatch):
    monkeypatch.setattr(index, "COMMON", 10_000)
    passages = [" ".join(["a"] * 12 + prose(i, 12)) for i in range(200)]
    text = "a " * 1_000_000
    assert found([text], passages) == {}
    told = found([text + passages[7]], passages)
    assert told[0, 7][:2] == (1.0, 24) and told[0, 7][3] == len(text + passages[7])


# --- what formats put between the same words


def undone(text: str) -> str:
    """The plain text; and each of its bytes that is a copy stems from where it says."""
    raw = text.encode()
    smooth, begins, ends = plain.plain_places(np.frombuffer(raw, np.uint8))
    data, bounds = plain.plain_batch(pa.array(["x", text]))
    assert data[bounds[1] : bounds[2]].tobytes() == smooth.tobytes() and (begins < ends).all() and (np.diff(begins) >= 0).all()
    copied = (ends - begins == 1) & (smooth != 32)
    assert (np.frombuffer(raw, np.uint8)[begins[copied]] == smooth[copied])[smooth[copied] < 128].all() or "\\" in text
    return smooth.tobytes().decode()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (r"one\ntwo\\nthree\t\"four\" \u00e9 \ud83d\ude00 \xe9 five\\\\six", 'one\ntwo\nthree "four" é 😀 é five six'),
        (r"snake\_case \*bold\* \\alpha \neq", "snake_case *bold*  alpha \neq"),
        (r"one\r\ntwo\bthree\ffour\vfive \U0001f600", "one\n\ntwo three four five 😀"),
        (r"one\u005cntwo", "one\ntwo"),
        (r"&bsol;\u0026lt;", "<"),
        ("a\\", "a"),
        (r"\ud83d \u12 \u0000", "   u12  "),
        ("&eacute;t&#233; &#xE9; &amp;amp;lt; &amp;nbsp;x &nosuch; &", "été é < \xa0x &nosuch; &"),
        (r"\u003cp\u003eone\u0026eacute;\u003c/p\u003e", "\noneé\n"),
        ('<p class="a>b">one</p><b>T</b>wo<br/>H<sub>2</sub>O', '\nb">one\nTwo\nH2O'),
        ('<span class="' + "x" * 400 + '">one</span> <a href="' + "x" * 500 + '">', 'one <a href="' + "x" * 500 + '">'),
        ('<a href="x">o</a>ne', "one"),
        ("List<String> a <b and c> d <i>x</i> <nosuch> 1 < 2", "List<String> a <b and c> d x <nosuch> 1 < 2"),
        ("so\u00adft zero\u200bwidth \u202aleft\u202c \ufeffbom \u2066in\u2069side h\ufe0feart", "soft zerowidth left bom inside heart"),
        ("hyphen-\nated hy-\r\n  phen so\u00ad\nft cross\u2010\ning Jean-\nPaul well-known 3-\n4 a-\n\nb", "hyphenated hyphen soft crossing Jean-\nPaul well-known 3-\n4 a-\n\nb"),
        ("Ｆｕｌｌ　１２ ﬁnd oﬃce x² 𝐛𝐨𝐥𝐝", "Full　12 find office x2 bold"),
        ("cafe\u0301 A\u030angstro\u0308m \u1112\u1161\u11ab e\u0323\u0302 x\u0304 か\u3099", "café Ångström 한 ệ x\u0304 が"),
        ("(A) one\nB. two\n **C.** three\n d) four [E] five\nF\nsix", "( ) one\n . two\n ** .** three\n  ) four [ ] five\n \nsix"),
        (" 1. one\n2) two\n- 3: three", "  . one\n ) two\n-  : three"),
        ("one two [D] three (j) (k)", "one two [ ] three ( ) (k)"),
        ("x A. 1. one (1) 2. two\n* 3. 4. three", "x  . 1. one ( ) 2. two\n*  .  . three"),
        ("（Ａ）好\nＢ． two", "( )好\n . two"),
        ("it is 3. The 3.14 e.g. U.S. f(a) vitamin C K. x.b. a", "it is 3. The 3.14 e.g. U.S. f(a) vitamin C K. x.b. a"),
        ("so _ said __init__ _much_ “_more_” snake_case ___.", "so   said   init    much  “ more ” snake_case    ."),
        ("Janetʼs", "Janet's"),
        ("", ""),
    ],
)
def test_what_formats_put_between_words_is_undone(text, same):
    assert undone(text) == same


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a" + "_" * 1_000_000 + "b", "a" + "_" * 1_000_000 + "b"),
        ("1. " * 400_000, " . " * 400_000),
        ("x " + "(1) " * 200_000 + "1. " * 100_000, "x " + "( ) " * 200_000 + "1. " * 100_000),
    ],
    ids=["_ in a word", "numbers that begin a line", "and do not"],
)
def test_a_run_of_marks_is_looked_at_once(text, same):
    """Some 10^11 bytes, where each mark looks at those before or behind it."""
    data, _ = plain.plain_batch(pa.array([text]))
    assert data[: len(text)].tobytes().decode() == same


PIECES = st.sampled_from(["a", "b.", "é", "e\u0301", "\u00ad", "-\n", "&amp;", "&#65;", "&", ";", "\\", "\\n", "\\u0041", "\\ud83d", "<b>", "</p>", "<", ">", "=", "Ａ", "ﬁ", "好", "_", "\n", " ", ")", "1", "\u1100", "\u1161", "😀", "\u200b"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_mixture_is_valid_text_with_places_inside_it_and_the_same_with_and_without_them(text):
    smooth, begins, ends = plain.plain_places(np.frombuffer(text.encode(), np.uint8))
    data, bounds = plain.plain_batch(pa.array([text, text]))
    assert data[: bounds[1]].tobytes() == data[bounds[1] : bounds[2]].tobytes() == smooth.tobytes()
    assert smooth.tobytes().decode() is not None and len(smooth) <= len(text.encode())
    assert (begins < ends).all() and (ends <= len(text.encode())).all() and (np.diff(begins) >= 0).all()


def test_what_is_undone_has_the_place_of_all_that_it_was():
    text = "e\u0301" + r"\u00e9" + "\u1112\u1161\u11ab<p>&amp;eacute;" + "x"
    _, begins, ends = plain.plain_places(np.frombuffer(text.encode(), np.uint8))
    assert list(zip(begins, ends, strict=True)) == [(0, 3)] * 2 + [(3, 9)] * 2 + [(9, 18)] * 3 + [(18, 21)] + [(21, 33)] * 2 + [(33, 34)]


def test_compatibility_forms_and_marks_are_those_of_unicode():
    """Oracle: unicodedata, on every letter that the tables fold to no more bytes, and every pair that composes."""
    kept = [chr(code) for code in range(0xA0, 0x1D800) if forms.FORMS.kinds[code] == forms.MAP and chr(code).isalnum() and code not in forms.APOSTROPHES]
    assert len(kept) > 2000 and all(undone(c) in (unicodedata.normalize("NFKC", c), "( )", " .") for c in kept)  # (1) and 1. are labels
    pairs = [chr(code) for code in (*range(0xC0, 0x250), *range(0x1E00, 0x2000), *range(0xAC00, 0xD7A4, 97)) if len(unicodedata.normalize("NFD", chr(code))) > 1]
    composed = [c for c in pairs if unicodedata.normalize("NFC", c) == c and c.isalpha()]
    assert len(composed) > 600 and all(undone(unicodedata.normalize("NFD", c)) == unicodedata.normalize("NFKC", c) for c in composed)


ITEM = "A baker has eleven crates with twenty-three apples each and gives _seven_ apples to the naïve (efficient) school; how many\napples are \"left\" if x < y & y > z?"


@pytest.mark.parametrize(
    "render",
    [
        json.dumps,
        lambda text: json.dumps(json.dumps(text)),
        lambda text: html.escape(text).replace("\n", "<br/>\n").replace("apples", "<b>a</b>pples"),
        lambda text: html.escape(text).encode("ascii", "xmlcharrefreplace").decode(),
        lambda text: json.dumps(html.escape(text).replace("\n", "<p>")).replace("<", "\\u003c").replace("&", "\\u0026"),
        lambda text: text.replace("crates", "cra-\n    tes").replace("school", "sch\u00adool").replace("many", "ma\u00ad\nny"),
        lambda text: text.replace("apples", "ap\u200bples").replace("eleven", "eleven\u2060"),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: unicodedata.normalize("NFD", text).replace("ffi", "ﬃ").replace('"', "”"),
        lambda text: '7,"' + text.replace('"', '""').replace("\n", "\r\n") + '",3',
        lambda text: re.sub(r"([_()<>&#])", r"\\\1", text).replace("crates", "_crates_").replace("each", "**each**"),
        lambda text: r"\textbf{" + text.replace("&", r"\&").replace("_", r"\_").replace("x < y", r"$x<y$") + "}",
        repr,
    ],
)
def test_an_item_is_found_whole_in_every_form_of_the_wild_with_its_place_in_the_text(render):
    text = "öde " * 9 + render(ITEM) + " fin" * 9
    (told,) = found([text], [ITEM]).values()
    match = text.encode()[told[2] : told[3]].decode()
    assert told[0] == 1.0 and match.lower().startswith(("a baker", "ａ baker", "ａ")) and match[-1] in "zｚ"
    assert found([ITEM], [text]).keys() == {(0, 0)}  # and an item that comes in such a form is


# --- short questions, edited items


def phrases_found(texts: list[str], entries: list[list[str]], n: int = 8) -> dict[tuple[int, int], str]:
    """(text, phrase) to what stands there."""
    searcher = search.Searcher(index.build(index.strings([]), n, 20), phrases.build(entries, n))
    told = [((d, m.passage), texts[d].encode()[m.start : m.end].decode()) for d, matches in searcher.search(index.strings(texts)) for m in matches]
    assert len(told) == len(dict(told))  # each once
    return dict(told)


def test_a_short_question_is_found_with_its_answers_or_options_close_behind_it_and_not_without():
    entries = [["Which planet is largest?", "Jupiter Prime", "Mars", "Venus"], ["Who wrote Hamlet?", "Shakespeare"], ["What?", "a long answer of many words here"]]
    filler = " filler" * 60
    texts = [
        ("Q: Which planet is largest?\nAnswer: Jupiter Prime." + filler) * 2,
        filler + " which planet is LARGEST (a) Mars (b) Jupiter prime (c) Venus",
        "Which planet is largest?" + filler + " Jupiter Prime",
        "Which planet is largest? Mars.",  # four words and one
        "Which planet is the largest? Jupiter Prime, Mars, Venus",
        "Who wrote Hamlet? Shakespeare.",
        "What? a long answer of many words here",
        r'{"q": "Which planet\nis largest?", "options": ["Mars", "Jupiter Prime"]}',
        "That planet is largest? Jupiter Prime",
        "planet is largest? Jupiter Prime, and which",  # begins inside the question
    ]
    told = phrases_found(texts, entries)
    assert told == {
        (0, 0): "Which planet is largest?\nAnswer: Jupiter Prime",
        (1, 0): "which planet is LARGEST (a) Mars (b) Jupiter prime (c) Venus",
        (7, 0): r'Which planet\nis largest?", "options": ["Mars", "Jupiter Prime',
    }


def test_phrases_are_questions_of_three_words_to_one_less_than_an_ngram():
    entries = [["What next?", answer := "an answer of quite a few words"], ["What is next?", answer], [" ".join(prose(1, 7)), "yes"], [" ".join(prose(1, 8)), answer]]
    assert phrases.build(entries, 8).known.tolist() == [False, True, True, False]


def test_a_question_is_safe_alone_from_six_words_on_unless_many_items_ask_it():
    question = "Which technology was developed most recently?"
    assert phrases_found([question, "which technology was developed most"], [[question, "radio"]]) == {(0, 0): question[:-1]}
    assert phrases_found([question], [[question, f"answer {i}"] for i in range(phrases.SHARED + 1)]) == {}
    assert phrases_found(["is it so or is it not"], [["is it so or is it?"]]) == {}  # too few letters
    assert phrases_found(["is it so? no it is not"], [["is it so?", "no it is not"]]) == {}  # so with its answer
    assert phrases_found(["什么是光合作用", "什么是光合作用? 植物利用光能"], [["什么是光合作用?", "植物利用光能"]]).keys() == {(1, 0)}


def test_questions_in_a_row_a_million_times_take_linear_time():
    text = "which planet is largest " * 200_000
    assert phrases_found([text], [["Which planet is largest?", "Jupiter", "Mars", "Venus"]]) == {}


def test_of_questions_that_end_alike_a_document_meets_so_many():
    """Each place of their last words would ask all 3,000: a minute."""
    entries = [[f"What is a{i} of the following?", f"number {i} is the answer"] for i in range(3000)]
    text = "what is a7 of the following: number 7 is the answer. " + "what is a1 of the following " * 100_000
    phrases_found(["nothing"], entries)  # compiled
    began = time.process_time()
    assert phrases_found([text], entries).keys() == {(0, 7)} and time.process_time() - began < 4


def test_an_item_that_lost_one_word_in_ten_is_flagged_and_one_of_the_same_template_is_not():
    item, chance = prose(1, 60), random.Random(5)
    edited = [word for i, word in enumerate(item) if i % 10 != 7]
    texts = [" ".join([*prose(2, 80), *words, *prose(3, 80)]) for words in (edited, item[:12] + prose(9, 48), chance.sample(item, 60), item)]
    searcher = search.Searcher(index.build(index.strings([" ".join(item), *(" ".join(prose(i, 60)) for i in range(50, 80))]), 8, 20))
    told = {d: matches[0] for d, matches in searcher.search(index.strings(texts))}
    assert told.keys() == {0, 3} and told[0].near > 0.85 and told[0].cover < 0.3 and told[3].near == pytest.approx(1.0)
    short = [*item[:9], "x", *item[10:14]]
    (flagged,) = search.Searcher(index.build(index.strings([" ".join(item[:14])]), 8, 20)).search(index.strings([" ".join(short)]))[0][1]
    assert flagged.cover == 0.0 and flagged.near == pytest.approx(13 / 14)


def test_near_is_the_weighed_share_of_words_that_stand_about_where_they_should():
    item, other = prose(1, 60), prose(4, 60)
    half = [word if i < 10 or i % 2 else other[i] for i, word in enumerate(item)]
    far = [*item[:10], *prose(5, 300), *random.Random(6).sample(item[10:], 50)]
    inserted = [word for i in range(0, 60, 8) for word in [*item[i : i + 8], f"new{i}"]]
    often = [word for one in prose(7, 30, [f"once{i}" for i in range(10**6)]) for word in (one, "the")]
    told = near([half, far, inserted, often[:10] + often[10::2]], [item, often])
    assert told == {(2, 0): pytest.approx(1.0)}  # `the` counts as often as it is there
    common = prose(8, 30)
    items = [[word for pair in zip(common, prose(100 + i, 30, [f"own{j}" for j in range(10**6)]), strict=True) for word in pair] for i in range(31)]
    weight = {word: np.log1p(31 / sum(word in item for item in items)) for word in items[0]}
    kept = items[0][:10] + items[0][11::2]
    assert near([kept], items) == {(0, 0): pytest.approx(sum(map(weight.get, kept)) / sum(map(weight.get, items[0])))}


def near(texts: list[list[str]], passages: list[list[str]]) -> dict[tuple[int, int], float]:
    searcher = search.Searcher(index.build(index.strings(list(map(" ".join, passages))), 8, 20))
    return {(d, m.passage): m.near for d, matches in searcher.search(index.strings(list(map(" ".join, texts)))) for m in matches}


def test_a_share_of_words_is_never_more_than_all_of_them():
    passages = [" ".join(prose(i, 60)) for i in range(30)]
    known = index.build(index.strings(passages), 8, 20)
    sums = np.add.reduceat(known.weights.astype(float), known.word_bounds[:-1])
    assert sums.max() > 1  # by rounding
    near = [match.near for _, matches in search.Searcher(known).search(index.strings(passages)) for match in matches]
    assert len(near) == 30 and max(near) == 1.0 and min(near) > 1 - 1e-6


# --- evaluation files


def spec(*files: dict, **fields) -> Decontaminate:
    return Decontaminate.model_validate({"files": files, **fields})


def write(path, data: bytes):
    path.write_bytes(data)
    return str(path)


LINES = [{"question": "What is this?", "answer": ["one", "two"], "id": 7}, {"question": None, "answer": []}, {"question": "Why?", "answer": {"a": 1}}]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_items_come_from_lines_of_json_plain_or_packed(tmp_path, packed):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed]
    data = b"\n".join([b"{broken", *(json.dumps(line).encode() for line in LINES), b"", b"[1]"])
    path = write(tmp_path / f"test.jsonl{packed}", pack(data))
    (told,) = items.read(spec({"path": path, "fields": ["question", "answer"]}))
    assert told.items == ((f"{path}#2", ("What is this?", "one\ntwo"), ("What is this?", "one", "two")), (f"{path}#4", ("Why?", "1"), ("Why?",)))
    assert (told.broken, told.empty) == (2, 1)


def test_items_come_from_parquet_and_from_text_by_line_or_whole(tmp_path):
    pq.write_table(pa.table({"q": ["first", None], "choices": [["x", "y"], ["z"]]}), tmp_path / "a.parquet")
    text = write(tmp_path / "b.txt", "one item\n\nanother ünd more\n".encode())
    files = [{"path": str(tmp_path / "*.parquet"), "fields": ["q", "choices"]}, {"path": text}, {"path": text, "whole": True}]
    rows, lines, whole = items.read(spec(*files))
    assert [item.texts for item in rows.items] == [("first", "x\ny"), ("", "z")]
    assert [(item.name.rpartition("#")[2], item.texts[0]) for item in lines.items] == [("1", "one item"), ("3", "another ünd more")]
    assert [item.texts[0] for item in whole.items] == ["one item\nanother ünd more"]


@pytest.mark.parametrize(
    ("name", "data", "fields", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n', ["question"], r"files\[0\]: expected items .*expected fields question, found 'text'"),
        ("a.jsonl", b'{"q": "x"}\n', ["q", "wrong"], r"files\[0\].fields: expected every field .*wrong is in none"),
        ("a.jsonl", b"not json at all\n", ["q"], "found none; the first of 1 broken records"),
        ("a.jsonl", b'[{"q": "x"}]\n', ["q"], "expected an object on a line, found list"),
        ("a.jsonl", b'{"q": " "}\n', ["q"], "found none; 1 empty ones"),
        ("a.jsonl", b"", ["q"], "found none; 0 empty ones"),
        ("a.jsonl", b'{"q": "x"}\n', [], "expected the fields of an item"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "x"}\n' * 999, mtime=0)[:-20], ["q"], "expected a whole file, found damage"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdrubbish", ["q"], "expected a whole file, found damage"),
        ("a.parquet", b"PAR1 rubbish", ["q"], "expected a whole file, found damage"),
        ("a.txt", b"text\n", ["q"], "a text file has no fields"),
        ("a.txt", b"\x7fELF\0\0\0", [], "expected text, found binary data"),
        ("a.txt", b"\xff\xfe\xfa", [], "not UTF-8 at byte 0"),
        ("a.jsonl", b"[" * 100_000 + b"\n", ["q"], "broken records"),
    ],
)
def test_a_file_that_is_not_what_the_recipe_says_is_refused_in_one_sentence(tmp_path, name, data, fields, said):
    with pytest.raises(RecipeError, match=said):
        items.read(spec({"path": write(tmp_path / name, data), "fields": fields}))


def test_missing_files_folders_and_bombs_are_refused(tmp_path, monkeypatch):
    for path, said in [("none.txt", "found none at"), (".", "found a folder"), ("*.none", "found none at")]:
        with pytest.raises(RecipeError, match=said):
            items.read(spec({"path": str(tmp_path / path)}))
    monkeypatch.setattr(items, "FILE_BYTES", 1 << 20)
    with pytest.raises(RecipeError, match="expected at most 1,048,576 bytes unpacked"):
        items.read(spec({"path": write(tmp_path / "a.txt.gz", gzip.compress(b"x y z\n" * 1_000_000))}))
    with pytest.raises(ValueError, match=r"short_tokens \(5\) must be at least ngram \(8\)"):
        spec(short_tokens=5)


def test_lines_with_nan_infinity_and_lone_surrogates_are_items_and_what_is_none_is_told(tmp_path):
    lines = [b'{"q": "one two", "score": NaN}', b'{"q": "three", "score": -Infinity}', b'{"q": "four \\ud800"}', b'{"q": "five"', b'{"q": "\xff"}', b"7"]
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    (told,) = items.read(spec({"path": path, "fields": ["q"]}))
    assert [item.texts[0] for item in told.items] == ["one two", "three", "four ?"] and told.broken == 3
    assert [why.removeprefix(path) for why in told.why][1:] == ["#5: not UTF-8 at byte 7", "#6: expected an object on a line, found int"]


def test_parts_of_an_item_are_members_of_lists_without_letters_and_digits(tmp_path):
    table = pa.table({"q": [b"Which?"], "choices": [{"text": ["one", "two"], "label": ["A", "B"]}], "n": [7]})
    pq.write_table(table, tmp_path / "a.parquet")
    (told,) = items.read(spec({"path": str(tmp_path / "a.parquet"), "fields": ["q", "choices", "n"]}))
    assert told.items[0].parts == ("Which?", "one", "two") and told.items[0].texts == ("Which?", "one\ntwo\nA\nB", "7")


# --- through Spark


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A suite of questions with answers, and documents by id: some hold a question, some a half, some nothing."""
    folder = tmp_path_factory.mktemp("evaluations")
    questions = [{"question": " ".join(prose(i, 12 if i % 5 == 0 else 40)), "answer": " ".join(prose(500 + i, 2 + 10 * (i % 4)))} for i in range(60)]
    questions += [questions[0], {"question": "too short", "answer": "yes"}]  # the same item twice; one that cannot be searched
    path = write(folder / "quiz.jsonl", "\n".join(map(json.dumps, questions)).encode())
    files = spec({"path": path, "fields": ["question", "answer"]})
    texts = {f"{i:032x}": " ".join(prose(9000 + i, 300)) for i in range(40)}
    texts[f"{3:032x}"] += "\nQuestion: " + questions[0]["question"].upper() + "?\nAnswer: 42"
    texts[f"{5:032x}"] += " ".join(questions[7]["question"].split()[:30])
    texts[f"{6:032x}"] += " " + " ".join(questions[8]["question"].split()[:18])
    texts[f"{7:032x}"] = "\n".join(json.dumps(question) for question in questions)
    texts[f"{9:032x}"] += " " + questions[3]["answer"]
    return files, path, questions, texts


def frame(spark, texts: dict[str, str], partitions: int = 2):
    return spark.createDataFrame(list(texts.items()), "doc_id string, text string").repartition(partitions)


@pytest.mark.servers
def test_one_row_for_each_item_and_document_the_same_on_any_number_of_partitions(spark, planted):
    files, path, _, texts = planted
    rows = [sorted(contamination(frame(spark, texts, n), suite(files)).collect()) for n in (1, 5)]
    assert rows[0] == rows[1]
    by_pair = {(int(row.doc_id, 16), int(row.item.rpartition("#")[2])): row for row in rows[0]}
    assert len(by_pair) == len(rows[0])
    of_dump = {number for doc, number in by_pair if doc == 7}
    assert of_dump == set(range(1, 62))
    assert {pair for pair in by_pair if pair[0] != 7} == {(3, 1), (3, 61), (5, 8), (6, 9), (9, 4)}
    assert by_pair[3, 1].field == "question" and by_pair[3, 1].cover == 1.0 and by_pair[3, 1].file == path
    assert by_pair[9, 4].field == "answer" and 0.2 <= by_pair[6, 9].cover < 0.5 <= by_pair[5, 8].cover
    for (doc, _), row in by_pair.items():
        match = texts[f"{doc:032x}"].encode()[row.start : row.end].decode()
        assert match.startswith(row.excerpt) and len(words(match)) >= row.matched >= row.run


def test_the_record_says_what_was_searched_found_and_dropped(spark, planted):
    files, _, _, texts = planted
    all_of_it = suite(files)
    rows = contamination(frame(spark, texts), all_of_it).localCheckpoint()
    signals = spark.createDataFrame([(i, "s", "docs", 100, 0.5, None, 3) for i in texts], "doc_id string, source string, domain string, n_bytes long, quality double, quality_model string, n_words int")
    clusters = signals.selectExpr("doc_id", "doc_id as component", "1 as rank", "true as exact")
    verdicts = judge({"signals": signals, "clusters": clusters, "contamination": rows}, Terms({}, {"all": 0.0}, Heldout(), 1, cover=files.threshold)).localCheckpoint()
    dropped = sorted(int(row.doc_id, 16) for row in verdicts.where("not keep").collect())
    assert dropped == [3, 5, 7, 9] and {row.reason for row in verdicts.where("not keep").collect()} == {"contaminated"}
    told = json.loads(json.dumps(record(rows, verdicts, all_of_it, files)))
    (file,) = told["files"]
    assert file["items"] == {"read": 62, "by_question": 61, "by_short_question": 0, "by_other_passages": 0, "too_short": 1, "shared": 0, "empty": 0, "broken": 0, "first_broken": []}
    assert file["passages"]["question"] == {"long": 48, "short": 13, "too_short": 1} and file["passages"]["answer"] == {"long": 30, "too_short": 32}
    assert file["contaminated"]["items"] == 61 and file["contaminated"]["share_of_searched"] == 1.0
    assert told["documents"]["dropped"] == [{"source": "s", "documents": 4, "bytes": 400, "for_this_alone": 4}]
    assert {row["threshold"]: row["documents"] for row in told["documents"]["would_be_dropped"]}[0.2] == 5
    assert told["documents"]["with_a_run_of_13_words"] == 4  # document 3 holds a question of twelve words
    shown = told["matches"][0]
    assert shown["cover"] == 1.0 and words(shown["excerpt"])[0][0] in shown["item_text"] and len(told["matches"]) == 66
    assert any("paraphrases" in said for said in told["blind_spots"])


def test_without_evaluations_there_is_nothing_to_search():
    assert suite(Decontaminate()).holders == [] and kinds(suite(Decontaminate())) == {}


@pytest.mark.parametrize(
    ("question", "others", "reach"),
    [
        ("long", ["too_short"], "by_question"),
        ("short", ["long"], "by_question"),
        ("too_short", ["long", "long"], "by_other_passages"),
        ("shared", ["too_short", "short"], "by_other_passages"),
        ("too_short", ["long", "phrase"], "by_short_question"),
        ("too_short", ["shared"], "too_short"),
        ("shared", ["too_short"], "shared"),
    ],
)
def test_an_item_counts_by_its_question_and_not_by_its_best_passage(question, others, reach):
    """What answers it is in many texts; who has read the question has read the item."""
    assert _reach((question, *others)) == reach


def test_each_passage_is_told_as_it_is_searched(tmp_path):
    """Items made so that each kind comes up; the numbers are counted by hand."""
    long, other, common = (" ".join(prose(i, 30)) for i in (1, 2, 3))
    lines = [
        {"question": long, "answer": "yes"},
        {"question": "Which one?", "answer": other},
        {"question": "Which planet is the largest of all?", "answer": "Jupiter, by far"},
        {"question": "Which one?", "answer": "no"},
        {"question": " ".join(prose(4, 10)), "answer": "no"},
        *[{"question": common, "answer": "yes"}] * 2,
    ]
    path = write(tmp_path / "quiz.jsonl", "\n".join(map(json.dumps, lines)).encode())
    told = kinds(suite(spec({"path": path, "fields": ["question", "answer"]})))
    by_item = [{field: kind for (item, field), kind in told.items() if item == f"{path}#{n}"} for n in range(1, 8)]
    behind = "question and answers"
    assert by_item[0] == {"question": "long", "all": "long"}
    assert by_item[1] == {"question": "too_short", "answer": "long", "all": "long"}
    assert by_item[2] == {"question": "too_short", "all": "short", behind: "phrase"}
    assert by_item[3] == {"question": "too_short", "all": "too_short"}
    assert by_item[4] == {"question": "short", "all": "short"}
    assert by_item[5] == by_item[6] == {"question": "long", "all": "long"}


def test_flagged_is_what_stands_edited_in_documents_that_cover_nothing(spark, tmp_path):
    """Rows by hand: (document, item, cover, near); the threshold is one half."""
    path = write(tmp_path / "quiz.jsonl", "\n".join(json.dumps({"question": " ".join(prose(i, 30))}) for i in range(3)).encode())
    files = spec({"path": path, "fields": ["question"]})
    pairs = [("a", 1, 0.2, search.NEAR), ("a", 2, 0.0, 1.0), ("b", 1, 0.1, 0.99), ("b", 3, 0.5, 0.5), ("c", 1, 0.49, search.NEAR - 0.01), ("d", 2, 0.4999, 0.9)]
    rows = spark.createDataFrame([(doc, f"{path}#{n}", path, "all", cover, near, 9, 9, 0, 4, "text") for doc, n, cover, near in pairs], tables.CONTAMINATION.ddl)
    verdicts = spark.createDataFrame([(doc, "s", doc != "b", ["contaminated"] * (doc == "b"), 10) for doc in "abcde"], "doc_id string, source string, keep boolean, reasons array<string>, n_bytes long")
    told = record(rows, verdicts, suite(files), files)
    assert (told["flagged"]["documents"], told["flagged"]["items"]) == (2, 2)
    assert sorted((row["doc_id"], row["item"][-1], row["keep"]) for row in told["flagged"]["matches"]) == [("a", "1", True), ("a", "2", True), ("d", "2", True)]
    assert told["files"][0]["contaminated"] == {"items": 1, "share_of_searched": 1 / 3, "first": [f"{path}#3"]}
