"""New deliveries cost only themselves, and leave what a run over all of them from nothing leaves."""

import json
import random
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from flows.home import Home
from flows.job import Job
from flows.steps import STEPS, dedup, ingest, measure
from pipelines import capacity, deliveries
from pipelines.deliveries import Delivery, missing_deliveries, plan_rounds
from pipelines.readers.ingest import read_records
from pipelines.signals import TABLE
from schemas import tables
from schemas.recipe import Recipe

SIGNALS = TABLE
WORDS = "river stone bread window letter garden engine paper north silver ladder copper market bridge winter".split()


def prose(seed: int) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(120)) + "."


def deliver(folder, snapshot: str, texts: list[str], bad: int = 0) -> None:
    folder = folder / "in" / snapshot
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in texts] + ["{"] * bad
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")


def job(spark, folder, snapshots: list[str], home: str = "home") -> Job:
    source = {"name": "web", "reader": "jsonl", "domain": "docs", "path": f"{folder}/in/{{snapshot}}", "snapshots": snapshots}
    value = {"home": str(folder / home), "sources": [source], "stages": [{"name": "a", "tokens": 2048, "seq_len": 256}]}
    made = Job(Recipe.model_validate(value), Home(folder / home), {step.name: step.name * 6 for step in STEPS})
    made.spark = spark
    return made


def content(lake, table) -> list:
    return sorted(map(str, lake.arrow(table).to_pylist()))


@pytest.fixture
def delivered(tmp_path):
    deliver(tmp_path, "old", [prose(i) for i in range(6)], bad=1)
    near_copies = [prose(3) + " And one more.", prose(20) + " The end."]
    deliver(tmp_path, "new", [prose(i) for i in (0, 1, 2, 20)] + near_copies, bad=2)
    return tmp_path


def test_a_second_snapshot_is_added_and_equals_a_run_from_nothing_over_both(spark, delivered):
    first, both, fresh = (job(spark, delivered, *made) for made in ((["old"],), (["old", "new"],), (["old", "new"], "other")))
    for one in (first, both, fresh):
        one.home.root.mkdir(exist_ok=True)
        told = ingest.run(one), measure.run(one), dedup.run(one)
    lake, other = both.home.lake, fresh.home.lake
    for table in (tables.DOCUMENTS, tables.REJECTS, SIGNALS, tables.PAIRS, tables.CLUSTERS):
        assert content(lake, table) == content(other, table)
    assert told[0] == {"documents": 9, "rejects": 3, "bytes": sum(len(prose(i)) for i in (*range(6), 3, 20, 20)) + 23, "delivered before": 3}
    assert {(row["snapshot"], row["uri"]) for row in lake.arrow(tables.DOCUMENTS).to_pylist()} == {
        *(("old", f"a.jsonl#{i}") for i in range(1, 7)), *(("new", f"a.jsonl#{i}") for i in range(4, 7)),
    }  # fmt: skip
    assert lake.rows_written(SIGNALS) == 3  # the old ones' text was not measured again
    assert told[2] == {"documents": 9, "pairs": 2, "exact": 0, "near": 2}
    before = [lake.version(table) for table in (tables.DOCUMENTS, SIGNALS, tables.PAIRS)]
    assert (ingest.run(both), measure.run(both), dedup.run(both)) == (told[0] | {"delivered before": 0}, *told[1:])
    assert [lake.version(table) for table in (tables.DOCUMENTS, SIGNALS, tables.PAIRS)] == before  # the same deliveries change nothing


@pytest.mark.servers
def test_a_chain_of_near_copies_that_comes_in_any_order_leaves_what_a_run_from_nothing_leaves(spark, tmp_path):
    words, chance = [f"word{i}" for i in range(7 * 30 + 150)], random.Random(2)
    windows = {i: " ".join(words[7 * i : 7 * i + 150]) for i in chance.sample(range(30), 30)}
    dealt = dict(zip("abc", (list(windows.values())[n::3] for n in range(3)), strict=True))
    for snapshot, texts in dealt.items():
        deliver(tmp_path, snapshot, texts)
    orders = {"grown": (["b", "c"], ["a", "b", "c"]), "fresh": (["a", "b", "c"],)}
    rows = []
    for home, steps in orders.items():
        for snapshots in steps:
            one = job(spark, tmp_path, snapshots, home)
            one.home.root.mkdir(exist_ok=True)
            ingest.run(one), measure.run(one), dedup.run(one)
        rows.append(content(one.home.lake, tables.CLUSTERS))
    assert rows[0] == rows[1]
    text = {row["doc_id"]: row["text"] for row in one.home.lake.arrow(tables.DOCUMENTS).to_pylist()}
    clusters = one.home.lake.arrow(tables.CLUSTERS).to_pylist()
    for row in clusters:  # Jaccard of windows 2 apart is 132 / 160, of windows 3 apart 125 / 167
        assert abs(words.index(text[row["doc_id"]].split()[0]) - words.index(text[row["keeper"]].split()[0])) <= 14
    kept = {row["keeper"] for row in clusters}
    assert kept == {row["doc_id"] for row in clusters if row["rank"] == 1} and 6 <= len(kept) <= 10


