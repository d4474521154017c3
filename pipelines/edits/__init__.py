"""Step edits: spans of kept documents that are left out or masked (silver.edits, silver.rests).

spans     spans of one text, brought in order and applied
lines     lines that many documents share
passages  further copies of long passages
often     keys that stand in more than so many places
edits     which documents are compared; edits merged, joined and applied
preview   beginnings of texts for people, personal data masked
"""
