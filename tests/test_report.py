"""The report against a small lake whose numbers were counted by hand: facts, page, and what a hostile text can do to it."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pyspark.sql import functions as F
from rich.console import Console

from flows import report
from flows.home import Home, Receipt
from flows.job import Job
from flows.report import census, corpus, distributions, plots, samples, training
from flows.steps import STEPS
from flows.steps.report import files
from flows.summary import curriculum as curriculum_table
from flows.summary import heldout as heldout_table
from flows.summary import print_summary
from pipelines.signals import COLUMNS, TABLE
from schemas import tables
from schemas.files import write_json
from schemas.recipe import Recipe

HOSTILE = "<script>alert(1)</script></pre><img src=x onerror=alert(2)> {{ 7 * 7 }} https://evil.example/x.js \x1b[31mred \u202e reversed"
RECIPE = {
    "home": "unused",
    "sources": [
        {"name": "code", "reader": "python-code", "domain": "code"},
        {"name": "docs", "reader": "python-docs", "domain": "docs"},
    ],
    "quality": {"code": {"positives": [{"source": "code", "uri": "<a>*"}], "documents": 40}},
    "tiers": {"high": 0.5, "low": 0.0},
    "window_tokens": 1024,
    "stages": [
        {"name": "broad", "tokens": 256, "seq_len": 64},
        {"name": "anneal", "tokens": 128, "seq_len": 128, "lr": {"shape": "one_minus_sqrt", "start": 1.0, "end": 0.0}},
    ],
    "model": {"layers": 2, "experts": 4, "top_k": 2, "d_model": 24, "heads": 2, "kv_heads": 1},
    "train": {"batch_tokens": 128},
}
# number, source, text, reasons, tier, held out, tokens, signals that differ from those of a good document
DOCUMENTS = (
    (1, "code", "def one():\n    return 1\n" * 4, [], "high", False, 30, {}),
    (2, "code", "x" * 700, [], "low", False, 20, {}),
    (3, "code", "class Three:\n    pass\n", [], "high", True, 10, {}),
    (4, "code", "1, 2, 3", ["too_short", "few_letters"], None, False, None, {"alpha_frac": 0.125}),
    (5, "code", "four", ["too_short"], None, False, None, {}),
    (6, "code", "def one():\n    return 1\n" * 4, ["exact_duplicate"], None, False, None, {}),
    (7, "docs", HOSTILE, [], "high", False, 40, {}),
    (8, "docs", "<b>nothing</b>", ["no_stop_words", "near_duplicate"], None, False, None, {"stop_words": 1}),
    (9, "docs", HOSTILE + "!", ["near_duplicate"], None, False, None, {}),
)
REJECTS = (("docs", "a.md", "invalid_utf8", 5), ("docs", "b.md", "invalid_utf8", 7), ("docs", "<u>c</u>.md", "empty_text", 0))
GOOD = {"alpha_frac": 0.6, "mean_line_len": 30.0, "stop_words": 5, "n_words": 100, "mean_word_len": 5.0, "alpha_word_frac": 0.9,
        "lang_score": 0.9, "lang": "en", "text_hash": "0" * 32}  # fmt: skip
CLUSTERS = {6: (1, 2, True), 1: (1, 1, True), 7: (7, 1, True), 8: (7, 3, False), 9: (7, 2, False)}  # number: cluster, rank, exact
SIZES = {1: 2, 7: 3}


def doc_id(number: int) -> str:
    return f"{number:032x}"


def blank(type_name: str):
    return [] if type_name.startswith("array") else {"int": 0, "bigint": 0, "double": 0.0, "string": "", "binary": b""}[type_name]


def signals_row(number: int, source: str, text: str, reasons: list, special: dict) -> dict:
    values = {column.name: blank(column.type) for column in COLUMNS} | GOOD | special
    quality = 0.9 if not reasons else 0.2
    base = {"doc_id": doc_id(number), "source": source, "snapshot": "1", "domain": source, "n_bytes": len(text.encode())}
    return {**base, "declared": None, "vendored": 0, "generated": 0, **values, "quality": quality, "quality_model": source}


def table_rows() -> list[tuple[tables.Table, list[dict]]]:
    """Every table with its rows."""
    documents, signals, clusters, verdicts, tokens = [], [], [], [], []
    for number, source, text, reasons, tier, heldout, n_tokens, special in DOCUMENTS:
        base = {"doc_id": doc_id(number), "source": source, "domain": source, "n_bytes": len(text.encode())}
        documents.append({**base, "snapshot": "1", "uri": f"{number}.txt", "licence": "MIT" if number % 2 else None, "facts": {}, "text": text})
        signals.append(signals_row(number, source, text, reasons, special))
        root, rank, exact = CLUSTERS.get(number, (number, 1, True))
        clusters.append({**base, "cluster_id": doc_id(root), "component": doc_id(root), "size": SIZES.get(root, 1), "rank": rank, "keeper": doc_id(root), "exact": exact})
        verdict = {"keep": not reasons, "reason": reasons[0] if reasons else None, "reasons": reasons}
        verdicts.append({**base, **verdict, "percentile": None if reasons else 0.75, "tier": tier, "heldout": heldout})
        if n_tokens:
            stream = "heldout" if heldout else f"{source}.{tier}"
            tokens.append({**base, "doc_key": number, "stream": stream, "n_tokens": n_tokens, "tokens": b"\0\0" * n_tokens})
    rejects = [
        {"source": source, "snapshot": "1", "uri": uri, "reason": reason, "detail": "expected text", "n_bytes": size} for source, uri, reason, size in REJECTS
    ]
    mixture = [
        {"stage": stage, "position": position, "stream": stream, "source": stream.split(".")[0], "weight": 0.5, "samples": tokens // 2 // seq_len,
         "seq_len": seq_len, "tokens": tokens // 2, "unique_tokens": 100, "epochs": 1.28, "effective_tokens": 127.0}
        for position, (stage, seq_len, tokens) in enumerate([("broad", 64, 256), ("anneal", 128, 128)]) for stream in ("code.high", "docs.high")
    ]  # fmt: skip
    spans = [
        {"stream": "code.high", "seq_len": 64, "window": 0, "sample": sample, "slot": slot, "doc_id": doc_id(1), "doc_start": begin, "start": 0, "n_tokens": n}
        for sample, slot, begin, n in ((0, 0, 0, 20), (0, 1, 20, 12), (1, 0, 0, 64))
    ]  # fmt: skip
    return [
        (tables.DOCUMENTS, documents), (tables.REJECTS, rejects), (TABLE, signals), (tables.CLUSTERS, clusters),
        (tables.VERDICTS, verdicts), (tables.TOKENS, tokens), (tables.MIXTURE, mixture), (tables.SPANS, spans),
    ]  # fmt: skip


def write_run(job: Job) -> None:
    """The files that a finished training and evaluation leave."""
    folder = job.run_folder
    folder.mkdir(parents=True)
    lines = [
        {"step": i, "stage": "broad" if i < 2 else "anneal", "tokens": 128 * (i + 1), "loss": 8.0 - i, "balance": 1.1, "lr": 1e-3, "grad_norm": 1.5,
         "load_entropy": 0.98, "load_max": 1.3} for i in range(3)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "seconds.jsonl").write_text("".join(json.dumps({"step": i, "seconds": 0.5, "waited": 0.0, "flops": 2e9, "memory": 10**8}) + "\n" for i in range(3)))
    bits = {"before training": 8.5, "broad": 3.0, "anneal": 2.0}
    evaluations = [{"stage": name, "domains": {d: {"bits_per_byte": value} for d in ("code", "docs")}} for name, value in bits.items()]
    write_json(folder / "result.json", {
        "steps": 3, "tokens": 384, "seconds": 2.5, "final_loss": 6.0, "evaluations": evaluations,
        "expert_load": [[0.25, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]], "parameters": {"total": 1000, "active": 400},
        "speed": {
            "flops_per_second": 4e9, "dense_flops_per_second": 16e9, "peak_flops_per_second": None, "waited": 0.01, "memory": 10**8,
            "micro_batches": 2, "recompute": "none", "device": "cpu",
        },
    })  # fmt: skip
    figures = {"documents": 1, "bytes": 21, "gzip": 4.0, "final": 2.0, "stages": bits}
    domains = {"code": {**figures, "unigram": 3.5}, "docs": {**figures, "unigram": 1.5}}
    write_json(folder / "evaluation.json", {"domains": domains, "generations": [{"prompt": "def ", "text": "[bold]<i>f</i>\x1b[2J"}]})
    write_json(job.home.models / "tokenizer.json", {"name": "bpe", "vocab_size": 512, "eot": 511})
    end = [{"doc_id": doc_id(1), "source": "code", "quality": 0.9, "text": HOSTILE}]
    corpus = {"documents": 4, "source_alone": 0.91, "language_alone": 0.5, "length_alone": 0.6, "warnings": ["source alone tells"], "top": end, "bottom": end}
    figures = {"auc": 0.91, "auc_interval": [0.7, 0.98], "heldout": 7, "calibration": {"ece": 0.1}}
    card = {"domain": "code", "model": "code", **figures, "positives": 30, "pool": 40, "recipe": {"positives": [{"source": "code", "uri": "<a>*"}], "documents": 40}}
    write_json(job.home.models / "quality-code.json", card)
    write_json(job.home.models / "quality.json", {"sha256": {"code": "0" * 64}, "refused": {}})
    write_json(job.home.models / "audit.json", {"code": corpus})
    write_json(job.home.models / "quality-docs.json", card | {"domain": "docs", "model": "docs"})  # of a recipe that asked for it


def receipt(step: str, **other) -> Receipt:
    empty = {"part": None, "inputs": {}, "tables": {}, "files": {}, "counts": {}, "run": "r", "seconds": 1.5, "finished_at": "2026-01-01T00:00:00+00:00"}
    return Receipt(**{"step": step, "hash": step * 4, **empty, **other})


@pytest.fixture(scope="module")
def job(spark, tmp_path_factory) -> Job:
    """A job whose report step is next: tables, run folder and receipts are there."""
    home = Home(tmp_path_factory.mktemp("home"))
    job = Job(Recipe.model_validate(RECIPE), home, {step.name: step.name * 6 for step in STEPS})
    job.spark = spark
    for table, rows in table_rows():
        values = [tuple(row[name] for name in table.column_names) for row in rows]
        home.lake.write(spark.createDataFrame(values, table.ddl), table, {"step": "test"})
    write_run(job)
    home.keep(receipt("ingest", tables={"bronze.documents": 1, "bronze.rejects": 1}, counts={"documents": 9.0}))
    home.keep(receipt("judge", tables={"silver.verdicts": 1}))
    return job


@pytest.fixture(scope="module")
def page(job) -> Path:
    report.write(job, *files(job))
    return files(job)[0]


@pytest.fixture(scope="module")
def facts(page) -> dict:
    return json.loads(page.with_suffix(".json").read_text())


def test_funnel_is_what_was_counted_by_hand(facts):
    code, docs = facts["funnel"]
    n_bytes = {number: len(text.encode()) for number, _, text, *_ in DOCUMENTS}
    assert (code["records"], code["documents"], docs["records"], docs["documents"]) == (6, 6, 6, 3)
    assert code["lost"] == [
        {"reason": "too_short", "documents": 2, "bytes": n_bytes[4] + n_bytes[5]},
        {"reason": "exact_duplicate", "documents": 1, "bytes": n_bytes[6]},
    ]
    assert [(row["reason"], row["documents"]) for row in docs["rejected"]] == [("empty_text", 1), ("invalid_utf8", 2)]
    assert docs["rejected"][1]["bytes"] == 12
    assert code["kept"] == {"documents": 3, "bytes": n_bytes[1] + n_bytes[2] + n_bytes[3]}
    assert code["heldout"] == {"documents": 1, "bytes": n_bytes[3]}
    assert (code["tokens"], docs["tokens"], facts["totals"]["tokens"]) == (50, 40, 90)
    assert code["complaints"] == docs["complaints"] == []


def test_outcomes_partition_the_records(facts):
    for row in facts["funnel"]:
        assert sum(one["documents"] for one in row["outcomes"]) == row["records"]
    assert [(one["outcome"], one["documents"]) for one in facts["totals"]["outcomes"]] == [
        ("for training", 3), ("held out", 1), ("dropped by rules", 3), ("near duplicates", 1), ("exact duplicates", 1), ("rejected", 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "table, said",
    [
        (tables.DOCUMENTS, "8 documents were ingested, 9 have a verdict"),
        (tables.VERDICTS, "9 documents were ingested, 8 have a verdict"),
        (tables.TOKENS, "4 documents were kept, 3 documents have tokens"),
    ],
)
def test_a_missing_row_is_a_complaint(job, table, said):
    read = (tables.DOCUMENTS, tables.REJECTS, tables.VERDICTS, tables.TOKENS)
    frames = {one.name: job.read(one).withColumn("source", F.lit("all")) for one in read}
    frames[table.name] = frames[table.name].where(F.col("doc_id") != doc_id(7))
    documents, rejects, verdicts, tokens = frames.values()
    counted = census.census(verdicts, job.read(tables.SIGNALS), tokens, {})
    (row,) = corpus.funnel([("all", "mixed")], census.count_records(documents, rejects), counted)
    assert said in row["complaints"]


def test_what_does_not_add_up_stands_on_the_page_and_fails_the_step(job, facts, tmp_path, monkeypatch):
    broken = Job(job.recipe, Home(tmp_path), job.hashes)
    funnel = [{**facts["funnel"][0], "complaints": ["6 documents were ingested, 5 have a verdict"]}, facts["funnel"][1]]
    monkeypatch.setattr(report, "facts", lambda job: {**facts, "funnel": funnel})
    with pytest.raises(report.DoesNotAddUp, match="source code: 6 documents were ingested, 5 have a verdict"):
        report.write(broken, *files(broken))
    (page,) = broken.home.report.glob("*.html")
    assert "The counts do not add up" in page.read_text() and "Counts add up" not in page.read_text()


def test_a_run_without_duplicates_rejects_quality_or_heldout_text_has_a_page_too(facts):
    bare = {
        **facts,
        "duplicates": {"histogram": [], "largest": []},
        "quality": [],
        "packing": [],
        "models": {"quality": [], "tokenizer": None},
        "evaluation": {"domains": [], "generations": [], "beats_both": False},
        "samples": {"kept": [], "dropped": [], "rejects": []},
    }
    html = report.page(bare)
    for said in ("No duplicates were found", "Every record became a document", "names no quality model", "The recipe has no prompts", "No text was held out"):
        assert said in html


def test_rules_count_all_only_and_first(facts):
    counts = {(row["domain"], row["rule"]): (row["any"], row["only"], row["first"]) for row in facts["rules"]}
    assert counts["code", "too_short"] == (2, 1, 2)
    assert counts["code", "few_letters"] == (1, 0, 0)
    assert counts["code", "exact_duplicate"] == (1, 1, 1)
    assert counts["docs", "no_stop_words"] == (1, 0, 1)
    assert counts["docs", "near_duplicate"] == (2, 1, 1)
    assert counts["docs", "lorem_ipsum"] == (0, 0, 0)


def test_clusters_are_counted_by_size_and_the_largest_shown_with_their_text(facts):
    duplicates = facts["duplicates"]
    assert [{name: row[name] for name in ("from", "to", "clusters", "documents")} for row in duplicates["histogram"]] == [
        {"from": 1, "to": 1, "clusters": 4, "documents": 4},
        {"from": 2, "to": 2, "clusters": 1, "documents": 2},
        {"from": 3, "to": 4, "clusters": 1, "documents": 3},
    ]
    first, second = duplicates["largest"]
    assert (first["doc_id"], first["size"], second["size"]) == (doc_id(7), 3, 2)
    assert first["sources"] == [{"source": "docs", "documents": 3, "exact": 1}]
    assert [member["uri"] for member in first["members"]] == ["8.txt", "9.txt"]
    assert first["text"].startswith("<script>")


def test_histograms_hold_every_document_and_reach_over_the_threshold(facts):
    entries = {(entry["domain"], entry["signal"]): entry for entry in facts["signals"]}
    alpha = entries["code", "alpha_frac"]
    assert sum(alpha["counts"]) == 6
    assert alpha["low"] == 0.125 and alpha["high"] < 0.7 and alpha["counts"][0] == alpha["failed"][0] == sum(alpha["failed"]) == 1  # document 4
    assert sum(entries["docs", "lorem_ipsum"]["failed"]) == 0  # 0 is not above 0
    assert alpha["thresholds"] == [{"rule": "few_letters", "side": "below", "value": 0.25}]
    for entry in facts["signals"]:
        assert all(entry["low"] <= mark["value"] < entry["high"] for mark in entry["thresholds"])
    assert ("docs", "alpha_frac") not in entries  # no rule of docs looks at it


def test_codes_are_within_a_percent(spark):
    values = [0.0, 1e-4, 0.2, 0.99, 1.0, 2.0, 3.0, 99.0, 100.0, 1e9, -0.5, -7.0]
    frame = spark.createDataFrame([(value,) for value in values], "value double")
    codes = [int(row.code) for row in frame.select(census.encode_values(F.col("value")).alias("code")).collect()]
    assert [census.decode_value(code) for code in codes] == pytest.approx(values, rel=0.006, abs=0.002)
    assert len(set(codes)) == len(values) - 1  # 0.0001 counts as 0


@pytest.mark.parametrize(
    "tails, value, expected",
    [
        ([0.0, 0.5], 0.8, {"low": 0.0, "high": 0.864, "log": False}),
        ([0.0, 0.99], 0.8, {"low": 0.0, "high": 1.0, "log": False}),
        ([10.0, 100_000.0], 100, {"low": 10.0, "high": 107_999.2, "log": True}),
        ([0.0, 0.0], 0, {"low": 0.0, "high": 1.0, "log": False}),
    ],
)
def test_a_histograms_scale(tails, value, expected):
    assert distributions.scale(tails, [{"value": value}]) == pytest.approx(expected)


def test_languages_quality_packing(facts):
    assert [(row["domain"], row["lang"], row["documents"]) for row in facts["languages"]] == [("code", "en", 6), ("docs", "en", 3)]
    assert {(row["domain"], row["tier"]): sum(row["counts"]) for row in facts["quality"]} == {
        ("code", "dropped"): 3, ("code", "high"): 2, ("code", "low"): 1, ("docs", "dropped"): 2, ("docs", "high"): 1
    }  # fmt: skip
    (row,) = facts["packing"]
    assert (row["samples"], row["pieces"], row["continued"], row["fill"]) == (2, 3, 1, 96 / 128)


def test_the_card_of_a_quality_model_says_what_it_goes_by_and_shows_both_ends(page):
    html = page.read_text()
    assert "AUC 0.910 (0.700 to 0.980 with 95 % confidence) on 7 examples" in html
    assert "source 0.91, language 0.50, length 0.60" in html and "<strong>source alone tells.</strong>" in html
    assert all(f"{side} · code · {doc_id(1)[:12]} · score 0.900" in html for side in ("top", "bottom"))


def test_models_of_another_recipe_are_not_reported(job, facts):
    assert [card["model"] for card in facts["models"]["quality"]] == ["code"]
    without = Recipe.model_validate(RECIPE | {"quality": {}})
    assert training.models(job.home.models, without)["quality"] == []


def test_samples_show_the_value_that_failed(facts):
    dropped = {(row["domain"], row["group"], row["doc_id"]): row for row in facts["samples"]["dropped"]}
    row = dropped["code", "few_letters", doc_id(4)]
    assert (row["signal"], row["value"], row["threshold"], row["side"]) == ("alpha_frac", 0.125, 0.25, "below")
    assert ("docs", "near_duplicate", doc_id(9)) in dropped
    assert [(row["group"], row["doc_id"]) for row in facts["samples"]["kept"] if row["domain"] == "code"] == [("high", doc_id(1)), ("low", doc_id(2))]
    long = next(row for row in facts["samples"]["kept"] if row["doc_id"] == doc_id(2))
    assert long["cut"] and len(long["text"]) == samples.CHARS


def test_training_and_evaluation(facts):
    assert facts["training"]["tokens_per_second"] == 256
    assert facts["training"]["stages"] == [{"stage": "broad", "first": 0, "last": 1}, {"stage": "anneal", "first": 2, "last": 2}]
    code, docs = facts["evaluation"]["domains"]
    assert [one["stage"] for one in code["stages"]] == ["before training", "broad", "anneal"]
    assert code["beats"] == {"unigram": True, "gzip": True}
    assert docs["beats"] == {"unigram": False, "gzip": True}
    assert not facts["evaluation"]["beats_both"]
    assert [stage["tokens"] for stage in facts["stages"]] == [256, 128]


def test_the_rotary_base_is_told_where_stages_differ_in_it(job, facts, page):
    assert not any("rope_theta" in stage for stage in facts["stages"]) and "rotary base" not in page.read_text()
    _, anneal = job.recipe.stages
    raised = job.recipe.model_copy(update={"stages": (job.recipe.stages[0], anneal.model_copy(update={"rope_theta": 5e5}))})
    told = facts | {"stages": training.stages(job.home.lake.arrow(tables.MIXTURE).to_pylist(), raised)}
    html = report.page(told)
    assert "sequences of 64, rotary base 10,000; shares" in html and "sequences of 128, rotary base 500,000; shares" in html
    assert [cell for cell in curriculum_table(told).columns[0].cells if cell] == ["broad (rotary base 10,000)", "anneal (rotary base 500,000)"]


def test_the_page_says_which_reference_was_not_beaten(page):
    html = page.read_text()
    assert "The model does not beat both references in every domain" in html
    assert "docs: 2.000 against unigram 1.500" in html and ">not unigram<" in html and ">both<" in html


def test_curves_are_thinned_inside_their_stage():
    steps = [{"step": i, "stage": "a" if i < 500 else "b", "tokens": i, "loss": float(i)} for i in range(1000)]
    curve = training.thin_curve(steps, 100)
    assert len(curve) == 100
    assert curve[0]["loss"] == 4.5 and curve[0]["tokens"] == 9
    assert [point["stage"] for point in curve].count("a") == 50


class Page(HTMLParser):
    """What a browser would act on, and whether every element that is opened is closed."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loads, self.ids, self.handlers = [], set(), [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()


