"""Bytes to characters, words and numbers: what signals, duplicates, edits and decontamination read texts with. Knows no
step.

    characters     Arrow strings as bytes, Unicode classes as tables, hashing
    scripts        those without spaces between words, and their languages
    words          folded text, words and shingles by their hashes
    find           marks at a place
    pieces         runs of ink with their places, kinds and hashes
    fasttext_file  fastText's files, read without it
"""
