"""Deployments on a real Prefect server with a pool and a worker: registered twice, run to the end, killed, cancelled, waiting for a
busy home, wrong; started by the clock, by a delivery and from one process; told to a webhook."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conftest
import corpus
import httpx
import psutil
import pytest
import yaml

from flows.home import Home
from schemas import tables

pytestmark = pytest.mark.servers
PATIENCE = 480  # seconds for a run of some steps, beside kills in every step


class Patient(httpx.HTTPTransport):
    """Asks again, as Prefect's own client does, while the server's SQLite is locked by another writer."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        while (response := super().handle_request(request)).status_code == 503:
            response.close()
            time.sleep(0.5)
        return response


@pytest.fixture(scope="module")
def server(prefect_server) -> httpx.Client:
    return httpx.Client(base_url=os.environ["PREFECT_API_URL"], timeout=60, transport=Patient())


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory) -> Iterator[Path]:
    """A worker of the pool, and its log."""
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "millrace"]
    with log.open("w") as file:
        started = subprocess.Popen(command, stdout=file, stderr=file, cwd="/", env=os.environ | {"PREFECT_WORKER_QUERY_SECONDS": "2"})
    yield log
    started.terminate()
    started.wait()


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[dict]]]:
    """A webhook's address, and what it was told."""
    told = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/hook-of-secrets", told
        listening.shutdown()


class Deployed:
    """A finished home of its own, with a recipe that can be changed, deployed."""

    def __init__(self, finished, folder: Path, server: httpx.Client, url: str):
        folder.mkdir()
        shutil.copytree(finished.home.root, folder / "home")
        self.value = yaml.safe_load(finished.file.read_text()) | {"home": "home"}  # relative to where it was deployed
        self.file, self.home, self.server = folder / f"{folder.name}.yaml", Home(folder / "home"), server
        self.save()
        self.said = self.deploy("--notify", url)

    def save(self, **changed: Any) -> None:
        """Write the recipe; another `tiers` is judged again, which takes half a minute with all that follows."""
        corpus.save(self.value | changed, self.file)

    def deploy(self, *options: str) -> str:
        command = [sys.executable, "-m", "flows.cli", "deploy", self.file.name, *options]
        done = subprocess.run(command, cwd=self.file.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def id(self) -> str:
        return self.server.get(f"/deployments/name/curriculum/{self.file.stem}").raise_for_status().json()["id"]

    def run(self) -> str:
        return self.server.post(f"/deployments/{self.id}/create_flow_run", json={}).raise_for_status().json()["id"]

    def state(self, run: str) -> dict:
        return self.server.get(f"/flow_runs/{run}").raise_for_status().json()

    def logs(self, run: str) -> list[str]:
        found = self.server.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return [row["message"] for row in found.raise_for_status().json()]

    def ended(self, run: str, *states: str) -> dict:
        """The run once it is in one of the states."""
        return wait(lambda: (now := self.state(run))["state_name"] in states and now, lambda: (self.state(run)["state"], self.logs(run)))

    def working(self, run: str, step: str) -> int:
        """The process that runs the step."""
        wait(lambda: any(line.startswith(f"{step}: ") for line in self.logs(run)), lambda: self.logs(run))
        return self.holder()

    def holder(self) -> int:
        """The process that the home's lock names, 0 while it names none."""
        return int(re.search(r"\d+", (self.home.root / "lock").read_text() or "0")[0])

    def java(self) -> list[psutil.Process]:
        lines = {one: one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])}
        return [one for one, line in lines.items() if line and "java" in line[0] and str(self.home.root) in " ".join(line)]


def wait(condition: Callable[[], Any], why: Callable[[], Any] = lambda: "") -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if held := condition():
            return held
        time.sleep(0.5)
    raise AssertionError(why())


@pytest.fixture(scope="module")
def deployed(finished_home, server, worker, hook, tmp_path_factory) -> Deployed:
    return Deployed(finished_home, tmp_path_factory.mktemp("deployed") / "nightly", server, hook[0])


