"""`flows model`: presets, and what a model needs on so many GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from flows.numbers import short, size
from model.fitting import NARROWEST, NETWORK, NVLINK, Fit, choose, fit, token_flops
from model.sizing import KINDS, ROOM, layouts
from model.transformer import parameter_counts
from schemas.presets import VOCAB, Preset, preset, presets
from schemas.recipe import Recipe, RecipeError, load
from schemas.training import ModelConfig

MACHINE = 8  # GPUs
TOKENS, ROW = 32_768, 4_096  # of a GPU and step, of a row, where nobody says
CL100K = 100_277  # ids of cl100k_base, special ones included
EXPECTED = (
    "Tokens/s are an expectation, as if documents filled their rows: MFU of 1 H200 (benchmarks/results/trainer.md) by "
    "width, beyond 2,048 as there; scaling of 2 H200 of one machine; "
    f"{NVLINK / 1e9:.0f} GB/s within a machine, measured, and {NETWORK / 1e9:.0f} between machines, assumed."
)
NOT_EXPECTED = f"No rate is told: none was measured below a width of {NARROWEST}."
MEANT = {"loss": "head and loss", "work": "a block's backward"}  # of `sizing.KINDS`


@dataclass(frozen=True)
class Task:
    """A model and where it is to be trained: `tokens` of a GPU and step, in rows of `length`, memory in bytes."""

    name: str
    model: ModelConfig
    source: str
    gpus: int
    length: int
    tokens: int
    vocab_size: int
    capacity: float


def read_task(
    what: str, gpus: int | None, length: int | None, tokens: int | None, vocab_size: int | None, memory_gb: float
) -> Task:
    """What is asked for, of a preset or a recipe's file. Raises RecipeError for a recipe that is wrong, ValueError for
    what is neither and for tokens that are no whole rows."""
    if Path(what).suffix in (".yaml", ".yml"):
        recipe = load(Path(what))
        model, source = recipe.model, ""
        length = length or max(stage.seq_len for stage in recipe.stages)
        gpus = gpus or recipe.train.processes or (MACHINE if tokens else _divisor(recipe, length))
        tokens = tokens or _share(recipe, gpus, length)
        vocab_size = vocab_size or (CL100K if recipe.tokenizer.name == "cl100k_base" else recipe.tokenizer.vocab_size)
    elif what in presets():
        model, source = preset(what).model, preset(what).source
        length = length or ROW
        tokens = tokens or max(TOKENS // length, 1) * length
    else:
        raise ValueError(f"expected a recipe's file (.yaml) or a preset among {', '.join(presets())}; found {what!r}")
    if tokens % length:
        raise ValueError(f"expected --tokens in whole rows of {length:,}, found {tokens:,}")
    return Task(what, model, source, gpus or MACHINE, length, tokens, vocab_size or VOCAB, memory_gb * 1e9)


def _divisor(recipe: Recipe, length: int) -> int:
    """The most GPUs of one machine that share the batch in whole rows."""
    return max(gpus for gpus in range(1, MACHINE + 1) if gpus == 1 or recipe.train.batch_tokens % (gpus * length) == 0)


def _share(recipe: Recipe, gpus: int, length: int) -> int:
    """Tokens of a GPU and step. Raises RecipeError if they are no whole rows."""
    batch = recipe.train.batch_tokens
    if batch % (gpus * length):
        raise RecipeError(
            f"expected train.batch_tokens that divide by {gpus:,} GPUs into whole rows of {length:,}, found {batch:,}: "
            f"choose a multiple of {gpus * length:,}, or say --gpus or --tokens"
        )
    return batch // gpus


def print_presets(console: Console) -> None:
    """All of them, with their parameters and where they are from."""
    table = Table("preset", "layers", "width", "experts", "of", "parameters", "active", "published", "from", box=None)
    for name, one in presets().items():
        shape, counts = one.model, parameter_counts(one.model, VOCAB)
        of = f"{shape.top_k} of {shape.experts}" if shape.experts > 1 else "dense"
        row = str(shape.layers), str(shape.d_model), of, str(shape.d_expert)
        table.add_row(name, *row, short(counts["total"]), short(counts["active"]), published(one), one.source)
    console.print(table)
    console.print(f"Counted with a vocabulary of {VOCAB:,}; active ones leave out the input embedding.")


def published(one: Preset) -> str:
    return " / ".join(short(one.published[name]) for name in ("total", "active") if name in one.published)


def print_model(asked: Task, console: Console) -> None:
    """Parameters, and for each kind of parallelism memory and expected speed; at last the one to choose."""
    shape, rows = (asked.model, asked.vocab_size), (asked.tokens, asked.length, asked.capacity)
    counts, flops = parameter_counts(*shape), token_flops(*shape, asked.length)
    console.print(f"[bold]{asked.name}[/] {asked.source}", soft_wrap=True)
    console.print(
        f"{short(counts['total'])} parameters, {short(counts['active'])} active, vocabulary {asked.vocab_size:,}; "
        f"{short(flops)} FLOP a token in rows of {asked.length:,}"
    )
    console.print(
        f"GPUs: {asked.gpus:,}, each of {size(asked.capacity)}, of which tensors may fill {ROOM:.0%}; tokens a step: "
        f"{asked.tokens:,} each, {asked.tokens * asked.gpus:,} in all"
    )
    is_measured = asked.model.d_model >= NARROWEST
    fits = [fit(*shape, layout, *rows) for layout in layouts(asked.model, asked.gpus)]
    console.print(comparison(fits, is_measured))
    try:
        chosen = choose(*shape, asked.gpus, *rows).layout.kind
        console.print(f"Choose {chosen}.")
    except MemoryError as error:
        console.print(f"Nothing fits: {error}", soft_wrap=True)
    console.print(EXPECTED if is_measured else NOT_EXPECTED, style="dim")


def comparison(fits: list[Fit], with_rates: bool) -> Table:
    """A column for each kind of parallelism."""
    table = Table("a GPU", *(Column(one.layout.kind, justify="right") for one in fits), box=None)
    for kind in KINDS:
        table.add_row(MEANT.get(kind, kind), *(size(one.held[kind]) for one in fits))
    table.add_row("all", *(size(sum(one.held.values())) for one in fits), style="bold")
    table.add_row("fits", *("[green]yes[/]" if one.fits else "[red]no[/]" for one in fits))
    table.add_row("micro-batches", *(f"{one.step.micro_batches} of {one.step.tokens:,}" for one in fits))
    table.add_row("computed again", *(one.step.recompute for one in fits))
    table.add_row("received in a machine a step", *(size(one.traffic.inside + one.traffic.tokens) for one in fits))
    table.add_row("received from others a step", *(size(one.traffic.outside) for one in fits))
    if with_rates:
        table.add_row("seconds a step", *(f"{one.seconds:.3g}" if one.fits else "" for one in fits))
        table.add_row("tokens/s of all GPUs", *(short(one.tokens_per_second) if one.fits else "" for one in fits))
    return table
