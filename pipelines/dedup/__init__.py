"""Step dedup: exact copies and near copies (silver.pairs, silver.clusters).

buckets   candidates: band keys, windows, and what new documents change
deal      band keys as records, dealt to parts of whole buckets, where one process does not hold them
verify    true Jaccard of candidates' shingles
clusters  connected components, the order of preference in each, and the kept documents with those dropped for them
keepers   what is kept of a component where pairs do not tell: true Jaccard with those kept before
dedup     who carries it: this process whole, or Spark in parts
stars     connected components of any number of edges, in Spark
similar   the nearest documents of a text, by the fingerprints that a run left
"""
