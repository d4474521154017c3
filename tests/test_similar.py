"""The nearest documents against brute force over all of them: on a small lake made by hand, and on the finished small run."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import conftest
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from rich.console import Console
from typer.testing import CliRunner

from flows.commands import app
from flows.steps.measure import fingerprint_context
from flows.summary import print_similar
from pipelines.dedup import similar
from pipelines.lake import Lake
from pipelines.signals import fingerprints
from pipelines.signals.context import Context
from schemas import tables
from schemas.errors import DataError

CONTEXT = Context(b"", ngram=3, bands=20, rows=3, seed=4)
WORDS = [f"word{i}" for i in range(300)]


def edited(text: str, edits: int, chance: random.Random) -> str:
    words = text.split()
    for place in chance.sample(range(len(words)), edits):
        words[place] = chance.choice(WORDS)
    return " ".join(words)


def planted() -> list[str]:
    """Families of edited copies, exact copies in other case and spacing, short texts, and two without words."""
    chance = random.Random(3)
    bases = [" ".join(chance.choices(WORDS, k=120)) for _ in range(12)]
    copies = [edited(base, edits, chance) for base in bases for edits in (1, 2, 3, 5, 8, 12, 16, 20, 30)]
    return [*bases, "...", "!", *copies, *(base.upper().replace(" ", "\n") for base in bases[:4]), "word1 word2", "Word1  word2"]


TEXTS = {f"{(i * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}": text for i, text in enumerate(planted())}
CHANCE = "e" * 32


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lake:
    """Two tables as a run leaves them, in two files each; nothing is judged. One text has another's bands by chance."""
    made = Lake(tmp_path_factory.mktemp("similar"))
    for some in (list(TEXTS)[::2], [*list(TEXTS)[1::2], CHANCE]):
        texts = pa.array([TEXTS.get(doc_id, "no n-gram of it is anywhere else") for doc_id in some])
        taken = pa.array([TEXTS.get(doc_id, list(TEXTS.values())[5]) for doc_id in some])
        columns = dict(zip((c.name for c in fingerprints.COLUMNS), fingerprints.measure(taken, {}, CONTEXT), strict=True))
        write_deltalake(made.path(tables.SIGNALS), pa.table({"doc_id": some, **columns}), mode="append")
        origins = {"source": ["s"] * len(some), "uri": [f"u#{doc_id[:4]}" for doc_id in some]}
        write_deltalake(made.path(tables.DOCUMENTS), pa.table({"doc_id": some, **origins, "text": texts}), mode="append")
    return made


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def jaccard(a: str, b: str, n: int) -> float:
    x, y = shingles(a, n), shingles(b, n)
    return len(x & y) / len(x | y)


def keys(text: str, context: Context) -> set[int]:
    return set(fingerprints.measure(pa.array([text]), {}, context)[-1][0].as_py())


def brute_force(texts: dict[str, str], query: str, context: Context, but: str | None = None) -> list[tuple[str, float]]:
    """All documents that share a band and an n-gram with the query, nearest first."""
    own = keys(query, context)
    near = {i: jaccard(query, text, context.ngram) for i, text in texts.items() if i != but and own & keys(text, context)}
    return sorted(((i, j) for i, j in near.items() if j > 0), key=lambda one: (-one[1], one[0]))


def test_the_nearest_are_those_of_brute_force(lake):
    """Oracle: Python's sets over all documents that share a band; the estimate errs as theory says."""
    chance, errors = random.Random(8), []
    for number, text in enumerate(list(TEXTS.values())[:12]):
        query = edited(text, number, chance)
        expected = brute_force(TEXTS, query, CONTEXT)
        for most in (1, 4, 10):
            nearest = similar.nearest(lake, similar.Query(query), CONTEXT, most)
            assert [(one.doc_id, one.jaccard) for one in nearest] == expected[:most] and len(expected) >= 5
        assert all((one.text, one.uri, one.keep) == (TEXTS[one.doc_id], f"u#{one.doc_id[:4]}", None) for one in nearest)
        errors += [(one.estimate - one.jaccard) / np.sqrt(one.jaccard * (1 - one.jaccard) / 60) for one in nearest if one.jaccard < 1]
    assert len(errors) > 40 and np.abs(errors).max() < 4 and 0.5 < np.std(errors) < 1.3


