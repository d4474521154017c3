"""Jupyter notebooks (formats 3 and 4) as Markdown: text as it stands, code in fences, outputs left out."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Any

from pipelines.readers.files import File, Record, Reject, document
from pipelines.readers.jsonl import parse_object
from schemas.parts import Source

SUFFIX = ".ipynb"
KINDS = ("markdown", "heading", "code")  # raw cells are for converters
LANGUAGE = re.compile(r"[A-Za-z0-9+#-]{1,20}")


def notebook(file: File, data: bytes, source: Source) -> Record | Reject:
    """A notebook's text and code as one record, or why it is none."""
    value = parse_object(file.uri, data.removeprefix(BOM_UTF8), source)
    if isinstance(value, Reject):
        return value
    cells = value.get("cells", _worksheets(value))
    if not isinstance(cells, list):
        names = ", ".join(map(repr, list(value)[:20]))
        return Reject(file.uri, "no_text", f"expected a notebook's list of cells, found {names:.200}", len(data))
    language, parts = _language(value), []
    for i, cell in enumerate(cells):
        said = _cell(cell, language)
        if said is None:
            return Reject(file.uri, "no_text", f"cell {i}: expected a type and a source of text", len(data))
        parts += [said] * bool(said)
    made = document(file.uri, "\n\n".join(parts) + "\n" if parts else "", file.licence, source)
    return made._replace(n_bytes=len(data)) if isinstance(made, Reject) else made


def _worksheets(value: dict[str, Any]) -> Any:
    """The cells of format 3, in which a notebook has sheets."""
    sheets = value.get("worksheets")
    lists = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)] if isinstance(sheets, list) else [None]
    return [cell for cells in lists for cell in cells] if all(isinstance(cells, list) for cells in lists) else None


def _language(value: dict[str, Any]) -> str:
    metadata = value.get("metadata")
    for part, name in (("kernelspec", "language"), ("language_info", "name")):
        said = metadata.get(part) if isinstance(metadata, dict) else None
        said = said.get(name) if isinstance(said, dict) else None
        if isinstance(said, str) and LANGUAGE.fullmatch(said):
            return said.lower()
    return "python"


def _cell(cell: Any, language: str) -> str | None:
    """A cell's Markdown, "" for one that says nothing; None if it is no cell."""
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return None
    kind = cell["cell_type"]
    lines = cell.get("source", cell.get("input"))  # `input` in format 3
    lines = lines if isinstance(lines, list) else [lines]
    if not all(isinstance(line, str) for line in lines):
        return None
    text = "".join(lines).strip("\n")
    if kind not in KINDS or not text.strip():
        return ""
    if kind == "code":
        fence = "`" * max([2, *map(len, re.findall("`{3,}", text))]) + "`"
        return f"{fence}{language}\n{text}\n{fence}"
    level = cell.get("level", 1)
    return f"{'#' * (level if level in range(1, 7) else 1)} {text}" if kind == "heading" else text
