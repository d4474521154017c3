"""How several ranks divide a step once one of them ran out of memory: left in a run's folder until they start again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from model.step import Division, Learner
from schemas.files import write_whole

DIVISION = "division.json"


def keep_division(run: Path, division: Division, learner: Learner) -> None:
    """Leave word, as this rank ran out of memory, how all are to divide their steps when they start again."""
    told = {"ranks": learner.ranks.world, "parallel": learner.config.parallel, **dataclasses.asdict(division)}
    write_whole(run / DIVISION, (json.dumps(told) + "\n").encode(), attempt=str(learner.ranks.rank))


def kept_division(run: Path, learner: Learner) -> Division | None:
    """What such a rank left, as rank 0 reads it; None for a run of other ranks, or of another kind of parallelism."""
    ranks, told = learner.ranks, {}
    if ranks.rank == 0 and (run / DIVISION).exists():
        told = json.loads((run / DIVISION).read_text())
    told = ranks.every(told)[0]
    is_of_these = (told.get("ranks"), told.get("parallel")) == (ranks.world, learner.config.parallel)
    return Division(told["micro_batches"], told["recompute"]) if ranks.world > 1 and is_of_these else None
