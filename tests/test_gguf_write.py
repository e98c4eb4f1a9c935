"""Writing GGUF files: plans, pieces, the types of values, and that a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockquant as bq
import ml_dtypes
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError, TypedValue, ValueType
from gguf_samples import NUMBER_ARRAYS, SCALARS, plan_of, stored_bytes, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def test_planned_and_unplanned_files_are_equal(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS}
    spooled, planned, shuffled, pieces = (tmp_path / f"{n}.gguf" for n in range(4))
    with gguf.create(spooled, metadata) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)
    with gguf.create(planned, metadata, plan_of(tensors())) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)
    with gguf.create(shuffled, metadata, plan_of(tensors())) as w:
        for name, tensor in reversed(tensors().items()):
            w.add_tensor(name, tensor)
    with gguf.create(pieces, metadata, plan_of(tensors())) as w:
        # The first rows of all tensors before the others, so that no tensor is written in one go.
        for part in (slice(0, 1), slice(1, None)):
            for name, tensor in tensors().items():
                if len(tensor.shape) > 1:
                    w.add_rows(name, tensor[part])
                elif part.start:
                    w.add_tensor(name, tensor)
    assert spooled.read_bytes() == planned.read_bytes() == shuffled.read_bytes() == pieces.read_bytes()
    assert spooled.stat().st_size % 32 == 0
    assert sorted(os.listdir(tmp_path)) == ["0.gguf", "1.gguf", "2.gguf", "3.gguf"]


def test_rows_of_a_cube_come_as_any_whole_rows(tmp_path: Path) -> None:
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with gguf.create(tmp_path / "a.gguf", {}, {"cube": ((2, 3, 4), "F32")}) as w:
        w.add_rows("cube", cube.reshape(6, 4)[:4])
        w.add_rows("cube", cube[1, 1])
        w.add_rows("cube", cube[1:, 2:])
    with gguf.open(tmp_path / "a.gguf") as f:
        np.testing.assert_array_equal(np.asarray(f.tensors["cube"]), cube)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_any_strides_and_byte_orders_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("blockquant.gguf._writer._CHUNK_BYTES", chunk)
    base = np.arange(2 * 6 * 10, dtype=np.float32).reshape(2, 6, 10)
    blocks = np.arange(6 * 34 * 2, dtype=np.uint8).reshape(6, 68)
    arrays: dict[str, Any] = {
        "transposed": base[0].T,
        "strided": base[:, ::2, ::-3],
        "big": base.astype(">f4"),
        "fortran": np.asfortranarray(base[1]),
        "broadcast": np.broadcast_to(np.float16(3), (3, 4)),
        "bf16": base[0].astype(ml_dtypes.bfloat16).T,
        "list": [[1.0, 2.0], [3.0, 4.0]],
        "blocks": bq.QuantizedTensor(blocks, "Q8_0"),
    }
    for endianness in ("little", "big"):
        with gguf.create(tmp_path / "a.gguf", {}, endianness=endianness) as w:  # type: ignore[arg-type]
            for name, array in arrays.items():
                w.add_tensor(name, array)
        with gguf.open(tmp_path / "a.gguf") as f:
            for name, array in arrays.items():
                got = f.tensors[name]
                if isinstance(array, bq.QuantizedTensor):
                    np.testing.assert_array_equal(got.data, array.data)
                elif name == "bf16":
                    np.testing.assert_array_equal(got.data.reshape(-1).view(ml_dtypes.bfloat16), array.reshape(-1))
                else:
                    np.testing.assert_array_equal(np.asarray(got), np.asarray(array))


def _nested(depth: int, typed: bool = False) -> Any:
    value: Any = [1]
    for _ in range(depth - 1):
        value = [TypedValue(value, ValueType.ARRAY) if typed else value]
    return value


def test_python_values_get_the_documented_types(tmp_path: Path) -> None:
    cases: dict[str, tuple[Any, ValueType, ValueType | None]] = {
        "u32": (7, ValueType.UINT32, None),
        "u32 max": (2**32 - 1, ValueType.UINT32, None),
        "i32": (-1, ValueType.INT32, None),
        "u64": (2**32, ValueType.UINT64, None),
        "i64": (-(2**31) - 1, ValueType.INT64, None),
        "bool": (False, ValueType.BOOL, None),
        "f32": (0.1, ValueType.FLOAT32, None),
        "str": ("", ValueType.STRING, None),
        "np.str": (np.str_("x"), ValueType.STRING, None),
        "np.f64": (np.float64(0.1), ValueType.FLOAT64, None),
        "np.u8": (np.uint8(3), ValueType.UINT8, None),
        "np.bool": (np.True_, ValueType.BOOL, None),
        "zero-dim": (np.array(5, np.int16), ValueType.INT16, None),
        "strings": (("a", "b"), ValueType.ARRAY, ValueType.STRING),
        "ints": ([1, -1], ValueType.ARRAY, ValueType.INT32),
        "large": ([1, 2**31], ValueType.ARRAY, ValueType.UINT32),
        "larger": ([-1, 2**31], ValueType.ARRAY, ValueType.INT64),
        "largest": ([1, 2**63], ValueType.ARRAY, ValueType.UINT64),
        "floats": ([1, 2.5], ValueType.ARRAY, ValueType.FLOAT32),
        "bools": ([True, False], ValueType.ARRAY, ValueType.BOOL),
        "array": (np.array([1, 2], ">u2"), ValueType.ARRAY, ValueType.UINT16),
        "np.strings": (np.array(["a", "b"]), ValueType.ARRAY, ValueType.STRING),
        "typed": (TypedValue([1, 2], ValueType.ARRAY, ValueType.INT64), ValueType.ARRAY, ValueType.INT64),
        "inferred": (TypedValue([1, 2], ValueType.ARRAY), ValueType.ARRAY, ValueType.INT32),
        "as deep as can be": (_nested(8), ValueType.ARRAY, ValueType.ARRAY),
    }
    with gguf.create(tmp_path / "a.gguf", {key: value for key, (value, _, _) in cases.items()}):
        pass
    with gguf.open(tmp_path / "a.gguf") as f:
        for key, typed in f.typed_metadata().items():
            assert (typed.type, typed.element_type) == cases[key][1:], key
        assert f.metadata["f32"] == float(np.float32(0.1))
        assert f.metadata["larger"].tolist() == [-1, 2**31]
        assert f.metadata["array"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (None, TypeError, "NoneType"),
        ({}, TypeError, "dict"),
        (b"bytes", TypeError, "bytes"),
        (1 + 2j, TypeError, "complex"),
        (2**64, GGUFError, "integer type"),
        (1e300, GGUFError, "FLOAT32"),
        ([], TypeError, "empty list"),
        ([1, "a"], TypeError, "one type"),
        ([1, True], TypeError, "bools"),
        ([1, None], TypeError, "one type"),
        (np.zeros((2, 2), np.int32), TypeError, "one dimension"),
        (np.zeros(2, np.float16), TypeError, "float16"),
        (np.complex64(1), TypeError, "complex64"),
        (TypedValue(300, ValueType.UINT8), GGUFError, "UINT8"),
        (TypedValue(-1, ValueType.UINT64), GGUFError, "UINT64"),
        (TypedValue(1.5, ValueType.INT32), GGUFError, "INT32"),
        (TypedValue(2, ValueType.BOOL), GGUFError, "BOOL"),
        (TypedValue("x", ValueType.INT32), TypeError, "INT32"),
        (TypedValue(1, ValueType.STRING), TypeError, "STRING"),
        (TypedValue([1, 2], ValueType.ARRAY, ValueType.STRING), TypeError, "str"),
        (TypedValue([1, 300], ValueType.ARRAY, ValueType.INT8), GGUFError, "INT8"),
        (TypedValue(["x"], ValueType.ARRAY, ValueType.INT8), TypeError, "INT8"),
        (TypedValue([1], ValueType.ARRAY, ValueType.ARRAY), TypeError, "arrays"),
        ("\ud800", GGUFError, "UTF-8"),
        (["\ud800"], GGUFError, "UTF-8"),
        (TypedValue(np.ones((2, 3), np.int32), ValueType.ARRAY, ValueType.INT32), TypeError, r"\(2, 3\)"),
        (TypedValue(np.ones((2, 1, 1), np.int64), ValueType.ARRAY, ValueType.FLOAT32), TypeError, "one dimension"),
        (TypedValue([[1.0, 2.0], [3.0, 4.0]], ValueType.ARRAY, ValueType.FLOAT32), TypeError, "one dimension"),
        (TypedValue(((1, 2), (3, 4)), ValueType.ARRAY, ValueType.INT8), TypeError, "one dimension"),
        (TypedValue(np.int32(1), ValueType.ARRAY, ValueType.INT32), TypeError, "one dimension"),
        (TypedValue("ab", ValueType.ARRAY, ValueType.STRING), TypeError, "a list"),
        (TypedValue(range(3), ValueType.INT8), TypeError, "INT8"),
        (TypedValue(np.array([2], np.uint8).view(bool), ValueType.ARRAY, ValueType.BOOL), GGUFError, "expected 0 or 1"),
        (_nested(9), GGUFError, "more than 8 deep"),
        (_nested(9, typed=True), GGUFError, "more than 8 deep"),
        (_nested(2000), GGUFError, "more than 8 deep"),
    ],
)
def test_values_that_gguf_cannot_hold(tmp_path: Path, value: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=r"metadata 'the\.key'.*" + says) as caught:
        gguf.create(tmp_path / "a.gguf", {"the.key": value})
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", ["", "x" * 65536])
def test_keys_that_gguf_cannot_hold(tmp_path: Path, key: str) -> None:
    with pytest.raises(GGUFError, match="key"):
        gguf.create(tmp_path / "a.gguf", {key: 1})


def test_alignment(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for arguments, alignment in (
        (({}, None, 64), 64),
        (({"general.alignment": 128},), 128),
        (({"general.alignment": 8}, None, 8), 8),
        (({},), 32),
    ):
        with gguf.create(path, *arguments) as w:  # type: ignore[arg-type]
            w.add_tensor("a", np.ones(3, np.int8))
            w.add_tensor("b", np.ones(3, np.int8))
        with gguf.open(path) as f:
            assert f.alignment == alignment
            assert f.metadata.get("general.alignment", 32) == alignment
            assert f.tensor_info("b").offset - f.tensor_info("a").offset == alignment
            assert f.file_size % alignment == 0
    with pytest.raises(GGUFError, match="alignment=64"):
        gguf.create(path, {"general.alignment": 128}, None, 64)
    for bad in (0, 24, -32):
        with pytest.raises(GGUFError, match="power of two"):
            gguf.create(path, {}, None, bad)
    with pytest.raises(GGUFError, match="uint32"):
        gguf.create(path, {"general.alignment": np.uint64(32)})


def _wrong_uses() -> dict[str, tuple[Callable[[gguf.GGUFWriter], object], type[Exception], str]]:
    row = np.zeros((1, 4), np.float32)
    return {
        "twice": (
            lambda w: (w.add_tensor("a", np.zeros((2, 4), np.float32)), w.add_tensor("a", row)),
            GGUFError,
            "already",
        ),
        "shape": (lambda w: w.add_tensor("a", row), GGUFError, r"planned as F32 \[2, 4\], got F32 \[1, 4\]"),
        "format": (lambda w: w.add_tensor("a", np.zeros((2, 4), np.float16)), GGUFError, "got F16"),
        "name": (lambda w: w.add_tensor("z", row), GGUFError, "'z' is not in the plan"),
        "rows name": (lambda w: w.add_rows("z", row), GGUFError, "'z' is not in the plan"),
        "row length": (lambda w: w.add_rows("a", np.zeros((1, 5), np.float32)), GGUFError, "rows of"),
        "row format": (lambda w: w.add_rows("a", np.zeros((1, 4))), GGUFError, "F64"),
        "many rows": (
            lambda w: (w.add_rows("a", row), w.add_rows("a", row), w.add_rows("a", row)),
            GGUFError,
            "more rows",
        ),
        "missing": (lambda w: None, GGUFError, "'a' was planned and not written"),
        "part": (lambda w: w.add_rows("a", row), GGUFError, "only partly"),
        "dtype": (lambda w: w.add_tensor("a", np.zeros((2, 4), np.uint8)), TypeError, "uint8"),
        "object": (lambda w: w.add_tensor("a", object()), TypeError, "object"),
        "user": (lambda w: 1 / 0, ZeroDivisionError, "division"),
    }


@pytest.mark.parametrize("case", list(_wrong_uses()))
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    use, error, says = _wrong_uses()[case]
    with pytest.raises(error, match=says), gguf.create(path, {}, {"a": ((2, 4), "F32"), "b": ((0, 4), "F32")}) as w:
        use(w)
    assert os.listdir(tmp_path) == ["a.gguf"]
    assert path.read_bytes() == b"old"


def test_wrong_use_without_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with gguf.create(path, {}) as w:
        w.add_tensor("a", np.zeros(4, np.float32))
        with pytest.raises(GGUFError, match="already"):
            w.add_tensor("a", np.zeros(4, np.float32))
        with pytest.raises(GGUFError, match="plan"):
            w.add_rows("a", np.zeros(4, np.float32))
        with pytest.raises(GGUFError, match="63 bytes"):
            w.add_tensor("x" * 64, np.zeros(4, np.float32))
        with pytest.raises(GGUFError, match="63 bytes"):
            w.add_tensor("", np.zeros(4, np.float32))
        with pytest.raises(GGUFError, match="0 to 4 dimensions"):
            w.add_tensor("five", np.zeros((1, 1, 1, 1, 1), np.float32))
        assert not path.exists()
    with pytest.raises(GGUFError, match="closed"):
        w.add_tensor("b", np.zeros(4, np.float32))
    with gguf.open(path) as f:
        assert list(f.tensors) == ["a"]
    for plan, says in (({"a": ((2, 33), "Q8_0")}, "multiple of the 32"), ({"a": ((2, 2), "Q9_9")}, "unknown format")):
        with pytest.raises(GGUFError, match=says):
            gguf.create(path, {}, plan)
    with pytest.raises(GGUFError, match="little"):
        gguf.create(path, {}, endianness="middle")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["a.gguf"]


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_targets_that_are_not_files(tmp_path: Path) -> None:
    for target in (Path("/dev/null"), tmp_path):
        with pytest.raises(GGUFError, match="not a regular file"):
            gguf.create(target, {})
    with pytest.raises(FileNotFoundError):
        gguf.create(tmp_path / "none" / "a.gguf", {})
    real, link = tmp_path / "real.gguf", tmp_path / "link.gguf"
    link.symlink_to(real)
    with gguf.create(link, {"a": 1}):
        pass
    assert link.is_symlink()
    assert real.is_file()


@pytest.mark.parametrize("planned", [True, False])
def test_a_full_disk_is_an_oserror_and_the_writer_cannot_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tensor = np.zeros((2, 4), np.float32)
    plan = {"a": ((2, 4), "F32")} if planned else None

    def write(catch: bool) -> None:
        with gguf.create(tmp_path / "a.gguf", {}, plan) as w, monkeypatch.context() as patch:
            patch.setattr("blockquant.gguf._writer.write_all", full)
            try:
                w.add_tensor("a", tensor)
            except OSError:
                if not catch:
                    raise
            with pytest.raises(GGUFError, match="failed"):
                w.add_tensor("a", tensor)

    with pytest.raises(OSError, match="No space left"):
        write(catch=False)
    assert os.listdir(tmp_path) == []
    with pytest.raises(GGUFError, match="earlier write failed"):
        write(catch=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs RLIMIT_FSIZE")
def test_a_size_limit_hit_for_real(tmp_path: Path, planned: bool) -> None:
    code = f"""
        import resource, signal, sys, numpy as np
        from blockquant import gguf
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        plan = {{"a": ((1024, 1024), "F32")}} if {planned} else None
        try:
            with gguf.create(sys.argv[1], {{}}, plan) as w:
                w.add_tensor("a", np.zeros((1024, 1024), np.float32))
        except OSError as error:
            sys.exit(0 if "\\n" not in str(error) else 3)
        sys.exit(4)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.gguf")], check=False)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("planned", [True, False])
