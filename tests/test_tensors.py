"""Safetensors files written and read in parts, against the safetensors library."""

import json
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model import tensors

SHAPES = {"b.w": (3, 5), "a": (7,), "b.w.exp_avg": (2, 1, 3), "step": (), "none": (0, 4), "é \"x\"": (2, 2)}


@pytest.fixture
def whole():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def file(whole, tmp_path):
    save_file(whole, tmp_path / "library")
    return tmp_path / "library"


def everything(path):
    sizes = {name: int(np.prod(shape)) for name, shape in tensors.read_shapes(path).items()}
    return dict(tensors.read(path, {name: (0, size) for name, size in sizes.items()}))


def test_a_file_in_parts_is_that_of_the_library_bit_by_bit(whole, file, tmp_path):
    path = tmp_path / "ours"
    tensors.create(path, SHAPES)
    assert path.stat().st_size == file.stat().st_size and not any(tensor.any() for tensor in load_file(path).values())
    tensors.write(path, {"b.w": (4, whole["b.w"].view(-1)[4:].view(1, 11)), "step": (0, whole["step"]), "none": (0, whole["none"])})
    tensors.write(path, {"b.w": (0, whole["b.w"].view(-1)[:6]), "a": (7, whole["a"][7:])})
    tensors.write(path, {name: (0, whole[name]) for name in ("a", "b.w.exp_avg", "é \"x\"")})
    assert path.read_bytes() == file.read_bytes()


def test_pieces_and_strides_do_not_show(whole, file, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "PIECE", 2)
    tensors.create(tmp_path / "ours", SHAPES)
    turned = whole | {"b.w": whole["b.w"].T.contiguous().T.requires_grad_()}
    tensors.write(tmp_path / "ours", {name: (0, tensor) for name, tensor in turned.items()})
    assert (tmp_path / "ours").read_bytes() == file.read_bytes()


def test_any_range_of_the_librarys_file_is_read(whole, file):
    assert tensors.read_shapes(file) == SHAPES
    for start in range(16):
        for stop in range(start, 16):
            (name, values), = tensors.read(file, {"b.w": (start, stop)})
            assert name == "b.w" and torch.equal(values, whole["b.w"].view(-1)[start:stop])
    save_file(whole, file, metadata={"format": "pt"})
    assert all(torch.equal(values, whole[name].view(-1)) for name, values in everything(file).items())
    save_file({}, file)
    assert tensors.read_shapes(file) == {}


@pytest.mark.parametrize(("parts", "said"), [
    ({"c": (0, torch.zeros(1))}, "expected c, found"),
    ({"a": (5, torch.zeros(3))}, "expected elements 5 to 8 of a, found 7"),
    ({"a": (-1, torch.zeros(3))}, "expected elements -1 to 2 of a, found 7"),
    ({"a": (0, torch.zeros(3, dtype=torch.bfloat16))}, "expected a as float32, found bfloat16"),
    ({"a": (0, torch.zeros(3, dtype=torch.int32))}, "expected a as float32, found int32"),
])
def test_what_has_no_place_is_refused_and_changes_nothing(file, parts, said):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=said):
        tensors.write(file, parts)
    assert file.read_bytes() == before


@pytest.mark.parametrize("range_", [(0, 8), (-1, 3), (5, 4)])
def test_elements_that_are_not_there_are_not_read(file, range_):
    with pytest.raises(ValueError, match=r"expected elements .* of a, found 7"):
        dict(tensors.read(file, {"a": range_}))


def test_a_name_that_is_the_formats_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found __metadata__"):
        tensors.create(tmp_path / "ours", {"__metadata__": (1,)})


def test_a_disk_without_room_is_an_error_at_once(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            tensors.create(tmp_path / "ours", {"a": (10_000,)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(("header", "data", "said"), [
    ({"a": entry(dtype="BF16", offsets=(0, 2))}, 2, "expected F32"),
    ({"a": entry(shape=(True,))}, 4, "expected F32, a shape"),
    ({"a": entry(shape=(-1,), offsets=(4, 0))}, 4, "expected F32, a shape"),
    ({"a": entry(shape=(1.0,))}, 4, "expected F32, a shape"),
    ({"a": entry(shape=(1,) * 65)}, 4, "expected F32, a shape"),
    ({"a": entry(shape=(0, 1 << 70), offsets=(0, 0))}, 0, "expected F32, a shape"),
    ({"a": {"dtype": "F32"}}, 0, "expected F32, a shape"),
    ({"a": None}, 0, "expected F32, a shape"),
    ({"a": entry(), "b": entry()}, 4, "expected b .* from byte 4 on, found it from 0 to 4"),
    ({"a": entry(), "b": entry(offsets=(2, 6))}, 6, "expected b .* from byte 4 on, found it from 2"),
    ({"a": entry(), "b": entry(offsets=(8, 12))}, 12, "expected b .* from byte 4 on, found it from 8"),
    ({"a": entry(shape=(2,))}, 4, "expected a .* from byte 0 on"),
    ({"a": entry(shape=(3,), offsets=(0, 12))}, 8, "bytes, found"),
    ({"a": entry()}, 5, "bytes, found"),
    ([], 0, "expected names in the header"),
    (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8, "there twice"),
    (b"[" * 100_000, 0, "expected a header of JSON"),
    (b'{"a":' * 100_000, 0, "expected a header of JSON"),
    (b"\xff\xfe", 0, "expected a header of JSON"),
    (b"", 0, "expected a header of JSON"),
    (b'{"a":' + b"9" * 5000 + b"}", 0, "expected"),
])
def test_a_header_that_does_not_hold_is_refused(tmp_path, header, data, said):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    with pytest.raises(ValueError, match=said):
        everything(tmp_path / "x")


def test_cut_and_changed_files_are_errors_or_other_numbers_and_nothing_else(file, tmp_path):
    """Cut at every byte; every byte of the header changed; lengths that are not there; random damage of several bytes."""
    kept, path, random = file.read_bytes(), tmp_path / "x", np.random.default_rng(3)
    size = int.from_bytes(kept[:8], "little") + 8
    for length in range(len(kept)):
        path.write_bytes(kept[:length])
        with pytest.raises(ValueError, match=r"x: expected .*found"):
            everything(path)
    damaged = [kept[:at] + bytes([value]) + kept[at + 1 :] for at in range(size) for value in random.integers(256, size=3)]
    damaged += [length.to_bytes(8, "little") + kept[8:] for length in (0, 1, size, 10**8, 10**9, 2**63, 2**64 - 1)]
    for _ in range(500):
        many = bytearray(kept)
        for at in random.integers(size, size=random.integers(2, 6)):
            many[at] = random.integers(256)
        damaged.append(bytes(many))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            everything(path)
        except (ValueError, OSError):
            refused += 1
    assert refused > len(damaged) // 2
