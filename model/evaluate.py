"""Held-out bits per byte, which compares models over any tokenizer: nats of a document's tokens / ln 2 / its UTF-8
bytes.

Each document stands alone behind its start token. One longer than `seq_len` is read in windows that overlap by half: a
token is scored once, in the first window that reaches it. The closing end-of-text token is not scored: the text has no
byte for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.attention import Packing, pack
from model.parallel.ranks import ALONE, Ranks
from model.transformer import Transformer


class Piece(NamedTuple):
    """Places [start, end) of a document that one window reads; those from `scored` on predict tokens not yet scored."""

    document: int
    start: int
    end: int
    scored: int


def bits_per_byte(
    model: Transformer, documents: list[dict], seq_len: int, batch_tokens: int, ranks: Ranks = ALONE
) -> dict[str, dict]:
    """{domain: {bits_per_byte, documents, bytes, tokens}} of held-out samples (columns domain, n_bytes, tokens)."""
    nats = document_nats(model, [document["tokens"] for document in documents], seq_len, batch_tokens, ranks)
    scores = {}
    for domain in sorted({document["domain"] for document in documents}):
        chosen = [i for i, document in enumerate(documents) if document["domain"] == domain]
        n_bytes = sum(int(documents[i]["n_bytes"]) for i in chosen)
        n_tokens = sum(max(0, len(documents[i]["tokens"]) - 2) for i in chosen)
        bits = float(nats[chosen].sum()) / math.log(2)
        scores[domain] = {
            "bits_per_byte": bits / max(1, n_bytes),
            "documents": len(chosen),
            "bytes": n_bytes,
            "tokens": n_tokens,
        }
    return scores


def document_nats(
    model: Transformer, tokens: list[np.ndarray], seq_len: int, batch_tokens: int, ranks: Ranks = ALONE
) -> np.ndarray:
    """Sum of each document's cross-entropies in nats, float64; tokens hold end-of-text at both ends. Ranks share the
    rows."""
    nats = np.zeros(len(tokens))
    rows = fill_rows(
        [piece for i, document in enumerate(tokens) for piece in pieces(i, len(document), seq_len)], seq_len
    )
    size, device = max(1, batch_tokens // seq_len // ranks.world), model.head.weight.device
    # all batches have one shape, to which a GPU's code is compiled, and all ranks as many
    rows += [[]] * (-len(rows) % (size * ranks.world))
    with torch.no_grad():
        for start in range(ranks.rank * size, len(rows), size * ranks.world):
            tokens_BL, targets_BL, packing, owners = _batch(rows[start : start + size], tokens, seq_len)
            states_TD = model(tokens_BL.to(device), packing.map(lambda tensor: tensor.to(device))).states_TD
            _, losses_T = model.head(states_TD, targets_BL.flatten().to(device), None)
            nats += np.bincount(owners.flatten(), weights=losses_T.double().cpu().numpy(), minlength=len(tokens))
    return sum(ranks.every(nats))


def pieces(document: int, n_tokens: int, seq_len: int) -> Iterator[Piece]:
    """The windows of a document; place p predicts token p + 1, the last one scored is token n_tokens - 2."""
    places, start, scored = n_tokens - 2, 0, 0
    while scored < places:
        end = min(start + seq_len, places)
        yield Piece(document, start, end, scored)
        start, scored = start + max(1, seq_len // 2), end


def fill_rows(windows: list[Piece], seq_len: int) -> list[list[Piece]]:
    """Rows of at most `seq_len` places: the longest window, then the shortest ones that still fit."""
    waiting = deque(sorted(windows, key=lambda piece: piece.end - piece.start))
    rows = []
    while waiting:
        row = [waiting.pop()]
        room = seq_len - (row[0].end - row[0].start)
        while waiting and waiting[0].end - waiting[0].start <= room:
            row.append(waiting.popleft())
            room -= row[-1].end - row[-1].start
        rows.append(row)
    return rows


def _batch(
    rows: list[list[Piece]], tokens: list[np.ndarray], seq_len: int
) -> tuple[Tensor, Tensor, Packing, np.ndarray]:
    """(tokens, targets, packing, document of each place), each [B, L]; what fills up a row is a segment of its own."""
    ids, owners = (np.zeros((len(rows), seq_len), np.int64) for _ in range(2))
    targets, starts = np.full((len(rows), seq_len), -1), []
    for r, row in enumerate(rows):
        at = 0
        for document, start, end, scored in row:
            here = slice(at, at + end - start)
            ids[r, here], owners[r, here] = tokens[document][start:end], document
            targets[r, at + scored - start : here.stop] = tokens[document][scored + 1 : end + 1]
            starts.append(r * seq_len + at)
            at = here.stop
        if at < seq_len:
            starts.append(r * seq_len + at)
    packing = pack(np.array(starts), len(rows), seq_len)
    return torch.from_numpy(ids), torch.from_numpy(targets), packing, owners
