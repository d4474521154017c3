"""tokens: the trained tokenizer is deterministic, and every encoder agrees with tiktoken."""

import base64
import hashlib
import os
import random
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import assets
from pipelines.shards.tokens import (
    PATTERN,
    about,
    cl100k_ranks,
    doc_key,
    encode,
    encoding,
    id_type,
    tokenise,
    train_bpe,
    training_sample,
)
from schemas.tables import TOKENS

REPOSITORY = Path(__file__).parent.parent
STDLIB = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
ADVERSARIAL = [
    *("<|endoftext|>", "a<|endoftext|>b <|fim_prefix|>", "<|endoftext", "|endoftext|>", "a" * 500, " " * 300, "\n" * 99, " \n \n\t x"),
    *("1234567890", "I'll've'S 'd DON'T", "x  ", "x \n  ", "\r\n\r\n a\rb", "\u00a0\u2003 x\u200b", "e\u0301 \u1e9b\u0323", "\x00\x01\x1f"),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "中文字符、日本語テキスト", "שלום עולם مرحبا", "\ufeffx\ufffe", "_a__b$%^&*()"),
    *("٣٤٥ Ⅻ ½²", "\u017f\u017f '\u017f", "\u0130'\u212a", "", " ", "'", "''s"),
]


def stdlib_texts(count: int = 40) -> list[str]:
    return [path.read_text("utf-8", errors="replace") for path in STDLIB[:count]]


@pytest.fixture(scope="module")
def ranks() -> bytes:
    return train_bpe(stdlib_texts(), 2000)


def check_encoder(texts: list[str], ranks: bytes, kind: str) -> None:
    definition = encoding(ranks, kind)
    dtype = id_type(definition.n_vocab)
    for text, ids in zip(texts, encode(pa.array(texts, pa.string()), ranks, dtype), strict=True):
        assert ids.dtype == dtype
        assert ids.tolist() == definition.encode_ordinary(text), repr(text[:100])


def test_a_trained_tokenizer_has_the_size_asked_for_and_one_special_token(ranks):
    bpe, facts = encoding(ranks, "bpe"), about(ranks, "bpe", "tokenizer.tiktoken")
    assert bpe.n_vocab == facts["vocab_size"] == 2000
    assert bpe.eot_token == facts["eot"] == 1999 and bpe.special_tokens_set == {"<|endoftext|>"}
    assert facts["sha256"] == hashlib.sha256(ranks).hexdigest()
    assert ranks.splitlines()[65] == base64.b64encode(b"A") + b" 65"
    text = stdlib_texts()[0]
    assert len(bpe.encode_ordinary(text)) < len(text) / 2.5, "merges were learnt in the order of their use"


@pytest.mark.parametrize("kind", ["gpt2", ""])
def test_an_unknown_tokenizer_is_refused(ranks, kind):
    with pytest.raises(ValueError, match="bpe or cl100k_base"):
        encoding(ranks, kind)


def test_a_vocabulary_must_hold_all_bytes():
    with pytest.raises(ValueError, match="at least 257"):
        train_bpe(["x"], 256)
    assert about(train_bpe(["abab"], 5000), "bpe", "")["vocab_size"] < 300, "a short text gives as many merges as it has"


