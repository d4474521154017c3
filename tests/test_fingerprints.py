"""Fingerprints against Python's re and sets, datasketch, and the theory of MinHash and LSH."""

import re

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup.verify import alike, shingle_sets
from pipelines.signals import fingerprints
from pipelines.signals.context import Context
from tests.scripts import SHINGLED, stands_alone

CONTEXT = Context(b"")
ENTRIES = CONTEXT.bands * CONTEXT.rows
PAIRS_PER_LEVEL = 300
LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.97)
N_SHINGLES = 400


def measured(texts, context=CONTEXT) -> dict[str, pa.Array]:
    columns = fingerprints.measure(pa.array(texts, pa.string()), None, context)
    return dict(zip((column.name for column in fingerprints.COLUMNS), columns, strict=True))


def ranges(characters: list[str]) -> str:
    """The inside of a character class of re."""
    codes = np.array([ord(character) for character in characters])
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1))


ALONE = ranges([character for character in map(chr, range(0xE00, 0x33000)) if stands_alone(character)])
WORDS = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")


def simple_lower(text: str) -> str:
    """Lower case of each character by itself: İ stays, Σ is σ everywhere."""
    return "".join(character.lower() if len(character.lower()) == 1 else character for character in text)


def folded(text: str) -> str:
    return " ".join(simple_lower(text).split())


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    words = WORDS.findall(simple_lower(text))
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n, 0) + 1)} if words else set()


def indices(places) -> pa.Array:
    return pa.array(places, pa.int32())


def naive_jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
FEW_WORDS = st.lists(
    st.sampled_from(["a", "B", "_", "ab", "é", "É", "你", "好", "カ", "ท", "ี", "한", "𝒳", "𐐀", "Ⱥ", "ẞ", "Σ", "İ", "٣", "-", "…", "\u0301", "\0"]), max_size=40
).flatmap(lambda words: st.sampled_from([" ", "\n", "\u3000", ", ", "-"]).map(lambda gap: gap.join(words)))
TEXTS = st.lists(ANY_TEXT | FEW_WORDS, min_size=1, max_size=5)


# ---- exact copies ----


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_text_hash_is_that_of_the_folded_text(texts):
    expected = [xxhash.xxh3_128_hexdigest(folded(text).encode()) for text in texts]
    assert measured(texts)["text_hash"].to_pylist() == expected


def test_text_hash_forgets_case_and_white_space_and_nothing_else():
    same = ["Straße One\n two", "  straße   one\ttwo \n", "STRAßE\u00a0ONE\u2028TWO"]
    other = ["straße one, two", "straßeone two", "straße one two 2", "strasse one two"]
    hashes = measured(same + other)["text_hash"].to_pylist()
    assert len(set(hashes[:3])) == 1
    assert len(set(hashes)) == 5


def test_lower_case_of_the_whole_plane_is_that_of_python():
    every = "".join(chr(code) for code in range(0x20, 0x20000) if not 0xD800 <= code < 0xE000)
    assert measured([every])["text_hash"][0].as_py() == xxhash.xxh3_128_hexdigest(folded(every).encode())


# ---- shingles and their sets ----


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_shingles_are_those_of_python_words(texts, n):
    expected = [shingles(text, n) for text in texts]
    sets = shingle_sets(pa.array(texts), n)
    values = [np.frombuffer(hashes.as_py(), np.int64).tolist() for hashes in sets]
    assert [len(hashes) for hashes in values] == [len(shingle_set) for shingle_set in expected]
    assert all(hashes == sorted(set(hashes)) for hashes in values)
    for a in range(len(texts)):  # equal shingles, and only they, have equal hashes
        for b in range(len(texts)):
            assert len(set(values[a]) & set(values[b])) == len(expected[a] & expected[b])


def test_words_of_the_whole_plane_are_those_of_python():
    every = " a".join(chr(code) for code in range(0x33000) if not 0xD800 <= code < 0xE000)
    sets = shingle_sets(pa.array([every]), 1)
    assert len(sets[0].as_py()) == 8 * len(shingles(every, 1))


def test_where_a_script_has_no_spaces_a_shingle_is_one_of_characters():
    texts = ["今日はいい天気ですね", "今日は、いい 天気ですね", "ที่นี่ที่ไหน", "오늘은 날씨가 좋네요", "version 2 は新しい"]
    assert measured(texts)["n_shingles"].to_pylist() == [6, 6, 8, 1, 2]


