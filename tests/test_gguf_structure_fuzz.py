"""Structure-aware fuzzing of everything that Python does with a file: valid files whose fields are changed one by one.

Whatever the file, each use ends in a result or in a GGUFError (BlockquantError for importance matrices) of one line, in
little memory and time.
"""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
from blockquant import BlockquantError, gguf, imatrix
from blockquant.gguf import GGUFError, TypedValue, ValueType
from gguf_fields import Field, cut, number
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_EXAMPLES = int(os.environ.get("BLOCKQUANT_FUZZ_EXAMPLES", "60"))  # of each test
_SLACK = 12 << 20  # bytes that any of the uses may take, caches and all
_SECONDS = 20  # of one file; thousandths on an idle machine


def _model(path: Path, endianness: Any) -> None:
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 64,
        "u8": np.uint8(1),
        "flag": True,
        "f64": np.float64(0.5),
        "name": "text é",
        "tokenizer.ggml.tokens": ["a", "bc", ""],
        "tokenizer.ggml.scores": np.zeros(3, np.float32),
        "numbers": np.arange(3, dtype=np.int16),
        "nested": [[True], ["x"], TypedValue([], ValueType.ARRAY, ValueType.FLOAT64), [[1], [2]]],
    }
    rng = np.random.default_rng(1)
    with gguf.create(path, metadata, endianness=endianness) as w:
        for format in ("Q4_K", "IQ2_XXS", "MXFP4", "NVFP4", "BF16"):
            f = bq.formats[format]
            data = rng.integers(0, 256, (2, f.row_bytes(256)), dtype=np.uint8)
            w.add_tensor(f"blk.0.{format}", bq.QuantizedTensor(data, format))
        w.add_tensor("norm", np.ones(5, np.float32))
        w.add_tensor("cube", np.ones((2, 1, 3), np.float16))
        w.add_tensor("ids", np.arange(3, dtype=np.int64))


def _importances(path: Path) -> None:
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": ["text.txt"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 512,
    }
    with gguf.create(path, metadata) as w:
        for name, experts in (("blk.0.attn_q.weight", 1), ("blk.0.ffn_up_exps.weight", 3)):
            w.add_tensor(f"{name}.in_sum2", np.ones((experts, 8), np.float32))
            w.add_tensor(f"{name}.counts", np.full((experts, 1), 4, np.float32))


class _Seeds(dict[str, bytes]):
    """Files by name; shown as names when a test fails."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("seeds")
    for endianness in ("little", "big"):
        _model(root / f"{endianness}.gguf", endianness)
    _importances(root / "imatrix.gguf")
    found = {path.stem: path.read_bytes() for path in root.iterdir()}
    imatrix.load(root / "imatrix.gguf").save(root / "legacy.dat")
    return _Seeds(found | {"legacy": (root / "legacy.dat").read_bytes()})


def _changed_field(draw: Callable[..., Any], field: Field, big_endian: bool) -> Field:
    if not field.width:
        bytes_ = st.binary(max_size=8) | st.sampled_from([field.data[:-1], b"\xff" * 70, b"split.count", b"u8", b""])
        return Field(field.name, draw(bytes_))
    own = int.from_bytes(field.data, "big" if big_endian else "little")
    bits = 8 * field.width
    edges = [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 31, 2**31, 2**32, 2**60, 2**62, 2**63 - 1, 2**63, 2**bits - 1, 2**bits - 8]
    near = [own - 1, own + 1, 2 * own, own // 2, own + 64, own ^ (1 << (bits - 1))]
    value = draw(st.sampled_from(edges + near) | st.integers(0, 2**bits - 1))
    return Field(field.name, number(value, field.width, big_endian), field.width)


def _mutation(draw: Callable[..., Any], path: Path) -> bytes:
    """A valid file with fields changed, entries and tensors removed, repeated or exchanged, and perhaps some bytes."""
    with gguf.open(path, shards=False) as f:
        pieces = cut(path.read_bytes(), f.data_offset, f.alignment)
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(
            st.sampled_from([[pieces.header], pieces.entries, pieces.entries, pieces.tensors, pieces.tensors])
        )
        if not groups:
            continue
        at = draw(st.integers(0, len(groups) - 1))
        how = draw(st.sampled_from(["change", "change", "change", "change", "remove", "repeat", "exchange"]))
        if how == "change" or groups[at] is pieces.header:
            group = groups[at]
            i = draw(st.integers(group is pieces.header, len(group) - 1))  # the magic is of no interest
            group[i] = _changed_field(draw, group[i], pieces.big_endian)
        elif how == "remove":
            del groups[at]
        elif how == "repeat":
            groups.insert(at, list(groups[at]))
            named = Field(groups[at][1].name, draw(st.binary(min_size=1, max_size=4)))
            groups[at][1] = draw(st.sampled_from([named, groups[at][1]]))
        else:
            other = draw(st.integers(0, len(groups) - 1))
            groups[at], groups[other] = groups[other], groups[at]
    content = bytearray(pieces.join(repair=draw(st.sampled_from([True, True, True, False]))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 19)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


def _attempt(use: Callable[[], Any], error: type[Exception] = GGUFError) -> Any:
    """The result, or None after an error of the expected kind."""
    try:
        return use()
    except error as caught:
        message = str(caught)
    assert message
    assert "\n" not in message
    return None


def _measured(use: Callable[[], Any], size: int) -> None:
    """Run, in memory that the file's size justifies and in little time."""
    tracemalloc.start()
    start = time.process_time()
    try:
        use()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _SLACK + 500 * size, f"{peak:,} bytes for a file of {size:,}"
    assert time.process_time() - start < _SECONDS


