"""YAML as people mean it: what two readers could take for two things is refused or left as it is written.

PyYAML reads YAML 1.1, where `no` is false, `017` fifteen, `1:30` ninety and `2024-01-01` a date, and of a key that
stands twice it silently takes the last. Here these are texts, as in YAML 1.2, and a key stands once.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

EXPANDED = 100_000  # values with every alias written out: hundreds of recipes; ten lines of aliases can stand for 10^9
SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:0|[1-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:0|[1-9][0-9_]*)(?:\.|\.?[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the scalars above instead of its own, keys that stand once, and aliases that stay small."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > EXPANDED:
            raise yaml.YAMLError(f"expected at most {EXPANDED:,} values with every alias written out, found more")
        return node


for _kind, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), list(_first))


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values below a node with aliases written out; more than EXPANDED is as good as any number."""
    if id(node) in known:
        if known[id(node)] is None:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: expected no alias inside of what it stands for")
        return known[id(node)]
    known[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    inside = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
    known[id(node)] = min(1 + sum(_size(part, known) for part in inside), EXPANDED + 1)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    """Before anything is merged into it: a key may stand in a map and in what is merged."""
    lines: dict[str, int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        line = key.start_mark.line + 1
        if key.value in lines:
            raise yaml.YAMLError(
                f"line {line}: expected every key once, found {key.value!r:.80} again, first in line {lines[key.value]}"
            )
        lines[key.value] = line


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError, which names the line."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("expected a few levels, found hundreds of them within one another") from None
    except (ValueError, LookupError) as error:  # of a tag such as !!int on what is none
        raise yaml.YAMLError(f"expected what its tag says, found {error}") from None
