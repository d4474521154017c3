"""Shards read from a bucket: fetched ahead of their reader, in a store that is slow, away, refuses or lies, with the same batches."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from model import source
from model.data import Batches
from model.source import Source, open_folder
from schemas import store as stores
from schemas.errors import DataError
from schemas.manifest import Draw, LearningRate, Stage, load_manifest, load_plan
from schemas.store import Store
from tests.mds import write_shards

pytestmark = pytest.mark.servers
SEQ_LEN, SAMPLES, WINDOWS, BATCH = 4096, 32, 6, 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Two streams of six windows of 256 KB, one drawn twice as fast, and the first windows again."""
    root, chance = tmp_path_factory.mktemp("shards"), np.random.default_rng(1)
    folders = {}
    for stream in ("a", "b"):
        rows = chance.integers(0, 500, (WINDOWS, SAMPLES, SEQ_LEN))
        folders[stream, SEQ_LEN] = [[{"tokens": row, "starts": [0], "docs": [1]} for row in window] for window in rows]
    draws = (Draw("a", WINDOWS * SAMPLES, 0), Draw("b", WINDOWS * SAMPLES // 2, 1))
    again = (Draw("a", 2 * SAMPLES, 0), Draw("b", 2 * SAMPLES, 4))
    stages, first = [], 0
    for name, drawn in (("one", draws), ("two", again)):
        stages.append(Stage(name, first * SEQ_LEN, sum(draw.samples for draw in drawn), SEQ_LEN, drawn, LearningRate()))
        first += stages[-1].samples
    write_shards(root, folders, [], tuple(stages), vocab_size=500)
    (root / "settings.json").write_text("{}")
    return root


@pytest.fixture
def url(shards, trouble, tmp_path) -> str:
    place = f"s3://bucket/{tmp_path.name}"
    for file in shards.rglob("*"):
        if file.is_file():
            Store(place).put(file, str(file.relative_to(shards)))
    trouble.done.clear()
    trouble.asked.clear()
    return place


def batches(root: Path) -> Batches:
    return Batches(root, load_manifest(root / "manifest.json"), load_plan(root / "plan.json"), BATCH * SEQ_LEN)


def from_store(url: str, folder: Path, limit: int = 1 << 30) -> Batches:
    return batches(open_folder(url, folder, limit))


def tokens(read) -> list[list]:
    return [batch.tokens_BL.tolist() for batch in read]



def test_windows_are_there_before_they_are_read(shards, url, trouble, tmp_path):
    """A reader that works longer on a window than it takes to fetch one hardly waits; without the thread it waits for each of them."""
    here = batches(shards)
    expected, waited = tokens(map(here.batch, range(here.steps))), {}
    trouble.seconds = 0.1  # of a request, of which a window takes two
    for name, read in (("when read", lambda one: map(one.batch, range(one.steps))), ("ahead", lambda one: one.ahead(0, depth=0))):
        steps, seconds, got = read(from_store(url, tmp_path / name)), [], []
        while True:
            began = time.perf_counter()
            batch = next(steps, None)
            seconds.append(time.perf_counter() - began)
            if batch is None:
                break
            got.append(batch.tokens_BL.tolist())
            time.sleep(0.1)
        waited[name] = sum(seconds[1:])
        assert got == expected
        gets = [one for one in trouble.asked if one.startswith("GET") and ".mds" in one]
        assert len(gets) == len(set(gets)), "each is fetched once"
        trouble.asked.clear()
    print(f"waited {waited['when read']:.2f} s when windows were fetched as they were read, {waited['ahead']:.2f} s ahead")
    assert waited["ahead"] < waited["when read"] / 3


def held(folder) -> int:
    """Bytes of its windows, one of which may go meanwhile."""
    total = 0
    for file in folder.rglob("*.mds"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def test_no_more_is_fetched_than_fits_and_than_is_needed_soon(shards, url, trouble, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "AHEAD", 2)
    read = from_store(url, tmp_path / "cache").ahead(0)
    next(read)
    time.sleep(2)
    soon = sum(need.first == 0 for need in batches(shards).needs(0))
    assert len(list((tmp_path / "cache").rglob("*.mds"))) == soon + 2 < 2 * WINDOWS
    read.close()
    here, size = batches(shards), max(window.bytes for window in load_manifest(shards / "manifest.json").windows)
    expected, got, most = tokens(map(here.batch, range(here.steps))), [], 0
    for batch in from_store(url, tmp_path / "small", 3 * size).ahead(0):
        got.append(batch.tokens_BL.tolist())
        most = max(most, held(tmp_path / "small"))
    assert got == expected and most <= 3 * size


def test_a_run_that_goes_on_fetches_what_it_lacks(shards, url, trouble, tmp_path):
    here = batches(shards)
    first = from_store(url, tmp_path / "cache").ahead(0)
    tokens(next(first) for _ in range(10))
    first.close()
    trouble.asked.clear()
    there = set((tmp_path / "cache").rglob("*.mds"))
    assert tokens(from_store(url, tmp_path / "cache").ahead(10, depth=2)) == tokens(map(here.batch, range(10, here.steps)))
    again = {file.name for file in there} & {one.split("?")[0].rpartition("/")[2] for one in trouble.asked if one.startswith("GET")}
    assert there and len(again) <= 2, "names of the other stream's windows are the same"


def test_a_store_that_is_away_for_a_while_is_told_once_and_waited_for(shards, url, trouble, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(source, "AHEAD", 1)
    here, read = batches(shards), from_store(url, tmp_path / "cache").ahead(0)
    got = tokens(next(read) for _ in range(3))
    trouble.away = True
    threading.Timer(8, lambda: setattr(trouble, "away", False)).start()
    assert got + tokens(read) == tokens(map(here.batch, range(here.steps)))
    said = capsys.readouterr().err.splitlines()
    assert 1 <= len(said) <= 2 and all(url in line and "expected the object store to answer" in line and "asking again for 120 s" in line for line in said)


def test_one_that_stays_away_ends_the_run_with_one_sentence_and_a_stop_is_heeded_at_once(url, trouble, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 2.0)
    trouble.of, trouble.away = r"\.mds", True
    with pytest.raises(OSError, match=rf"^{url}/\w/4096/window-0000\d.mds: expected the object store to answer, found"):
        next(from_store(url, tmp_path / "cache").ahead(0))
    assert not list((tmp_path / "cache").rglob("*.mds*"))
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 300.0)
    trouble.away = False
    monkeypatch.setattr(source, "AHEAD", 1)
    read = from_store(url, tmp_path / "cache").ahead(0, depth=30)
    next(read)
    trouble.away = True
    time.sleep(1)
    began = time.monotonic()
    read.close()
    assert time.monotonic() - began < 15


def test_credentials_that_expire_are_named_and_the_run_goes_on_with_new_ones(shards, url, trouble, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "AHEAD", 1)
    here, read = batches(shards), from_store(url, tmp_path / "cache").ahead(0)
    got = tokens(next(read) for _ in range(3))
    trouble.next = ["expired"] * 1000
    with pytest.raises(PermissionError, match=rf"^{url}/.*: expected credentials that the object store takes, .*: renew AWS_SESSION_TOKEN, AWS_ACCESS_KEY_ID"):
        for batch in read:
            got.append(batch.tokens_BL.tolist())
    whole = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*.mds")}
    assert 0 < len(got) < here.steps and all(data == (shards / file.relative_to(tmp_path / "cache")).read_bytes() for file, data in whole.items())
    trouble.next = []
    assert got + tokens(from_store(url, tmp_path / "cache").ahead(len(got))) == tokens(map(here.batch, range(here.steps)))


def test_what_the_thread_finds_changed_is_said_as_the_reader_says_it(shards, url, trouble, tmp_path):
    (tmp_path / "bad").write_bytes(b"other")
    Store(url).put(tmp_path / "bad", "a/4096/window-00003.mds")
    (bad,) = (window for window in load_manifest(shards / "manifest.json").windows if window.file == "a/4096/window-00003.mds")
    with pytest.raises(DataError) as alone:
        Source.of(open_folder(url, tmp_path / "alone", 1 << 30)).bring(bad)
    here, got = batches(shards), []
    with pytest.raises(DataError) as ahead:
        for batch in from_store(url, tmp_path / "ahead").ahead(0):
            got.append(batch.tokens_BL.tolist())
    assert str(ahead.value) == str(alone.value) and f"{bad.file}: expected the file with SHA-256 {bad.sha256}" in str(ahead.value)
    assert got == tokens(map(here.batch, range(len(got)))) and 5 < len(got) < here.steps, "all batches before it were read"