@pytest.mark.parametrize("fitting", [pytest.param(n, marks=pytest.mark.servers) for n in (2, 3, 4)])  # 3 texts are new and near one other: not even these fit, these alone, all of them
def test_what_does_not_fit_into_one_process_is_said_and_gives_the_same(spark, delivered, monkeypatch, fitting):
    whole, parts = job(spark, delivered, ["old", "new"]), [job(spark, delivered, names, "parts") for names in (["old"], ["old", "new"])]
    for one in (whole, *parts):
        monkeypatch.setitem(capacity.LIMITS, "fingerprints", 400_000 if one is whole else fitting)
        monkeypatch.setitem(capacity.LIMITS, "documents", 400_000 if one is whole else 2)
        monkeypatch.setattr("pipelines.spark.SENT_BYTES", 64 << 20 if one is whole else 0)
        ingest.run(one)
        measure.run(one)
        told = dedup.run(one)
        assert ("grouped in shuffles" in told) == (one is not whole)
    compared = dedup.fingerprints(parts[1], [Delivery("web", "new")])
    assert compared is None if fitting < 4 else len(compared) == 4
    for table in (tables.DOCUMENTS, tables.REJECTS, tables.PAIRS, tables.CLUSTERS):
        assert content(whole.home.lake, table) == content(parts[1].home.lake, table)


def test_a_source_without_rejects_is_not_read_again(spark, tmp_path):
    """The rejects that are written are then none, and Delta commits nothing where no row comes or goes."""
    for snapshot in ("old", "new"):
        deliver(tmp_path, snapshot, [prose(ord(letter)) for letter in snapshot])
    first, both = job(spark, tmp_path, ["old"]), job(spark, tmp_path, ["old", "new"])
    lake, versions = first.home.lake, []
    for one in (first, first, both, both):
        ingest.run(one)
        versions.append([lake.version(table) for table in (tables.DOCUMENTS, tables.REJECTS)])
        assert lake.ancestry(tables.REJECTS)["deliveries"] == one.deliveries
    assert versions == [[1, 1], [1, 1], [2, 2], [2, 2]]


def test_a_run_that_was_stopped_between_two_tables_goes_on(spark, delivered):
    first, both, fresh = (job(spark, delivered, *made) for made in ((["old"],), (["old", "new"],), (["old", "new"], "other")))
    for one in (first, fresh):
        one.home.root.mkdir(exist_ok=True)
        ingest.run(one)
    (new,) = [one for one in deliveries.deliveries_of(both.recipe) if one.snapshot == "new"]
    half = read_records(spark, both.recipe, {new: both.files[new]}).where("reason is null")  # all of them, as if some were not dropped yet
    both.write(half, tables.DOCUMENTS, "ingest", append=True, deliveries=both.deliveries)
    ingest.run(both)
    for table in (tables.DOCUMENTS, tables.REJECTS):
        assert content(both.home.lake, table) == content(fresh.home.lake, table)


def test_files_that_changed_are_read_again_and_what_is_no_longer_in_the_recipe_goes(spark, delivered):
    both, last = job(spark, delivered, ["old", "new"]), job(spark, delivered, ["new"])
    both.home.root.mkdir()
    assert ingest.run(both)["documents"] == 9
    (delivered / "in" / "new" / "b.jsonl").write_text(json.dumps({"text": prose(99)}))
    assert ingest.run(job(spark, delivered, ["old", "new"]))["documents"] == 10
    assert ingest.run(last) == {"documents": 7, "rejects": 2, "bytes": sum(len(prose(i)) for i in (0, 1, 2, 20, 3, 20, 99)) + 23, "delivered before": 0}
    assert {row["snapshot"] for row in last.home.lake.arrow(tables.DOCUMENTS).to_pylist()} == {"new"}


def rust(lake, table) -> DeltaTable:
    return DeltaTable(lake.path(table))


def run_all(one: Job) -> None:
    one.home.root.mkdir(exist_ok=True)
    ingest.run(one)
    measure.run(one)
    dedup.run(one)


def left(lake) -> dict:
    return {table.name: lake.last_change(table.name).version for table in WRITTEN}


WRITTEN = (tables.DOCUMENTS, tables.REJECTS, SIGNALS, tables.PAIRS, tables.CLUSTERS)


def delete_row(lake, table) -> None:
    key = table.key[0]
    value = lake.arrow(table, [key]).column(0)[0].as_py()
    rust(lake, table).delete(f"{key} = '{value}'")


