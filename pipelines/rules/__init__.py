"""The default rules of each domain, as data: one YAML file a domain, every rule with its source.

A rule names a signal and the values at which a document is dropped: `below`, or `above`. It may hold `only` for some
values of text columns, or for all `unless` they have some values; `languages` gives other thresholds to some languages,
null none; `fit` says how pipelines.models.languages takes a language's threshold from trusted documents. Adding a rule
is one entry in a file; a recipe replaces a threshold, or turns a rule off, under `rules.<domain>.<rule>`.

    judge  step judge (silver.verdicts): every reason against a document
    trial  other thresholds against a measured corpus
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
OTHERWISE = "default"  # in a recipe's thresholds by language: the other languages

Threshold = float | dict[str, float | None]
LANGUAGE = re.compile("[a-z]{2,3}")  # of lid.176, and und


@dataclass(frozen=True)
class Rule:
    """Drop a document whose `signal` is below `below`, or above `above`. Exactly one of the two is set.

    The condition stands here once, for rows in Python (`fails`) and for Spark and DuckDB (`sql`). A signal that is null
    fails no rule. A text column that is null has none of the values of `only` and `unless`.
    """

    name: str
    signal: str
    source: str
    below: float | None = None
    above: float | None = None
    only: dict[str, list[str]] = field(default_factory=dict)
    unless: dict[str, list[str]] = field(default_factory=dict)
    languages: dict[str, float | None] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if (self.below is None) == (self.above is None):
            raise ValueError(f"rule {self.name}: expected one of below and above")
        texts = [text for values in (*self.only.values(), *self.unless.values()) for text in values]
        for text in [*texts, *self.languages]:
            if not isinstance(text, str) or set(text) & set("'\\"):  # they end or escape a string of SQL
                raise ValueError(
                    f"rule {self.name}: expected texts without quotes and backslashes ('no', never no), found {text!r}"
                )

        unknown = [lang for lang in self.languages if not LANGUAGE.fullmatch(lang)]
        if unknown:
            raise ValueError(
                f"rule {self.name}: expected codes of languages such as de, or {OTHERWISE}; found {', '.join(unknown)}"
            )

    def limit(self, lang: str | None) -> float | None:
        """The threshold for a document in this language; None where the rule is off for it."""
        return self.languages.get(lang, self.threshold)

    @property
    def threshold(self) -> float:
        """That of a language which `languages` does not name."""
        return self.below if self.above is None else self.above

    @property
    def columns(self) -> tuple[str, ...]:
        """What the condition reads."""
        return tuple(dict.fromkeys([self.signal, *self.only, *self.unless, *(["lang"] if self.languages else [])]))

    def at(self, threshold: Threshold) -> Rule:
        """With another threshold for all, or others for some languages: {"de": 15, "default": 10}."""
        languages = dict(threshold) if isinstance(threshold, dict) else {}
        number = languages.pop(OTHERWISE, self.threshold) if isinstance(threshold, dict) else threshold
        if number is None:
            raise ValueError(
                f"rule {self.name}: expected a number for {OTHERWISE}; "
                "a rule without one is turned off by null in its place"
            )
        merged = self.languages | languages if isinstance(threshold, dict) else {}
        return replace(self, **{"below" if self.above is None else "above": float(number)}, languages=merged)

    def fails(self, row: Mapping[str, Any]) -> bool:
        """Whether a document with these signals (those of `columns`) fails."""
        value, threshold = row[self.signal], self.limit(row["lang"] if self.languages else None)
        if value is None or threshold is None:
            return False
        holds = all(row[name] in values for name, values in self.only.items())
        spared = any(row[name] in values for name, values in self.unless.items())
        return holds and not spared and (value < threshold if self.above is None else value > threshold)

    @property
    def sql(self) -> str:
        """The same as SQL that Spark and DuckDB read alike; null where a signal is."""
        threshold = number(self.threshold)
        if self.languages:
            cases = [
                f"when {_text(lang)} then {'null' if other is None else number(other)}"
                for lang, other in self.languages.items()
            ]
            threshold = f"case coalesce(lang, '') {' '.join(cases)} else {threshold} end"
        conditions = [f"{self.signal} {'<' if self.above is None else '>'} {threshold}"]
        for names, verb in ((self.only, "in"), (self.unless, "not in")):
            conditions += [
                f"coalesce({name}, '') {verb} ({', '.join(map(_text, values))})" for name, values in names.items()
            ]
        return "(" + " and ".join(conditions) + ")"


def number(value: float) -> str:
    """With an exponent: a number without one is a decimal in SQL, and compares as one."""
    said = repr(float(value))
    return said if "e" in said else f"{said}e0"


def _text(value: str) -> str:
    return f"'{value}'"


def domains() -> tuple[str, ...]:
    """Domains that have rules."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(
    domain: str, changes: dict[str, Threshold | None] | None = None, fitted: dict[str, dict[str, float]] | None = None
) -> tuple[Rule, ...]:
    """A domain's rules in order, with the thresholds that were fitted to languages (rule, language) and then the
    recipe's changes.

    Raises ValueError naming an unknown domain or rule.
    """
    if domain not in domains():
        raise ValueError(f"expected a domain among {', '.join(domains())}, found {domain}")
    rules = [Rule(**entry) for entry in yaml.safe_load((FOLDER / f"{domain}.yaml").read_text("utf-8"))]
    changes, fitted = changes or {}, fitted or {}
    unknown = sorted(set(changes) - {rule.name for rule in rules})
    if unknown:
        raise ValueError(
            f"rules.{domain}: expected names among {', '.join(rule.name for rule in rules)}; found {', '.join(unknown)}"
        )
    rules = [rule.at(fitted[rule.name]) if rule.fit and rule.name in fitted else rule for rule in rules]
    return tuple(rule.at(changes.get(rule.name, {})) for rule in rules if changes.get(rule.name, {}) is not None)