def test_what_is_deployed_twice_is_there_once_and_says_no_secret(deployed, hook, server):
    def there() -> tuple:
        one = server.get(f"/deployments/{deployed.id}").json()
        automations = sorted(row["name"] for row in server.post("/automations/filter", json={}).json() if "nightly" in row["name"])
        return one["id"], one["parameters"], one["work_queue_name"], automations

    first = there()
    assert first[1] == {"recipe": str(deployed.file), "folder": str(deployed.file.parent)}
    assert len(first[3]) == 2  # once more after a crash; told to the webhook
    said = deployed.deploy("--notify", hook[0])
    assert there() == first
    assert "secrets" not in said + deployed.said + json.dumps(first)
    assert "curriculum/nightly is deployed" in said
    queue = server.get(f"/work_pools/millrace/queues/{deployed.home.key}").json()
    assert queue["concurrency_limit"] == 1
    deployed.deploy()  # nobody is told any more
    assert len(there()[3]) == 1
    deployed.deploy("--notify", hook[0])


def test_a_run_tells_what_it_does(deployed, hook, server):
    deployed.save(tiers={"high": 0.55, "low": 0.0})
    run = deployed.run()
    end = deployed.ended(run, "Completed", "Failed", "Crashed")
    assert re.fullmatch(r"8 steps: judge, tokenise, mixture, shard, train, evaluate, report, publish\. Kept \d+ of \d+ documents, final loss [\d.]+", end["state"]["message"])
    logs = "\n".join(deployed.logs(run))
    assert re.search(r"^ingest is done, of \S+: [\d,]+ documents, ", logs, re.MULTILINE)
    assert re.search(r"^judge: stale, .*tiers", logs, re.MULTILINE)
    assert re.search(r"^[\d.]+ s   \d+ documents, \d+ kept, \d+ heldout$", logs, re.MULTILINE)
    tasks = {row["name"]: row for row in server.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()}
    edges = {name: {one["id"] for one in row["task_inputs"].get("wait_for", [])} for name, row in tasks.items()}
    assert edges["judge"] == set() and edges["train"] == {tasks["shard"]["id"]}
    assert edges["shard"] == {tasks["mixture"]["id"], tasks["tokenise"]["id"]}
    artifacts = {row["key"]: row for row in server.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()}
    key = deployed.home.key
    assert artifacts[f"{key}-train"]["data"] == 100
    assert artifacts[f"{key}-summary"]["data"].startswith("### What came through")
    (code,) = [row for row in json.loads(artifacts[f"{key}-funnel"]["data"]) if row["source"] == "code"]
    assert code["in"] == sum(n for name, n in code.items() if name not in ("source", "in", "tokens"))
    told = wait(lambda: [one for one in hook[1] if one["title"] == "curriculum/nightly: Completed"])
    assert end["state"]["message"] in told[-1]["message"]
    assert not deployed.java() and {one.name for one in (deployed.home.root / "tmp").iterdir()} <= {"spark.log"}


def test_a_killed_run_goes_on_once_by_itself(deployed, hook):
    deployed.save(tiers={"high": 0.5, "low": 0.0})
    run = deployed.run()
    os.kill(deployed.working(run, "judge"), signal.SIGKILL)
    end = deployed.ended(run, "Completed", "Failed")
    assert end["state_name"] == "Completed" and end["run_count"] == 2
    assert any("judge: missing, stopped half way" in line for line in deployed.logs(run))
    wait(lambda: [one for one in hook[1] if one["title"] == "curriculum/nightly: Crashed"])


def test_a_run_that_crashes_twice_is_given_up(deployed):
    deployed.save(tiers={"high": 0.45, "low": 0.0})
    run = deployed.run()
    os.kill(first := deployed.working(run, "judge"), signal.SIGKILL)
    os.kill(wait(lambda: (holder := deployed.holder()) != first and holder), signal.SIGKILL)
    assert "the run crashed 2 times" in deployed.ended(run, "Failed", "Completed")["state"]["message"]


def test_a_cancelled_run_leaves_nothing_and_the_next_goes_on(deployed, server):
    deployed.save(tiers={"high": 0.4, "low": 0.0})
    run = deployed.run()
    deployed.working(run, "judge")
    server.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    deployed.ended(run, "Cancelled")
    wait(lambda: not deployed.java())
    with deployed.home.held():
        assert {one.name for one in (deployed.home.root / "tmp").iterdir()} <= {"spark.log"}
    assert deployed.ended(deployed.run(), "Completed", "Failed")["state_name"] == "Completed"


