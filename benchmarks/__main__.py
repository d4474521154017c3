"""Every group of benchmarks in turn; prints one table and writes each group's, with the machine's description, to
benchmarks/results/.

    python -m benchmarks                      all
    python -m benchmarks families scale       some of PARTS, below
    python -m benchmarks signals FOLDER       on the folder's documents, for the groups that take one

`make bench-setup` installs the other tools; without it their rows say so and hold no figure.
"""

from __future__ import annotations

import importlib
import inspect
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

PARTS = (
    "families",
    "signals",
    "signatures",
    "duplicates",
    "chains",
    "extraction",
    "languages",
    "order",
    "personal",
    "edits",
    "contamination",
    "scale",
    "shuffles",
    "tokenising",
    "training",
    "job",
)
RESULTS = Path(__file__).parent / "results"
NAMES = ("part", "work / against", "value", "unit", "against", "ratio", "must", "met")
TOLD = ("torch", "pyspark", "delta-spark", "numba", "gigatoken", "tiktoken", "mosaicml-streaming")


def machine() -> str:
    """Processor, cores, memory and versions, as the head of a table."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")]
    special = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in info]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in TOLD)
    cpu = names[0] if names else platform.processor()
    python = platform.python_version()
    return f"{cpu}, {os.cpu_count()} cores ({', '.join(special)}), {memory:.0f} GiB, Python {python}; {packages}"


def cells(part: str, row: dict) -> list[str]:
    """A row as text: value and reference to three digits, the ratio and what it must be."""
    number = lambda x: "" if x is None else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"  # noqa: E731
    met = "" if row.get("must") is None or row.get("ratio") is None else "yes" if _meets(row) else "NO"
    return [
        part,
        row["work"],
        number(row["value"]),
        row["unit"],
        *(number(row.get(name)) for name in ("reference", "ratio", "must")),
        met,
    ]


def _meets(row: dict) -> bool:
    return row["ratio"] <= row["must"] if row.get("at_most") else row["ratio"] >= row["must"]


def main() -> None:
    folders = [argument for argument in sys.argv[1:] if Path(argument).is_dir()][-1:]
    parts = [argument for argument in sys.argv[1:] if argument not in folders] or list(PARTS)
    unknown = set(parts) - set(PARTS)
    if unknown:
        sys.exit(f"expected some of {', '.join(PARTS)}, or a folder; found {', '.join(sorted(unknown))}")
    table = Table(*NAMES, title=machine(), title_justify="left")
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        rows = importlib.import_module(f"benchmarks.{part}").rows
        given = folders[: len(inspect.signature(rows).parameters)]
        if folders and not given:
            print(f"{part} takes no folder", file=sys.stderr)
        lines = [cells(part, row) for row in rows(*given)]
        for row in lines:
            table.add_row(*row)
        if lines:
            write(part, given, lines)
    Console(width=160).print(table)


def write(part: str, folders: list[str], table: list[list[str]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = " ".join(["python -m benchmarks", part, *["FOLDER"] * len(folders)])
    lines = [f"# {part}", "", f"`{command}` at {commit}", "", machine(), ""]
    lines += ["| " + " | ".join(row[1:]) + " |" for row in (NAMES, ["---"] * len(NAMES), *table)]
    (RESULTS / f"{part}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