def append_row(lake, table) -> None:
    write_deltalake(lake.path(table), lake.arrow(table).slice(0, 1), mode="append")


def delete_and_compact(lake, table) -> None:
    """What changes no row comes last, and hides nothing."""
    delete_row(lake, table)
    rust(lake, table).optimize.compact()
    rust(lake, table).alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})


def restore(lake, table) -> None:
    rust(lake, table).restore(0)


def cut_file(lake, table) -> None:
    file = Path(lake.files(table)[0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose_file(lake, table) -> None:
    Path(lake.files(table)[0]).unlink()


def cut_log(lake, table) -> None:
    commit = max(Path(lake.path(table), "_delta_log").glob("*.json"))
    commit.write_bytes(commit.read_bytes()[:100])


CHANGES = [
    pytest.param((delete_row, append_row, cut_file, delete_and_compact, lose_file), id="mostly rows", marks=pytest.mark.servers),
    pytest.param((lose_file, cut_log, append_row, restore, delete_row), id="mostly files", marks=pytest.mark.servers),
    pytest.param((None, delete_row, cut_file, None, append_row), id="some"),
]


@pytest.mark.parametrize("changes", CHANGES)
def test_tables_that_others_changed_or_damaged_are_made_again(spark, delivered, changes):
    """By the step that writes each, as a run from nothing makes them; a delivery that comes now is added."""
    first, both, fresh = (job(spark, delivered, *made) for made in ((["old"],), (["old", "new"],), (["old", "new"], "other")))
    run_all(fresh)
    lake = both.home.lake
    run_all(first if changes[0] is None else both)
    versions = left(lake)
    assert [lake.damage(*one) for one in versions.items()] == [None] * 5
    for table, change in zip(WRITTEN, changes, strict=True):
        if change:
            change(lake, table)
            assert table.name in lake.damage(table.name, versions[table.name])
    run_all(both)
    for table in WRITTEN:
        assert content(lake, table) == content(fresh.home.lake, table), table.name
    assert [lake.damage(*one) for one in left(lake).items()] == [None] * 5


def test_commits_of_others_that_change_no_rows_cost_nothing(spark, delivered):
    one = job(spark, delivered, ["old", "new"])
    run_all(one)
    lake, versions = one.home.lake, left(one.home.lake)
    for table in WRITTEN:
        rust(lake, table).optimize.compact()
        rust(lake, table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        rust(lake, table).alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
        assert lake.version(table) > versions[table.name]
        assert lake.damage(table.name, versions[table.name]) is None
    run_all(one)
    assert {name: left(lake)[name] for name in left(lake) if name != "silver.clusters"} == {n: v for n, v in versions.items() if n != "silver.clusters"}


SNAPSHOTS = st.dictionaries(st.sampled_from("ab"), st.lists(st.sampled_from("1234"), unique=True, min_size=1), min_size=1)


def prints(snapshots: dict[str, list[str]]) -> dict[str, str]:
    """As `ingest.hashes`: they tell apart what came before."""
    return {f"{source}/{one}": "".join(names[: i + 1]) for source, names in snapshots.items() for i, one in enumerate(names)}


@given(SNAPSHOTS, SNAPSHOTS, st.integers(0, 9), st.booleans())
def test_rounds_end_with_all_that_is_wanted_in_order_wherever_they_were_stopped(recipe, before, stop, between):
    """`order` is in which order a source's snapshots came into the table: a record is known by the first that has it."""
    documents, rejects, order = prints(before), prints(before), dict(before)
    for last in (stop, 99):
        stored, todo = plan_rounds(prints(recipe), documents, rejects)
        if todo and not stored:
            documents, rejects, order = {}, {}, {}
        for number, chosen in enumerate(todo):
            assert len({one.source for one in chosen}) == len(chosen)
            held = {str(one): prints(recipe)[str(one)] for one in chosen}
            order |= {one.source: [s for s in order.get(one.source, []) if s != one.snapshot] + [one.snapshot] for one in chosen}
            documents |= held
            if number == last and between:
                break
            rejects |= held
            if number == last:
                break
    assert documents == rejects == prints(recipe)
    assert order == recipe


def test_undone_deliveries():
    a, b = Delivery("s", "1"), Delivery("s", "2")
    assert missing_deliveries({"s/1": "x", "s/2": "y"}, {"s/1": "x"}) == [b]
    assert missing_deliveries({"s/1": "x"}, {"s/1": "x"}) == []
    assert missing_deliveries({"s/1": "x", "s/2": "y"}, {"s/1": "other"}) is None
    assert missing_deliveries({"s/1": "x"}, {"s/1": "x", "s/2": "y"}) is None
    assert missing_deliveries({"s/1": "x"}, {}) is None
    assert deliveries.sql_condition([a, Delivery("t", "1"), b]) == "(source = 's' and snapshot in ('1', '2')) or (source = 't' and snapshot in ('1'))"
