"""In what shares stages draw from sources and their tiers, under caps on repetition. Plain Python, no Spark.

Shares are of tokens. A cap is the number of tokens that may still be drawn, so it counts what earlier stages drew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from schemas.errors import DataError
from schemas.parts import Mixture, Stage, Upsampling

# Repeated data loses half its worth after about 15 epochs: R*_D of Muennighoff et al. 2305.16264.
REPETITION_DECAY = 15.39
CURVE_POINTS = 20_000
STEEPEST = 1e4  # of the exponential: e-fold in a ten-thousandth of the documents
ROUNDING = 1e-9  # shares are floats: a cap is not exceeded by less than this share


class MixtureError(DataError):
    """A mixture that cannot be drawn: the message names the stage or source, what was wanted and what is allowed."""


class StreamSize(NamedTuple):
    """A source's tier and the tokens it holds, end-of-text marks included."""

    name: str
    source: str
    tier: str
    tokens: int


def mix(
    stages: Iterable[Stage],
    streams: Iterable[tuple[str, str, str, int]],
    max_epochs: float,
    batch_tokens: int,
    tiers: dict[str, float],
) -> list[dict]:
    """Rows of gold.mixture, one for every stage and stream, in that order.

    streams: (name, source, tier, tokens); tiers: the percentile that each begins at. A stage is rounded up to whole
    batches and split into samples exactly. Raises MixtureError if a stage cannot be drawn within `max_epochs` of each
    stream, all stages together.
    """
    sizes = sorted(StreamSize(*stream) for stream in streams if stream[3] > 0)
    drawn = {stream.name: 0 for stream in sizes}
    rows = []
    for position, stage in enumerate(stages):
        samples = math.ceil(stage.tokens / batch_tokens) * (batch_tokens // stage.seq_len)
        try:
            left = {s.name: max_epochs * s.tokens - drawn[s.name] for s in sizes}
            counts = _stage_samples(stage, sizes, samples, left, tier_factors(stage.mixture, tiers))
        except MixtureError as error:
            raise MixtureError(f"stage {stage.name}: {error} (max_epochs is {max_epochs:g})") from None
        for stream in sizes:
            drawn[stream.name] += counts[stream.name] * stage.seq_len
            rows.append(_row(stage, position, stream, counts[stream.name], samples, drawn[stream.name]))
    return rows


def _row(stage: Stage, position: int, stream: StreamSize, count: int, samples: int, drawn: int) -> dict:
    return {
        "stage": stage.name,
        "position": position,
        "stream": stream.name,
        "source": stream.source,
        "weight": count / samples,
        "samples": count,
        "seq_len": stage.seq_len,
        "tokens": count * stage.seq_len,
        "unique_tokens": stream.tokens,
        "epochs": drawn / stream.tokens,
        "effective_tokens": effective_tokens(drawn, stream.tokens),
    }


def effective_tokens(drawn: float, unique: float) -> float:
    """What `drawn` tokens are worth of which `unique` differ (Muennighoff et al. 2305.16264, eq. 5): U + U R* (1 -
    exp(-R/R*))."""
    if drawn <= unique:
        return float(drawn)
    repeats = drawn / unique - 1
    return unique + unique * REPETITION_DECAY * (1 - math.exp(-repeats / REPETITION_DECAY))


def tier_factors(mixture: Mixture, tiers: dict[str, float]) -> dict[str, float]:
    """What multiplies each tier's share inside its source; tiers: the percentile that each begins at."""
    if mixture.upsampling is None:
        return {tier: mixture.tiers.get(tier, 1.0) for tier in tiers}
    begins = sorted(tiers.values())
    ends = dict(zip(begins, [*begins[1:], 1.0], strict=True))
    return {tier: mean_copies(mixture.upsampling, begin, ends[begin]) for tier, begin in tiers.items()}


def mean_copies(curve: Upsampling, begin: float, end: float) -> float:
    """Copies of a document on average over the percentiles from `begin` to `end`."""
    x, copies = upsampling_curve(curve)
    inside = (x >= begin) & (x < end)
    return float(copies[inside].mean()) if inside.any() else 0.0


def upsampling_curve(curve: Upsampling) -> tuple[np.ndarray, np.ndarray]:
    """(percentiles, copies), at CURVE_POINTS even steps: C (x - drop)^p exp(l (x - drop)), 0 below `drop` (OLMo 3,
    2512.13961).

    Its mean is `wanted`, its mean over the best is `most`. That leaves one of p and l free: p is 1, a ramp, and l > 0
    makes it as steep as `most` asks for; where a ramp is too steep already, l is 0 and p < 1 flattens it.
    """
    x = (np.arange(CURVE_POINTS) + 0.5) / CURVE_POINTS
    above = np.maximum(x - curve.drop, 0)
    best = x >= 1 - curve.best

    def shape(p: float, rate: float) -> np.ndarray:
        # at most 1, however large the rate
        return np.where(above > 0, above**p * np.exp(rate * (above - above[-1])), 0)

    def steepness(copies: np.ndarray) -> float:
        return copies[best].mean() / copies.mean()

    wanted = curve.most / curve.wanted
    ramp = steepness(shape(1, 0)) >= wanted
    low, high = (0.0, 1.0) if ramp else (0.0, STEEPEST)
    for _ in range(60):  # steepness grows with p and with the rate
        middle = (low + high) / 2
        weights = shape(middle, 0) if ramp else shape(1, middle)
        low, high = (middle, high) if steepness(weights) < wanted else (low, middle)
    return x, weights * curve.wanted / weights.mean()


def _stage_samples(
    stage: Stage, sizes: list[StreamSize], samples: int, left: dict[str, float], tiers: dict[str, float]
) -> dict[str, int]:
    """Samples of every stream; `left` is the tokens that may still be drawn of each, `tiers` multiply a tier's
    share."""
    budget = samples * stage.seq_len
    factors = {s.name: tiers.get(s.tier, 1.0) for s in sizes}
    used = [s for s in sizes if factors[s.name] > 0]
    sources = sorted({s.source for s in used})
    unique = {source: sum(s.tokens for s in used if s.source == source) for source in sources}
    caps = {source: sum(max(0.0, left[s.name]) for s in used if s.source == source) for source in sources}
    weights = dict.fromkeys(left, 0.0)
    for source, share in source_weights(stage.mixture, unique, budget, caps).items():
        tiers = [s for s in used if s.source == source and share > 0]
        natural = {s.name: s.tokens * factors[s.name] for s in tiers}
        inside = water_fill(natural, share * budget, {s.name: left[s.name] for s in tiers}) if tiers else {}
        weights |= {name: share * part for name, part in inside.items()}
    return apportion(
        weights, samples, {name: max(0, math.floor(tokens / stage.seq_len + ROUNDING)) for name, tokens in left.items()}
    )


def source_weights(
    mixture: Mixture, unique_tokens: dict[str, int], budget: float, caps: dict[str, float]
) -> dict[str, float]:
    """Share of each source in a stage of `budget` tokens; unique_tokens are what it holds, caps what may still be drawn
    of it.

    manual: as written, or an error. proportional: by size. temperature: by size^(1/T). unimax: even shares as far as
    the caps go (Chung et al. 2304.09151). What the middle two would draw beyond a cap goes to the other sources. Raises
    MixtureError naming the source or the shortfall.
    """
    if mixture.method == "manual":
        return _manual(mixture.weights, unique_tokens, budget, caps)
    exponent = {"proportional": 1.0, "temperature": 1 / mixture.temperature, "unimax": 0.0}[mixture.method]
    return water_fill({source: size**exponent for source, size in unique_tokens.items()}, budget, caps)


def _manual(
    weights: dict[str, float], unique_tokens: dict[str, int], budget: float, caps: dict[str, float]
) -> dict[str, float]:
    total = sum(weights.values())
    shares = {source: weight / total for source, weight in weights.items() if weight > 0}
    for source, share in shares.items():
        unique = unique_tokens.get(source)
        if not unique:
            raise MixtureError(
                f"source {source} has weight {share:g} but no kept tokens in the tiers that the stage reads"
            )
        if share * budget > caps[source] + ROUNDING * budget:
            wanted, allowed = share * budget / unique, caps[source] / unique
            raise MixtureError(
                f"source {source} at weight {share:g} is {wanted:.2f} epochs of {unique:,} tokens, "
                f"{allowed:.2f} are left"
            )
    return shares


def water_fill(natural: dict[str, float], budget: float, caps: dict[str, float]) -> dict[str, float]:
    """Shares in proportion to `natural` (all positive), none above caps / budget: what a full one cannot take goes to
    the others.

    Equal naturals give UniMax. The shares are natural * level, cut at the cap, for the one level at which they sum to
    1; so a fill from the name that is full first needs one pass. Raises MixtureError if all caps together are below the
    budget.
    """
    room = {name: max(0.0, caps[name]) / budget for name in natural}
    if sum(room.values()) < 1 - ROUNDING:
        allowed = ", ".join(f"{name} {caps[name]:,.0f}" for name in sorted(natural)) or "no source has kept tokens"
        raise MixtureError(
            f"wants {budget:,} tokens, {(1 - sum(room.values())) * budget:,.0f} more than may be drawn: {allowed}"
        )
    shares: dict[str, float] = {}
    order = sorted(natural, key=lambda name: (room[name] / natural[name], name))
    for i, name in enumerate(order):
        rest, weight = 1 - sum(shares.values()), sum(natural[other] for other in order[i:])
        shares[name] = min(room[name], rest * natural[name] / weight)
    return shares


def apportion(weights: dict[str, float], samples: int, limits: dict[str, int]) -> dict[str, int]:
    """Whole samples by largest remainder (Hamilton), none above its limit. Raises MixtureError if the limits are too
    low."""
    exact = {name: weight * samples for name, weight in weights.items()}
    counts = {name: min(limits[name], math.floor(share + ROUNDING)) for name, share in exact.items()}
    by_remainder = sorted(weights, key=lambda name: (counts[name] - exact[name], name))
    while (missing := samples - sum(counts.values())) > 0:
        open_names = [name for name in by_remainder if weights[name] > 0 and counts[name] < limits[name]]
        if not open_names:
            raise MixtureError(f"wants {samples:,} samples, {missing:,} more than whole ones may be drawn")
        for name in open_names[:missing]:
            counts[name] += 1
    return counts
