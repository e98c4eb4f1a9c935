"""Bytes and bits against ggml itself and gguf-py, on inputs made on the spot."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import blockquant as bq
import blocks
import gguf
import numpy as np
import pytest
from blocks import Bytes, Floats
from ggml import Ggml

IMPLEMENTED = [f.name for f in bq.formats.values() if f.implemented]
WITHOUT_GGUF_DECODER = {"Q1_0", "Q2_0"}
MODEL = Path(__file__).parents[1] / "examples" / "tales-6m" / "model.safetensors"


def assert_bytes_equal_ggml(
    ggml: Ggml, name: str, x: Floats, imatrix: Floats | None, kinds: list[str] | None = None, what: str = ""
) -> None:
    expected = ggml.quantize(bq.formats[name].ggml_type, x, imatrix)
    for isa in bq.available_isas():
        bq.set_isa(isa)
        data = bq.quantize(x, name, imatrix=imatrix).data
        wrong = np.nonzero((data != expected).any(axis=1))[0]
        rows = sorted({kinds[r] for r in wrong}) if kinds else wrong[:8].tolist()
        assert wrong.size == 0, f"{name}, {isa}, {what}: {wrong.size} of {len(x)} rows differ: {rows}"


def assert_same_bits(got: Floats, expected: Floats, what: str) -> None:
    """Equal bits; a NaN equals any NaN."""
    assert got.shape == expected.shape
    same = (got.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(got) & np.isnan(expected))
    assert same.all(), (
        f"{what}: {np.count_nonzero(~same)} of {got.size} values differ, first at {np.argwhere(~same)[0]}"
    )


def hard_inputs(name: str, seed: int, k: int) -> tuple[Floats, list[str], dict[str, Floats | None]]:
    """Rows, their kinds, and weights, all hard to encode."""
    x, kinds = blocks.hard_rows(seed, k)
    return blocks.encodable_by_ggml(name, x, kinds, blocks.hard_imatrices(seed, k))


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_hard_rows(ggml, name):
    block = bq.formats[name].block_size
    lengths = (max(block, 32), 256, 768 if block == 256 else 736 // block * block)
    for seed, k in enumerate(lengths):
        x, kinds, imatrices = hard_inputs(name, seed, k)
        for weights, imatrix in imatrices.items():
            assert_bytes_equal_ggml(ggml, name, x, imatrix, kinds, f"row length {k}, imatrix {weights}")


@pytest.mark.slow
@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_many_hard_rows(ggml, name):
    for seed in range(100, 108):
        for k in (256, 1024, 2048):
            x, kinds, imatrices = hard_inputs(name, seed, k)
            for weights, imatrix in imatrices.items():
                assert_bytes_equal_ggml(ggml, name, x, imatrix, kinds, f"seed {seed}, length {k}, imatrix {weights}")


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_decoded_bits(ggml, name):
    f = bq.formats[name]
    rng = np.random.default_rng(f.ggml_type)
    x, _ = blocks.hard_rows(7, 256, rows=1)
    encoded = bq.quantize(x, name, imatrix=blocks.imatrix_for(name, 256)).data
    if f.run:
        bytes_: list[Bytes] = [encoded, blocks.random_blocks(name, f.type_size, 512, rng)]
    elif name == "F32":
        bytes_ = [encoded]
    else:  # every 16-bit pattern
        bytes_ = [encoded, np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(1, -1)]
    for data in bytes_:
        k = data.shape[1] // f.type_size * f.block_size
        expected = ggml.dequantize(f.ggml_type, data, k)
        if name not in WITHOUT_GGUF_DECODER:
            with np.errstate(all="ignore"):
                by_gguf = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(f.ggml_type)).astype(np.float32)
            assert_same_bits(by_gguf, expected, f"{name}: the two oracles")
        for isa in bq.available_isas():
            bq.set_isa(isa)
            assert_same_bits(bq.dequantize(data, name), expected, f"{name}, {isa}")


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_decoding_to_16_bits_rounds_the_float32_values(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    f = bq.formats[name]
    rng = np.random.default_rng(f.ggml_type)
    data = blocks.random_blocks(name, f.type_size, 1024 if f.run else 4096, rng)
    if name == "F32":
        data = blocks.finite_bits(rng, (1, 4096)).view(np.uint8)
    reference = bq.dequantize(data, name)
    with np.errstate(all="ignore"):
        expected = {dtype: reference.astype(dtype) for dtype in (np.float16, ml_dtypes.bfloat16)}
    for isa in bq.available_isas():
        bq.set_isa(isa)
        for dtype, values in expected.items():
            got = bq.dequantize(data, name, dtype=dtype)
            assert got.dtype == values.dtype
            with np.errstate(all="ignore"):
                both_nan = np.isnan(reference) & np.isnan(got.astype(np.float32))
            same = (got.view(np.uint16) == values.view(np.uint16)) | both_nan
            assert same.all(), f"{name}, {isa}, {values.dtype}: {np.count_nonzero(~same)} values differ"


def model_tensors() -> dict[str, Floats]:
    """The bundled model's tensors as float32, parsed here rather than by code under test."""
    raw = MODEL.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def check_model_tensor(ggml: Ggml, name: str, x: Floats) -> None:
    x = x.reshape(-1, x.shape[-1])
    rng = np.random.default_rng(x.size)
    imatrix = rng.random(x.shape[1], np.float32) ** 2
    for format_name in IMPLEMENTED:
        if x.shape[1] % bq.formats[format_name].block_size == 0:
            if not bq.formats[format_name].needs_imatrix:
                assert_bytes_equal_ggml(ggml, format_name, x, None, what=name)
            assert_bytes_equal_ggml(ggml, format_name, x, imatrix, what=f"{name} with imatrix")


@pytest.mark.usefixtures("restore_isa")
def test_two_tensors_of_the_bundled_model(ggml):
    tensors = model_tensors()
    for name in ("model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        check_model_tensor(ggml, name, tensors[name])


@pytest.mark.slow
@pytest.mark.usefixtures("restore_isa")
def test_whole_bundled_model(ggml):
    for name, x in model_tensors().items():
        check_model_tensor(ggml, name, x)
