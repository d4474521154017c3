"""The commands. Thin: each checks, sets Prefect's environment, and says in one message what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from flows import STEPS
from flows.exits import MEANINGS, Exit
from flows.home import DiskFull, Home
from flows.scratch import HomeBusy, held
from schemas import fields
from schemas import recipe as recipes
from schemas.errors import DataError, GateClosed, RunBusy, Stopped
from schemas.parts import store_url
from schemas.recipe import RecipeError
from schemas.store import refusal

DEFAULT = Path(__file__).parent / "recipes" / "local.yaml"
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Raw text in, a trained mixture of experts out. Start with: `flows run curriculum`",
    epilog="Exit codes:\n\n" + "\n".join(f"* {code.value}: {meaning}" for code, meaning in MEANINGS.items()),
)
recipe_app = typer.Typer(no_args_is_help=True, help="Check recipes, list their fields.")
app.add_typer(recipe_app, name="recipe")
rules_app = typer.Typer(
    no_args_is_help=True, help="Try other thresholds on the measured corpus; see why a document fails."
)
app.add_typer(rules_app, name="rules")
WIDE = 160  # columns: tables of long texts, and all of them where no terminal says how wide it is


def wide_console(least: int = WIDE) -> Console:
    """A console of at least so many columns. Without a terminal or COLUMNS Rich takes 80, which break headers."""
    made = Console(highlight=False)
    is_told = made.is_terminal or "COLUMNS" in os.environ
    return Console(highlight=False, width=max(made.width if is_told else WIDE, least))


console = wide_console(least=0)
RecipePath = Annotated[
    Path, typer.Option("--recipe", "-r", help="Recipe (YAML); the default curates this machine's Python installation.")
]


@app.command()
def run(
    what: Annotated[
        str, typer.Argument(help=f"curriculum (everything that is not done) or one step: {', '.join(STEPS)}")
    ],
    recipe: RecipePath = DEFAULT,
) -> None:
    """Run the whole curriculum, or one step of it.

    What is done already is skipped: after a change of the recipe only the steps that depend on it run, and a run that
    was stopped goes on where it was.

    Example: `flows run curriculum --recipe my.yaml`, then `flows run judge -r my.yaml`
    """
    if what != "curriculum" and what not in STEPS:
        raise typer.BadParameter(f"expected curriculum or one of {', '.join(STEPS)}; found {what}")
    only = None if what == "curriculum" else what
    with _said_plainly():
        from flows.preflight import check
        from flows.status import pending, states

        checked = check(recipe)
        home = Home.of(checked.recipe)
        # Bytes of models are compared once: here where all else is done, else by the flow.
        if not any(pending(states(checked, home, models=models), only) for models in (False, True)):
            console.print(f"Nothing to do: every step of {recipe} is done. The report: {home.report_page()}")
            return
        home.require_space()
        with home.held() as require_lake:
            home.sweep()
            _prepare_environment(home)
            from flows.curriculum import curriculum_of

            curriculum_of(checked, require_lake)(str(recipe), only)
        if only in (None, "report"):
            from flows.summary import print_summary

            print_summary(checked.recipe, home, console)


@app.command()
def status(recipe: RecipePath = DEFAULT) -> None:
    """Show every step of the recipe's home folder: done, stale (and because of what) or missing.

    Of large files it compares the sizes. `flows run` compares what trained models hold when it begins, and what shards
    hold when they are read.

    Example: `flows status`
    """
    with _said_plainly():
        from flows.preflight import check
        from flows.status import states

        checked = check(recipe)
        table = Table("step", "state", "seconds", "finished, UTC", Column("why", overflow="fold"), box=None)
        colours = {"done": "green", "stale": "yellow", "missing": "red"}
        for state in states(checked, Home.of(checked.recipe)):
            seconds = f"{state.receipt.seconds:.1f}" if state.receipt else ""
            finished = state.receipt.finished_at[:16].replace("T", " ") if state.receipt else ""
            table.add_row(state.step.name, f"[{colours[state.state]}]{state.state}[/]", seconds, finished, state.why)
        console.print(table)


@app.command()
def deploy(
    recipes: Annotated[list[Path], typer.Argument(help="recipes (YAML), a deployment each, called by the file's name")],
    cron: Annotated[str | None, typer.Option(help="When, as cron says it, such as '0 3 * * *'; UTC.")] = None,
    every: Annotated[str | None, typer.Option(help="How often: a number with s, m, h or d, such as 6h.")] = None,
    on_delivery: Annotated[bool, typer.Option("--on-delivery", help="Whenever `flows deliver` tells of one.")] = False,
    notify: Annotated[
        list[str] | None,
        typer.Option(help="Tell this address how runs end: any of Apprise's, or https:// for JSON. Repeatable."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Run what is due from this process, until it is stopped.")
    ] = False,
) -> None:
    """Put recipes on a Prefect server (PREFECT_API_URL), to run by the clock, by delivery, or when someone says so.

    Runs of one home wait for one another; a crashed one goes on once. Without --here a worker runs them:
    `prefect worker start --pool millrace`. A second time, what was registered is replaced.

    Example: `flows deploy my.yaml --cron "0 3 * * *" --notify https://example.org/hook`
    """
    with _said_plainly():
        from flows.deploy import deploy, schedule, serve_here

        when = schedule(cron, every, on_delivery)
        if here:
            serve_here(recipes, when, notify or [])
            return
        for name in deploy(recipes, when, notify or []):
            console.print(f"{name} is deployed. Now: `prefect deployment run {name}`", soft_wrap=True)
        console.print("Runs are taken up by `prefect worker start --pool millrace`.")


@app.command()
def deliver(
    delivery: Annotated[str, typer.Argument(metavar="SOURCE/SNAPSHOT", help="what was delivered")],
    recipe: RecipePath = DEFAULT,
) -> None:
    """Tell of a delivery whose files are there: the source, which says `snapshots: delivered`, has one more snapshot.

    A Prefect server that PREFECT_API_URL or the active profile names hears of it, and starts what waits for it. Telling
    twice adds nothing and tells the server again. Example: `flows deliver web/2026-12-01 -r my.yaml`
    """
    from flows.deliver import deliver as tell
    from flows.deliver import delivery_named

    try:
        named = delivery_named(delivery)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with _said_plainly():
        console.print(f"{named}: {tell(named, recipe)}", soft_wrap=True, markup=False)


@app.command()
def report(
    recipe: RecipePath = DEFAULT, show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False
) -> None:
    """Print the path of the report of the recipe's last finished run, or open it. Example: `flows report --open`"""
    with _said_plainly():
        page = _home(recipe).report_page()
        console.print(str(page), soft_wrap=True)
        if show:
            webbrowser.open(page.resolve().as_uri())


