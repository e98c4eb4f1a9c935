"""`verify` beside what decoding says, in every format, and what it warns of."""

from __future__ import annotations

import struct
from pathlib import Path

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import TypedValue, ValueType


def _problems(path: Path, data: np.ndarray, format: str, threads: int | None = None) -> list[str]:
    with gguf.create(path, {"general.architecture": "llama"}) as w:
        w.add_tensor("t", bq.QuantizedTensor(data, format))
    report = gguf.verify(path, threads=threads)
    assert report.warnings == []
    return report.problems


@pytest.mark.parametrize("format", [f.name for f in bq.formats.values() if f.block_size > 1])
@pytest.mark.parametrize("endianness", ["little", "big"])
def test_random_blocks_are_judged_as_decoding_judges_them(
    tmp_path: Path, format: str, endianness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockquant.gguf._verify._STEP_BYTES", 4000)  # several steps, none of a whole row
    f = bq.formats[format]
    rng = np.random.default_rng(f.ggml_type)
    row = 1024
    for rows in (1, 7, 60):
        data = rng.integers(0, 256, (rows, f.row_bytes(row)), dtype=np.uint8)
        decoded = bq.dequantize(data, format)
        bad = np.argwhere(~np.isfinite(decoded))
        path = tmp_path / "random.gguf"
        with gguf.create(path, {"general.architecture": "llama"}, endianness=endianness) as w:  # type: ignore[arg-type]
            w.add_tensor("t", bq.QuantizedTensor(data, format))
        problems = gguf.verify(path).problems
        if format in ("MXFP4", "NVFP4"):
            continue  # their NaN scales are found below
        assert bool(problems) == bool(len(bad)), (rows, problems)
        if len(bad):
            at_row, at = bad[0]
            assert problems[0].startswith(f"tensor 't' ({format}) holds {decoded[at_row, at]} at row {at_row}, ")
            assert f"element {at} (block {at // f.block_size} of the row" in problems[0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_of_many_findings_is_reported_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    rows = np.zeros((500, 34 * 32), np.uint8)
    for row, block in ((77, 5), (78, 0), (300, 31), (499, 31)):
        rows[row, 34 * block + 1] = 0x7C
    (problem,) = _problems(tmp_path / "a.gguf", rows, "Q8_0", threads)
    assert "at row 77, element 160 (block 5 " in problem


@pytest.mark.parametrize(
    ("format", "byte", "nan", "sound"),
    [("MXFP4", 0, 0xFF, 0xFC), ("NVFP4", 0, 0x7F, 0x7E), ("NVFP4", 3, 0xFF, 0x80), ("NVFP4", 2, 0x7F, 0x00)],
)
def test_scales_that_are_nan_by_their_own_format(tmp_path: Path, format: str, byte: int, nan: int, sound: int) -> None:
    f = bq.formats[format]
    # Level 0 in every element of MXFP4: whatever the scale, decoding gives zeros.
    data = np.zeros((9, f.row_bytes(128)), np.uint8)
    data[4, f.type_size + byte] = sound
    assert _problems(tmp_path / "a.gguf", data, format) == []
    data[4, f.type_size + byte] = nan
    (problem,) = _problems(tmp_path / "a.gguf", data, format)
    at = f.block_size + (16 * byte if format == "NVFP4" else 0)
    assert problem == f"tensor 't' ({format}) holds a scale that is NaN at row 4, element {at} (block 1 of the row)"


def test_a_scale_too_large_for_its_levels(tmp_path: Path) -> None:
    data = np.zeros((1, 17), np.uint8)
    data[0, 0], data[0, 3] = 254, 0x07  # 2^127 times 6
    (problem,) = _problems(tmp_path / "a.gguf", data, "MXFP4")
    assert "holds inf at row 0, element 2 " in problem


def test_integers_are_not_numbers_that_can_be_wrong(tmp_path: Path) -> None:
    with gguf.create(tmp_path / "a.gguf", {"general.architecture": "llama"}) as w:
        w.add_tensor("ids", np.full(8, -1, np.int32))
        w.add_tensor("empty", np.zeros((0, 32), np.float32))
        w.add_tensor("one", np.float32(1))
    report = gguf.verify(tmp_path / "a.gguf")
    assert report.ok
    assert report.tensors == 3


def test_warnings_of_what_llama_cpp_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    name = b"n" * 64

    def entry(key: bytes, type_: int, payload: bytes) -> bytes:
        return struct.pack("<Q", len(key)) + key + struct.pack("<I", type_) + payload

    def tensor(name: bytes, offset: int) -> bytes:
        return struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 8, 0, offset)

    header = b"GGUF" + struct.pack("<IQQ", 3, 3, 1)
    header += entry(b"nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 0))
    header += tensor(b"a", 0) + tensor(name, 64) + tensor(b"c", 96)
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(128))
    report = gguf.verify(path)
    assert report.ok
    says = "\n".join(report.warnings)
    assert len(report.warnings) == 4
    assert "no general.architecture" in says
    assert "'nested' is an array of arrays" in says
    assert "has a name of more than 63 bytes" in says
    assert "at byte 64 of the data, not right after the one before it (32)" in says

    nested = {"general.architecture": "x", "empty": TypedValue([], ValueType.ARRAY, ValueType.STRING)}
    with gguf.create(path, nested):
        pass
    assert gguf.verify(path).warnings == []


def test_progress_of_a_large_tensor_comes_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockquant.gguf._verify._STEP_BYTES", 1000)
    with gguf.create(tmp_path / "a.gguf", {}) as w:
        w.add_tensor("a", np.ones((5, 100), np.float32))
        w.add_tensor("b", bq.quantize(np.ones((2, 256), np.float32), "Q4_K"))
    seen: list[tuple[str, int, int]] = []
    assert gguf.verify(tmp_path / "a.gguf", progress=lambda *args: seen.append(args)).ok
    assert [done for name, done, _ in seen if name == "a"] == [1000, 2000, 2000]
    assert seen[-1] == ("b", 2288, 2288)
    assert all(total == 2288 for _, _, total in seen)
