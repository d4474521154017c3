"""Files in an object store: sent, fetched and trained from, on a store that fails, lies low or is killed half way."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import conftest
import corpus
import pytest
import yaml

from flows.home import Home
from flows.publish import publish
from model.source import Source, open_folder
from schemas import store as stores
from schemas.errors import DataError
from schemas.files import file_sha256
from schemas.manifest import load_manifest
from schemas.parts import store_url
from schemas.store import Store, is_url

servers = pytest.mark.servers


@pytest.fixture
def bucket(trouble, tmp_path) -> str:
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture
def finished(finished_home, tmp_path) -> Home:
    """A finished home that may be changed."""
    shutil.copytree(finished_home.home.root, tmp_path / "home")
    return Home(tmp_path / "home")


def run_of(home: Home) -> Path:
    (run,) = home.runs.iterdir()
    return run


def send(home: Home, url: str) -> dict[str, float]:
    return publish(home, run_of(home), url, lambda done, total: None)


@pytest.mark.parametrize(
    ("place", "good"),
    [
        ("s3://bucket", True), ("s3://bucket/a/b", True), ("gs://b/x", True), ("abfs://box@account.dfs.core.windows.net/x", True),
        ("/s3://bucket", False), ("s3:/bucket", False), ("s3://", False), ("s3://b/x?endpoint_override=evil", False), ("file:///x", False), ("s3://b/a b", False),
    ],
)  # fmt: skip
def test_what_is_a_url_of_a_store(place, good):
    assert is_url(place) == good


def test_a_url_with_secrets_is_no_place():
    assert store_url("s3://bucket/x/") == "s3://bucket/x"
    for url in ("s3://key:secret@bucket/x", "bucket/x", "s3://bucket/x?scheme=http"):
        with pytest.raises(ValueError, match="expected s3://bucket/folder"):
            store_url(url)


@servers
def test_files_go_and_come_whole(bucket, tmp_path):
    """Larger than a part, empty, in folders, with odd names; oracle: the bytes."""
    store, chance = Store(bucket), random.Random(1)
    for name, n_bytes in (("large", 40 << 20), ("a/empty", 0), ("a/b/it's ü+%20.mds", 100)):
        (tmp_path / "file").write_bytes(chance.randbytes(n_bytes))
        store.put(tmp_path / "file", name)
        store.get(name, tmp_path / "got" / name, file_sha256(tmp_path / "file"))
        assert (tmp_path / "got" / name).read_bytes() == (tmp_path / "file").read_bytes() == store.read(name)
    assert store.sizes() == {"large": 40 << 20, "a/empty": 0, "a/b/it's ü+%20.mds": 100} and store.sizes("none") == {}
    assert Store(f"{bucket}/a").sizes() == {"empty": 0, "b/it's ü+%20.mds": 100}
    store.delete("large")
    store.delete("large")
    assert "large" not in store.sizes()
    with pytest.raises(FileNotFoundError, match=f"{bucket}/large is missing"):
        store.get("large", tmp_path / "no")
    with pytest.raises(DataError, match="expected the file with SHA-256 00, found"):
        store.get("a/empty", tmp_path / "no", "00")
    assert not (tmp_path / "no").exists() and not list(tmp_path.glob(".no*"))


@servers
def test_a_store_that_stumbles_is_asked_again(bucket, trouble, tmp_path):
    store = Store(bucket)
    (tmp_path / "file").write_bytes(random.Random(2).randbytes(3 << 20))
    trouble.next = [503, "drop", 503]
    store.put(tmp_path / "file", "x")
    trouble.next = [503, 503, "cut", "drop"]
    store.get("x", tmp_path / "got", file_sha256(tmp_path / "file"))
    assert trouble.next == [] and {503, "drop", "cut"} <= set(trouble.done)


@servers
def test_a_store_that_is_away_is_named_once(bucket, trouble, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 1.0)
    (tmp_path / "file").write_bytes(b"x")
    Store(bucket).put(tmp_path / "file", "x")
    trouble.away = True
    for ask in (lambda: Store(bucket).sizes(), lambda: Store(bucket).get("x", tmp_path / "got"), lambda: Store(bucket).put(tmp_path / "file", "y")):
        with pytest.raises(OSError, match=rf"{bucket}.*: expected the object store to answer, found"):
            ask()
    assert not (tmp_path / "got").exists() and 1 <= capsys.readouterr().err.count("asking again for 1 s") <= 3  # a slow first try ends it
    trouble.away = False
    assert Store(bucket).sizes() == {"x": 1}


@servers
def test_a_store_that_is_away_for_a_while_is_waited_for(bucket, trouble, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    trouble.away = True
    threading.Timer(5, lambda: setattr(trouble, "away", False)).start()
    Store(bucket).put(tmp_path / "file", "x")
    assert Store(bucket).read("x") == b"x" * 1000 and capsys.readouterr().err.count("asking again") == 1


@pytest.mark.parametrize(
    ("said", "asked", "told"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"), 2, "expected the object store to answer"),
        (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"), 1, "found AWS Error NO_SUCH_BUCKET"),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."), 1, "renew AWS_SESSION_TOKEN"),
        (OSError("403 Forbidden <Code>InvalidAccessKeyId</Code>"), 1, "renew AWS_ACCESS_KEY_ID"),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), 1, "AWS_SECRET_ACCESS_KEY, or their right"),
        (OSError("Code: RequestTimeTooSkewed"), 1, "renew this machine's clock"),
        (FileNotFoundError(2, "Path does not exist 'bucket/x'"), 1, "s3://bucket/x is missing"),
        (ValueError("not an S3 path"), 1, "found not an S3 path"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)  # fmt: skip
def test_what_waiting_may_mend_is_asked_again_and_all_else_is_said_at_once(said, asked, told, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(stores, "PAUSE_SECONDS", 1.0)
    calls = []

    def ask():
        calls.append(1)
        raise said

    with pytest.raises(OSError, match=told) as error:
        stores.ask_again("s3://bucket/x", ask)
    assert len(calls) == asked and error.value.errno == (28 if said.args[0] == 28 else None)


@servers
def test_a_store_that_is_slow_is_slow(bucket, trouble, tmp_path, capsys):
    """No byte for five seconds: where the SDK's own patience ends after three, nothing would ever be listed."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    Store(bucket).put(tmp_path / "file", "x")
    trouble.of, trouble.seconds, trouble.asked[:] = "list-type", 5.0, []
    assert Store(bucket).sizes() == {"x": 1000}
    assert sum("list-type" in one for one in trouble.asked) == 1 and capsys.readouterr().err == ""


