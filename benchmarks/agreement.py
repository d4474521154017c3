"""Our verdicts beside those of published code, rule by rule, on the same documents.

    python -m benchmarks.agreement FOLDER PYTHON

FOLDER holds .jsonl.zst files whose records have a text; PYTHON is that of an environment with datatrove, dolma (its
file on repetitions is all that is read) and beautifulsoup4. Their words are pieces (str.split) here: spaCy's need a
download, and are another definition. A rule is compared twice: their code as it is, and their code on the document as
our definitions see it. The first figure is what the difference of definitions makes, the second must be 99.9 %. What
has no package (DCLM, datamap-rs, StarCoder) is written again from its published expressions.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

SHARDS = {
    "web": ("web_prose", 1000),
    "docs": ("techdocs", 1000),
    "math": ("math", 1000),
    "multilingual": ("multilingual", 600),
}
SHARDS |= {"instruct": ("instruct", 400), "html": ("web_html", 400)}
MOST_CHARS = 20_000
RESULT = Path(__file__).parent / "results" / "agreement.md"
LINE_END = ".!?…\"'”’。！？؟।"
COUNTER = (
    r"^\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+"
    r"(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers)\W*$"
)
Test = Callable[[str], bool]

# ---- what their code is given ----


def words(text: str) -> list[str]:
    return [piece for piece in text.split() if any(map(str.isalnum, piece))]


def ink(text: str) -> int:
    return len("".join(text.split()))


def lines(text: str, join: str = " ") -> list[str]:
    """Lines that are not blank, their pieces joined."""
    return [join.join(line.split()) for line in text.split("\n") if line.strip()]


def is_html(text: str) -> bool:
    return text.lstrip().lower().startswith(("<!doctype", "<html"))


def paragraphs(text: str, join: str = " ") -> list[str]:
    return ["\n".join(lines(block, join)) for block in re.split(r"\n(?:[^\S\n]*\n)+", text) if block.strip()]


# ---- their code; this half runs in the other environment ----


def theirs() -> dict[str, tuple[Test, Test, str]]:
    """By rule: drops by their code, drops by their code under our definitions, and the definitions that differ."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.filters import c4_filters as c4
    from datatrove.pipeline.filters import fineweb_quality_filter as fineweb
    from datatrove.pipeline.filters import gopher_quality_filter as quality
    from datatrove.pipeline.filters import gopher_repetition_filter as repetition

    for module in (fineweb, quality, repetition):
        module.split_into_words = lambda text, language: text.split()
    c4.split_into_sentences = lambda text, language: sentences_of(text)

    def drops(one, text: str) -> bool:
        kept = one.filter(Document(text=text, id=""))
        return not (kept[0] if isinstance(kept, tuple) else kept)

    def gopher(**given) -> Test:
        names = "min_doc_words max_doc_words min_avg_word_length max_avg_word_length max_symbol_word_ratio "
        names += "max_bullet_lines_ratio max_ellipsis_lines_ratio max_non_alpha_words_ratio min_stop_words"
        one = GopherQualityFilter(**dict.fromkeys(names.split()) | given)
        return lambda text: drops(one, text)

    def repeats(**given) -> Test:
        off = dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"))
        one = GopherRepetitionFilter(**off | {"top_n_grams": (), "dup_n_grams": ()} | given)
        return lambda text: drops(one, text)

    def fine(**given) -> Test:
        off = {
            "line_punct_thr": 0.0,
            "short_line_thr": 1.0,
            "char_duplicates_ratio": 1.0,
            "new_line_ratio": float("inf"),
        }
        one = FineWebQualityFilter(**off | given)
        return lambda text: drops(one, text)

    switches = "remove_citations filter_no_terminal_punct filter_lorem_ipsum filter_javascript filter_curly_bracket "
    switches += "filter_policy"
    off = dict.fromkeys(switches.split(), False) | {
        "min_num_sentences": -1,
        "min_words_per_line": -1,
        "max_word_length": -1,
    }

    def page(**given) -> Test:
        one = C4QualityFilter(**off | given)
        return lambda text: drops(one, text)

    def loses(text: str) -> bool:
        """More than .3 of the words stand in lines that C4 drops."""
        given = {"filter_javascript": True, "filter_policy": True, "min_words_per_line": 3, "max_word_length": 1000}
        document = Document(text=text, id="")
        C4QualityFilter(**off | given).filter(document)
        return (len(words(text)) - len(words(document.text))) > 0.3 * len(words(text))

    def share(count: Callable[[str], int], limit: float) -> Test:
        return lambda text: count(text) / max(ink(text), 1) > limit

    def top(n: int) -> Callable[[str], int]:
        def count(text: str) -> int:
            pieces = text.split()
            grams = Counter(tuple(pieces[i : i + n]) for i in range(len(pieces) - n + 1))
            most = max(grams.values(), default=0)
            return most * max(len("".join(gram)) for gram, copies in grams.items() if copies == most) if most > 1 else 0

        return count

    def repeated(blocks: list[str]) -> int:
        """Ink of the blocks that repeat an earlier one."""
        met: set[str] = set()
        return sum(ink(block) for block in blocks if block in met or met.add(block))

    on = lambda change, test: lambda text: test(change(text))  # noqa: E731
    only_words, own_lines = (lambda text: " ".join(words(text))), (lambda text: "\n".join(lines(text)))
    by_rule = {
        "too_few_words": (gopher(min_doc_words=50), on(only_words, gopher(min_doc_words=50)),
            "theirs leave out pieces of their list of marks, ours all without letter or digit"),
        "too_many_words": (gopher(max_doc_words=1000), on(only_words, gopher(max_doc_words=1000)),
            "as too_few_words (at 1,000 words here)"),
        "short_words": (gopher(min_avg_word_length=3), on(only_words, gopher(min_avg_word_length=3)),
            "as too_few_words"),
        "long_words": (gopher(max_avg_word_length=10), on(only_words, gopher(max_avg_word_length=10)),
            "as too_few_words"),
        "hashes": (gopher(max_symbol_word_ratio=0.1), lambda text: text.count("#") > 0.1 * max(len(words(text)), 1),
            "theirs look at # and ellipses at once, and divide by all pieces"),
        "ellipses": (gopher(max_symbol_word_ratio=0.1),
            lambda text: text.count("...") + text.count("…") > 0.1 * max(len(words(text)), 1),
            "as hashes"),
        "bullet_lines": (gopher(max_bullet_lines_ratio=0.9),
            on(lambda text: re.sub(r"(?m)^\*", "-", own_lines(text)), gopher(max_bullet_lines_ratio=0.9)),
            "theirs count blank lines, and not *"),
        "ellipsis_lines": (gopher(max_ellipsis_lines_ratio=0.3), on(own_lines, gopher(max_ellipsis_lines_ratio=0.3)),
            "theirs count blank lines"),
        "few_words_with_letters": (gopher(max_non_alpha_words_ratio=0.8),) * 2 + ("none",),
        "no_stop_words": (gopher(min_stop_words=2), on(str.lower, gopher(min_stop_words=2)),
            "theirs know small letters only"),
        "repeated_lines": (repeats(dup_line_frac=0.3), on(own_lines, repeats(dup_line_frac=0.3)),
            "theirs compare indentation too"),
        "repeated_paragraphs": (repeats(dup_para_frac=0.3),
            on(lambda text: "\n\n".join(paragraphs(text)), repeats(dup_para_frac=0.3)),
            "theirs end at \\n\\n, not at a line of spaces"),
        "repeated_line_text": (repeats(dup_line_char_frac=0.2), share(lambda text: repeated(lines(text)), 0.2),
            "theirs divide characters by all characters"),
        "repeated_paragraph_text": (repeats(dup_para_char_frac=0.2),
            share(lambda text: repeated(paragraphs(text)), 0.2),
            "as repeated_line_text"),
        "line_ends": (fine(line_punct_thr=0.12), on(own_lines, fine(line_punct_thr=0.12, stop_chars=tuple(LINE_END))),
            "theirs see spaces at a line's end, and know other marks"),
        "short_lines": (fine(short_line_thr=0.67), on(own_lines, fine(short_line_thr=0.67, short_line_length=29)),
            "theirs count indentation, and 30 characters as short"),
        "fineweb_repeated_lines": (fine(char_duplicates_ratio=0.1), share(lambda text: repeated(lines(text)), 0.1),
            "as repeated_line_text"),
        "lists": (fine(new_line_ratio=0.3), lambda text: text.count("\n") > 0.3 * max(len(words(text)), 1),
            "theirs divide by pieces"),
        "lorem_ipsum": (page(filter_lorem_ipsum=True),
            lambda text: re.search(r"lorem\s+ipsum", text.lower()) is not None,
            "theirs want one space"),
        "curly_braces": (page(filter_curly_bracket=True),) * 2 + ("none",),
        "few_sentences": (page(min_num_sentences=5), lambda text: len(sentences_of(text)) < 5,
            "theirs begin a sentence at every line"),
        "c4_lines": (loses, on(own_lines, loses), "none; what they drop is counted"),
        "ui_lines": (dclm, on(own_lines, dclm), "theirs count indentation"),
        "questionable_sentences": (olmo, olmo_of_ours, "theirs split at [.!?]+\\s+, ours keep the closing quotes"),
        "repeated_span": (span_run, span_run, "none"),
        "long_lines": (lambda text: mean(list(map(len, text.splitlines()))) > 100,
            lambda text: mean(list(map(len, text.removesuffix("\n").split("\n")))) > 100,
            "theirs end lines at \\f and others too"),
        "very_long_line": (lambda text: max(map(len, text.splitlines()), default=0) > 1000,
            lambda text: max(map(len, text.split("\n"))) > 1000,
            "as long_lines"),
        "few_letters": (lambda text: sum(map(str.isalpha, text)) < 0.25 * len(text),) * 2 + ("none",),
        "little_visible": (
            lambda text: is_html(text) and len(visible(text)) < 0.2 * len(text),
            lambda text: is_html(text) and len(visible_as_it_is(text)) < 0.2 * len(text),
            "theirs make one newline of blanks between tags"),
        "few_visible": (
            lambda text: is_html(text) and len(visible(text)) < 100,
            lambda text: is_html(text) and len(visible_as_it_is(text)) < 100, "as little_visible"),
        "xml_header": (lambda text: "<?xml version=" in text[:100],) * 2 + ("none",),
    }  # fmt: skip
    for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16)):
        difference = "theirs count spaces, what occurs once, and the first of equals"
        by_rule[f"top_{n}gram"] = (repeats(top_n_grams=((n, limit),)), share(top(n), limit), difference)
    for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
        count = lambda text, n=n: repetition.find_all_duplicate(text.split(), n)  # noqa: E731
        by_rule[f"repeated_{n}grams"] = (
            repeats(dup_n_grams=((n, limit),)),
            share(count, limit),
            "theirs divide by all characters",
        )
    return by_rule


