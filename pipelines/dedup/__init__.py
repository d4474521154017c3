"""Step dedup: exact copies and near copies (silver.pairs, silver.clusters).

buckets   candidates: band keys, windows, and what new documents change
verify    true Jaccard of candidates' shingles
clusters  connected components, and the preferred member of each
dedup     who carries it: this process whole, or Spark in parts
stars     connected components of any number of edges, in Spark
similar   the nearest documents of a text, by the fingerprints that a run left
"""
