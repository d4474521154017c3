"""Deployments: recipes on a Prefect server, by the clock or by delivery, and who is told how their runs end.

A deployment holds the recipe's absolute path and the folder that its relative paths start from. Runs of one home wait
for one another in a work queue of that home. Whatever is deployed again takes the place of what was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from apprise import Apprise
from prefect import serve
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.events import DeploymentEventTrigger, EventTrigger
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.curriculum import curriculum
from flows.deliver import EVENT
from flows.home import Home
from flows.preflight import check
from schemas.errors import DataError
from schemas.recipe import RecipeError

POOL = "millrace"
ENDS = "Completed", "Failed", "GateClosed", "Crashed", "Cancelled", "TimedOut"  # states that are told


@dataclass(frozen=True)
class When:
    """What starts runs of a deployment, besides people: a cron line (UTC), an interval, deliveries."""

    cron: str | None = None
    every: timedelta | None = None
    on_delivery: bool = False


def schedule(cron: str | None, every: str | None, on_delivery: bool) -> When:
    """Raises DataError for both a cron line and an interval, or for one that cannot be read."""
    if cron and every:
        raise DataError("expected --cron or --every, found both")
    interval = re.fullmatch(r"([1-9]\d{0,5})([smhd])", every or "1d")
    if not interval:
        raise DataError(f"--every: expected a number with s, m, h or d, such as 6h, found {every!r}")
    try:
        CronSchedule(cron=cron or "* * * * *")
    except ValueError:
        raise DataError(f"--cron: expected five fields such as '0 3 * * *', found {cron!r}") from None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    length = timedelta(**{units[interval[2]]: int(interval[1])})
    return When(cron, length if every else None, on_delivery)


def deploy(recipes: list[Path], when: When, notify: list[str]) -> list[str]:
    """Register a deployment a recipe, to be run by a worker of the pool; returns their names, flow/deployment.

    Raises RecipeError for a recipe that cannot be run, and DataError without a server, for a name that is another
    recipe's, or for an address that nobody can be told at.
    """
    made, addresses = [deployment(recipe, when) for recipe in recipes], [_address(url) for url in notify]
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        for one in made:
            _queue(client, one.work_queue_name)
            one.work_pool_name = POOL
            _register(client, one, addresses)
    return [f"{one.flow_name}/{one.name}" for one in made]


def serve_here(recipes: list[Path], when: When, notify: list[str]) -> None:
    """Register the same without pool and queues, and run what is due in processes of this one until it is stopped."""
    made, addresses = [deployment(recipe, when) for recipe in recipes], [_address(url) for url in notify]
    for one in made:
        one.work_queue_name = None
    with get_client(sync_client=True) as client:
        for one in made:
            _leave_pool(client, one)
            _register(client, one, addresses)
    serve(*made)


def _leave_pool(client: SyncPrefectClient, made: RunnerDeployment) -> None:
    """A deployment that belongs to a pool keeps it whatever it is registered with, and a worker would run it too."""
    _require_own_name(client, made)
    with contextlib.suppress(ObjectNotFound):
        there = client.read_deployment_by_name(f"{made.flow_name}/{made.name}")
        if there.work_pool_name:
            client.delete_deployment(there.id)


def deployment(recipe: Path, when: When) -> RunnerDeployment:
    """What is registered for a recipe."""
    checked = check(recipe)
    home = Home.of(checked.recipe)
    _require_server()
    delivered = DeploymentEventTrigger(
        name=f"{EVENT} {home.key}", expect={EVENT}, match={"prefect.resource.id": f"millrace.home.{home.key}"}
    )
    return curriculum.to_deployment(
        name=recipe.stem,
        cron=when.cron,
        interval=when.every,
        triggers=[delivered] if when.on_delivery else [],
        parameters={"recipe": str(recipe.resolve()), "folder": os.getcwd()},
        description=f"What is not done of `{recipe.resolve()}`, into `{home.root.resolve()}`",
        tags=["millrace", home.key],
        work_queue_name=home.key,
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _require_server() -> None:
    if not PREFECT_API_URL.value():
        raise DataError(
            "expected a Prefect server, found none named: `prefect server start`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )
    with get_client(sync_client=True) as client:
        if unwell := client.api_healthcheck():
            raise DataError(
                f"expected a Prefect server at {PREFECT_API_URL.value()}, found none that answers "
                f"({type(unwell).__name__}): start it with `prefect server start`, or name another by PREFECT_API_URL"
            )


def _queue(client: SyncPrefectClient, name: str) -> None:
    """One run at a time of the home that it is called by."""
    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
        client.update_work_queue(queue.id, concurrency_limit=1)
    except ObjectNotFound:
        client.create_work_queue(name, work_pool_name=POOL, concurrency_limit=1)


def _register(client: SyncPrefectClient, made: RunnerDeployment, addresses: list[str]) -> None:
    _require_own_name(client, made)
    deployment_id = made.apply()
    name = f"{made.flow_name}/{made.name}"
    for old in client.read_automations():
        if old.name.startswith(f"{name}: "):
            client.delete_automation(old.id)
    _restart(deployment_id, name).create()
    for address in addresses:
        _notification(deployment_id, name, address).create()


def _require_own_name(client: SyncPrefectClient, made: RunnerDeployment) -> None:
    try:
        there = client.read_deployment_by_name(f"{made.flow_name}/{made.name}")
    except ObjectNotFound:
        return
    if there.parameters.get("recipe") != made.parameters["recipe"]:
        raise RecipeError(
            f"{made.parameters['recipe']}: expected a file name of its own, found the deployment {made.name!r} of "
            f"{there.parameters.get('recipe')}; rename one of them, or delete that: "
            f"`prefect deployment delete {made.flow_name}/{made.name}`"
        )


def _ended(deployment_id: UUID, states: tuple[str, ...]) -> EventTrigger:
    """A run of the deployment came into one of the states."""
    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in states},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={
            "prefect.resource.id": f"prefect.deployment.{deployment_id}",
            "prefect.resource.role": "deployment",
        },
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _restart(deployment_id: UUID, name: str) -> Automation:
    """A run whose process was killed or whose machine went away goes on from its last step, once (`curriculum`).

    Prefect tells of a crash twice, by the process that started the run and 3 s later by the worker: what goes on
    before that would be told crashed itself.
    """
    crashed = _ended(deployment_id, ("Crashed",))
    settled = crashed.model_copy(
        update={
            "posture": Posture.Proactive,
            "after": crashed.expect,
            "expect": {"prefect.flow-run.Running"},
            "for_each": {"prefect.resource.id"},
            "within": timedelta(seconds=15),
        }
    )
    again = ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="goes on after the crash")
    return Automation(name=f"{name}: once more after a crash", trigger=settled, actions=[again])


def _notification(deployment_id: UUID, name: str, address: str) -> Automation:
    """Whoever is at the address is told how each run ended. The address is kept as a secret of the server's."""
    # this block hands any address to Apprise, whatever its name says; one kind cannot be told without saving a block
    block: Any = SlackWebhook(url=address)
    block_id = block.save(f"millrace-{_digest(address)}", overwrite=True)
    told = SendNotification(
        block_document_id=block_id,
        subject=f"{name}: " + "{{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    return Automation(name=f"{name}: told to {_digest(address)}", trigger=_ended(deployment_id, ENDS), actions=[told])


def _address(url: str) -> str:
    """An address of Apprise's. A plain web address is posted JSON to."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it says what it cannot read, secrets and all
    for address in (url, url.replace("http", "json", 1)):
        if Apprise().add(address):
            return address
    raise DataError(
        "--notify: expected an address of Apprise's, such as mailto://, slack:// or https://, found another"
    )


def _digest(address: str) -> str:
    """Tells addresses apart without saying them."""
    return hashlib.blake2b(address.encode(), digest_size=4).hexdigest()
