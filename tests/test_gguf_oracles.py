"""GGUF files both ways between this package, gguf-py and llama.cpp's own reader."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import blockquant as bq
import llamacpp
import ml_dtypes
import numpy as np
import pytest
from blockquant import gguf
from gguf_samples import NUMBER_ARRAYS, SCALARS, plan_of, stored_bytes, tensors

gguf_py = pytest.importorskip("gguf")


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _llama_reader() -> ctypes.CDLL:
    lib = llamacpp.library()
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, (restype, argtypes) in {
        "gguf_init_from_file": (p, (ctypes.c_char_p, _InitParams)),
        "gguf_free": (None, (p,)),
        "gguf_get_version": (ctypes.c_uint32, (p,)),
        "gguf_get_alignment": (ctypes.c_size_t, (p,)),
        "gguf_get_data_offset": (ctypes.c_size_t, (p,)),
        "gguf_get_n_kv": (i64, (p,)),
        "gguf_get_key": (ctypes.c_char_p, (p, i64)),
        "gguf_find_key": (i64, (p, ctypes.c_char_p)),
        "gguf_get_kv_type": (ctypes.c_int, (p, i64)),
        "gguf_get_arr_type": (ctypes.c_int, (p, i64)),
        "gguf_get_arr_n": (ctypes.c_size_t, (p, i64)),
        "gguf_get_arr_data": (p, (p, i64)),
        "gguf_get_arr_str": (ctypes.c_char_p, (p, i64, ctypes.c_size_t)),
        "gguf_get_val_str": (ctypes.c_char_p, (p, i64)),
        "gguf_get_val_data": (p, (p, i64)),
        "gguf_get_n_tensors": (i64, (p,)),
        "gguf_get_tensor_name": (ctypes.c_char_p, (p, i64)),
        "gguf_get_tensor_type": (ctypes.c_int, (p, i64)),
        "gguf_get_tensor_offset": (ctypes.c_size_t, (p, i64)),
        "gguf_get_tensor_size": (ctypes.c_size_t, (p, i64)),
    }.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    return lib


@pytest.mark.parametrize("planned", [True, False])
def test_llama_cpp_reads_what_we_write(tmp_path: Path, planned: bool) -> None:
    lib = _llama_reader()
    path = tmp_path / "ours.gguf"
    strings = ["a", "", "é", "longer than the rest"]
    metadata = {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS, "strings": strings}
    with gguf.create(path, metadata, plan_of(tensors()) if planned else None, alignment=64) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)

    ctx = lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    assert ctx
    try:
        assert lib.gguf_get_version(ctx) == 3
        assert lib.gguf_get_alignment(ctx) == 64
        assert lib.gguf_get_n_kv(ctx) == len(metadata) + 1
        for key, typed in SCALARS.items():
            at = lib.gguf_find_key(ctx, key.encode())
            assert lib.gguf_get_kv_type(ctx, at) == typed.type
            if isinstance(typed.value, str):
                assert lib.gguf_get_val_str(ctx, at).decode() == typed.value
            else:
                dtype = gguf._types.SCALAR_DTYPES[typed.type]
                raw = ctypes.string_at(lib.gguf_get_val_data(ctx, at), dtype.itemsize)
                assert np.frombuffer(raw, dtype)[0] == dtype.type(typed.value)
        for key, array in NUMBER_ARRAYS.items():
            at = lib.gguf_find_key(ctx, key.encode())
            assert lib.gguf_get_arr_n(ctx, at) == array.size
            assert ctypes.string_at(lib.gguf_get_arr_data(ctx, at), array.nbytes) == array.tobytes()
        at = lib.gguf_find_key(ctx, b"strings")
        assert [lib.gguf_get_arr_str(ctx, at, i).decode() for i in range(4)] == strings

        content = path.read_bytes()
        data_offset = lib.gguf_get_data_offset(ctx)
        assert lib.gguf_get_n_tensors(ctx) == len(tensors())
        for i, (name, tensor) in enumerate(tensors().items()):
            assert lib.gguf_get_tensor_name(ctx, i).decode() == name
            start = data_offset + lib.gguf_get_tensor_offset(ctx, i)
            assert content[start : start + lib.gguf_get_tensor_size(ctx, i)] == stored_bytes(tensor)
    finally:
        lib.gguf_free(ctx)


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "ours.gguf"
    strings = ["a", "", "é"]
    known = {kind.name for kind in gguf_py.GGMLQuantizationType}  # the newest formats are not in every release
    samples = {n: t for n, t in tensors().items() if not isinstance(t, bq.QuantizedTensor) or t.format in known}
    with gguf.create(path, {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS, "strings": strings}) as w:
        for name, tensor in samples.items():
            w.add_tensor(name, tensor)
    reader = gguf_py.GGUFReader(path)
    for key, typed in SCALARS.items():
        field = reader.get_field(key)
        assert field.types == [gguf_py.GGUFValueType(int(typed.type))]
        assert field.contents() == typed.value
    for key, array in NUMBER_ARRAYS.items():
        assert reader.get_field(key).contents() == array.tolist()
    assert reader.get_field("strings").contents() == strings
    assert [t.name for t in reader.tensors] == list(samples)
    for got, (name, tensor) in zip(reader.tensors, samples.items(), strict=True):
        assert got.data.tobytes() == stored_bytes(tensor), name
        assert tuple(got.shape[::-1]) == tensor.shape


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_we_read_what_gguf_py_writes(tmp_path: Path, endian: str) -> None:
    path = tmp_path / "theirs.gguf"
    w = gguf_py.GGUFWriter(path, "llama", endianess=gguf_py.GGUFEndian[endian])
    for key, typed in SCALARS.items():
        w.add_key_value(key, typed.value, gguf_py.GGUFValueType(int(typed.type)))
    w.add_array("ints", [1, -2, 3])
    w.add_array("floats", [0.5, 1.5])
    w.add_array("strings", ["x", "", "é"])
    w.add_array("nested", [[1, 2], [3]])
    arrays = {name: t for name, t in tensors().items() if isinstance(t, np.ndarray) and t.dtype != ml_dtypes.bfloat16}
    for name, array in arrays.items():
        w.add_tensor(name, array)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    for quantized in ("Q8_0", "BF16", "Q4_0"):
        if endian == "LITTLE":  # gguf-py swaps no blocks
            kind = gguf_py.GGMLQuantizationType[quantized]
            w.add_tensor(quantized, gguf_py.quants.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    with gguf.open(path) as f:
        assert f.endianness == endian.lower()
        assert f.architecture == "llama"
        for key, typed in SCALARS.items():
            assert f.typed_metadata()[key].type == typed.type
            expected: Any = typed.value
            assert f.metadata[key] == expected
        assert f.metadata["ints"].tolist() == [1, -2, 3]
        assert f.metadata["floats"].tolist() == [0.5, 1.5]
        assert f.metadata["strings"] == ["x", "", "é"]
        assert [a.tolist() for a in f.metadata["nested"]] == [[1, 2], [3]]
        for name, array in arrays.items():
            got = f.tensors[name]
            assert got.shape == array.shape
            assert stored_bytes(got) == stored_bytes(array)
        if endian == "LITTLE":
            for quantized in ("Q8_0", "BF16", "Q4_0"):
                tensor = f.tensors[quantized]
                assert isinstance(tensor, bq.QuantizedTensor)
                assert tensor.shape == (3, 256)
                kind = gguf_py.GGMLQuantizationType[quantized]
                assert tensor.data.tobytes() == gguf_py.quants.quantize(x, kind).tobytes()
