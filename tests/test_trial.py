"""Rules tried without Spark against the judge itself on the same tables, on the finished small run."""

from __future__ import annotations

import conftest
import pytest
import yaml

from flows.job import domain_rules
from pipelines import lineage, rules
from pipelines.rules import judge, trial
from schemas import recipe as recipes
from schemas import tables
from schemas.recipe import RecipeError

CHANGES = {
    "docs": {"too_few_words": 60, "repeated_lines": None},
    "code": {"long_lines": None, "very_long_line": None, "few_letters": None, "encoded_run": None, "mostly_encoded": None, "too_short": 400},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"rules": CHANGES}))
    return path


def test_what_would_be_gained_and_lost_is_what_the_judge_says(spark, finished_home, file):
    """Oracle: the judge by the changed rules, in Spark, beside the verdicts that are there."""
    lake, recipe = finished_home.home.lake, recipes.with_rules(finished_home.recipe, file)
    changed = domain_rules(recipe)
    read = {"signals": tables.SIGNALS, "clusters": tables.CLUSTERS, "contamination": tables.CONTAMINATION}
    terms = judge.Terms(changed, recipe.tiers, recipe.heldout, recipe.seed, cover=recipe.decontaminate.threshold)
    judged = judge.judge({name: lake.read(spark, table) for name, table in read.items()}, terms)
    then = {row.doc_id: row for row in judged.collect()}
    now = {row.doc_id: row for row in lake.read(spark, tables.VERDICTS).collect()}
    expected = {}
    for doc_id, row in now.items():
        if row.keep != then[doc_id].keep:
            one = expected.setdefault((row.source, row.reason or then[doc_id].reason), [0, 0, 0, 0])
            one[0 if then[doc_id].keep else 2] += 1
            one[1 if then[doc_id].keep else 3] += row.n_bytes
    tried = trial.try_rules(lake, changed)
    assert {(r["source"], r["rule"]): [r["gained"], r["gained_bytes"], r["lost"], r["lost_bytes"]] for r in tried.changes} == expected
    assert sum(one[0] for one in expected.values()) and sum(one[2] for one in expected.values())  # both kinds were there
    for row in tried.kept:
        mine = [r for r in now.values() if r.source == row["source"]]
        assert (row["before"], row["after"]) == (sum(r.keep for r in mine), sum(then[r.doc_id].keep for r in mine))
        assert row["bytes_after"] == sum(r.n_bytes for r in mine if then[r.doc_id].keep) and 0.1 < row["tokens_per_byte"] < 1
    for change, rule, doc_id, text in tried.samples:
        assert now[doc_id].keep == (change == "lost") and rule == (now[doc_id].reason or then[doc_id].reason) and text


def test_the_same_rules_change_nothing(finished_home):
    tried = trial.try_rules(finished_home.home.lake, domain_rules(finished_home.recipe))
    assert tried.changes == tried.samples == [] and all(row["before"] == row["after"] for row in tried.kept)


def test_it_says_so_in_tables(finished_home, file):
    done = conftest.flows("rules", "try", str(file), "--recipe", str(finished_home.file), timeout=60)
    assert done.returncode == 0 and "too_few_words" in done.stdout and "lost" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("text, said", [("rules: {docs: {nonsense: 3}}", "nonsense"), ("rules: {web: {}}", "web"), ("rules: {docs: 3}", "docs"), ("docs: {}", "expected `rules:`")])
def test_rules_that_cannot_be_tried_are_named(finished_home, tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        domain_rules(recipes.with_rules(finished_home.recipe, path))
    assert isinstance(error.value, RecipeError) or "expected names among" in str(error.value)


def test_an_explanation_agrees_with_the_verdict(finished_home):
    lake = finished_home.home.lake
    loaded = {domain: rules.load(domain) for domain in rules.domains()}
    for verdict in lake.arrow(tables.VERDICTS).to_pylist()[:40]:
        fails = [rule.name for rule, _, _, failed in lineage.rules_of(lake, verdict["doc_id"], loaded) if failed]
        assert fails == [reason for reason in verdict["reasons"] if not reason.endswith("_duplicate") and reason != "contaminated"]
