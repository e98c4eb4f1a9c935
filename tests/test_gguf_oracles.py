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
from blockquant.gguf import TypedValue, ValueType
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


def _llama_copy(source: Path, target: Path) -> None:
    """llama.cpp reads the file, tensors and all, and writes what it has read."""
    lib = _llama_reader()
    p = ctypes.c_void_p
    for name, (restype, argtypes) in {
        "gguf_init_empty": (p, ()),
        "gguf_set_kv": (None, (p, p)),
        "gguf_add_tensor": (None, (p, p)),
        "gguf_write_to_file": (ctypes.c_bool, (p, ctypes.c_char_p, ctypes.c_bool)),
        "ggml_get_tensor": (p, (p, ctypes.c_char_p)),
        "ggml_free": (None, (p,)),
    }.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    loaded = p()
    given = lib.gguf_init_from_file(os.fsencode(source), _InitParams(False, ctypes.addressof(loaded)))
    assert given
    made = lib.gguf_init_empty()
    try:
        lib.gguf_set_kv(made, given)
        for i in range(lib.gguf_get_n_tensors(given)):
            lib.gguf_add_tensor(made, lib.ggml_get_tensor(loaded, lib.gguf_get_tensor_name(given, i)))
        assert lib.gguf_write_to_file(made, os.fsencode(target), False)
    finally:
        lib.gguf_free(made)
        lib.gguf_free(given)
        lib.ggml_free(loaded)


ODD_VALUES: dict[str, Any] = {
    **{
        f"empty.{kind.name}": TypedValue([], ValueType.ARRAY, kind) for kind in ValueType if kind is not ValueType.ARRAY
    },
    "bytes": b"\xff\xfe not UTF-8 \x80".decode("utf-8", "surrogateescape"),
    "list of bytes": ["plain", b"\x80".decode("utf-8", "surrogateescape"), ""],
    "nan": np.array([0x7FC00001, 0x7F800001, 0xFF800000], np.uint32).view(np.float32),
    "f64 nan": np.float64("nan"),
    "key with = : \u00e9": -0.0,
    "x" * 300: True,
}


def test_llama_cpp_writes_the_same_file_again(tmp_path: Path) -> None:
    """Every metadata value, its type and every tensor, byte for byte. (Text with a NUL it would cut.)"""
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs é.gguf"
    with gguf.create(ours, {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS, **ODD_VALUES}) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)
    _llama_copy(ours, theirs)
    assert theirs.read_bytes() == ours.read_bytes()
    assert gguf.diff(ours, theirs, values=False).identical


def test_llama_cpp_takes_what_the_tools_make(tmp_path: Path) -> None:
    ours, copy = tmp_path / "ours.gguf", tmp_path / "copy.gguf"
    with gguf.create(ours, {"general.architecture": "llama", **SCALARS}) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)
    gguf.edit(ours, set={"v.str": "x" * 1000, "v.u8": 1}, delete=["v.bool"], rename={"v.i8": "w.i8"})
    files = [ours, *(shard.path for shard in gguf.split(ours, tmp_path / "s", max_tensors=9, metadata_only_first=True))]
    files.append(gguf.merge(files[-1], tmp_path / "merged.gguf"))
    for file in files:
        _llama_copy(file, copy)
        assert copy.read_bytes() == file.read_bytes()

    # Its writer does not know of an alignment that comes with a copy; its reader does.
    gguf.edit(files[-1], set={"general.alignment": 128})
    lib = _llama_reader()
    ctx = lib.gguf_init_from_file(os.fsencode(files[-1]), _InitParams(True, None))
    assert ctx
    content = files[-1].read_bytes()
    for i, (name, tensor) in enumerate(tensors().items()):
        assert lib.gguf_get_tensor_name(ctx, i).decode() == name
        start = lib.gguf_get_data_offset(ctx) + lib.gguf_get_tensor_offset(ctx, i)
        assert start % 128 == 0
        assert content[start : start + lib.gguf_get_tensor_size(ctx, i)] == stored_bytes(tensor)
    lib.gguf_free(ctx)


