"""The whole job on a small corpus: text in, a trained mixture of experts out, and everything accounted for."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import conftest
import corpus
import duckdb
import numpy as np
import pyarrow.compute as pc
import pytest
import yaml
from deltalake import DeltaTable
from rich.console import Console

import flows
from flows import tracking
from flows.curriculum import work
from flows.exits import Exit
from flows.home import DiskFull, Home
from flows.job import Job
from flows.preflight import preflight
from flows.progress import Display
from flows.status import plain, states
from pipelines.shards.tokens import encoding
from schemas import recipe as recipes
from schemas import tables
from schemas.manifest import load_manifest, load_plan


def by_state(finished, **changes) -> dict[str, str]:
    """States of all steps under a changed recipe."""
    recipe = recipes.Recipe.model_validate(finished.recipe.model_dump() | changes)
    return {state.step.name: state.state for state in states(preflight(recipe), finished.home)}


def test_every_record_is_kept_dropped_or_rejected(finished_home):
    lake = finished_home.home.lake
    verdicts = lake.arrow(tables.VERDICTS, ["doc_id", "source", "keep", "reason"]).to_pylist()
    rejects = Counter(row["source"] for row in lake.arrow(tables.REJECTS).to_pylist())
    for source, planted in finished_home.planted.items():
        mine = [row for row in verdicts if row["source"] == source]
        assert len(mine) == planted["records"] and rejects[source] == planted["bad"]
        assert 0 < sum(row["keep"] for row in mine) < len(mine)
    reasons = {row["reason"] for row in verdicts}
    assert {"exact_duplicate", "near_duplicate", "long_lines"} <= reasons
    assert len({row["doc_id"] for row in verdicts}) == len(verdicts) == lake.arrow(tables.DOCUMENTS, ["doc_id"]).num_rows


def test_kept_documents_stand_in_the_shards_token_for_token(finished_home):
    """Oracle: tiktoken on the documents' text, put together again from spans."""
    home, recipe = finished_home.home, finished_home.recipe
    manifest = load_manifest(home.shards / "manifest.json")
    from model.shards import Shards  # noqa: F401 - the trainer's reader is what must understand them
    words = encoding((home.shards / manifest.tokenizer["file"]).read_bytes(), recipe.tokenizer.name)
    text = {row["doc_id"]: row["text"] for row in home.lake.arrow(tables.DOCUMENTS, ["doc_id", "text"]).to_pylist()}
    tokens = home.lake.arrow(tables.TOKENS).to_pylist()
    dtype = np.uint16 if manifest.tokenizer["vocab_size"] <= 1 << 16 else np.uint32
    for row in tokens:
        assert np.frombuffer(row["tokens"], dtype).tolist() == words.encode_ordinary(text[row["doc_id"]])
    heldout = {row["doc_id"] for row in tokens if row["stream"] == "heldout"}
    spans = home.lake.arrow(tables.SPANS).to_pylist()
    assert heldout and not heldout & {row["doc_id"] for row in spans}


def test_a_document_with_an_evaluation_item_is_dropped_recorded_and_traced(finished_home):
    lake = finished_home.home.lake
    (row,) = lake.arrow(tables.CONTAMINATION).to_pylist()
    (verdict,) = lake.arrow(tables.VERDICTS, where=pc.field("doc_id") == row["doc_id"]).to_pylist()
    assert "contaminated" in verdict["reasons"] and row["cover"] == 1.0
    (file,) = finished_home.home.report.glob("decontamination-*.json")
    told = json.loads(file.read_text())
    assert told["files"][0]["contaminated"]["items"] == 1 and told["matches"][0]["doc_id"] == row["doc_id"]
    traced = " ".join(conftest.flows("trace", row["doc_id"], "--recipe", str(finished_home.file)).stdout.split())  # lines are wrapped
    assert "evaluation items" in traced and "100% covered" in traced and "contaminated" in traced


