"""Two homes on one lake in a bucket: the second is told who has it, and a run that was killed leaves nothing that needs a hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import conftest
import corpus
import pytest

from flows import lease
from flows.home import Home
from flows.lease import Lease
from flows.scratch import HomeBusy
from schemas.store import Store

pytestmark = pytest.mark.servers


@pytest.fixture
def lake(trouble, tmp_path) -> str:
    return f"s3://bucket/{tmp_path.name}/lake"


def home(folder: Path, lake: str) -> Home:
    folder.mkdir(exist_ok=True)
    return Home(folder, lake)


HOLD = """
import sys, time
from pathlib import Path
from flows.home import Home
with Home(Path(sys.argv[1]), sys.argv[2]).held():
    print("held", flush=True)
    time.sleep(300)
"""


def hold(folder: Path, lake: str) -> subprocess.Popen:
    """A process of its own that holds a home and the lake."""
    folder.mkdir(exist_ok=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), lake], cwd=conftest.ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def stored(lake: str) -> dict:
    return json.loads(Store(lake).read("lease.json"))


def test_a_second_home_is_told_who_holds_the_lake(lake, tmp_path):
    with home(tmp_path / "a", lake).held():
        told = stored(lake)
        said = rf"{lake} is in use by process {os.getpid()} on {told['host']}, home {tmp_path / 'a'}, since {told['since']}; wait for it, or stop it"
        with pytest.raises(HomeBusy, match=said), home(tmp_path / "b", lake).held():
            pass
        with home(tmp_path / "b", f"{lake}2").held(), home(tmp_path / "c", None).held():
            pass
    with home(tmp_path / "b", lake).held():
        assert stored(lake)["home"] == str(tmp_path / "b")


def test_one_that_waits_goes_on_when_the_lake_is_free(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    told, leave = [], threading.Event()
    holding = home(tmp_path / "a", lake).held()
    holding.__enter__()

    def wait(busy: str) -> None:
        told.append(busy)
        if len(told) == 2:
            holding.__exit__(None, None, None)
            leave.set()

    with home(tmp_path / "b", lake).held(on_wait=wait):
        assert leave.is_set() and len(told) == 2 and "is in use by" in told[0]


def test_a_killed_run_is_followed_by_its_own_home_at_once_and_by_others_after_a_while(lake, tmp_path, monkeypatch):
    """The clocks of both homes are off by a day, each in another direction."""
    real = time.time
    holder = hold(tmp_path / "a", lake)
    holder.kill()
    holder.wait()
    monkeypatch.setattr(time, "time", lambda: real() - 86400)
    with pytest.raises(HomeBusy, match="a run that was killed frees it after 3 minutes"), home(tmp_path / "b", lake).held():
        pass
    with home(tmp_path / "a", lake).held():
        assert stored(lake)["process"] == os.getpid()
    holder = hold(tmp_path / "a", lake)
    holder.kill()
    holder.wait()
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 3.0)
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    with pytest.raises(HomeBusy), home(tmp_path / "b", lake).held():
        pass
    time.sleep(3)
    with home(tmp_path / "b", lake).held():
        assert stored(lake)["home"] == str(tmp_path / "b")


def test_a_run_that_works_keeps_the_lake_by_renewing_and_a_store_that_is_away_does_not_end_it(lake, trouble, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 8.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    with home(tmp_path / "a", lake).held() as require_lake:
        trouble.away = True
        time.sleep(3)
        trouble.away = False
        until = time.monotonic() + 9
        while time.monotonic() < until:
            assert Lease(lake, tmp_path, 1).take()
            time.sleep(1)
        require_lake()
        assert stored(lake)["renewed"] >= 10
    assert stored(lake)["id"] is None


def test_a_run_that_slept_too_long_learns_who_took_its_lake_and_leaves_it_alone(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.0)
    (tmp_path / "b").mkdir()
    with home(tmp_path / "a", lake).held() as require_lake:
        require_lake()
        assert Lease(lake, tmp_path / "b", 7).take() is None
        time.sleep(1.5)
        with pytest.raises(HomeBusy, match=rf"{lake} was taken over by process 7 on .*, home {tmp_path / 'b'}, since"):
            require_lake()
    assert stored(lake)["process"] == 7 and stored(lake)["id"]


def test_of_many_that_take_an_expired_lease_at_once_one_has_it(lake, tmp_path, monkeypatch):
    holder = hold(tmp_path / "dead", lake)
    holder.kill()
    holder.wait()
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 5.0)
    time.sleep(6)
    homes, results = [tmp_path / str(i) for i in range(4)], {}
    start = threading.Barrier(4)

    def take(folder: Path) -> None:
        folder.mkdir()
        one = Lease(lake, folder, 1)
        start.wait()
        results[folder] = one.take()

    threads = [threading.Thread(target=take, args=[folder]) for folder in homes]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    (winner,) = [folder for folder, busy in results.items() if busy is None]
    assert stored(lake)["home"] == str(winner)


def test_an_answer_that_was_lost_is_not_taken_for_another_home(lake, trouble, tmp_path, monkeypatch):
    """The put was done, the request is sent again and refused: what lies there is ours."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    trouble.of, trouble.next = "^PUT .*lease", ["lose", "pass"] * 3
    with home(tmp_path / "a", lake).held() as require_lake:
        assert stored(lake)["process"] == os.getpid()
        while trouble.next:
            time.sleep(0.1)
        time.sleep(1)
        require_lake()
    assert stored(lake)["id"] is None


def test_a_store_that_refuses_names_what_to_renew(lake, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(PermissionError, match=rf"{lake}/lease.json: expected credentials .* renew AWS_SECRET_ACCESS_KEY") as told:
        with home(tmp_path / "a", lake).held():
            pass
    assert "another-secret" not in str(told.value)


def test_the_command_line_says_who_holds_the_lake_and_what_a_store_refuses(lake, tmp_path):
    corpus.write(tmp_path / "text")
    file = str(corpus.save(corpus.recipe(tmp_path / "text", tmp_path / "b") | {"lake": lake}, tmp_path / "recipe.yaml"))
    with home(tmp_path / "a", lake).held():
        done = conftest.flows("run", "curriculum", "--recipe", file)
    assert (done.returncode, done.stdout) == (12, "") and re.fullmatch(rf"{lake} is in use by process {os.getpid()} on .*\n", done.stderr)
    refused = conftest.flows("run", "curriculum", "--recipe", file, env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert refused.returncode == 1 and re.fullmatch(r".*expected credentials .*: renew AWS_SECRET_ACCESS_KEY\. What is done is safe.*\n", refused.stderr)
