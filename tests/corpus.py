"""A small corpus with everything in it: real modules and docstrings of the standard library, planted copies, rubbish, bad records."""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from pathlib import Path

import yaml

PACKAGES = ("asyncio", "email", "json", "http", "logging", "xml", "unittest", "importlib", "concurrent", "collections", "ctypes", "urllib")
BAD_LINES = (b'{"text": "no end', b"[1, 2]", b'{"text": 7}', b'{"other": "x"}', b'{"text": "   "}', b'{"text": "\xff\xfe"}', b'{"text": "a\\u0000b"}')

QUESTION = (
    "A miller grinds seven sacks of wheat before noon and three sacks of rye for each hour that the river stays high. How many "
    "sacks has he ground by evening, if the river falls at four and the wheel stands still whenever it is low?"
)


def modules() -> list[str]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for name in PACKAGES for path in (stdlib / name).rglob("*.py"))
    return [text for path in paths if 300 < len(text := path.read_text("utf-8", errors="ignore")) < 12_000]


def docstrings(texts: list[str]) -> list[str]:
    nodes = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docs = sorted({doc for node in nodes if (doc := ast.get_docstring(node)) and len(doc) > 250})
    return docs


def write(folder: Path) -> dict[str, dict[str, int]]:
    """Write code.jsonl and docs.jsonl below `folder`; returns what was planted: records and bad records by source.

    A document holds the one item of the evaluation in quiz.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = modules()
    docs = docstrings(code)
    chance = random.Random(5)
    code += code[:9]  # exact copies
    code += [text.replace("self", "this", 1) + "\n# edited\n" for text in code[20:32] if len(text) > 3000]  # near copies
    code += ["x = [" + ", ".join(str(chance.randrange(10**9)) for _ in range(800)) + "]\n" for _ in range(5)]  # tables
    docs += [f"{docs[30]}\n{docs[31]}\n{QUESTION.upper()}"]
    docs += docs[:7] + ["word " * 400, "1234 5678\n" * 100]
    for name, texts in (("code", code), ("docs", docs)):
        lines = [json.dumps({"text": text, "licence": "PSF-2.0"}).encode() for text in texts] + list(BAD_LINES)
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "quiz.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "19"}) + "\n")
    return {"code": {"records": len(code), "bad": len(BAD_LINES)}, "docs": {"records": len(docs), "bad": len(BAD_LINES)}}


def recipe(folder: Path, home: Path, master: str = "local[2]") -> dict:
    """A recipe over `write(folder)`: three stages, a model of some thousand parameters, seconds of training."""
    even = {"method": "manual", "weights": {"code": 0.6, "docs": 0.4}}
    value = {
        "home": str(home),
        "sources": [
            {"name": name, "reader": "jsonl", "domain": name, "path": str(folder / f"{name}.jsonl"), "licence_field": "licence"}
            for name in ("code", "docs")
        ],
        "decontaminate": {"files": [{"path": str(folder / "quiz.jsonl"), "fields": ["question", "answer"]}]},
        "quality": {"docs": {"positives": [{"source": "docs", "uri": "*[0-4]"}], "documents": 60}},
        "tiers": {"high": 0.6, "low": 0.0},
        "tokenizer": {"vocab_size": 512, "sample_bytes": 200_000},
        "heldout": {"fraction": 0.05, "max_bytes": 6000},
        "window_tokens": 8192,
        "stages": [
            {"name": "broad", "tokens": 16_384, "seq_len": 128, "mixture": even, "lr": {"warmup_tokens": 2048}},
            {"name": "longer", "tokens": 8_192, "seq_len": 256, "mixture": even},
            {"name": "anneal", "tokens": 8_192, "seq_len": 256, "mixture": even | {"tiers": {"high": 3}}, "lr": {"shape": "one_minus_sqrt", "end": 0.0}},
        ],
        "model": {"layers": 2, "d_model": 32, "heads": 4, "kv_heads": 2, "experts": 4, "top_k": 2, "d_expert": 16},
        "train": {"batch_tokens": 1024, "checkpoint_steps": 8, "profile": 2},
        "spark": {"master": master, "driver_memory": "1g"},
    }  # fmt: skip
    return json.loads(json.dumps(value))  # parts that are one object above become parts of their own


def save(value: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(value))
    return path
