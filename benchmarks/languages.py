"""Language identification: ours beside plain lid.176, pycld2 and py3langid, on texts whose place names their language;
in capitals; in two languages; and its speed.

    python -m benchmarks.languages FOLDER ...
    python -m benchmarks languages FOLDER          only the speed, beside other tools

Folders with JSON lines (.jsonl.zst: text, source, path) of translated documentation, and with gettext catalogues (.mo,
as /usr/share/locale has them). Ours reads cleaned windows; plain is fastText's own binding on the first 480 characters
and on the whole text. Labels are those of the files' places: some pages were never translated, so no method reaches 100
%. Prints Markdown tables. CPU seconds, the least of five.
"""

from __future__ import annotations

import gettext
import hashlib
import io
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import zstandard

from benchmarks.anchors import beside, documents, peer
from benchmarks.timing import row
from pipelines import assets
from pipelines.signals import language, linear
from pipelines.signals.context import Context
from pipelines.texts import fasttext_file
from pipelines.texts.characters import utf8

HEAD_CHARS = 480
LEAST_DOCS = 16_000  # documents/s a core
PER_LANGUAGE = 150  # documents of a set and a language at most, in the order of a hash
CATALOGUE_CHARS = 800  # messages are joined to documents of so many characters
# Where the language stands in a path, by set.
PLACES = {
    "tldr pages": re.compile(r"^pages\.([a-z]{2,3})(?:_\w+)?/"),
    "articles": re.compile(r"^_articles/([a-z]{2,3})(?:-\w+)?/"),
    "MDN pages (HTML)": re.compile(r"^files/([a-z]{2,3})(?:-\w+)?/"),
}
WHOLE = {
    "bundestag/gesetze": ("laws", "de"),
    "COST-ELTeC/ELTeC-fra": ("novels", "fr"),
    "reactjs/fr.react.dev": ("articles", "fr"),
}
SAME = {"nb": "no", "fil": "tl", "iw": "he", "in": "id"}  # codes by other names in lid.176
PEERS = "pycld2", "py3langid"
PLANTED = (0.0, 0.1, 0.25, 0.5)  # share of the second language
PARAGRAPHS, PARAGRAPH_CHARS = 40, (80, 600)  # of a planted text; the shortest and longest paragraph
Labelled = tuple[str, str, str]  # set, language, text


def labelled(folder: Path) -> Iterator[Labelled]:
    """Texts with the language that their place names."""
    for path in sorted(folder.rglob("*.jsonl.zst")):
        with path.open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8"):
                record = json.loads(line)
                if place := _place(record.get("source", ""), record.get("path", "")):
                    yield *place, record["text"]
    for path in sorted(folder.rglob("LC_MESSAGES/*.mo")):
        yield from _catalogue(path, path.parts[-3])


def _place(source: str, path: str) -> tuple[str, str] | None:
    places = [(name, match[1]) for name, place in PLACES.items() if (match := place.match(path))]
    return WHOLE.get(source) or (places[0] if places else None)


def _catalogue(path: Path, locale: str) -> Iterator[Labelled]:
    code = re.match(r"[a-z]*", locale)[0]
    if "@" in locale or not code or code == "en":  # sr@latin and its like: in another script than the model knows
        return
    try:
        messages = gettext.GNUTranslations(path.open("rb"))._catalog
    except (OSError, UnicodeDecodeError, ValueError, LookupError):
        return
    said = [text for key, text in messages.items() if key and isinstance(text, str) and text != key]
    document = ""
    for text in said:
        document += text + "\n"
        if len(document) >= CATALOGUE_CHARS:
            yield "catalogues", code, document
            document = ""


def chosen(folders: list[Path], known: set[str]) -> list[Labelled]:
    """At most PER_LANGUAGE texts of each set and language that the model knows."""
    groups: dict[tuple[str, str], dict[bytes, str]] = defaultdict(dict)
    for name, code, text in (one for folder in folders for one in labelled(folder)):
        code = SAME.get(code, code)
        if code in known:
            group = groups[name, code]
            group[hashlib.blake2b(text.encode(), digest_size=8).digest()] = text
            if len(group) > PER_LANGUAGE:
                del group[max(group)]
    return [(name, code, text) for (name, code), group in sorted(groups.items()) for _, text in sorted(group.items())]


def answers(texts: list[str]) -> dict[str, list[str]]:
    """The label of every text by each method; the other tools' where they are installed."""
    binding = fasttext.load_model(str(assets.LANGUAGE_MODEL)).f

    def plain(text: str) -> str:
        label = binding.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")[0][1]
        return label.removeprefix(fasttext_file.PREFIX)

    by_method = {
        "ours": measured(texts)[0].to_pylist(),
        f"first {HEAD_CHARS}": [plain(text[:HEAD_CHARS]) for text in texts],
        "whole": [plain(text) for text in texts],
    }
    for name in PEERS:
        labels = peer(name, texts, "answers")
        if isinstance(labels, list):
            by_method[name] = [SAME.get(label.split("-")[0], label.split("-")[0]) for label in labels]
    return by_method


def measured(texts: list[str]) -> list[pa.Array]:
    return language.measure(pa.array(texts), {}, Context(assets.LANGUAGE_MODEL.read_bytes()))


