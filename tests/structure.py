"""What the tree looks like: files, lines and functions of each room, arrows and circles between modules.

    python tests/structure.py            prints the figures of this checkout
    python tests/structure.py --circles  and names the modules of each circle
    python tests/structure.py --map      writes the map of the tree into README.md, a line a file

Imports inside functions count, those for types too. A circle is a strongly connected component of more than one module.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

NAME_CHARS, GIST_CHARS = 26, 94
BEGIN, END = "<!-- map: python tests/structure.py --map -->", "<!-- end of map -->"
ROOMS = ("schemas", "pipelines", "flows", "kernels", "model", "benchmarks", "tests")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the rooms by its dotted name; a package is its __init__."""
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among `known` that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from (name for name in (whole if whole in known else node.module,) if name in known)


def arrows(known: dict[str, Path]) -> dict[str, set[str]]:
    """By module, the modules that it imports."""
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972), the largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            components.append(sorted(members))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted((members for members in components if len(members) > 1), key=len, reverse=True)


def sizes(known: dict[str, Path]) -> dict[str, list[tuple[int, str]]]:
    """By room, (lines, module) of its files, the longest first."""
    rooms: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, path in known.items():
        rooms[name.partition(".")[0]].append((path.read_text("utf-8").count("\n"), name))
    return {room: sorted(files, reverse=True) for room, files in rooms.items()}


def function_lines(known: dict[str, Path]) -> list[int]:
    """Lines of every function of the rooms, tests left out."""
    trees = [ast.parse(path.read_text("utf-8")) for name, path in known.items() if not name.startswith("tests")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(node.end_lineno - node.lineno + 1 for node in nodes)


def renamed(known: dict[str, Path]) -> list[str]:
    """Imports of our modules under another name."""
    aliases = []
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                aliases += [f"{name}: {a.name} as {a.asname}" for a in node.names if a.asname and f"{node.module}.{a.name}" in known]
    return aliases


def gist(path: Path) -> str:
    """What a module's docstring says first, in at most GIST_CHARS characters: its first sentence, or as much of it."""
    said = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split())
    said = re.split(r"(?<=[^.])\. ", said)[0].rstrip(".:")
    if len(said) <= GIST_CHARS:
        return said
    cut = max(said.rfind(mark, 0, GIST_CHARS) for mark in (": ", "; ", ", ", " ("))
    return said[:cut]


def tree(root: Path) -> str:
    """The map: every file of the rooms, tests apart, with its gist, folders before their files."""
    lines = []
    for room in ROOMS[:-1]:
        for path in sorted((root / room).rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)):
            depth = len(path.relative_to(root).parts) - 1
            is_folder = path.name == "__init__.py"
            name = f"{path.parent.name}/" if is_folder else path.name
            lines.append(f"{'  ' * (depth - is_folder) + name:<{NAME_CHARS}}{gist(path)}".rstrip())
    return "\n".join(lines)


def with_map(readme: str, root: Path) -> str:
    """README.md with the map as the tree is now, between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n```\n{tree(root)}\n```\n{END}{rest.partition(END)[2]}"


def main(root: Path) -> None:
    if "--map" in sys.argv:
        readme = root / "README.md"
        readme.write_text(with_map(readme.read_text("utf-8"), root), "utf-8")
        return
    known = modules(root)
    graph, lengths = arrows(known), function_lines(known)
    ours = {name: {other for other in others if not other.startswith("tests")} for name, others in graph.items() if not name.startswith("tests")}
    print(f"{'room':<12}{'files':>7}{'lines':>8}{'median':>8}{'longest':>9}  above 250 lines")
    for room, files in sizes(known).items():
        lines = [size for size, _ in files]
        print(f"{room:<12}{len(files):>7}{sum(lines):>8}{median(lines):>8.0f}{lines[0]:>9}  {sum(size > 250 for size in lines)}")
    print(f"functions: {len(lengths)}, median {median(lengths):.0f} lines, 9 of 10 up to {lengths[len(lengths) * 9 // 10]}, longest {lengths[-1]}")
    print(f"arrows between modules: {sum(map(len, ours.values()))}; modules imported under another name: {len(renamed(known))}")
    components = circles(ours)
    print(f"circles of modules: {len(components)}, of {', '.join(str(len(members)) for members in components) or 'none'} modules")
    if "--circles" in sys.argv:
        for members in components:
            print("  " + " ".join(members))


if __name__ == "__main__":
    main(Path(__file__).parent.parent)
