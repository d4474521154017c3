"""Before anything starts: a recipe is loaded and checked, and its sources are listed, once a command."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from flows.job import domain_rules
from pipelines.decontaminate import items
from pipelines.readers import ingest
from pipelines.readers.files import HOME_FILES, HOME_PARTS, fixed_part
from pipelines.rules import Rule
from schemas.recipe import Recipe, RecipeError, load

NUMBERS = ("int", "bigint", "float", "double")
# In a path, delta-rs takes some of these for parts of a URL and writes elsewhere or panics (1.6.6); Spark others for
# quotes or variables; a colon in a glob is an error of Hadoop's. A question mark ends the place of Prefect's database.
MISTAKEN = re.compile(r"[][^|\\%`?\x00-\x1f\x7f\ud800-\udfff]|\$\{|:(?=.*[{}*])|[{}*](?=.*:)")


@dataclass(frozen=True)
class Preflight:
    """A recipe that can be run, the files of each of its deliveries, and by delivery a hash of what they are."""

    recipe: Recipe
    files: ingest.Listing
    deliveries: dict[str, str]


def check(path: Path) -> Preflight:
    """Load a recipe and check all that can be known before anything starts. Raises RecipeError."""
    recipe = load(path)
    try:
        return preflight(recipe)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None


def preflight(recipe: Recipe) -> Preflight:
    """Raises ValueError naming the field, what was expected and what was found."""
    check_home(recipe)
    check_rules(recipe)
    files = ingest.listing(recipe)
    ingest.check(recipe, files)
    items.read(recipe.decontaminate)
    check_kinds(recipe)
    check_routes(recipe)
    return Preflight(recipe, files, ingest.hashes(recipe, files))


def check_home(recipe: Recipe) -> None:
    """Raises ValueError for a home that the libraries below would look for elsewhere, or that holds what it is made
    of."""
    home = os.path.realpath(recipe.home)
    if found := MISTAKEN.search(home):
        raise ValueError(
            f"home: expected a path without [ ] ^ | \\ % ` ? ${{ and control characters, nor a colon beside {{ }} *, "
            f"which the lake's libraries take for something else; found {found[0]!r} in {home!r}"
        )
    check_place(Path(home))
    for source in (one for all_of_it in recipe.sources for one in all_of_it.deliveries if one.path):
        below = os.path.relpath(os.path.realpath(fixed_part(source.path)), home).split("/")[0]
        if below in (*HOME_PARTS, *HOME_FILES, "."):
            raise ValueError(
                f"sources.{source.name}.path: expected text from outside of the home, found {source.path!r}, which is "
                f"{'the home' if below == '.' else f'part of {recipe.home!r}'}"
            )


def check_place(home: Path) -> None:
    """Raises ValueError for a home that no folder can be made for."""
    there = next(one for one in (home, *home.parents) if os.path.exists(one))
    if not there.is_dir():
        raise ValueError(f"home: expected a folder, or a place for one; found {there}, a file")
    is_disk = os.statvfs(there).f_blocks > 0  # the kernel's own, such as /proc, have none
    if there != home and not (is_disk and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(
            f"home: expected a folder, or a place for one; found {home}, and nothing can be made in {there}"
        )


def check_rules(recipe: Recipe) -> None:
    """Raises ValueError for a domain or rule that is not there, or a rule on what nobody measures or nobody can
    compare."""
    from pipelines import signals

    types = {column.name: column.type for column in signals.TABLE.columns}
    for domain, members in domain_rules(recipe).items():
        for rule in members:
            try:
                check_columns(rule, types)
            except ValueError as error:
                raise ValueError(f"pipelines/rules/{domain}.yaml: rule {rule.name}: {error}") from None


def check_columns(rule: Rule, types: dict[str, str]) -> None:
    """Raises ValueError for a rule on columns that are not among `types`, or of types that it cannot compare."""
    unknown = sorted(set(rule.columns) - types.keys())
    if unknown:
        near = get_close_matches(unknown[0], types, n=5, cutoff=0.0)
        raise ValueError(f"expected signals such as {', '.join(near)}; found {', '.join(unknown)}")
    if types[rule.signal] not in NUMBERS:
        raise ValueError(f"expected a signal that is a number, found {rule.signal}, {types[rule.signal]}")
    wrong = [name for name in [*rule.only, *rule.unless] if types[name] != "string"]
    if wrong:
        raise ValueError(f"expected text columns in only and unless, found {', '.join(wrong)}")


def check_kinds(recipe: Recipe) -> None:
    """Raises ValueError if the recipe masks a kind of personal data that is not looked for."""
    if recipe.edits.personal:
        from pipelines.signals.personal import PLACEHOLDERS

        unknown = sorted(set(recipe.edits.personal) - set(PLACEHOLDERS))
        if unknown:
            raise ValueError(
                f"edits.personal: expected kinds among {', '.join(sorted(PLACEHOLDERS))}; found {', '.join(unknown)}"
            )


def check_routes(recipe: Recipe) -> None:
    """Raises ValueError for a route that could never hold, or that goes by what is not measured before it."""
    from pipelines.signals.routes import SIGNALS

    sources = {source.domain for source in recipe.sources}
    for i, route in enumerate(recipe.routes):
        kinds = ("string",) if route.one_of or route.none_of else ("int", "double")
        fitting = sorted(name for name, kind in SIGNALS.items() if kind in kinds)
        for field, found, known in (("domain", route.domain, sorted(sources)), ("signal", route.signal, fitting)):
            if found not in known:
                raise ValueError(f"routes[{i}].{field}: expected one of {', '.join(known)}; found {found}")