@app.command()
def accept(
    delivery: Annotated[str, typer.Argument(help="SOURCE/SNAPSHOT, as the gate names it")],
    why: Annotated[str, typer.Option(help="Why it may differ; kept in ops.deliveries with your name.")],
    recipe: RecipePath = DEFAULT,
) -> None:
    """Let a delivery through that the gate stopped. The next run goes on with it.

    Example: `flows accept web/2026-11 --why 'the crawl has Polish now'`
    """
    with _said_plainly():
        from flows.steps.gate import accept

        home = _home(recipe)
        with home.held():
            accept(home, delivery, why)
        console.print(f"{delivery} is accepted: `flows run curriculum` goes on.")


@app.command()
def trace(
    what: Annotated[str, typer.Argument(help="doc_id, 32 hex digits or enough of their beginning; or step:NUMBER")],
    recipe: RecipePath = DEFAULT,
) -> None:
    """Tell a document's life: origin, signals, rules, cluster, tier, spans in shards, training steps that read it; or
    what a step of the newest training run read, and what it lost on each document.

    Examples: `flows trace 3f2a`, `flows trace step:12`
    """
    with _said_plainly():
        from pipelines.lineage import life

        if what.startswith("step:"):
            from flows.summary import print_step

            print_step(_home(recipe), what, console)
            return
        for heading, lines in life(_home(recipe).lake, what):
            console.print(f"[bold]{heading}[/]")
            for line in lines:
                console.print(f"  {line}", markup=False)


