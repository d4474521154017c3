"""What is usual in a language, from documents of it that the recipe trusts: thresholds of rules, and stop words.

FineWeb-2 (Penedo et al. 2506.20920) takes both from Wikipedia in each language. Nothing is downloaded here: a language
without trusted documents keeps the default thresholds, and has no stop words.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.rules import Rule
from pipelines.signals.stopwords import MOST_WORDS
from pipelines.texts.scripts import LANGUAGES

LEAST_DOCUMENTS = 30  # of a language, to tell what is usual in it
STOP_WORD_SHARE = 0.008  # of a language's words (FineWeb-2)
LEAST_STOP_WORDS, LONGEST_STOP_WORD = 8, 6  # words; letters: longer ones are the topic's
SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles on the card


def fit(signals: pa.RecordBatch, texts: list[str], rules: tuple[Rule, ...]) -> dict[str, Any]:
    """The card of a fit: documents by language, thresholds by rule and language, quantiles of the signals, stop words
    by language.

    signals: of the trusted documents, with `lang`, in the order of texts; rules: those with a `fit` are fitted.
    """
    languages = np.array(signals.column("lang").to_pylist(), object)
    counts = Counter(languages.tolist())
    known = sorted(lang for lang, n in counts.items() if n >= LEAST_DOCUMENTS and lang != "und")
    fitted = [rule for rule in rules if rule.fit]
    values = {rule.signal: signals.column(rule.signal).to_numpy(zero_copy_only=False).astype(float) for rule in fitted}
    return {
        "documents": {lang: counts[lang] for lang in known},
        # a rule that is off for a language stays off
        "thresholds": {
            rule.name: {
                lang: threshold(rule, values[rule.signal][languages == lang])
                for lang in known
                if rule.limit(lang) is not None
            }
            for rule in fitted
        },
        "quantiles": {
            name: {lang: np.quantile(of[languages == lang], SHOWN).tolist() for lang in known}
            for name, of in values.items()
        },
        "stop_words": {
            lang: stop_words(np.array(texts, object)[languages == lang]) for lang in known if lang not in LANGUAGES
        },
    }


def threshold(rule: Rule, values: np.ndarray) -> float:
    """A rule's threshold from the values of its signal in trusted documents.

    tail t         beyond it lies the share t of them
    ratio m        the rule's own, times their median over m, the median where the rule comes from
    median (a, b)  their median less one standard deviation, from a to b
    """
    (how, number), *_ = rule.fit.items()
    if how == "tail":
        return float(np.quantile(values, number if rule.side == "below" else 1 - number))
    if how == "ratio":
        return rule.threshold * float(np.median(values)) / number
    if how == "median":
        return float(np.clip(np.median(values) - np.std(values), *number))
    raise ValueError(f"rule {rule.name}: expected a fit by tail, ratio or median, found {how}")


def stop_words(texts: list[str]) -> list[str]:
    """The short words that make up at least STOP_WORD_SHARE of all words, but at least LEAST_STOP_WORDS and at most
    MOST_WORDS."""
    counts = Counter(word for text in texts for word in re.findall(r"[^\W_]+", text.lower()))
    total = sum(counts.values())
    short = [(word, n) for word, n in counts.items() if word.isalpha() and len(word) <= LONGEST_STOP_WORD]
    ranked = sorted(short, key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
    return [word for rank, (word, n) in enumerate(ranked) if rank < LEAST_STOP_WORDS or n >= STOP_WORD_SHARE * total]
