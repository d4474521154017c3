"""Edits against naive oracles: counted lines, a quadratic search for passages, and texts put together by hand."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.home import Home
from flows.job import Job
from flows.steps import STEPS, judge, tokenise
from flows.steps import edits as step
from pipelines import assets, capacity, rules
from pipelines import spark as sparks
from pipelines.edits import edits, passages, preview
from pipelines.edits.lines import line_hashes, repeated_lines
from pipelines.edits.spans import LINE, PASSAGE, BrokenEdit, apply_spans, apply_to_batch, merge_spans
from pipelines.lineage import life
from pipelines.shards.tokens import encoding
from pipelines.signals import TABLE
from pipelines.signals.context import Context
from pipelines.signals.measure import batch_of, measure_batch
from schemas import tables
from schemas.fields import fields
from schemas.recipe import Recipe
from tests.scripts import CUT, stands_alone

WORDS = 12  # of a passage, in these tests
ALPHABET = "ab ßは\n\t　😀กx。བ་ა"  # ink, white space of one and three bytes, characters that are words by themselves


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def naive_words(text: str) -> list[tuple[str, int]]:
    """(word, its first byte): split by hand, character by character."""
    words, word, begin, at = [], "", 0, 0
    for character in text:
        alone = stands_alone(character)
        if word and (alone or character.isspace()):
            words.append((word, begin))
            word = ""
        if alone:
            words.append((character, at))
        elif not character.isspace():
            begin = begin if word else at
            word += character
        at += len(character.encode())
    return words + ([(word, begin)] if word else [])


def naive_passages(texts: list[str], words: int) -> list[set[int]]:
    """Numbers of the words that lie in a later copy of a passage, for each text: every passage is compared with all before it."""
    split = [[word for word, _ in naive_words(text)] for text in texts]
    places = [(d, i, tuple(split[d][i : i + words])) for d in range(len(texts)) for i in range(len(split[d]) - words + 1)]
    covered = [set() for _ in texts]
    for number, (d, i, passage) in enumerate(places):
        first = next((other for other in places[:number] if other[2] == passage), None)
        if first and (first[0] != d or first[1] + words <= i):
            covered[d] |= set(range(i, i + words))
    return covered


@settings(deadline=None)  # the first example waits for numba
@given(st.text(ALPHABET, max_size=60))
def test_words_and_lines_are_those_of_a_plain_loop(text):
    hashes, begins = passages._split(as_bytes(text))
    words = naive_words(text)
    assert begins.tolist() == [begin for _, begin in words] + [len(text.encode())]
    assert len(set(zip(hashes.tolist(), (word for word, _ in words), strict=True))) == len({word for word, _ in words}) == len(set(hashes.tolist()))
    keys, begins, ends = line_hashes(as_bytes(text), 2)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert len(keys) == sum(len(line) >= 2 for line in lines)
    pieces = [text.encode()[begin:end].decode() for begin, end in zip(begins, ends, strict=True)]
    assert [" ".join(line.split()) for line in pieces] == [line for line in lines if len(line) >= 2]
    assert all(line.endswith("\n") for line in pieces[:-1])
    assert len(set(keys.tolist())) == len({line for line in lines if len(line) >= 2})


@pytest.mark.parametrize(("text", "words"), CUT.items())
def test_words_of_scripts_with_and_without_spaces_are_those_told_by_hand(text, words):
    raw, (_, begins) = text.encode(), passages._split(as_bytes(text))
    assert [raw[begin:end].decode().strip() for begin, end in zip(begins[:-1], begins[1:], strict=True)] == words


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=80), st.integers(2, 9))
def test_equal_passages_have_equal_seeds_at_different_places(letters, words):
    """The theorem behind the search: a passage whose seed was met once has no copy that lies apart from it."""
    text = as_bytes(" ".join(letters))
    all_seeds = Counter(passages.seeds(text, words).tolist())
    known = np.sort(np.array(list(all_seeds), np.int64).view(np.uint64))
    seed, hashes, begins, _ = passages.passages(text, words, known)
    split = [tuple(letters[i : i + words]) for i in range(len(letters) - words + 1)]
    assert len(split) == len(hashes) == len(begins)
    assert len(set(zip(split, hashes.tolist(), strict=True))) == len(set(split)) == len(set(hashes.tolist()))
    assert len(set(zip(split, seed.tolist(), strict=True))) == len(set(split))
    first = {passage: i for i, passage in reversed(list(enumerate(split)))}
    assert all(all_seeds[s] > 1 for i, s in enumerate(seed.tolist()) if first[split[i]] + words <= i)


def test_about_one_place_in_a_quarter_passage_is_a_seed():
    chance = random.Random(2)
    text = as_bytes(" ".join(str(chance.random()) for _ in range(20_000)))
    assert 20_000 * 2 / 27 * 0.9 < len(passages.seeds(text, 50)) < 20_000 * 2 / 27 * 1.1
    assert len(passages.seeds(as_bytes("a " * 20_000), 50)) < 1000, "one word over and over has no more"


spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10), st.sampled_from([("", LINE), ("", PASSAGE), ("<EMAIL>", "email")])), max_size=8
).map(lambda drawn: [(start, start + size, *kind) for start, size, kind in drawn])


@given(spans, st.randoms())
def test_merged_spans_are_in_order_apart_and_cover_by_strength(drawn, chance):
    result = merge_spans(drawn)
    strength = {LINE: 0, PASSAGE: 1, "email": 2}
    best = {}
    for start, end, _, why in drawn:
        for byte in range(start, end):
            best[byte] = min(best.get(byte, why), why, key=strength.__getitem__)
    assert {byte: why for start, end, _, why in result for byte in range(start, end)} == best
    assert all(before[1] <= after[0] for before, after in zip(result, result[1:], strict=False))
    assert not any(b[1] == a[0] and b[3] == a[3] != "email" for b, a in zip(result, result[1:], strict=False))
    assert all((replacement == "") == (why != "email") for _, _, replacement, why in result)
    shuffled = list(drawn)
    chance.shuffle(shuffled)
    assert merge_spans(shuffled) == result


def test_a_removed_line_wins_over_a_mask_inside_it():
    assert merge_spans([(3, 9, "<EMAIL>", "email"), (0, 20, "", LINE)]) == [(0, 20, "", LINE)]
    assert merge_spans([(3, 9, "<EMAIL>", "email"), (9, 14, "<EMAIL>", "email")]) == [(3, 9, "<EMAIL>", "email"), (9, 14, "<EMAIL>", "email")]
    assert merge_spans([(0, 6, "", PASSAGE), (4, 9, "", LINE)]) == [(0, 4, "", PASSAGE), (4, 9, "", LINE)]


@settings(deadline=None)
@given(st.text(ALPHABET), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["", "<X>"]))))
def test_applied_edits_are_those_of_python_slices(text, drawn):
    cuts = sorted({max(0, min(len(text), number)) for start, end, _ in drawn for number in (start, end)})
    chosen = [(start, end, "<X>" if start % 2 else "") for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
    expected = text
    for start, end, replacement in reversed(chosen):
        expected = expected[:start] + replacement + expected[end:]
    byte = [len(text[:i].encode()) for i in range(len(text) + 1)]
    rows = [(byte[start], byte[end], replacement) for start, end, replacement in chosen]
    assert apply_spans(text.encode(), rows).decode() == expected
    kind = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("replacement", pa.string())]))
    column = pa.array([None, [dict(zip(("start", "end", "replacement"), row, strict=True)) for row in rows], []], kind)
    learnt = apply_to_batch(pa.array(["first", text, "last"]), column)
    assert learnt.to_pylist() == ["first", expected, "last"] and learnt.type == pa.string()


@pytest.mark.parametrize("broken", [[(3, 2, "")], [(-1, 2, "")], [(0, 5, "")], [(2, 3, ""), (0, 1, "")], [(0, 2, ""), (1, 3, "")]])
def test_edits_that_do_not_fit_are_refused(broken):
    with pytest.raises(BrokenEdit, match="expected edits in order, apart and inside the text's 4 bytes, found"):
        apply_spans(b"abcd", broken)


def test_edits_inside_a_character_are_refused():
    with pytest.raises(BrokenEdit, match="between characters, found 0 to 1"):
        apply_spans("ßb".encode(), [(0, 1, "")])


SCHEMA = "doc_id string, source string, priority int, n_bytes bigint, text string"


def frame(spark, texts: list[str], parts: int = 3):
    """Texts as documents whose order of preference is that of the list."""
    rows = [(f"{i:032x}", "s", -i, len(text.encode()), text) for i, text in enumerate(texts)]
    return spark.createDataFrame(rows, SCHEMA).repartition(parts)


def found_spans(frame) -> list[tuple[str, int, int]]:
    return sorted((row.doc_id, row.start, row.end) for row in frame.collect())


@pytest.fixture(params=["whole", "in parts"])
def way(request, monkeypatch):
    """Where what is found is counted: both ways must find the same."""
    if request.param == "in parts":
        monkeypatch.setattr(sparks, "SENT_BYTES", -1)
        monkeypatch.setitem(capacity.LIMITS, "keys", 100)
        monkeypatch.setitem(capacity.LIMITS, "passages", 200)


def corpus_of_repeats(seed: int) -> list[str]:
    """Texts of few words with planted copies of pieces, inside a text and across, some of them periodic."""
    chance = random.Random(seed)
    words = [f"w{i}" for i in range(40)] + ["か", "字"]
    texts = [[chance.choice(words) for _ in range(chance.randrange(90))] for _ in range(40)]
    for _ in range(70):
        giver, taker = chance.choice(texts), chance.choice(texts)
        at, size = chance.randrange(max(1, len(giver))), chance.randrange(2 * WORDS + 4)
        place = chance.randrange(len(taker) + 1)
        taker[place:place] = giver[at : at + size]
    texts += [["x"] * 40, ["p", "q", "r"] * 20, ["x"] * (WORDS - 1), [], texts[0]]
    return ["".join(word + chance.choice((" ", "\n", "\t \n")) for word in text) for text in texts]


def test_passages_are_those_of_a_quadratic_search(spark, way):
    """On one partition and on seven."""
    texts = corpus_of_repeats(1)
    expected = []
    for number, (text, covered) in enumerate(zip(texts, naive_passages(texts, WORDS), strict=True)):
        begins = [begin for _, begin in naive_words(text)] + [len(text.encode())]
        edges = sorted(i for i in covered if i - 1 not in covered), sorted(i + 1 for i in covered if i + 1 not in covered)
        expected += [(f"{number:032x}", begins[i], begins[j]) for i, j in zip(*edges, strict=True)]
    assert len(expected) > 20
    for parts in (1, 7):
        assert found_spans(passages.repeated_passages(frame(spark, texts, parts), WORDS, torso=1.0)) == expected


def test_a_passage_of_a_torso_is_kept_where_it_comes_next(spark, way):
    """The second text is mostly a copy of the first and will be dropped: what it has in common with the third is not lost."""
    mine, shared = " ".join(f"m{i}" for i in range(60)), " ".join(f"s{i}" for i in range(20))
    texts = [mine, f"{mine} {shared}", " ".join(f"t{i}" for i in range(60)) + f" {shared}", f"{shared} u1 u2"]
    places = found_spans(passages.repeated_passages(frame(spark, texts), WORDS, torso=0.5))
    assert places == [(f"{1:032x}", 0, len(mine) + 1), (f"{3:032x}", 0, len(shared) + 1)]


def test_a_long_text_leaves_its_worker_in_parts_and_nothing_changes(monkeypatch):
    texts = corpus_of_repeats(5)
    keys = [sorted({int(seed) for seed in passages.seeds(np.frombuffer(text.encode(), np.uint8), WORDS)}) for text in texts]
    n = len(texts)
    columns = {"doc_id": [f"{i:032x}" for i in range(n)], "priority": [-i for i in range(n)], "n_bytes": [len(t.encode()) for t in texts]}
    batch = pa.RecordBatch.from_pydict(columns | {"text": texts, "keys": pa.array(keys, pa.list_(pa.int64()))})
    results = []
    for rows in (5, 1 << 16):
        monkeypatch.setattr(passages, "CHUNK_ROWS", rows)
        compared = list(passages._passages(WORDS)([batch]))
        results.append(passages.further_copies(pa.Table.from_batches(compared[::-1]), 0.5).sort_by([("doc_id", "ascending"), ("start", "ascending")]))
        results.append(len(compared))
    assert results[0] == results[2] and len(results[0]) > 20 and results[1] > 2 * results[3]


def test_many_copies_are_no_more_work_a_copy(spark):
    """10,000 copies: compared in pairs they would be 50 million."""
    shared = " ".join(f"s{i}" for i in range(WORDS + 2))
    texts = spark.range(10_000).selectExpr(
        "lpad(hex(id), 32, '0') doc_id", "'s' source", "0 priority", "20L n_bytes", f"concat('own', id, ' {shared} ', id) text"
    )
    row = passages.repeated_passages(texts, WORDS, torso=1e9).selectExpr("count(*)", "min(doc_id)", "sum(end - start)").first()
    assert tuple(row) == (9_999, f"{1:032X}", 9_999 * (len(shared) + 1))


def test_each_word_that_is_left_out_stands_in_an_earlier_copy(spark):
    """Follow each word to the same word of the passage's first copy, and on, until it is one that stays."""
    texts = corpus_of_repeats(4)
    split, covered = [naive_words(text) for text in texts], naive_passages(texts, WORDS)
    first = {}
    for d, words in enumerate(split):
        for i in range(len(words) - WORDS + 1):
            first.setdefault(tuple(word for word, _ in words[i : i + WORDS]), (d, i))
    for d, members in enumerate(covered):
        for i in members:
            at = d, i
            while at[1] in covered[at[0]]:
                at = earlier(split, first, at)
            assert split[at[0]][at[1]][0] == split[d][i][0]


