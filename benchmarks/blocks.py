"""How the weights of pipelines/html/content.py were fitted, and what they are worth on pages that they did not see.

    python -m benchmarks.blocks FOLDER      # cross-validated, then the weights, as they stand in content.py

FOLDER holds articles.jsonl.zst (`url`, `html`, and `article`, the main content by hand) and kinds.jsonl.zst, which
`python -m benchmarks.pages FOLDER` writes. Pages of the second file that are `held_out` are not fitted on.
"""

from __future__ import annotations

import sys
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from benchmarks.extraction import GOLD, KINDS, N_WORDS, read, score, shingles
from pipelines.html import content
from pipelines.html.markup import B_END, B_START, Markup, scan

RIDGE_FIRST, RIDGE_SECOND = 30.0, 10.0
# Weight of a kind's pages together, in pages of newspapers: by leaving sites out, and by the held-out pages of a kind
SHARES = {"documentation": 40.0, "forum": 20.0, "shop": 10.0, "listing": 10.0, "blog": 20.0}


class Example(NamedTuple):
    """A page's blocks to learn from: texts, what the first model sees, whether each is content, and its weight."""

    site: str
    kind: str
    markup: Markup
    texts: list[str]
    seen: np.ndarray
    is_content: np.ndarray
    weight: np.ndarray
    article: str


def examples_of(folder: str) -> list[Example]:
    """Articles first, then those pages of other kinds that are not held out."""
    articles = [example(page, urlsplit(page["url"]).netloc, "article", 1.0) for page in read(Path(folder, GOLD))]
    pages = [page for page in read(Path(folder, KINDS)) if not page["held_out"]]
    numbers = {kind: sum(page["kind"] == kind for page in pages) for kind in SHARES}
    others = [example(p, p["site"], p["kind"], SHARES[p["kind"]] / numbers[p["kind"]]) for p in pages]
    return articles + others


def example(page: dict, site: str, kind: str, share: float) -> Example:
    """A block is content when more than half of its shingles are the article's; it weighs as its words among the
    article's."""
    markup = scan(page["html"].encode("utf-8", "replace"))
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
    seen = content.features(markup.elements, markup.blocks)
    return Example(site, kind, markup, texts, seen, np.array(labels), weight, page["article"])


class Weights(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def fit(examples: list[Example], start: Weights | None = None) -> Weights:
    """FIRST and SECOND of pipelines/html/content.py. start: weights to begin from, which saves steps."""
    labels, weights = (
        np.concatenate([getattr(e, name) for e in examples]).astype(float) for name in ("is_content", "weight")
    )
    first = logistic(np.vstack([e.seen for e in examples]), labels, weights, RIDGE_FIRST, start and start.first)
    around = np.vstack([in_context(e, first) for e in examples])
    return Weights(first, logistic(around, labels, weights, RIDGE_SECOND, start and start.second))


def in_context(page: Example, first: np.ndarray) -> np.ndarray:
    p = content.probability(content.logits(page.seen, first))
    return content.context(page.markup.elements, page.markup.blocks, page.seen, p)


def logistic(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, ridge: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Weights of a logistic model with a ridge on standardised columns, by Newton's method; column 0 of x is 1."""
    x = x.astype(float)
    mean, scale = x.mean(0), x.std(0)
    mean[0], scale[scale == 0] = 0, 1
    scale[0] = 1
    z = (x - mean) / scale
    penalty = np.eye(x.shape[1]) * ridge
    penalty[0, 0] = 1e-6
    beta = np.zeros(x.shape[1])
    if start is not None:
        beta = start * scale
        beta[0] = start @ mean + start[0]
    for _ in range(30):
        p = content.probability(z @ beta)
        gradient = z.T @ (weights * (p - y)) + penalty @ beta
        step = np.linalg.solve((z * (weights * p * (1 - p))[:, None]).T @ z + penalty, gradient)
        beta -= step
        if np.abs(step).max() < 1e-4:  # of weights that are written to three digits
            break
    unscaled = beta / scale
    unscaled[0] = beta[0] - (beta[1:] * mean[1:] / scale[1:]).sum()
    return unscaled


def kept(page: Example, weights: Weights) -> str:
    """The text that content.keep would keep by these weights."""
    good = content.passing(content.logits(in_context(page, weights.first), weights.second), page.seen)
    return "\n".join(text for text, keep in zip(page.texts, good, strict=True) if keep)


def without_each_site(examples: list[Example], kind: str = "article") -> list[tuple[str, str]]:
    """(text, gold) of each page of a kind, its blocks judged by weights that were fitted without any page of its
    site."""
    start = fit(examples)
    pairs = []
    for site in dict.fromkeys(e.site for e in examples if e.kind == kind):
        weights = fit([e for e in examples if e.site != site], start)
        pairs += [(kept(e, weights), e.article) for e in examples if e.site == site]
    return pairs


def written(name: str, weights: np.ndarray, groups: dict[str, int]) -> str:
    """Weights as they stand in pipelines/html/content.py, a group of columns a line. groups: their first columns."""
    begins = [*groups.values(), len(weights)]
    rows = [", ".join(f"{weight:.3f}" for weight in weights[a:b]) for a, b in zip(begins, begins[1:], strict=False)]
    lines = [f"    {row},  # {group}" for row, group in zip(rows, groups, strict=True)]
    return "\n".join([f"{name} = np.array([", *lines, "])  # fmt: skip"])


def main() -> None:
    examples = examples_of(sys.argv[1])
    precision, recall, f1 = score(without_each_site(examples))
    print(f"articles, without their sites: precision {precision:.4f}, recall {recall:.4f}, F1 {f1:.4f}")
    first, second = fit(examples)
    print(written("FIRST", first, content.FIRST_GROUPS))
    print(written("SECOND", second, content.SECOND_GROUPS))


if __name__ == "__main__":
    main()