def test_a_busy_home_is_waited_for_and_its_holder_named(deployed):
    with deployed.home.held():
        run = deployed.run()
        (line,) = wait(lambda: [line for line in deployed.logs(run) if "is in use by" in line])
        assert f"process {os.getpid()}" in line
        time.sleep(3)
        assert deployed.state(run)["state_name"] == "Running"
    assert deployed.ended(run, "Completed", "Failed")["state"]["message"] == "Nothing to do: every step is done"


def test_a_wrong_recipe_fails_with_its_sentence(deployed, hook):
    deployed.save(tiers="none")
    end = deployed.ended(deployed.run(), "Failed", "Completed")
    deployed.save()
    assert end["state_name"] == "Failed" and "nightly.yaml: tiers: " in end["state"]["message"]
    told = wait(lambda: [one for one in hook[1] if one["title"] == "curriculum/nightly: Failed"])
    assert "nightly.yaml: tiers: " in told[-1]["message"]


def test_the_clock_and_the_file_of_deployments(deployed, server, tmp_path):
    deployed.deploy("--every", "6h")
    due = {"deployments": {"id": {"any_": [deployed.id]}}, "flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}}
    runs = wait(lambda: server.post("/flow_runs/filter", json=due).json())
    times = sorted(run["expected_start_time"] for run in runs)
    assert len(times) > 1 and times[0][:10] >= time.strftime("%Y-%m-%d", time.gmtime())
    deployed.deploy("--cron", "0 3 * * *")
    (schedule,) = server.get(f"/deployments/{deployed.id}").json()["schedules"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"
    deployed.deploy()
    assert server.get(f"/deployments/{deployed.id}").json()["schedules"] == []
    (line,) = re.findall(r"^# +(prefect work-pool create .*) && prefect worker start", (conftest.ROOT / "prefect.yaml").read_text(), re.MULTILINE)
    for _ in range(2):
        command = line.replace("prefect ", f"{sys.executable} -m prefect ")
        done = subprocess.run(command, shell=True, cwd=conftest.ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_delivery_starts_a_run_of_its_home(deployed, server):
    deployed.deploy("--on-delivery")
    runs = {"deployments": {"id": {"any_": [deployed.id]}}, "sort": "EXPECTED_START_TIME_DESC"}
    before = {run["id"] for run in server.post("/flow_runs/filter", json=runs).json()}
    emit = "import sys; from prefect.events import emit_event; emit_event('millrace.delivery', resource={'prefect.resource.id': sys.argv[1]})"
    for key in ("another-home", deployed.home.key):
        subprocess.run([sys.executable, "-c", emit, f"millrace.home.{key}"], check=True)
    started = wait(lambda: [run for run in server.post("/flow_runs/filter", json=runs).json() if run["id"] not in before])
    assert len(started) == 1
    assert deployed.ended(started[0]["id"], "Completed", "Failed")["state_name"] == "Completed"
    deployed.deploy()


def test_from_one_process_without_pool_and_worker(deployed, finished_home, server, hook, tmp_path):
    here = Deployed(finished_home, tmp_path / "here", server, hook[0])
    command = [sys.executable, "-m", "flows.cli", "deploy", here.file.name, "--here"]
    serving = subprocess.Popen(command, cwd=here.file.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        named = "/deployments/name/curriculum/here"  # gone for a moment, when it leaves the pool
        wait(lambda: (one := server.get(named)).status_code == 200 and one.json()["work_pool_name"] is None)
        assert here.ended(here.run(), "Completed", "Failed")["state_name"] == "Completed"
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(60)


def test_what_cannot_be_deployed_is_said(deployed, tmp_path):
    def said(*arguments: str, env: dict | None = None) -> tuple[int, str]:
        done = conftest.flows("deploy", *arguments, env=env)
        return done.returncode, " ".join(done.stderr.split())

    recipe = str(deployed.file)
    assert said(str(tmp_path / "none.yaml"))[0] == 10
    assert said(recipe, "--cron", "whenever") == (11, "--cron: expected five fields such as '0 3 * * *', found 'whenever'")
    assert said(recipe, "--every", "0h") == (11, "--every: expected a number with s, m, h or d, such as 6h, found '0h'")
    assert said(recipe, "--every", "1h", "--cron", "0 3 * * *") == (11, "expected --cron or --every, found both")
    assert said(recipe, "--notify", "who-knows:secret")[1].startswith("--notify: expected an address of Apprise's")
    assert "secret" not in said(recipe, "--notify", "who-knows:secret")[1]
    other = tmp_path / "nightly.yaml"
    shutil.copy(deployed.file, other)
    code, sentence = said(str(other))
    assert code == 10 and str(deployed.file) in sentence and "prefect deployment delete curriculum/nightly" in sentence
    code, sentence = said(recipe, env={"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect")})
    assert code == 11 and "prefect server start" in sentence
    code, sentence = said(recipe, env={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert code == 11 and "found none that answers" in sentence


def test_a_night_in_miniature(server, worker, hook, tmp_path):
    """Three deliveries by event: one cancelled and told again, one that drifts, is held at the gate and accepted by hand."""
    good = corpus.write(tmp_path / "text")["docs"]["records"]
    lines = [line.decode() for line in (tmp_path / "text" / "docs.jsonl").read_bytes().splitlines()[:good]]
    value = corpus.recipe(tmp_path / "text", tmp_path / "home")
    value["sources"][1] |= {"path": str(tmp_path / "text" / "docs-{snapshot}.jsonl"), "snapshots": "delivered"}
    night = Night(corpus.save(value, tmp_path / "night.yaml"), server)
    night.tell("one", lines[::2])
    night.deploy("--on-delivery", "--notify", hook[0])

    first = night.deliver("one", lines[::2])
    assert night.ended(first, "Completed", "Failed", "GateClosed")["state_name"] == "Completed"
    second = night.deliver("two", lines[1::2])
    night.working(second, "ingest")
    server.post(f"/flow_runs/{second}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    night.ended(second, "Cancelled")
    again = night.deliver("two", lines[1::2])
    assert night.ended(again, "Completed", "Failed", "GateClosed")["state_name"] == "Completed"

    shouted = [json.dumps(json.loads(line) | {"text": json.loads(line)["text"].upper() + f" {n}"}) for n, line in enumerate(lines)]
    third = night.deliver("three", shouted)
    closed = night.ended(third, "Completed", "Failed", "GateClosed")
    assert closed["state_name"] == "GateClosed" and closed["state_type"] == "FAILED"
    assert "docs/three differs from two, the last accepted delivery" in closed["state"]["message"]
    told = wait(lambda: [one for one in hook[1] if one["title"] == "curriculum/night: GateClosed"])
    assert "psi:" in told[0]["message"]
    done = conftest.flows("accept", "docs/three", "--why", "they shout now", "-r", str(night.file))
    assert done.returncode == 0, done.stderr
    assert night.ended(night.run(), "Completed", "Failed", "GateClosed")["state_name"] == "Completed"
    rows = night.home.lake.arrow(tables.DELIVERIES).sort_by("at").to_pylist()
    decided = [(row["snapshot"], row["decision"], row["why"]) for row in rows if row["source"] == "docs"]
    assert decided == [("one", "accepted", None), ("two", "accepted", None), ("three", "closed", None), ("three", "accepted by hand", "they shout now")]


class Night(Deployed):
    """A recipe that takes deliveries."""

    def __init__(self, file: Path, server: httpx.Client):
        self.file, self.home, self.server = file, Home(file.parent / "home"), server

    def deliver(self, snapshot: str, lines: list[str]) -> str:
        """The run that a delivery starts."""
        runs = {"deployments": {"id": {"any_": [self.id]}}}
        before = {run["id"] for run in self.server.post("/flow_runs/filter", json=runs).json()}
        self.tell(snapshot, lines)
        fresh = wait(lambda: [run["id"] for run in self.server.post("/flow_runs/filter", json=runs).json() if run["id"] not in before])
        assert len(fresh) == 1
        return fresh[0]

    def tell(self, snapshot: str, lines: list[str]) -> None:
        (self.file.parent / "text" / f"docs-{snapshot}.jsonl").write_text("\n".join(lines) + "\n")
        done = conftest.flows("deliver", f"docs/{snapshot}", "-r", str(self.file))
        assert done.returncode == 0, done.stderr
