"""Verdicts of hand-made signals, with the expected answer in the same row."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest

from pipelines import rules
from pipelines.rules import Rule
from pipelines.rules.judge import Terms, create_verdicts, judge
from schemas import tables
from schemas.parts import Heldout

RULES = {
    "docs": (Rule("few_words", "n_words", "hand", below=10), Rule("long_words", "mean_word_len", "hand", above=8)),
    "code": (Rule("long_line", "max_line_len", "hand", above=100),),
}
TIERS = {"high": 0.5, "low": 0.0}
# doc, domain, n_words, mean_word_len, max_line_len, quality, rank, exact -> reasons, percentile, tier
ROWS = [
    ("1", "docs", 10, 8.0, 500, 0.10, 1, True, [], 0.25, "low"),  # on the threshold is inside; code's rule is not applied
    ("2", "docs", 9, 5.0, 50, 0.99, 1, True, ["few_words"], None, None),
    ("3", "docs", 9, 9.0, 50, 0.99, 2, True, ["few_words", "long_words", "exact_duplicate"], None, None),
    ("4", "docs", 50, 5.0, 50, 0.99, 2, False, ["near_duplicate"], None, None),
    ("5", "docs", 50, 5.0, 50, 0.20, 1, True, [], 0.5, "high"),
    ("6", "docs", 50, 5.0, 50, 0.90, 1, True, [], 0.75, "high"),
    ("7", "docs", 50, 5.0, 50, 0.95, 1, True, [], 1.0, "high"),
    ("8", "code", 1, 99.0, 100, None, 1, True, [], None, "high"),  # no model: counts as the median
    ("9", "code", 1, 99.0, 101, None, 1, True, ["long_line"], None, None),
]


def judged(way, terms, **given) -> dict[str, dict]:
    """Verdicts by doc_id, by Spark or by this process."""
    if way == "spark":
        table = judge(given, terms).toArrow()
    else:
        with duckdb.connect() as db:
            for name, rows in given.items():
                db.register(name, rows.toArrow())
            create_verdicts(db, given, terms)
            table = db.sql("from verdicts order by doc_id").to_arrow_table()
    assert table.column_names == list(tables.VERDICTS.column_names)
    return {row["doc_id"]: SimpleNamespace(**row) for row in table.to_pylist()}


@pytest.fixture(scope="module", params=["spark", "here"])
def verdicts(request, spark):
    schema = "doc_id string, source string, domain string, n_bytes long, n_words long, mean_word_len double, max_line_len long, quality double, quality_model string"
    signals = spark.createDataFrame([(r[0], "s", r[1], 100 * i, *r[2:6], r[1]) for i, r in enumerate(ROWS)], schema)
    clusters = spark.createDataFrame([(r[0], f"cluster{r[0]}", r[6], r[7]) for r in ROWS], "doc_id string, component string, rank int, exact boolean")
    terms = Terms(RULES, TIERS, Heldout(fraction=1 - 2**-53, max_bytes=500), 1)
    return judged(request.param, terms, signals=signals, clusters=clusters)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_verdict_has_all_reasons_in_order_and_the_first_decides(verdicts, row):
    *_, reasons, percentile, tier = row
    verdict = verdicts[row[0]]
    assert (verdict.reasons, verdict.reason, verdict.keep) == (reasons, reasons[0] if reasons else None, not reasons)
    assert (verdict.percentile, verdict.tier) == (percentile, tier)


def test_only_kept_documents_below_the_size_are_held_out(verdicts):
    assert {doc_id for doc_id, row in verdicts.items() if row.heldout} == {"1", "5", "6"}


# doc, rest (n_bytes, n_words, quality), contaminated, rank -> reasons, percentile; documents have 100 bytes, 50 words and quality .5
EDITED = [
    ("1", None, False, 1, [], 2 / 3),
    ("2", (90, 40, 0.9), False, 1, [], 1.0),  # graded by what is left
    ("3", (60, 9, 0.9), False, 2, ["torso", "rest_few_words", "near_duplicate"], None),
    ("4", (0, 0, None), False, 1, ["torso", "rest_few_words"], None),
    ("5", None, True, 2, ["contaminated", "near_duplicate"], None),
    ("6", (70, 40, 0.1), False, 1, [], 1 / 3),  # 1 - torso of it is just enough
]


@pytest.mark.parametrize("way", ["spark", "here"])
def test_what_edits_leave_is_judged_in_the_documents_place_and_evaluation_items_count(spark, way):
    columns = "doc_id string, source string, domain string, n_bytes long, n_words long, mean_word_len double, quality double, quality_model string"
    signals = spark.createDataFrame([(row[0], "s", "docs", 100, 50, 5.0, 0.5, "docs") for row in EDITED], columns)
    clusters = spark.createDataFrame([(row[0], row[0], row[3], False) for row in EDITED], "doc_id string, component string, rank int, exact boolean")
    rests = spark.createDataFrame([(row[0], "s", "docs", *row[1][:2], 5.0, row[1][2], "docs") for row in EDITED if row[1]], columns)
    covers = [(row[0], cover) for row in EDITED for cover in ((0.5, 0.9) if row[2] else (0.49,))]  # two items, or none so far
    contamination = spark.createDataFrame(covers, "doc_id string, cover double")
    terms = Terms({"docs": RULES["docs"]}, {"all": 0.0}, Heldout(fraction=0.0), 1, torso=0.3, cover=0.5)
    rows = judged(way, terms, signals=signals, clusters=clusters, rests=rests, contamination=contamination)
    assert {doc_id: (row.reasons, row.percentile) for doc_id, row in rows.items()} == {row[0]: row[4:] for row in EDITED}
    assert not any(row.heldout for row in rows.values())


@pytest.mark.parametrize("way", ["spark", "here"])
def test_the_held_out_share_is_drawn_by_component(spark, way):
    n = 4000
    signals = spark.range(n).selectExpr("cast(id as string) doc_id", "'s' source", "'x' domain", "1L n_bytes", "0.5D quality", "'x' quality_model")
    clusters = spark.range(n).selectExpr("cast(id as string) doc_id", "cast(id div 2 as string) component", "1 rank", "true exact")
    rows = judged(way, Terms({}, {"all": 0.0}, Heldout(fraction=0.1), 4), signals=signals, clusters=clusters)
    ids = {int(doc_id) for doc_id, row in rows.items() if row.heldout}
    assert ids == {i for i in range(n) if int(hashlib.md5(f"4/heldout/{i // 2}".encode()).hexdigest()[:8], 16) < int(0.1 * 2**32)}
    assert 0.08 * n < len(ids) < 0.12 * n
    assert all(i ^ 1 in ids for i in ids)


def test_every_default_rule_names_a_signal_that_is_measured_and_a_source():
    from pipelines.signals import TABLE

    measured = set(TABLE.column_names)
    assert rules.domains() == ("code", "docs", "instruct", "math", "multilingual", "web")
    for domain in rules.domains():
        for rule in rules.load(domain):
            assert set(rule.columns) <= measured and len(rule.source) > 3, rule


def test_a_recipe_changes_a_threshold_and_turns_a_rule_off():
    changed = {rule.name: rule for rule in rules.load("docs", {"too_few_words": 99, "no_stop_words": None})}
    assert changed["too_few_words"].below == 99 and "no_stop_words" not in changed
    with pytest.raises(ValueError, match=r"rules\.docs: expected names among too_few_words.*found misspelt"):
        rules.load("docs", {"misspelt": 1})
    with pytest.raises(ValueError, match="expected a domain among code, docs, instruct, math, multilingual, web, found poems"):
        rules.load("poems")


MANY = (
    Rule("few_words", "n_words", "hand", below=50, languages={"zh": None, "de": 60.5}),
    Rule("long_line", "max_line_len", "hand", above=1000, unless={"declared": ["HTML", "C++"]}),
    Rule("markup", "max_line_len", "hand", above=2000, only={"declared": ["HTML"], "lang": ["de", "en"]}),
    Rule("share", "frac", "hand", above=0.1, languages={"en": 0.30000000000000004, "de": 1e-7}),
)
# n_words, max_line_len, frac, declared, lang -> the rules of MANY that fail
MADE = [
    (49, 1000, 0.1, None, "fr", ["few_words"]),
    (49, 1001, 0.1, None, "zh", ["long_line"]),
    (60, 1001, 1e-7, "HTML", "de", ["few_words"]),
    (61, 2001, 1.1e-7, "HTML", "de", ["markup", "share"]),
    (50, 2001, 0.30000000000000004, "C++", "en", []),
    (50, 2001, 0.30000000000000010, "C", "en", ["long_line", "share"]),
    (None, 5000, None, "HTML", None, []),
    (10, None, 0.2, "HTML", None, ["few_words", "share"]),
]


def test_a_rule_holds_for_some_values_and_languages_and_means_the_same_in_python_spark_and_duckdb(spark):
    names = ("n_words", "max_line_len", "frac", "declared", "lang")
    rows = [{"id": i, **dict(zip(names, row[:-1], strict=True))} for i, row in enumerate(MADE)]
    assert [[rule.name for rule in MANY if rule.fails(row)] for row in rows] == [row[-1] for row in MADE]
    types = [pa.int32(), pa.int32(), pa.int32(), pa.float64(), pa.string(), pa.string()]
    table = pa.Table.from_pylist(rows, pa.schema(list(zip(("id", *names), types, strict=True))))
    table = table.append_column("domain", pa.array(["docs"] * len(rows)))
    cases = [f"coalesce({rule.sql}, false), {rule.case('docs', 'rest_')}, {rule.case('web')}" for rule in MANY]
    conditions = ", ".join(cases)
    expected = []
    for i, row in enumerate(MADE):
        told = [(True, f"rest_{rule.name}", None) if rule.name in row[-1] else (False, None, None) for rule in MANY]
        expected.append((i, *(cell for cells in told for cell in cells)))
    with duckdb.connect() as db:
        assert db.register("made", table).execute(f"select id, {conditions} from made order by id").fetchall() == expected
    spark.createDataFrame(table).createOrReplaceTempView("made")
    assert [tuple(row) for row in spark.sql(f"select id, {conditions} from made order by id").collect()] == expected


def test_a_rule_says_its_condition_in_words():
    few, long, markup, _ = MANY
    assert (few.side, long.side) == ("below", "above")
    assert [few.condition(lang) for lang in (None, "fr", "de", "zh")] == ["below 50", "below 50", "below 60.5", "off"]
    assert few.description == "n_words below 50; zh off; de below 60.5"
    assert long.description == "max_line_len above 1000; unless declared HTML, C++"
    assert markup.description == "max_line_len above 2000; only declared HTML; only lang de, en"


def test_thresholds_of_languages_are_the_recipes_before_the_fitted_before_the_default():
    fitted = {"long_words": {"fr": 11.5, "zh": 62.0}, "too_few_words": {"fr": 1.0}}  # too_few_words is not fitted
    changes = {"long_words": {"de": 17, "default": 12}, "lists": 0.5, "no_stop_words": None}
    by_name = {rule.name: rule for rule in rules.load("multilingual", changes, fitted)}
    long_words = {lang: by_name["long_words"].languages.get(lang, by_name["long_words"].threshold) for lang in ("fr", "de", "hi", "zh", "ja", "fi")}
    assert long_words == {"fr": 11.5, "de": 17, "hi": 21, "zh": 62.0, "ja": None, "fi": 12}
    assert "fr" not in by_name["too_few_words"].languages and by_name["too_few_words"].languages["zh"] is None
    assert (by_name["lists"].threshold, by_name["lists"].languages) == (0.5, {}) and "no_stop_words" not in by_name
    with pytest.raises(ValueError, match="long_words: expected a number for default"):
        rules.load("multilingual", {"long_words": {"default": None}})
    with pytest.raises(ValueError, match="expected texts without quotes and backslashes"):
        Rule("bad", "n_words", "hand", below=1, only={"lang": [False]})
