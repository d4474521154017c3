"""mixture: weights under caps, exact counts, epochs over stages, against published numbers and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards.mixture import (
    MixtureError,
    apportion,
    effective_tokens,
    mix,
    source_weights,
    tier_factors,
    upsampling_curve,
    water_fill,
)
from schemas.parts import Mixture, Stage, Upsampling
from schemas.tables import MIXTURE


def test_unimax_is_the_papers():
    """Chung et al. 2304.09151, algorithm 1, on five languages of mC4 (facts/curation.md, 3.2)."""
    sizes = {"swe": 179955884499, "fas": 184595788282, "ekk": 42541080893, "isl": 10027573389, "fao": 549707867}
    found = source_weights(Mixture(method="unimax"), sizes, 250e9, {name: 4 * size for name, size in sizes.items()})
    expected = {"fao": 0.0087953, "isl": 0.160441, "swe": 0.276921, "fas": 0.276921, "ekk": 0.276921}
    assert found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=8), epochs=st.floats(1, 5), part=st.floats(0.01, 1))
def test_unimax_equals_the_papers_loop(sizes, epochs, part):
    budget = part * epochs * sum(sizes)
    caps = {str(i): epochs * size for i, size in enumerate(sizes)}
    left, expected = budget, {}
    for remaining, name in zip(range(len(sizes), 0, -1), sorted(caps, key=caps.get), strict=True):
        expected[name] = min(caps[name], left / remaining)
        left -= expected[name]
    found = source_weights(Mixture(method="unimax"), dict(zip(caps, sizes, strict=True)), budget, caps)
    assert found == pytest.approx({name: tokens / budget for name, tokens in expected.items()}, abs=1e-6)


def test_free_shares_are_the_formulas():
    sizes, caps = {"a": 100, "b": 300, "c": 600}, {"a": 1e9, "b": 1e9, "c": 1e9}
    assert source_weights(Mixture(), sizes, 1000, caps) == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6})
    roots = {name: math.sqrt(size) for name, size in sizes.items()}
    expected = {name: root / sum(roots.values()) for name, root in roots.items()}
    assert source_weights(Mixture(method="temperature", temperature=2), sizes, 1000, caps) == pytest.approx(expected)
    manual = Mixture(method="manual", weights={"a": 0.25, "b": 0.75, "c": 0.0})
    assert source_weights(manual, sizes, 1000, caps) == pytest.approx({"a": 0.25, "b": 0.75})


@settings(max_examples=200, deadline=None)
@given(items=st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 100)), min_size=1, max_size=6), part=st.floats(0.05, 1))
def test_water_filling_keeps_caps_and_proportions(items, part):
    natural = {str(i): size for i, (size, _) in enumerate(items)}
    caps = {str(i): cap for i, (_, cap) in enumerate(items)}
    budget = part * sum(caps.values())
    if budget < 0.1:
        return
    shares = water_fill(natural, budget, caps)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share * budget <= caps[name] * (1 + 1e-9) + 1e-9 for name, share in shares.items())
    level = max(shares[name] / natural[name] for name in natural)
    for name, share in shares.items():
        assert share == pytest.approx(min(caps[name] / budget, level * natural[name]), abs=1e-7), "one level for all that are not full"


def test_a_cap_moves_the_excess_to_the_others_in_proportion():
    assert water_fill({"a": 6, "b": 3, "c": 1}, 100, {"a": 20, "b": 1000, "c": 1000}) == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2})


def test_what_cannot_be_drawn_is_refused_with_the_shortfall():
    with pytest.raises(MixtureError, match=r"wants 1,000 tokens, 300 more than may be drawn: a 400, b 300"):
        source_weights(Mixture(), {"a": 100, "b": 100}, 1000, {"a": 400, "b": 300})
    with pytest.raises(MixtureError, match="no source has kept tokens"):
        source_weights(Mixture(), {}, 1000, {})


def test_manual_weights_beyond_the_cap_are_refused_by_name():
    manual = Mixture(method="manual", weights={"a": 0.5, "b": 0.5})
    with pytest.raises(MixtureError, match=r"source b at weight 0.5 is 5.00 epochs of 100 tokens, 4.00 are left"):
        source_weights(manual, {"a": 1000, "b": 100}, 1000, {"a": 4000, "b": 400})
    with pytest.raises(MixtureError, match=r"source b has weight 0.5 but no kept tokens"):
        source_weights(manual, {"a": 1000}, 1000, {"a": 4000})


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.integers(0, 1000), min_size=1, max_size=9).filter(any), samples=st.integers(1, 10_000))
def test_samples_are_apportioned_exactly(parts, samples):
    weights = {str(i): part / sum(parts) for i, part in enumerate(parts)}
    counts = apportion(weights, samples, dict.fromkeys(weights, samples))
    assert sum(counts.values()) == samples
    assert all(abs(counts[name] - weight * samples) < 1 + 1e-6 for name, weight in weights.items())


def test_rounding_keeps_the_limits():
    assert apportion({"a": 0.5, "b": 0.5}, 5, {"a": 2, "b": 9}) == {"a": 2, "b": 3}
    assert apportion({"a": 0.5, "b": 0.5}, 5, {"a": 9, "b": 9}) == {"a": 3, "b": 2}
    assert apportion({"a": 0.74, "b": 0.26}, 10, {"a": 9, "b": 9}) == {"a": 7, "b": 3}
    with pytest.raises(MixtureError, match="1 more"):
        apportion({"a": 0.5, "b": 0.5}, 5, {"a": 2, "b": 2})


@pytest.mark.parametrize(("passes", "worth"), [(0.5, 1), (1, 1), (2, 0.984), (4, 0.931), (8, 0.828), (16, 0.661)])
def test_repeated_tokens_lose_worth_as_published(passes, worth):
    assert effective_tokens(passes * 1e9, 1e9) / (passes * 1e9) == pytest.approx(worth, abs=6e-4)


STREAMS = [
    ("web.low", "web", "low", 30_000),
    ("web.high", "web", "high", 10_000),
    ("code.all", "code", "all", 20_000),
    ("empty.all", "empty", "all", 0),
]
TIERS = {"low": 0.0, "high": 0.7, "all": 0.9}  # where each begins; no source has all three
NAMES = ["code.all", "web.high", "web.low"]


def stage(name: str, tokens: int, seq_len: int = 64, **mixture) -> Stage:
    return Stage(name=name, tokens=tokens, seq_len=seq_len, mixture=Mixture(**mixture))


def test_stages_become_rows_of_the_table():
    rows = mix([stage("main", 20_001), stage("cool", 8_000, 128, tiers={"low": 0, "high": 2})], STREAMS, 4, 512, TIERS)
    assert all(tuple(row) == MIXTURE.column_names for row in rows)
    assert [(row["stage"], row["stream"]) for row in rows] == [(s, n) for s in ("main", "cool") for n in NAMES]
    for position, (samples, seq_len) in enumerate([(40 * 8, 64), (16 * 4, 128)]):
        mine = [row for row in rows if row["position"] == position]
        assert sum(row["samples"] for row in mine) == samples, "rounded up to whole batches"
        assert sum(row["weight"] for row in mine) == pytest.approx(1)
        assert all(row["tokens"] == row["samples"] * seq_len and row["seq_len"] == seq_len for row in mine)
    assert [row["samples"] for row in rows[:3]] == [107, 53, 160], "by size"
    assert [row["samples"] for row in rows[3:]] == [43, 21, 0], "without the low tier web holds 10,000 of 30,000 tokens"
    high = rows[4]
    assert high["epochs"] == pytest.approx((53 * 64 + 21 * 128) / 10_000), "over both stages"
    assert high["effective_tokens"] == effective_tokens(53 * 64 + 21 * 128, 10_000)


def test_tiers_multiply_a_natural_share_inside_the_source():
    rows = mix([stage("main", 6_400, method="manual", weights={"web": 1.0}, tiers={"high": 3.0})], STREAMS, 4, 64, TIERS)
    assert [row["samples"] for row in rows] == [0, 50, 50], NAMES
    rows = mix([stage("main", 64_000, method="manual", weights={"web": 1.0}, tiers={"high": 9.0})], STREAMS, 4, 64, TIERS)
    assert [row["samples"] for row in rows] == [0, 625, 375], "what a full tier cannot take goes to the other"


def test_caps_hold_over_all_stages_together():
    stages = [stage(f"s{i}", 60_000, method="unimax") for i in range(4)]
    rows = mix(stages, STREAMS, 4.02, 64, TIERS)
    assert max(row["epochs"] for row in rows) <= 4.02
    assert [row["epochs"] for row in rows if row["stream"] == "code.all"] == pytest.approx([1.5, 3, 4, 4], abs=0.05)
    with pytest.raises(MixtureError, match=r"stage s4: wants 60,032 tokens, .* more than may be drawn: code .*max_epochs is 4.02"):
        mix([*stages, stage("s4", 60_000)], STREAMS, 4.02, 64, TIERS)


def test_a_stage_that_names_an_empty_source_is_refused():
    with pytest.raises(MixtureError, match=r"stage main: source empty has weight 0.5 but no kept tokens"):
        mix([stage("main", 640, method="manual", weights={"empty": 0.5, "web": 0.5})], STREAMS, 4, 64, TIERS)
    with pytest.raises(MixtureError, match=r"stage main: source code has weight 1 but no kept tokens in the tiers"):
        mix([stage("main", 640, method="manual", weights={"code": 1.0}, tiers={"all": 0})], STREAMS, 4, 64, TIERS)


def test_a_ramp_of_copies_is_what_one_integrates_by_hand():
    """(x - .4) from .4 to 1 has the mean .18; over the best twentieth it is .575: 3.19 copies where one is wanted on average."""
    x, copies = upsampling_curve(Upsampling(most=0.575 / 0.18))
    assert copies == pytest.approx(np.maximum(x - 0.4, 0) / 0.18, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(drop=st.floats(0, 0.9), most=st.floats(1.5, 20), part=st.floats(0.02, 0.98), best=st.floats(0.01, 0.05))
def test_the_curve_of_copies_keeps_its_promises(drop, most, part, best):
    wanted = most * (best + part * (1 - drop - best))  # all between: everything in the best, everything the same
    x, copies = upsampling_curve(Upsampling(drop=drop, most=most, best=best, wanted=wanted))
    assert copies.mean() == pytest.approx(wanted, rel=1e-3)
    assert copies[x >= 1 - best].mean() == pytest.approx(most, rel=1e-2)
    assert not copies[x < drop].any() and (np.diff(copies) >= 0).all()


def test_tiers_get_the_mean_of_the_curve_over_their_percentiles():
    mixture = Mixture(upsampling=Upsampling())
    tiers = {"best": 0.95, "good": 0.7, "fair": 0.4, "rest": 0.0}
    factors = tier_factors(mixture, tiers)
    assert factors["rest"] == 0 and factors["best"] == pytest.approx(7, rel=0.01)
    assert 0.05 * factors["best"] + 0.25 * factors["good"] + 0.3 * factors["fair"] == pytest.approx(1, rel=1e-3)
    rows = mix([Stage(name="a", tokens=6_400, seq_len=64, mixture=mixture)], [(f"web.{t}", "web", t, 100_000) for t in tiers], 4, 64, tiers)
    tokens = {row["stream"]: row["tokens"] for row in rows}
    assert tokens["web.rest"] == 0 and tokens["web.best"] / tokens["web.good"] == pytest.approx(factors["best"] / factors["good"], rel=0.05)


@pytest.mark.parametrize("wrong", [{"wanted": 0.3}, {"wanted": 4.3}, {"drop": 0.96}])
def test_a_curve_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="best must be less than 1 - drop, and wanted from"):
        Upsampling(**wrong)
    with pytest.raises(ValueError, match="expected tiers or upsampling, found both"):
        Mixture(tiers={"a": 1}, upsampling=Upsampling())
