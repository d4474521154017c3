"""Step decontaminate: which documents hold items of evaluations (silver.contamination).

items    evaluation files to items
index    an index of their word n-grams
search   which passages of an index a text covers
overlap  one pass over the keepers' texts
record   what was found and what such a search cannot see
"""
