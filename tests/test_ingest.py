"""Readers and ingestion: whatever the input, every record gives one row, the same on any number of partitions."""

import ast
import gzip
import hashlib
import json
import os
import random
import sysconfig
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.readers import READERS, File, Reader, Record, Reject, ingest, jsonl, python
from pipelines.readers.docstrings import docstrings
from pipelines.readers.files import REASONS, document
from schemas.parts import Source
from schemas.recipe import Recipe, RecipeError
from schemas.tables import DOCUMENTS

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def source(path=None, reader="jsonl", **fields):
    return Source(**{"name": "web", "reader": reader, "domain": "docs", "path": None if path is None else str(path)} | fields)


def recipe(*sources, **fields):
    stage = {"name": "a", "tokens": 2048, "seq_len": 256}
    return Recipe.model_validate({"home": "unused", "sources": [s.model_dump() for s in sources], "stages": [stage]} | fields)


def read(path, reader="jsonl", **fields):
    """Everything that a source gives, without Spark."""
    origin = source(path, reader, **fields)
    return [made for file in READERS[reader].list_files(origin, 17) for made in ingest.read(file, origin)]


def outcome(made):
    return made.text if isinstance(made, Record) else made.reason


# --- lines of JSON


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "a\\r\\nb\\rc"}', "a\nb\nc"),
        (b'\xef\xbb\xbf{"text": "after a mark"}', "after a mark"),
        (b'{"text": "NaN elsewhere", "score": NaN}', "NaN elsewhere"),
        (b'{"text": "\\ud83d\\ude00 a whole pair", "other": "\\ud800"}', "\U0001f600 a whole pair"),
        (b'{"text": "half a pair \\ud800"}', "invalid_utf8"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b'{"text": "a\\u0000b"}', "nul"),
        (b'{"text": "a', "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b'["text"]', "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"body": "a"}', "no_text"),
        (b'{"text": null}', "no_text"),
        (b'{"text": ["a"]}', "no_text"),
        (b'{"text": ""}', "empty_text"),
        (b'{"text": " \\n\\u2003"}', "empty_text"),
        (b'{"text": "' + b"a" * 200_000 + b'"}', "too_large"),
    ],
)
def test_a_line_is_a_record_or_says_why_not(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_bytes(line)
    (made,) = read(tmp_path, max_document_bytes=150_000)
    assert outcome(made) == expected and made.uri == "a.jsonl#1"
    if isinstance(made, Reject):
        assert made.reason in REASONS and 0 < len(made.detail) < 300 and made.detail.encode() and made.n_bytes == len(line)


def test_lines_that_json_can_read_become_its_text(tmp_path):
    rng = random.Random(5)
    texts = ["".join(chr(rng.choice([10, 34, 92, 97, 233, 0x4E2D, 0x1F600])) for _ in range(20)) + "." for _ in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=rng.random() < 0.5) + "\n" for text in texts))
    assert [made.text for made in read(tmp_path)] == texts


def test_lines_are_those_of_bytes_split_wherever_chunks_end():
    rng = random.Random(3)
    data = b"".join(rng.choice([b"a", b"\n", b"bcd", b"\r\n"]) for _ in range(2000))
    cuts = sorted(rng.randrange(len(data)) for _ in range(300))
    chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    expected = data.removesuffix(b"\n").split(b"\n")
    assert list(jsonl.lines(chunks, 12)) == [(line if len(line) <= 12 else None, len(line)) for line in expected]
    assert any(len(line) > 12 for line in expected)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_cut_anywhere_gives_its_whole_lines_and_one_reject(tmp_path, suffix):
    rng = random.Random(1)
    texts = [rng.randbytes(30).hex() for _ in range(40)]
    lines = [orjson.dumps({"text": text}) + b"\n" for text in texts]
    packed = b"".join(PACK[suffix](b"".join(part)) for part in (lines[:20], lines[20:]))  # two members
    path = tmp_path / f"a.jsonl{suffix}"
    kept = []
    for end in range(1, len(packed) + 1, 13):
        path.write_bytes(packed[:end])
        made = read(path)
        whole = [outcome(one) for one in made if isinstance(one, Record)]
        rejects = [(one.reason, one.uri) for one in made if isinstance(one, Reject)]
        assert whole == texts[: len(whole)]
        at_a_member_end = end == len(packed) or packed[:end] == PACK[suffix](b"".join(lines[:20]))
        assert rejects == ([] if at_a_member_end else [("damaged", f"a.jsonl{suffix}#{len(whole) + 1}")])
        kept.append(len(whole))
    path.write_bytes(packed)
    assert [outcome(made) for made in read(path)] == texts
    assert kept == sorted(kept) and max(kept) >= 20