@app.command()
def ui(
    recipe: RecipePath = DEFAULT,
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 5000,
) -> None:
    """Open MLflow's page over the home's training runs: curves, parameters, tables that were read, registered models.

    The first time it installs MLflow into an environment of its own. Example: `flows ui -r my.yaml`
    """
    with _said_plainly():
        from flows.ui import serve

        raise typer.Exit(serve(_home(recipe), port, lambda said: console.print(said, markup=False, soft_wrap=True)))


@app.command()
def similar(
    what: Annotated[
        str, typer.Argument(help="a text file, the beginning of a document's id, or - for text on standard input")
    ],
    recipe: RecipePath = DEFAULT,
    most: Annotated[int, typer.Option(min=1, help="Show so many documents at the most.")] = 10,
) -> None:
    """Show the documents whose text is nearest to a file's, another document's or standard input's, and what became of
    them.

    The similarity is the Jaccard index of word n-grams. Documents that share no band of the fingerprint are not found.
    Example: `flows similar README.md`, `flows similar 3f2a`, or `flows similar - < page.txt`
    """
    with _said_plainly():
        from flows.steps.measure import fingerprint_context
        from flows.summary import print_similar
        from pipelines.dedup.similar import nearest, read_query

        home = _home(recipe)
        context = fingerprint_context(home)
        query = read_query(home.lake, what, sys.stdin.buffer)
        print_similar(nearest(home.lake, query, context, most), context, wide_console())


@app.command()
def publish(
    url: Annotated[
        str | None, typer.Argument(help="s3://bucket/folder, gs:// or abfs://; the recipe's by default")
    ] = None,
    recipe: RecipePath = DEFAULT,
) -> None:
    """Send shards, and what is done of the training run and its report, to an object store; each file once.

    Credentials and endpoint are the environment's (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
    Example: `flows publish s3://bucket/mine -r my.yaml`, then anywhere `python -m model s3://bucket/mine/shards RUN`
    """
    with _said_plainly():
        from flows.preflight import check
        from flows.progress import Display, Page
        from flows.publish import publish
        from flows.status import states

        checked = check(recipe)
        if not (place := url and store_url(url) or checked.recipe.publish):
            raise RecipeError(
                f"{recipe}: expected publish: s3://bucket/folder, or a URL on the command line; found neither"
            )
        home, started = Home.of(checked.recipe), time.monotonic()
        run = next(state.hash[:12] for state in states(checked, home) if state.step.name == "train")
        with held(home.root), Display(console).step("publish", 1, 1, Page()) as bar:  # no table is written
            bar.finish(publish(home, home.runs / run, place, bar.sending), time.monotonic() - started)
        console.print(f"Sent to {place}: `python -m model {place}/shards RUN` trains on it.", soft_wrap=True)


