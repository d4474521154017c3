"""A page's main content.

charset    bytes of the web as text: which encoding they are in
commonest  Chinese, Japanese and Korean by their commonest characters
encodings  what labels stand for, and decoding as browsers do
tags       names of HTML as tables
markup     a page as flat arrays of elements and blocks
features   what the models see of blocks, as columns of numbers
content    which blocks are the main content: two logistic models, in two versions
weights    of these models, as they were fitted
extract    the kept blocks, written as text
"""