def earlier(split: list, first: dict, at: tuple[int, int]) -> tuple[int, int]:
    d, i = at
    for begin in range(max(0, i - WORDS + 1), min(i, len(split[d]) - WORDS) + 1):
        e, j = first[tuple(word for word, _ in split[d][begin : begin + WORDS])]
        if e != d or j + WORDS <= begin:
            return e, j + i - begin
    raise AssertionError(f"word {i} of text {d} is in no later copy")


def test_lines_are_counted_by_document_and_source(spark, way):
    chance = random.Random(6)
    lines = ["Share this page", "  Share this\tpage", "short", "Cookies help us", "", "所有权利保留所有权利保留", "Subscribe now!"]
    texts = ["\n".join(chance.choice([*lines, f"own line {i} {j}"]) for j in range(12)) + "\n" * (i % 2) for i in range(30)]
    sources = ["a" if i % 3 else "b" for i in range(30)]
    counts = {name: Counter() for name in "ab"}
    for source, text in zip(sources, texts, strict=True):
        counts[source].update({" ".join(line.split()) for line in text.split("\n")})
    expected = []
    for i, (source, text) in enumerate(zip(sources, texts, strict=True)):
        at = 0
        for line in text.splitlines(keepends=True):
            plain, size = " ".join(line.split()), len(line.encode())
            if len(plain) >= 10 and counts[source][plain] > 10:
                expected.append((f"{i:032x}", at, at + size))
            at += size
    rows = [(f"{i:032x}", source, 0, 1, text) for i, (source, text) in enumerate(zip(sources, texts, strict=True))]
    for parts in (1, 7):
        places = repeated_lines(spark.createDataFrame(rows, SCHEMA).repartition(parts), documents=10, min_chars=10)
        assert found_spans(places) == sorted(expected)
    assert {sources[int(doc_id, 16)] for doc_id, *_ in expected} == {"a"}, "as many lines of the other source were too few"


