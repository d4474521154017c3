"""Text to token ids. tiktoken is the definition, gigatoken the fast encoder, `tokenizers` the trainer.

A tokenizer is the bytes of its ranks file (tiktoken's format: one line a token, base64 of its bytes, a space, its
rank).
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.edits.spans import apply_to_batch
from pipelines.shards.sequences import in_seeded_order
from pipelines.spark import ID_BYTES, broadcast_small
from schemas.tables import TOKENS

if TYPE_CHECKING:
    import gigatoken
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
# cl100k's special tokens (tiktoken_ext/openai_public.py); ids 100,256 and 100,261 to 100,275 are unused.
CL100K_SPECIAL = {
    END_OF_TEXT: 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}
# cl100k's pre-tokenizer as tiktoken 0.14 has it, and the same for `tokenizers`, whose regex engine reads {1,3}+ as a
# repeat of a repeat and $ as the end of any line.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
# And pieces are cut after so many characters: a merge moves what follows it in its piece, so that a run of 300,000 Han
# characters took hours, and the engine gives up on a piece where it steps back 10 million times. Hardly a text has such
# pieces (4.7 MB of Python's library give the same tokenizer without the cut). Encoding cuts nothing.
LONGEST_PIECE = 512
_RUN = f"{{1,{LONGEST_PIECE}}}"
TRAINING_PATTERN = (
    rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}{_RUN}|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]{_RUN}[\r\n]{{0,{LONGEST_PIECE}}}"
    rf"|\s{_RUN}\z|\s{{0,{LONGEST_PIECE - 1}}}[\r\n]|\s{_RUN}(?!\S)|\s"
)


def train_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """Ranks file of a byte-level BPE (Sennrich et al. 1508.07909) of `vocab_size` ids, end-of-text included.

    The same texts give the same bytes, in any order and on any number of threads. Texts too short for so many merges
    give fewer ids. Raises ValueError below 257 ids: 256 bytes and end-of-text.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(f"vocab_size must be at least 257 (256 bytes and end-of-text), found {vocab_size}")
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(TRAINING_PATTERN), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    )
    byte_of = _byte_of_letter()
    merged = sorted((rank, token) for token, rank in bpe.get_vocab().items() if len(token) > 1)
    tokens = [bytes([b]) for b in range(256)] + [bytes(byte_of[letter] for letter in token) for _, token in merged]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others follow from U+0100 in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def cl100k_ranks() -> bytes:
    """GPT-4's ranks file, as `make setup` fetched it. Raises FileNotFoundError if it did not."""
    from pipelines.assets import CL100K_RANKS

    return CL100K_RANKS.read_bytes()


def encoding(ranks: bytes, name: str) -> tiktoken.Encoding:
    """The definition: a tiktoken.Encoding of these ranks; `name` is bpe or cl100k_base, which decides the special
    tokens."""
    import tiktoken

    lines = (line.split() for line in ranks.splitlines())
    by_token = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=by_token, special_tokens=_special(ranks, name))


def about(ranks: bytes, name: str, file: str) -> dict:
    """The manifest's words on a tokenizer. vocab_size is one more than the largest id; eot is the end-of-text id."""
    special = _special(ranks, name)
    sha256 = hashlib.sha256(ranks).hexdigest()
    return {
        "name": name,
        "vocab_size": max(special.values()) + 1,
        "eot": special[END_OF_TEXT],
        "sha256": sha256,
        "file": file,
    }


def _special(ranks: bytes, name: str) -> dict[str, int]:
    if name not in ("bpe", "cl100k_base"):
        raise ValueError(f"tokenizer must be bpe or cl100k_base, found {name!r}")
    return CL100K_SPECIAL if name == "cl100k_base" else {END_OF_TEXT: len(ranks.splitlines())}


def id_type(vocab_size: int) -> np.dtype:
    """How ids are stored: little-endian uint16 where they fit, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def doc_key(doc_id: str) -> int:
    """First 64 bits of a doc_id as a signed number; never 0, which marks padding in a sample."""
    return int.from_bytes(bytes.fromhex(doc_id[:16]), "big", signed=True) or 1


@lru_cache(maxsize=1)  # loading cl100k takes 0.3 s, and what a worker has encoded makes its next task faster
def encoder(ranks: bytes) -> gigatoken.Tokenizer:
    """gigatoken's encoder of these ranks. It knows no special tokens, so their literal text is ordinary text."""
    import gigatoken

    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
        file.write(ranks)
        file.flush()
        return gigatoken.Tokenizer.from_tiktoken(file.name, pretokenizer="cl100k")


def encode(texts: pa.Array, ranks: bytes, dtype: np.dtype) -> list[np.ndarray]:
    """Ids of each text (string array without nulls), end-of-text marks apart."""
    fast = encoder(ranks)
    return [fast.encode(text).astype(dtype) for text in texts.cast(pa.binary()).to_pylist()]


def tokenise(documents: DataFrame, ranks: bytes, kind: str) -> DataFrame:
    """Columns of silver.tokens for documents (doc_id, stream, domain, text, edits); `kind` names the tokenizer.

    edits: as pipelines.edits.edits.joined gives them; without the column the texts are learnt as they are.
    """
    dtype = id_type(about(ranks, kind, "")["vocab_size"])
    edited = "edits" in documents.columns

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            texts = apply_to_batch(batch.column("text"), batch.column("edits")) if edited else batch.column("text")
            n_bytes = pc.binary_length(texts).cast(pa.int64())
            ids = encode(texts, ranks, dtype)
            keys = pa.array([doc_key(doc_id) for doc_id in batch.column("doc_id").to_pylist()], pa.int64())
            lengths = pa.array([len(one) for one in ids], pa.int64())
            blobs = pa.array([one.tobytes() for one in ids], pa.binary())
            doc_id, stream, domain = (batch.column(name) for name in ("doc_id", "stream", "domain"))
            yield pa.RecordBatch.from_arrays(
                [doc_id, keys, stream, domain, n_bytes, lengths, blobs], list(TOKENS.column_names)
            )

    return documents.select("doc_id", "stream", "domain", "text", *(["edits"] if edited else [])).mapInArrow(
        run, TOKENS.ddl
    )


def training_sample(documents: DataFrame, seed: int, sample_bytes: int) -> DataFrame:
    """The first documents in seeded order, until they hold `sample_bytes`; documents: doc_id, n_bytes, text.

    They may be collected: the recipe bounds their size.
    """
    sizes = documents.select("doc_id", F.lit("all").alias("stream"), F.col("n_bytes").alias("cost"))
    first = broadcast_small(
        in_seeded_order(sizes, seed).where(F.col("offset") < sample_bytes).select("doc_id"), F.lit(ID_BYTES)
    )
    return documents.join(first, "doc_id", how="left_semi").select("doc_id", "text")
