"""A delivery beside the last accepted one: measures against naive loops, chance against draws, the gate by its steps."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from test_snapshots import deliver, job, prose

from flows.commands import exit_code, sentence
from flows.steps import dedup, edits, gate, ingest, measure
from pipelines import drift
from pipelines.deliveries import Delivery
from pipelines.drift import Count
from schemas import tables
from schemas.errors import DataError, GateClosed
from schemas.parts import Drift

OLD, NEW = Delivery("web", "old"), Delivery("web", "new")


def signals(old, new) -> duckdb.DuckDBPyConnection:
    """A database with one signal of two deliveries; None is null."""
    db = duckdb.connect()
    values = pa.array([None if value is None else float(value) for value in [*old, *new]], pa.float64())
    names = ["old"] * len(old) + ["new"] * len(new)
    rows = pa.table({"doc_id": [f"{i:04}" for i in range(len(names))], "source": ["web"] * len(names), "snapshot": names, "x": values})
    db.register("signals", rows)
    return db


def naive_bin(value, deciles) -> tuple:
    """Bins as intervals: between deciles, and a point where several deciles are the same."""
    if value is None:
        return (-1, 0)
    edges = sorted(set(deciles))
    for i, edge in enumerate(edges):
        if value < edge or (value == edge and deciles.count(edge) == 1):
            return (i, 0)
        if value == edge:
            return (i, 1)
    return (len(edges), 0)


CASES = {
    "continuous": lambda draw: (draw.normal(size=400), draw.normal(0.4, size=300)),
    "many zeros": lambda draw: (draw.poisson(0.2, 300), draw.poisson(0.6, 200)),
    "one value": lambda draw: ([5] * 50, [3] * 20 + [5] * 20 + [7] * 20),
    "nulls": lambda draw: ([None] * 30 + list(draw.normal(size=70)), [None] * 60 + list(draw.normal(size=40))),
    "all null": lambda draw: ([None] * 30, [1.0] * 30),
}


@pytest.mark.parametrize("case", CASES)
def test_psi_is_what_a_naive_loop_counts(case):
    old, new = CASES[case](np.random.default_rng(3))
    numbers = sorted(value for value in old if value is not None)
    deciles = [numbers[max(0, int(np.ceil(n * len(numbers) / 10)) - 1)] for n in range(1, 10)] if numbers else []
    binned = [[naive_bin(value, deciles) for value in values] for values in (new, old)]
    used = sorted(set(binned[0]) | set(binned[1]))
    expected = 0.0
    for one in used:
        p, q = ((values.count(one) + 0.5) / (len(values) + 0.5 * len(used)) for values in binned)
        expected += (p - q) * np.log(p / q)
    bins = drift.binned(signals(old, new), "x", NEW, OLD)
    assert bins[:, 1:].tolist() == [[values.count(one) for values in binned] for one in used]
    assert drift.psi(bins[:, 1], bins[:, 2])[0] == pytest.approx(expected) and expected > 0.1


def test_bounds_are_a_chi_square_and_standard_errors():
    for bins in (2, 5, 10, 12):
        exact = (1 / 30 + 1 / 50) * stats.chi2.ppf(0.9999, bins - 1)
        assert exact * 0.995 < drift.psi_bound(bins, 30, 50) < exact * 1.08
    assert drift.share_bound(Count(400, 1000), Count(600, 1000)) == pytest.approx(4 * (0.25 * 2 / 1000) ** 0.5)
    assert drift.share_bound(Count(1, 1), Count(0, 10_000)) > 1  # one document says nothing


@pytest.mark.parametrize("n, m", [(5, 5), (30, 60), (60, 30), (100, 300)])
def test_chance_alone_closes_nothing_and_a_shift_does(n, m):
    draw = np.random.default_rng(n)
    false, seen = 0, 0
    for _ in range(50):  # 4 sizes, so 200 draws of deliveries that are alike
        old, new = draw.lognormal(size=m), draw.lognormal(size=n)
        bins = drift.binned(signals(old, new), "x", NEW, OLD)
        false += drift.psi(bins[:, 1], bins[:, 2])[0] > max(0.25, drift.psi_bound(len(bins), n, m))
        for share in (0.01, 0.3, 0.5):
            a, b = Count(int(draw.binomial(n, share)), n), Count(int(draw.binomial(m, share)), m)
            false += abs(a.share - b.share) > max(0.2, drift.share_bound(a, b))
        moved = drift.binned(signals(old, draw.lognormal(3, size=n)), "x", NEW, OLD)
        seen += drift.psi(moved[:, 1], moved[:, 2])[0] > max(0.25, drift.psi_bound(len(moved), n, m))
    assert false == 0
    assert seen == 50 if n >= 30 else seen == 0  # five documents cannot tell ten bins


def usual(seed: int) -> str:
    """A text that no rule of docs drops."""
    return f"This is the one that we have of the garden, and it was with {prose(seed)}"


def up_to_gate(one) -> dict:
    one.home.root.mkdir(exist_ok=True)
    for step in (ingest, measure, dedup, edits):
        step.run(one)
    return gate.run(one)


def rows_of(one) -> list[dict]:
    return one.home.lake.arrow(tables.DELIVERIES).sort_by("at").to_pylist()


@pytest.fixture(scope="module")
def three(spark, tmp_path_factory):
    """Two deliveries that are alike, and one of short texts in capitals with many broken records."""
    folder = tmp_path_factory.mktemp("three")
    deliver(folder, "a", [usual(i) for i in range(40)], bad=1)
    deliver(folder, "b", [usual(i) for i in range(40, 80)], bad=1)
    deliver(folder, "c", [" ".join(prose(i).split()[:8]).upper() + " 1234567" for i in range(80, 120)], bad=30)
    first = job(spark, folder, ["a", "b"])
    return folder, first, up_to_gate(first)


def test_the_third_delivery_drifts_closes_and_is_accepted_by_hand(spark, three):
    folder, first, told = three
    assert told == gate.run(first) == {"deliveries accepted": 2}
    assert [(row["snapshot"], row["against"], row["decision"]) for row in rows_of(first)] == [("a", None, "accepted"), ("b", "a", "accepted")]
    one = job(spark, folder, ["a", "b", "c"])
    one.run = "20300101-000000-abcdef"
    with pytest.raises(GateClosed) as closed:
        up_to_gate(one)
    assert exit_code(closed.value) == 15
    row = rows_of(one)[-1]
    assert (row["snapshot"], row["against"], row["decision"], row["run"], len(rows_of(one))) == ("c", "b", "closed", one.run, 3)
    measured, drifted, beyond, moved = (dict(row[name]) for name in ("measured", "drift", "beyond", "documents"))
    assert measured["rejects"] == pytest.approx(30 / 70) and drifted["rejects"] == pytest.approx(30 / 70 - 1 / 41)
    assert measured["documents"] == 40 and measured["fails:too_few_words"] == 1 and (drifted["kept"], dict(rows_of(one)[1]["measured"])["kept"]) == (-1, 1)
    assert {"rejects", "kept", "fails:too_few_words", "psi:n_words", "psi:mean_word_len"} <= set(beyond) == set(moved)
    assert beyond["psi:n_words"] == 0.25 and "psi:n_phones" not in beyond and "documents" not in beyond
    ids = {at["doc_id"]: at for at in one.home.lake.arrow(tables.SIGNALS, ["doc_id", "snapshot"]).to_pylist()}
    assert {ids[doc]["snapshot"] for doc in moved["psi:n_words"]} == {"c"} and len(moved["psi:n_words"]) == 5
    assert moved["rejects"][0].startswith("a.jsonl#")
    said = sentence(closed.value)
    for part in ("web/c differs from b", "psi:n_words: +", "limit 0.25", moved["psi:n_words"][0][:12] + " (a.jsonl#", "flows accept web/c --why"):
        assert part in said
    with pytest.raises(GateClosed) as again:
        gate.run(one)
    assert str(again.value) == str(closed.value) and len(rows_of(one)) == 3  # the same, and no row twice
    with pytest.raises(DataError, match=r"web/b: expected a closed delivery among web/c"):
        gate.accept(one.home, "web/b", "because")
    with pytest.raises(DataError, match="--why"):
        gate.accept(one.home, "web/c", " ")
    gate.accept(one.home, "web/c", "headlines from now on")
    last = rows_of(one)[-1]
    assert (last["decision"], last["why"], last["run"], len(rows_of(one))) == ("accepted by hand", "headlines from now on", None, 4)
    assert last["who"] and dict(last["beyond"]) == beyond
    assert gate.run(one) == {"deliveries accepted": 3} and len(rows_of(one)) == 4
    with pytest.raises(DataError, match="no gate is closed"):
        gate.accept(one.home, "web/c", "again")


def test_limits_that_are_null_never_close(spark, three):
    folder, *_ = three
    one = job(spark, folder, ["a", "b", "c"], "open")
    one.recipe = one.recipe.model_copy(update={"drift": Drift(**dict.fromkeys(Drift.model_fields))})
    assert up_to_gate(one) == {"deliveries accepted": 3}
    assert dict(rows_of(one)[-1]["drift"])["psi:n_words"] > 1
    assert one.recipe.hash == job(spark, folder, ["a", "b", "c"]).recipe.hash and gate.part(one.recipe) == {}