def sentences_of(text: str) -> list[str]:
    """Our definition: ends, and what stands behind the last."""
    at, sentences = 0, []
    for end in re.finditer(r"[.!?…؟।][.!?…؟।\"')\]}”’»]*(?!\S)|[。！？]+", text):
        sentences.append(text[at : end.end()])
        at = end.end()
    return sentences + [text[at:]] * bool(text[at:].strip())


def mean(values: list[int]) -> float:
    return sum(values) / max(len(values), 1)


def dclm(text: str) -> bool:
    """More than 5 % of the words go with lines of upper case, digits, a counter or one word, or out of lines as
    phrases."""
    before, kept = len(words(text)), []
    for line in text.split("\n"):
        if line and (
            sum(map(str.isupper, line)) > 0.5 * len(line) or sum(map(str.isdigit, line)) > 0.999999 * len(line)
        ):
            continue
        if not re.search(COUNTER, line.lower()) and (not line or len(line.split()) >= 2):
            short = len(line.split()) <= 10
            for phrase in (r"items in cart", r"read more\.\.\.$", r"^sign-in") if short else ():
                line = re.sub(phrase, "", line, flags=re.I)
            kept.append(line)
    return before - sum(len(words(line)) for line in kept) > 0.05 * before


MADLAD = (
    "mp3", "ownload", "Vol.", "Episode", "Develop", "Facebook", "\ufffd" * 3, "黄色电影", "aute irure dolor ",
    " sunt in culpa qui ", "orem ipsum ", " quis nostrud ", " adipisicing ", " dolore eu ", " cupidatat ",
    "autem vel eum", "wisi enim ad", " №", " Ep.", " sex ", " porn ", " crusher ", " xxx ",
)  # fmt: skip


