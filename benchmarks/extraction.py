"""Main content of web pages: speed and quality beside resiliparse and trafilatura, same pages, same run, by kind.

    python -m benchmarks extraction FOLDER       # with articles.jsonl.zst in it, and kinds.jsonl.zst if there is one

Either file holds a JSON object a line: `html`, and `article`, its main content. That of articles is by hand
(scrapinghub's article-extraction-benchmark, MIT); `url` says whose page it is. Pages of other kinds are those that
`python -m benchmarks.pages FOLDER` writes; the held-out ones are judged.

Score: 4-gram shingles of the words (\\w+) as multisets; a page's true and false positives and false negatives divided
by their sum; precision, recall and F1 of these summed over the pages. Speed: pages in a CPU second, one core.

The weights of content.py were fitted on the articles: their F1 says how well weights fit, and the F1 "without its site"
what a page gets by weights that saw no page of its site (blocks.py). Pages of kinds are of packages and of layouts that
were not fitted on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text

from benchmarks.blocks import examples_of, without_each_site
from benchmarks.shingles import GOLD, KINDS, read, score
from benchmarks.timing import row, seconds
from pipelines.html.extract import extract, extract_slowly

LEAST_F1, LEAST_PAGES = 0.96, 1000.0
EXTRACTORS: dict[str, Callable[[str], str]] = {
    "ours": lambda html: extract(html.encode("utf-8", "replace")).text,
    "resiliparse": lambda html: extract_plain_text(html, main_content=True, alt_texts=False),
    "resiliparse without comments": lambda html: extract_plain_text(
        html, main_content=True, alt_texts=False, comments=False
    ),
    "trafilatura fast": extract_slowly,
}


def rows(folder: str | None = None) -> list[dict]:
    """Speed, precision, recall and F1 of each extractor on articles, and F1 by kind of page. `must` is the least ratio.

    folder: holds GOLD, and KINDS or not.
    """
    file = Path(folder or ".", GOLD)
    if not file.is_file():
        print(f"  no pages to judge by: python -m benchmarks extraction FOLDER, with {GOLD} in it", file=sys.stderr)
        return []
    articles = list(read(file))
    figures = [figure for name, work in EXTRACTORS.items() for figure in _of_articles(name, work, articles)]
    if not Path(folder or ".", KINDS).is_file():
        print(f"  no pages of other kinds: python -m benchmarks.pages FOLDER writes {KINDS}", file=sys.stderr)
        return figures
    return figures + _without_their_sites(folder or ".") + _by_kind(folder or ".")


def _of_articles(name: str, work: Callable[[str], str], articles: list[dict]) -> list[dict]:
    ours = name == "ours"
    texts = [work(page["html"]) for page in articles]
    spent = seconds(lambda: [work(page["html"]) for page in articles], repeats=1 if name == "trafilatura fast" else 3)
    precision, recall, f1 = score(zip(texts, (page["article"] for page in articles), strict=True))
    rate, least = len(articles) / spent, LEAST_PAGES if ours else None
    return [
        row(f"articles: {name}: speed", rate, "pages/s", reference=least, must=1.0 if ours else None),
        row(f"articles: {name}: precision", precision, "of 1"),
        row(f"articles: {name}: recall", recall, "of 1"),
        row(f"articles: {name}: F1" + " (fitted on them)" * ours, f1, "of 1"),
        row(f"articles: {name}: empty pages", sum(not text.strip() for text in texts), ""),
    ]


def _without_their_sites(folder: str) -> list[dict]:
    f1 = score(without_each_site(examples_of(folder)))[2]
    return [row("articles: ours: F1, each without its site", f1, "of 1", reference=LEAST_F1, must=1.0)]


def _by_kind(folder: str) -> list[dict]:
    """F1 on the held-out pages of each kind: of ours against the best peer."""
    pages = [page for page in read(Path(folder, KINDS)) if page["held_out"]]
    figures = []
    for kind in dict.fromkeys(page["kind"] for page in pages):
        ones = [page for page in pages if page["kind"] == kind]
        f1, empty = {}, {}
        for name, work in EXTRACTORS.items():
            texts = [work(page["html"]) for page in ones]
            f1[name] = score(zip(texts, (page["article"] for page in ones), strict=True))[2]
            empty[name] = sum(not text.strip() for text in texts)
        best = max(value for name, value in f1.items() if name != "ours")
        figures += [row(f"{kind} ({len(ones)} pages): ours: F1", f1["ours"], "of 1", reference=best, must=1.0)]
        figures += [row(f"{kind}: {name}: F1", value, "of 1") for name, value in f1.items() if name != "ours"]
        figures += [row(f"{kind}: ours: empty pages", empty["ours"], "")]
    return figures