def test_the_estimate_is_the_share_of_equal_entries(lake):
    query = next(iter(TEXTS.values()))
    own = fingerprints.measure(pa.array([query]), {}, CONTEXT)[2]
    for one in similar.nearest(lake, similar.Query(query), CONTEXT):
        (share,) = fingerprints.estimate(own, fingerprints.measure(pa.array([one.text]), {}, CONTEXT)[2])
        assert one.estimate == pytest.approx(share)


def test_copies_come_first_and_a_document_is_not_near_to_itself(lake):
    doc_id, text = next(iter(TEXTS.items()))
    query = similar.read_query(lake, doc_id[:9].upper(), io.BytesIO())
    assert query == similar.Query(text, doc_id)
    nearest = similar.nearest(lake, query, CONTEXT)
    assert [(one.doc_id, one.jaccard) for one in nearest] == brute_force(TEXTS, text, CONTEXT, doc_id)
    assert nearest[0].jaccard == nearest[0].estimate == 1 and nearest[0].text == text.upper().replace(" ", "\n") and nearest[1].jaccard < 1
    assert similar.nearest(lake, similar.Query(text), CONTEXT, 2)[0].jaccard == 1


def test_more_candidates_than_texts_are_read_leave_the_nearest(lake, monkeypatch):
    monkeypatch.setattr(similar, "MOST_TEXTS", 2)
    text = next(iter(TEXTS.values()))
    assert [one.jaccard for one in similar.nearest(lake, similar.Query(text), CONTEXT, 2)] == [1, 1]
    assert len(similar.nearest(lake, similar.Query(text), CONTEXT, 4)) == 4


def test_short_texts_and_texts_that_nothing_is_near_to(lake):
    assert [one.text for one in similar.nearest(lake, similar.Query("word1, word2!"), CONTEXT)] == sorted(
        ["word1 word2", "Word1  word2"], key={text: i for i, text in TEXTS.items()}.get
    )
    assert similar.nearest(lake, similar.Query("nothing like this is anywhere here"), CONTEXT) == []
    for text in ("", " \n", "...!"):
        with pytest.raises(DataError, match="expected a text with words, found none"):
            similar.nearest(lake, similar.Query(text), CONTEXT)


def test_half_of_the_documents_of_that_similarity_share_a_band():
    for bands, rows in ((16, 7), (28, 4), (1, 1), (58, 1)):
        assert fingerprints.collision_probability(similar.even_chance(bands, rows), bands, rows) == pytest.approx(0.5)


# ---- what is looked for ----


