"""What the terminal says at the end of a run: the report's main tables, from its JSON, in at most 100 columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.home import Home
from flows.numbers import share, short, size
from pipelines.rules.trial import Trial
from schemas.errors import DataError
from schemas.files import read_json
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.dedup.similar import Neighbour
    from pipelines.signals.context import Context

GENERATIONS = 2
STEP_ROWS = 40
GENERATED_CHARS = 300
SIMILAR_CHARS = 120
OUTCOMES = {
    "rejected": "rejected",
    "dropped by rules": "rules",
    "near duplicates": "near dup.",
    "exact duplicates": "copies",
    "held out": "held out",
    "for training": "training",
}


def print_summary(recipe: Recipe, home: Home, console: Console) -> None:
    """Print the tables of the last report of a home folder. Raises FileNotFoundError if there is none."""
    page = home.report_page()
    facts = read_json(page.with_suffix(".json"))
    for table in (funnel(facts), losses(facts), curriculum(facts), heldout(facts)):
        console.print(table)
    for row in facts["funnel"]:
        for said in row["complaints"]:
            console.print(Text(f"Does not add up: {row['source']}: {said}", "bold red"))
    console.print(experts(facts["training"]), highlight=False)
    for one in facts["evaluation"]["generations"][:GENERATIONS]:
        console.print(Text.assemble((one["prompt"], "bold"), one["text"][:GENERATED_CHARS]))
        console.print()
    said = (
        f"{facts['training']['steps']:,} steps, {facts['provenance']['seconds']:,.0f} s for all steps of {recipe.home}"
    )
    console.print(said, markup=False, highlight=False)
    console.print(Text(f"Report: {page.resolve()}"), soft_wrap=True)


def print_step(home: Home, what: str, console: Console) -> None:
    """Print what the step `what`, as step:12, of the newest training run read. Raises DataError where it cannot."""
    from pipelines.lineage import step

    number = what.removeprefix("step:")
    runs = sorted(home.runs.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime)
    if not number.isdecimal() or not runs:
        found = repr(what) if runs else f"no training run in {home.runs}"
        raise DataError(f"expected step:NUMBER, counted from 0, of a training run; found {found}")
    run = runs[-1].parent.name
    rows = step(home.lake, run, int(number))
    table = _table(f"Step {number} of run {run}", "document", "source", "uri", "tokens", "nats a token", words=3)
    for row in rows[:STEP_ROWS]:
        table.add_row(
            (row["doc_id"] or "")[:12], row["source"], Text(row["uri"]), f"{row['tokens']:,}", f"{row['loss']:.3f}"
        )
    console.print(table)
    tokens = sum(row["tokens"] for row in rows)
    mean = sum(row["tokens"] * row["loss"] for row in rows) / max(tokens, 1)
    more = f" (the {STEP_ROWS} worst are shown)" if len(rows) > STEP_ROWS else ""
    skipped = "; the step was skipped" if rows[0]["skipped"] else ""
    console.print(f"{len(rows):,} documents{more}, {tokens:,} tokens predicted, {mean:.3f} nats a token{skipped}")


def print_trial(trial: Trial, console: Console) -> None:
    """What other rules would do: kept by source, then gained and lost by rule, then some of the documents."""
    kept = _table("Kept, now and by these rules", "source", "documents", "then", "bytes", "then", "tokens then, about")
    for row in trial.kept:
        tokens = "" if row["tokens_per_byte"] is None else short(round(row["bytes_after"] * row["tokens_per_byte"]))
        sizes = size(row["bytes_before"]), size(row["bytes_after"])
        kept.add_row(row["source"], f"{row['before']:,}", f"{row['after']:,}", *sizes, tokens)
    console.print(kept)
    changes = _table(
        "Gained and lost, by the first rule", "source", "rule", "gained", "bytes", "lost", "bytes", words=2
    )
    for row in trial.changes:
        gained, lost = (size(row[name]) if row[name] else "" for name in ("gained_bytes", "lost_bytes"))
        changes.add_row(row["source"], row["rule"], _number(row["gained"]), gained, _number(row["lost"]), lost)
    console.print(changes if trial.changes else "Nothing would change.")
    for change, rule, doc_id, text in trial.samples:
        console.print(
            Text.assemble(
                (f"{change} ", "green" if change == "gained" else "red"), f"{rule} {doc_id[:12]}  ", (text, "dim")
            )
        )


def print_similar(neighbours: list[Neighbour], context: Context, console: Console) -> None:
    """The documents near to a text, nearest first, each with the beginning of its text, personal data masked."""
    from pipelines.dedup.similar import even_chance
    from pipelines.edits.preview import SHOWN_BEHIND, beginnings

    if not neighbours:
        even = even_chance(context.bands, context.rows)
        console.print(
            f"Nothing near: no document shares a word {context.ngram}-gram and a band of the fingerprint with it. Of "
            f"documents with a similarity of {even:.2f} half share a band, of nearer ones more."
        )
        return
    table = _table("Nearest documents", "similarity", "estimate", "document", "source", "", "uri and text", words=6)
    texts = beginnings([one.text[: SIMILAR_CHARS + SHOWN_BEHIND] for one in neighbours], SIMILAR_CHARS)
    for one, text in zip(neighbours, texts, strict=True):
        kept = "" if one.keep is None else Text("kept", "green") if one.keep else Text(f"dropped: {one.reason}", "red")
        place = Text.assemble(_one_line(one.uri), "\n", (_one_line(text), "dim"))
        table.add_row(f"{one.jaccard:.3f}", f"{one.estimate:.2f}", one.doc_id[:12], one.source, kept, place)
    console.print(table)


def _one_line(text: str) -> str:
    """Without what would move the cursor or colour the terminal: documents hold any character."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _number(n: int) -> str:
    return f"{n:,}" if n else ""