def test_bytes_changed_inside_a_packed_file_are_noticed(tmp_path):
    for suffix in (".gz", ".zst"):
        packed = bytearray(PACK[suffix](b"".join(orjson.dumps({"text": f"text {i * i}"}) + b"\n" for i in range(5000))))
        packed[len(packed) // 2] ^= 0xFF
        (tmp_path / f"a.jsonl{suffix}").write_bytes(packed)
        assert "damaged" in [outcome(made) for made in read(tmp_path / f"a.jsonl{suffix}")]


@pytest.mark.parametrize("suffix", PACK)
def test_a_line_of_50_mb_is_skipped_in_little_memory(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](b'{"text": "' + b"a" * 50_000_000 + b'"}\n{"text": "next"}\n'))
    tracemalloc.start()
    large, following = read(path, max_document_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (large.reason, large.n_bytes, following.text) == ("too_large", 50_000_012, "next")
    assert peak < 40_000_000


def test_licences_come_from_the_record_else_the_source(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "l": "MIT"}\n\n \n{"text": "b", "l": null}\n{"text": "c"}\n{"text": "d", "l": ["MIT", "X"]}')
    assert [made.licence for made in read(tmp_path, licence_field="l", licence="CC0")] == ["MIT", "CC0", "CC0", '["MIT", "X"]']
    assert [made.licence for made in read(tmp_path)] == [None] * 4


# --- parquet


def test_parquet_rows_of_every_kind_of_text(tmp_path):
    texts = [b"a", None, b"\xff", b"", "é\r\n".encode()]
    expected = ["a", "no_text", "invalid_utf8", "empty_text", "é\n"]
    as_bytes = pa.array(texts, pa.binary())
    columns = {
        "binary": as_bytes,
        "large": as_bytes.cast(pa.large_binary()),
        "string": pa.StringArray.from_buffers(5, as_bytes.buffers()[1], as_bytes.buffers()[2], as_bytes.buffers()[0]),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"body": column, "l": ["MIT"] * 5}), tmp_path / f"{name}.parquet", row_group_size=2)
        made = read(tmp_path / f"{name}.parquet", "parquet", text_field="body", licence_field="l")
        assert [outcome(one) for one in made] == expected
        assert [one.uri for one in made] == [f"{name}.parquet#{i}" for i in range(5)] and made[0].licence == "MIT"
    coded = pa.table({"body": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(coded, tmp_path / "coded.parquet")
    assert [outcome(one) for one in read(tmp_path / "coded.parquet", "parquet", text_field="body")] == ["x", "y", "x"]


def test_corrupt_parquet_files_and_files_of_other_columns_are_rejects(tmp_path):
    pq.write_table(pa.table({"text": [f"{i} " * 500 for i in range(100)]}), tmp_path / "b.parquet", row_group_size=20, compression="none")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:1000])
    (tmp_path / "c.parquet").write_bytes(whole[:90_000] + b"\xff" * 5000 + whole[95_000:])
    (tmp_path / "d.parquet").write_bytes(b"")
    pq.write_table(pa.table({"other": ["x"]}), tmp_path / "e.parquet")
    made = read(tmp_path, "parquet")
    by_file = {name: [outcome(one) for one in made if one.uri.startswith(name)] for name in "abcde"}
    assert by_file["a"] == by_file["d"] == ["damaged"] and by_file["e"] == ["no_text"] and len(by_file["b"]) == 100
    assert 20 <= len(by_file["c"]) <= 100 and by_file["c"][:20] == by_file["b"][:20]