def questioned(sentence: str) -> bool:
    """MADLAD-400's rules 2 and 5."""
    starts = [next(c for c in word if c.isalnum()) for word in words(sentence)]
    cased = len(starts) >= 12 and 2 * sum(map(str.isupper, starts)) >= len(starts)
    spaced = re.search(r" [^ ] [^ ] [^ ] [^ ] [^ ] [^ ] [^ ] [^ ] [^ ]", sentence)
    return bool(cased or any(phrase in sentence for phrase in MADLAD) or spaced or re.search(r"\|\s*$", sentence))


def olmo(text: str) -> bool:
    sentences = [sentence for sentence in re.split(r"[.!?]+\s+", text) if sentence.strip()]
    return sum(map(questioned, sentences)) >= 0.2 * max(len(sentences), 1)


def olmo_of_ours(text: str) -> bool:
    sentences = sentences_of(re.sub(r"\s+", " ", text))
    return sum(questioned(f" {sentence.strip()} ") for sentence in sentences) >= 0.2 * max(len(sentences), 1)


def span_run(text: str) -> bool:
    """Whether dolma's search finds a span of 1 to 13 pieces 32 times in a row."""
    import numpy as np

    ids: dict[str, int] = {}
    pieces = np.array([ids.setdefault(piece, len(ids)) for piece in text.split()], np.int64)
    return len(pieces) >= 32 and any(span.times >= 32 for span in dolma_search()(pieces, max_period=13))


