"""Step decontaminate: which documents hold items of evaluations (silver.contamination).

items    evaluation files to items
plain    texts without what formats put between words
forms    characters and names that stand for others
index    an index of the items' word n-grams
phrases  short questions, with the answers behind them
search   which passages of an index a text covers
overlap  one pass over the keepers' texts
record   what was found and what such a search cannot see
"""