def test_a_killed_process_leaves_no_file_under_the_name(tmp_path: Path, planned: bool) -> None:
    path = tmp_path / "out.gguf"
    code = f"""
        import sys, numpy as np
        from blockquant import gguf
        block = np.ones((256, 256), np.float32)
        plan = {{f"t{{i}}": (block.shape, "F32") for i in range(100000)}} if {planned} else None
        with gguf.create(sys.argv[1], {{"general.architecture": "llama"}}, plan) as w:
            for i in range(100000):
                w.add_tensor(f"t{{i}}", block)
                if i == 3:
                    print("writing", flush=True)
                    sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate()
    left = os.listdir(tmp_path)
    assert not path.exists()
    assert left
    for name in left:
        assert name.startswith(f".out.gguf.{process.pid}-")
        assert name.endswith(".partial")
    # What is left of a killed process is in nobody's way.
    with gguf.create(path, {"a": 1}):
        pass
    assert path.exists()


def test_an_abandoned_writer_removes_its_files(tmp_path: Path) -> None:
    w = gguf.create(tmp_path / "a.gguf", {})
    w.add_tensor("a", np.zeros(4, np.float32))
    assert len(os.listdir(tmp_path)) == 1
    del w
    assert os.listdir(tmp_path) == []


def test_spooled_data_is_whole_without_copy_file_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "no")

    data = np.random.default_rng(0).standard_normal((300, 1000)).astype(np.float32)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr("blockquant.gguf._writer._CHUNK_BYTES", 4096)
    with gguf.create(tmp_path / "a.gguf", {}) as w:
        w.add_tensor("a", data)
    with gguf.open(tmp_path / "a.gguf") as f:
        np.testing.assert_array_equal(np.asarray(f.tensors["a"]), data)


def test_writing_a_large_strided_tensor_takes_little_memory(tmp_path: Path) -> None:
    code = """
        import resource, sys, numpy as np
        from blockquant import gguf
        with gguf.create(sys.argv[1], {}) as w:
            w.add_tensor("warm", np.zeros(4, np.float32))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with gguf.create(sys.argv[1], {}) as w:
            w.add_tensor("a", np.broadcast_to(np.float32(1), (16384, 4096)))  # 256 MiB
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    path = tmp_path / "a.gguf"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 256 << 20
    assert int(done.stdout) < 64, "MiB"
    assert time.perf_counter() - start < 60
    path.unlink()