def test_masks_take_the_place_of_personal_data_of_kept_documents(spark):
    text = "Write to jo@example.org or call 0123. Ünïcode jo@example.org"
    at = [len(text[: text.index("jo")].encode()), len(text[: text.rindex("jo")].encode())]
    personal = [(at[0], at[0] + 14, "email"), (32, 36, "phone"), (at[1], at[1] + 14, "email")]
    signals = spark.createDataFrame([("a", personal), ("b", personal)], "doc_id string, personal array<struct<start:int,end:int,kind:string>>")
    clusters = spark.createDataFrame([("a", 1), ("b", 2)], "doc_id string, rank int")
    rows = edits.merge_edits([edits.find_masks(signals, clusters, ("email",), {"email": "<EMAIL>", "phone": "<PHONE>"})])
    assert rows.columns == list(tables.EDITS.column_names) and {(row.doc_id, row.why) for row in rows.collect()} == {("a", "email")}
    documents = spark.createDataFrame([("a", text), ("b", text)], "doc_id string, text string")
    learnt = dict(edits.apply_edits(edits.attach_edits(documents, rows)).collect())
    assert learnt == {"a": "Write to <EMAIL> or call 0123. Ünïcode <EMAIL>", "b": text}


def test_what_people_are_shown_has_no_personal_data_even_where_it_is_cut_in_two():
    text = "Ünïcode " * 2 + "jo.smith@gmail.com " + "word " * 200
    assert preview.beginnings([text, "plain", "", text], 20) == ["Ünïcode Ünïcode <EMA", "plain", "", "Ünïcode Ünïcode <EMA"]


