"""`snapshots: delivered`: the list is what was told by `flows deliver`, and then as if it was written in the recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import corpus
import pytest
from typer.testing import CliRunner

from flows.commands import app
from flows.deliver import deliver, delivery_named
from flows.exits import Exit
from flows.home import Home
from flows.preflight import check
from flows.scratch import held
from flows.status import parts, states
from pipelines.deliveries import Delivery
from pipelines.readers.files import HOME_FILES
from schemas import recipe as recipes
from schemas.recipe import RecipeError

NO_SERVER = {"PREFECT_API_URL": "", "PREFECT_PROFILES_PATH": os.devnull + "/none"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three deliveries of web, and the recipe that waits for them; home is relative to the folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in NO_SERVER.items():
        monkeypatch.setenv(name, value)
    for snapshot in ("2026-01", "2026-02", "2026-03"):
        folder = tmp_path / "in" / snapshot
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"{snapshot} {i} " + "word " * 900}) + "\n" for i in range(20)))
    save(tmp_path)
    return tmp_path


def save(folder, snapshots="delivered", **changes):
    source = {"name": "web", "reader": "jsonl", "domain": "docs", "path": "in/{snapshot}/*.jsonl", "snapshots": snapshots} | changes
    stage = {"name": "only", "tokens": 4096, "seq_len": 128}
    return corpus.save({"home": "home", "sources": [source], "stages": [stage], "train": {"batch_tokens": 1024}}, folder / "recipe.yaml")


def tell(*arguments: str):
    return CliRunner().invoke(app, ["deliver", *arguments, "-r", "recipe.yaml"])


def test_told_deliveries_are_a_list_written_out(place):
    for snapshot in ("2026-02", "2026-01"):  # the order is that of the telling
        said = tell(f"web/{snapshot}")
        assert said.exit_code == 0 and f"web/{snapshot}: delivered, 1 files of 0.1 MB; no Prefect server is named" in said.output
    told = check(place / "recipe.yaml")
    steps = [(one.step.name, one.hash) for one in states(told, Home(place / "home"))]
    written = check(save(place, ["2026-02", "2026-01"]))
    assert told == written and parts(told) == parts(written) and told.recipe.hash == written.recipe.hash
    assert steps == [(one.step.name, one.hash) for one in states(written, Home(place / "home"))]
    assert told.recipe.sources[0].snapshots == ("2026-02", "2026-01")


def test_nothing_delivered_yet_says_how(place):
    message = r"recipe.yaml: sources\[0\].snapshots: nothing was delivered to web yet: `flows deliver web/SNAPSHOT -r RECIPE`"
    with pytest.raises(RecipeError, match=message):
        recipes.load(place / "recipe.yaml")
    assert not (place / "home").exists()


def test_a_second_time_adds_nothing_and_says_so(place):
    tell("web/2026-01")
    before = (place / "home/deliveries.json").read_bytes()
    said = tell("web/2026-01")
    assert said.exit_code == 0 and "web/2026-01: delivered before, nothing added, 1 files" in said.output
    assert (place / "home/deliveries.json").read_bytes() == before and json.loads(before) == {"web": ["2026-01"]}


@pytest.mark.parametrize("named", ["web", "web/", "/a", "web/a/b", "web/../x", "Web/a", "web/a b", "web/" + "a" * 41, "web/a\n"])
def test_what_is_no_delivery_is_a_wrong_argument(place, named):
    said = tell(named)
    assert said.exit_code == Exit.USAGE and not (place / "home").exists()
    with pytest.raises(ValueError, match="expected SOURCE/SNAPSHOT"):
        delivery_named(named)


def test_what_cannot_be_a_delivery_leaves_nothing(place):
    absent = tell("web/2026-09")
    assert absent.exit_code == Exit.RECIPE and "sources.web.path" in absent.output and "in/2026-09" in absent.output
    (place / "in/2026-10").mkdir()
    (place / "in/2026-10/a.jsonl").touch()
    empty = tell("web/2026-10")
    assert empty.exit_code == Exit.RECIPE and "1 empty ones" in empty.output
    other = tell("news/2026-01")
    assert other.exit_code == Exit.RECIPE and "says `snapshots: delivered` (here: web), found news" in " ".join(other.output.split())
    save(place, ["2026-01"])
    listed = tell("web/2026-02")
    assert listed.exit_code == Exit.RECIPE and "(here: none), found web" in " ".join(listed.output.split())
    save(place, path="in/*.jsonl")
    fixed = tell("web/2026-02")
    assert fixed.exit_code == Exit.RECIPE and "path must hold {snapshot}" in fixed.output
    assert not (place / "home/deliveries.json").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "EOF"), ('{"web": ["2026-01"', "EOF"), ("[]", "valid dictionary|object"), ('{"web": "2026-01"}', "web: .*valid list|web: .*array"),
        ('{"web": ["../x"]}', r"web\.0: .*pattern"), ('{"web": [1]}', r"web\.0: .*string"), ('{"web": ["a", "b", "a"]}', "web: a stands there twice"),
        ('{"We b": ["a"]}', "pattern"), (b"\xff\xfe", "Invalid JSON|UTF-8|utf-8|expected value"),
    ],
)  # fmt: skip
def test_a_damaged_delivery_file_is_named(place, content, said):
    (place / "home").mkdir()
    file = place / "home/deliveries.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=rf"recipe.yaml: home/deliveries.json: expected .*found .*(?:{said})[\s\S]*Mend it by hand"):
        recipes.load(place / "recipe.yaml")
    held_back = file.read_bytes()
    assert tell("web/2026-01").exit_code == Exit.RECIPE and file.read_bytes() == held_back  # nothing is written over it


def test_an_edited_list_holds_and_a_missing_home_is_the_recipes_own_error(place):
    (place / "home").mkdir()
    (place / "home/deliveries.json").write_text('{"gone": ["x"], "web": ["2026-03", "2026-01"]}')
    assert recipes.load(place / "recipe.yaml").sources[0].snapshots == ("2026-03", "2026-01")
    value = {"sources": [{"name": "web", "reader": "jsonl", "domain": "docs", "path": "{snapshot}", "snapshots": "delivered"}]}
    corpus.save(value | {"home": 7}, place / "recipe.yaml")
    with pytest.raises(RecipeError) as error:
        recipes.load(place / "recipe.yaml")
    assert "home: " in str(error.value) and "snapshots" not in str(error.value)


def test_two_sources_take_their_first_deliveries_one_after_the_other(place):
    sources = [{"name": n, "reader": "jsonl", "domain": "docs", "path": "in/{snapshot}", "snapshots": "delivered"} for n in ("web", "news")]
    stage = {"name": "only", "tokens": 4096, "seq_len": 128}
    corpus.save({"home": "home", "sources": sources, "stages": [stage], "train": {"batch_tokens": 1024}}, place / "recipe.yaml")
    deliver(Delivery("web", "2026-01"), place / "recipe.yaml")
    with pytest.raises(RecipeError, match=r"sources\[1\].snapshots: nothing was delivered to news"):
        recipes.load(place / "recipe.yaml")
    deliver(Delivery("news", "2026-02"), place / "recipe.yaml")
    assert [one.snapshots for one in recipes.load(place / "recipe.yaml").sources] == [("2026-01",), ("2026-02",)]


def test_many_at_the_same_time_lose_nothing_and_a_run_does_not_hold_them_up(place):
    """Processes, as users have: the lock is the kernel's."""
    names = [f"d{i:02}" for i in range(24)]
    for name in names:
        (place / "in" / name).mkdir()
        (place / "in" / name / "a.jsonl").write_text('{"text": "a"}\n')
    many = "import sys\nfrom pathlib import Path\nfrom flows.deliver import deliver, delivery_named\n"
    many += "for name in sys.argv[1:]: deliver(delivery_named(f'web/{name}'), Path('recipe.yaml'))"
    with held(Home(place / "home").root), ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda i: subprocess.run([sys.executable, "-c", many, *names[i::3]], timeout=120).returncode, range(3)))
    assert done == [0, 0, 0]
    listed = json.loads((place / "home/deliveries.json").read_text())["web"]
    assert sorted(listed) == names and [one for one in listed if one in names[::3]] == names[::3]


