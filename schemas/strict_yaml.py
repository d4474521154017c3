"""YAML as people mean it: what two readers could take for two things is refused or left as it is written.

PyYAML reads YAML 1.1, where `no` is false, `017` fifteen, `1:30` ninety and `2024-01-01` a date, and of a key that
stands twice it silently takes the last. Here these are texts, as in YAML 1.2, and a key stands once.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

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

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # PyYAML's own faults, as of !!int on what is none
            raise _refusal(node, f"a value of {_tag(node)}", f"{node.value!r:.80}") from None

    def construct_undefined(self, node: yaml.Node) -> Any:
        raise _refusal(node, "no tags but YAML's own, such as !!str", f"{_tag(node):.80}")


_Loader.add_constructor(None, _Loader.construct_undefined)

for _kind, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), list(_first))


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values below a node with aliases written out; more than EXPANDED is as good as any number."""
    if id(node) in known:
        if known[id(node)] is None:
            raise _refusal(node, "no alias inside of what it stands for", "one")
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
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal(key, "a text as a key", f"a {key.id}")
        if key.value in lines:
            raise _refusal(key, "every key once", f"{key.value!r:.80} again, first in line {lines[key.value]}")
        lines[key.value] = key.start_mark.line + 1


def _refusal(node: yaml.Node, expected: str, found: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: expected {expected}, found {found}")


def _tag(node: yaml.Node) -> str:
    return node.tag.replace("tag:yaml.org,2002:", "!!")


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError of one sentence: the line, what was expected and found; "not
    YAML" stands in it where the text is none."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("expected a few levels, found hundreds of them within one another") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise yaml.YAMLError(f"line {line}: not YAML: the character U+{error.character:04X}") from None
    except yaml.MarkedYAMLError as error:
        said = ", ".join(filter(None, (error.context, error.problem)))
        kind = "" if isinstance(error, ConstructorError) else "not YAML: "  # this one is, with tags that do not fit
        raise yaml.YAMLError(f"line {error.problem_mark.line + 1}: {kind}{said}") from None
