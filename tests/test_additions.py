"""What docs/adding.md says of adding a signal and a rule, done to a scratch copy of the code over a finished home."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from flows import preflight
from flows.home import Home
from pipelines import rules, signals
from schemas import tables

ROOMS = ("flows", "pipelines", "schemas", "model", "kernels")
SHOUTING = '''"""Capital letters."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import Column

COLUMNS = (Column("capitals", "int", "capital letters from A to Z"),)


def measure(texts, known, context):
    return [pc.count_substring_regex(texts, "[A-Z]").cast(pa.int32())]
'''


@pytest.fixture
def copy(tmp_path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def flows(copy: Path, *arguments: str) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, "-m", "flows.cli", *arguments], {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)


def add_signal(copy: Path) -> None:
    signals = copy / "pipelines/signals"
    (signals / "shouting.py").write_text(SHOUTING)
    text = (signals / "__init__.py").read_text()
    text = text.replace(" stopwords, text\n", " shouting, stopwords, text\n").replace("(text, code,", "(text, shouting, code,")
    (signals / "__init__.py").write_text(text)


def add_rule(copy: Path, line: str) -> None:
    with (copy / "pipelines/rules/docs.yaml").open("a") as file:
        file.write(line)


def test_a_new_signal_is_to_be_measured(finished_home, copy):
    asked = ("status", "--recipe", str(finished_home.file))
    assert re.search(r"^ *measure +done ", flows(copy, *asked).stdout, re.MULTILINE)
    add_signal(copy)
    said = flows(copy, *asked).stdout
    assert re.search(r"^ *learn +done ", said, re.MULTILINE)
    assert re.search(r"^ *measure +stale .* signals\.columns\.capitals changed *$", said, re.MULTILINE), said
    assert re.search(r"^ *dedup +stale .* input measure changed *$", said, re.MULTILINE), said


def test_a_rule_may_stand_on_a_new_signal_and_on_none_that_is_not_there(finished_home, copy):
    add_signal(copy)
    add_rule(copy, '- {name: shouting, signal: capitals, above: 100000, source: "a test"}\n')
    done = flows(copy, "recipe", "check", str(finished_home.file))
    assert done.returncode == 0, done.stderr
    add_rule(copy, '- {name: whispering, signal: small_letters, below: 3, source: "a test"}\n')
    done = flows(copy, "recipe", "check", str(finished_home.file))
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode and "Traceback" not in said, said
    assert "pipelines/rules/docs.yaml: rule whispering: expected signals such as " in said
    assert said.endswith("found small_letters")


@pytest.mark.parametrize(("line", "said"), [
    ('- {name: bad, signal: n_words, abov: 3, source: ""}', "rule bad: expected fields among .*; found abov"),
    ('- {name: bad, signal: n_words, above: 3}', "rule bad: expected a text for source"),
    ('- {name: bad, signal: n_words, above: 3%, source: ""}', "rule bad: expected a number for above, found '3%'"),
    ('- {name: bad, signal: n_words', r"line \d+: not YAML: while parsing a flow mapping"),
    ('- {name: short_words, signal: n_words, above: 3, source: ""}', "expected names that differ.*; found short_words"),
    ('- {name: exact_duplicate, signal: n_words, above: 3, source: ""}', "expected names that differ.*; found exact_duplicate"),
    ('- {name: bad, signal: lang, above: 3, source: ""}', "rule bad: expected a signal that is a number, found lang, string"),
    ('- {name: bad, signal: n_words, above: 3, source: "", only: {n_chars: ["3"]}}', "rule bad: expected text columns .* found n_chars"),
])
def test_a_bad_rule_is_named_with_its_file(finished_home, monkeypatch, tmp_path, line, said):
    monkeypatch.setattr(rules, "FOLDER", tmp_path)
    for file in (ROOT / "pipelines/rules").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text() + line * (file.name == "docs.yaml"))
    with pytest.raises(ValueError, match=f"pipelines/rules/docs.yaml: {said}"):
        preflight.check_rules(finished_home.recipe)


def test_signals_have_names_of_their_own():
    with pytest.raises(ValueError, match=r"silver\.signals: expected each column once, found lang again"):
        signals.TABLE.extended((tables.Column("lang", "string", "again"),))


def test_receipts_of_older_homes_are_read(finished_home, tmp_path):
    (tmp_path / "steps").mkdir()
    new = finished_home.home.receipt("measure")
    told = json.loads((finished_home.home.root / "steps/measure.json").read_text())
    told["fingerprint"] = told.pop("hash")
    (tmp_path / "steps/measure.json").write_text(json.dumps(told))
    assert Home(tmp_path).receipt("measure") == new
