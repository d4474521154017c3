"""The default rules of each domain, as data: one YAML file a domain, every rule with its source.

A rule names a signal and the values at which a document is dropped: `below`, or `above`. Adding a rule is one entry in
a file; a recipe replaces a threshold, or turns a rule off, under `rules.<domain>.<rule>`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Rule:
    """Drop a document whose `signal` is below `below`, or above `above`. Exactly one of the two is set."""

    name: str
    signal: str
    source: str
    below: float | None = None
    above: float | None = None

    def __post_init__(self):
        if (self.below is None) == (self.above is None):
            raise ValueError(f"rule {self.name}: expected one of below and above")

    @property
    def threshold(self) -> float:
        return self.below if self.above is None else self.above

    def at(self, threshold: float) -> Rule:
        return replace(self, **{"below" if self.above is None else "above": float(threshold)})


def domains() -> tuple[str, ...]:
    """Domains that have rules."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(domain: str, changes: dict[str, float | None] | None = None) -> tuple[Rule, ...]:
    """A domain's rules in order, with the recipe's changes. Raises ValueError naming an unknown domain or rule."""
    if domain not in domains():
        raise ValueError(f"expected a domain among {', '.join(domains())}, found {domain}")
    rules = [Rule(**entry) for entry in yaml.safe_load((FOLDER / f"{domain}.yaml").read_text("utf-8"))]
    changes = changes or {}
    unknown = sorted(set(changes) - {rule.name for rule in rules})
    if unknown:
        raise ValueError(f"rules.{domain}: expected names among {', '.join(rule.name for rule in rules)}; found {', '.join(unknown)}")
    thresholds = {rule.name: rule.threshold for rule in rules} | changes
    return tuple(rule.at(thresholds[rule.name]) for rule in rules if thresholds[rule.name] is not None)
