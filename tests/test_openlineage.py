"""A step's receipt as a run event of OpenLineage: by the spec, to a server, to the file where there is none that answers."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import corpus
import jsonschema
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from flows import openlineage
from flows.home import Home, Receipt
from flows.job import Job
from flows.steps import STEPS
from schemas import recipe as recipes

# By hand from the text of spec 2-0-2 and of the facets' own schemas: what is required there, and of which type.
URI = {"type": "string", "pattern": r"^[a-z]+:\S+$"}
RUN = {"type": "object", "required": ["runId"], "properties": {"runId": {"type": "string", "format": "uuid"}}}
NAMED = {"type": "object", "required": ["namespace", "name"], "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}}}


def facets(**known) -> dict:
    """A map of facets: each names its producer and its schema."""
    base = {"type": "object", "required": ["_producer", "_schemaURL"], "properties": {"_producer": URI, "_schemaURL": URI}}
    return {"type": "object", "properties": {name: {"allOf": [base, more]} for name, more in known.items()}, "additionalProperties": base}


VERSION = {"required": ["datasetVersion"], "properties": {"datasetVersion": {"type": "string"}}}
STATISTICS = {"properties": {"rowCount": {"type": "integer"}, "size": {"type": "integer"}, "fileCount": {"type": "integer"}}}
DATASET = {**NAMED, "properties": {**NAMED["properties"], "facets": facets(version=VERSION), "outputFacets": facets(outputStatistics=STATISTICS)}}
EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        "producer": URI,
        "schemaURL": URI,
        "run": {**RUN, "properties": {**RUN["properties"], "facets": facets(parent={"required": ["run", "job"], "properties": {"run": RUN, "job": NAMED}})}},
        "job": {**NAMED, "properties": {**NAMED["properties"], "facets": facets()}},
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
}
STEP = {step.name: step for step in STEPS}


def by_spec(event: dict) -> dict:
    jsonschema.validate(event, EVENT)
    uuid.UUID(event["run"]["runId"])
    return event


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A home in which ingest has written two tables, learn a file, measure a table."""
    for name in ("URL", "ENDPOINT", "API_KEY"):
        monkeypatch.delenv(f"OPENLINEAGE_{name}", raising=False)
    openlineage._warned.clear()
    recipe = recipes.load(corpus.save(corpus.recipe(tmp_path / "text", tmp_path / "home"), tmp_path / "recipe.yaml"))
    home = Home(tmp_path / "home")
    for table, rows in (("bronze.documents", 7), ("bronze.rejects", 2), ("silver.signals", 5)):
        write_deltalake(home.lake.root.joinpath(*table.split(".")), pa.table({"a": range(rows)}))
    keep(home, "ingest", {"bronze.documents": 0, "bronze.rejects": 0}, {}, documents=7)
    keep(home, "learn", {}, {"models/quality.json": 9, "models/quality-code.bin": 8})
    keep(home, "measure", {"silver.signals": 0, "silver.gone": None}, {"models/audit.json": 3}, documents=5, bytes=1234)
    made = Job(recipe, home, {})
    made.deliveries = {"code/1": "c" * 32, "docs/1": "d" * 32}
    return made


def keep(home: Home, step: str, tables: dict, files: dict, **counts: float) -> None:
    home.keep(Receipt(step, step * 2, None, {}, tables, files, counts, "20261130-050000-abcdef", 1.5, "2026-11-30T05:00:02+00:00"))


def lines(job: Job) -> list[dict]:
    return [by_spec(json.loads(line)) for line in (job.home.root / "openlineage.jsonl").read_text().splitlines()]


def test_an_event_says_what_was_read_and_written(job, tmp_path):
    openlineage.emit(job, STEP["ingest"])
    openlineage.emit(job, STEP["measure"])
    first, second = lines(job)
    lake = tmp_path / "home/lake"
    versions = lambda kind, event: {one["name"]: one["facets"]["version"]["datasetVersion"] for one in event[kind]}  # noqa: E731
    assert versions("inputs", first) == {str(tmp_path / "text/code.jsonl"): "c" * 32, str(tmp_path / "text/docs.jsonl"): "d" * 32}
    assert versions("outputs", first) == {str(lake / "bronze/documents"): "0", str(lake / "bronze/rejects"): "0"}
    assert versions("inputs", second) == versions("outputs", first) | {str(tmp_path / "home/models/learn"): "learnlearn"}
    assert versions("outputs", second) == {str(lake / "silver/signals"): "0", str(tmp_path / "home/models/measure"): "measuremeasure"}
    rows = {one["name"].rpartition("/")[2]: one["outputFacets"]["outputStatistics"]["rowCount"] for one in first["outputs"] + second["outputs"][:1]}
    assert rows == {"documents": 7, "rejects": 2, "signals": 5}
    assert second["run"]["facets"]["millrace_receipt"]["counts"] == {"documents": 5, "bytes": 1234}
    assert (second["eventType"], second["eventTime"], second["job"]["name"]) == ("COMPLETE", "2026-11-30T05:00:02+00:00", "curriculum.measure")