def test_another_evaluation_leaves_the_clusters_and_another_threshold_the_matches(finished_home):
    spec = finished_home.recipe.decontaminate.model_dump()
    steps = by_state(finished_home, decontaminate=spec | {"threshold": 0.3})
    assert {name for name, state in steps.items() if state == "done"} == {"ingest", "learn", "measure", "dedup", "edits", "gate", "decontaminate"}
    steps = by_state(finished_home, decontaminate=spec | {"files": []})
    assert {name for name, state in steps.items() if state == "done"} == {"ingest", "learn", "measure", "dedup"}


def test_stock_streaming_reads_every_stream(finished_home):
    """In a process of its own: importing it takes 8 s and leaves shared memory behind."""
    shards = finished_home.home.shards
    manifest = load_manifest(shards / "manifest.json")
    folders = {f"{f.stream}/{f.seq_len}": sum(w.samples for w in f.windows) for f in manifest.folders}
    folders["heldout"] = sum(window.samples for window in manifest.heldout)
    code = (
        "import json, sys\nfrom streaming import StreamingDataset\n"
        "print(json.dumps({f: len([s['tokens'].sum() for s in StreamingDataset(local=sys.argv[1] + '/' + f, batch_size=1)])"
        " for f in sys.argv[2:]}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(shards), *folders], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == folders


def test_duckdb_and_delta_rs_agree_on_the_tables(finished_home):
    lake = finished_home.home.lake
    arrow = lake.arrow(tables.VERDICTS)
    kept = duckdb.sql("select source, count(*) from arrow where keep group by 1 order by 1").fetchall()
    expected = sorted(Counter(row["source"] for row in arrow.to_pylist() if row["keep"]).items())
    assert kept == expected


def test_the_ledger_names_what_every_step_read(finished_home):
    home = finished_home.home
    ledger, plan = home.lake.arrow(tables.LEDGER).to_pylist(), load_plan(home.shards / "plan.json")
    steps = sum(stage.samples * stage.seq_len for stage in plan.stages) // finished_home.recipe.train.batch_tokens
    assert {row["step"] for row in ledger} == set(range(steps))
    known = {row["doc_key"] for row in home.lake.arrow(tables.TOKENS, ["doc_key"]).to_pylist()}
    assert {row["doc_key"] for row in ledger} <= known
    assert all(0 < row["tokens"] <= finished_home.recipe.train.batch_tokens and row["loss"] > 0 for row in ledger)


def test_mlflow_and_the_lake_tell_what_the_trainer_did(finished_home):
    from mlflow import MlflowClient

    home, (run,) = finished_home.home, list(finished_home.home.runs.iterdir())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = home.lake.arrow(tables.METRICS).sort_by("step").to_pylist()
    assert [{name: row[name] for name in line} for row, line in zip(rows, lines, strict=True)] == lines
    client = MlflowClient(tracking.store(home))
    (told,) = client.search_runs([client.get_experiment_by_name(home.key).experiment_id])
    assert told.info.status == "FINISHED" and told.info.run_name == run.name
    assert [one.value for one in client.get_metric_history(told.info.run_id, "loss")] == [line["loss"] for line in lines]
    assert told.data.tags["millrace.table.silver.tokens"] == str(home.receipt("tokenise").tables["silver.tokens"])
    (version,) = client.search_model_versions(f"name = '{home.key}'")
    assert version.source == (run / "final").as_uri()


def test_a_steps_documents_are_named_with_what_they_cost(finished_home):
    home = finished_home.home
    said = conftest.flows("trace", "step:3", "--recipe", str(finished_home.file)).stdout
    rows = [row for row in home.lake.arrow(tables.LEDGER).to_pylist() if row["step"] == 3]
    ids = {row["doc_key"]: row["doc_id"] for row in home.lake.arrow(tables.TOKENS, ["doc_key", "doc_id"]).to_pylist()}
    for row in rows:
        assert re.search(rf"{ids[row['doc_key']][:12]} .* {row['loss'] / row['tokens']:.3f}", said)
    assert f"{len(rows)} documents, {sum(row['tokens'] for row in rows):,} tokens predicted" in said
    missing = conftest.flows("trace", "step:32", "--recipe", str(finished_home.file))
    assert missing.returncode != 0 and "expected step 32 of run " in missing.stderr and "found 32 steps from 0 on" in missing.stderr


def test_training_lowers_the_loss_and_the_references_are_there(finished_home):
    run = next(finished_home.home.runs.iterdir())
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation["domains"]) <= {"code", "docs"} and len(evaluation["generations"]) == 2
    for figures in evaluation["domains"].values():
        assert set(figures["stages"]) == {"before training", "broad", "longer", "anneal"}
        assert figures["stages"]["anneal"] < figures["stages"]["before training"] - 0.5
        assert 1 < figures["gzip"] < 8 and 1 < figures["unigram"] < 8


