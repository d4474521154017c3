"""Weights of the models of content.py, fitted by `python -m benchmarks.blocks FOLDER`, a group of columns a line.

FIRST and SECOND are of pages of one text, the next two of pages of many, PAGE tells these apart.
"""

import numpy as np

FIRST = np.array([
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # the block
    0.000, 0.000, 0.000,  # its place on the page
    0.000, 0.000, 0.000, 0.000,  # what holds it
    0.000, 0.000, 0.000, 0.000,  # its neighbours
    0.000,  # a scrap
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # its kind
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # flags
    0.000,  # flagged among flagged
    0.000, 0.000,  # one of many alike
    0.000, 0.000,  # an article here, elsewhere
])  # fmt: skip
SECOND = np.array([
    0.000, 0.000,  # the block
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # what holds it
    0.000, 0.000,  # its place in what is good
    0.000, 0.000, 0.000, 0.000,  # its neighbours
    0.000,  # the page
    0.000, 0.000, 0.000,  # as the first sees it
    0.000, 0.000,  # blocks since the good ones, a heading
    0.000, 0.000, 0.000, 0.000,  # the best near it
    0.000, 0.000, 0.000, 0.000,  # its kind
])  # fmt: skip
FIRST_OF_MANY = np.array([
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # the block
    0.000, 0.000, 0.000,  # its place on the page
    0.000, 0.000, 0.000, 0.000,  # what holds it
    0.000, 0.000, 0.000, 0.000,  # its neighbours
    0.000,  # a scrap
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # its kind
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # flags
    0.000,  # flagged among flagged
    0.000, 0.000,  # one of many alike
    0.000, 0.000,  # an article here, elsewhere
])  # fmt: skip
SECOND_OF_MANY = np.array([
    0.000, 0.000,  # the block
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # what holds it
    0.000, 0.000,  # its place in what is good
    0.000, 0.000, 0.000, 0.000,  # its neighbours
    0.000,  # the page
    0.000, 0.000, 0.000,  # as the first sees it
    0.000, 0.000,  # blocks since the good ones, a heading
    0.000, 0.000, 0.000, 0.000,  # the best near it
    0.000, 0.000, 0.000, 0.000,  # its kind
])  # fmt: skip
PAGE = np.array([
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # the block
    0.000, 0.000, 0.000,  # its place on the page
    0.000, 0.000, 0.000, 0.000,  # what holds it
    0.000, 0.000, 0.000, 0.000,  # its neighbours
    0.000,  # a scrap
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # its kind
    0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000,  # flags
    0.000,  # flagged among flagged
    0.000, 0.000,  # one of many alike
    0.000, 0.000,  # an article here, elsewhere
])  # fmt: skip
