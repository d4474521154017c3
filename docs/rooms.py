"""Draws docs/rooms.png: the rooms, floor over floor, with the size of their code, and who imports whom.

    python docs/rooms.py

Floors are those of the import contracts in pyproject.toml; arrows are counted from the imports themselves. Left out are
those of flows, which may import anything, and those to schemas, which everything may import.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.structure import arrows, modules  # noqa: E402 - found once the checkout is on the path

GROUND = ("lake", "spark", "deliveries", "capacity", "assets", "workers", "lineage")
# (floor, its rooms), the lowest first: those of the data side, left of the manifest; then the trainer's, right of it.
DATA = (
    ("schemas",),
    ("ground",),
    ("texts", "html"),
    ("readers", "signals"),
    ("dedup",),
    ("rules",),
    ("edits",),
    ("models", "decontaminate", "shards"),
    ("flows.steps", "flows", "flows.report"),
)
TRAINER = {2: ("kernels",), 5: ("model",)}  # by the floor that they stand level with
STEPS = {
    "readers": "ingest", "models": "learn", "signals": "measure", "dedup": "dedup", "decontaminate": "decontaminate",
    "edits": "edits", "rules": "judge", "shards": "tokenise, mixture, shard", "model": "train, evaluate",
    "flows.report": "report",
}  # fmt: skip
COLOURS = {"pipelines": "#dbe9d8", "flows": "#f3e3c3", "schemas": "#e4e4ea", "model": "#d9e4f2", "kernels": "#d9e4f2"}
WIDTH, HEIGHT, GAP = 10.0, 0.74, 0.5  # of a floor; units of the drawing


def room_of(module: str) -> str:
    """The room of a module, as it is drawn."""
    top, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if top == "pipelines":
        return "ground" if not rest or first in GROUND else first
    return f"flows.{first}" if top == "flows" and first in ("steps", "report") else top


def places() -> dict[str, tuple[float, float, float]]:
    """Left edge, lower edge and width of each room."""
    found = {}
    for floor, rooms in enumerate(DATA):
        width = (WIDTH - 0.3 * (len(rooms) - 1)) / len(rooms)
        found |= {room: (i * (width + 0.3), floor * (HEIGHT + GAP), width) for i, room in enumerate(rooms)}
    for floor, rooms in TRAINER.items():
        found |= {room: (WIDTH + 1.4, floor * (HEIGHT + GAP), 3.0) for room in rooms}
    return found


def draw_room(axes: Axes, room: str, place: tuple[float, float, float], files: int, lines: int) -> None:
    x, y, width = place
    top = room.partition(".")[0]
    colour = COLOURS.get(top, COLOURS["pipelines"])
    axes.add_patch(
        FancyBboxPatch((x, y), width, HEIGHT, "round,pad=0,rounding_size=0.08", fc=colour, ec="#666", lw=0.8)
    )
    name = "ground floor" if room == "ground" else room.replace("flows.", "flows/")
    axes.text(x + 0.12, y + HEIGHT - 0.25, name, weight="bold", size=10, va="center")
    axes.text(x + width - 0.12, y + HEIGHT - 0.25, f"{files} files, {lines:,} lines", size=7.5, va="center", ha="right")
    said = ", ".join(GROUND) if room == "ground" else f"step {STEPS[room]}" if room in STEPS else ""
    axes.text(x + 0.12, y + 0.2, said.replace("step tokenise", "steps tokenise"), size=8, va="center", color="#444")


def draw_arrows(axes: Axes, where: dict[str, tuple[float, float, float]], counted: Counter) -> None:
    """From the room that imports to the one below that it imports; the thicker, the more modules do."""
    for (upper, lower), n in sorted(counted.items()):
        (x, y, width), (below_x, below_y, below_width) = where[upper], where[lower]
        start, end = (x + width / 2, y), (below_x + below_width / 2, below_y + HEIGHT)
        style = {
            "arrowstyle": "-|>",
            "lw": 0.4 + 0.12 * min(n, 20),
            "color": "#99a",
            "alpha": 0.55,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", end, start, arrowprops=style, zorder=0)


def main() -> None:
    known = {name: path for name, path in modules(ROOT).items() if not name.startswith(("tests", "benchmarks"))}
    graph, where = arrows(known), places()
    files = Counter(room_of(name) for name in known)
    lines = Counter()
    for name, path in known.items():
        lines[room_of(name)] += path.read_text("utf-8").count("\n")
    pairs = {(name, other) for name, others in graph.items() for other in others if other in known}
    counted = Counter((room_of(name), room_of(other)) for name, other in pairs)
    shown = {
        pair for pair in counted if pair[0] != pair[1] and not pair[0].startswith("flows") and pair[1] != "schemas"
    }
    counted = Counter({pair: counted[pair] for pair in shown})
    figure = Figure((12.5, 9.2), layout="constrained")
    axes = figure.add_subplot()
    draw_arrows(axes, where, counted)
    for room, place in where.items():
        draw_room(axes, room, place, files[room], lines[room])
    wall = WIDTH + 0.7
    axes.plot([wall, wall], [HEIGHT + GAP / 2, 8 * (HEIGHT + GAP) - GAP / 2], color="#a55", lw=2, ls=(0, (4, 3)))
    axes.text(wall, 8 * (HEIGHT + GAP) - 0.2, "the wall: manifest.json, plan.json", ha="center", size=8, color="#a55")
    axes.set(xlim=(-0.2, WIDTH + 4.6), ylim=(-0.2, len(DATA) * (HEIGHT + GAP)))
    axes.axis("off")
    figure.savefig(ROOT / "docs" / "rooms.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