def test_gzip_and_unigram_references_are_those_of_a_plain_loop(finished_home):
    import gzip
    import math

    home = finished_home.home
    evaluation = json.loads((next(home.runs.iterdir()) / "evaluation.json").read_text())
    text = {row["doc_id"]: row["text"].encode() for row in home.lake.arrow(tables.DOCUMENTS, ["doc_id", "text"]).to_pylist()}
    rows = home.lake.arrow(tables.TOKENS, where=pc.field("stream") == "heldout").to_pylist()
    for domain, figures in evaluation["domains"].items():
        mine = [row for row in rows if row["domain"] == domain]
        size = sum(len(text[row["doc_id"]]) for row in mine)
        packed = sum(len(gzip.compress(text[row["doc_id"]], 9)) for row in mine)
        counts = Counter(token for row in mine for token in np.frombuffer(row["tokens"], np.uint16).tolist())
        bits = -sum(n * math.log2(n / counts.total()) for n in counts.values())
        assert figures["gzip"] == pytest.approx(8 * packed / size) and figures["unigram"] == pytest.approx(bits / size)


def test_a_second_run_has_nothing_to_do(finished_home):
    again = conftest.flows("run", "curriculum", "--recipe", str(finished_home.file), timeout=30)
    assert again.returncode == 0 and "Nothing to do" in again.stdout
    assert set(by_state(finished_home).values()) == {"done"}


def test_a_changed_threshold_leaves_the_measurements(finished_home):
    steps = by_state(finished_home, rules={"docs": {"too_few_words": 5}})
    assert {name for name, state in steps.items() if state == "done"} == {"ingest", "learn", "measure", "dedup", "edits", "gate", "decontaminate"}


def test_a_changed_share_leaves_the_tokens(finished_home):
    stages = [stage.model_dump() for stage in finished_home.recipe.stages]
    stages[0]["mixture"]["weights"] = {"code": 0.5, "docs": 0.5}
    steps = by_state(finished_home, stages=stages)
    assert {name for name, state in steps.items() if state == "done"} == {"ingest", "learn", "measure", "dedup", "edits", "gate", "decontaminate", "judge", "tokenise"}


def test_status_says_why(finished_home, tmp_path):
    value = yaml.safe_load(finished_home.file.read_text())
    value["train"]["peak_lr"] = 0.001
    done = conftest.flows("status", "--recipe", str(corpus.save(value, tmp_path / "r.yaml")), env={"COLUMNS": "200"})
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert re.search(r"stale .*train\.peak_lr changed", lines["train"]) and re.search(r"stale .*input train changed", lines["evaluate"])
    assert " done " in lines["shard"]


def test_status_names_every_cause(finished_home, tmp_path):
    """Receipts alone: of another recipe, of other inputs, of another version of the step, torn."""
    home = dataclasses.replace(finished_home.home, root=tmp_path)
    of = {step: finished_home.home.receipt(step) for step in flows.STEPS}
    home.keep(dataclasses.replace(of["report"], part=of["report"].part | {"seed": 1, "max_epochs": 2.0}, hash="0"))
    home.keep(dataclasses.replace(of["evaluate"], part="as homes of older versions have it", inputs=of["evaluate"].inputs | {"train": "0"}, hash="0"))
    home.keep(dataclasses.replace(of["judge"], hash="0"))
    home.receipt_file("measure").write_text("{")
    why = {state.step.name: state.why for state in states(preflight(finished_home.recipe), home)}
    another = "made by another version of the step"
    assert why["report"] == f"max_epochs, seed changed; {another}"
    assert why["evaluate"] == f"recipe changed; input train changed; {another}" and why["judge"] == another
    assert why["measure"] == f"{home.receipt_file('measure')} cannot be read" and why["train"] == "never finished"