@servers
def test_credentials_that_expire_while_a_home_is_published_are_named_and_nothing_half_sent_is_whole(bucket, finished, trouble):
    """After any number of requests."""
    local = json.loads((finished.shards / "manifest.json").read_text())
    for after in (0, 3, 9, 20):
        trouble.next = ["pass"] * after + ["expired"] * 1000
        with pytest.raises(PermissionError, match=rf"^{bucket}.*: expected credentials that the object store takes, found '.*': renew AWS_SESSION_TOKEN"):
            send(finished, bucket)
        trouble.next = []
        assert "shards/manifest.json" not in Store(bucket).sizes()
    assert send(finished, bucket)["files"] > 3 and json.loads(Store(bucket).read("shards/manifest.json")) == local


@servers
@pytest.mark.parametrize("hidden", ["manifest.json", "window-00000", "."])
def test_a_listing_that_leaves_things_out_sends_them_again_and_shows_no_old_manifest(bucket, finished, trouble, hidden):
    """The manifest of before goes away although it is not listed, before a window that it names is changed."""
    send(finished, bucket)
    window = load_manifest(finished.shards / "manifest.json").windows[0]
    file = finished.shards / window.file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    fix(json.loads((finished.shards / "manifest.json").read_text()), finished, window.file)
    trouble.hidden, trouble.of, trouble.next = hidden, rf"^P\w+ .*/{window.file}", ["expired"] * 9
    with pytest.raises(PermissionError):
        send(finished, bucket)
    with pytest.raises(FileNotFoundError):
        Store(bucket).read("shards/manifest.json")
    trouble.next = []
    send(finished, bucket)
    trouble.hidden = None
    assert Store(bucket).read(f"shards/{window.file}") == file.read_bytes()
    assert Store(bucket).read("shards/manifest.json") == (finished.shards / "manifest.json").read_bytes()


@servers
def test_wrong_credentials_are_named_without_the_secret(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(PermissionError, match=rf"{bucket}: expected credentials that the object store takes, .*: renew AWS_SECRET_ACCESS_KEY") as told:
        Store(bucket).sizes()
    assert "another-secret" not in str(told.value)


@servers
def test_what_is_published_is_the_home_and_only_news_is_sent_again(bucket, finished, tmp_path):
    sent, run = send(finished, bucket), run_of(finished)
    local = {
        str(path.relative_to(finished.root)): path.read_bytes()
        for folder in (finished.shards, run, finished.report)
        for path in folder.rglob("*")
        if path.is_file() and "logs" not in path.parts and path.name != "lock"
    }
    assert Store(bucket).sizes().keys() == local.keys()
    assert all(Store(bucket).read(name) == data for name, data in local.items())
    assert sent["bytes"] == sum(map(len, local.values())) and send(finished, bucket) == {"files": 0, "bytes": 0}
    manifest = load_manifest(finished.shards / "manifest.json")
    Store(bucket).delete(manifest.windows[0].file.join(["shards/", ""]))
    assert send(finished, bucket)["files"] == 1
    stray = tmp_path / "stray"
    stray.write_bytes(b"")
    Store(bucket).put(stray, "shards/code.old/128/window-00000.mds")
    Store(bucket).put(stray, "another/file")
    send(finished, bucket)
    assert set(Store(bucket).sizes()) == {*local, "another/file"}


@servers
def test_published_by_hand_it_shows_what_a_step_shows(bucket, finished, finished_home, tmp_path):
    value = yaml.safe_load(finished_home.file.read_text()) | {"home": str(finished.root)}
    done = conftest.flows("publish", bucket, "--recipe", str(corpus.save(value, tmp_path / "recipe.yaml")))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf" 1/1 publish +\.\.\.\n 1/1 publish .* files, .* MB at .*\nSent to {bucket}: `python -m model {bucket}/shards RUN` trains on it\.\n", done.stdout)
    assert Store(bucket).sizes()