@app.command()
def model(
    what: Annotated[str | None, typer.Argument(metavar="[PRESET|RECIPE]", help="a preset's name, or a recipe")] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 16, help="GPUs, eight to a machine; as many of 8 as share a recipe's batch."),
    ] = None,
    seq: Annotated[int | None, typer.Option(min=1, help="Tokens of a row; a recipe's longest, else 4,096.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a GPU and step; a recipe's share, else 32,768 or one row.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(min=2, help="Tokens known; a recipe's, else DBRX's 100,352.")] = None,
    memory: Annotated[float, typer.Option(min=1, help="Of a GPU, in GB.")] = 141,
) -> None:
    """Tell what a model needs: parameters, memory of each GPU by kind, the parallelism that fits, tokens a second to
    expect. Without a name, list the presets. Nothing is made, and no GPU is needed.

    Example: `flows model moe-a --gpus 8 --seq 4096`
    """
    from flows.sizes import print_model, print_presets, read_task

    if what is None:
        print_presets(wide_console())
        return
    with _said_plainly():
        try:
            asked = read_task(what, gpus, seq, tokens, vocab, memory)
        except RecipeError:
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        print_model(asked, wide_console(100))


@recipe_app.command("check")
def recipe_check(file: Path) -> None:
    """Check a recipe without running it. Example: `flows recipe check my.yaml`"""
    with _said_plainly():
        from flows.preflight import check

        good = check(file).recipe
        console.print(f"{file}: good. {len(good.sources)} sources, {len(good.stages)} stages, home {good.home}")


@recipe_app.command("fields")
def recipe_fields() -> None:
    """List every field of a recipe with its type, default and meaning. Example: `flows recipe fields | grep stages`"""
    table = Table("field", "type", "default", "meaning", box=None)
    for row in fields.fields():
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    wide_console().print(table)


@rules_app.command("try")
def rules_try(file: Path, recipe: RecipePath = DEFAULT) -> None:
    """Judge the measured corpus by other rules, in seconds, changing nothing: what would be gained and lost.

    FILE holds `rules:` as a recipe does. Example: `flows rules try stricter.yaml`, with
    `rules: {docs: {too_few_words: 50, top_2gram: null}}`; thresholds not named stay those of the recipe.
    """
    with _said_plainly():
        from flows.job import domain_rules
        from flows.summary import print_trial
        from pipelines.rules.trial import try_rules

        home = _home(recipe)
        rules = domain_rules(recipes.with_rules(recipes.load(recipe), file), home)
        print_trial(try_rules(home.lake, rules), console)


@rules_app.command("explain")
def rules_explain(
    doc_id: Annotated[str, typer.Argument(help="32 hex digits, or enough of their beginning")],
    recipe: RecipePath = DEFAULT,
) -> None:
    """Show every rule of a document's domain beside what was measured. Example: `flows rules explain 3f2a`"""
    with _said_plainly():
        from flows.job import domain_rules
        from pipelines.lineage import rules_of

        table = Table("rule", "signal", "measured", "drops", "", "source", box=None)
        home = _home(recipe)
        for rule, value, condition, fails in rules_of(home.lake, doc_id, domain_rules(recipes.load(recipe), home)):
            measured = "" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
            table.add_row(rule.name, rule.signal, measured, condition, "[red]fails[/]" if fails else "", rule.source)
        wide_console().print(table)


def _home(recipe: Path) -> Home:
    """The home folder of a recipe whose sources need not be there any more."""
    return Home.of(recipes.load(recipe))


def _prepare_environment(home: Home) -> None:
    """Settings that must stand before Prefect and Java start; for Prefect what the user has set wins.

    Prefect's database stays in the home folder; telemetry is off: it needs a network, and its write can fail a run. Its
    console is silent, as the terminal shows the steps; a server is told what they say.
    """
    home.hold_scratch()
    folder = home.root.resolve() / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    require_database(folder / "prefect.db")
    os.environ.setdefault("PREFECT_HOME", str(folder))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def require_database(file: Path) -> None:
    """Raises DataError for a database of Prefect's that is damaged: Prefect waits two minutes and names no cause."""
    if not file.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(file)) as database:
            told = database.execute("pragma quick_check(1)").fetchone()[0].splitlines()[-1]
    except sqlite3.OperationalError:
        return  # locked, or no room: Prefect says it
    except sqlite3.DatabaseError as error:
        told = str(error)
    if told != "ok":
        raise DataError(
            f"{file}: expected Prefect's database, found damage ({told}). Delete it: it tells of earlier runs alone, "
            "and the same command goes on"
        )


KINDS = {
    RecipeError: Exit.RECIPE,
    DataError: Exit.DATA,
    FileNotFoundError: Exit.DATA,
    HomeBusy: Exit.BUSY,
    RunBusy: Exit.BUSY,
    DiskFull: Exit.DISK,
    GateClosed: Exit.GATE,
    Stopped: Exit.STOPPED,
    KeyboardInterrupt: Exit.STOPPED,
}


def exit_code(error: BaseException) -> Exit:
    """What a scheduler is told of an error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Exit.DISK
    return next((code for kind, code in KINDS.items() if isinstance(error, kind)), Exit.FAULT)


def sentence(error: Exception) -> str:
    """What a person is told. An error with a code of its own, or of the system's, is a sentence; of another the class
    says as much as its words."""
    if not isinstance(error, PermissionError) and (advice := refusal(str(error))):
        return f"the recipe's lake: {advice}"  # as Arrow and delta-rs say it, before any step
    is_sentence = exit_code(error) != Exit.FAULT or isinstance(error, OSError)
    return str(error) if is_sentence and str(error) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _said_plainly() -> Iterator[None]:
    """What a user can mend is said in one message; anything else keeps its traceback."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("MILLRACE_TRACEBACK"):
            raise
        print(sentence(error), file=sys.stderr)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt as error:
        raise typer.Exit(exit_code(error)) from None
