"""What a step read and wrote, as a run event of OpenLineage (spec 2-0-2, openlineage.io/spec): to the server that
OPENLINEAGE_URL names, else as a line of the home's openlineage.jsonl.

The variables are those of OpenLineage's own clients: OPENLINEAGE_URL, OPENLINEAGE_ENDPOINT, OPENLINEAGE_API_KEY.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from flows.home import Home, Receipt
from flows.job import Job
from flows.steps import Step
from schemas.store import is_url

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
PRODUCER = "urn:millrace:flows"
SECONDS = 5.0  # to connect, to send, to be answered
FLOW = "curriculum"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)
log = logging.getLogger(__name__)


def emit(job: Job, step: Step) -> None:
    """Tell what the receipt of a step that has just finished says. Nothing that goes wrong here stops a run: a server
    that does not answer is named once, and its events go to the file."""
    file = job.home.root / "openlineage.jsonl"
    try:
        event = run_event(job.home, job.home.receipt(step.name), _read(job, step), _rows(job, step))
        line = json.dumps(event).encode()
        if not _posted(os.environ.get("OPENLINEAGE_URL"), line, file):
            append_line(file, line)
    except Exception as error:
        _warn("event", f"OpenLineage: no event of {step.name}: {type(error).__name__}: {error}")


def _posted(url: str | None, event: bytes, file: Path) -> bool:
    """Whether a server has the event."""
    try:
        return bool(url) and _post(url, event)
    except Exception as error:  # of the network, of the server, of a URL that is none
        _warn(
            url, f"OpenLineage: {url} took no event ({error or type(error).__name__}); {file} has those that it did not"
        )
        return False


def run_event(home: Home, kept: Receipt, read: list[dict[str, Any]], rows: dict[str, int]) -> dict[str, Any]:
    """The COMPLETE event of a step: `kept` is its receipt, `read` are datasets, `rows` those that it wrote by table."""
    written = [
        dataset(home.lake.place(name), str(version), _statistics(rows.get(name)))
        for name, version in kept.tables.items()
        if version is not None
    ]
    return {
        "eventType": "COMPLETE",
        "eventTime": kept.finished_at,
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {"runId": _id(home, kept.run, kept.step), "facets": _run_facets(home, kept)},
        "job": {"namespace": home.key, "name": f"{FLOW}.{kept.step}", "facets": {}},
        "inputs": read,
        "outputs": written + _folders(home, kept),
    }


def dataset(place: Path | str, version: str, output: dict[str, Any] | None = None) -> dict[str, Any]:
    """A table or folder by OpenLineage's naming: of local files namespace `file`, name the absolute path; of an object
    store's the bucket, and the key."""
    facet = {**_facet("1-0-1", "DatasetVersionDatasetFacet"), "datasetVersion": version}
    namespace, name = "file", os.path.abspath(place)
    if is_url(str(place)):
        scheme, _, rest = str(place).partition("://")
        bucket, _, name = rest.partition("/")
        namespace = f"{scheme}://{bucket}"
    named = {"namespace": namespace, "name": name, "facets": {"version": facet}}
    return named if output is None else named | {"outputFacets": output}


def _folders(home: Home, kept: Receipt) -> list[dict[str, Any]]:
    """The folders of what it left besides tables, a step's apart from another's in the same: their version is the
    step's hash."""
    folders = sorted({home.root / Path(file).parts[0] for file in kept.files})
    return [dataset(folder / kept.step, kept.hash) for folder in folders]


def _read(job: Job, step: Step) -> list[dict[str, Any]]:
    """Tables and folders of the steps that it needs; of the first, the deliveries."""
    receipts = [job.home.receipt(need) for need in step.needs]
    lake = job.home.lake
    return [
        *_sources(job, step),
        *(
            dataset(lake.place(name), str(version))
            for one in receipts
            if one
            for name, version in one.tables.items()
            if version is not None
        ),
        *(folder for one in receipts if one for folder in _folders(job.home, one)),
    ]


def _sources(job: Job, step: Step) -> list[dict[str, Any]]:
    if step.needs:
        return []
    deliveries = [
        (f"{one.name}/{one.snapshot}", one.path) for source in job.recipe.sources for one in source.deliveries
    ]
    return [dataset(Path(path), job.deliveries[name]) for name, path in deliveries if path]


def _rows(job: Job, step: Step) -> dict[str, int]:
    there = [table for table in step.tables if job.home.lake.version(table) is not None]
    return {table.name: job.home.lake.rows_written(table) for table in there}


def _run_facets(home: Home, kept: Receipt) -> dict[str, Any]:
    parent = {"run": {"runId": _id(home, kept.run)}, "job": {"namespace": home.key, "name": FLOW}}
    told = {"run": kept.run, "hash": kept.hash, "inputs": kept.inputs, "seconds": kept.seconds, "counts": kept.counts}
    return {
        "parent": {**_facet("1-0-1", "ParentRunFacet"), **parent},
        "millrace_receipt": {"_producer": PRODUCER, "_schemaURL": "urn:millrace:receipt:1", **told},
    }


def _statistics(rows: int | None) -> dict[str, Any]:
    if rows is None:
        return {}
    return {"outputStatistics": {**_facet("1-0-2", "OutputStatisticsOutputDatasetFacet"), "rowCount": rows}}


def _facet(version: str, name: str) -> dict[str, str]:
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{version}/{name}.json#/$defs/{name}"}


def _id(home: Home, *named: str) -> str:
    """The same for the same run, and step, of a home: an event that comes twice is one."""
    return str(uuid.uuid5(NAMESPACE, "/".join([home.key, *named])))


def _post(url: str, event: bytes) -> bool:
    """Raises an error of httpx for an answer that is none, or none in time."""
    import httpx

    key = os.environ.get("OPENLINEAGE_API_KEY")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    address = f"{url.rstrip('/')}/{os.environ.get('OPENLINEAGE_ENDPOINT', 'api/v1/lineage').lstrip('/')}"
    with httpx.stream("POST", address, content=event, headers=headers, timeout=SECONDS) as answer:
        answer.raise_for_status()
    return True  # what else it says may be long


def append_line(file: Path, line: bytes) -> None:
    """Append a whole line; what a kill left of one is cut off first. Raises OSError, and leaves nothing of it, where
    there is no room."""
    with open(file, "ab+", buffering=0) as lines:
        lines.truncate(whole := _whole(lines))
        if lines.write(line + b"\n") <= len(line):
            lines.truncate(whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def _whole(lines: BinaryIO, block: int = 1 << 16) -> int:
    """Bytes up to the end of the last whole line."""
    end = lines.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - block)
        lines.seek(start)
        if (at := lines.read(end - start).rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0


def _warn(of: str, said: str) -> None:
    """Once a process."""
    if of not in _warned:
        _warned.add(of)
        log.warning(said)


_warned: set[str] = set()