# --- modules


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x = 1\r\ny = 2\r", "x = 1\ny = 2\n"),
        (b"\xef\xbb\xbfx = '\xc3\xa9'", "x = 'é'"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'", "# -*- coding: latin-1 -*-\nx = 'é'"),
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\x80'", "#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '€'"),
        (b"x = '\xe9'", "invalid_utf8"),
        (b"# coding: nonsense\n", "invalid_utf8"),
        (b"# coding: hex\n00", "invalid_utf8"),
        (b"# coding: unicode_escape\n'\\ud800'", "invalid_utf8"),
        (b"\x7fELF\0\0\0", "nul"),
        (b"\x7fELF\0\xff\0", "nul"),
        (b"", "empty_text"),
        (b"#" * 10_001, "too_large"),
    ],
)
def test_modules_are_decoded_as_python_does(data, expected):
    origin = source(reader="python-code", max_document_bytes=10_000)
    made = python.module(File("", "m.py", 0, 0), data, origin)
    assert outcome(made) == expected


def test_docstrings_are_those_of_ast():
    """On a sixteenth of the standard library; on all of it 99.6 % are equal. test_doctest writes them behind `def f():`."""
    names = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    equal = wanted_in_all = found_in_all = 0
    for path in [name for name in names if "site-packages" not in name.parts][::16]:
        try:
            tree = ast.parse(text := path.read_text("utf-8"))
        except (SyntaxError, ValueError):
            continue
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        wanted = Counter(filter(None, map(ast.get_docstring, nodes)))
        found = Counter(doc for _, doc in docstrings(text) if doc)
        equal, wanted_in_all, found_in_all = equal + (wanted & found).total(), wanted_in_all + wanted.total(), found_in_all + found.total()
    assert wanted_in_all > 500
    assert equal >= 0.97 * wanted_in_all and equal >= 0.99 * found_in_all


def test_docstrings_have_the_names_of_what_they_describe():
    text = '''#!/bin/sh
"""Module."""
class A(B):  # why
    # a comment first

    r"""A \\d.

class Fake:"""
    def m(self,
          a=(1, 2)):
        "M.\\n\\n        End."
        if a:
            "no docstring"
        x = {"a":
             "no docstring either"}
        async def inner() -> None:
            """def fake():
                'Not code.'
            """
    def n(self): """On one line: missed."""
def f():
    u\'\'\'F.\'\'\' ; return
def g():
    """joined""" % 1
'''
    assert list(docstrings(text)) == [
        ("", "Module."), ("A", "A \\d.\n\nclass Fake:"), ("A.m", "M.\n\nEnd."), ("A.m.inner", "def fake():\n'Not code.'"), ("f", "F.")]  # fmt: skip


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """A small interpreter: a standard library, two packages, one of them with metadata."""
    doc = '"""' + " ".join(["What this module is for."] * 10) + '"""\n'
    for place, text in {
        "std/json/decoder.py": doc * 3,
        "std/LICENSE.txt": "PSF licence",
        "std/site-packages/x.py": "not the standard library",
        "site/big/a.py": "a" * 60,
        "site/big/b.py": "b" * 60,
        "site/big/c.py": "c" * 60,
        "site/big/__init__.py": "",
        "site/big/__pycache__/a.py": "left out",
        "site/big/guide.rst": "Guide",
        "site/big/data.json": "{}",
        "site/big-1.dist-info/METADATA": "Name: big\nLicense: BSD\n\nLong text\nClassifier: License :: OSI Approved :: MIT License\n\n\n# Big\n\nText.\n",
        "site/big-1.dist-info/RECORD": "big/__init__.py,,\nbig/a.py,sha256=x,60\nbig/b.py,,\nbig/c.py,,\nbig/guide.rst,,\n../../bin/big.py,,\n\"big/a, b.py\",,\r\n"
        "big-1.dist-info/METADATA,,\nbig-1.dist-info/licenses/LICENSE-APACHE,,\n",
        "site/big-1.dist-info/licenses/LICENSE-APACHE": "Apache",
        "site/big-1.dist-info/top_level.txt": "big",
        "site/none-1.dist-info/METADATA": "Name: none\n",
        "site/one.py": doc + "def f():\n" + "    " + doc,
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / ("std" if name == "stdlib" else "site")))
    return tmp_path