@cache
def dolma_search():
    """dolma's function without the rest of dolma."""
    folder = importlib.util.find_spec("dolma").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("repetitions", f"{folder}/taggers/repetitions/utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.find_periodic_sequences


def visible(text: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for element in soup(["script", "style"]):
        element.extract()
    return soup.get_text()


def visible_as_it_is(text: str) -> str:
    """What the parser below BeautifulSoup finds outside scripts and styles, blanks included."""
    from html.parser import HTMLParser

    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = lambda data: parts.append(data) if parser.cdata_elem is None else None
    parser.feed(text)
    return "".join(parts)


def judge_by_theirs(path: str) -> None:
    """Verdicts of all rules on the documents of a file, to standard output: [rule, difference, [as it is], [under our
    definitions]]."""
    texts = json.loads(Path(path).read_text())
    for name, (first, second, difference) in theirs().items():
        print(
            json.dumps(
                [name, difference, [bool(first(text)) for text in texts], [bool(second(text)) for text in texts]]
            )
        )


# ---- ours ----


def documents(folder: Path) -> list[str]:
    import zstandard

    texts: list[str] = []
    for prefix, n in SHARDS.values():
        texts += islice(read(sorted(folder.glob(f"{prefix}*.jsonl.zst"))[-1], zstandard), n)
    return texts


def read(path: Path, zstandard) -> Iterator[str]:
    with open(path, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            text = json.loads(line)["text"][:MOST_CHARS].replace("\r\n", "\n")
            if words(text):
                yield text


def judge_by_ours(texts: list[str]) -> dict[str, list[bool]]:
    import pyarrow as pa

    from pipelines import rules
    from pipelines.signals import code, text

    strings = pa.array(texts, pa.large_string())
    columns = {}
    for family in (text, code):
        measured = family.measure(strings, None, None)
        columns |= {column.name: values.to_pylist() for column, values in zip(family.COLUMNS, measured, strict=True)}
    published = {rule.name: rule for domain in ("code", "web") for rule in rules.load(domain) if rule.signal in columns}
    published["too_many_words"] = published["too_many_words"].at(1000)  # none of these documents has 100,000
    values = zip(texts, zip(*columns.values(), strict=True), strict=True)
    rows = [
        dict(zip(columns, row, strict=True)) | {"declared": "HTML" if is_html(text) else "Text"} for text, row in values
    ]
    verdicts = {}
    for name, rule in published.items():
        verdicts[name] = [replace(rule, unless={}).fails(row) for row in rows]  # the expressions know no languages
    return verdicts


def main() -> None:
    texts = documents(Path(sys.argv[1]))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        done = subprocess.run(
            [sys.argv[2], __file__, "--theirs", file.name], capture_output=True, text=True, check=True
        )
    ours = judge_by_ours(texts)
    names = (
        "rule",
        "theirs drop",
        "ours drop",
        "agree",
        "theirs drop, our definitions",
        "agree",
        "definitions that differ",
    )
    table = [
        f"# Agreement with published code, {len(texts):,} documents",
        "",
        "`python -m benchmarks.agreement FOLDER PYTHON`",
        "",
    ]
    table += ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names))]
    for line in done.stdout.splitlines():
        name, difference, first, second = json.loads(line)
        agree = [100 * Counter(map(bool.__eq__, ours[name], other))[True] / len(texts) for other in (first, second)]
        row = (
            name,
            f"{sum(first)}",
            f"{sum(ours[name])}",
            f"{agree[0]:.2f} %",
            f"{sum(second)}",
            f"{agree[1]:.2f} %",
            difference,
        )
        table.append("| " + " | ".join(row) + " |")
        if agree[1] < 99.9 and "--show" in sys.argv:
            print(
                name,
                [i for i, pair in enumerate(zip(ours[name], second, strict=True)) if pair[0] != pair[1]][:5],
                file=sys.stderr,
            )
    RESULT.write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    judge_by_theirs(sys.argv[2]) if sys.argv[1] == "--theirs" else main()
