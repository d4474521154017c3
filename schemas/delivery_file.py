"""The delivery file of a home: which snapshots of a source were delivered. A recipe that says `snapshots: delivered`
takes its list from here, and is from then on one in which the list is written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from schemas.files import write_json
from schemas.parts import LocalPath, Name, Snapshot

WORD = "delivered"
FILE = "deliveries.json"
Deliveries = dict[str, list[str]]  # by source, its snapshots, oldest first
CONTENT = TypeAdapter(dict[Name, list[Snapshot]])


def delivery_file(home: Path) -> Path:
    return home / FILE


def read_deliveries(home: Path) -> Deliveries:
    """What was delivered; nothing where there is no file. Raises ValueError for one that `flows deliver` did not
    leave so."""
    file = delivery_file(home)
    try:
        known = CONTENT.validate_json(file.read_bytes(), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(_damaged(file, f"{place}: {first['msg']}" if place else first["msg"])) from None
    for source, snapshots in known.items():
        if twice := sorted({one for one in snapshots if snapshots.count(one) > 1}):
            raise ValueError(_damaged(file, f"{source}: {', '.join(twice)} stands there twice"))
    return known


def _damaged(file: Path, found: str) -> str:
    return (
        f"{file}: expected an object of sources with lists of snapshots, oldest first; found {found}. Mend it by "
        "hand, or delete it and tell `flows deliver` each delivery again, oldest first"
    )


def write_deliveries(home: Path, known: Deliveries) -> None:
    write_json(delivery_file(home), known)


def with_deliveries(value: Any, arrival: tuple[str, str] | None = None) -> Any:
    """A recipe's YAML value with the lists of the delivery file of its home where it says `snapshots: delivered`.

    arrival: (source, snapshot) that counts as delivered; other sources that wait for their first delivery take the
    same name, so that all else can be checked. Raises ValueError where nothing was delivered, or the arrival's source
    takes no deliveries.
    """
    sources = value.get("sources") if isinstance(value, dict) else None
    sources = sources if isinstance(sources, list) else []
    waiting = [one.get("name") for one in sources if isinstance(one, dict) and one.get("snapshots") == WORD]
    if arrival and arrival[0] not in waiting:
        named = ", ".join(map(str, waiting)) or "none"
        raise ValueError(
            f"expected a source that says `snapshots: {WORD}` (here: {named}), found {arrival[0]}, which does not"
        )
    if not waiting:
        return value
    known = _known(value.get("home"), arrival, waiting)
    return value | {"sources": [_with_list(one, known, i) for i, one in enumerate(sources)]}


def _known(home: Any, arrival: tuple[str, str] | None, waiting: list[Any]) -> Deliveries:
    try:
        known = read_deliveries(Path(TypeAdapter(LocalPath).validate_python(home, strict=True)))
    except ValidationError:  # the recipe's own check says what is wrong with its home
        return {str(name): ["1"] for name in waiting}
    if arrival:
        source, snapshot = arrival
        listed = known.get(source, [])
        known[source] = listed if snapshot in listed else [*listed, snapshot]
        known = {str(name): [snapshot] for name in waiting} | {name: listed for name, listed in known.items() if listed}
    return known


def _with_list(source: Any, known: Deliveries, number: int) -> Any:
    if not isinstance(source, dict) or source.get("snapshots") != WORD:
        return source
    name, path = source.get("name"), source.get("path")
    if "{snapshot}" not in str(path):
        raise ValueError(f"sources[{number}]: path must hold {{snapshot}} where snapshots are {WORD}, found {path!r}")
    if not known.get(str(name)):
        raise ValueError(
            f"sources[{number}].snapshots: nothing was delivered to {name} yet: `flows deliver {name}/SNAPSHOT -r "
            "RECIPE` tells of a delivery once its files are there"
        )
    return source | {"snapshots": known[str(name)]}
