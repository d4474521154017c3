"""A page's main content.

charset    bytes of the web as text: which encoding they are in
commonest  Chinese, Japanese and Korean by their commonest characters
encodings  what labels stand for, and decoding as browsers do
tags       names of HTML as tables
markup     a page as flat arrays of elements and blocks
content    which blocks are the main content: two logistic models
extract    the kept blocks, written as text
"""
