"""Reading GGUF files: values, views, byte orders, shards, and the time it takes."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError, TypedValue, ValueType
from gguf_samples import NUMBER_ARRAYS, SCALARS, stored_bytes, tensors


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.gguf"
    with gguf.create(path, {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS}) as w:
        for name, tensor in tensors().items():
            w.add_tensor(name, tensor)
    return path


def test_metadata_is_a_mapping_of_plain_values(sample: Path) -> None:
    with gguf.open(sample) as f:
        assert f.architecture == "llama"
        assert list(f.metadata) == ["general.architecture", *SCALARS, *NUMBER_ARRAYS]
        for key, typed in SCALARS.items():
            assert f.metadata[key] == typed.value
            assert type(f.metadata[key]) is type(typed.value)
        for key, array in NUMBER_ARRAYS.items():
            value = f.metadata[key]
            assert value.dtype == array.dtype
            np.testing.assert_array_equal(value, array)
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 1
        assert "nothing" not in f.metadata
        assert f.metadata.get("nothing") is None
        with pytest.raises(KeyError):
            f.metadata["nothing"]
        assert (f.version, f.endianness, f.alignment) == (3, "little", 32)
        assert f.file_size == sample.stat().st_size


def test_tensors_are_read_only_views_in_file_order(sample: Path) -> None:
    with gguf.open(sample) as f:
        expected = tensors()
        assert list(f.tensors) == list(expected) == list(f.tensor_infos)
        for name, tensor in expected.items():
            got, info = f.tensors[name], f.tensor_info(name)
            assert got.shape == tensor.shape == info.shape
            assert stored_bytes(got) == stored_bytes(tensor)
            assert info.nbytes == len(stored_bytes(tensor))
            assert sample.read_bytes()[info.offset : info.offset + info.nbytes] == stored_bytes(tensor)
            data = got.data if isinstance(got, bq.QuantizedTensor) else got
            assert isinstance(data, np.ndarray)
            assert not data.flags.writeable
            assert not data.flags.owndata
        assert isinstance(f.tensors["bf16"], bq.QuantizedTensor)
        assert f.tensors["bf16"].format == "BF16"
        assert isinstance(f.tensor_info("blocks.Q4_K").format, bq.Format)
        assert f.tensor_info("int.i4").format == "I32"


def test_views_outlive_the_file_object(sample: Path) -> None:
    f = gguf.open(sample)
    views = dict(f.tensors.items())
    names = f.metadata["v.str"]
    f.close()
    f.close()
    with pytest.raises(GGUFError, match="is closed"):
        f.tensors["f32"]
    with pytest.raises(GGUFError, match="is closed"):
        f.metadata["v.str"]
    assert "closed" in repr(f)
    del f
    gc.collect()
    sample.unlink()
    for name, tensor in tensors().items():
        assert stored_bytes(views[name]) == stored_bytes(tensor)
    assert names == SCALARS["v.str"].value


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions(sample: Path, version: int) -> None:
    data = bytearray(sample.read_bytes())
    data[4] = version
    sample.write_bytes(data)
    with gguf.open(sample) as f:
        assert f.version == version
        assert f.metadata["v.i64"] == -(2**63)


@pytest.mark.parametrize(
    ("version", "says"), [(1, "version 1 .*convert the original"), (0, "version 0 "), (4, "version 4 ")]
)
def test_versions_that_cannot_be_read(sample: Path, version: int, says: str) -> None:
    data = bytearray(sample.read_bytes())
    for order in ("little", "big"):
        data[4:8] = version.to_bytes(4, order)  # type: ignore[arg-type]
        sample.write_bytes(data)
        with pytest.raises(GGUFError, match=says):
            gguf.open(sample)


def test_big_endian_files_give_the_same_values(tmp_path: Path, sample: Path) -> None:
    path = tmp_path / "big.gguf"
    with gguf.open(sample) as little, gguf.create(path, little.typed_metadata(), endianness="big") as w:
        for name, tensor in little.tensors.items():
            w.add_tensor(name, tensor)
    with gguf.open(path) as f, gguf.open(sample) as little:
        assert f.endianness == "big"
        for key, value in little.metadata.items():
            np.testing.assert_array_equal(f.metadata[key], value)
            assert type(f.metadata[key]) is type(value)
        for name, tensor in tensors().items():
            got = f.tensors[name]
            assert stored_bytes(got) == stored_bytes(tensor)
            if isinstance(got, np.ndarray):
                assert got.dtype.isnative
        raw = path.read_bytes()
        at = f.tensor_info("f32").offset
        assert np.frombuffer(raw, ">f4", 24, at).tobytes() == tensors()["f32"].astype(">f4").tobytes()


def test_strings_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    path, again = tmp_path / "a.gguf", tmp_path / "b.gguf"
    tokens = ["plain", "", "é", b"\xff\x80tail".decode("utf-8", "surrogateescape"), "\x00nul"]
    with gguf.create(path, {"tokens": tokens, "one": tokens[3], tokens[3]: 1}) as w:
        w.add_tensor("t", np.zeros(1, np.float32))
    assert b"\xff\x80tail" in path.read_bytes()
    with gguf.open(path) as f:
        assert f.metadata["tokens"] == tokens
        assert f.metadata["one"] == tokens[3]
        with gguf.create(again, f.typed_metadata()) as w:
            w.add_tensor("t", f.tensors["t"])
    assert again.read_bytes() == path.read_bytes()


def test_nested_and_empty_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    empty = TypedValue([], ValueType.ARRAY, ValueType.STRING)
    nested = [[1, 2], [[3.5], ["deep", "er"]], [True], empty]
    with gguf.create(path, {"nested": nested, "empty": empty, "none": np.empty(0, np.int16)}):
        pass
    with gguf.open(path) as f:
        value = f.metadata["nested"]
        assert value[0].tolist() == [1, 2]
        assert value[1][0].tolist() == [3.5]
        assert value[1][1] == ["deep", "er"]
        assert value[2].dtype == np.bool_
        assert value[3] == [] == f.metadata["empty"]
        assert f.metadata["none"].dtype == np.int16
        assert f.metadata["none"].size == 0


def test_scalar_and_empty_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with gguf.create(path, {}) as w:
        w.add_tensor("scalar", np.float32(2.5))
        w.add_tensor("empty", np.zeros((0, 4), np.float16))
        w.add_tensor("rows", np.ones((2, 4), np.float16))
    with gguf.open(path) as f:
        assert f.tensors["scalar"].shape == ()
        assert float(np.asarray(f.tensors["scalar"])) == 2.5
        assert f.tensors["empty"].shape == (0, 4)
        assert np.asarray(f.tensors["rows"]).sum() == 8


def test_odd_alignment_gives_aligned_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with gguf.create(path, {"pad": "x"}, alignment=1) as w:
        w.add_tensor("byte", np.ones(3, np.int8))
        w.add_tensor("wide", np.arange(5, dtype=np.float64))
    with gguf.open(path) as f:
        assert f.alignment == 1
        assert f.tensor_info("wide").offset == f.tensor_info("byte").offset + 3
        wide = f.tensors["wide"]
        assert isinstance(wide, np.ndarray)
        assert wide.flags.aligned
        assert wide.tolist() == [0, 1, 2, 3, 4]


def _write_shards(directory: Path, count: int = 3) -> list[Path]:
    paths = [directory / f"set-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        split = {"split.no": np.uint16(i), "split.count": np.uint16(count), "split.tensors.count": np.int32(2 * count)}
        first = {"general.architecture": "llama", "key": 5} if i == 0 else {}
        with gguf.create(path, {**first, **split}) as w:
            for j in range(2):
                w.add_tensor(f"t{2 * i + j}", np.full((2, 2), 2 * i + j, np.float32))
    return paths


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_shard_opens_the_whole_set(tmp_path: Path, which: int) -> None:
    paths = _write_shards(tmp_path)
    with gguf.open(paths[which]) as f:
        assert f.paths == tuple(paths)
        assert f.path == paths[0]
        assert f.metadata["key"] == 5
        assert list(f.typed_metadata()) == ["general.architecture", "key"]
        assert list(f.tensors) == [f"t{i}" for i in range(6)]
        assert [np.asarray(t)[0, 0] for t in f.tensors.values()] == list(range(6))
        assert f.tensor_info("t4").shard == 2
        assert f.file_size == sum(p.stat().st_size for p in paths)
    with gguf.open(paths[which], shards=False) as f:
        assert len(f.tensors) == 2
        assert f.metadata["split.no"] == which


def test_broken_sets_name_what_is_wrong(tmp_path: Path) -> None:
    paths = _write_shards(tmp_path)
    missing = paths[1].rename(tmp_path / "kept")
    with pytest.raises(GGUFError, match=r"set-00002-of-00003\.gguf is missing"):
        gguf.open(paths[0])
    missing.write_bytes(paths[2].read_bytes())
    missing.rename(paths[1])
    with pytest.raises(GGUFError, match=r"00002-of-00003\.gguf: split\.no"):
        gguf.open(paths[0])
    alone = paths[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(GGUFError, match="one of 3 shards"):
        gguf.open(alone)


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    for content in (b"", b"GG", b"not a model at all"):
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        with pytest.raises(GGUFError, match=r"x\.gguf: not a GGUF file"):
            gguf.open(path)
    with pytest.raises(FileNotFoundError):
        gguf.open(tmp_path / "none.gguf")
    with pytest.raises(OSError, match="directory"):
        gguf.open(tmp_path)


def test_a_large_vocabulary_opens_in_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    tokens = [f"token{i}" for i in range(150_000)]
    merges = [f"to ken{i}" for i in range(150_000)]
    types = np.ones(150_000, np.int32)
    with gguf.create(
        path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges}
    ):
        pass
    times = []
    for _ in range(5):
        start = time.perf_counter()
        f = gguf.open(path)
        times.append(time.perf_counter() - start)
        f.close()
    assert min(times) < 0.25, times
    with gguf.open(path) as f:
        assert f.metadata["tokenizer.ggml.tokens"] == tokens
        assert f.metadata["tokenizer.ggml.tokens"] is f.metadata["tokenizer.ggml.tokens"]


def test_ten_thousand_tensors_open_in_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "many.gguf"
    names = [f"blk.{i // 100}.ffn_gate_exps.{i % 100}.weight" for i in range(10_000)]
    row = bq.QuantizedTensor(np.zeros((1, 34), np.uint8), "Q8_0")
    with gguf.create(path, {"general.architecture": "llama"}, dict.fromkeys(names, ((1, 32), "Q8_0"))) as w:
        for name in names:
            w.add_tensor(name, row)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with gguf.open(path) as f:
            assert f.architecture == "llama"
        times.append(time.perf_counter() - start)
    assert min(times) < 0.15, times
    with gguf.open(path) as f:
        assert list(f.tensor_infos) == names
        assert f.tensor_info(names[777]).shape == (1, 32)
    for shard in gguf.split(path, tmp_path / "s", max_tensors=5000):
        with gguf.open(shard.path) as f:
            assert list(f.tensors) == names


def test_the_module_needs_numpy_alone() -> None:
    code = (
        "import sys; import blockquant.gguf; "
        "bad = {'gguf', 'torch', 'ml_dtypes', 'typer', 'rich', 'tokenizers', 'safetensors'} & set(sys.modules); "
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
