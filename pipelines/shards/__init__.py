"""Steps tokenise, mixture and shard: kept text to token ids, shares, packed windows in MDS shards, plan and manifest.

tokens     text to token ids
mixture    shares of stages under caps on repetition
sequences  a stream's seeded order, its windows, best-fit packing
mds        the shard format
write      windows, plan and manifest to disk
"""
