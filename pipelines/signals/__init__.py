"""Signals: one file per family, each with COLUMNS and measure(texts, known, context); adding one is a file and a line here."""

from pipelines.signals import code, fingerprints, language, personal, quality, stopwords, text

FAMILIES = (text, code, language, stopwords, personal, quality, fingerprints)