def test_what_verify_warns_of_llama_cpp_refuses(tmp_path: Path) -> None:
    lib = _llama_reader()

    def refused(path: Path) -> bool:
        ctx = lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
        if ctx:
            lib.gguf_free(ctx)
        return not ctx

    path = tmp_path / "a.gguf"
    one = np.ones(8, np.float32)
    with gguf.create(path, {"general.architecture": "x"}) as w:
        w.add_tensor("t" * 63, one)
        w.add_tensor("second", one)
    assert gguf.verify(path).warnings == []
    assert not refused(path)
    sound = path.read_bytes()
    # A gap between the tensors, and a name of 64 bytes.
    offset = sound.index(b"second") + len("second") + 4 + 8 + 4
    path.write_bytes(sound[:offset] + (64).to_bytes(8, "little") + sound[offset + 8 :] + bytes(32))
    (warning,) = gguf.verify(path).warnings
    assert "not right after" in warning
    assert refused(path)
    name = sound.index(b"t" * 63) - 8
    longer = (64).to_bytes(8, "little") + b"t" * 64 + sound[name + 71 : name + 71 + 24 + 14 + 24]
    end = name + 71 + 24 + 14 + 24
    padding = bytes(-(name + len(longer)) % 32)
    with gguf.open(path) as f:
        data = sound[f.data_offset :]
    path.write_bytes(sound[:name] + longer + sound[end:end] + padding + data)
    (warning,) = gguf.verify(path).warnings
    assert "more than 63 bytes" in warning
    assert refused(path)
    with gguf.create(path, {"general.architecture": "x", "nested": [[1], [2]]}):
        pass
    (warning,) = gguf.verify(path).warnings
    assert "array of arrays" in warning
    assert refused(path)


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_gguf_py_carries_every_value_and_type_over(tmp_path: Path, endian: str) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    # gguf-py neither writes empty arrays nor reads text that is not UTF-8.
    odd = {key: value for key, value in ODD_VALUES.items() if not key.startswith("empty") and "bytes" not in key}
    metadata = {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS, **odd, "strings": ["", "é"]}
    with gguf.create(ours, metadata, endianness=endian.lower()) as w:  # type: ignore[arg-type]
        w.add_tensor("t", np.arange(6, dtype=np.float32).reshape(2, 3))
    reader = gguf_py.GGUFReader(ours)
    writer = gguf_py.GGUFWriter(theirs, "llama", endianess=gguf_py.GGUFEndian[endian])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        is_array = field.types[0] == gguf_py.GGUFValueType.ARRAY
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if is_array else None)
    writer.add_tensor("t", np.asarray(reader.tensors[0].data, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = gguf.diff(ours, theirs)
    # Through Python's floats a signalling NaN becomes a quiet one.
    assert [d.key for d in report.metadata if d.key != "nan"] == []
    assert [t.identical for t in report.tensors] == [True]
    with gguf.open(theirs) as f:
        assert f.endianness == endian.lower()
        assert {key: f.metadata_info(key) for key in f.metadata if key != "nan"} == {
            key: info for key, info in _infos(ours).items() if key != "nan"
        }


def _infos(path: Path) -> dict[str, gguf.ValueInfo]:
    with gguf.open(path) as f:
        return {key: f.metadata_info(key) for key in f.metadata}


def test_gguf_py_reads_our_nested_arrays_of_one_kind(tmp_path: Path) -> None:
    with gguf.create(tmp_path / "a.gguf", {"nested": [[1, 2], [3]], "after": 7}):
        pass
    reader = gguf_py.GGUFReader(tmp_path / "a.gguf")
    # Its reader knows where they end; its `contents` flattens them.
    assert reader.get_field("nested").types[:2] == [gguf_py.GGUFValueType.ARRAY] * 2
    assert reader.get_field("after").contents() == 7