@pytest.fixture(scope="module")
def parsed(page) -> Page:
    parser = Page()
    parser.feed(page.read_text())
    parser.close()
    return parser


def test_the_page_is_well_formed_and_small(page, parsed):
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert page.stat().st_size < 2_000_000


def test_the_page_loads_nothing_and_runs_nothing(page, parsed):
    assert parsed.loads and all(target.startswith("#") for target in parsed.loads)
    assert {target[1:] for target in parsed.loads} <= set(parsed.ids)
    assert not parsed.tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form"}
    assert not parsed.handlers
    assert not re.search(r"@import|url\((?!#)", page.read_text())


def test_text_of_documents_stays_text(page):
    html = page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;" in html
    assert "{{ 7 * 7 }}" in html  # shown, not evaluated
    assert "\x1b" not in html and "\u202e" not in html
    assert r"\x1b[31mred \u202e reversed" in html
    assert "<u>" not in html and "<a>*" not in html and "<i>f</i>" not in html


def test_printable_leaves_scripts_and_emoji_alone():
    text = "naïve καλημέρα नमस्ते 👩\u200d🚀 a\tb\n"
    assert samples.printable(text) == text
    assert samples.printable("a\x00b\u2066\x9b") == "a\\x00b\\u2066\\x9b"


def test_a_report_is_the_same_when_it_is_made_again(job, page):
    before = page.read_bytes(), page.with_suffix(".json").read_bytes()
    report.write(job, *files(job))
    assert (page.read_bytes(), page.with_suffix(".json").read_bytes()) == before