def test_ids_hold_a_run_together_and_keep_homes_apart(job, tmp_path):
    event = lambda home, step: openlineage.run_event(home, job.home.receipt(step), [], {})["run"]  # noqa: E731
    first, again, other = event(job.home, "ingest"), event(job.home, "ingest"), event(job.home, "measure")
    elsewhere = event(Home(tmp_path / "other" / "home"), "ingest")
    assert first == again and len({first["runId"], other["runId"], elsewhere["runId"]}) == 3
    parents = [one["facets"]["parent"]["run"]["runId"] for one in (first, other, elsewhere)]
    assert parents[0] == parents[1] != parents[2] and parents[0] not in (first["runId"], other["runId"])


@contextmanager
def server(answer: int = 201, seconds: float = 0.0):
    """A real one, that keeps what it is told."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, self.headers, json.loads(body)))
            time.sleep(seconds)
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_):
            pass

    one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.daemon_threads = True
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}", heard
    one.shutdown()
    one.server_close()


def test_a_server_hears_each_event_and_the_file_none(job, monkeypatch):
    with server() as (url, heard):
        monkeypatch.setenv("OPENLINEAGE_URL", url + "/")
        openlineage.emit(job, STEP["ingest"])
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
        monkeypatch.setenv("OPENLINEAGE_ENDPOINT", "/elsewhere")
        openlineage.emit(job, STEP["measure"])
    (path, headers, event), (other_path, with_key, _) = heard
    assert (path, other_path) == ("/api/v1/lineage", "/elsewhere") and headers["Content-Type"] == "application/json"
    assert by_spec(event)["job"]["name"] == "curriculum.ingest"
    assert headers["Authorization"] is None and with_key["Authorization"] == "Bearer secret"
    assert not (job.home.root / "openlineage.jsonl").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nobody.invalid", "no url", "refuses", "slow"])
def test_a_server_that_takes_none_is_named_once_and_the_file_has_them(job, monkeypatch, caplog, url):
    monkeypatch.setattr(openlineage, "SECONDS", 0.5)
    answer, seconds = {"refuses": (503, 0.0), "slow": (201, 20.0)}.get(url, (201, 0.0))
    with server(answer, seconds) as (there, _), caplog.at_level(logging.WARNING):
        monkeypatch.setenv("OPENLINEAGE_URL", there if url in ("refuses", "slow") else url)
        started = time.monotonic()
        openlineage.emit(job, STEP["ingest"])
        openlineage.emit(job, STEP["measure"])
        assert time.monotonic() - started < 8
    (said,) = caplog.messages
    assert "took no event" in said and str(job.home.root / "openlineage.jsonl") in said
    assert [one["job"]["name"] for one in lines(job)] == ["curriculum.ingest", "curriculum.measure"]


@pytest.mark.parametrize("left", [b"", b"{}\n", b'{}\n{"half', b'{"half', b"{}\n" + b"x" * 200_000])
def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path, left):
    file = tmp_path / "a.jsonl"
    file.write_bytes(left)
    openlineage.append_line(file, b'{"a": 1}')
    whole = b"".join(line for line in left.splitlines(keepends=True) if line.endswith(b"\n"))
    assert file.read_bytes() == whole + b'{"a": 1}\n'


def test_nothing_that_goes_wrong_stops_a_run(job, caplog):
    with caplog.at_level(logging.WARNING):
        (job.home.root / "openlineage.jsonl").mkdir()
        openlineage.emit(job, STEP["ingest"])
        openlineage.emit(job, STEP["judge"])  # has no receipt
    (said,) = caplog.messages
    assert said.startswith("OpenLineage: no event of ingest: IsADirectoryError")


def test_each_step_that_the_flow_works_is_told(job, monkeypatch):
    from dataclasses import replace

    from flows import curriculum
    from flows.progress import Display

    step = replace(STEP["decontaminate"], run=lambda job: {"documents": 3.0}, tables=(), files=lambda job: [])
    job.hashes = dict.fromkeys(STEP, "h")
    job.run = "run-1"
    curriculum.work(step, job, None, Display())
    (event,) = lines(job)
    assert event["job"]["name"] == "curriculum.decontaminate" and event["run"]["facets"]["millrace_receipt"]["counts"] == {"documents": 3}
