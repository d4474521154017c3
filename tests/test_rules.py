"""Each rule tripped by a text made for it; routes and fitted languages against hand-made answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines import assets, rules
from pipelines.models import languages
from pipelines.rules import Rule
from pipelines.signals import code, personal, stopwords, text
from pipelines.signals.context import Context
from pipelines.signals.measure import batch_of, measure_batch
from pipelines.signals.routes import route_domains
from pipelines.texts.scripts import LANGUAGES
from schemas.parts import Route

PROSE = """The river had risen in the night, and by morning the lower meadow lay under water.
Nobody in the village seemed to be surprised, for it happened nearly every spring that anyone could remember.
Old Martha carried her chairs up the stairs with a calm that came of long practice.
Her neighbour brought bread, cheese and a kettle, and they sat down to wait at the attic window.
Towards noon a boat went by with two sheep in it. By evening the rain had stopped, and the first stars were out.
"""


def wide(n: int) -> str:
    """So many different words, of different length."""
    return " ".join(f"w{i * 7919 % 10007}ord" for i in range(n))


# domain, rule -> a text that trips it
TRIPPED = [
    ("web", "too_few_words", "The cat sat on the mat and was happy with that."),
    ("web", "short_words", PROSE + "a b c d " * 80),
    ("web", "long_words", PROSE + " internationalisation's counterrevolutionaries" * 40),
    ("web", "hashes", PROSE + "#one #two #three #four #five #six #seven #eight #nine #ten #eleven #twelve #more"),
    ("web", "ellipses", PROSE.replace(",", "...").replace(" and", " ... and").replace(" the ", " the... ")),
    ("web", "bullet_lines", "\n".join(f"- {line}" for line in PROSE.splitlines())),
    ("web", "ellipsis_lines", PROSE.replace(".\n", "...\n")),
    ("web", "few_words_with_letters", PROSE + " 12 34 56" * 12),
    ("web", "no_stop_words", wide(60)),
    ("web", "repeated_lines", PROSE + "Share this page now\n" * 5),
    ("web", "repeated_paragraphs", PROSE + "\n" + "Read all about it.\n\n" * 5),
    ("web", "repeated_line_text", PROSE * 2),
    ("web", "repeated_paragraph_text", PROSE + "\n" + PROSE),
    ("web", "top_2gram", PROSE + "wonderful opportunity, " * 20),
    ("web", "repeated_5grams", PROSE + "one of the very best things that ever was " * 10),
    ("web", "repeated_span", PROSE + "la di da " * 32),
    ("web", "repeated_character", PROSE + "a" * 401),
    ("web", "lorem_ipsum", PROSE + "Lorem ipsum dolor sit amet."),
    ("web", "curly_braces", PROSE + "function () { return; }"),
    ("web", "few_sentences", PROSE.replace(". ", ", ").replace(".\n", ",\n")),
    ("web", "c4_lines", PROSE + "Please enable javascript " + wide(60) + "\n"),
    ("web", "ui_lines", PROSE + "HOME ABOUT US CONTACT US\n1,204 views\nSign-in or register\n"),
    ("web", "line_ends", PROSE.replace(".\n", "\n")),
    ("web", "fineweb_repeated_lines", PROSE + PROSE.splitlines()[2]),
    ("web", "short_lines", PROSE + "Home page\nAbout us all\nOur products\nContact us now\n" * 3),
    ("web", "lists", PROSE.replace(" ", "\n").replace("\n", " ", 40)),
    ("web", "questionable_sentences", PROSE + "Download it here. Find us on Facebook. The Episode is on. Get the mp3 now."),
    ("web", "much_personal_data", PROSE + " ".join(f"Write to {name}@marlowe-kettles.net." for name in ("anna", "bo", "cleo", "dan", "eve", "finn"))),
    *((domain, "undecoded_characters", PROSE.replace("d", "\ufffd", 1)) for domain in rules.domains()),
    ("web", "encoded_run", PROSE + "QUJD" * 300),
    ("multilingual", "too_few_words", "Der Fluss war in der Nacht gestiegen, und die untere Wiese stand am Morgen unter Wasser."),
    ("multilingual", "too_few_characters", "昨晚河水上涨了，到了早晨，下面的草地都被水淹没了。村里的人谁也没有感到惊讶。"),
    ("math", "few_words_with_letters", r"We have that 1 + 1 = 2 and 2 + 2 = 4 and 4 + 4 = 8 to be sure, with 8 + 8 = 16 of it. 16 + 16 = 32 * 1 = 32"),
    ("instruct", "too_few_words", "Yes. No."),
    ("instruct", "mostly_encoded", "Decode this for me, please: " + "QUJD" * 40),
    ("docs", "repeated_span", PROSE + "0 " * 32),
]  # fmt: skip


def signals(texts: list[str], **given) -> list[dict]:
    """Signals that need no model, and what else is given."""
    strings = pa.array(texts, pa.string())
    columns = {"n_bytes": [len(one.encode()) for one in texts], "lang": [None] * len(texts), "declared": [None] * len(texts)}
    columns |= {name: [0] * len(texts) for name in ("vendored", "generated")}
    columns |= {name: [None] * len(texts) for name in ("lang_score", "lang_mixed", "language_stop_words")}
    for family in (text, code, personal):
        columns |= {c.name: v.to_pylist() for c, v in zip(family.COLUMNS, family.measure(strings, None, None), strict=True)}
    columns |= {name: [value] * len(texts) for name, value in given.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def failed(domain: str, row: dict) -> list[str]:
    return [rule.name for rule in rules.load(domain) if rule.fails(row)]


@pytest.mark.parametrize(("domain", "name", "document"), TRIPPED, ids=lambda value: value if len(value) < 40 else "")
def test_a_text_made_for_a_rule_trips_it_and_good_prose_trips_none(domain, name, document):
    lang = {"too_few_characters": "zh"}.get(name, "de" if domain == "multilingual" else "en")
    assert name in failed(domain, signals([document], lang=lang)[0])
    assert failed(domain, signals([PROSE], lang=lang)[0]) == []


def test_one_lost_character_in_ten_thousand_drops_no_text_of_any_domain():
    row = signals([wide(1500).replace("w", "\ufffd", 1)], lang="en")[0]
    assert row["n_chars"] > 10_000 and row["replacement_chars"] > 0
    assert not any("undecoded_characters" in failed(domain, row) for domain in rules.domains())


CODE = "def area(width, height):\n    return width * height  # in square metres\n\n\nprint(area(3, 4), area(5, 6), sep=', ')\n"
# text, what is given -> the rules of code that fail
FILES = [
    (CODE, {}, []),
    (CODE, {"vendored": 1, "generated": 1}, ["vendored", "generated"]),
    (CODE + "# " + wide(200), {}, ["long_lines", "very_long_line"]),
    (CODE + "# " + wide(200), {"declared": "Markdown"}, []),
    (CODE + "# " + "words " * 17000, {"declared": "TeX"}, ["longest_line", "repeated_10grams"]),
    ("0x1F 0x2E\n" * 3 + "mov eax, 12; 34 + 56 - 78 * 90 / 12 (34) [56] 78 90 12 34 56 78 90 + 12 - 34 * 56 / 78", {}, ["few_letters"]),
    ("0x1F 0x2E\n" * 3 + "mov eax, 12; 34 + 56 - 78 * 90 / 12 (34) [56] 78 90 12 34 56 78 90 + 12 - 34 * 56 / 78", {"declared": "Assembly"}, []),
    ('{"name": "Martha", "village": "Nether"}', {"declared": "JSON"}, ["too_short", "little_data"]),
    ("\n".join(f"key{i}: {i * 7919 % 1009}" for i in range(600)), {"declared": "YAML"}, ["much_data"]),
    ("\n".join(f"key{i}: {i * 7919 % 1009}" for i in range(600)), {"declared": "Python"}, []),
    ("<html><body>" + "<div class='a b c d e f g'></div>\n" * 20 + "Hello</body></html>", {"declared": "HTML"}, ["little_visible", "few_visible", "repeated_lines", "repeated_10grams"]),
    ('<?xml version="1.0"?>\n<project><name>of a build, and what it needs to be made</name><version>1.2</version></project>', {"declared": "C"}, ["xml_header"]),
    ('<?xml version="1.0"?>\n<project><name>of a build, and what it needs to be made</name><version>1.2</version></project>', {"declared": "XML"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("document", "given", "expected"), FILES)
def test_a_file_is_judged_by_what_it_declares(document, given, expected):
    assert failed("code", signals([document], **given)[0]) == expected


# ---- routes ----


def test_the_first_route_that_holds_decides_and_null_lets_none_hold():
    routes = (
        Route(domain="web", to="math", signal="latex", above=5),
        Route(domain="web", to="multilingual", signal="lang", none_of=("en", "und")),
        Route(domain="docs", to="code", signal="alpha", below=0.2),
        Route(domain="docs", to="multilingual", signal="lang", one_of=("de",)),
    )
    given = {
        "latex": pa.array([6.0, 5.0, 9.0, 9.0, None, 0.0]),
        "lang": pa.array(["de", "fr", "en", "de", None, "en"]),
        "alpha": pa.array([0.0, 0.0, 0.0, 0.3, 0.0, 0.2]),
    }
    domains = pa.array(["web", "web", "web", "docs", "web", "docs"])
    assert route_domains(domains, given, routes).to_pylist() == ["math", "multilingual", "math", "multilingual", "web", "docs"]
    assert route_domains(domains, given, ()).equals(domains)
    with pytest.raises(ValueError, match="expected a signal among latex, lang, alpha; found quality"):
        route_domains(domains, given, (Route(domain="web", to="docs", signal="quality", above=0),))


@pytest.mark.parametrize("given", [{}, {"above": 1, "below": 2}, {"one_of": ("a",), "above": 0}])
def test_a_route_has_one_condition(given):
    with pytest.raises(ValueError, match="expected one of above, below, one_of and none_of"):
        Route(domain="web", to="math", signal="lang", **given)


GERMAN = "Der Fluss war in der Nacht gestiegen, und am Morgen stand die untere Wiese unter Wasser. Niemand im Dorf war überrascht."


@pytest.mark.skipif(not assets.LANGUAGE_MODEL.exists(), reason="run `make setup`")
def test_a_document_is_measured_as_what_it_is_routed_to_and_stop_words_are_those_of_its_language():
    routes = (Route(domain="web", to="multilingual", signal="lang", none_of=("en",)),)
    context = Context(assets.LANGUAGE_MODEL.read_bytes(), routes=routes, stop_words={"de": ["der", "die", "und", "ist"]})
    batch = measure_batch(batch_of([GERMAN, PROSE], ["web", "web"]), context)
    assert batch.column("domain").to_pylist() == ["multilingual", "web"]
    assert batch.column("language_stop_words").to_pylist() == [3, None]


def test_stop_words_are_counted_once_each_in_any_case_and_script():
    context = Context(b"", stop_words={"de": ["der", "über", "ß"], "el": ["και", "το"], "xx": [f"w{i}" for i in range(64)]})
    texts = ["DER der Über-all ÜBER", "Και, το;το", "w1 w2 w63 w64 w1w2", "", "der"]
    counts = stopwords.measure(pa.array(texts), {"lang": pa.array(["de", "el", "xx", "de", "en"])}, context)[0]
    assert counts.to_pylist() == [2, 2, 3, 0, None]
    assert stopwords.measure(pa.array(["der"]), {"lang": pa.array(["de"])}, Context(b""))[0].to_pylist() == [None]


# ---- languages ----


COUNTED = "too_few_words too_few_characters long_words hashes ellipses few_words_with_letters lists"
WITHOUT_SPACES = {*(("multilingual", name) for name in COUNTED.split()), ("math", "long_words")}


def test_lists_of_languages_without_spaces_are_the_table():
    """YAML cannot import it. A list of other languages shares few with it."""
    assert LANGUAGES == set("th lo bo dz my km ja zh yue wuu".split())
    found = set()
    for domain in rules.domains():
        for rule in rules.load(domain):
            off = {lang for lang, limit in rule.languages.items() if limit is None}
            for named in (off, set(rule.only.get("lang", ())), set(rule.unless.get("lang", ()))):
                assert len(named & LANGUAGES) <= 2 or named == LANGUAGES, (domain, rule.name)
                found |= {(domain, rule.name)} if named == LANGUAGES else set()
    assert found == WITHOUT_SPACES


def test_languages_without_spaces_have_no_stop_words():
    texts = {"ka": "მდინარე და მთა და ზღვა", "bo": "བོད་ཡིག་ གི།", "km": "ភាសា ខ្មែរ។", "lo": "ພາສາລາວ", "en": "the river"}
    langs = [lang for lang in texts for _ in range(languages.LEAST_DOCUMENTS)]
    card = languages.fit(pa.RecordBatch.from_pydict({"lang": langs}), [texts[lang] for lang in langs], ())
    assert set(card["documents"]) == set(texts) and set(card["stop_words"]) == {"ka", "en"}
    assert card["stop_words"]["ka"][0] == "და"


def test_thresholds_are_the_quantiles_ratios_and_medians_of_trusted_documents():
    values = np.arange(101) / 100  # 0, .01, ..., 1
    deviation = np.std(values)
    tail, ratio, median = {"tail": 0.1}, {"ratio": 0.25}, {"median": [0.3, 0.9]}
    assert languages.threshold(Rule("a", "x", "hand", below=9, fit=tail), values) == pytest.approx(0.1)
    assert languages.threshold(Rule("a", "x", "hand", above=9, fit=tail), values) == pytest.approx(0.9)
    assert languages.threshold(Rule("a", "x", "hand", above=9, fit=ratio), values) == pytest.approx(18)
    assert languages.threshold(Rule("a", "x", "hand", below=0.5, fit=median), values) == 0.3
    assert languages.threshold(Rule("a", "x", "hand", below=0.5, fit=median), 1 - values / 10) == pytest.approx(min(0.95 - deviation / 10, 0.9))
    with pytest.raises(ValueError, match="expected a fit by tail, ratio or median, found mode"):
        languages.threshold(Rule("a", "x", "hand", below=0.5, fit={"mode": 1}), values)


def test_a_fit_is_by_language_and_leaves_out_those_of_which_it_has_seen_too_little():
    n = languages.LEAST_DOCUMENTS
    langs = ["de"] * n + ["fr"] * (n - 1) + ["und"] * n
    made = pa.RecordBatch.from_pydict({"lang": langs, "mean_word_len": [6.0] * n + [1.0] * (2 * n - 1)})
    rule = Rule("long_words", "mean_word_len", "hand", above=10, fit={"ratio": 4.8})
    card = languages.fit(made, ["der Fluss und der Berg und das Tal"] * len(langs), (rule, Rule("other", "n_words", "hand", below=1)))
    assert card["documents"] == {"de": n} and card["thresholds"] == {"long_words": {"de": pytest.approx(12.5)}}
    assert card["quantiles"] == {"mean_word_len": {"de": [6.0] * 5}}
    assert card["stop_words"] == {"de": ["der", "und", "berg", "das", "fluss", "tal"]}


def test_stop_words_are_the_short_common_ones():
    texts = ["die katze und die maus " * 20 + " ".join(f"wort{chr(97 + i % 26)}{i}" for i in range(300))] * 2
    assert languages.stop_words(texts)[:5] == ["die", "katze", "maus", "und"]
    many = [" ".join(chr(97 + i // 26) + chr(97 + i % 26) for i in range(500))]
    assert len(languages.stop_words(many)) == languages.LEAST_STOP_WORDS