def test_plots_follow_the_pages_colours(facts):
    for svg in [*plots.training_plots(facts["training"]), plots.bits_plot(facts["evaluation"]["domains"][0])]:
        assert "var(--a)" in svg
        assert not any(stand_in in svg for stand_in in plots.COLOURS.values())
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}


@pytest.mark.parametrize("value, said", [(0, "0"), (0.25, "0.25"), (1024, "1,024"), (12_345, "12.3k"), (4_560_000, "4.56M"), (None, "")])
def test_short_numbers(value, said):
    assert plots.short(value) == said


def test_summary_fits_100_columns_and_says_the_main_figures(job, page):
    job.home.keep(receipt("report", files={str(page.relative_to(job.home.root)): page.stat().st_size}))
    output = io.StringIO()
    print_summary(job.recipe, job.home, Console(file=output, width=100))
    said = output.getvalue()
    assert max(len(line) for line in said.splitlines() if str(page) not in line) <= 100
    assert "\x1b[2J" not in said
    for expected in ("too_short", "8.500", "2.000", "gzip -9", "[bold]<i>f</i>", page.name, "anneal", "code.high"):
        assert expected in said.replace("\n", "")


def test_without_held_out_documents_the_summary_says_so_in_a_sentence():
    assert heldout_table({"evaluation": {"domains": []}}).startswith("No document is held out")


