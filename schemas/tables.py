"""Every Delta table as data: columns, types, meanings, keys and CHECK constraints. `pipelines.lake` creates them from
here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Column:
    """One column; `type` is Spark DDL, `meaning` becomes the column's comment in the table."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: `key` columns identify a row; `checks` are SQL conditions that the lake enforces on every write."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    checks: dict[str, str] = field(default_factory=dict)

    def extended(self, columns: tuple[Column, ...]) -> Table:
        """This table with further columns (the signal families bring their own). Raises ValueError for a name that is
        taken."""
        names = [column.name for column in self.columns + columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.name}: expected each column once, found {', '.join(twice)} again")
        return replace(self, columns=self.columns + columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def ddl(self) -> str:
        """Names and types, for Spark's parser."""
        return ", ".join(f"{column.name} {column.type}" for column in self.columns)


DOC_ID = Column("doc_id", "string", "32 hex digits: blake2b-128 of source, uri and text")
TRAINED = Column("run", "string", "hash of the training step"), Column("step", "bigint", "optimiser step, from 0")

DOCUMENTS = Table(
    "bronze.documents",
    "one ingested text",
    (
        DOC_ID,
        Column("source", "string", "name of the source in the recipe"),
        Column("snapshot", "string", "which delivery of the source"),
        Column(
            "uri", "string", "place of the record in its source: relative path, and #number inside a file of records"
        ),
        Column("domain", "string", "what the document is treated as"),
        Column("licence", "string", "licence as the record or its package names it", nullable=True),
        Column(
            "facts",
            "map<string,string>",
            "what the reader knows besides: url, title, language, charset, truncated, vendored, generated, turns",
        ),
        Column("text", "string", "the text, line ends as \\n, otherwise as it came"),
        Column("n_bytes", "bigint", "UTF-8 bytes of the text"),
    ),
    ("doc_id",),
    {"id_is_hash": "length(doc_id) = 32", "has_text": "n_bytes > 0"},
)

REJECTS = Table(
    "bronze.rejects",
    "one input record that could not become a document",
    (
        Column("source", "string", "name of the source in the recipe"),
        Column("snapshot", "string", "which delivery of the source"),
        Column("uri", "string", "place of the record in its source"),
        Column(
            "reason", "string", "why, as one word: invalid_utf8, broken_json, empty_text, too_large, unreadable, ..."
        ),
        Column("detail", "string", "what was expected and found"),
        Column("n_bytes", "bigint", "bytes of the record, as far as they could be read"),
    ),
    ("source", "snapshot", "uri"),
)

# The signal families (pipelines/signals) add their columns.
SIGNALS = Table(
    "silver.signals",
    "the measurements of a document",
    (
        DOC_ID,
        Column("source", "string", "name of the source in the recipe"),
        Column("snapshot", "string", "which delivery of the source"),
        Column("domain", "string", "what the document is treated as"),
        Column("declared", "string", "the language that its record or file name declares", nullable=True),
        Column("vendored", "int", "1 if its tree marks the file as another project's, else 0"),
        Column("generated", "int", "1 if its tree or file name marks the file as a program's output, else 0"),
        Column("n_bytes", "bigint", "UTF-8 bytes of the text"),
    ),
    ("doc_id",),
)

PAIRS = Table(
    "silver.pairs",
    "near copies: two texts whose word n-grams overlap as the recipe asks; "
    "the index that new snapshots are compared with",
    (
        Column("a", "string", "text_hash of the one, smaller than b"),
        Column("b", "string", "text_hash of the other"),
        Column("support", "int", "bands in which the two stand close together in their bucket"),
    ),
    ("a", "b"),
    {"a_before_b": "a < b", "has_support": "support > 0"},
)

CLUSTERS = Table(
    "silver.clusters",
    "a kept document, and the copies and near copies that are dropped for it",
    (
        DOC_ID,
        Column("cluster_id", "string", "smallest doc_id of the cluster"),
        Column("component", "string", "smallest doc_id of all that pairs connect: one cluster or more"),
        Column("size", "bigint", "documents in the cluster"),
        Column("rank", "int", "place in the cluster's order of preference; 1 is kept"),
        Column("keeper", "string", "doc_id of rank 1"),
        Column("exact", "boolean", "the same text as the keeper, case and white space apart"),
    ),
    ("doc_id",),
    {"rank_within_size": "rank between 1 and size"},
)

EDITS = Table(
    "silver.edits",
    "a span of a document that is left out or masked when it is tokenised",
    (
        DOC_ID,
        Column("start", "bigint", "first byte of the span in the UTF-8 text"),
        Column("end", "bigint", "the byte behind it"),
        Column("replacement", "string", "what is learnt in its place; empty where it is left out"),
        Column("why", "string", "repeated_line, repeated_passage, or a kind of personal data"),
    ),
    ("doc_id", "start"),
    {"span_is_not_empty": "start >= 0 and start < end"},
)

# The signal families add their columns, as they do to silver.signals.
RESTS = replace(
    SIGNALS, name="silver.rests", meaning="the measurements of what repeated lines and passages leave of a document"
)


CONTAMINATION = Table(
    "silver.contamination",
    "an evaluation's item that a keeper holds, whole or in part",
    (
        DOC_ID,
        Column("item", "string", "the item: its file and number"),
        Column("file", "string", "the evaluation file, as the recipe names it"),
        Column("field", "string", "the field that is covered most, or all: the item's fields together"),
        Column(
            "cover",
            "double",
            "share of its n-grams that stand together in the document; of a short item 1 where it stands whole, else 0",
        ),
        Column(
            "near",
            "double",
            "share of its words, by rarity, that stand about where they should: from .8 on an edited item, not dropped",
        ),
        Column("matched", "bigint", "words of the document in these n-grams"),
        Column(
            "run",
            "bigint",
            "words of the longest stretch of the document made of the item's n-grams; 13 is GPT-3's limit",
        ),
        Column("start", "bigint", "first byte of the match in the document's text"),
        Column("end", "bigint", "the byte after its last"),
        Column("excerpt", "string", "the beginning of the match"),
    ),
    ("doc_id", "item"),
    {"cover_is_share": "cover >= 0 and cover <= 1", "match_has_place": "start >= 0 and start < end"},
)

VERDICTS = Table(
    "silver.verdicts",
    "what was decided for a document, and every reason",
    (
        DOC_ID,
        Column("source", "string", "name of the source in the recipe"),
        Column("domain", "string", "what the document is treated as"),
        Column("n_bytes", "bigint", "UTF-8 bytes of the text"),
        Column("keep", "boolean", "no rule failed, and the keeper of its cluster"),
        Column("reason", "string", "the first reason against it", nullable=True),
        Column("reasons", "array<string>", "all reasons against it, in the order of the rules"),
        Column(
            "percentile",
            "double",
            "share of the kept documents that the same quality model scored no higher",
            nullable=True,
        ),
        Column("tier", "string", "quality band of a kept document", nullable=True),
        Column("heldout", "boolean", "kept for evaluation, never trained on"),
    ),
    ("doc_id",),
    {"reason_iff_dropped": "keep = (reason is null)", "tier_iff_kept": "keep = (tier is not null)"},
)

TOKENS = Table(
    "silver.tokens",
    "token ids of a kept document",
    (
        DOC_ID,
        Column("doc_key", "bigint", "first 64 bits of doc_id, signed: the document's name in shards and ledger"),
        Column("stream", "string", "source.tier, or heldout"),
        Column("domain", "string", "what the document is treated as"),
        Column("n_bytes", "bigint", "UTF-8 bytes of the text as it was tokenised, its edits applied"),
        Column("n_tokens", "bigint", "token ids, the end-of-text marks apart"),
        Column("tokens", "binary", "the ids, little-endian uint16 (vocabulary up to 65,536) or uint32"),
    ),
    ("doc_id",),
)

MIXTURE = Table(
    "gold.mixture",
    "what each stage takes of each stream, and what its tokens are worth",
    (
        Column("stage", "string", "name of the stage in the recipe"),
        Column("position", "int", "number of the stage, from 0"),
        Column("stream", "string", "source.tier"),
        Column("source", "string", "name of the source in the recipe"),
        Column("weight", "double", "share of the stage's tokens"),
        Column("samples", "bigint", "sequences drawn"),
        Column("seq_len", "int", "tokens of a sequence"),
        Column("tokens", "bigint", "samples * seq_len"),
        Column("unique_tokens", "bigint", "tokens that the stream holds"),
        Column("epochs", "double", "passes over the stream after this stage, all stages so far together"),
        Column(
            "effective_tokens",
            "double",
            "worth of all tokens drawn so far after the repetition law (Muennighoff et al. 2305.16264)",
        ),
    ),
    ("stage", "stream"),
    {"weight_is_share": "weight between 0 and 1"},
)

SPANS = Table(
    "gold.spans",
    "which tokens of which document lie where in which sample",
    (
        Column("stream", "string", "source.tier"),
        Column("seq_len", "int", "tokens of a sequence"),
        Column("window", "int", "number of the window in its stream"),
        Column("sample", "int", "number of the sample in its window"),
        Column("slot", "int", "number of the segment in its sample"),
        DOC_ID,
        Column("doc_start", "bigint", "first token of the span in the document"),
        Column("start", "int", "first token of the span in the sample"),
        Column("n_tokens", "int", "tokens of the span, end-of-text marks included"),
    ),
    ("stream", "seq_len", "window", "sample", "slot"),
)

RUNS = Table(
    "ops.runs",
    "one step of one run",
    (
        Column("run", "string", "id of the run"),
        Column("step", "string", "name of the step"),
        Column("recipe", "string", "hash of the whole recipe"),
        Column("fingerprint", "string", "hash of the step: of its part of the recipe and its inputs"),
        Column("inputs", "map<string,string>", "hash of each step that it read from"),
        Column("tables", "map<string,bigint>", "version of each table that it wrote"),
        Column("counts", "map<string,double>", "what it counted"),
        Column("seconds", "double", "wall-clock time"),
        Column("finished_at", "string", "UTC, ISO 8601"),
    ),
    ("run", "step"),
)

DELIVERIES = Table(
    "ops.deliveries",
    "what was decided of a delivery, and how far it is from the last accepted one of its source; the latest row of a "
    "delivery and hash holds",
    (
        Column("at", "string", "UTC, ISO 8601"),
        Column("run", "string", "id of the run; null where it was decided by hand", nullable=True),
        Column("source", "string", "name of the source in the recipe"),
        Column("snapshot", "string", "which delivery of the source"),
        Column("hash", "string", "hash of its files and of how they are read"),
        Column("against", "string", "snapshot that it was compared with; null for the first", nullable=True),
        Column("decision", "string", "accepted, closed, or accepted by hand"),
        Column("who", "string", "who accepted it by hand", nullable=True),
        Column("why", "string", "why it was accepted by hand", nullable=True),
        Column(
            "measured",
            "map<string,double>",
            "documents, bytes, and shares: rejects, kept, duplicates, fails:RULE, lang:en, domain:web, tier:best",
        ),
        Column(
            "drift",
            "map<string,double>",
            "by measure the factor of a size, the change of a share; psi:SIGNAL the population stability index",
        ),
        Column("beyond", "map<string,double>", "the measures beyond their limits, and the limits"),
        Column(
            "documents",
            "map<string,array<string>>",
            "by measure beyond its limit the documents that moved it; of rejects the uris",
        ),
    ),
    ("at", "source", "snapshot"),
    {"known_decision": "decision in ('accepted', 'closed', 'accepted by hand')"},
)

LEDGER = Table(
    "ops.ledger",
    "what each training step read, and what it lost on each document",
    (
        *TRAINED,
        Column("doc_key", "bigint", "document, as in silver.tokens"),
        Column("tokens", "bigint", "tokens predicted"),
        Column("loss", "double", "summed cross-entropy, in nats; null where it was not finite", nullable=True),
        Column("skipped", "boolean", "the step was skipped: nothing was learnt of it"),
    ),
    ("run", "step", "doc_key"),
)

METRICS = Table(
    "ops.metrics",
    "what each training step told of itself, from its checkpoint on",
    (
        *TRAINED,
        Column("stage", "string", "name of the stage"),
        Column("tokens", "bigint", "tokens read by then"),
        Column("loss", "double", "mean cross-entropy, in nats a token; null where it was not finite", nullable=True),
        Column("balance", "double", "loss that evens the experts' load out; 1 is even", nullable=True),
        Column("lr", "double", "learning rate"),
        Column("grad_norm", "double", "norm of the gradient before it was clipped", nullable=True),
        Column("skipped", "string", "why the step was skipped; null for one that was not", nullable=True),
        Column("load_entropy", "double", "entropy of the experts' load, as a share of the most; mean of the layers"),
        Column("load_max", "double", "rows of the busiest expert over an even share; of the worst layer"),
        Column("seconds", "double", "that the step took"),
        Column("waited", "double", "seconds of it in which no batch was there"),
        Column("flops", "double", "floating-point operations of the model, of all ranks"),
        Column("memory", "bigint", "most bytes held, on rank 0"),
    ),
    ("run", "step"),
)

ALL = (
    DOCUMENTS, REJECTS, SIGNALS, PAIRS, CLUSTERS, EDITS, RESTS, CONTAMINATION, VERDICTS,
    TOKENS, MIXTURE, SPANS, RUNS, DELIVERIES, LEDGER, METRICS,
)  # fmt: skip
