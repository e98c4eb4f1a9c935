"""The safetensors reader on good, damaged and hostile files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import convert_models
import numpy as np
import pytest
from blockquant.converter.safetensors import SafetensorsFile, open_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = {
    "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "a": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "I8", "shape": [], "data_offsets": [32, 33]},
    "e": {"dtype": "F16", "shape": [0, 5], "data_offsets": [33, 33]},
}
DATA = bytes(range(33))


def write(path: Path, header: Any, data: bytes = DATA, size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


def test_views_of_a_good_file(tmp_path: Path) -> None:
    file = SafetensorsFile(write(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}, **GOOD}))
    assert list(file.tensors) == ["a", "b", "c", "e"]
    b = file.tensors["b"]
    assert (b.dtype, b.shape, b.data.dtype, b.size) == ("F32", (2, 3), np.float32, 6)
    assert b.data.tobytes() == DATA[:24]
    assert not b.data.flags.writeable
    assert file.tensors["a"].data.tobytes() == DATA[24:32]
    assert file.tensors["c"].data.shape == ()
    assert file.tensors["e"].data.shape == (0, 5)


def test_agrees_with_the_safetensors_package(tmp_path: Path) -> None:
    numpy_format = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(3)
    arrays = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "f64": rng.standard_normal(7),
        "i64": np.arange(4),
        "u8": np.arange(5, dtype=np.uint8),
    }
    numpy_format.save_file(arrays, tmp_path / "theirs.safetensors")
    found = SafetensorsFile(tmp_path / "theirs.safetensors").tensors
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].data.dtype == array.dtype
        np.testing.assert_array_equal(found[name].data, array)
    ours = convert_models.safetensors_bytes({"x": ("F32", arrays["f32"]), "y": ("F16", arrays["f16"])})
    (tmp_path / "ours.safetensors").write_bytes(ours)
    np.testing.assert_array_equal(numpy_format.load_file(tmp_path / "ours.safetensors")["x"], arrays["f32"])


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


BAD_HEADERS: dict[str, tuple[Any, str]] = {
    "not json": (b"{abc", "not valid JSON"),
    "not utf-8": (b'{"\xff": 1}', "not valid JSON"),
    "a list": ([1], "not a JSON object"),
    "deep": (b'{"a":' + b"[" * 100_000, "not valid JSON"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "twice": (b'{"a": {}, "a": {}}', "appears twice"),
    "entry": ({**GOOD, "b": 3}, "'b' is not an object"),
    "dtype": (changed("b", dtype="F8_E4M3"), "'b' has dtype 'F8_E4M3'; convert an unquantized checkpoint"),
    "dtype list": (changed("b", dtype=["F32"]), "has dtype"),
    "negative": (changed("b", shape=[-2, -3]), "no valid shape"),
    "float shape": (changed("b", shape=[2.0, 3]), "no valid shape"),
    "bool shape": (changed("b", shape=[True, 6]), "no valid shape"),
    "many dims": (changed("b", shape=[1] * 9), "no valid shape"),
    "huge shape": (changed("b", shape=[2**62, 2**62]), "offsets give 24"),
    "zero times huge": (changed("b", shape=[0, 2**63]), "takes 0 bytes"),
    "empty and huge": (changed("e", shape=[0, 2**70]), "'e' has the shape .*, which is beyond 64 bits"),
    "size": (changed("b", shape=[2, 4]), "takes 32 bytes, its offsets give 24"),
    "past the end": (
        changed("c", data_offsets=[32, 34], shape=[2]),
        "lies at bytes 32..34 .* holds 33; it is truncated",
    ),
    "backwards": (changed("b", data_offsets=[24, 0]), "lies at bytes 24..0"),
    "negative offset": (changed("b", data_offsets=[-24, 0]), "lies at bytes -24..0"),
    "offset type": (changed("b", data_offsets=[0, "24"]), "no valid data_offsets"),
    "offset count": (changed("b", data_offsets=[0]), "no valid data_offsets"),
    "overlap": (changed("a", data_offsets=[20, 28]), "'a' at byte 20 overlaps another tensor"),
    "hole": (changed("b", shape=[2, 2], data_offsets=[0, 16]), "'a' at byte 24 leaves a hole of 8 bytes"),
    "left over": ({"b": GOOD["b"]}, "the tensors take 24 bytes and the file holds 33"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers(case: str, tmp_path: Path) -> None:
    header, message = BAD_HEADERS[case]
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(ValueError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0xFFFFFFFFFFFFFFFF, 1 << 40, 200, 100_000_001])
def test_header_length_is_checked(size: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the header claims"):
        SafetensorsFile(write(tmp_path / "x.safetensors", {}, b"", size))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.safetensors", GOOD).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "x.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            SafetensorsFile(tmp_path / "x.safetensors")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_an_error_or_harmless(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(write(tmp_path / "x.safetensors", GOOD).read_bytes())
    for at, value in edits:
        data[at % len(data)] = value
    (tmp_path / "x.safetensors").write_bytes(data)
    try:
        tensors = SafetensorsFile(tmp_path / "x.safetensors").tensors
    except ValueError:
        return
    assert sum(len(t.data.tobytes()) for t in tensors.values()) == len(DATA)


def shards(directory: Path) -> dict[str, str]:
    for i, name in enumerate(("x", "y")):
        tensors = {name: ("F32", np.full((2,), i, np.float32))}
        (directory / f"model-{i}.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
    return {"x": "model-0.safetensors", "y": "model-1.safetensors"}


def test_shards(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    assert list(open_checkpoint(tmp_path)) == ["x", "y"]
    convert_models.write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert open_checkpoint(tmp_path)["y"].data.tolist() == [1.0, 1.0]


BAD_MAPS: dict[str, tuple[Any, str]] = {
    "no map": ({}, "no weight_map"),
    "list": ({"weight_map": []}, "no weight_map"),
    "missing shard": ({"x": "model-0.safetensors", "y": "model-2.safetensors"}, "shard model-2.safetensors is missing"),
    "missing tensor": (
        {"x": "model-0.safetensors", "y": "model-1.safetensors", "z": "model-1.safetensors"},
        "'z' is in no",
    ),
    "unlisted": (
        {"x": "model-0.safetensors", "q": "model-1.safetensors"},
        "'y' is in model-1.safetensors, the index says",
    ),
    "outside": ({"x": "../model-0.safetensors"}, "'../model-0.safetensors', which is not a file name"),
    "absolute": ({"x": "/etc/passwd"}, "not a file name"),
    "number": ({"x": 3}, "not a file name"),
    "dots": ({"x": ".."}, "not a file name"),
}


@pytest.mark.parametrize("case", BAD_MAPS)
def test_bad_indexes(case: str, tmp_path: Path) -> None:
    value, message = BAD_MAPS[case]
    shards(tmp_path)
    index = value if "weight_map" in value or not value else {"weight_map": value}
    convert_models.write_json(tmp_path / "model.safetensors.index.json", index)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes((tmp_path / "model-0.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"'x' is in model-0\.safetensors too"):
        open_checkpoint(tmp_path)


def test_other_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not read, save the model with save_pretrained"):
        open_checkpoint(tmp_path)