def test_deliveries_are_shown_where_a_source_has_several(facts, tmp_path):
    assert facts["deliveries"] == [] and 'id="deliveries"' not in report.page(facts) and "#deliveries" not in report.page(facts)
    source = {"name": "web", "reader": "jsonl", "domain": "web", "path": "in/{snapshot}", "snapshots": ["a", "b", "c"]}
    recipe = Recipe.model_validate({"home": "unused", "sources": [source], "stages": [{"name": "x", "tokens": 2048, "seq_len": 256}]})
    name = recipe.sources[0].name
    measured = {"documents": 40.0, "bytes": 2e6, "rejects": 0.02, "kept": 0.9, "duplicates": 0.1}
    base = {"source": name, "at": "2030", "who": None, "why": None, "measured": measured, "beyond": {}}
    decided = {
        (name, "a", "1"): {**base, "snapshot": "a", "against": None, "decision": "accepted", "drift": {}},
        (name, "b", "2"): {**base, "snapshot": "b", "against": "a", "decision": "accepted", "drift": {"psi:n_words": 0.1, "psi:lang_score": 0.02, "kept": 0.01}},
        (name, "c", "3"): {
            **base, "snapshot": "c", "against": "b", "decision": "accepted by hand", "who": "ann", "why": "<b>Polish</b>",
            "drift": {"psi:n_words": 0.8, "psi:lang_score": 0.3}, "beyond": {"psi:n_words": 0.25, "psi:lang_score": 0.25},
        },
    }  # fmt: skip
    (told,) = report.deliveries.deliveries(decided, recipe)
    assert told["psi"] == {"n_words": [None, 0.1, 0.8], "lang_score": [None, 0.02, 0.3]} and told["limit"] == 0.25
    assert [one["decision"] for one in told["deliveries"]] == ["accepted", "accepted", "accepted by hand"]
    page = report.page({**facts, "deliveries": [told]})
    assert "psi:n_words 0.8 (limit 0.25), psi:lang_score 0.3 (limit 0.25)" in page
    assert "ann, “&lt;b&gt;Polish&lt;/b&gt;”" in page and f'aria-label="{name}: PSI against the last accepted delivery"' in page
    only = {key: row for key, row in decided.items() if key[1] == "a"}
    assert report.deliveries.deliveries(only, recipe) == []
    (tmp_path / "page.html").write_text(page)