def test_python_code_takes_so_much_of_each_package(interpreter):
    def taken(seed):
        return [file.uri for file in READERS["python-code"].list_files(source(reader="python-code", package_bytes=130), seed)]

    everything = read(None, "python-code")
    assert [made.uri for made in everything] == sorted(f"packages/big/{n}.py" for n in ("__init__", "a", "b", "c")) + ["packages/one.py", "stdlib/json/decoder.py"]
    chosen = taken(1)
    assert sum("/big/" in uri and "init" not in uri for uri in chosen) == 2 and "packages/big/__init__.py" in chosen
    assert "stdlib/json/decoder.py" in chosen and "packages/one.py" not in chosen  # the library has no limit, a larger module does not fit
    assert taken(1) == chosen and len({tuple(taken(seed)) for seed in range(9)}) == 3
    licences = {made.uri: made.licence for made in everything if isinstance(made, Record)}
    assert licences["stdlib/json/decoder.py"] == "PSF-2.0" and licences["packages/big/a.py"] == "BSD" and licences["packages/one.py"] is None


def test_packages_are_what_their_records_say(interpreter):
    """What programs write beside a package's files is none of them; what no RECORD names is read as it stands."""
    for place in ("site/big/a, b.py", "site/big/ui/robots.txt", "site/big/made.py", "site/big/__pycache__/a.cpython-311.pyc", "std/json/__pycache__/x.py"):
        (interpreter / place).parent.mkdir(parents=True, exist_ok=True)
        (interpreter / place).write_text("written by a program")
    readers = ("python-code", "python-docs")
    listed = [READERS[reader].list_files(source(reader=reader), 17) for reader in readers]
    for place in ("site/big/late.py", "site/big/x.nbi", "site/loose/.mypy_cache/a.py", "site/one.pyc", "std/json/__pycache__/decoder.pyc"):
        (interpreter / place).parent.mkdir(parents=True, exist_ok=True)
        (interpreter / place).write_text("written by a run")
    (interpreter / "site/big/c.py").unlink()
    later = [READERS[reader].list_files(source(reader=reader), 17) for reader in readers]
    assert later == [[file for file in files if file.uri != "packages/big/c.py"] for files in listed]
    uris = {file.uri for files in listed for file in files}
    assert not uris & {"packages/big/ui/robots.txt", "packages/big/made.py"} and {"packages/one.py", "packages/big/a, b.py"} <= uris
    (interpreter / "site/loose/b.py").write_text("no RECORD names it")
    assert "packages/loose/b.py" in {file.uri for file in READERS["python-code"].list_files(source(reader="python-code"), 17)}
    assert {file.licence for file in listed[0] if "/big/" in file.uri} == {"BSD"}


def test_python_docs_are_docstrings_manuals_licences_and_readmes(interpreter):
    made = {one.uri: outcome(one) for one in read(None, "python-docs")}
    said = " ".join(["What this module is for."] * 10)
    assert made == {
        "packages/big-1.dist-info/METADATA": "Long text\nClassifier: License :: OSI Approved :: MIT License\n\n\n# Big\n\nText.",
        "packages/big-1.dist-info/licenses/LICENSE-APACHE": "Apache",
        "packages/big/guide.rst": "Guide",
        "packages/one.py": f"# one\n\n{said}\n\n## f\n\n{said}\n",
        "stdlib/LICENSE.txt": "PSF licence",
        "stdlib/json/decoder.py": f"# json.decoder\n\n{said}\n",
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("License: BSD\nLicense-Expression: BSD-3-Clause", "BSD-3-Clause"),
        ("License: BSD\nClassifier: License :: OSI Approved :: MIT License", "BSD"),
        ("License: Copyright\n        all of the text\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("License: UNKNOWN\nClassifier: License :: A\nClassifier: License :: X :: B", "A, B"),
        ("License: " + "long " * 50, None),
        ("Name: x", None),
    ],
)
def test_licence_of_a_package(headers, expected):
    assert python.licence_named(headers) == expected


