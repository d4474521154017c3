"""Step measure: signals (silver.signals). One file a family, with COLUMNS and measure(texts, known, context).

Adding a family is a file and a line here.

    text           words, lines, repetition: Gopher, C4, DCLM, FineWeb ...
    code           line lengths, encoded data, markup
    language       which language, how surely
    stopwords      stop words of a document's own language
    order          whether its words stand in the order of running text
    personal       personal data and secrets
    quality        how like the examples of its domain
    fingerprints   hashes that copies and near copies share

What they are run by, and what they need:

    measure         all families over a batch, over a table
    context         what they need besides the text
    routes          which domain a document is treated as
    phrases         of text: furniture of pages
    repeats         of text: lines, paragraphs, n-grams met again
    prose           of language: what is left of a text to read
    linear          of language: the model, predicted
    personal_scan   of personal: where something may begin
    personal_bytes  of personal_scan: what bytes and the ends of words mean
    secrets_scan    of personal_scan: where keys, tokens, passwords may begin
    contacts        of personal: e-mail, IP
    domains         of contacts: top-level domains, with their date
    phones          of personal: phone numbers
    accounts        of personal: cards, IBAN
    secrets         of personal: private keys, providers' tokens
    passwords       of personal: passwords and keys of assignments, headers, URLs
    spans           of personal: what the finders share
"""

from pipelines.signals import code, fingerprints, language, order, personal, quality, stopwords, text
from schemas.tables import SIGNALS

FAMILIES = (text, code, language, stopwords, order, personal, quality, fingerprints)
COLUMNS = tuple(column for family in FAMILIES for column in family.COLUMNS)
TABLE = SIGNALS.extended(COLUMNS)
REVISION = 6  # raised by hand when the signals of the same text become others
