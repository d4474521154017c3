"""Main content of web pages: speed and quality beside resiliparse and trafilatura, same pages, same run; and how the
weights were fitted.

    python -m benchmarks extraction FOLDER                               # with articles.jsonl.zst in it
    python -m benchmarks.extraction gold.jsonl.zst [pages.jsonl.zst]     # speed on the second file when there is one
    python -m benchmarks.extraction gold.jsonl.zst manuals.jsonl.zst --fit

A gold file holds a JSON object a line: `html`, and `article`, its main content by hand (scrapinghub's
article-extraction-benchmark, MIT). Pages to fit on besides, at MANUALS of a page's weight, are manuals, whose articles
hold code, tables and lists that newspapers lack: there `article` is the text of the element that the generator marks as
the page's body.

Score: 4-gram shingles of the words (\\w+) as multisets; a page's true and false positives and false negatives divided
by their sum; precision, recall and F1 of these summed over the pages. Speed: pages in a CPU second, one core.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html import unescape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard
from resiliparse.extract.html2text import extract_plain_text

from benchmarks.timing import row, seconds
from pipelines.html import content
from pipelines.html.extract import extract, extract_slowly
from pipelines.html.markup import B_END, B_START, Markup, scan

LEAST_F1, LEAST_PAGES = 0.93, 1000.0  # the goals are .95 and 1,200
GOLD = "articles.jsonl.zst"
FOLDS, SEEDS = 8, (0, 1)
RIDGE_FIRST, RIDGE_SECOND = 30.0, 10.0
MANUALS = 0.3
N_WORDS = re.compile(r"\w+")


def rows(gold: str | None = None, pages: str | None = None) -> list[dict]:
    """Speed, precision, recall and F1 of ours, resiliparse's and trafilatura's. `must` is the least ratio.

    gold: a file, or a folder that holds it by the name GOLD.
    """
    file = Path(gold or ".", GOLD) if not gold or Path(gold).is_dir() else Path(gold)
    if not file.is_file():
        print(f"  no pages to judge by: python -m benchmarks extraction FOLDER, with {GOLD} in it", file=sys.stderr)
        return []
    items = list(read(str(file)))
    timed = [page["html"] for page in (read(pages) if pages else items)]
    figures = []
    for name, work in EXTRACTORS.items():
        texts = [work(page["html"]) for page in items]
        ours = name == "ours"
        rate = len(timed) / seconds(
            lambda work=work: [work(html) for html in timed], repeats=3 if name != "trafilatura fast" else 1
        )
        precision, recall, f1 = score(zip(texts, (page["article"] for page in items), strict=True))
        figures += [
            row(f"{name}: speed", rate, "pages/s", reference=LEAST_PAGES if ours else None, must=1.0 if ours else None),
            row(f"{name}: precision", precision, "of 1"),
            row(f"{name}: recall", recall, "of 1"),
            row(f"{name}: F1", f1, "of 1", reference=LEAST_F1 if ours else None, must=1.0 if ours else None),
        ]
    return figures


EXTRACTORS: dict[str, Callable[[str], str]] = {
    "ours": lambda html: extract(html.encode()).text,
    "resiliparse": lambda html: extract_plain_text(html, main_content=True, alt_texts=False),
    "resiliparse without comments": lambda html: extract_plain_text(
        html, main_content=True, alt_texts=False, comments=False
    ),
    "trafilatura fast": extract_slowly,
}


def read(file: str) -> Iterator[dict]:
    """The objects of a .jsonl.zst file."""
    with open(file, "rb") as packed:
        yield from map(json.loads, io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), "utf-8"))


def shingles(text: str) -> Counter:
    words = N_WORDS.findall(text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(len(words) - 3, 1))) if words else Counter()


def score(pairs: Iterable[tuple[str, str]]) -> tuple[float, float, float]:
    """(precision, recall, F1) of (text, gold) pairs."""
    sums = np.zeros(3)
    for text, gold in pairs:
        ours, theirs = shingles(text), shingles(gold)
        both = (ours & theirs).total()
        counts = np.array([both, ours.total() - both, theirs.total() - both])
        sums += counts / max(counts.sum(), 1)
    precision, recall = sums[0] / (sums[0] + sums[1]), sums[0] / (sums[0] + sums[2])
    return precision, recall, 2 * precision * recall / (precision + recall)


class Example(NamedTuple):
    """A page's blocks to learn from: texts, what the first model sees, whether each is content, and its weight."""

    markup: Markup
    texts: list[str]
    seen: np.ndarray
    is_content: np.ndarray
    weight: np.ndarray
    article: str


