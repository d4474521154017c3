"""What the groups share: CPU seconds of a piece of work, and a row of figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

REPEATS = 5


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """CPU seconds, the median."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def row(work: str, value: float, unit: str, reference: float | None = None, must: float | None = None) -> dict:
    return {
        "work": work,
        "value": value,
        "unit": unit,
        "reference": reference,
        "ratio": reference and value / reference,
        "must": must,
    }


def show(table: list[dict]) -> None:
    """Print rows on the terminal."""
    print(f"{'work':44}{'value':>12} {'unit':8}{'reference':>12}{'ratio':>8}{'must':>8}")
    for line in table:
        numbers = (f"{line[key]:.1f}" if line[key] else "" for key in ("reference", "ratio", "must"))
        print("{:44}{:12,.1f} {:8}{:>12}{:>8}{:>8}".format(line["work"], line["value"], line["unit"], *numbers))
