"""Where nothing is left to work on, a step says so in one sentence, with the reason and its place."""

from __future__ import annotations

import corpus
import pytest

from flows.home import Home
from flows.job import Job
from flows.steps.ingest import require_documents
from flows.steps.judge import require_kept
from schemas import tables
from schemas.errors import DataError
from schemas.recipe import Recipe


@pytest.fixture(scope="module")
def job(spark, tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("nothing")
    job = Job(Recipe.model_validate(corpus.recipe(folder, folder / "home")), Home(folder / "home"), {})
    reject = ("docs", "1", "a.jsonl#1", "no_text", "expected field 'text', found 'body'", 9)
    job.home.lake.write(spark.createDataFrame([reject] * 3, tables.REJECTS.ddl), tables.REJECTS, {})
    rows = [(f"{i:032x}", *("long_lines" if i else "too_short",)) for i in range(5)]
    verdicts = spark.createDataFrame(rows, "doc_id string, reason string").selectExpr(
        *(name if name in ("doc_id", "reason") else f"cast({blank(kind)} as {kind}) {name}" for name, kind in columns(tables.VERDICTS))
    )
    job.home.lake.write(verdicts, tables.VERDICTS, {})
    return job


def columns(table: tables.Table) -> list[tuple[str, str]]:
    return [(column.name, column.type) for column in table.columns]


def blank(kind: str) -> str:
    return {"string": "'x'", "boolean": "false", "array<string>": "array('long_lines')"}.get(kind, "0")


def test_all_records_rejected_names_the_first(job):
    with pytest.raises(DataError) as error:
        require_documents(job, documents=0, rejects=3)
    assert str(error.value) == (
        "sources: expected documents, found none: every record (3) was rejected, such as a.jsonl#1: no_text, expected field 'text', "
        "found 'body'; the others are in bronze.rejects"
    )
    with pytest.raises(DataError, match="sources: expected records in the files of code, docs, found none"):
        require_documents(job, documents=0, rejects=0)
    require_documents(job, documents=1, rejects=3)


def test_no_document_kept_names_the_rules_and_all_held_out_the_fields(job):
    with pytest.raises(DataError, match=r"rules: expected documents to be kept, found none of 5: long_lines 4, too_short 1 \(first"):
        require_kept(job, documents=5, kept=0, heldout=0)
    with pytest.raises(DataError, match=r"heldout: .* found all 1 that are kept held out; lower heldout\.fraction"):
        require_kept(job, documents=5, kept=1, heldout=1)
    require_kept(job, documents=5, kept=2, heldout=1)
    require_kept(job, documents=5, kept=1, heldout=0)