def test_a_home_among_its_text_is_no_text(place):
    """Readers of .json and .jsonl would take the notes of the home for records, before its first run and after."""
    save(place, path="./{snapshot}/..", reader="jsonl")
    (place / "2026-01").mkdir()
    deliver(Delivery("web", "2026-01"), place / "recipe.yaml")
    first = check(place / "recipe.yaml")
    (place / "home" / HOME_FILES[1]).write_text("{}\n")
    with held(Home(place / "home").root):
        pass
    second = check(place / "recipe.yaml")
    assert first.deliveries == second.deliveries
    assert sorted(file.uri for file in second.files[Delivery("web", "2026-01")]) == [f"in/2026-0{i}/a.jsonl" for i in (1, 2, 3)]
    save(place, path="home/{snapshot}")
    (place / "home/openlineage.jsonl").write_text("{}\n")
    said = CliRunner().invoke(app, ["deliver", "web/openlineage.jsonl", "-r", "recipe.yaml"])
    assert said.exit_code == Exit.RECIPE and "expected text from outside of the home" in said.output


def test_without_a_server_prefect_is_not_imported(place):
    code = "import sys; sys.argv = ['flows', 'deliver', 'web/2026-01', '-r', 'recipe.yaml']\nfrom flows.commands import app\n"
    code += "try: app()\nfinally: print(any(name.split('.')[0] in ('prefect', 'pyspark') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr


