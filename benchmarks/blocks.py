"""How the weights of pipelines/html/weights.py were fitted, and what they are worth on pages that they did not see.

    python -m benchmarks.blocks FOLDER      # the weights, as they stand there; on stderr what they are worth

FOLDER holds articles.jsonl.zst (`url`, `html`, and `article`, the main content by hand) and kinds.jsonl.zst, which
`python -m benchmarks.pages FOLDER` writes. Pages of the second file that are `held_out` are not fitted on.
"""

from __future__ import annotations

import sys
from collections import Counter
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from benchmarks.shingles import GOLD, KINDS, N_WORDS, read, score, shingles
from pipelines.html import content
from pipelines.html.features import FIRST_GROUPS, SECOND_GROUPS, context, features
from pipelines.html.markup import B_END, B_START, Markup, scan

RIDGE_FIRST, RIDGE_SECOND, RIDGE_PAGE = 30.0, 10.0, 3.0
MANY = ("forum", "shop", "listing")  # kinds of pages of many posts, offers or entries
# What all pages of a kind weigh together, in newspapers' pages: in the weights for pages of one text, in those for
# pages of many, and in those that tell the two apart. Chosen by leaving sites out, and by a look at a quarter of the
# held-out pages.
ONE_SHARES = {"article": 61.0, "documentation": 20.0, "wiki": 10.0, "news": 3.0}
MANY_SHARES = {"article": 12.0, "forum": 15.0, "shop": 10.0, "listing": 20.0}
PAGE_SHARES = {
    "article": 120.0, "documentation": 42.0, "wiki": 18.0, "news": 30.0, "blog": 60.0, "forum": 60.0, "shop": 36.0,
    "listing": 42.0,
}  # fmt: skip
MOST_BLOCKS = 400  # of a page to fit on: beyond it time goes into a few long indexes


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
    articles = [example(page, urlsplit(page["url"]).netloc, "article") for page in read(Path(folder, GOLD))]
    pages = [page for page in read(Path(folder, KINDS)) if not page["held_out"]]
    others = [example(page, page["site"], page["kind"]) for page in pages]
    return articles + [one for one in others if len(one.texts) < MOST_BLOCKS]


def example(page: dict, site: str, kind: str) -> Example:
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
    weight *= 20 * min(1, 4 / max(weight.sum(), 1e-9))  # 20: the ridges were chosen for weights of this size
    seen = features(markup.elements, markup.blocks)
    return Example(site, kind, markup, texts, seen, np.array(labels), weight, page["article"])


class Weights(NamedTuple):
    """Those of pipelines/html/weights.py."""

    first: np.ndarray
    second: np.ndarray
    first_of_many: np.ndarray
    second_of_many: np.ndarray
    page: np.ndarray


def fit(examples: list[Example], start: Weights | None = None) -> Weights:
    """start: weights to begin from, which saves steps."""
    one, many = _weighed(examples, ONE_SHARES), _weighed(examples, MANY_SHARES)
    return Weights(*_pair(one, start and start[:2]), *_pair(many, start and start[2:4]), _page(examples, start))


def _weighed(examples: list[Example], shares: dict[str, float]) -> list[Example]:
    """The examples of these kinds, all of a kind weighing its share."""
    numbers = Counter(e.kind for e in examples)
    return [e._replace(weight=e.weight * shares[e.kind] / numbers[e.kind]) for e in examples if e.kind in shares]


def _pair(examples: list[Example], start: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
    labels, weights = (
        np.concatenate([getattr(e, name) for e in examples]).astype(float) for name in ("is_content", "weight")
    )
    first = logistic(np.vstack([e.seen for e in examples]), labels, weights, RIDGE_FIRST, start and start[0])
    around = np.vstack([in_context(e, first) for e in examples])
    return first, logistic(around, labels, weights, RIDGE_SECOND, start and start[1])


def _page(examples: list[Example], start: Weights | None) -> np.ndarray:
    numbers = Counter(e.kind for e in examples)
    means = np.vstack([content.page_means(e.seen, e.markup.blocks) for e in examples])
    shares = np.array([PAGE_SHARES[e.kind] / numbers[e.kind] for e in examples])
    return logistic(
        means, np.array([e.kind in MANY for e in examples]).astype(float), shares, RIDGE_PAGE, start and start.page
    )


def in_context(page: Example, first: np.ndarray) -> np.ndarray:
    p = content.probability(content.logits(page.seen, first))
    return context(page.markup.elements, page.markup.blocks, page.seen, p)


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


def kept(page: Example, first: np.ndarray, second: np.ndarray) -> str:
    """The text that content.keep would keep by these weights."""
    good = content.choose(page.markup.elements, page.markup.blocks, page.seen, first, second)
    return "\n".join(text for text, keep in zip(page.texts, good, strict=True) if keep)


def without_each_site(examples: list[Example], kind: str = "article") -> list[tuple[str, str]]:
    """(text, gold) of each page of a kind, by weights that were fitted without any page of its site: those that tell
    pages of many apart, and those of the version that these choose."""
    start = fit(examples)
    pairs = []
    for site in dict.fromkeys(e.site for e in examples if e.kind == kind):
        rest, out = ([e for e in examples if (e.site == site) == is_out] for is_out in (False, True))
        page = _page(rest, start)
        for is_many in (False, True):
            ones = [e for e in out if content.is_many(e.seen, e.markup.blocks, page) == is_many]
            if ones:
                shares, begin = (MANY_SHARES, start[2:4]) if is_many else (ONE_SHARES, start[:2])
                weights = _pair(_weighed(rest, shares), begin)
                pairs += [(kept(e, *weights), e.article) for e in ones]
    return pairs


def written(name: str, weights: np.ndarray, groups: dict[str, int]) -> str:
    """Weights as they stand in pipelines/html/content.py, a group of columns a line. groups: their first columns."""
    begins = [*groups.values(), len(weights)]
    rows = [", ".join(f"{weight:.3f}" for weight in weights[a:b]) for a, b in zip(begins, begins[1:], strict=False)]
    lines = [f"    {row},  # {group}" for row, group in zip(rows, groups, strict=True)]
    return "\n".join([f"{name} = np.array([", *lines, "])  # fmt: skip"])


GROUPS = {
    "FIRST": FIRST_GROUPS,
    "SECOND": SECOND_GROUPS,
    "FIRST_OF_MANY": FIRST_GROUPS,
    "SECOND_OF_MANY": SECOND_GROUPS,
    "PAGE": FIRST_GROUPS,
}


def main() -> None:
    examples = examples_of(sys.argv[1])
    precision, recall, f1 = score(without_each_site(examples))
    print(
        f"articles, without their sites: precision {precision:.4f}, recall {recall:.4f}, F1 {f1:.4f}", file=sys.stderr
    )
    for (name, groups), array in zip(GROUPS.items(), fit(examples), strict=True):
        print(written(name, array, groups))


if __name__ == "__main__":
    main()