@pytest.mark.parametrize(("text", "words"), SHINGLED.items())
def test_words_of_scripts_with_and_without_spaces_are_those_told_by_hand(text, words):
    assert measured([text], Context(b"", ngram=1))["n_shingles"].to_pylist() == [len(words)]
    apart = shingle_sets(pa.array([text, " ".join(words)]), 2)
    assert apart[0] == apart[1]


def test_n_shingles_counts_repeats_and_short_texts_are_one_shingle():
    assert measured(["a b c d e f", "a a a a a a a", "a b c d e", "a b", "...", ""])["n_shingles"].to_pylist() == [2, 3, 1, 1, 0, 0]


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([0.1, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 0.9, 1.0]))
def test_pairs_are_alike_as_python_sets_are(texts_a, texts_b, threshold):
    sets = shingle_sets(pa.array(texts_a + texts_b), 2)
    a, b = zip(*[(i, len(texts_a) + j) for i in range(len(texts_a)) for j in range(len(texts_b))], strict=True)
    expected = [naive_jaccard(shingles(x, 2), shingles(y, 2)) >= threshold for x in texts_a for y in texts_b]
    assert alike(sets, indices(a), indices(b), threshold).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.integers(1, 20), st.integers(1, 20))
def test_pairs_exactly_at_the_threshold_reach_it(a, b, x, y):
    threshold = min(x, y) / max(x, y)
    sets = pa.array([np.array(sorted(values), np.int64).tobytes() for values in (a, b)], pa.binary())
    reached = alike(sets, indices([0]), indices([1]), threshold)
    assert reached.tolist() == [naive_jaccard(a, b) >= threshold]


# ---- near copies ----


def pair(similarity: float, random: np.random.Generator) -> tuple[list[str], list[str], float]:
    """Two sets of words of about this Jaccard index, in random order, and their index."""
    common = round(2 * N_SHINGLES * similarity / (1 + similarity))
    words = [f"w{word}" for word in random.choice(10**9, 2 * N_SHINGLES - common, replace=False)]
    a, b = words[:N_SHINGLES], words[N_SHINGLES - common :]
    return list(random.permutation(a)), list(random.permutation(b)), naive_jaccard(set(a), set(b))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[list[str], list[str], float]]:
    random = np.random.default_rng(5)
    return [pair(level, random) for level in LEVELS for _ in range(PAIRS_PER_LEVEL)]


@pytest.fixture(scope="module")
def sides(pairs) -> tuple[dict, dict]:
    context = Context(b"", ngram=1)
    return measured([" ".join(a) for a, _, _ in pairs], context), measured([" ".join(b) for _, b, _ in pairs], context)


def by_level(values) -> np.ndarray:
    return np.asarray(values).reshape(len(LEVELS), PAIRS_PER_LEVEL)


def test_estimates_err_no_more_than_theory_and_datasketch(pairs, sides):
    true = by_level([similarity for _, _, similarity in pairs])
    errors = by_level(fingerprints.estimate(sides[0]["signature"], sides[1]["signature"])) - true
    theory = np.sqrt(true[:, 0] * (1 - true[:, 0]) / ENTRIES)
    spread = 1 / np.sqrt(2 * PAIRS_PER_LEVEL)  # standard error of a root mean square, relative
    assert (np.sqrt((errors**2).mean(axis=1)) < theory * (1 + 4 * spread)).all()
    assert (np.abs(errors.mean(axis=1)) < 4 * theory / np.sqrt(PAIRS_PER_LEVEL)).all()
    reference = datasketch_errors(pairs[::6])
    assert np.sqrt((errors**2).mean()) < np.sqrt((reference**2).mean()) * 1.2


def datasketch_errors(pairs) -> np.ndarray:
    return np.array([datasketch_estimate(a, b) - similarity for a, b, similarity in pairs])


def datasketch_estimate(a: list[str], b: list[str]) -> float:
    sketches = []
    for words in (a, b):
        sketch = datasketch.MinHash(num_perm=ENTRIES)
        sketch.update_batch([word.encode() for word in words])
        sketches.append(sketch)
    return sketches[0].jaccard(sketches[1])


