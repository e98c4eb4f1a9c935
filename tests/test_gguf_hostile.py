"""Hostile files: whatever the bytes, opening and reading everything ends in values or in a GGUFError."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError, TypedValue, ValueType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module", params=["little", "big"])
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "small.gguf"
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 16,
        "tokens": ["a", "bc", ""],
        "numbers": np.arange(3, dtype=np.int16),
        "nested": [[True], ["x"], TypedValue([], ValueType.ARRAY, ValueType.FLOAT64)],
        "f64": np.float64(1),
    }
    with gguf.create(path, metadata, endianness=request.param) as w:
        w.add_tensor("q", bq.QuantizedTensor(np.arange(144, dtype=np.uint8).reshape(1, 144), "Q4_K"))
        w.add_tensor("v", np.ones(5, np.float32))
    return path.read_bytes()


def _read_everything(path: Path) -> bool:
    """Whether the file opens; anything but success and a one-line GGUFError fails the test."""
    try:
        with gguf.open(path) as f:
            assert f.typed_metadata().keys() == f.metadata.keys()
            for value in f.metadata.values():
                repr(value)
            for name, tensor in f.tensors.items():
                assert tensor.nbytes == f.tensor_info(name).nbytes
    except GGUFError as error:
        message = str(error)
    else:
        return True
    assert "\n" not in message
    return False


def test_every_truncation_is_refused(valid: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(valid)
    assert _read_everything(path)
    # The last tensor's padding may be missing; nothing else may.
    data_end = len(valid) - 12
    for size in range(len(valid)):
        path.write_bytes(valid[:size])
        assert _read_everything(path) == (size >= data_end), size


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files(valid: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(valid)
    header = len(valid) - 176
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header))
        kind = data.draw(st.sampled_from(["byte", "u32", "u64", "delete", "insert", "copy"]))
        if kind == "byte":
            content[at] = data.draw(st.integers(0, 255))
        elif kind in ("u32", "u64"):
            bits = int(kind[1:])
            # The numbers that break arithmetic, in either byte order.
            number = data.draw(st.sampled_from([0, 1, 2, 2 ** (bits - 1), 2**bits - 1, 2 ** (bits // 2), 2**bits - 32]))
            content[at : at + bits // 8] = number.to_bytes(bits // 8, data.draw(st.sampled_from(["little", "big"])))
        elif kind == "delete":
            del content[at : at + data.draw(st.integers(1, 16))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=16))
        else:
            source = data.draw(st.integers(0, header))
            content[at:at] = content[source : source + data.draw(st.integers(1, 64))]
        header = min(header, max(len(content) - 9, 0))
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    _read_everything(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"")
def test_garbage_after_the_magic(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "garbage.gguf"
    for version in (b"\3\0\0\0", b"\0\0\0\3", b""):
        path.write_bytes(b"GGUF" + version + tail)
        _read_everything(path)


def _entry(key: bytes, type_: int, payload: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", type_) + payload


def _header(tensors: int, entries: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)


def test_duplicates_are_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.gguf"
    path.write_bytes(_header(0, 2) + _entry(b"the key", 0, b"\1") * 2)
    with pytest.raises(GGUFError, match=r"twice\.gguf: metadata key 'the key' occurs twice"):
        gguf.open(path)
    tensor = struct.pack("<Q", 3) + b"two" + struct.pack("<IQIQ", 1, 0, 0, 0)
    path.write_bytes(_header(2, 0) + tensor * 2)
    with pytest.raises(GGUFError, match="tensor name 'two' occurs twice"):
        gguf.open(path)


def test_huge_counts_cost_no_memory(tmp_path: Path) -> None:
    """In a process that may not take more than 64 MiB beyond what the imports take."""
    huge = 2**62
    cases = [
        _header(huge, 0),
        _header(0, huge),
        _header(2**32 - 1, 2**32 - 1),
        _header(0, 1) + _entry(b"k", 8, struct.pack("<Q", huge)),
        _header(0, 1) + _entry(b"k", 9, struct.pack("<IQ", 8, huge)),
        _header(0, 1) + _entry(b"k", 9, struct.pack("<IQ", 9, huge)),
        _header(0, 1) + _entry(b"k", 9, struct.pack("<IQ", 12, 2**61)),
        _header(0, 1) + struct.pack("<Q", huge),
        _header(0, 1) + _entry(b"k", 9, struct.pack("<IQ", 9, 1) * 1000),
        _header(1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 2**31, 2**31, 0, 0),
        _header(1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 2**63),
    ]
    paths = []
    for i, case in enumerate(cases):
        paths.append(tmp_path / f"{i}.gguf")
        paths[-1].write_bytes(case + bytes(200))
    code = """
        import sys
        from blockquant import gguf
        try:
            import resource
        except ImportError:
            pass
        else:
            pages = int(open("/proc/self/statm").read().split()[0]) if sys.platform == "linux" else 0
            if pages:
                limit = pages * resource.getpagesize() + (64 << 20)
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for path in sys.argv[1:]:
            try:
                gguf.open(path)
            except gguf.GGUFError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(cases), done.stdout


def test_many_names_are_compared_in_little_time(tmp_path: Path) -> None:
    count = 50_000
    path = tmp_path / "many.gguf"
    entries = b"".join(_entry(b"k%07d" % i, 0, b"\1") for i in range(count))
    path.write_bytes(_header(0, count) + entries)
    with gguf.open(path) as f:
        assert len(f.metadata) == count
    path.write_bytes(_header(0, count + 1) + entries + _entry(b"k%07d" % (count // 2), 0, b"\1"))
    with pytest.raises(GGUFError, match="'k0025000' occurs twice"):
        gguf.open(path)


@pytest.mark.parametrize(
    ("ggml_type", "says"), [(4, "removed"), (31, "removed"), (38, "removed"), (9, "not stored"), (43, "unknown")]
)
def test_types_that_are_no_formats(tmp_path: Path, ggml_type: int, says: str) -> None:
    path = tmp_path / "type.gguf"
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 256, ggml_type, 0)
    path.write_bytes(_header(1, 0) + tensor + bytes(4096))
    with pytest.raises(GGUFError, match=f"tensor 't' has ggml type {ggml_type}: .*{says}"):
        gguf.open(path)


@pytest.mark.parametrize("dims", [(0, 2**60), (2**60, 0), (256, 0, 2**52), (0, 2**31, 2**31), (0, 1, 2**63 - 1), (0,)])
@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "F64", "Q4_0", "Q4_K", "Q1_0"])
def test_zeros_hide_no_shape_that_arrays_cannot_have(tmp_path: Path, dims: tuple[int, ...], format: str) -> None:
    path = tmp_path / "empty.gguf"
    ggml_type = gguf._types.LAYOUTS[format].ggml_type
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type, 0)
    path.write_bytes(_header(1, 0) + tensor + bytes(64))
    if dims != (0,):
        with pytest.raises(GGUFError, match=r"tensor 't' has (more elements|rows|more bytes)"):
            gguf.open(path)
        return
    with gguf.open(path) as f:
        tensor_read = f.tensors["t"]
        assert np.asarray(tensor_read, np.float64).shape == (0,)
    assert gguf.verify(path).ok
    assert gguf.diff(path, path).identical


def test_types_of_split_keys_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a-00001-of-00002.gguf"
    with gguf.create(path, {"split.count": "many"}):
        pass
    with pytest.raises(GGUFError, match=r"split\.count must be an integer"):
        gguf.open(path)