# --- which files


def test_folders_files_and_globs(tmp_path):
    places = ["b.txt", "a.txt", "x/c.txt", "x/y/d.txt", "x/y/e.md", "x/[1].txt", "n.bin", "x/y.txt/f.txt"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("text")

    def uris(path):
        return [file.uri for file in READERS["text"].list_files(source(path, "text"), 17)]

    assert uris(tmp_path) == sorted(place for place in places if place.endswith((".txt", ".md")))
    assert uris(tmp_path / "x" / "[1].txt") == ["[1].txt"]
    for pattern in ("*.txt", "x/*.txt", "*/*", "x/?.txt", "**/*.txt", "x/**/*.md", "x/**/y/*", "[!b].txt", "[ab].t*", "x/**/f.txt"):
        folder = "x/" if pattern.startswith("x/") else ""
        expected = sorted(path.relative_to(tmp_path / folder).as_posix() for path in tmp_path.glob(pattern) if path.is_file())
        assert uris(tmp_path / pattern) == expected and expected


def test_links_pipes_and_odd_names_are_neither_followed_in_circles_nor_left_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("text")
    (tmp_path / "real" / "round").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "copy.txt").symlink_to("real/a.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "self.txt").symlink_to("self.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w") as odd:
        odd.write("\ufeffodd")
    made = {one.uri: outcome(one) for one in read(tmp_path, "text")}
    rejected = dict.fromkeys(("gone.txt", "self.txt", "pipe.txt", "real/round"), "unreadable")
    assert made == {"real/a.txt": "text", "copy.txt": "text", "\\xff.txt": "odd"} | rejected


def test_a_file_that_breaks_off_keeps_its_records_and_tells_no_path(monkeypatch):
    def breaks(file, origin):
        yield Record("a#1", "text", None)
        raise PermissionError(13, "Permission denied", "/secret/place")

    monkeypatch.setitem(READERS, "jsonl", Reader(None, breaks))
    file = File(__file__, "a", 1, 1)
    assert list(ingest.read(file, source())) == [Record("a#1", "text", None), Reject("a", "unreadable", "Permission denied", 0)]


# --- checks before Spark


def test_sources_that_cannot_be_read_are_refused_by_field(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow.jsonl").write_text("")
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    for origin, field, said in [
        (source("x", "csv"), "sources.web.reader", "'csv'"),
        (source(None), "sources.web.path", "found none"),
        (source("x", "python-code"), "sources.web.path", "expected none"),
        (source("x", "python-docs"), "sources.web.path", "expected none"),
        (source(tmp_path / "no.jsonl"), "sources.web.path", "No such file"),
        (source(tmp_path / "empty"), "sources.web.path", ".json.zst, found none"),
        (source(tmp_path / "*.jsonl.gz"), "sources.web.path", "that match, found none"),
        (source(tmp_path / "no" / "*.jsonl"), "sources.web.path", "No such file"),
        (source(tmp_path / "hollow.jsonl"), "sources.web.path", "found 1 empty"),
        (source(tmp_path, "parquet"), "sources.web.text_field", "found body, n"),
        (source(tmp_path, "parquet", text_field="n"), "sources.web.text_field", "found int64"),
        (source(tmp_path, "parquet", text_field="body", licence_field="l"), "sources.web.licence_field", "found body, n"),
    ]:
        with pytest.raises(RecipeError) as error:
            ingest.listing(recipe(origin))
        assert str(error.value).startswith(f"{field}: expected") and said in str(error.value)


def test_a_file_of_one_value_over_several_lines_is_told_what_is_read(tmp_path):
    """In its first reject: printed prettily, an array, an array of an object a line, an array in one line."""
    values = [{"text": "a"}, {"text": "b"}]
    lines = "[\n" + ",\n".join(map(json.dumps, values)) + "\n]"
    for text in (json.dumps(values[0], indent=1), json.dumps(values, indent=1), lines, json.dumps(values), "\ufeff" + json.dumps(values, indent=2)):
        (tmp_path / "a.json").write_text(text)
        first, *_ = read(tmp_path / "a.json")
        assert first.detail.startswith("expected an object, found ") and first.detail.endswith("one whole object a line is read (JSON Lines)")
    (tmp_path / "a.json").write_text('{"text": "a\n7')
    assert not any("JSON Lines" in one.detail for one in read(tmp_path / "a.json"))


def test_budgets_that_no_reading_can_fill_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"x" * 1000)
    (tmp_path / "b.jsonl.gz").write_bytes(b"x" * 1000)
    sources = source(tmp_path / "a.jsonl", name="a"), source(tmp_path / "b.jsonl.gz", name="b")

    def checked(first, second, share):
        weights = {"method": "manual", "weights": {"a": share, "b": 1 - share}}
        stages = [{"name": f"s{t}{i}", "tokens": t, "seq_len": 256, "mixture": weights} for i, t in enumerate((first, second))]
        planned = recipe(*sources, stages=stages, max_epochs=2)
        ingest.check(planned, ingest.listing(planned))

    checked(10_000, 10_000, 0.1)  # 2,000 of a
    with pytest.raises(RecipeError, match=r"^stages\[1\]\.mixture\.weights\.a: expected at most 2,000 tokens.*found 2,010"):
        checked(10_000, 10_100, 0.1)
    with pytest.raises(RecipeError, match=r"^stages: expected at most 402,000 tokens.*found 402,001"):
        checked(399_953, 2048, 0)


def hashes(origin) -> dict[str, str]:
    return ingest.hashes(origin, ingest.listing(origin))


def test_hash_of_inputs_sees_names_sizes_and_times(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").write_text("{}")
    origin = recipe(source(tmp_path))
    prints = [hashes(origin)["web/1"], hashes(origin)["web/1"]]
    assert prints[0] == prints[1]
    for change in (
        lambda: os.utime(tmp_path / "a.jsonl", ns=(5, 5)),
        lambda: (tmp_path / "a.jsonl").write_text("{ }") and os.utime(tmp_path / "a.jsonl", ns=(5, 5)),
        lambda: (tmp_path / "a.jsonl").rename(tmp_path / "aa.jsonl"),
        lambda: (tmp_path / "aa.jsonl").unlink(),
    ):
        change()
        prints.append(hashes(origin)["web/1"])
    assert len(set(prints)) == 5


# --- rows


def test_the_id_of_a_document_is_its_content():
    assert ingest.doc_id("a", "b", b"c") == hashlib.blake2b(b"a\0b\0c", digest_size=16).hexdigest()
    ids = {ingest.doc_id(*parts) for parts in [("a", "b", b"c"), ("ab", "", b"c"), ("a", "bc", b""), ("a", "b", b"d"), ("", "ab", b"c")]}
    assert len(ids) == 5


def test_batches_are_bounded_by_bytes_and_rows(monkeypatch):
    origin = source()
    rows = [ingest.row(document(f"a#{i}", "é" * 500, None, origin), origin) for i in range(100)]
    rejects = [ingest.row(Reject(f"b#{i}", "nul", "", 10**9), origin) for i in range(100)]
    monkeypatch.setattr(ingest, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(ingest, "BATCH_ROWS", 30)
    assert [batch.num_rows for batch in ingest.batch_rows(rows)] == [10] * 10
    assert [batch.num_rows for batch in ingest.batch_rows(rejects)] == [30, 30, 30, 10]
    assert pa.Table.from_batches(ingest.batch_rows(rows)).column("n_bytes").to_pylist() == [1000] * 100


def test_chunks_keep_all_files_in_order_and_follow_their_bytes(monkeypatch):
    files = [File(f"/{i}", f"{i}", size << 20, 0) for i, size in enumerate([3, 3, 3, 0, 50, 1, 7])]
    assert [[file.bytes >> 20 for file in chunk] for chunk in ingest.chunk_files(files)] == [[3, 3], [3, 0], [50], [1, 7]]
    assert [len(chunk) for chunk in ingest.chunk_files(files[4:])] == [1, 2]
    monkeypatch.setattr(ingest, "MAX_CHUNKS", 2)
    assert [len(chunk) for chunk in ingest.chunk_files(files)] == [4, 1, 2]
    monkeypatch.setattr(ingest, "CHUNK_FILES", 3)
    assert [len(chunk) for chunk in ingest.chunk_files(files)] == [3, 1, 1, 2]


def test_every_record_is_one_row_on_any_number_of_partitions(spark, tmp_path, monkeypatch):
    lines = [b'{"text": "one"}', b"", b"{broken", b'{"text": "\xff"}', b'{"text": "two"}', b"[]", b'{"text": " "}']
    expected = {"a.jsonl": ["one", "broken_json", "invalid_utf8", "two", "not_an_object", "empty_text"]}
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    for suffix in (".gz", ".zst"):
        (tmp_path / f"b.jsonl{suffix}").write_bytes(PACK[suffix](b"\n".join(lines))[:-3])
        expected[f"b.jsonl{suffix}"] = ["damaged"]
    for i in range(9):
        (tmp_path / f"c{i}.jsonl").write_bytes(f'{{"text": "text {i}"}}\n'.encode())
        expected[f"c{i}.jsonl"] = [f"text {i}"]
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    with open(os.fsencode(tmp_path) + b"/\xfe.jsonl", "wb") as odd:
        odd.write(lines[0])
    expected |= {"gone.jsonl": ["unreadable"], "\\xfe.jsonl": ["one"]}
    (tmp_path / "t.txt").write_bytes(b"prose\r\n")
    made_of = recipe(source(tmp_path, snapshots=["7"], licence="CC0"), source(tmp_path, "text", name="prose", domain="web"))

    frame = ingest.read_records(spark, made_of, ingest.listing(made_of))
    assert frame.columns == [*DOCUMENTS.column_names, "reason", "detail"]
    rows = frame.collect()
    outcomes = {}
    for row in rows:
        outcomes.setdefault((row.source, row.uri.partition("#")[0]), []).append(row.text if row.reason is None else row.reason)
    outcomes[("web", "b.jsonl.gz")] = outcomes[("web", "b.jsonl.gz")][-1:]  # how many lines precede the damage is tested above
    assert outcomes == {("web", name): kept for name, kept in expected.items()} | {("prose", "t.txt"): ["prose\n"]}
    (prose,) = [row for row in rows if row.source == "prose"]
    assert (prose.doc_id, prose.n_bytes, prose.domain, prose.licence, prose.snapshot) == (ingest.doc_id("prose", "t.txt", b"prose\n"), 6, "web", None, "1")
    assert {(row.snapshot, row.licence) for row in rows if row.source == "web" and row.reason is None} == {("7", "CC0")}
    assert all((row.doc_id is None) == (row.text is None) == (row.domain is None) == (row.detail is not None) for row in rows)

    monkeypatch.setattr(ingest, "CHUNK_BYTES", 1)
    apart = ingest.read_records(spark, made_of, ingest.listing(made_of))
    assert apart.rdd.getNumPartitions() > 10
    assert sorted(apart.collect(), key=str) == sorted(rows, key=str)


def test_a_header_of_megabytes_costs_its_length_once():
    """Each of the strings behind it read the whole line: 20 s."""
    text = "def f(" + "x" * 500_000 + "\n" + ":\n''\n" * 50_000
    began = time.thread_time()
    assert list(docstrings(text)) == [] and time.thread_time() - began < 5


@pytest.mark.parametrize("text", ["def f():\n" + "#:\n" * 300_000, "def f(x" + ":#" * 500_000, "def f():\n" + "#:#\n" * 200_000])
def test_colons_in_comments_are_no_headers_each_of_which_reads_what_follows(text):
    """Hours, before."""
    began = time.thread_time()
    assert list(docstrings(text)) == [] and time.thread_time() - began < 5


def test_a_header_that_is_never_closed_is_read_once_for_all_strings_behind_it():
    text = "def f(\n" + ":\n'x'\n" * 1600
    began = time.thread_time()
    assert list(docstrings(text * 20)) == [("f", "x")] * 1600 * 20 and time.thread_time() - began < 5