def example(page: dict, share: float) -> Example:
    """A block is content when more than half of its shingles are the article's; it weighs as its words among the
    article's."""
    markup = scan(page["html"].encode())
    texts = [unescape(bytes(markup.text[b[B_START] : b[B_END]]).decode("utf-8", "replace")) for b in markup.blocks]
    article = N_WORDS.findall(page["article"])
    known, joined = shingles(page["article"]), f" {' '.join(article)} "
    labels, weights = [], []
    for words in map(N_WORDS.findall, texts):
        whole = len(words) >= 4
        hits = (
            np.mean([gram in known for gram in shingles(" ".join(words))])
            if whole
            else bool(words) and f" {' '.join(words)} " in joined
        )
        labels.append(hits > 0.5)
        weights.append(min((len(words) + 1) / max(len(article), 50), 0.3))
    weight = np.array(weights)
    weight *= 20 * share * min(1, 4 / max(weight.sum(), 1e-9))  # 20: the ridges were chosen for weights of this size
    return Example(
        markup, texts, content.features(markup.elements, markup.blocks), np.array(labels), weight, page["article"]
    )


def fit(examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(FIRST, SECOND) of pipelines/html/content.py."""
    labels, weights = (
        np.concatenate([getattr(e, name) for e in examples]).astype(float) for name in ("is_content", "weight")
    )
    first = logistic(np.vstack([e.seen for e in examples]).astype(float), labels, weights, RIDGE_FIRST)
    second = logistic(np.vstack([around(e, first) for e in examples]).astype(float), labels, weights, RIDGE_SECOND)
    return first, second


def around(page: Example, first: np.ndarray) -> np.ndarray:
    return content.context(
        page.markup.elements, page.markup.blocks, page.seen, content.probability(content.logits(page.seen, first))
    )


def logistic(x: np.ndarray, y: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """Weights of a logistic model with a ridge on standardised columns, by Newton's method; column 0 of x is 1."""
    mean, scale = x.mean(0), x.std(0)
    mean[0], scale[scale == 0] = 0, 1
    z = (x - mean) / scale
    penalty = np.eye(x.shape[1]) * ridge
    penalty[0, 0] = 1e-6
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = content.probability(z @ beta)
        gradient = z.T @ (weights * (p - y)) + penalty @ beta
        step = np.linalg.solve((z * (weights * p * (1 - p))[:, None]).T @ z + penalty, gradient)
        beta -= step
        if np.abs(step).max() < 1e-6:
            break
    unscaled = beta / scale
    unscaled[0] = beta[0] - (beta[1:] * mean[1:] / scale[1:]).sum()
    return unscaled


def kept(page: Example, first: np.ndarray, second: np.ndarray) -> str:
    good = content.logits(around(page, first), second) > content.CUT
    return "\n".join(text for text, keep in zip(page.texts, good, strict=True) if keep)


def validated(
    examples: list[Example], n_gold: int, seed: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Scores of the gold pages and of the others, each judged by weights that were fitted without it."""
    fold = np.random.default_rng(seed).permutation(len(examples)) % FOLDS
    texts = [""] * len(examples)
    for out in range(FOLDS):
        weights = fit([e for e, f in zip(examples, fold, strict=True) if f != out])
        for i in np.flatnonzero(fold == out):
            texts[i] = kept(examples[i], *weights)
    pairs = [(text, e.article) for text, e in zip(texts, examples, strict=True)]
    return score(pairs[:n_gold]), score(pairs[n_gold:]) if pairs[n_gold:] else (0, 0, 0)


def written(name: str, weights: np.ndarray, groups: dict[str, int]) -> str:
    """Weights as they stand in pipelines/html/content.py, a group of columns a line. groups: their first columns."""
    begins = [*groups.values(), len(weights)]
    rows = [", ".join(f"{weight:.3f}" for weight in weights[a:b]) for a, b in zip(begins, begins[1:], strict=False)]
    lines = [f"    {row},  # {group}" for row, group in zip(rows, groups, strict=True)]
    return "\n".join([f"{name} = np.array([", *lines, "])  # fmt: skip"])


def main() -> None:
    files = [name for name in sys.argv[1:] if name != "--fit"]
    if "--fit" not in sys.argv:
        print(f"{'work':44}{'value':>12} {'unit':8}{'reference':>12}{'ratio':>8}{'must':>8}")
        for line in rows(*files):
            numbers = (f"{line[key]:.3f}" if line[key] else "" for key in ("reference", "ratio", "must"))
            print("{:44}{:12,.3f} {:8}{:>12}{:>8}{:>8}".format(line["work"], line["value"], line["unit"], *numbers))
        return
    gold = [example(page, 1.0) for page in read(files[0])]
    examples = gold + [example(page, MANUALS) for file in files[1:] for page in read(file)]
    for seed in SEEDS:
        print(
            "cross-validated, seed",
            seed,
            *(tuple(round(float(v), 4) for v in s) for s in validated(examples, len(gold), seed)),
        )
    first, second = fit(examples)
    print(written("FIRST", first, content.FIRST_GROUPS))
    print(written("SECOND", second, content.SECOND_GROUPS))


if __name__ == "__main__":
    main()
