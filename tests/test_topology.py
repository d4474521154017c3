"""Where rows and tiles lie: the definition against a plain loop, the kernels against the definition."""

import offline
import pytest
import torch

from kernels import topology
from kernels.topology import Topology, build, row_tiles


def routing(kind: str, tokens: int, top_k: int, n_experts: int) -> torch.Tensor:
    indices = torch.randint(0, n_experts, (tokens, top_k), generator=torch.Generator().manual_seed(tokens))
    return {"even": indices, "last": torch.full_like(indices, n_experts - 1), "skewed": indices.where(indices % 2 == 1, n_experts // 2)}[kind]


def places(indices: list[int], n_experts: int) -> tuple[list[int], list[int], list[int]]:
    """A plain loop: (place, offsets, order)."""
    order = [r for e in range(n_experts) for r, expert in enumerate(indices) if expert == e]
    counts = [indices.count(e) for e in range(n_experts)]
    place = [0] * len(indices)
    for p, r in enumerate(order):
        place[r] = p
    return place, [sum(counts[:e]) for e in range(n_experts + 1)], sorted(range(n_experts), key=lambda e: -counts[e])


SHAPES = [(0, 2, 4), (1, 1, 1), (5, 2, 3), (700, 3, 16), (3, 1, 130), (90, 4, 40)]  # T, K, E: none, one, tails, most experts empty


@pytest.mark.parametrize("kind", ["even", "last", "skewed"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_lie_where_a_stable_loop_over_experts_puts_them(kind, shape, dtype):
    indices, n_experts = routing(kind, *shape).to(dtype), shape[2]
    tensors = build(indices, n_experts)
    assert [t.tolist() for t in tensors] == list(places(indices.flatten().tolist(), n_experts))
    assert {t.dtype for t in tensors} == {torch.int32}


def loop_tiles(offsets: list[int], rows: int) -> list[tuple[int, int, int]]:
    return [(e, p, end - p) for e, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)) for p in range(start, end, rows)]


@pytest.mark.parametrize("rows, group", [(16, 1), (16, 3), (64, 63), (128, 8)])
@pytest.mark.parametrize("kind", ["even", "last", "skewed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_cover_each_experts_rows_in_even_groups(kind, shape, rows, group):
    built = build(routing(kind, *shape), shape[2])
    tiles, used = row_tiles(built, rows, group)
    table, expected = tiles.tolist(), loop_tiles(built.offsets_E1.tolist(), rows)
    assert used.item() == len(expected) and len(table) == shape[0] * shape[1] // rows + shape[2]
    assert [tuple(t[:3]) for t in table[: len(expected)]] == expected
    assert table[len(expected) :] == [[0, 0, 0, 1]] * (len(table) - len(expected))
    groups = [divmod(t[3], 64) for t in table[: len(expected)]]
    for i, (first, size) in enumerate(groups):
        members = range(first, first + size)
        assert i in members and size <= group
        assert {groups[m] for m in members} == {(first, size)} and {expected[m][0] for m in members} == {expected[i][0]}


def test_groups_of_one_expert_differ_by_less_than_one_row_of_tiles_each():
    built = build(torch.zeros(25 * 16, 1, dtype=torch.int64), 1)
    words = row_tiles(built, 16, 12)[0][:25, 3].tolist()
    assert [w % 64 for w in dict.fromkeys(words)] == [9, 9, 7]  # not 12, 12, 1


def test_a_group_that_its_word_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="1 to 63 tiles, found 64"):
        row_tiles(build(torch.zeros(4, 1, dtype=torch.int64), 2), 16, 64)


# ------------------------------------------------------------------------------------------------ kernels


def kernels_agree(kind: str, shape: tuple[int, int, int], chunks: int = topology.CHUNKS) -> None:
    topology.CHUNKS = chunks
    indices, n_experts = routing(kind, *shape).flatten(), shape[2]
    expected = topology._build_torch(indices, n_experts)
    for dtype in (torch.int32, torch.int64):
        assert all(map(torch.equal, topology._build_triton(indices.to(dtype), n_experts), expected))
    for rows, group in ((16, 3), (64, 63)):
        arguments = expected[1], len(indices) // rows + n_experts, rows, group
        assert all(map(torch.equal, topology._row_tiles_triton(*arguments), topology._row_tiles_torch(*arguments)))


CASES = {f"{kind} {shape}": lambda kind=kind, shape=shape: kernels_agree(kind, shape) for kind in ("even", "last", "skewed") for shape in SHAPES}
CASES["several steps of two chunks"] = lambda: kernels_agree("even", (1400, 2, 16), chunks=2)


@pytest.fixture(scope="module")
def outcomes():
    return offline.outcomes(__file__)


@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_definition(name, outcomes):
    assert outcomes[name] == "", outcomes[name]


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("n_experts", [1, 16, 64, 256])
def test_kernels_compile_without_spills(arch, n_experts):
    with offline.compiling(arch) as kernels:
        built = Topology(*topology._build_triton(torch.empty(400_000, dtype=torch.int64, device="meta"), n_experts))
        topology._row_tiles_triton(built.offsets_E1, 400_000 // 128 + n_experts, 128, 12)
    assert {k["name"]: k["stack"] for k in kernels} == {"count_kernel": 0, "place_kernel": 0, "tiles_kernel": 0}


if __name__ == "__main__":
    offline.run(CASES)
