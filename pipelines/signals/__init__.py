"""Step measure: signals (silver.signals). One file a family, with COLUMNS and measure(texts, known, context).

Adding a family is a file and a line here. Families: text, code, language, stopwords, personal, quality, fingerprints.
Their helpers:

    context        what the signals need besides the text
    measure        the one pass: all families over a batch, over a table
    routes         which domain a document is treated as
    phrases, repeats                    of text
    linear                              of language
    personal_scan, contacts, accounts, secrets, spans  of personal
"""

from pipelines.signals import code, fingerprints, language, personal, quality, stopwords, text
from schemas.tables import SIGNALS

FAMILIES = (text, code, language, stopwords, personal, quality, fingerprints)
COLUMNS = tuple(column for family in FAMILIES for column in family.COLUMNS)
TABLE = SIGNALS.extended(COLUMNS)
REVISION = 3  # raised by hand when the signals of the same text become others