def test_pages_and_cards_show_masked_texts(spark):
    from flows.report.samples import texts
    from pipelines.models.audit import audit
    from pipelines.signals.spans import AFTER

    assert preview.SHOWN_BEHIND >= AFTER
    chance = random.Random(2)
    letters = "".join(chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") for _ in range(6_400))
    lines = "\n".join(letters[at : at + 64] for at in range(0, len(letters), 64))
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"
    rows = [("a", "s", "u", None, 9, f"Ask jo.smith@gmail.com. {key}"), ("b", "s", "u", None, 9, "plain")]
    documents = spark.createDataFrame(rows, "doc_id string, source string, uri string, licence string, n_bytes bigint, text string")
    assert {i: row["text"] for i, row in texts(documents, {"a", "b"}).items()} == {"a": "Ask <EMAIL>. <KEY>", "b": "plain"}
    scored = [(i, "s", "en", 9, quality, "web") for i, quality in (("a", 0.9), ("b", 0.1))]
    signals = spark.createDataFrame(scored, "doc_id string, source string, lang string, n_bytes bigint, quality double, quality_model string")
    shown = audit(signals, documents)["web"]
    assert {row["text"] for end in ("top", "bottom") for row in shown[end]} == {"Ask <EMAIL>. <KEY>", "plain"}


def planted_pages() -> list[str]:
    """Pages with a banner that all share; the last two quote all of the first, and a part of the second with little of their own."""
    chance = random.Random(8)
    pages = [" ".join(f"own{i}x{chance.randrange(1000)}" for _ in range(120)) for i in range(30)]
    quotes = pages[0] + " " + " ".join(f"new{i}" for i in range(45))
    short = " ".join(pages[1].split()[:52]) + " " + " ".join(f"few{i}more"[:8] for i in range(10, 74))
    return [f"Share this page with all\n{page}\nLast line." for page in [*pages, quotes, short]]


@pytest.fixture(scope="module")
def edited(spark, tmp_path_factory) -> Job:
    """The steps edits, judge and tokenise over the planted pages, each alone in its cluster, with one rule."""
    folder = tmp_path_factory.mktemp("edits")
    off = {rule.name: None for rule in rules.load("docs") if rule.name != "too_few_words"}
    recipe = Recipe.model_validate({
        "home": str(folder / "home"),
        "sources": [{"name": "pages", "reader": "jsonl", "domain": "docs", "path": str(folder)}],
        "rules": {"docs": off | {"too_few_words": 100}},
        "edits": {"repeated_lines": {"domains": ["docs"], "documents": 6, "min_chars": 12}, "repeated_passages": {"domains": ["docs"]}},
        "tokenizer": {"vocab_size": 300, "sample_bytes": 10_000},
        "heldout": {"fraction": 0.2},
        "stages": [{"name": "one", "tokens": 2048, "seq_len": 64}],
    })  # fmt: skip
    job = Job(recipe, Home(folder / "home"), {step.name: step.name for step in STEPS})
    job.spark = spark
    ids = [f"{i:032x}" for i in range(len(planted_pages()))]
    rows = [(i, "pages", "1", i, "docs", None, {}, text, len(text)) for i, text in zip(ids, planted_pages(), strict=True)]
    job.write(spark.createDataFrame(rows, tables.DOCUMENTS.ddl), tables.DOCUMENTS, "ingest")
    job.write(spark.createDataFrame([(i, i, i, 1, 1, i, True) for i in ids], tables.CLUSTERS.ddl), tables.CLUSTERS, "dedup")
    batch = measure_batch(batch_of(planted_pages(), ["docs"] * len(ids)), Context(assets.LANGUAGE_MODEL.read_bytes()))
    signals = [tuple(row.values()) for row in batch.set_column(1, "source", pa.array(["pages"] * len(ids))).to_pylist()]
    table = TABLE
    job.write(spark.createDataFrame(signals, table.ddl), table, "measure")
    for one in (step, judge, tokenise):
        one.run(job)
    return job


def test_the_text_is_learnt_without_what_is_left_out(edited):
    pages, lake = planted_pages(), edited.home.lake
    texts = {row["doc_id"]: row["text"] for row in lake.arrow(tables.DOCUMENTS, ["doc_id", "text"]).to_pylist()}
    assert sorted(texts.values()) == sorted(pages), "the documents themselves stay as they came"
    words = encoding((edited.home.shards / "tokenizer.ranks").read_bytes(), "bpe")
    rows = lake.arrow(tables.TOKENS).to_pylist()
    assert len(rows) == 30 and {row["stream"] for row in rows} == {"pages.all", "heldout"}
    for row in rows:
        learnt = texts[row["doc_id"]].removeprefix("Share this page with all\n")
        assert np.frombuffer(row["tokens"], np.uint16).tolist() == words.encode_ordinary(learnt)
        assert row["n_bytes"] == len(learnt.encode())
    assert {row.text for row in step.apply_edits(edited, edited.read(tables.DOCUMENTS)).select("text").collect()} > {words.decode(words.encode_ordinary(learnt))}


def test_what_is_left_is_judged_again(edited):
    lake, pages = edited.home.lake, planted_pages()
    verdicts = {row["doc_id"]: row["reasons"] for row in lake.arrow(tables.VERDICTS).to_pylist()}
    place = {row["doc_id"]: pages.index(row["text"]) for row in lake.arrow(tables.DOCUMENTS).to_pylist()}
    assert {place[doc_id]: reasons for doc_id, reasons in verdicts.items() if reasons} == {
        0: ["torso", "rest_too_few_words"],  # the longer page keeps what both have
        31: ["rest_too_few_words"],
    }
    left = {place[row["doc_id"]]: (row["n_words"], row["n_bytes"]) for row in lake.arrow(tables.RESTS, ["doc_id", "n_words", "n_bytes"]).to_pylist()}
    assert len(left) == 32 and left[5] == (122, len(pages[5]) - 25) and left[0] == (2, len("Last line."))
    assert left[31] == (66, len(pages[31]) - len(pages[31][: pages[31].index("few10")]))


def test_a_trace_names_the_edits(edited):
    lake = edited.home.lake
    doc_id = lake.arrow(tables.EDITS, where=pc.field("why") == PASSAGE).to_pylist()[0]["doc_id"]
    told = dict(life(lake, doc_id))["edits"]
    assert told[0] == "bytes 0-24 left out: repeated_line" and told[1].startswith("bytes 25-") and told[1].endswith("left out: repeated_passage")


def test_edits_are_checked_in_the_recipe_and_their_rules_count_only_where_text_is_compared(edited):
    value = edited.recipe.model_dump(mode="json")
    value["edits"]["repeated_lines"]["domains"] = ["web"]
    with pytest.raises(ValueError, match=r"edits\.repeated_lines\.domains: expected names among docs; found web"):
        Recipe.model_validate(value)
    assert "too_few_words" in step.part(edited.recipe)["rules"]["docs"]
    assert "rules" not in step.part(Recipe.model_validate(value | {"edits": {"personal": ["email"]}}))
    assert ("edits.repeated_passages.words", "int", "50") in {row[:3] for row in fields()}
