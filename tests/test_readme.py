"""The README's commands are real: each block is run, in a copy of its own, on a recipe small enough for a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import conftest
import pytest

from schemas import tables

README = (conftest.ROOT / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block]


def test_it_is_short_and_names_the_two_commands():
    prose, _, _ = README.partition("<details>")  # behind it stands the map of the tree
    assert len(prose.splitlines()) <= 200
    assert {"make curriculum", "make test"} <= set(COMMANDS)
    targets = re.findall(r"^(\w+):", (conftest.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.split()[1] for command in COMMANDS if command.startswith("make")} <= set(targets)


@pytest.mark.servers
def test_every_flows_command_runs(finished_home, prefect_server, tmp_path):
    """On the finished small run, where there is nothing left to do; ids and recipes are replaced by those of that run."""
    doc_id = next(iter(finished_home.home.lake.arrow(tables.DOCUMENTS, ["doc_id"]).column(0).to_pylist()))
    (other := tmp_path / "other.yaml").write_text("rules: {docs: {too_few_words: 60}}")
    ran = 0
    for command in COMMANDS:
        if not command.startswith(".venv/bin/flows") or "--open" in command:
            continue
        command = command.replace("my.yaml", str(finished_home.file)).replace("other.yaml", str(other)).replace("3f2a", doc_id)
        arguments = command.split()[1:]
        takes_recipe = arguments[0] in ("status", "run", "trace", "similar", "rules") and "--recipe" not in arguments
        arguments += ["--recipe", str(finished_home.file)] if takes_recipe else []
        done = conftest.flows(*arguments)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        ran += 1
    assert ran >= 8


def test_the_recipe_for_own_data_needs_nothing_but_data(tmp_path):
    """The five lines of the README: copy, point at data, check."""
    (tmp_path / "my-data").mkdir()
    lines = '{"text": "' + "some words " * 3_000 + '"}\n'
    (tmp_path / "my-data" / "notes.jsonl").write_text(lines * 40)
    command = f"cp {conftest.ROOT}/flows/recipes/own-data.yaml my.yaml && {sys.executable} -m flows.cli recipe check my.yaml"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and "good" in done.stdout, done.stdout + done.stderr
