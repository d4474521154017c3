"""Contamination against a naive oracle (sets of word tuples in Python), planted items, hostile evaluation files, and partitions."""

from __future__ import annotations

import gzip
import json
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.decontaminate import index, items, search
from pipelines.decontaminate.overlap import contamination, suite
from pipelines.decontaminate.record import kinds, record
from pipelines.rules.judge import Terms, judge
from pipelines.texts.words import WORD_FOLD
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
    assert found(texts, passages, n, 12) == pytest.approx(told)
    assert found(texts, passages, n, 12, bucket_bits=1) == pytest.approx(told)


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
        ("a.jsonl.gz", gzip.compress(b'{"q": "x"}\n' * 999)[:-20], ["q"], "expected a whole file, found damage"),
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
    assert file["items"] == {"read": 62, "long": 57, "short": 4, "too_short": 1, "shared": 0, "empty": 0, "broken": 0}
    assert file["contaminated"]["items"] == 61 and file["contaminated"]["share_of_searched"] == 1.0
    assert told["documents"]["dropped"] == [{"source": "s", "documents": 4, "bytes": 400, "for_this_alone": 4}]
    assert {row["threshold"]: row["documents"] for row in told["documents"]["would_be_dropped"]}[0.2] == 5
    assert told["documents"]["with_a_run_of_13_words"] == 4  # document 3 holds a question of twelve words
    shown = told["matches"][0]
    assert shown["cover"] == 1.0 and words(shown["excerpt"])[0][0] in shown["item_text"] and len(told["matches"]) == 66
    assert any("paraphrases" in said for said in told["blind_spots"])


def test_without_evaluations_there_is_nothing_to_search():
    assert suite(Decontaminate()).holders == [] and kinds(suite(Decontaminate())) == {}
