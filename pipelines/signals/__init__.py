"""Signals: one file per family, each with COLUMNS and measure(texts, domains, context); adding one is a file and a line here."""

from pipelines.signals import code, fingerprints, language, personal, quality, text

FAMILIES = (text, code, language, personal, quality, fingerprints)