def test_training_gives_the_same_bytes_on_any_threads_and_in_any_order(ranks):
    code = (
        "import sys; from tests.test_tokens import *\n"
        "print(hashlib.sha256(train_bpe(stdlib_texts()[::int(sys.argv[1])], 2000)).hexdigest())"
    )
    for order, threads in (("1", "1"), ("-1", "5")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        said = subprocess.check_output([sys.executable, "-c", code, order], env=environment, cwd=REPOSITORY, text=True)
        assert said.strip() == hashlib.sha256(ranks).hexdigest()


@pytest.mark.parametrize("text", [*ADVERSARIAL, "def f(x):\n    return x  \n\n\n  # 12345 it's\n   "])
def test_training_splits_text_as_the_definition_does(text):
    from tokenizers import Regex, pre_tokenizers

    from pipelines.shards.tokens import TRAINING_PATTERN

    pieces = pre_tokenizers.Split(Regex(TRAINING_PATTERN), behavior="isolated").pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == regex.findall(PATTERN, text)


LONG_RUNS = ["\u4e2d\u6587" * 3000, " " * 3000 + "x", " \n\t" * 1000 + "x", "-=" * 3000 + "\n" * 3000 + "x", "\U0001f468\u200d" * 2000]


@pytest.mark.parametrize("text", LONG_RUNS)
def test_training_cuts_long_pieces_and_nothing_else(text):
    """Oracle: the definition's pieces, of which only those above the length are cut."""
    from tokenizers import Regex, pre_tokenizers

    from pipelines.shards.tokens import LONGEST_PIECE, TRAINING_PATTERN

    text = f"before it {text} 12345 behind\n\n  it"
    pieces = [piece for piece, _ in pre_tokenizers.Split(Regex(TRAINING_PATTERN), behavior="isolated").pre_tokenize_str(text)]
    assert "".join(pieces) == text and max(map(len, pieces)) <= 2 * LONGEST_PIECE + 1
    defined = set(regex.findall(PATTERN, text))
    assert all(piece in defined for piece in pieces if len(piece) < LONGEST_PIECE // 4)


def test_a_tokenizer_is_trained_on_long_runs_in_seconds():
    """A piece's merges take its length each: 80,000 Han characters took two minutes; 6 million spaces ended the engine."""
    chance = random.Random(1)
    han = "".join(chr(0x4E00 + int(chance.paretovariate(0.6)) % 3000) for _ in range(80_000))
    mixed = "".join(chance.choices(" \t\n\r", k=80_000))
    began = time.process_time()
    ranks = train_bpe([han, mixed, " " * 6_000_000 + "x"], 2000)
    assert time.process_time() - began < 30 and len(ranks.splitlines()) == 1999
    check_encoder([han, mixed + "x", " " * 80_000, "\u4e2d" * 80_000], ranks, "bpe")


def test_the_fast_encoder_equals_tiktoken(ranks):
    check_encoder(ADVERSARIAL + stdlib_texts(80), ranks, "bpe")


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\r\t'sdmtlvre12a\u00e9\u4e2d<|>endofxt\u0301"))
def test_the_fast_encoder_equals_tiktoken_on_any_text(ranks, text):
    check_encoder([text], ranks, "bpe")


@pytest.mark.skipif(not assets.CL100K_RANKS.is_file(), reason="make setup fetches cl100k_base")
def test_cl100k_is_openais():
    ranks = cl100k_ranks()
    facts, definition = about(ranks, "cl100k_base", ""), encoding(ranks, "cl100k_base")
    assert (facts["vocab_size"], facts["eot"], facts["sha256"][:8]) == (100277, 100257, "223921b7")
    assert definition.n_vocab == 100277 and definition.eot_token == 100257
    assert definition.encode("hello <|endoftext|>", allowed_special="all") == [15339, 220, 100257]
    check_encoder(ADVERSARIAL + stdlib_texts(), ranks, "cl100k_base")


def test_ids_are_stored_in_two_bytes_where_they_fit():
    assert [id_type(size) for size in (65536, 65537)] == [np.dtype("<u2"), np.dtype("<u4")]


def test_document_keys_are_signed_and_never_zero():
    assert doc_key("00" * 8 + "ff" * 8) == 1, "0 marks padding"
    assert doc_key("ff" * 16) == -1
    assert doc_key("0123456789abcdef" + "0" * 16) == 0x0123456789ABCDEF


def test_tokenise_fills_the_table(spark, ranks):
    texts = [*ADVERSARIAL, *stdlib_texts(5)]
    rows = [(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), "a.all", "code", len(text.encode()), text) for text in texts]
    documents = spark.createDataFrame(rows, "doc_id string, stream string, domain string, n_bytes bigint, text string").repartition(3)
    table = tokenise(documents, ranks, "bpe")
    assert tuple(table.columns) == TOKENS.column_names
    by_id = {row.doc_id: row for row in table.collect()}
    assert len(by_id) == len(rows)
    for doc_id, stream, domain, n_bytes, text in rows:
        row, ids = by_id[doc_id], encoding(ranks, "bpe").encode_ordinary(text)
        assert np.frombuffer(row.tokens, "<u2").tolist() == ids
        assert (row.doc_key, row.stream, row.domain, row.n_bytes, row.n_tokens) == (doc_key(doc_id), stream, domain, n_bytes, len(ids))


def test_a_training_sample_is_the_beginning_of_the_seeded_order(spark):
    rows = [(f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" * 2, 10 + i % 7, f"text {i}") for i in range(300)]
    documents = spark.createDataFrame(rows, "doc_id string, n_bytes bigint, text string")
    sample = {row.doc_id for row in training_sample(documents, 3, 1500).collect()}
    sizes = {doc_id: n_bytes for doc_id, n_bytes, _ in rows}
    taken = 0
    seed = xxhash.xxh64_intdigest((3).to_bytes(8, "little"), seed=42)  # Spark's xxhash64 chains its arguments from 42
    signed = {doc_id: (xxhash.xxh64_intdigest(doc_id.encode(), seed=seed) ^ 1 << 63) for doc_id in sizes}
    for doc_id in sorted(sizes, key=signed.get):
        assert (doc_id in sample) == (taken < 1500)
        taken += sizes[doc_id]