@servers
def test_a_reader_never_finds_a_manifest_of_half_a_folder(bucket, finished, trouble, tmp_path):
    """Stopped after any number of requests: no manifest, or every window as it says."""
    send(finished, bucket)
    window = load_manifest(finished.shards / "manifest.json").windows[0]
    original = (finished.shards / window.file).read_bytes()
    stopped = 0
    for after in range(0, 12, 2):
        changed = json.loads((finished.shards / "manifest.json").read_text())
        file = finished.shards / window.file
        file.write_bytes(original[:-1] + bytes([after]))
        fix(changed, finished, window.file)
        trouble.done.clear()
        trouble.next = ["pass"] * after + ["stop"] * 200
        program = (
            "import sys; from pathlib import Path; from flows.home import Home; from flows.publish import publish\n"
            "publish(Home(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], lambda done, total: None)"
        )
        publisher = subprocess.Popen([sys.executable, "-c", program, str(finished.root), str(run_of(finished)), bucket], env=os.environ)
        while "stop" not in trouble.done and publisher.poll() is None:
            pass
        publisher.kill()
        publisher.wait()
        trouble.next = []
        stopped += "stop" in trouble.done
        there = Store(f"{bucket}/shards")
        if "manifest.json" in there.sizes():
            there.get("manifest.json", tmp_path / "manifest.json")
            for one in load_manifest(tmp_path / "manifest.json").windows:
                there.get(one.file, tmp_path / "window", one.sha256)
        send(finished, bucket)
        assert there.read(window.file) == file.read_bytes() and there.read("manifest.json") == (finished.shards / "manifest.json").read_bytes()
    assert stopped >= 3


def fix(manifest: dict, home: Home, file: str) -> None:
    """The manifest with the hash that the window now has."""
    from schemas.files import json_hash, write_json

    for window in [*manifest["heldout"], *(window for folder in manifest["folders"] for window in folder["windows"])]:
        if window["file"] == file:
            window["sha256"] = file_sha256(home.shards / file)
    manifest.pop("hash")
    write_json(home.shards / "manifest.json", {"hash": json_hash(manifest), **manifest})


@servers
def test_a_trainer_reads_its_shards_from_the_bucket(bucket, finished, trouble, tmp_path):
    """With room for two windows, on a store that stumbles: the run is that of the shards' own folder, to the last bit."""
    send(finished, bucket)
    trouble.next = [503, "pass", "cut", "pass", 503, "drop"]
    room = 2 * max(window.bytes for window in load_manifest(finished.shards / "manifest.json").windows) / 1e9
    command = [sys.executable, "-m", "model", f"{bucket}/shards", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--cache-gb", str(room)]
    done = subprocess.run(command, cwd=conftest.ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    for name in ("final/weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (run_of(finished) / name).read_bytes()
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.mds")) <= room * 1e9


@servers
def test_a_window_that_was_changed_in_the_bucket_is_refused_and_one_here_is_fetched_again(bucket, finished, tmp_path):
    send(finished, bucket)
    manifest = load_manifest(finished.shards / "manifest.json")
    source = Source.of(open_folder(f"{bucket}/shards", tmp_path / "cache", 1 << 30))
    one, other = manifest.windows[:2]
    source.bring(one)
    (tmp_path / "cache" / one.file).write_bytes(b"cut")
    source.bring(one)
    assert (tmp_path / "cache" / one.file).read_bytes() == (finished.shards / one.file).read_bytes()
    (tmp_path / "bad").write_bytes(b"other")
    Store(bucket).put(tmp_path / "bad", f"shards/{other.file}")
    with pytest.raises(DataError, match=f"{bucket}/shards/{other.file}: expected the file with SHA-256 {other.sha256}"):
        source.bring(other)


@servers
def test_stock_streaming_reads_what_was_published(bucket, finished, tmp_path, monkeypatch):
    from streaming import StreamingDataset

    send(finished, bucket)
    monkeypatch.setenv("S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
    folder = load_manifest(finished.shards / "manifest.json").folders[0]
    place = f"{folder.stream}/{folder.seq_len}"
    read = StreamingDataset(remote=f"{bucket}/shards/{place}", local=str(tmp_path / "local"), batch_size=1)
    here = StreamingDataset(local=str(finished.shards / place), batch_size=1)
    assert len(read) == len(here) == sum(window.samples for window in folder.windows)
    assert all((read[i]["tokens"] == here[i]["tokens"]).all() for i in range(len(here)))
