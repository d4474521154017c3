"""Chats, source trees and archives: whatever the input, records or rejects that add up, in little memory and bounded time."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import tarfile
import time
import tokenize
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import deliveries
from pipelines.readers import (
    READERS,
    File,
    Record,
    Reject,
    archives,
    chat,
    compressed,
    ingest,
    members,
    tar_members,
    zip_members,
)
from pipelines.readers.files import REASONS
from pipelines.readers.licences import LICENCE_FILE, declared_licence, licence_of, spdx_named
from pipelines.readers.python import LICENCE_HEADER, package_roots
from pipelines.readers.suffixes import NAMES, language_of
from pipelines.readers.tree import GENERATED, attributes, compile_pattern
from schemas.parts import Source
from schemas.recipe import Recipe, RecipeError


def source(path, reader, **fields):
    return Source(**{"name": "web", "reader": reader, "domain": "docs", "path": str(path)} | fields)


def read(path, reader="text", **fields):
    """Everything that a source gives, without Spark."""
    origin = source(path, reader, **fields)
    made = [one for file in READERS[reader].list_files(origin, 17) for one in ingest.read(file, origin)]
    assert all(isinstance(one, Record) or (one.reason in REASONS and 0 < len(one.detail) < 400 and one.uri.encode()) for one in made)
    list(ingest.batch_rows(ingest.row(one, origin) for one in made))  # every one fits its table
    return made


def outcome(made):
    return made.text if isinstance(made, Record) else made.reason


def outcomes(made):
    return {one.uri: outcome(one) for one in made}


# --- chats


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


QUESTION = [("user", "2 + 2?"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (said(*QUESTION), "User: 2 + 2?\n\nAssistant: 4"),
        (said(("system", "Be brief."), *QUESTION), "System: Be brief.\n\nUser: 2 + 2?\n\nAssistant: 4"),
        (said(("developer", "Be brief."), *QUESTION), "System: Be brief.\n\nUser: 2 + 2?\n\nAssistant: 4"),
        (said(("user", " a\r\n\r\nb\n"), ("assistant", "c\rd")), "User: a\n\nb\n\nAssistant: c\nd"),
        (said(*QUESTION, ("tool", "x"), ("tool", "y"), ("assistant", "z")), "User: 2 + 2?\n\nAssistant: 4\n\nTool: x\n\nTool: y\n\nAssistant: z"),
        (said(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ("assistant", "c")), "User: a\nb\n\nAssistant: c"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "User: a\n\nAssistant: b"),
        ({"text": "not this", **said(*QUESTION)}, "User: 2 + 2?\n\nAssistant: 4"),
        ({"text": said(*QUESTION)["messages"], "messages": []}, "User: 2 + 2?\n\nAssistant: 4"),
        (said(("user", "a\n\nAssistant: b\n\n User: c"), ("assistant", "Assistant: d")),
         "User: a\n\n Assistant: b\n\n  User: c\n\nAssistant: Assistant: d"),
        ({"prompt": "a"}, "no_text"),
        ({"messages": "text"}, "no_text"),
        ({"messages": {"role": "user"}}, "no_text"),
        ({"messages": []}, "bad_order"),
        (said(("user", "a")), "bad_order"),
        (said(("assistant", "a")), "bad_order"),
        (said(("system", "a")), "bad_order"),
        (said(("assistant", "a"), ("user", "b")), "bad_order"),
        (said(*QUESTION, ("system", "late"), *QUESTION), "bad_order"),
        (said(("system", "a"), ("system", "b"), *QUESTION), "bad_order"),
        (said(("user", "a"), *QUESTION), "bad_order"),
        (said(*QUESTION, ("assistant", "b")), "bad_order"),
        (said(("user", "a"), ("tool", "b"), ("assistant", "c")), "bad_order"),
        (said(*QUESTION, ("tool", "b"), ("user", "c")), "bad_order"),
        (said(("user", " \n"), ("assistant", "b")), "bad_turn"),
        (said(("user", None), ("assistant", "b")), "bad_turn"),
        (said(("user", []), ("assistant", "b")), "bad_turn"),
        (said(("user", 4), ("assistant", "b")), "bad_turn"),
        (said(("user", ["a"]), ("assistant", "b")), "bad_turn"),
        (said(("user", [{"type": "image_url", "text": "a"}]), ("assistant", "b")), "bad_turn"),
        (said(("critic", "a"), ("assistant", "b")), "bad_turn"),
        (said((["user"], "a"), ("assistant", "b")), "bad_turn"),
        ({"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]}, "bad_turn"),
        ({"messages": ["a", "b"]}, "bad_turn"),
        (said(("user", "a\0"), ("assistant", "b")), "nul"),
        (said(("user", "\ud800"), ("assistant", "b")), "invalid_utf8"),
        ([], "not_an_object"),
    ],
)  # fmt: skip
def test_a_conversation_is_one_plain_text_or_says_why_not(tmp_path, value, expected):
    line = json.dumps(value)
    (tmp_path / "a.jsonl").write_text(f"\n{line}\n")
    (made,) = read(tmp_path, "chat")
    assert outcome(made) == expected and made.uri == "a.jsonl#2"
    assert isinstance(made, Record) or made.n_bytes == len(line)


def test_a_conversation_has_its_licence_and_number_of_turns(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(json.dumps({"l": "MIT", **said(("system", "a"), *QUESTION, *QUESTION)}).encode()))
    (made,) = read(tmp_path, "chat", licence_field="l")
    assert (made.licence, made.facts) == ("MIT", (("turns", "4"),))


def turns_of(text):
    """The template read back, as chat.py's docstring says."""
    pieces = re.split(r"(?:\A|\n\n)(System|User|Assistant|Tool): ", text)
    moved = r"(?<=\n\n) (?= *(?:System|User|Assistant|Tool):)"
    return [(heading, re.sub(moved, "", content)) for heading, content in zip(pieces[1::2], pieces[2::2], strict=True)]