def test_a_server_that_does_not_answer_is_named_and_the_delivery_stands(place):
    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(place / "prefect")}
    command = [sys.executable, "-m", "flows.cli", "deliver", "web/2026-01", "-r", "recipe.yaml"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == Exit.FAULT and "expected Prefect's server at http://127.0.0.1:9/api to hear of it" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert json.loads((place / "home/deliveries.json").read_text()) == {"web": ["2026-01"]}


@pytest.mark.servers
def test_a_server_hears_of_it_each_time(prefect_server, place, monkeypatch):
    """The event as a trigger matches it: name, home, payload; a lost one can be told again."""
    import httpx

    monkeypatch.setenv("PREFECT_API_URL", url := SERVER["url"])
    for known in ("delivered, 1 files", "delivered before, nothing added"):
        command = [sys.executable, "-m", "flows.cli", "deliver", "web/2026-01", "-r", "recipe.yaml"]
        done = subprocess.run(command, env={**os.environ, "PREFECT_HOME": str(place / "prefect")}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and known in done.stdout and f"{url} has heard of it" in done.stdout, done.stdout + done.stderr
    key = f"millrace.home.{Home(place / 'home').key}"
    wanted = {"filter": {"event": {"name": ["millrace.delivery"]}, "resource": {"id": [key]}}}  # other tests deliver to their homes
    events, waited = [], threading.Event()
    for _ in range(100):  # the server stores what it heard in its own time
        events = httpx.post(f"{url}/events/filter", json=wanted).json()["events"]
        if len(events) == 2:
            break
        waited.wait(0.3)
    home = {"prefect.resource.id": key, "prefect.resource.name": "home"}
    assert [event["resource"] for event in events] == [home, home]
    assert events[0]["payload"] == {"source": "web", "snapshot": "2026-01", "recipe": str(place / "recipe.yaml")}


SERVER: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _server_url(request):
    """The server's URL, before `place` takes it out of the environment."""
    if "prefect_server" in request.fixturenames:
        request.getfixturevalue("prefect_server")
        SERVER["url"] = os.environ["PREFECT_API_URL"]


def test_a_homes_key_is_fit_for_prefect(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    keys = [Home(tmp_path.__class__(name)).key for name in ("../_My Home_ü.1_", "x" * 60, "---")]
    assert [key[:-8] for key in keys] == ["my-home-1-", "x" * 30 + "-", ""]
    assert keys[0] == Home(tmp_path / "_My Home_ü.1_").key != Home(tmp_path / "a" / "_My Home_ü.1_").key