def table(
    documents: list[Labelled], by_method: dict[str, list[str]], key: Callable[[Labelled], str], title: str
) -> str:
    """Markdown: documents, share of right labels by each method, what ours most often says instead."""
    groups = defaultdict(list)
    for i, document in enumerate(documents):
        groups[key(document)].append(i)
    lines = [
        f"| {title} | documents | " + " | ".join(by_method) + " | ours says instead |",
        "|---|---:|" + "---:|" * len(by_method) + "---|",
    ]
    for name, members in [*sorted(groups.items()), ("all", range(len(documents)))]:
        shares = [np.mean([labels[i] == documents[i][1] for i in members]) for labels in by_method.values()]
        wrong = Counter(by_method["ours"][i] for i in members if by_method["ours"][i] != documents[i][1])
        said = ", ".join(f"{label} {n}" for label, n in wrong.most_common(3)) if name != "all" else ""
        lines.append(
            f"| {name} | {len(members):,} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + f" | {said} |"
        )
    return "\n".join(lines)


def planted(documents: list[Labelled]) -> str:
    """Markdown: `lang_mixed` of texts of paragraphs in one language, with the share of another planted at random."""
    random, paragraphs = np.random.default_rng(1), defaultdict(list)
    for _, code, text in documents:
        sure = [one for one in re.split(r"\n\s*\n", text) if PARAGRAPH_CHARS[0] <= len(one) <= PARAGRAPH_CHARS[1]]
        paragraphs[code] += sure
    known = sorted(code for code, members in paragraphs.items() if len(members) >= PARAGRAPHS)
    lines = ["| planted | texts | measured, mean | root mean square error | above 0.2 |", "|---:|---:|---:|---:|---:|"]
    for share in PLANTED:
        truth, texts = [], []
        for own in known:
            for _ in range(10):
                other = known[random.integers(len(known) - 1)]
                count = int(random.integers(4, PARAGRAPHS))
                foreign = random.random(count) < (share if other != own else 0)
                chosen = [
                    paragraphs[other if one else own][random.integers(len(paragraphs[other if one else own]))]
                    for one in foreign
                ]
                sizes = np.array([len(one.encode()) for one in chosen])
                if foreign.mean() < 0.5 or share == 0:
                    truth.append(sizes[foreign].sum() / sizes.sum())
                    texts.append("\n\n".join(chosen))
        mixed = measured(texts)[2].to_numpy()
        error = np.sqrt(np.mean((mixed - truth) ** 2))
        lines.append(
            f"| {np.mean(truth):.3f} | {len(texts):,} | {mixed.mean():.3f} | {error:.3f} | {(mixed > 0.2).mean():.3f} |"
        )
    return "\n".join(lines)


def rows(folder: str | None = None) -> list[dict]:
    """Speed on distinct texts of HEAD_CHARS characters, and how many labels are the binding's. `must` is the least
    ratio."""
    texts = documents(folder)
    pieces = list(dict.fromkeys(text[:HEAD_CHARS].replace("\n", " ") for text in texts if len(text) >= HEAD_CHARS))
    known = assets.LANGUAGE_MODEL.read_bytes()
    context, model, names = Context(known), linear.classifier(known), fasttext_file.read(known).labels
    binding = fasttext.load_model(str(assets.LANGUAGE_MODEL)).f
    data, offsets = utf8(pa.array(pieces))
    labels, scores = np.empty(len(pieces), np.int32), np.empty(len(pieces))
    linear.predict(data, offsets, model, labels, scores)  # compiled
    theirs = [
        binding.predict(text + "\n", 1, 0.0, "strict")[0][1].removeprefix(fasttext_file.PREFIX) for text in pieces
    ]
    same = np.mean([names[label] == other for label, other in zip(labels, theirs, strict=True)])
    ours = len(pieces) / seconds(lambda: linear.predict(data, offsets, model, labels, scores))
    plain = len(pieces) / seconds(lambda: [binding.predict(text + "\n", 1, 0.0, "strict") for text in pieces])
    signals = {"the same texts": pieces, "whole texts": texts}
    figures = [
        row("labels equal to those of fastText's binding", same, "", reference=1.0, must=1.0),
        row("prediction / the least we accept", ours, "docs/s", reference=LEAST_DOCS, must=1.0),
        row("prediction / fastText's binding", ours, "docs/s", reference=plain),
    ]
    for which, given in signals.items():
        spent = seconds(lambda given=given: language.measure(pa.array(given), None, context))
        figures.append(row(f"language signals, {which}", len(given) / spent, "docs/s"))
    size = sum(len(text.encode()) for text in pieces) / len(pieces) / 1e6
    return [*figures, *beside("prediction", ours * size, PEERS, pieces, {})]


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds, the least."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    if not sys.argv[1:]:
        sys.exit("expected folders with .jsonl.zst files or gettext catalogues; found none")
    documents = chosen(
        [Path(name) for name in sys.argv[1:]], set(fasttext_file.read(assets.LANGUAGE_MODEL.read_bytes()).labels)
    )
    texts = [text for _, _, text in documents]
    by_method = answers(texts)
    prose = [i for i, document in enumerate(documents) if "HTML" not in document[0]]
    print(table(documents, by_method, lambda document: document[0], "set") + "\n")
    few = {name: [labels[i] for i in prose] for name, labels in by_method.items()}
    print(table([documents[i] for i in prose], few, lambda document: document[1], "language (HTML apart)") + "\n")
    cased = [one for one in documents if one[2].upper() != one[2].lower()]
    capitals = answers([text.upper() for _, _, text in cased])
    print(table(cased, capitals, lambda document: document[0], "in capitals") + "\n")
    print(planted([documents[i] for i in prose]))


if __name__ == "__main__":
    main()