def test_estimates_of_short_texts_are_unbiased_too():
    random = np.random.default_rng(6)
    words = [[f"w{word}" for word in random.choice(10**9, 13, replace=False)] for _ in range(600)]
    context = Context(b"", ngram=1)
    a, b = (measured([" ".join(w[begin : begin + 10]) for w in words], context) for begin in (0, 3))
    errors = fingerprints.estimate(a["signature"], b["signature"]) - 7 / 13
    # One permutation of 10 shingles has fewer independent bins than entries: the spread is that of about 10 draws.
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(len(errors))
    assert errors.std() < 0.08


def test_documents_meet_as_often_as_the_formula_says(pairs, sides):
    keys_a, keys_b = (side["band_keys"].to_pylist() for side in sides)
    met = by_level([bool(set(a) & set(b)) for a, b in zip(keys_a, keys_b, strict=True)]).mean(axis=1)
    true = by_level([similarity for _, _, similarity in pairs])[:, 0]
    expected = fingerprints.collision_probability(true, CONTEXT.bands, CONTEXT.rows)
    spread = np.sqrt(expected * (1 - expected) / PAIRS_PER_LEVEL) + 1 / PAIRS_PER_LEVEL
    assert (np.abs(met - expected) < 4 * spread).all(), (met, expected)


def test_band_keys_are_those_of_the_same_band_only(sides):
    """Entries that are equal in every band must not make bands equal to one another."""
    keys = np.array(sides[0]["band_keys"].to_pylist())
    assert len(np.unique(keys)) == keys.size
    assert len(set(measured(["one"])["band_keys"][0].as_py())) == CONTEXT.bands


def test_seeds_give_other_signatures_and_equal_seeds_equal_ones():
    texts = ["a b c d e f g h i j"] * 2
    first, again, other = measured(texts), measured(texts), measured(texts, Context(b"", seed=2))
    assert first["signature"].equals(again["signature"])
    assert first["signature"][0] != other["signature"][0]
    assert first["text_hash"].equals(other["text_hash"])


def test_seeds_err_independently(pairs, sides):
    context = Context(b"", ngram=1, seed=2)
    others = [measured([" ".join(both[side]) for both in pairs], context)["signature"] for side in (0, 1)]
    true = np.array([similarity for _, _, similarity in pairs])
    first = fingerprints.estimate(sides[0]["signature"], sides[1]["signature"]) - true
    assert abs(np.corrcoef(first, fingerprints.estimate(*others) - true)[0, 1]) < 0.15  # .024 by chance


def test_texts_without_words_meet_nothing():
    columns = measured(["", "... !", " \n"])
    assert columns["band_keys"].to_pylist() == [[], [], []]
    assert set(columns["signature"].to_pylist()) == {b"\xff" * 4 * ENTRIES}


def test_collision_probability_of_datatrove_default():
    assert fingerprints.collision_probability(np.array([0.0, 0.7, 0.75, 0.8, 1.0]), 14, 8) == pytest.approx(
        [0, 0.565, 0.772, 0.924, 1], abs=5e-4
    )


def test_slices_and_large_strings_change_nothing():
    texts = ["Ünï cödé text of sóme words", "", "b c d e f g", "x", "a b c d e f g h i j k l m n"] * 3
    whole = measured(texts)
    for kind in (pa.string(), pa.large_string()):
        part = fingerprints.measure(pa.array(texts, kind).slice(4, 9), None, CONTEXT)
        assert all(column.equals(values.slice(4, 9)) for column, values in zip(part, whole.values(), strict=True))
    sets = shingle_sets(pa.array(texts), 2)
    assert shingle_sets(pa.array(texts).slice(3, 4), 2).equals(sets.slice(3, 4))
    assert alike(sets.slice(3, 9), indices([2, 3, 1]), indices([7, 8, 6]), 0.9).tolist() == [True, False, True]
    signatures = whole["signature"]
    assert fingerprints.estimate(signatures.slice(5, 5), signatures.slice(0, 5)).tolist() == [1.0] * 5
    assert fingerprints.estimate(signatures.slice(1, 3), signatures.slice(6, 3)).tolist() == [1.0] * 3
    assert (fingerprints.estimate(signatures.slice(1, 4), signatures.slice(0, 4)) < 0.1).all()


def test_a_text_of_ten_megabytes():
    text = "Ⱥ" * 5_000_000
    columns = measured([text])
    assert columns["text_hash"][0].as_py() == xxhash.xxh3_128_hexdigest(("ⱥ" * 5_000_000).encode())
    assert columns["n_shingles"].to_pylist() == [1]
    assert len(shingle_sets(pa.array(["word " * 2_000_000]), 5)[0].as_py()) == 8
