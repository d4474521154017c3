"""Weights of the models of content.py, fitted by `python -m benchmarks.blocks FOLDER`, a group of columns a line.

FIRST and SECOND are of pages of one text, the next two of pages of many, PAGE tells these apart.
"""

import numpy as np

FIRST = np.array([
    2.148, -0.182, 0.042, -0.760, 0.082, 0.168, 0.193, -0.245, -0.082,  # the block
    -0.396, -1.043, -1.521,  # its place on the page
    0.081, 0.021, -0.309, 0.045,  # what holds it
    -1.202, 0.154, -0.788, 0.171,  # its neighbours
    0.295,  # a scrap
    -1.278, -0.110, -0.018, 1.448, 1.343, -2.313, 0.833, -1.142,  # its kind
    0.839, -1.619, -4.821, -0.753, -0.778, -0.865, -2.293, -1.423, -2.339, -0.857, -0.568, 3.038, -1.408,  # flags
    -1.079,  # flagged among flagged
    0.080, 0.069,  # one of many alike
    1.338, -2.916,  # an article here, elsewhere
])  # fmt: skip
SECOND = np.array([
    -4.273, 0.313,  # the block
    1.666, 0.123, 1.391, 0.460, -0.550, 0.765,  # what holds it
    0.184, 0.406,  # its place in what is good
    0.449, 0.385, 0.681, 0.520,  # its neighbours
    1.213,  # the page
    0.373, 0.059, 0.082,  # as the first sees it
    -0.989, -0.250,  # blocks since the good ones, a heading
    -0.110, 0.069, 0.941, -1.415,  # the best near it
    1.248, -0.248, -1.021, 0.191,  # its kind
])  # fmt: skip
FIRST_OF_MANY = np.array([
    -4.396, 0.298, 0.290, -0.729, -1.607, 0.704, 0.727, -2.089, 0.204,  # the block
    -0.232, -1.594, -1.439,  # its place on the page
    -1.684, -0.112, -1.998, 0.409,  # what holds it
    -0.069, 0.322, -1.020, 0.428,  # its neighbours
    0.198,  # a scrap
    -0.786, -1.381, 0.786, 3.676, -0.189, -3.608, 0.045, 0.598,  # its kind
    0.309, -0.404, -1.578, 0.225, -0.793, -0.861, -1.237, -0.564, -2.787, -0.016, -0.805, 2.711, -1.804,  # flags
    1.010,  # flagged among flagged
    0.489, -0.531,  # one of many alike
    0.662, -1.731,  # an article here, elsewhere
])  # fmt: skip
SECOND_OF_MANY = np.array([
    -4.820, 0.289,  # the block
    2.578, 1.448, 1.104, -1.212, 0.584, 0.859,  # what holds it
    -0.232, 0.151,  # its place in what is good
    -0.026, 0.767, 0.540, 0.371,  # its neighbours
    0.278,  # the page
    -0.313, 0.247, -0.164,  # as the first sees it
    -0.693, 0.982,  # blocks since the good ones, a heading
    -0.721, -1.647, 0.825, 0.299,  # the best near it
    3.652, 0.489, -0.418, -0.223,  # its kind
])  # fmt: skip
PAGE = np.array([
    6.854, 0.592, 0.432, 7.824, 0.711, -0.377, -0.765, -9.103, -8.082,  # the block
    -0.618, -2.868, 3.856,  # its place on the page
    0.314, -0.712, 1.798, -1.048,  # what holds it
    3.699, 0.399, 4.263, 0.551,  # its neighbours
    0.927,  # a scrap
    1.262, -0.620, 0.183, -1.466, 1.061, -40.803, -5.577, 1.317,  # its kind
    -12.996, -0.153, -1.637, -35.250, -26.972, 4.840, -11.503, -16.986, 22.607, 0.131, -44.352, 6.801, -18.985,  # flags
    1.811,  # flagged among flagged
    0.273, 0.246,  # one of many alike
    -0.492, -0.155,  # an article here, elsewhere
])  # fmt: skip
