"""Docstrings of a module without parsing it: regular expressions, many times faster than `ast`, and the same text for
nearly all."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from inspect import cleandoc

# Every pattern that scans begins with a literal, which `re` finds at some 300 MB/s; possessive repeats never backtrack.
HEADER = re.compile(r"\n([ \t]*)(?:def|class|async def)[ \t]+(\w+)")
MODULE_START = re.compile(r"\s*+(?:#[^\n]*+\n\s*+)*+")
# Bounded, as each of many colons in comments could begin one: 200 characters behind a header, then 20 lines.
BLOCK_OF_STRING = re.compile(r":(?:[ \t]*+#[^\n]{0,200}+)?\n\s*+(?:#[^\n]*+\n\s*+){0,20}+(?=[rRuU]?[\"'])")
LITERAL = re.compile(
    r"""[rRuU]?(?:\"{3}((?:[^"\\]+|\\.|"(?!""))*+)\"{3}|'{3}((?:[^'\\]+|\\.|'(?!''))*+)'{3}"""
    r"""|"((?:[^"\\\n]+|\\.)*+)"|'((?:[^'\\\n]+|\\.)*+)')(?=[ \t\f]*(?:[;#\n]|\Z))""",
    re.DOTALL,
)
HEADER_CHARS = 10_000  # a longer "signature" is code in which a bracket stands in a string


def docstrings(text: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of module, classes and functions, in the order of the text; the module's name is "".

    `text` has \\n line ends. Known to differ from `ast`: code inside strings that are no docstrings counts as code,
    headers with an unpaired bracket in a string or comment are missed, so are docstrings joined of several literals.
    """
    text = "\n" + text
    end = 0
    if literal := LITERAL.match(text, MODULE_START.match(text).end()):
        yield "", _value(literal)
        end = literal.end()
    headers = HEADER.finditer(text, end)
    header = next(headers, None)
    scopes: list[tuple[int, str]] = []  # (indent, name) of the headers that the position is in, outermost first
    last = read = depth = 0
    while block := BLOCK_OF_STRING.search(text, end):
        while header and header.start() < block.start():
            if header.start() >= end - 1:  # not inside the docstring before
                indent = len(header[1].expandtabs())
                scopes = [scope for scope in scopes if scope[0] < indent] + [(indent, header[2])]
                last = read = header.end()
                depth = 0
            header = next(headers, None)
        end = block.end()
        read, depth = _open_brackets(text, read, block.start(), depth)
        is_signature = scopes and depth >= 0 and block.start() - last <= HEADER_CHARS
        literal = LITERAL.match(text, end) if is_signature else None
        if literal:
            yield ".".join(name for _, name in scopes), _value(literal)
            end = literal.end()


def _open_brackets(text: str, start: int, end: int, depth: int) -> tuple[int, int]:
    """Where the last whole line of text[start:end] ends, and how many brackets are open there; -1 from the first line
    on at whose end none is: the header ended with it.

    start, depth: as they were told for the string before, so that each line is read once.
    """
    while depth >= 0 and (newline := text.find("\n", start, end)) >= 0:
        line = text[start:newline]
        depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
        depth = depth if depth > 0 else -1
        start = newline + 1
    return start, depth


def _value(literal: re.Match) -> str:
    body = next(group for group in literal.groups() if group is not None)
    if "\\" in body:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes are the module's business
                body = ast.literal_eval(literal[0])
        except (SyntaxError, ValueError):
            pass
    return cleandoc(body)
