"""Where nothing is left to work on, a step says so in one sentence, with the reason and its place."""

from __future__ import annotations

import corpus
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from flows.home import Home
from flows.job import Job
from flows.steps.ingest import require_documents
from flows.steps.judge import require_kept
from schemas import tables
from schemas.errors import DataError
from schemas.recipe import Recipe


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """The columns that are asked for, written without Spark."""
    folder = tmp_path_factory.mktemp("nothing")
    job = Job(Recipe.model_validate(corpus.recipe(folder, folder / "home")), Home(folder / "home"), {})
    reject = {"uri": "a.jsonl#1", "reason": "no_text", "detail": "expected field 'text', found 'body'"}
    reasons = [{"reason": reason} for reason in ["too_short", *["long_lines"] * 4]]
    for table, rows in ((tables.REJECTS, [reject] * 3), (tables.VERDICTS, reasons)):
        write_deltalake(job.home.lake.path(table), pa.Table.from_pylist(rows))
    return job


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
