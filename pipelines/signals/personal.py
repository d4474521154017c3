"""Personal data and secrets: e-mail addresses, public IP addresses, phone numbers, cards, bank accounts, keys, tokens,
passwords.

Two floors. A compiled scan goes over the bytes once and names the few places where something may begin: an @ between
letters, digits enough for a phone number, -----BEGIN, a long run of token characters that begins as a provider's do, an
assignment to a word for password or key. A finder of contacts, phones, accounts, secrets or passwords looks at each of
them. The scan may name too many places, never too few: the spans are those that the finders give when they try every
byte (tests/test_personal.py). Both floors look at a bounded neighbourhood of each place, so that hostile text costs
time in proportion to its length.

What is found stays in the text; `edits` writes PLACEHOLDERS in place of it when a kept document is tokenised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.signals import accounts, contacts, passwords, phones, secrets, spans
from pipelines.signals.personal_bytes import KEY
from pipelines.signals.personal_scan import places
from pipelines.texts.characters import Strings, utf8
from schemas.tables import Column

if TYPE_CHECKING:
    from pipelines.signals.context import Context

COLUMNS = (
    Column("n_emails", "int", "e-mail addresses"),
    Column("n_ips", "int", "public IP addresses"),
    Column("n_phones", "int", "phone numbers"),
    Column("n_cards", "int", "payment card numbers"),
    Column("n_ibans", "int", "bank account numbers (IBAN)"),
    Column("n_secrets", "int", "private keys, tokens and passwords"),
    Column("personal_rate", "double", "all of these per 1,000 words of 6 bytes; a shorter text counts as 1,000 words"),
    Column(
        "personal",
        "array<struct<start:int,end:int,kind:string>>",
        "where they stand, in bytes of UTF-8: sorted, disjoint",
    ),
)
PLACEHOLDERS = {  # the tags of StarCoder (2305.06161, 5.1) for e-mail, IP, key and password; the others by analogy
    "key": "<KEY>",
    "token": "<KEY>",
    "password": "<PASSWORD>",
    "iban": "<IBAN>",
    "card": "<CARD>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE>",
}
COUNTED = {"n_emails": ("email",), "n_ips": ("ip",), "n_phones": ("phone",), "n_cards": ("card",), "n_ibans": ("iban",)}
COUNTED |= {"n_secrets": ("key", "token", "password")}
# What the scan names, in the order of precedence where two begin at the same byte.
FINDERS = (
    ("key", secrets.key),
    ("token", secrets.token),
    ("token", passwords.key),
    ("password", passwords.password),
    ("password", passwords.url_password),
    ("iban", accounts.iban),
    ("card", accounts.card),
    ("email", contacts.email),
    ("ip", contacts.ipv4),
    ("ip", contacts.ipv6),
    ("phone", phones.phone),
)
BYTES_PER_1000_WORDS = 6000
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())])


def measure(texts: Strings, known: dict[str, pa.Array], context: Context) -> list[pa.Array]:
    """The columns of COLUMNS, one value a document."""
    data, offsets = utf8(texts)
    docs, starts, ends, kinds = _spans(data, offsets)
    counts = {kind: np.bincount(docs[kinds == kind], minlength=len(texts)) for kind in PLACEHOLDERS}
    columns = [sum(counts[kind] for kind in COUNTED[column.name]) for column in COLUMNS if column.name in COUNTED]
    words = np.maximum(np.diff(offsets) / BYTES_PER_1000_WORDS, 1.0)
    n = np.bincount(docs, minlength=len(texts))
    spans = pa.StructArray.from_arrays(
        [pa.array(starts), pa.array(ends), pa.array(kinds, pa.string())], fields=list(SPAN)
    )
    bounds = np.concatenate([[0], np.cumsum(n)]).astype(np.int32)
    return [
        *(pa.array(column).cast(pa.int32()) for column in columns),
        pa.array(n / words),
        pa.ListArray.from_arrays(bounds, spans),
    ]


def _spans(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Document (int64), start, end (int32) and kind (object) of each span, in order; of two that overlap the first."""
    candidates = []
    buffer = memoryview(data)
    for doc, place, what in places(data, offsets).tolist():
        begin, end = int(offsets[doc]), int(offsets[doc + 1])
        low, kind, find = max(begin, place - spans.BEFORE), *FINDERS[what]
        window = bytes(buffer[low : min(end, place + (spans.AFTER if what == KEY else spans.NEAR))])
        candidates += [
            (doc, low - begin + start, what, low - begin + stop, kind) for start, stop in find(window, place - low)
        ]
    kept, last = [], (-1, 0)
    for doc, start, _, stop, kind in sorted(candidates):
        if (doc, start) >= last:
            kept.append((doc, start, stop, kind))
            last = doc, stop
    docs, starts, stops, kinds = zip(*kept, strict=True) if kept else ((), (), (), ())
    return np.array(docs, np.int64), np.array(starts, np.int32), np.array(stops, np.int32), np.array(kinds, object)