def _read(path: Path) -> None:
    from blockquant.cli.inspect import describe

    with gguf.open(path) as f:
        assert list(f.typed_metadata()) == list(f.metadata)
        repr(f)
        assert isinstance(f.architecture, str)
        for key in f.metadata:
            repr(f.metadata[key])
            repr(f.typed_value(key, 2))
        describe(f)
        describe(f, full=True)
        for name, info in f.tensor_infos.items():
            tensor = f.tensors[name]
            assert tensor.shape == (info.shape or ((1,) if isinstance(tensor, bq.QuantizedTensor) else ()))
            assert tensor.nbytes == info.nbytes
            if isinstance(tensor, bq.QuantizedTensor) and info.nbytes:
                row = tensor.data.reshape(-1, tensor.data.shape[-1])[:1]
                assert bq.QuantizedTensor(row, tensor.format).dequantize().shape == (1, tensor.shape[-1])
            f.prefetch(name)
            f.release(name)


def _check_edit(path: Path, directory: Path) -> None:
    out = directory / "edited.gguf"
    report = _attempt(lambda: gguf.edit(path, set={"an.added.key": [1, 2]}, output=out, force=True))
    if report is not None:
        with gguf.open(path) as before, gguf.open(out) as after:
            assert after.metadata["an.added.key"].tolist() == [1, 2]
            assert list(after.tensors) == list(before.tensors)
        assert not gguf.diff(path, out, values=False).identical
        for tensor in gguf.diff(path, out, values=False).tensors:
            assert tensor.identical
    inside = _attempt(lambda: gguf.edit(path, set={"u8": 3, "f64": 2.0}, rename={"flag": "galf"}, force=True))
    if inside is not None:
        with gguf.open(path) as f:
            assert f.metadata["galf"] is not None
            assert f.metadata["u8"] == 3


def _check_split(path: Path, directory: Path) -> None:
    shards = _attempt(lambda: gguf.split(path, directory / "part", max_tensors=3))
    if shards is not None:
        merged = gguf.merge(shards[-1].path, directory / "merged.gguf")
        assert all(tensor.identical for tensor in gguf.diff(path, merged, values=False).tensors)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "files"


_SETTINGS = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory / "model.gguf"


@_SETTINGS
@given(data=st.data())
def test_any_use_of_any_file(seeds: dict[str, bytes], directory: Path, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(["little", "big", "imatrix"]))
    path = _fresh(directory)
    path.write_bytes(seeds[seed])
    content = _mutation(data.draw, path)
    path.write_bytes(content)
    (directory / "valid.gguf").write_bytes(seeds["little"])
    size = len(content)
    _measured(lambda: _attempt(lambda: _read(path)), size)
    _measured(lambda: gguf.verify(path, threads=1), size)
    _measured(lambda: _attempt(lambda: imatrix.load(path), BlockquantError), size)
    _measured(lambda: _attempt(lambda: gguf.diff(directory / "valid.gguf", path)), size + len(seeds["little"]))
    _measured(lambda: _check_split(path, directory), size)
    _measured(lambda: _check_edit(path, directory), size)


@_SETTINGS
@given(data=st.data())
def test_inconsistent_sets(seeds: dict[str, bytes], directory: Path, data: st.DataObject) -> None:
    _fresh(directory)
    (directory / "whole.gguf").write_bytes(seeds[data.draw(st.sampled_from(["little", "big"]))])
    shards = gguf.split(directory / "whole.gguf", directory / "s", max_tensors=3)
    for _ in range(data.draw(st.integers(1, 2))):
        shard = data.draw(st.sampled_from(shards)).path
        how = data.draw(st.sampled_from(["fields", "fields", "swap", "remove", "link"]))
        if how == "fields" and shard.exists():
            shard.write_bytes(_mutation(data.draw, shard))
            break  # what is cut next may not be valid any more
        if how == "swap" and shard.exists():
            shutil.copy(shard, data.draw(st.sampled_from(shards)).path.with_suffix(".copy"))
            shutil.move(shard.with_suffix(".copy") if shard.with_suffix(".copy").exists() else shard, shards[0].path)
        elif how == "remove":
            shard.unlink(missing_ok=True)
        elif how == "link":
            shard.unlink(missing_ok=True)
            shard.symlink_to(shards[0].path)
    given_path = data.draw(st.sampled_from(shards)).path
    size = sum(path.stat().st_size for path in directory.iterdir() if path.exists())

    def use() -> None:
        _attempt(lambda: _read(given_path), (GGUFError, OSError))  # type: ignore[arg-type]
        _attempt(lambda: gguf.merge(given_path, directory / "merged.gguf"), (GGUFError, OSError))  # type: ignore[arg-type]
        _attempt(lambda: gguf.verify(given_path, threads=1), OSError)

    _measured(use, size)


@_SETTINGS
@given(data=st.data())
def test_legacy_importances(seeds: dict[str, bytes], directory: Path, data: st.DataObject) -> None:
    path = _fresh(directory).with_suffix(".dat")
    content = bytearray(seeds["legacy"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(content) - 4, 0)))
        how = data.draw(st.sampled_from(["number", "byte", "cut", "repeat"]))
        if how == "number":
            value = data.draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**30]) | st.integers(0, 2**32 - 1))
            content[at : at + 4] = value.to_bytes(4, "little")
        elif how == "byte":
            content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 60))]
        else:
            content[at:at] = content[at : at + data.draw(st.integers(1, 60))]
    path.write_bytes(content)
    _measured(lambda: _attempt(lambda: imatrix.load(path), BlockquantError), len(content))
