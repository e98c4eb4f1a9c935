"""Weights of any kind: diffusion, speech and vision models, by names and shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import blockquant as bq
import convert_models
import gguf as gguf_py
import numpy as np
import pytest
from blockquant import gguf
from blockquant.cli.app import run
from blockquant.converter.floats import to_bfloat16_bits

LONG = "conditioner.embedders.1.model.transformer.resblocks.11.attn.in_proj_weight"
RNG = np.random.default_rng(7)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TENSORS: convert_models.Tensors = {
    "double_blocks.0.img_attn.qkv.weight": ("BF16", to_bfloat16_bits(values(96, 256))),
    "double_blocks.0.img_attn.qkv.bias": ("BF16", to_bfloat16_bits(values(96))),
    "double_blocks.0.img_mlp.weight": ("F16", values(64, 320).astype(np.float16)),
    "img_in.weight": ("F32", values(64, 256)),
    "down.conv.weight": ("F32", values(64, 32, 3, 3)),
    "video.conv3d.weight": ("F32", values(4, 3, 2, 5, 64)),
    "scale": ("F32", np.float32(2.5)),
    "ids": ("I64", np.arange(40, dtype=np.int64)),
    "mask": ("BOOL", np.array([[1, 0], [1, 1]], np.uint8)),
    "bytes": ("U8", np.array([0, 200], np.uint8)),
    "double": ("F64", values(64, 64).astype(np.float64)),
    LONG: ("F32", values(48, 64)),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model \u00e9.safetensors"
    path.write_bytes(convert_models.safetensors_bytes(TENSORS))
    return path


def as_float32(dtype: str, array: np.ndarray) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def test_a_single_file(source: Path, tmp_path: Path) -> None:
    done = bq.convert(source, tmp_path / "out.gguf", "Q4_K_M", architecture="flux")
    assert (done.architecture, done.dtype, done.tensors) == ("flux", "Q4_K_M", len(TENSORS))
    short = done.renamed[LONG]
    assert len(short) <= 63
    assert short.endswith("resblocks.11.attn.in_proj_weight")
    assert done.reshaped == {"video.conv3d.weight": (4, 3, 2, 5, 64)}
    with gguf.open(tmp_path / "out.gguf") as file:
        assert file.architecture == "flux"
        assert file.metadata["general.name"] == "model \u00e9"
        assert file.metadata["general.file_type"] == 15
        assert file.metadata[f"blockquant.original_name.{short}"] == LONG
        assert list(file.metadata["comfy.gguf.orig_shape.video.conv3d.weight"]) == [4, 3, 2, 5, 64]
        got = {name: str(info.format) for name, info in file.tensor_infos.items()}
        assert got == {c.name: str(c.format) for c in done.choices}
        assert got == {
            "double_blocks.0.img_attn.qkv.weight": "Q4_K",
            "double_blocks.0.img_attn.qkv.bias": "BF16",
            "double_blocks.0.img_mlp.weight": "Q5_0",
            "img_in.weight": "F32",
            "down.conv.weight": "F32",
            "video.conv3d.weight": "Q5_0",
            "scale": "F32",
            "ids": "I64",
            "mask": "I8",
            "bytes": "I16",
            "double": "Q5_0",
            short: "Q5_0",
        }
        for name, (dtype, array) in TENSORS.items():
            stored: Any = file.tensors[done.renamed.get(name, name)]
            if isinstance(stored, bq.QuantizedTensor):
                expected = bq.quantize(as_float32(dtype, array).reshape(stored.shape), stored.format)
                np.testing.assert_array_equal(stored.data, expected.data, err_msg=name)
            else:
                np.testing.assert_array_equal(stored.reshape(array.shape), as_float32(dtype, array), err_msg=name)
    reasons = {c.name: c.reason for c in done.choices}
    assert reasons["down.conv.weight"] == "rows of 3 elements are not whole blocks of Q4_K (256)"
    assert reasons["img_in.weight"] == "its name has 'img_in'"
    assert reasons["ids"] == "integers"
    assert reasons["double_blocks.0.img_attn.qkv.bias"] == "a vector"


def test_the_reference_reader_reads_it(source: Path, tmp_path: Path) -> None:
    bq.convert(source, tmp_path / "out.gguf", "Q8_0")
    reader = gguf_py.GGUFReader(tmp_path / "out.gguf")
    assert reader.fields["general.architecture"].contents() == "unknown"
    field = reader.fields["comfy.gguf.orig_shape.video.conv3d.weight"]
    assert field.types == [gguf_py.GGUFValueType.ARRAY, gguf_py.GGUFValueType.INT32]
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors["down.conv.weight"].shape) == [3, 3, 32, 64]
    assert tensors["double_blocks.0.img_attn.qkv.weight"].tensor_type.name == "Q8_0"
    assert len(tensors) == len(TENSORS)


def test_auto_keeps_every_number(source: Path, tmp_path: Path) -> None:
    done = bq.convert(source, tmp_path / "out.gguf", "auto")
    assert done.dtype == "auto"
    with gguf.open(tmp_path / "out.gguf") as file:
        for name, (dtype, array) in TENSORS.items():
            stored: Any = file.tensors[done.renamed.get(name, name)]
            stored = stored.dequantize() if isinstance(stored, bq.QuantizedTensor) else stored
            np.testing.assert_array_equal(stored.reshape(array.shape), as_float32(dtype, array))
        assert file.tensor_infos["double_blocks.0.img_mlp.weight"].format == "F16"


def test_one_pass_gives_the_bytes_of_two(source: Path, tmp_path: Path) -> None:
    bq.convert(source, tmp_path / "auto.gguf", "auto", architecture="flux")
    for recipe in ("Q4_K_S", "F16"):
        bq.convert(source, tmp_path / "one.gguf", recipe, architecture="flux")
        bq.quantize_file(tmp_path / "auto.gguf", tmp_path / "two.gguf", recipe)
        assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_users_rules(source: Path, tmp_path: Path) -> None:
    done = bq.convert(
        source, tmp_path / "out.gguf", "Q4_0", overrides={"img_in": "Q6_K", "img_mlp": "keep"}, architecture="x"
    )
    formats = {c.name: str(c.format) for c in done.choices}
    assert formats["img_in.weight"] == "Q6_K"
    assert formats["double_blocks.0.img_mlp.weight"] == "F16"
    assert formats["double_blocks.0.img_attn.qkv.weight"] == "Q4_0"


def test_directories(source: Path, tmp_path: Path) -> None:
    bq.convert(source, tmp_path / "file.gguf", "Q4_0", architecture="x")
    wanted = {n: bytes(np.asarray(t)) for n, t in gguf.open(tmp_path / "file.gguf").tensors.items()}
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    names = sorted(TENSORS)
    weight_map = {}
    for i in range(2):
        part = f"diffusion_pytorch_model-{i + 1:05d}-of-00002.safetensors"
        weight_map |= dict.fromkeys(names[i::2], part)
        (folder / part).write_bytes(convert_models.safetensors_bytes({n: TENSORS[n] for n in names[i::2]}))
    for _ in range(2):  # without an index and with one
        bq.convert(folder, tmp_path / "out.gguf", "Q4_0")
        got = {n: bytes(np.asarray(t)) for n, t in gguf.open(tmp_path / "out.gguf").tensors.items()}
        assert got == wanted
        index = folder / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    bq.convert(index, tmp_path / "out.gguf", "Q4_0")
    assert {n: bytes(np.asarray(t)) for n, t in gguf.open(tmp_path / "out.gguf").tensors.items()} == wanted
    (folder / "other.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="2 indexes in it; give one file, or one index"):
        bq.convert(folder, tmp_path / "out.gguf", "Q4_0")


def test_a_language_model_of_a_kind_that_is_not_known(tmp_path: Path) -> None:
    config = convert_models.base_config("WhisperForConditionalGeneration")
    source = convert_models.write_model(tmp_path / "m", config, "F32", {"model": {}})
    with pytest.raises(ValueError, match="'WhisperForConditionalGeneration' is not supported"):
        bq.convert(source, tmp_path / "out.gguf", "Q8_0")
    done = bq.convert(source, tmp_path / "out.gguf", "Q8_0", architecture="whisper")
    formats = {c.name: str(c.format) for c in done.choices}
    assert formats["model.layers.0.mlp.up_proj.weight"] == "Q8_0"
    assert formats["model.layers.0.input_layernorm.weight"] == "F32"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"short"), "too few for a safetensors header"),
        (lambda p: p.write_bytes(convert_models.safetensors_bytes({})), "no tensors to write"),
        (
            lambda p: p.write_bytes(convert_models.safetensors_bytes({"a": ("U64", np.array([2**64 - 1], np.uint64))})),
            "tensor 'a': 18446744073709551615 does not fit",
        ),
        (
            lambda p: p.write_bytes(convert_models.safetensors_bytes({"\ud800": TENSORS["ids"]})),
            "is not Unicode text",
        ),
        (lambda p: p.mkdir(), "no .safetensors file in it"),
        (lambda p: None, "No such file"),
    ],
)
def test_faults(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "m.safetensors")
    with pytest.raises((ValueError, OSError), match=message):
        bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", "Q4_0", architecture="x")
    assert not (tmp_path / "out.gguf").exists()


def test_a_folder_and_an_index_are_not_replaced(source: Path, tmp_path: Path) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, source.name)}))
    config = tmp_path / "config.json"
    config.write_text("{}")
    for given, out in ((index, index), (index, source), (tmp_path, config), (tmp_path, index)):
        before = out.read_bytes()
        with pytest.raises(ValueError, match="is the input"):
            bq.convert(given, out, "auto")
        assert out.read_bytes() == before


def test_the_input_is_not_replaced(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(ValueError, match="is the input"):
        bq.convert(source, source, "Q8_0")
    assert source.read_bytes() == before


def test_what_is_not_finite_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockquant.converter.generic._PIECE_ELEMENTS", 16 * 64)
    array = values(64, 64)
    array[40, 3] = np.inf
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes({"a.weight": ("F32", array)}))
    with pytest.raises(ValueError, match=r"tensor 'a.weight': x\[8, 3\] is inf, .* \(x begins at row 32\)"):
        bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", "Q4_0")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("dtype", ["auto", "f16", "Q4_0"])
def test_doubles_beyond_float32_are_found(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockquant.converter.generic._PIECE_ELEMENTS", 16 * 64)
    array = values(64, 64).astype(np.float64)
    array[40, 3], array[41, 5] = -1e300, 1e39
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes({"a.weight": ("F64", array)}))
    message = r"tensor 'a.weight': x\[8, 3\] is -1e\+300, beyond the range of float32; .* \(x begins at row 32\)"
    with pytest.raises(ValueError, match=message):
        bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", dtype)
    assert not (tmp_path / "out.gguf").exists()


def test_doubles_that_are_not_finite_stay(tmp_path: Path) -> None:
    array = np.array([np.inf, -np.inf, np.nan, 1.5, 3e38])
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes({"a.bias": ("F64", array)}))
    bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", "auto")
    np.testing.assert_array_equal(gguf.open(tmp_path / "out.gguf").tensors["a.bias"], array.astype(np.float32))


def test_the_command_line_takes_empty_tensors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"a.weight": ("F32", np.zeros((0, 256), np.float32))}
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
    assert run(["convert", str(tmp_path / "m.safetensors"), str(tmp_path / "out.gguf"), "--dtype", "auto"]) == 0
    assert "1 tensors, 0.0 million parameters, 0.0 MB, " in capsys.readouterr().out


def test_empty_tensors(tmp_path: Path) -> None:
    tensors = {"a.weight": ("F32", np.zeros((0, 256), np.float32)), "b": ("F16", np.zeros((4, 0), np.float16))}
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
    bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", "Q4_0")
    with gguf.open(tmp_path / "out.gguf") as file:
        assert {n: i.shape for n, i in file.tensor_infos.items()} == {"a.weight": (0, 256), "b": (4, 0)}


def test_short_names_do_not_collide(tmp_path: Path) -> None:
    tensors = {prefix + "." + "x" * 80 + ".weight": ("F32", values(2, 4)) for prefix in "abc"}
    (tmp_path / "m.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
    done = bq.convert(tmp_path / "m.safetensors", tmp_path / "out.gguf", "auto")
    assert len(set(done.renamed.values())) == 3
    with gguf.open(tmp_path / "out.gguf") as file:
        for original, name in done.renamed.items():
            np.testing.assert_array_equal(file.tensors[name], tensors[original][1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    rows, columns, count = 16384, 4096, 3  # 3 tensors of 128 MB
    header = {
        f"blocks.{i}.weight": {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [i * rows * columns * 2, (i + 1) * rows * columns * 2],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    with open(tmp_path / "m.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + count * rows * columns * 2)
    code = (
        "import blockquant as bq, sys, re\n"
        "import numpy as np; bq.quantize(np.zeros((64, 4096), np.float32), 'Q8_0')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) // 1024\n"
        "before = peak()\n"
        "bq.convert(sys.argv[1], sys.argv[2], 'Q8_0')\n"
        "print(peak() - before)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "m.safetensors"), str(tmp_path / "out.gguf")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert int(done.stdout) < 100, done.stdout  # MB; the file has 403
