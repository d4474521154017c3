"""Which steps are done, stale or missing, and why: receipts against the recipe. Starts neither Spark nor Prefect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flows.home import Home, Receipt
from flows.preflight import Preflight
from flows.steps import STEPS, Step
from schemas.errors import DataError
from schemas.files import differences, json_hash


class NotReady(DataError):
    """A step was asked for whose inputs are not there."""


@dataclass(frozen=True)
class State:
    """A step's state: done, stale (its output is of another input or recipe) or missing; `why` says of which.

    `part` is the part of the recipe that its hash is made of.
    """

    step: Step
    part: Any
    hash: str
    state: str
    why: str
    receipt: Receipt | None


def parts(checked: Preflight) -> dict[str, Any]:
    """The part of the recipe that decides each step's output; deliveries that it names, with hashes of their files."""
    by_step = {step.name: step.part(checked.recipe) for step in STEPS}
    for part in by_step.values():
        if "deliveries" in part:
            part["deliveries"] = {name: checked.deliveries[name] for name in part["deliveries"]}
    return by_step


def states(checked: Preflight, home: Home, *, models: bool = False) -> list[State]:
    """The state of every step, in order; with `models` the bytes of trained models are compared too."""
    decided, prints, result = parts(checked), {}, []
    for step in STEPS:
        part = decided[step.name]
        # Of what `ingest` stored, a step that names its deliveries reads those alone, and their hashes are in its part.
        inputs = {need: prints[need] for need in step.needs if not (need == "ingest" and "deliveries" in part)}
        prints[step.name] = json_hash([step.name, step.revision, part, inputs])
        result.append(_state(step, prints[step.name], part, inputs, home, models))
    return result


def pending(step_states: list[State], only: str | None = None) -> list[Step]:
    """The steps to run: all that are not done, or the one that was asked for. Raises NotReady if its inputs are not
    done."""
    if only is None:
        return [state.step for state in step_states if state.state != "done"]
    by_name = {state.step.name: state for state in step_states}
    unready = [need for need in by_name[only].step.needs if by_name[need].state != "done"]
    if unready:
        raise NotReady(
            f"{only} reads the output of {', '.join(unready)}, which is not done: `flows run curriculum` does all of it"
        )
    return [by_name[only].step]


def _state(step: Step, expected: str, part: Any, inputs: dict[str, str], home: Home, models: bool = False) -> State:
    receipt = home.receipt(step.name)
    if receipt is None:
        torn = home.receipt_file(step.name)
        why = f"{torn} cannot be read" if torn.exists() else "never finished"
        why = "stopped half way, or running" if home.stopped(step.name) else why
        return State(step, part, expected, "missing", why, None)
    if receipt.hash != expected:
        return State(step, part, expected, "stale", _difference(step, receipt, part, inputs), receipt)
    damage = home.damage(receipt, models=models)
    return State(step, part, expected, "stale" if damage else "done", damage or "", receipt)


def _difference(step: Step, receipt: Receipt, part: Any, inputs: dict[str, str]) -> str:
    """Every cause: fields of the recipe, inputs, the step's own code."""
    changed = sorted({place or "recipe" for place, _, _ in differences(receipt.part, plain(part))})
    read = {need: receipt.inputs.get(need) for need in inputs}
    others = sorted(need for need in inputs if read[need] != inputs[need])
    said = [f"{', '.join(changed)} changed"] if changed else []
    said += [f"input {', '.join(others)} changed"] if others else []
    made_here = receipt.hash == json_hash([step.name, step.revision, receipt.part, read])
    said += [] if made_here else ["made by another version of the step"]
    return "; ".join(said)


def plain(value: Any) -> Any:
    """The value as it comes back from JSON, so that it compares equal with what a receipt holds."""
    return json.loads(json.dumps(value, default=str))
