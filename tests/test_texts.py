"""Text machinery against Python's bytes and Unicode's data."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.texts import find, scripts
from tests.scripts import DICTIONARY, stands_alone


def as_bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


# few letters, so that marks are met; what is 32 below a sign is no capital of it
BYTES = st.lists(st.sampled_from(list(b"<aA\x1c`@")), max_size=12).map(bytes)
MARKS = st.lists(st.sampled_from(list(b"<a`")), min_size=1, max_size=3).map(bytes)


@settings(max_examples=500, deadline=None)
@given(BYTES, MARKS, st.integers(0, 13))
def test_a_mark_stands_where_bytes_say(text, mark, at):
    assert find.stands(as_bytes(text), at, as_bytes(mark)) == text.startswith(mark, at)
    assert find.stands_in_any_case(as_bytes(text), at, as_bytes(mark)) == text.lower().startswith(mark, at)
    assert find.equal(as_bytes(text), as_bytes(mark)) == (text == mark)


@settings(max_examples=500, deadline=None)
@given(BYTES, MARKS, st.integers(0, 4))
def test_the_end_of_a_mark_is_where_bytes_find_it(text, mark, at):
    mark = b"<" + mark
    place = text.lower().find(mark, at)
    assert find.find_end(as_bytes(text), at, as_bytes(mark)) == (max(at, len(text)) if place < 0 else place + len(mark))


def test_scripts_without_spaces_are_those_that_unicode_says():
    """All that needs a dictionary is among them; who counts bytes counts on three at least."""
    characters = [chr(code) for code in range(0x110000)]
    assert [bool(alone) for alone in scripts.IS_ALONE] == [stands_alone(character) for character in characters]
    letters = [code for code, character in enumerate(characters) if DICTIONARY.match(character) and character.isalpha()]
    assert len(letters) > 500 and scripts.IS_ALONE[letters].all()
    assert scripts.IS_ALONE.nonzero()[0].min() >= 0x800