def _table(title: str, *columns: str, words: int = 1) -> Table:
    """A table whose columns after the first `words` are numbers."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, expand=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < words else "right", overflow="fold")
    return table


def funnel(facts: dict[str, Any]) -> Table:
    """Two rows a source: documents and, below, bytes."""
    table = _table("What came through: documents, and bytes", "source", "in", *OUTCOMES.values(), "tokens")
    for row in facts["funnel"]:
        by_name = {one["outcome"]: one for one in row["outcomes"]}
        documents, n_bytes = ([by_name[name][unit] for name in OUTCOMES] for unit in ("documents", "bytes"))
        table.add_row(row["source"], *(f"{n:,}" for n in (row["records"], *documents, row["tokens"])))
        table.add_row("", *(size(n) for n in (sum(n_bytes), *n_bytes)), "", style="dim")
    return table


def funnel_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The funnel as rows of documents, a source each."""
    return [
        {"source": row["source"], "in": row["records"]}
        | {OUTCOMES[one["outcome"]]: one["documents"] for one in row["outcomes"] if one["outcome"] in OUTCOMES}
        | {"tokens": row["tokens"]}
        for row in facts["funnel"]
    ]


def markdown(facts: dict[str, Any], page: Path) -> str:
    """The report in short, for a page of Prefect's."""
    shown = [funnel(facts), losses(facts), curriculum(facts), heldout(facts)]
    parts = [_markdown_table(one) if isinstance(one, Table) else one for one in shown]
    where = f"The whole report: [{page.name}]({page.resolve().as_uri()}) on the machine of the run"
    return "\n\n".join([*parts, experts(facts["training"]), where])


def _markdown_table(table: Table) -> str:
    cells = [[_cell(column.header), *map(_cell, column.cells)] for column in table.columns]
    header, *rows = ["| " + " | ".join(row) + " |" for row in zip(*cells, strict=True)]
    return "\n".join([f"### {table.title}\n", header, "|---" * len(cells) + "|", *rows])


def _cell(cell: Any) -> str:
    return (cell.plain if isinstance(cell, Text) else str(cell)).replace("|", "\\|").replace("\n", " ")


def losses(facts: dict[str, Any]) -> Table:
    """What each source lost to which rule (first reasons) and why records were rejected."""
    table = _table("Lost to", "source", "first reason, documents, bytes", words=2)
    for row in facts["funnel"]:
        said = [f"{one['reason']} {one['documents']:,} ({size(one['bytes'])})" for one in row["lost"] + row["rejected"]]
        table.add_row(row["source"], Text(", ".join(said) or "nothing"))
    return table


def curriculum(facts: dict[str, Any]) -> Table:
    table = _table(
        "Curriculum", "stage", "stream", "share", "tokens", "length", "epochs so far", "effective tokens", words=2
    )
    for stage in facts["stages"]:
        theta = stage.get("rope_theta")
        name = stage["stage"] + (f" (rotary base {theta:,.0f})" if theta else "")
        for row in (row for row in stage["streams"] if row["tokens"]):
            worth = (f"{row['epochs']:.2f}", f"{row['effective_tokens']:,.0f}")
            table.add_row(
                name, row["stream"], share(row["weight"], 1), f"{row['tokens']:,}", f"{row['seq_len']:,}", *worth
            )
            name = ""
    return table


def heldout(facts: dict[str, Any]) -> Table | str:
    """Bits per byte: a row a stage, a column a domain, the references below; a sentence where nothing is held out."""
    domains = facts["evaluation"]["domains"]
    if not domains:
        return "No document is held out: there are no bits per byte. heldout.fraction says how many are.\n"
    table = _table("Held-out bits per byte (fewer is better)", "", *(domain["domain"] for domain in domains))
    for number, one in enumerate(domains[0]["stages"]):
        values = [domain["stages"][number]["bits_per_byte"] for domain in domains]
        table.add_row(one["stage"] if number == 0 else f"after {one['stage']}", *(f"{value:.3f}" for value in values))
    for name, said in (("unigram", "reference: unigram entropy"), ("gzip", "reference: gzip -9")):
        colours = ["green" if domain["beats"][name] else "red" for domain in domains]
        table.add_row(
            said, *(Text(f"{domain[name]:.3f}", colour) for domain, colour in zip(domains, colours, strict=True))
        )
    return table


def experts(training: dict[str, Any]) -> str:
    """One line: how evenly the experts were used."""
    ratios = [part * len(layer) for layer in training["expert_load"] for part in layer if len(layer) > 1]
    part = 100 * training["speed"]["flops_per_second"] / training["speed"]["dense_flops_per_second"]
    speed = f"{short(training['tokens_per_second'])} tokens/s ({part:.0f} % of dense products)"
    speed += f", final loss {training['final_loss']:.3f}"
    if not ratios:
        return speed
    return f"Expert load against an even share: least {min(ratios):.2f}, most {max(ratios):.2f}; {speed}\n"
