"""The tree is what its map and its tables of contents say, and no module imports itself by way of others."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import structure

ROOT = Path(__file__).parent.parent
KNOWN = structure.modules(ROOT)
FOLDERS = sorted(path.parent for name, path in KNOWN.items() if path.name == "__init__.py" and "benchmarks" not in name)


def entries(docstring: str) -> Counter[str]:
    """The names that a table of contents begins its lines with; a line may have several, apart by commas."""
    heads = re.findall(r"(?m)^ *(\S.*?) {2,}\S", docstring)
    return Counter(re.split(r"[.(/]", name.strip())[0] for head in heads for name in head.split(","))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_table_of_contents_names_every_file_of_its_folder_once(folder):
    named = entries(ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False))
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {name: named[name] for name in files} == dict.fromkeys(files, 1), "a line a file in the docstring of __init__.py"


def test_the_map_in_the_readme_is_the_tree():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert structure.with_map(readme, ROOT) == readme, "python tests/structure.py --map writes it"


def test_no_module_imports_itself_by_way_of_others():
    assert structure.circles(structure.arrows(KNOWN)) == []


def test_circles_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "flows").mkdir()
    texts = {"a": "import flows.b", "b": "def f():\n    from flows import c", "c": "from flows.a import x", "d": "from flows import a"}
    for name, text in texts.items():
        (tmp_path / "flows" / f"{name}.py").write_text(text)
    assert structure.circles(structure.arrows(structure.modules(tmp_path))) == [["flows.a", "flows.b", "flows.c"]]
