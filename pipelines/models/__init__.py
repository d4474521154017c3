"""What is trained or fitted before measuring: quality by domain and language, what is usual in a language.

examples   which documents a model learns from
quality    training and testing a quality model
languages  thresholds and stop words of a language, from documents that are trusted
audit      what a quality model is worth: held out, and in the corpus
limits     what it does not do: see the order of words, travel to other sources
order      weights of neighbouring words, for the signal word_order
"""
