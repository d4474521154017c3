"""The default rules of each domain, as data: one YAML file a domain, every rule with its source.

A rule names a signal and the values at which a document is dropped: `below`, or `above`. It may hold `only` for some
values of text columns, or for all `unless` they have some values; `languages` gives other thresholds to some languages,
null none; `fit` says how pipelines.models.languages takes a language's threshold from trusted documents. Adding a rule
is one entry in a file; a recipe replaces a threshold, or turns a rule off, under `rules.<domain>.<rule>`.

Rules see form: lengths, repetition, symbols, furniture of pages, languages. They drop what is broken, and what is no
text; they do not know what a text says, or why it was written: of mail, those for web pages keep .23 of spam and .21 of
ham. What is wanted besides form is for a quality model to tell, or for routes and sources.

    judge  step judge (silver.verdicts): every reason against a document
    trial  other thresholds against a measured corpus
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from schemas.strict_yaml import load_yaml

FOLDER = Path(__file__).parent
TAKEN = ("exact_duplicate", "near_duplicate", "contaminated", "torso")  # reasons that no rule gives
OTHERWISE = "default"  # in a recipe's thresholds by language: the other languages

Threshold = float | dict[str, float | None]
LANGUAGE = re.compile("[a-z]{2,3}")  # of lid.176, and und


@dataclass(frozen=True)
class Rule:
    """Drop a document whose `signal` is below `below`, or above `above`. Exactly one of the two is set.

    The condition stands here once: for rows in Python (`fails`), for Spark and DuckDB (`sql`, `case`) and for readers
    (`condition`, `description`). A signal that is null fails no rule. A text column that is null has none of the
    values of `only` and `unless`.
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
        for text in [self.name, *texts, *self.languages]:
            if not isinstance(text, str) or set(text) & set("'\\"):  # they end or escape a string of SQL
                raise ValueError(
                    f"rule {self.name}: expected texts without quotes and backslashes ('no', never no), found {text!r}"
                )

        unknown = [lang for lang in self.languages if not LANGUAGE.fullmatch(lang)]
        if unknown:
            raise ValueError(
                f"rule {self.name}: expected codes of languages such as de, or {OTHERWISE}; found {', '.join(unknown)}"
            )

    @property
    def side(self) -> str:
        """On which side of its threshold it drops: below or above."""
        return "below" if self.above is None else "above"

    def limit(self, lang: str | None) -> float | None:
        """The threshold for a document in this language; None where the rule is off for it."""
        return self.languages.get(lang, self.threshold)

    @property
    def threshold(self) -> float:
        """That of a language which `languages` does not name."""
        return getattr(self, self.side)

    def condition(self, lang: str | None = None) -> str:
        """In words, where the signal of a document in this language fails: below 50; off where the rule is off."""
        limit = self.limit(lang)
        return "off" if limit is None else f"{self.side} {limit:g}"

    @property
    def scope(self) -> list[str]:
        """In words, which documents it is for: only declared HTML, XML."""
        kept_to = [f"only {name} {', '.join(values)}" for name, values in self.only.items()]
        return kept_to + [f"unless {name} {', '.join(values)}" for name, values in self.unless.items()]

    @property
    def description(self) -> str:
        """All of it in words: n_words below 50; zh off; only declared HTML, XML."""
        languages = [f"{lang} {self.condition(lang)}" for lang in self.languages]
        return "; ".join([f"{self.signal} {self.condition()}", *languages, *self.scope])

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
        return replace(self, **{self.side: float(number)}, languages=merged)

    def fails(self, row: Mapping[str, Any]) -> bool:
        """Whether a document with these signals (those of `columns`) fails."""
        value, threshold = row[self.signal], self.limit(row["lang"] if self.languages else None)
        if value is None or threshold is None:
            return False
        holds = all(row[name] in values for name, values in self.only.items())
        spared = any(row[name] in values for name, values in self.unless.items())
        return holds and not spared and (value < threshold if self.side == "below" else value > threshold)

    @property
    def sql(self) -> str:
        """The same as SQL that Spark and DuckDB read alike; null where a signal is."""
        conditions = [f"{self.signal} {'<' if self.side == 'below' else '>'} {self.limit_sql}"]
        for names, verb in ((self.only, "in"), (self.unless, "not in")):
            conditions += [
                f"coalesce({name}, '') {verb} ({', '.join(map(_text, values))})" for name, values in names.items()
            ]
        return "(" + " and ".join(conditions) + ")"

    @property
    def limit_sql(self) -> str:
        """SQL of `limit`: null where the rule is off."""
        if not self.languages:
            return number(self.threshold)
        limits = {lang: "null" if limit is None else number(limit) for lang, limit in self.languages.items()}
        cases = [f"when {_text(lang)} then {limit}" for lang, limit in limits.items()]
        return f"case coalesce(lang, '') {' '.join(cases)} else {number(self.threshold)} end"

    def case(self, domain: str, prefix: str = "") -> str:
        """SQL: the rule's name, after `prefix`, where a document of the domain fails it; else null."""
        return f"case when domain = {_text(domain)} and {self.sql} then {_text(prefix + self.name)} end"


def read(file: Path) -> list[Rule]:
    """The rules of a file as they stand there. Raises ValueError naming the file, the rule and what was expected."""
    place = f"pipelines/rules/{file.name}"
    try:
        entries = load_yaml(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{place}: expected a list of rules, each {{name: ..., signal: ..., below or above: ...}}")
    try:
        rules = [_rule(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    names = [*TAKEN, *(rule.name for rule in rules)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{place}: expected names that differ, also from {', '.join(TAKEN)}; found {', '.join(twice)}")
    return rules


def _rule(entry: dict[str, Any]) -> Rule:
    name, known = entry.get("name"), [one.name for one in fields(Rule)]
    unknown = [str(key) for key in entry if key not in known]
    missing = [key for key in ("name", "signal", "source") if not isinstance(entry.get(key), str)]
    if unknown:
        raise ValueError(f"rule {name}: expected fields among {', '.join(known)}; found {', '.join(unknown)}")
    if missing:
        raise ValueError(f"rule {name}: expected a text for {', '.join(missing)}")
    for side in ("below", "above"):
        if not isinstance(entry.get(side, 0), int | float):
            raise ValueError(f"rule {name}: expected a number for {side}, found {entry[side]!r}")
    return Rule(**entry)


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
    rules = read(FOLDER / f"{domain}.yaml")
    changes, fitted = changes or {}, fitted or {}
    unknown = sorted(set(changes) - {rule.name for rule in rules})
    if unknown:
        raise ValueError(
            f"rules.{domain}: expected names among {', '.join(rule.name for rule in rules)}; found {', '.join(unknown)}"
        )
    rules = [rule.at(fitted[rule.name]) if rule.fit and rule.name in fitted else rule for rule in rules]
    return tuple(rule.at(changes.get(rule.name, {})) for rule in rules if changes.get(rule.name, {}) is not None)