WORDS = st.lists(st.sampled_from(["User:", "Assistant:", "System:", "Tool: ", " ", "\n", "\n\n", "\r\n", "\r", "a", "é"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(WORDS.map("".join), WORDS.map("".join)), min_size=1, max_size=4))
def test_turns_can_be_told_apart_whatever_they_hold(pairs):
    turns = [turn for user, assistant in pairs for turn in (("User", user), ("Assistant", assistant))]
    made = chat.conversation("a", said(*((heading.lower(), content) for heading, content in turns)), source("x", "chat"))
    clean = [(heading, content.replace("\r\n", "\n").replace("\r", "\n").strip()) for heading, content in turns]
    if all(content for _, content in clean):
        assert turns_of(made.text) == clean
    else:
        assert made.reason == "bad_turn"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.sampled_from(["user", "assistant", "system", "text"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["messages", "conversations", "role", "content", "from", "value", "type", "text", "l"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON | st.dictionaries(st.sampled_from(["messages", "conversations"]), st.lists(JSON)), max_size=5))
@settings(max_examples=100)
def test_any_json_gives_as_many_results_as_lines(values):
    data = "".join(json.dumps(value) + "\n" for value in values).encode()
    for reader in ("chat", "jsonl"):
        file = File("", "a.jsonl", len(data), 0, stream=io.BytesIO(data))
        made = list(READERS[reader].read(file, source("x", reader, licence_field="l")))
        assert [one.uri for one in made] == [f"a.jsonl#{i}" for i in range(1, len(values) + 1)]
        assert all(isinstance(one, Record | Reject) for one in made)


def test_deep_and_long_chats_take_linear_time(tmp_path):
    deep = '{"messages": ' + "[" * 900 + "]" * 900 + ', "l": ' + "[" * 900 + "]" * 900 + "}\n"
    licence = json.dumps(said(*QUESTION)).removesuffix("}") + ', "l": ' + "[" * 1020 + "]" * 1020 + "}\n"
    deeper = '{"messages": ' + '{"a": ' * 50_000 + "1" + "}" * 50_000 + "}\n"
    long = json.dumps(said(*QUESTION * 50_000)) + "\n"
    (tmp_path / "a.jsonl").write_text(deep + deeper + licence + long)
    read(tmp_path, "chat")  # what is imported and compiled at first use
    began = time.thread_time()
    *bad, odd, good = read(tmp_path, "chat", licence_field="l")
    assert time.thread_time() - began < 10  # .3 s on a quiet machine; quadratic it would be minutes
    assert [outcome(one) for one in bad] == ["bad_turn", "broken_json"]
    assert odd.licence is None and good.facts == (("turns", "100000"),) and good.text.count("User: 2 + 2?\n\nAssistant: 4") == 50_000


# --- archives


TEXTS = {"a.txt": "first", "deep/b.md": "second", "deep/er/ü.txt": "third\n" * 3000, "empty.txt": "", "image.png": "no text",
         "long/" + "n" * 150 + "/" + "m" * 120 + ".txt": "a long name"}  # fmt: skip
WRITERS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".tar.zst": "w", ".zip": ""}


def tar(members, mode="w", form=tarfile.PAX_FORMAT):
    """`members` are (name or TarInfo, bytes)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode, format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def pack(suffix, texts, form=tarfile.PAX_FORMAT):
    members = [(name, text.encode() if isinstance(text, str) else text) for name, text in texts.items()]
    if suffix != ".zip":
        data = tar(members, WRITERS[suffix], form)
        return zstandard.compress(data) if suffix == ".tar.zst" else data
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", WRITERS)
def test_an_archive_is_a_folder(tmp_path, suffix, form):
    if form == tarfile.USTAR_FORMAT:  # which has 100 characters for the last part of a name
        texts = {name: text for name, text in TEXTS.items() if len(name) < 200}
    else:
        texts = TEXTS
    (tmp_path / f"x{suffix}").write_bytes(pack(suffix, texts, form))
    records = read(tmp_path)
    wanted = [name for name in texts if name.endswith((".txt", ".md"))]
    assert outcomes(records) == {f"x{suffix}/{name}": texts[name] or "empty_text" for name in wanted} and len(records) == len(wanted)
    assert read(tmp_path / f"x{suffix}") == read(tmp_path / "*") == records


@pytest.mark.parametrize("suffix", WRITERS)
def test_lines_in_an_archive_are_those_of_the_files(tmp_path, suffix):
    lines = [json.dumps({"text": f"text {i}", **said(("user", f"{i}"), ("assistant", "b"))}) for i in range(5000)]
    texts = {"a.jsonl": "\n".join(lines), "b.jsonl.zst": zstandard.compress("\n".join(lines[:9] + ["{"]).encode()), "c.txt": "x"}
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / f"x{suffix}").write_bytes(pack(suffix, texts))
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    for reader in ("jsonl", "chat"):
        plain = [one for name in ("a.jsonl", "b.jsonl.zst") for one in read(tmp_path / name, reader)]
        inside = read(tmp_path / "archive", reader)
        assert [one._replace(uri=f"x{suffix}/{one.uri}") for one in plain] == inside and len(inside) == 5010


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz"])
def test_a_tar_cut_anywhere_keeps_what_was_before(tmp_path, suffix):
    rng = random.Random(4)
    texts = {f"{i}.txt": rng.randbytes(rng.randrange(200, 4000)).hex() for i in range(30)}
    data = pack(suffix, texts)
    counts = []
    for end in sorted({*range(0, len(data), max(1, len(data) // 40)), len(data) - 1}):
        (tmp_path / f"x{suffix}").write_bytes(data[:end] or b"\n")
        made = read(tmp_path)
        kept = [one for one in made if isinstance(one, Record)]
        assert [(one.uri, one.text) for one in kept] == [(f"x{suffix}/{name}", text) for name, text in list(texts.items())[: len(kept)]]
        padding = suffix == ".tar" and end > len(data) - 9000  # behind the first of the blocks of zeros nothing is missed
        assert padding or {outcome(one) for one in made[len(kept) :]} == {"damaged"}
        counts.append(len(kept))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] >= 29


def test_a_damaged_member_of_a_zip_costs_no_other(tmp_path):
    data = bytearray(pack(".zip", {f"{i}.txt": f"text {i * i} " * 50 for i in range(9)}))
    info = zipfile.ZipFile(io.BytesIO(data)).infolist()[4]
    data[info.header_offset + 30 + len(info.filename) + 5] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(data)
    made = outcomes(read(tmp_path))
    assert made.pop("x.zip/4.txt") == "damaged" and all(made[f"x.zip/{i}.txt"] == f"text {i * i} " * 50 for i in (0, 1, 2, 3, 5, 6, 7, 8))


def test_names_that_lead_out_repeat_or_are_no_text(tmp_path):
    names = {"./a.txt": "a.txt", "b//c.txt": "b/c.txt", "/etc/d.txt": "etc/d.txt", "../e.txt": None, "f/../g.txt": None, "h/..x/i.txt": "h/..x/i.txt",
             "a.txt": None, "k\n.txt": "k\n.txt"}  # fmt: skip
    members = [(name, f"text {i}".encode()) for i, name in enumerate(names)]
    long = tarfile.TarInfo("y" * 5000 + ".txt")
    odd = tar([("x" * 8 + ".txt", b"odd")], form=tarfile.USTAR_FORMAT).replace(b"x" * 8, b"\xff\xfe" + b"x" * 6)
    total = sum(odd[:512]) - sum(odd[148:156]) + 8 * 32
    odd = odd[:148] + b"%06o\0 " % total + odd[156:]
    (tmp_path / "x.tar").write_bytes(tar([*members, (long, b"z")]) + odd)  # joined tars are read to the end
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    for suffix in (".tar", ".zip"):
        made = [one for one in read(tmp_path / f"x{suffix}")]
        kept = {f"x{suffix}/{place}": f"text {i}" for i, place in enumerate(names.values()) if place}
        refused = [("unreadable", f"x{suffix}/../e.txt"), ("unreadable", f"x{suffix}/f/../g.txt"), ("repeated_name", f"x{suffix}/a.txt")]
        if suffix == ".tar":
            kept["x.tar/\\xff\\xfexxxxxx.txt"] = "odd"
            refused.append(("unreadable", "x.tar/" + "y" * 4096))
        assert outcomes([one for one in made if isinstance(one, Record)]) == kept
        assert [(one.reason, one.uri) for one in made if isinstance(one, Reject)] == refused


def test_names_in_a_zip_may_hold_nul_or_other_encodings(tmp_path):
    data = pack(".zip", {"aXb.txt": "nul", "cYYd.txt": "bytes", "eZf.txt": "page", "Zg.txt": "none"})
    (tmp_path / "x.zip").write_bytes(data.replace(b"aXb", b"a\0b").replace(b"cYYd", "cüd".encode()).replace(b"eZf", b"e\x81f").replace(b"Zg", b"\0g"))
    assert outcomes(read(tmp_path)) == {"x.zip/a\\x00b.txt": "nul", "x.zip/cüd.txt": "bytes", "x.zip/eüf.txt": "page",
                                         "x.zip/\\x00g.txt": "none"}  # fmt: skip


def test_links_devices_folders_and_nested_archives_are_never_entered(tmp_path):
    kinds = {"s.txt": tarfile.SYMTYPE, "h.txt": tarfile.LNKTYPE, "c.txt": tarfile.CHRTYPE, "p.txt": tarfile.FIFOTYPE, "d.txt": tarfile.DIRTYPE}
    members = []
    for name, kind in kinds.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        members.append((info, b""))
    inner = pack(".zip", {"a.txt": "a"})
    (tmp_path / "x.tar").write_bytes(tar([*members, ("in.zip", inner), ("in.tar.gz", pack(".tar.gz", {"a.txt": "a"})), ("last.txt", b"last")]))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("s.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("in.zip", inner)
        archive.writestr("d.txt/", "")
        archive.writestr("b.txt", "b", zipfile.ZIP_BZIP2)
        archive.writestr("last.txt", "last")
    made = outcomes(read(tmp_path))
    assert made == {f"x.tar/{name}": "unreadable" for name in ("s.txt", "h.txt", "c.txt", "p.txt")} | {
        "x.tar/in.zip": "nested_archive", "x.tar/in.tar.gz": "nested_archive", "x.tar/last.txt": "last",
        "x.zip/s.txt": "unreadable", "x.zip/in.zip": "nested_archive", "x.zip/b.txt": "unreadable", "x.zip/last.txt": "last"}  # fmt: skip


def test_sparse_files_of_both_kinds_are_refused_and_passed(tmp_path):
    old = tarfile.TarInfo("old.txt")
    old.type, old.size = tarfile.GNUTYPE_SPARSE, 700
    header = bytearray(old.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    new = tarfile.TarInfo("new.txt")
    new.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "new.txt"}
    sparse = bytes(header) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"x" * 700 + bytes(-700 % 512)
    (tmp_path / "x.tar").write_bytes(sparse + tar([(new, b"x" * 600), ("last.txt", b"last")]))
    assert outcomes(read(tmp_path)) == {"x.tar/old.txt": "unreadable", "x.tar/new.txt": "unreadable", "x.tar/last.txt": "last"}


def test_encrypted_members_are_refused(tmp_path):
    data = bytearray(pack(".zip", {"a.txt": "secret", "b.txt": "open"}))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    assert outcomes(read(tmp_path)) == {"x.zip/a.txt": "unreadable", "x.zip/b.txt": "open"}


@pytest.mark.parametrize("claimed", [0, 3, 2**31])
def test_sizes_that_lie_in_a_zip(tmp_path, claimed):
    """Less than there is: the checksum fails. Far more: the archive is refused before it is read."""
    data = bytearray(pack(".zip", {"a.txt": "a text " * 100, "b.txt": "next"}))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = data.index(mark) + offset
        data[place : place + 4] = struct.pack("<I", claimed)
    (tmp_path / "x.zip").write_bytes(data)
    made = outcomes(read(tmp_path))
    assert made == ({"x.zip": "too_unpacked"} if claimed > 1000 else {"x.zip/a.txt": "damaged", "x.zip/b.txt": "next"})


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz"])
def test_bombs_are_left_where_they_would_unpack_to_too_much(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(members, "FREE_BYTES", 1 << 20)
    (tmp_path / f"x{suffix}").write_bytes(pack(suffix, {"a.jsonl": '{"text": "first"}\n', "b.jsonl": b" " * (40 << 20), "c.jsonl": "{}"}))
    assert (tmp_path / f"x{suffix}").stat().st_size < 45_000
    read(tmp_path, "jsonl")  # what is imported late is no part of what an archive costs
    tracemalloc.start()
    made = read(tmp_path, "jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [outcome(one) for one in made] == ["first", "too_unpacked"] and made[1].uri == f"x{suffix}"
    assert peak < 24 << 20  # the largest step of zstd is 16 MiB


def test_text_as_it_compresses_best_is_no_bomb(tmp_path):
    texts = {f"{i}.txt": "a log line that is always the same\n" * 30_000 for i in range(9)}  # 9 MB in 30 KB
    for suffix in (".zip", ".tar.zst"):
        (tmp_path / f"x{suffix}").write_bytes(pack(suffix, texts))
        assert [outcome(one) for one in read(tmp_path / f"x{suffix}")] == list(texts.values())
    assert members.allowed_bytes(1 << 30) == 200 << 30 and members.allowed_bytes(1 << 40) == members.UNPACKED_BYTES


def test_members_larger_than_a_document_cost_no_memory(tmp_path):
    texts = {"a.txt": b"a" * (30 << 20), "b.txt": "next"}
    for suffix in (".tar", ".zip"):
        (tmp_path / f"x{suffix}").write_bytes(pack(suffix, texts))
        tracemalloc.start()
        made = read(tmp_path / f"x{suffix}", max_document_bytes=1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [(outcome(one), one.uri) for one in made] == [("too_large", f"x{suffix}/a.txt"), ("next", f"x{suffix}/b.txt")]
        assert made[0].n_bytes == 30 << 20 and peak < 4 << 20


def test_headers_directories_and_members_without_end_are_refused(tmp_path, monkeypatch):
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 50 << 20
    (tmp_path / "pax.tar").write_bytes(pax.tobuf() + b" " * (50 << 20))
    (tmp_path / "many.zip").write_bytes(pack(".zip", {f"{i}.txt": "a" for i in range(40)}))
    (tmp_path / "many.tar").write_bytes(pack(".tar", {f"{i}.txt": "a" for i in range(40)}))
    monkeypatch.setattr(zip_members._Directory, "most", 2000)
    monkeypatch.setattr(archives, "MEMBERS", 30)
    tracemalloc.start()
    made = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Counter(map(outcome, made)) == {"a": 30, "too_unpacked": 2, "damaged": 1} and peak < 4 << 20


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20)) | st.just({"size": "x"}))
def test_pax_records_are_those_that_tarfile_writes(records):
    records = {key: value for key, value in records.items() if key and "=" not in key and "\n" not in key and "\0" not in key}
    data = tarfile.TarInfo._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")[512:]
    size = int.from_bytes(b"") if not records else len(data.rstrip(b"\0"))
    assert tar_members._pax(data[:size]) == records


SEEDS = {suffix: pack(suffix, {"a.txt": "text " * 40, "b/ü.txt": "second", "c.bin": "x" * 300, "n" * 120 + ".txt": "third"}) for suffix in WRITERS}


@given(st.sampled_from(list(WRITERS)), st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=4)), max_size=4), st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_records_or_rejects(tmp_path_factory, suffix, changes, tail):
    data = bytearray(SEEDS[suffix])
    for place, piece in changes:
        place %= len(data)
        data[place : place + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(bytes(data) + tail)
    made = read(path)
    assert made if changes or tail else [outcome(one) for one in made] == ["text " * 40, "second", "third"]


@given(st.sampled_from(list(WRITERS)), st.binary(min_size=1, max_size=1500))
@settings(deadline=None)
def test_files_that_are_no_archives_are_damaged(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"none{suffix}"
    path.write_bytes(data)
    assert "damaged" in map(outcome, read(path)) or not any(data)


@pytest.mark.parametrize(("suffix", "compress"), [(".bz2", __import__("bz2").compress), (".xz", __import__("lzma").compress)])
def test_bz2_and_xz_unpack_in_small_pieces(suffix, compress):
    parts = [random.Random(1).randbytes(300_000), b"", b"a" * 3_000_000]
    stream = io.BytesIO(b"".join(map(compress, parts)) + bytes(8))
    pieces = list(compressed.chunks(stream, "x" + suffix))
    assert b"".join(pieces) == b"".join(parts) and max(map(len, pieces)) <= compressed.CHUNK_BYTES


# --- source trees

MIT = """Copyright (c) Someone\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files ... The above copyright notice and this permission notice shall be included in all copies."""
BSD = "Redistribution and use in source and binary forms, with or without\n * modification, are permitted provided that ..."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIT, "MIT"),
        (MIT.replace("The above copyright notice and this permission notice shall be included in all copies.", ""), "MIT-0"),
        (BSD, "BSD-2-Clause"),
        (f"{BSD} Neither the name may be used to endorse or promote products ...", "BSD-3-Clause"),
        (f"{BSD} All advertising materials mentioning features ... endorse or promote products", "BSD-4-Clause"),
        ("Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided"
         " that the above copyright notice and this permission notice appear in all copies.", "ISC"),
        ("Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted.", "0BSD"),
        ("  Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
        ('Licensed under the Apache License, Version 2.0 (the "License");', "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n" + "x " * 9000 + "GNU Affero General Public License", "GPL-3.0"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991", "GPL-2.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 2.1, February 1999", "LGPL-2.1"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 3, 29 June 2007 ... GNU General Public License version 3, 29 June 2007", "LGPL-3.0"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE Version 3, 19 November 2007", "AGPL-3.0"),
        ("the terms of the GNU Lesser General Public License as published by\n# the Free Software Foundation; either version 2.1 of the License, or"
         "\n# (at your option) any later version.", "LGPL-2.1-or-later"),
        ("GNU General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any"
         " later version", "GPL-3.0-or-later"),
        ("Mozilla Public License Version 2.0", "MPL-2.0"),
        ("subject to the terms of the Mozilla Public License, v. 2.0.", "MPL-2.0"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("Creative Commons Attribution 4.0 International Public License", "CC-BY-4.0"),
        ("Creative Commons Attribution-ShareAlike 3.0 Unported", "CC-BY-SA-3.0"),
        ("Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "CC-BY-NC-ND-4.0"),
        ("Boost Software License - Version 1.0", "BSL-1.0"),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", "PSF-2.0"),
        ("This software is provided 'as-is', without any express or implied warranty. In no event will the authors be held liable", "Zlib"),
        (MIT + "\n\nThis product includes:\n" + BSD, "MIT"),
        ("All rights reserved. Nobody may copy this. " + "Terms. " * 1000 + MIT, None),
        ("", None),
    ],
)  # fmt: skip
def test_licences_are_known_by_their_words(text, expected):
    assert licence_of(text) == expected


def test_licence_files_of_installed_packages_are_what_their_metadata_say():
    """Oracle: the SPDX expression of each package that has one licence file and one of the licences known here."""
    agreed, wrong = 0, []
    for folder in (entry for root in package_roots() for entry in Path(root).glob("*.dist-info")):
        headers = (folder / "METADATA").read_text("utf-8", "replace").partition("\n\n")[0]
        named = dict(match[:2] for match in LICENCE_HEADER.findall(headers)).get("License-Expression", "")
        files = [path for path in folder.rglob("*") if LICENCE_FILE.fullmatch(path.name) and path.is_file()]
        licence = licence_of(files[0].read_text("utf-8", "replace")) if len(files) == 1 else None
        if licence and re.fullmatch("MIT|Apache-2.0|BSD-[23]-Clause|ISC|MPL-2.0|PSF-2.0", named):
            agreed += licence == named
            wrong += [(folder.name, named, licence)] * (licence != named)
    assert agreed >= 30 and len(wrong) <= agreed // 50, wrong


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("package.json", '{"license": "MIT"}', "MIT"),
        ("package.json", '{"license": {"type": "ISC"}}', "ISC"),
        ("package.json", '{"license": ["MIT"]}', None),
        ("package.json", "[]", None),
        ("package.json", "[" * 100_000, None),
        ("package.json", '{"license": "' + "x" * 200 + '"}', None),
        ("composer.json", '{"license": "MIT"}', "MIT"),
        ("Cargo.toml", '[package]\nlicense = "MIT OR Apache-2.0"', "MIT OR Apache-2.0"),
        ("Cargo.toml", "[package]\nlicense = {workspace = true}", None),
        ("Cargo.toml", "package = 1", None),
        ("pyproject.toml", '[project]\nlicense = "BSD-3-Clause"', "BSD-3-Clause"),
        ("pyproject.toml", '[project]\nlicense = {text = "MIT"}', "MIT"),
        ("pyproject.toml", '[tool.poetry]\nlicense = "MIT"', "MIT"),
        ("pyproject.toml", "a = " + "[" * 5000, None),
        ("pyproject.toml", "[project", None),
    ],
)
def test_manifests_name_licences(name, data, expected):
    assert declared_licence(name, data.encode()) == expected


def test_an_spdx_line_counts_among_the_first_lines():
    assert spdx_named("#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note\n") == "GPL-2.0-only WITH Linux-syscall-note"
    assert spdx_named("/* SPDX-License-Identifier: (MIT OR Apache-2.0) */\n") == "(MIT OR Apache-2.0)"
    assert spdx_named("\n" * 29 + "// SPDX-License-Identifier: MIT\n") == "MIT" and spdx_named("\n" * 30 + "// SPDX-License-Identifier: MIT") is None


TREE = {
    "one/LICENSE": MIT,
    "one/main.py": "print(1)",
    "one/src/Makefile": "all:\n",
    "one/src/deep/er/a.rs": "fn a() {}",
    "one/src/deep/b.go": "// SPDX-License-Identifier: GPL-3.0-or-later\npackage b",
    "one/vendor/lib/COPYING": "GNU GENERAL PUBLIC LICENSE Version 2, June 1991",
    "one/vendor/lib/c.c": "int c;",
    "one/vendor/plain.js": "x",
    "one/api_pb2.py": "generated = 1",
    "one/package-lock.json": "{}",
    "one/.gitattributes": "# why\nsrc/deep/** linguist-vendored\n*.rs -text linguist-generated=true\nvendor/plain.js linguist-vendored=false\n*_pb2.py -linguist-generated",
    "two/package.json": '{"license": "ISC"}',
    "two/node_modules/x/index.js": "x",
    "two/secret/LICENSE.txt": "Nobody may read this.",
    "two/secret/d.ts": "let d = 1",
    "two/both/LICENSE-MIT": MIT,
    "two/both/LICENSE-APACHE": "Apache License Version 2.0, January 2004",
    "two/both/e.rs": "fn e() {}",
    "two/crate/LICENSE-MIT": MIT,
    "two/crate/LICENSE-APACHE": "Apache License Version 2.0, January 2004",
    "two/crate/Cargo.toml": '[package]\nlicense = "MIT OR Apache-2.0"',
    "two/lesser/COPYING": "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007",
    "two/lesser/COPYING.LESSER": "GNU LESSER GENERAL PUBLIC LICENSE Version 3, 29 June 2007",
    "two/lesser/f.hs": "f = 1",
    "README.md": "# Two projects",
    "bin.py": b"\0\1",
    "latin.py": b"caf\xe9",
    "empty.py": "",
    "image.png": b"\x89PNG",
    "notes": "without a suffix",
    "fixture.zip": pack(".zip", {"a.py": "x"}),
    ".git/hooks/a.py": "never",
    "one/__pycache__/a.py": "never",
}  # fmt: skip
EXPECTED = {  # place: (licence, language, vendored, generated) or why not
    "one/main.py": ("MIT", "Python", 0, 0),
    "one/src/Makefile": ("MIT", "Makefile", 0, 0),
    "one/src/deep/er/a.rs": ("MIT", "Rust", 1, 1),
    "one/src/deep/b.go": ("GPL-3.0-or-later", "Go", 1, 0),
    "one/vendor/lib/c.c": ("GPL-2.0", "C", 1, 0),
    "one/vendor/plain.js": ("MIT", "JavaScript", 0, 0),
    "one/api_pb2.py": ("MIT", "Python", 0, 0),
    "one/package-lock.json": ("MIT", "JSON", 0, 1),
    "two/package.json": ("ISC", "JSON", 0, 0),
    "two/node_modules/x/index.js": ("ISC", "JavaScript", 1, 0),
    "two/secret/d.ts": ("NOASSERTION", "TypeScript", 0, 0),
    "two/secret/LICENSE.txt": ("NOASSERTION", "Text", 0, 0),
    "two/both/e.rs": ("Apache-2.0 AND MIT", "Rust", 0, 0),
    "two/crate/Cargo.toml": ("MIT OR Apache-2.0", "TOML", 0, 0),
    "two/lesser/f.hs": ("LGPL-3.0", "Haskell", 0, 0),
    "README.md": (None, "Markdown", 0, 0),
    "bin.py": "nul",
    "latin.py": "invalid_utf8",
    "empty.py": "empty_text",
}


def described(one):
    facts = dict(one.facts) if isinstance(one, Record) else {}
    return one.reason if isinstance(one, Reject) else (one.licence, facts["language"], "vendored" in facts, "generated" in facts)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar", ".tar.gz"])
def test_a_tree_says_of_its_files_what_they_are(tmp_path, suffix):
    if suffix:
        (tmp_path / f"x{suffix}").write_bytes(pack(suffix, TREE))
    for place, text in {} if suffix else TREE.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(text if isinstance(text, bytes) else text.encode())
    made = read(tmp_path / f"x{suffix}" if suffix else tmp_path, "tree")
    assert {one.uri.removeprefix(f"x{suffix}/"): described(one) for one in made} == EXPECTED and len(made) == len(EXPECTED)
    some = read(tmp_path / "*" if suffix else tmp_path / "**/*.py", "tree")
    assert outcomes(some) == {one.uri: outcome(one) for one in made if suffix or one.uri.endswith(".py")}


def test_what_a_listing_says_of_files_reaches_the_workers(tmp_path):
    for place, text in TREE.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(text if isinstance(text, bytes) else text.encode())
    origin = source(tmp_path, "tree")
    delivery = deliveries.Delivery("web", "1")
    table = ingest._chunk_table([(delivery, READERS["tree"].list_files(origin, 17))])
    rows = [row for batch in ingest._read_chunks(table.to_batches(), {delivery: origin}) for row in batch.to_pylist()]
    found = {row["uri"]: row["reason"] or (row["licence"], *(dict(row["facts"]).get(fact) for fact in ("language", "vendored"))) for row in rows}
    assert found == {place: one if isinstance(one, str) else (one[0], one[1], "1" if one[2] else None) for place, one in EXPECTED.items()}


def test_a_licence_that_changes_changes_the_hash(tmp_path):
    (tmp_path / "a.py").write_text("a = 1")
    (tmp_path / "LICENSE").write_text(MIT)
    stages = [{"name": "a", "tokens": 2048, "seq_len": 256}]
    made_of = Recipe.model_validate({"home": "unused", "sources": [source(tmp_path, "tree").model_dump()], "stages": stages})
    before = ingest.hashes(made_of, ingest.listing(made_of))
    (tmp_path / "LICENSE").write_text(BSD)
    assert ingest.hashes(made_of, ingest.listing(made_of)) != before


def test_links_in_a_tree_are_read_inside_of_it_only(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "secret.py").write_text("key = 1")
    (tmp_path / "tree" / "a.py").write_text("a = 1")
    (tmp_path / "tree" / "in.py").symlink_to("a.py")
    (tmp_path / "tree" / "out.py").symlink_to("../secret.py")
    (tmp_path / "tree" / "LICENSE").symlink_to("nowhere")
    os.mkfifo(tmp_path / "tree" / "COPYING")  # opening it would wait for ever
    (tmp_path / "tree" / "up").symlink_to(tmp_path, target_is_directory=True)
    made = outcomes(read(tmp_path / "tree", "tree"))
    assert made == {"a.py": "a = 1", "in.py": "a = 1", "out.py": "unreadable", "up": "unreadable"}


def test_trees_without_a_known_name_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "LICENSE").write_text(MIT)
    for path in (tmp_path, tmp_path / "a.png", tmp_path / "*"):
        with pytest.raises(RecipeError, match=r"^sources\.web\.path: expected"):
            read(path, "tree")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.rs", ["a.rs", "x/y/a.rs"], ["a.c"]),
        ("/*.rs", ["a.rs"], ["x/a.rs"]),
        ("docs/*", ["docs/a"], ["docs/x/a", "y/docs/a"]),
        ("docs/**", ["docs/a", "docs/x/a"], ["y/docs/a"]),
        ("**/gen/*.go", ["gen/a.go", "x/gen/a.go"], ["gen/x/a.go"]),
        ("a[0-9].c", ["a1.c", "x/a2.c"], ["aa.c"]),
    ],
)
def test_attributes_match_as_git_matches(pattern, yes, no):
    ((regex, mark, value),) = attributes(f"{pattern} text linguist-generated eol=lf\n")
    assert (mark, value) == ("generated", True)
    assert all(compile_pattern(regex).fullmatch(place) for place in yes) and not any(compile_pattern(regex).fullmatch(place) for place in no)


def test_attributes_of_any_text_are_few_and_fast():
    slow = "".join(f"{'*a' * 90}b{i} linguist-vendored\n" for i in range(40))
    patterns = attributes(slow + "linguist-vendored\n\n#x linguist-vendored\n[z-a] linguist-vendored\n" + "x linguist-vendored\n" * 9000)
    began = time.thread_time()
    assert len(patterns) == 50 and not any(compile_pattern(regex).fullmatch("a" * 3000) for regex, _, _ in patterns)
    assert time.thread_time() - began < 1  # as a backtracking expression it would not end


def test_generated_files_by_name():
    yes = ["a.pb.go", "x/a_pb2.py", "a.min.js", "package-lock.json", "pnpm-lock.yaml", "a.g.dart", "x/moc_a.cpp", "ui_a.h", "A.Designer.cs", "Makefile.in"]
    no = ["a.go", "pb.go", "min.js", "clock.json", "lock.py", "ui_test.py", "moc_a.py", "generated.py", "designer.cs"]
    assert [place for place in yes + no if GENERATED.search(place)] == yes


def test_languages_by_name():
    places = {"a/b.py": "Python", "X.H": "C", "CMakeLists.txt": "CMake", "a.txt": "Text", "a.R": "R", "a.S": "Assembly", "Makefile.in": "Makefile",
              "conf.py.in": "Python", "Dockerfile": "Dockerfile", "a": None, "a.png": None, "py": None, ".py": "Python", "": None, "go.mod": "Go Module"}  # fmt: skip
    assert {place: language_of(place) for place in places} == places
    names = Counter(name for line in NAMES.values() for name in line.split())
    assert len(NAMES) >= 100 and set(names.values()) == {1}


# --- notebooks, and encodings that Python declares


def cell(kind, *lines, **more):
    return {"cell_type": kind, "source": list(lines), "outputs": [{"text": "OUTPUT"}], **more}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"cells": [cell("markdown", "# Title\n", "Words."), cell("code", "x = 1\n", "y = 2"), cell("raw", "raw"), cell("code", " \n")]},
         "# Title\nWords.\n\n```python\nx = 1\ny = 2\n```\n"),
        ({"metadata": {"kernelspec": {"language": "R"}}, "cells": [{"cell_type": "code", "source": "f()\n"}]}, "```r\nf()\n```\n"),
        ({"metadata": {"language_info": {"name": "julia"}}, "cells": [cell("code", "1")]}, "```julia\n1\n```\n"),
        ({"metadata": {"kernelspec": {"language": "`\n"}}, "cells": [cell("code", "s = '````'")]}, "`````python\ns = '````'\n`````\n"),
        ({"worksheets": [{"cells": [cell("heading", "One", level=2)]}, {"cells": [{"cell_type": "code", "input": ["1"]}]}]}, "## One\n\n```python\n1\n```\n"),
        ({"cells": [cell("heading", "One", level="x")], "n": float("nan")}, "# One\n"),
        ({"cells": [cell("markdown", "lone \ud800")]}, "invalid_utf8"),
        ({"cells": []}, "empty_text"),
        ({"cells": [cell("code")]}, "empty_text"),
        ({"cells": {"a": 1}}, "no_text"),
        ({"cells": ["a"]}, "no_text"),
        ({"cells": [{"source": "a"}]}, "no_text"),
        ({"cells": [{"cell_type": "code", "source": 4}]}, "no_text"),
        ({"cells": [{"cell_type": "code"}]}, "no_text"),
        ({"worksheets": [{"cells": 4}]}, "no_text"),
        ({"worksheets": 4, "metadata": 4}, "no_text"),
        ({"nbformat": 4}, "no_text"),
        ([1], "not_an_object"),
    ],
)  # fmt: skip
def test_a_notebook_is_its_text_and_code_or_says_why_not(tmp_path, value, expected):
    (tmp_path / "a.ipynb").write_text(json.dumps(value))
    (made,) = read(tmp_path, "tree", licence="MIT")
    assert outcome(made) == expected and made.uri == "a.ipynb"
    assert isinstance(made, Reject) or (made.licence, made.facts) == ("MIT", (("language", "Jupyter Notebook"),))


def test_damaged_notebooks_are_rejects_and_checkpoints_no_records(tmp_path):
    whole = json.dumps({"cells": [cell("markdown", "# SPDX-License-Identifier: Apache-2.0\n", "text")]}).encode()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.ipynb").write_bytes(whole)
    for name, data in {"a.IPYNB": b"\xef\xbb\xbf" + whole, "b.ipynb": whole[:50], "c.ipynb": b"", "d.ipynb": whole.replace(b"text", b"\xff"), "e.ipynb": b"[" * 99_999}.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("f.ipynb", whole)
    made = read(tmp_path, "tree")
    text = "# SPDX-License-Identifier: Apache-2.0\ntext\n"
    assert outcomes(made) == {"a.IPYNB": text, "b.ipynb": "broken_json", "c.ipynb": "broken_json", "d.ipynb": "invalid_utf8", "e.ipynb": "broken_json"}
    assert made[0].licence == "Apache-2.0" and outcomes(read(tmp_path / "z.zip", "tree")) == {"z.zip/f.ipynb": text}


def test_python_in_a_tree_is_decoded_as_it_declares(tmp_path):
    """As `tokenize.open` does; a cookie in a file of another language is a comment."""
    for name, data in {
        "a.py": b"# -*- coding: latin-1 -*-\ns = '\xe9'\n",
        "b.py": b"#!/bin/python\n# vim: set fileencoding=cp932 :\ns = '\x93\xfa\x96{'\n",
        "c.pyx": b"# coding: koi8-r\ns = '\xc1'\n",
        "d.py": b"\xef\xbb\xbfs = '\xc3\xa9'\n",
        "e.py": b"s = '\xe9'\n",
        "f.py": b"# coding: nonsense\n",
        "g.py": b"# coding: ascii\ns = '\xe9'\n",
        "h.py": b"\xef\xbb\xbf# coding: latin-1\n",
        "i.c": b"// coding: latin-1\nchar *s = \"\xe9\";\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    made = outcomes(read(tmp_path, "tree"))
    for name in "a.py", "b.py", "d.py":
        with tokenize.open(tmp_path / name) as opened:
            assert made[name] == opened.read()
    assert "日本" in made["b.py"] and made["c.pyx"].endswith("'а'\n")
    assert {made[name] for name in ("e.py", "f.py", "g.py", "h.py", "i.c")} == {"invalid_utf8"}