_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda key: key != "general.alignment"
)
_TEXT = st.text(max_size=12) | st.binary(max_size=12).map(lambda b: b.decode("utf-8", "surrogateescape"))
_NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(width=32, allow_nan=False), st.booleans(), _TEXT.filter(str.isprintable)
)
_ARRAYS = st.one_of(
    st.lists(_TEXT.filter(lambda s: s.isprintable()), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(_KEYS, _NUMBERS | _ARRAYS | st.lists(_ARRAYS, min_size=1, max_size=3), max_size=6),
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4),
    endianness=st.sampled_from(["little", "big"]),
    alignment=st.sampled_from([1, 8, 32, 64]),
)
def test_whatever_goes_in_comes_out(
    tmp_path: Path, metadata: dict[str, Any], shapes: list[list[int]], endianness: Any, alignment: int
) -> None:
    path = tmp_path / "a.gguf"
    arrays = {
        f"t{i}": np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) for i, shape in enumerate(shapes)
    }
    with gguf.create(path, metadata, None, alignment, endianness) as w:
        for name, array in arrays.items():
            w.add_tensor(name, array)

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        return [plain(item) for item in value] if isinstance(value, list) else value

    with gguf.open(path) as f:
        got = {key: plain(value) for key, value in f.metadata.items() if key != "general.alignment"}
        assert got == {key: plain(value) for key, value in metadata.items()}
        assert list(f.tensors) == list(arrays)
        for name, array in arrays.items():
            tensor = f.tensors[name]
            assert tensor.shape == array.shape
            assert stored_bytes(tensor) == stored_bytes(array)