def test_scratch_stays_in_the_home_and_goes_with_the_run(finished_home):
    """A file that is made and removed changes its folder's time."""
    assert finished_home.elsewhere.stat().st_mtime_ns == finished_home.elsewhere_at
    assert [entry.name for entry in (finished_home.home.root / "tmp").iterdir()] == ["spark.log"]


def copy_of(finished, folder):
    import dataclasses

    copy = dataclasses.replace(finished.home, root=folder / "home")
    shutil.copytree(finished.home.root, copy.root, ignore=shutil.ignore_patterns("prefect", "tmp"))
    return copy


def not_done(recipe, home) -> dict[str, str]:
    return {state.step.name: state.why for state in states(preflight(recipe), home) if state.state != "done"}


def interrupt(*_):
    raise KeyboardInterrupt


def finish(recipe, home, spark, *, stop: str | None = None) -> list[str]:
    """What `flows run curriculum` does of the recipe, with the suite's Spark; `stop` does its work and is killed before its receipt is
    there. The steps that ran."""
    checked = preflight(recipe)
    step_states, ran = states(checked, home), []
    job = Job(recipe, home, {state.step.name: state.hash for state in step_states})
    job.spark, job.run = spark, "run"
    for state in step_states:
        if state.state != "done":
            ran.append(state.step.name)
            if state.step.name == stop:
                with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                    patch.setattr(Home, "keep", interrupt)
                    work(state.step, job, plain(state.part), Display(Console(quiet=True)))
                break
            work(state.step, job, plain(state.part), Display(Console(quiet=True)))
    return ran


def test_a_table_that_was_changed_by_others_is_noticed(finished_home, tmp_path):
    copy = copy_of(finished_home, tmp_path)
    log = copy.root / "lake" / "silver" / "verdicts" / "_delta_log"
    newest = max(log.glob("*.json"))
    shutil.copy(newest, newest.with_name(f"{int(newest.stem) + 1:020}.json"))
    (copy.root / "shards" / "plan.json").write_text("{}")
    DeltaTable(copy.lake.path(tables.TOKENS)).delete("stream = 'heldout'")
    DeltaTable(copy.lake.path(tables.SPANS)).optimize.compact()
    why = not_done(finished_home.recipe, copy)
    assert why.keys() == {"judge", "tokenise", "shard"}
    assert "silver.verdicts is at version" in why["judge"] and "plan.json" in why["shard"]
    assert re.search(r"silver\.tokens was changed by another: version 2, DELETE by delta-rs", why["tokenise"])


def test_every_file_that_a_step_left_counts(finished_home, tmp_path):
    """Gone, or of another content where it is small and text."""
    copy = copy_of(finished_home, tmp_path)
    receipts = [receipt for step in flows.STEPS if (receipt := copy.receipt(step))]
    for receipt in receipts:
        for name in receipt.files:
            path = copy.root / name
            data = path.read_bytes()
            if path.suffix in (".json", ".html", ".ranks"):
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
                assert f"{name} was changed" in copy.damage(receipt)
            elif path.suffix in (".safetensors", ".bin"):
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
                assert copy.damage(receipt) is None and f"{name} was changed" in copy.damage(receipt, models=True)
            path.unlink()
            assert copy.damage(receipt) == f"file {name} is missing"
            path.write_bytes(data)
        assert copy.damage(receipt, models=True) is None
    every = {name for receipt in receipts for name in receipt.files}
    written = {str(path.relative_to(copy.root)) for folder in ("shards", "models", "report", "runs") for path in (copy.root / folder).rglob("*")
               if path.is_file() and "checkpoints" not in path.parts and path.name != "lock"}
    assert every == written - {"shards/settings.json"}  # what the trainer is told, for machines without recipes


