"""A delivery is told: its files are looked at, its name goes into the home's delivery file, and a Prefect server that
is named hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.home import Home
from flows.preflight import check_home
from pipelines.deliveries import Delivery
from pipelines.readers import ingest
from schemas.delivery_file import read_deliveries, write_deliveries
from schemas.recipe import Recipe, RecipeError, load

EVENT = "millrace.delivery"
ATTEMPTS = 2  # to reach a server; the command can be repeated
SECONDS = 30.0


class Unheard(ConnectionError):
    """The delivery is written down, and the server that is named does not answer."""


@dataclass(frozen=True)
class Told:
    """What became of a delivery: of how many files and bytes it is, whether it was known before, and which server
    heard of it."""

    files: int
    bytes: int
    known: bool
    server: str | None

    def __str__(self) -> str:
        done = "delivered before, nothing added" if self.known else "delivered"
        heard = f"{self.server} has heard of it"
        alone = "no Prefect server is named (PREFECT_API_URL); runs by hand and schedules take it up"
        return f"{done}, {self.files:,} files of {self.bytes / 1e6:,.1f} MB; {heard if self.server else alone}"


def delivery_named(text: str) -> Delivery:
    """SOURCE/SNAPSHOT as a delivery. Raises ValueError for another text."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}/[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", text):
        raise ValueError(
            f"expected SOURCE/SNAPSHOT as recipes name them, such as web/2026-12-01 (letters, digits, - _ ., 40 at "
            f"most each), found {text!r:.120}"
        )
    return Delivery.named(text)


def deliver(delivery: Delivery, file: Path) -> Told:
    """Add a delivery to those of a recipe (path to its YAML file), and tell the Prefect server, if one is named.

    One that is known is told again: an event may be lost. Raises RecipeError for a source that takes no deliveries or
    has no files there, Unheard for a server that does not answer.
    """
    recipe = load(file, tuple(delivery))
    home = Home.of(recipe)
    try:
        check_home(recipe)
        files = _files(delivery, recipe)
        known = _remember(home, delivery)
    except ValueError as error:
        raise RecipeError(f"{file}: {error}") from None
    server = prefect_server()
    if server:
        _emit(home, delivery, file, server)
    return Told(len(files), sum(one.bytes for one in files), known, server)


def _files(delivery: Delivery, recipe: Recipe) -> list:
    """The files of this delivery alone: older ones may lie elsewhere by now."""
    source = next(one for one in recipe.sources if one.name == delivery.source)
    (only,) = (one for one in source.deliveries if one.snapshot == delivery.snapshot)
    return ingest.listing(recipe.model_copy(update={"sources": (only,)}))[delivery]


def _remember(home: Home, delivery: Delivery) -> bool:
    """Write the delivery down behind those of its source; whether it was there before."""
    home.root.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        known = read_deliveries(home.root)
        listed = known.setdefault(delivery.source, [])
        if delivery.snapshot in listed:
            return True
        listed.append(delivery.snapshot)
        write_deliveries(home.root, known)
        return False


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Not the lock of runs: one may hold that for hours."""
    with open(home.root / "deliveries.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prefect_server() -> str | None:
    """The URL of the Prefect server that the environment or the active profile names. Prefect is imported only where
    one of them could."""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml").expanduser()
    if not os.environ.get("PREFECT_API_URL") and not profiles.exists():
        return None
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def _emit(home: Home, delivery: Delivery, file: Path, server: str) -> None:
    """Returns once the server has answered."""
    from prefect.events import Event
    from prefect.events.clients import get_events_client

    event = Event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"millrace.home.{home.key}",
            "prefect.resource.name": home.root.resolve().name,
        },
        payload={**delivery._asdict(), "recipe": str(file.resolve())},
    )

    logging.getLogger("prefect.events").setLevel(logging.CRITICAL)  # what goes wrong is said once, by us

    async def send() -> None:
        async with get_events_client(reconnection_attempts=ATTEMPTS, checkpoint_every=1) as client:
            await client.emit(event)

    try:
        asyncio.run(asyncio.wait_for(send(), SECONDS))
    except Exception as error:  # of the network, of websockets, of a server that wants a password
        raise Unheard(
            f"{delivery} is written down, but expected Prefect's server at {server} to hear of it, found "
            f"{error or type(error).__name__}. Runs by hand and schedules take it up; the same command tells it again"
        ) from error
