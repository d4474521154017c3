"""Which domain a document is treated as: its source's, or another one by what was measured of it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.signals import FAMILIES, quality
from schemas.parts import Route

# What is measured before the domain is decided: column and type, of the families before quality.
SIGNALS = {column.name: column.type for family in FAMILIES[: FAMILIES.index(quality)] for column in family.COLUMNS}


def route_domains(domains: pa.Array, signals: dict[str, pa.Array], routes: tuple[Route, ...]) -> pa.Array:
    """The domain of each document by the first of the routes that holds for it; a signal that is null lets none hold.

    Raises ValueError naming a route whose signal is not among those measured so far.
    """
    routed = domains
    for route in reversed(routes):
        if route.signal not in signals:
            raise ValueError(f"routes: expected a signal among {', '.join(signals)}; found {route.signal}")
        holds = pc.and_(pc.equal(domains, route.domain), _condition(route, signals[route.signal])).fill_null(False)
        routed = pc.if_else(holds, pa.scalar(route.to, domains.type), routed)
    return routed


def _condition(route: Route, values: pa.Array) -> pa.Array:
    if route.above is not None:
        return pc.greater(values, route.above)
    if route.below is not None:
        return pc.less(values, route.below)
    among = pc.is_in(values, pa.array(route.one_of or route.none_of, values.type))
    return among if route.one_of else pc.and_(pc.invert(among), pc.is_valid(values))