@pytest.mark.servers
def test_what_a_finished_run_lost_is_made_again_the_same(finished_home, spark, tmp_path):
    """Final weights, a window's folder, the report: from what is there, without training again."""
    copy, kept = copy_of(finished_home, tmp_path), finished_home.home
    (run,) = copy.runs.iterdir()
    folder = next(iter(load_manifest(copy.shards / "manifest.json").folders))
    shutil.rmtree(run / "final")
    shutil.rmtree(copy.shards / folder.stream / str(folder.seq_len))
    copy.report_page().unlink()
    why = not_done(finished_home.recipe, copy)
    assert why.keys() == {"shard", "train", "report"} and "final/weights.safetensors is missing" in why["train"]
    assert finish(finished_home.recipe, copy, spark) == ["shard", "train", "report"]
    assert not_done(finished_home.recipe, copy) == {}
    for name in ["final/weights.safetensors", "final/config.json", "metrics.jsonl", "seconds.jsonl", "result.json"]:
        assert (run / name).read_bytes() == (kept.runs / run.name / name).read_bytes(), name
    for window in load_manifest(kept.shards / "manifest.json").windows:
        assert (copy.shards / window.file).read_bytes() == (kept.shards / window.file).read_bytes()


@pytest.mark.servers
def test_a_run_that_lost_what_it_told_on_its_way_is_not_done_and_says_what_to_do(finished_home, spark, tmp_path):
    """Steps before all checkpoints: nothing can tell of them again but training from the beginning, which nobody is made to do."""
    copy, kept = copy_of(finished_home, tmp_path), finished_home.home
    (run,) = copy.runs.iterdir()
    sorted((run / "ledger").iterdir())[0].unlink()
    assert "ledger/steps-0000000" in not_done(finished_home.recipe, copy)["train"]
    with pytest.raises(ValueError, match=r"metrics, seconds and ledger tell of 0 steps\): put back what is missing, or delete"):
        finish(finished_home.recipe, copy, spark)
    shutil.rmtree(run)
    assert finish(finished_home.recipe, copy, spark) == ["train", "evaluate"]
    for path in [*(run / "ledger").iterdir(), run / "metrics.jsonl", run / "final/weights.safetensors"]:
        assert path.read_bytes() == (kept.root / path.relative_to(copy.root)).read_bytes()
    assert copy.lake.arrow(tables.LEDGER).num_rows == kept.lake.arrow(tables.LEDGER).num_rows


@pytest.mark.servers
def test_a_step_that_was_stopped_under_a_recipe_that_was_given_up_is_done_again(finished_home, spark, tmp_path):
    """Its receipt of before is void from its first write on: the other recipe's plan is there, of the same size."""
    copy, plan = copy_of(finished_home, tmp_path), (finished_home.home.shards / "plan.json").read_text()
    value = finished_home.recipe.model_dump()
    value["stages"][-1]["lr"]["end"] = 0.5
    other = recipes.Recipe.model_validate(value)
    assert finish(other, copy, spark, stop="shard")[-1] == "shard"
    assert (copy.shards / "plan.json").read_text() != plan
    assert not_done(finished_home.recipe, copy)["shard"] == "stopped half way, or running"
    assert "train" not in not_done(finished_home.recipe, copy)
    finish(finished_home.recipe, copy, spark)
    assert (copy.shards / "plan.json").read_text() == plan and not_done(finished_home.recipe, copy) == {}


def test_a_table_that_cannot_be_read_is_named(finished_home, spark, tmp_path):
    """A file of the right size, whose content was written over: only reading tells."""
    copy = copy_of(finished_home, tmp_path)
    file = Path(copy.lake.files(tables.MIXTURE)[0])
    file.write_bytes(b"?" * file.stat().st_size)
    with pytest.raises(ValueError, match=rf"table gold\.mixture: expected a Parquet file, found .*{file.name}.*`flows run curriculum` makes"):
        with copy.tables_named():
            copy.lake.read(spark, tables.MIXTURE).collect()
    with pytest.raises(ValueError, match=r"table gold\.mixture: expected Parquet files"):
        copy.lake.arrow(tables.MIXTURE)