def test_a_file_goes_before_an_id_and_standard_input_is_read(lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert similar.read_query(lake, "-", io.BytesIO("tëxt".encode())) == similar.Query("tëxt")
    doc_id = next(iter(TEXTS))
    assert similar.read_query(lake, doc_id, io.BytesIO()).doc_id == doc_id
    Path(doc_id).write_text("a file")
    assert similar.read_query(lake, doc_id, io.BytesIO()) == similar.Query("a file")


@pytest.mark.parametrize(
    "what, error, said",
    [
        ("nowhere.txt", FileNotFoundError, "expected a text file, the beginning of a doc_id .*; found nowhere.txt"),
        ("", FileNotFoundError, "expected a text file"),
        ("f" * 33, FileNotFoundError, "expected a text file"),
        ("f" * 32, DataError, f"expected one document whose id begins with {'f' * 32}, found 0"),
        ("0", DataError, "expected one document whose id begins with 0, found [1-9]"),
        ("-", DataError, "standard input: expected UTF-8, found the byte 0xff at 2"),
        ("latin.txt", DataError, "latin.txt: expected UTF-8, found the byte 0xe4 at 1"),
        ("large.txt", DataError, "large.txt: expected a text of at most 20 bytes"),
    ],
)
def test_what_cannot_be_looked_for_is_named(lake, tmp_path, monkeypatch, what, error, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(similar, "MOST_BYTES", 20)
    Path("latin.txt").write_bytes("nähe".encode("latin-1"))
    Path("large.txt").write_text("word " * 5)
    with pytest.raises(error, match=said):
        similar.read_query(lake, what, io.BytesIO(b"ab\xff"))


def test_a_lake_without_signals_says_so(tmp_path):
    for seek in (lambda lake: similar.nearest(lake, similar.Query("a"), CONTEXT), lambda lake: similar.read_query(lake, "ab", io.BytesIO())):
        with pytest.raises(FileNotFoundError, match=r"holds no silver\.signals yet: `flows run curriculum`"):
            seek(Lake(tmp_path))


# ---- the command, on the finished small run ----


@pytest.fixture(scope="module")
def held(finished_home) -> dict[str, dict]:
    rows = finished_home.home.lake.arrow(tables.DOCUMENTS, ["doc_id", "uri", "text"]).to_pylist()
    return {row["doc_id"]: row for row in rows}


def test_the_home_is_searched_as_it_was_measured(finished_home, held):
    near, context = finished_home.recipe.near_duplicates, fingerprint_context(finished_home.home)
    assert (context.ngram, context.bands, context.rows, context.seed) == (near.ngram, near.bands, near.rows, finished_home.recipe.seed)
    texts = {doc_id: row["text"] for doc_id, row in held.items()}
    lake = finished_home.home.lake
    verdicts = {row["doc_id"]: row for row in lake.arrow(tables.VERDICTS).to_pylist()}
    with_others = 0
    for doc_id in sorted(texts)[::15]:
        nearest = similar.nearest(lake, similar.read_query(lake, doc_id, io.BytesIO()), context)
        expected = brute_force(texts, texts[doc_id], context, doc_id)[:10]
        assert [(one.doc_id, one.jaccard) for one in nearest] == expected
        assert all((one.keep, one.reason) == (verdicts[one.doc_id]["keep"], verdicts[one.doc_id]["reason"]) for one in nearest)
        with_others += bool(nearest)
    assert with_others


def test_the_command_shows_an_exact_copy_first_by_file_id_and_standard_input(finished_home, held, tmp_path):
    """Without Spark: the process that answers has imported neither pyspark nor a bridge to Java."""
    lake = finished_home.home.lake
    twins = [row for row in lake.arrow(tables.CLUSTERS).to_pylist() if row["exact"] and row["rank"] > 1]
    (file := tmp_path / "text.txt").write_text(held[twins[0]["doc_id"]]["text"])
    asked = [(str(file), ""), ("-", file.read_text()), (twins[0]["doc_id"][:12], "")]
    code = (
        "import json, sys; from typer.testing import CliRunner; from flows.commands import app; *options, asked = sys.argv[1:];"
        "told = [CliRunner().invoke(app, ['similar', what, *options], input=given) for what, given in json.loads(asked)];"
        "print(json.dumps([[(one.exit_code, one.output) for one in told], [n for n in ('pyspark', 'py4j') if n in sys.modules]]))"
    )
    command = [sys.executable, "-c", code, "--most", "3", "--recipe", str(finished_home.file), json.dumps(asked)]
    done = subprocess.run(command, cwd=conftest.ROOT, capture_output=True, text=True, timeout=120)
    told, bridges = json.loads(done.stdout)
    assert bridges == [] and len(told) == 3
    for status, output in told:
        rows = re.findall(r"^ *(\d\.\d{3}) +(\d\.\d\d) +([0-9a-f]{12}) .* (kept|dropped:) ", output, re.MULTILINE)
        assert status == 0 and rows[0][:2] == ("1.000", "1.00") and len(rows) <= 3, output
        assert {doc_id for _, _, doc_id, _ in rows} <= {doc_id[:12] for doc_id in held}
    assert twins[0]["doc_id"][:12] not in told[2][1]  # the document itself


def test_the_command_says_plainly_what_is_wrong_and_that_nothing_is_near(finished_home, tmp_path):
    def told(what: str, recipe: Path = finished_home.file) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["similar", what, "--recipe", str(recipe)])
        return done.exit_code, " ".join(done.output.split())

    (file := tmp_path / "text.txt").write_text("nothing like this is anywhere in there")
    status, said = told(str(file))
    assert status == 0 and "Nothing near" in said and "similarity of 0.64 half share a band" in said
    status, said = told("nowhere.txt")
    assert status == 11 and said.startswith("expected a text file")
    empty = tmp_path / "empty.yaml"
    empty.write_text(finished_home.file.read_text().replace(str(finished_home.home.root), str(tmp_path / "no-home")))
    status, said = told(str(file), empty)
    assert status == 11 and "holds no silver.signals yet" in said


def test_personal_data_and_what_moves_the_cursor_are_not_shown():
    text = "\x1b[31mwrite to\n\tjane.roe@gmail.com or not \x07"
    one = similar.Neighbour("a" * 32, 0.5, 0.55, "s", "u\x1b[2J", text, False, "too_short")
    print_similar([one], CONTEXT, console := Console(width=160, record=True, file=io.StringIO()))
    shown = console.export_text(styles=False)
    assert "jane.roe" not in shown and not set(shown) & {"\x1b", "\x07", "\t"} and "[31mwrite to" in shown and "dropped: too_short" in shown
