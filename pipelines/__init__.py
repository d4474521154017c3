"""From raw text to shards, on Spark where it must be: rooms, the step that each does, the tables that it fills.

    room           step                        tables
    readers        ingest                      bronze.documents, bronze.rejects
    signals        measure                     silver.signals
    models         (trained before measuring)  models/
    dedup          dedup                       silver.pairs, silver.clusters
    decontaminate  decontaminate               silver.contamination
    edits          edits                       silver.edits, silver.rests
    rules          judge                       silver.verdicts
    shards         tokenise, mixture, shard    silver.tokens, gold.mixture, gold.spans, shards/

Two rooms have no step: `texts` (bytes to characters and words) and `html` (a page's main content). The ground floor is
flat:

    lake        where tables are and how they are written
    commits     what a table's log tells: who changed its rows last
    deliveries  snapshots of sources: which a table holds, which it lacks
    drift       two deliveries of a source compared: sizes, shares, signals (step gate, ops.deliveries)
    capacity    what fits into one process, and who carries the rest
    spark       the session; what is sent to every task; parts that hold whole groups
    s3          Spark and Delta on S3: JARs, settings, a log that many may write
    workers     Spark's daemon of Python workers
    assets      files that a package installer does not bring
    lineage     a document's life; a rule beside what was measured
"""