def test_trace_tells_a_documents_life(finished_home):
    lake = finished_home.home.lake
    span = lake.arrow(tables.SPANS).to_pylist()[0]
    told = conftest.flows("trace", span["doc_id"][:12], "--recipe", str(finished_home.file)).stdout
    for expected in (span["doc_id"], "n_words", "kept, stream", "in " + span["stream"], "training steps", "nats a token"):
        assert expected in told, told
    dropped = lake.arrow(tables.VERDICTS, where=pc.field("reason") == "near_duplicate").to_pylist()[0]
    told = conftest.flows("trace", dropped["doc_id"], "--recipe", str(finished_home.file)).stdout
    assert "near duplicate of" in told and "dropped: near_duplicate" in told
    assert conftest.flows("trace", "zz", "--recipe", str(finished_home.file)).returncode == Exit.DATA


def test_two_runs_in_one_home_are_refused(finished_home, tmp_path):
    value = yaml.safe_load(finished_home.file.read_text())
    value["prompts"] = ["x"]
    file = corpus.save(value, tmp_path / "r.yaml")
    with finished_home.home.held():
        second = conftest.flows("run", "curriculum", "--recipe", str(file))
    assert second.returncode == Exit.BUSY and f"is in use by process {os.getpid()}" in second.stderr


@pytest.mark.servers
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(finished_home, prefect_server, tmp_path):
    """Files may not grow past 400 kB, as on a disk that is nearly full: the first checkpoint does not fit."""
    shutil.copytree(finished_home.home.root, tmp_path / "home")
    file = corpus.save(yaml.safe_load(finished_home.file.read_text()) | {"home": str(tmp_path / "home")}, tmp_path / "r.yaml")
    (tmp_path / "home" / "steps" / "train.json").unlink()
    shutil.rmtree(tmp_path / "home" / "runs")
    full = conftest.flows("run", "train", "--recipe", str(file), file_size=400_000)
    assert full.returncode == Exit.DISK and "train could not write: the disk of" in full.stderr and "free some space" in full.stderr, full.stderr
    assert not (tmp_path / "home" / "steps" / "train.json").exists()
    again = conftest.flows("run", "train", "--recipe", str(file))
    assert again.returncode == 0, again.stdout + again.stderr
    results = [json.loads(next(root.glob("runs/*/result.json")).read_text()) for root in (finished_home.home.root, tmp_path / "home")]
    assert results[0]["final_loss"] == results[1]["final_loss"]


def test_too_little_space_is_said_before_anything_starts(finished_home, monkeypatch):
    class Disk:
        f_frsize, f_bavail, f_files, f_favail = 1000, 3000, 10_000, 5000

    monkeypatch.setattr(os, "statvfs", lambda path: Disk)
    with pytest.raises(DiskFull, match=r"expected at least 500,000,000 bytes free .* found 3,000,000 bytes and 5,000 inodes"):
        finished_home.home.require_space()
    Disk.f_bavail, Disk.f_favail = 10**9, 30
    with pytest.raises(DiskFull, match=r"room for 2,000 files, found 1,000,000,000,000 bytes and 30 inodes"):
        finished_home.home.require_space()
    with pytest.raises(DiskFull, match=r"judge could not write: .* and 30 inodes are free"), finished_home.home.space_named("judge"):
        raise OSError(errno.ENOSPC, "No space left on device")
    Disk.f_files = Disk.f_favail = 0  # btrfs: as many as fit
    finished_home.home.require_space()


def test_what_it_prints(finished_home):
    printed = finished_home.printed
    for step in flows.STEPS:
        assert re.search(rf"\d+/\d+ {step} +\d+\.\d s", printed), step
    for said in ("exact_duplicate", "gzip", "anneal", ".html"):
        assert said in printed, said
