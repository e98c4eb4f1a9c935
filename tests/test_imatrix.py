"""Importance matrices: both file formats, their means, merging, and files that are not what they should be."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as gguf_py
import numpy as np
import pytest
from blockquant import imatrix
from blockquant.imatrix import Entry, Imatrix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REAL = Path(__file__).parent / "data" / "imatrix" / "tinyllama-3-tensors.dat"


def entry(sums: Any, *counts: int) -> Entry:
    return Entry(np.asarray(sums, np.float32), np.array(counts, np.int64))


def dense_and_experts() -> Imatrix:
    rng = np.random.default_rng(3)
    experts = rng.random((4, 8), np.float32) * 1000
    experts[2] = 0
    return Imatrix(
        {
            "blk.0.ffn_down_exps.weight": entry(experts, 700, 1023, 0, 1),
            "blk.0.attn_q.weight": entry(rng.random(8, np.float32) * 5000, 1024),
        },
        ["calib.txt", "more.txt"],
        chunk_count=2,
    )


def write_legacy(path: Path, entries: list[tuple[str, int, np.ndarray[Any, Any]]], tail: bytes = b"") -> Path:
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, values.size)]
        parts.append(values.astype("<f4").tobytes())
    path.write_bytes(b"".join(parts) + tail)
    return path


def test_real_legacy_file() -> None:
    m = imatrix.load(REAL)
    assert sorted(m) == ["blk.0.attn_q.weight", "blk.21.ffn_up.weight", "blk.7.attn_output.weight"]
    assert (m.chunk_count, m.chunk_size, m.datasets) == (365, 0, ["imatrix-training-full-3"])
    # The first entry, read by hand: name, calls, values.
    raw = REAL.read_bytes()
    length = struct.unpack_from("<i", raw, 4)[0]
    name = raw[8 : 8 + length].decode()
    calls, size = struct.unpack_from("<ii", raw, 8 + length)
    sums = np.frombuffer(raw, "<f4", size, 16 + length)
    assert (calls, size) == (365, 2048)
    np.testing.assert_array_equal(m[name], sums / np.float32(365))
    assert not m[name].flags.writeable


def test_gguf_is_read_by_the_reference_reader_and_back(tmp_path: Path) -> None:
    m = dense_and_experts()
    m.save(tmp_path / "m.gguf")
    reader = gguf_py.GGUFReader(tmp_path / "m.gguf")
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors) == [
        "blk.0.attn_q.weight.in_sum2",
        "blk.0.attn_q.weight.counts",
        "blk.0.ffn_down_exps.weight.in_sum2",
        "blk.0.ffn_down_exps.weight.counts",
    ]
    assert list(tensors["blk.0.ffn_down_exps.weight.in_sum2"].shape) == [8, 4]
    assert list(tensors["blk.0.ffn_down_exps.weight.counts"].shape) == [1, 4]
    np.testing.assert_array_equal(tensors["blk.0.ffn_down_exps.weight.counts"].data.ravel(), [700, 1023, 0, 1])
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    assert reader.fields["general.type"].contents() == "imatrix"

    again = imatrix.load(tmp_path / "m.gguf")
    assert (again.datasets, again.chunk_count, again.chunk_size) == (["calib.txt", "more.txt"], 2, 512)
    for name in m:
        np.testing.assert_array_equal(again[name], m[name])
        np.testing.assert_array_equal(again.entries[name].counts, m.entries[name].counts)


def test_means() -> None:
    mean = dense_and_experts()["blk.0.ffn_down_exps.weight"]
    assert mean.shape == (4, 8)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean[2], np.ones(8))  # an expert without data
    sums = dense_and_experts().entries["blk.0.ffn_down_exps.weight"].sums
    np.testing.assert_array_equal(mean[1], sums[1] / np.float32(1023))


def test_legacy_to_gguf_keeps_the_means(tmp_path: Path) -> None:
    m = imatrix.load(REAL)
    m.save(tmp_path / "m.gguf")
    again = imatrix.load(tmp_path / "m.gguf")
    assert again.entries["blk.0.attn_q.weight"].counts == [365 * 512]
    for name in m:
        np.testing.assert_array_equal(again[name], m[name])


def test_legacy_to_legacy_keeps_the_bytes_of_entries(tmp_path: Path) -> None:
    imatrix.load(REAL).save(tmp_path / "m.dat")
    again = (tmp_path / "m.dat").read_bytes()
    assert len(again) == REAL.stat().st_size
    assert again[-31:] == REAL.read_bytes()[-31:]
    first, second = imatrix.load(REAL), imatrix.load(tmp_path / "m.dat")
    for name in first:
        np.testing.assert_array_equal(first.entries[name].sums, second.entries[name].sums)


def test_gguf_to_legacy(tmp_path: Path) -> None:
    m = dense_and_experts()
    m.save(tmp_path / "m.dat")
    again = imatrix.load(tmp_path / "m.dat")
    assert again.entries["blk.0.ffn_down_exps.weight"].counts == [2]  # chunks of 512, rounded up
    for name in m:
        flat = m[name].reshape(-1)
        np.testing.assert_allclose(again[name], flat, rtol=3e-7)
        shaped = imatrix.weights_for(again, name, (4, 16, 8) if "exps" in name else (16, 8))
        assert shaped is not None
        assert shaped.shape == m[name].shape
    assert again.datasets == ["more.txt"]


@pytest.mark.parametrize("tail", [b"", struct.pack("<i", 7), struct.pack("<ii", 7, 0)])
def test_ends_of_older_files(tmp_path: Path, tail: bytes) -> None:
    m = imatrix.load(write_legacy(tmp_path / "m.dat", [("a", 2, np.array([2.0, 4.0])), ("b", 0, np.ones(3))], tail))
    np.testing.assert_array_equal(m["a"], [1, 2])
    np.testing.assert_array_equal(m["b"], np.ones(3))  # no calls: the values are the means
    assert m.chunk_count == (7 if tail else 0)
    assert m.datasets == []


def test_merge_adds() -> None:
    m = dense_and_experts()
    both = imatrix.merge([m, m])
    name = "blk.0.ffn_down_exps.weight"
    np.testing.assert_array_equal(both.entries[name].counts, [1400, 2046, 0, 2])
    np.testing.assert_array_equal(both[name], m[name])
    assert both.chunk_count == 4  # 2 x 1024 tokens
    assert len(both.datasets) == 4

    other = Imatrix({"blk.1.attn_q.weight": entry([3], 512), "blk.0.attn_q.weight": entry(np.zeros(8), 1024)})
    merged = imatrix.merge([m, other])
    assert set(merged) == set(m) | {"blk.1.attn_q.weight"}
    np.testing.assert_array_equal(merged["blk.0.attn_q.weight"], m["blk.0.attn_q.weight"] / 2)


def test_merge_of_old_and_new(tmp_path: Path) -> None:
    old = imatrix.load(write_legacy(tmp_path / "m.dat", [("a", 2, np.array([2.0, 4.0])), ("e", 2, np.full(4, 6.0))]))
    new = Imatrix({"a": entry([3072, 0], 1024), "e": entry([[64, 64], [0, 0]], 64, 0)}, chunk_size=64)
    merged = imatrix.merge([old, new])
    assert merged.chunk_size == 64
    # Two chunks with means 1 and 2 are 128 tokens.
    np.testing.assert_allclose(merged["a"], [(128 + 3072) / 1152, 256 / 1152])
    np.testing.assert_array_equal(merged.entries["e"].counts, [192, 128])
    np.testing.assert_array_equal(merged.entries["e"].sums, [[448, 448], [384, 384]])
    twice = imatrix.merge([old, old])
    assert twice.chunk_size == 0
    np.testing.assert_array_equal(twice["a"], old["a"])


def test_merge_refuses_other_models() -> None:
    with pytest.raises(ValueError, match="at least one"):
        imatrix.merge([])
    with pytest.raises(ValueError, match="different models: 'a' has 2 weights"):
        imatrix.merge([Imatrix({"a": entry([1, 2], 1)}), Imatrix({"a": entry([1, 2, 3], 1)})])


def test_merge_counts_chunks_as_llama_imatrix_does(tmp_path: Path) -> None:
    files = [
        write_legacy(tmp_path / f"{i}.dat", [("a", calls, np.ones(4)), ("b", 1, np.ones(4))], struct.pack("<i", 99))
        for i, calls in enumerate((3, 5))
    ]
    merged = imatrix.merge(map(imatrix.load, files))
    assert merged.chunk_count == 8  # those of the tensor that saw most, whatever the files say
    merged.save(tmp_path / "m.gguf")
    again = imatrix.load(tmp_path / "m.gguf")
    assert (again.chunk_count, again.entries["a"].counts) == (8, [8 * 512])
    np.testing.assert_array_equal(again.entries["a"].sums, np.full(4, 2 * 512, np.float32))


def test_coverage() -> None:
    m = dense_and_experts()
    tensors = {
        "blk.0.attn_q.weight": (16, 8),
        "blk.0.ffn_down_exps.weight": (4, 16, 8),
        "blk.0.attn_k.weight": (16, 8),
        "blk.0.attn_norm.weight": (8,),
        "token_embd.weight": (16, 8),
    }
    found = imatrix.coverage(m, tensors)
    assert found.missing == ("blk.0.attn_k.weight",)
    assert found.partial == {"blk.0.ffn_down_exps.weight": (3, 4)}
    assert found.unused == ()
    assert not found.is_complete
    found = imatrix.coverage(m, {"blk.0.attn_q.weight": (16, 16)})
    assert found.mismatched == {"blk.0.attn_q.weight": (8, 16)}
    assert found.unused == ("blk.0.ffn_down_exps.weight",)
    assert imatrix.coverage({"blk.0.attn_q.weight": np.ones(8)}, {"blk.0.attn_q.weight": (16, 8)}).is_complete


def test_info_and_merge_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from blockquant import gguf
    from blockquant.cli.app import run

    dense_and_experts().save(tmp_path / "m.gguf")
    with gguf.create(tmp_path / "model.gguf", {"general.architecture": "llama"}) as out:
        for name, shape in {"blk.0.attn_q.weight": (2, 8), "blk.0.attn_v.weight": (2, 8)}.items():
            out.add_tensor(name, np.zeros(shape, np.float32))
    line = ["imatrix-info", str(tmp_path / "m.gguf"), "--model", str(tmp_path / "model.gguf")]
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert "2 tensors, 2 chunks of 512 tokens" in shown
    assert "blk.0.ffn_down_exps.weight: 1 of 4 experts saw no data" in shown
    assert "nothing for blk.0.attn_v.weight" in shown
    assert "not in the model: blk.0.ffn_down_exps.weight" in shown
    assert run([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["coverage"]["missing"] == ["blk.0.attn_v.weight"]
    experts = next(e for e in report["entries"] if e["experts"] == 4)
    assert (experts["counts"], experts["weights"], experts["experts_without_data"]) == ([0, 1023], 32, 1)
    assert 0 < experts["entropy"] <= 1

    assert run(["imatrix-info", str(REAL)]) == 0
    assert "3 tensors, 365 chunks\n  from imatrix-training-full-3" in capsys.readouterr().out
    write_legacy(tmp_path / "old.dat", [("blk.0.attn_q.weight", 2, np.ones(8)), ("blk.1.attn_q.weight", 2, np.ones(8))])
    both = [str(tmp_path / "m.gguf"), str(tmp_path / "old.dat")]
    assert run(["imatrix-merge", str(tmp_path / "all.dat"), *both, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 3
    assert len(imatrix.load(tmp_path / "all.dat")) == 3
    assert run(["imatrix-merge", str(tmp_path / "all.bin"), *both]) == 1
    assert "name it .gguf or .dat" in capsys.readouterr().err
    assert run(["imatrix-merge", str(tmp_path / "all.dat"), str(tmp_path / "m.gguf"), str(REAL)]) == 1
    assert "importance matrices of different models: 'blk.0.attn_q.weight' has 8" in capsys.readouterr().err


def llama_quantizes_with(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What llama-quantize makes of a file, read here by other means than the package's."""
    raw = path.read_bytes()
    found = {}
    if raw[:4] == b"GGUF":
        tensors = {t.name: t.data for t in gguf_py.GGUFReader(path).tensors}
        for name in [n.removesuffix(".counts") for n in tensors if n.endswith(".counts")]:
            counts = tensors[f"{name}.counts"].reshape(-1, 1)
            sums = tensors[f"{name}.in_sum2"].reshape(len(counts), -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                found[name] = np.where(counts > 0, sums / counts, np.float32(1)).astype(np.float32).reshape(-1)
        return found
    at = 4
    for _ in range(struct.unpack_from("<i", raw)[0]):
        length = struct.unpack_from("<i", raw, at)[0]
        name = raw[at + 4 : at + 4 + length].decode()
        calls, size = struct.unpack_from("<ii", raw, at + 4 + length)
        at += 12 + length
        found[name] = np.frombuffer(raw, "<f4", size, at) / np.float32(calls)
        at += 4 * size
    return found


@pytest.mark.native_oracle
@pytest.mark.parametrize("suffix", [".gguf", ".dat"])
def test_quantizing_with_a_file_gives_llama_quantizes_bytes(suffix: str, tmp_path: Path) -> None:
    import blockquant as bq
    import native_oracle
    import quantize_models as models

    source = models.experts(tmp_path / "in.gguf", layers=2)
    entries = {}
    for i, (name, weights) in enumerate(models.weights_of(source).items()):
        counts = np.full(max(1, weights.size // weights.shape[-1]), 600 + i, np.int64)
        counts[1:2] = 0  # an expert without data
        sums = weights * counts.reshape(-1, 1) if weights.ndim > 1 else weights * counts
        if i % 5 != 4:  # and tensors without any
            entries[name] = Entry(sums.astype(np.float32), counts)
    file = tmp_path / f"m{suffix}"
    Imatrix(entries, ["calib.txt"], 2).save(file)
    theirs = llama_quantizes_with(file)
    assert sorted(theirs) == sorted(entries)
    added: dict[str, str | int] = {
        "quantize.imatrix.file": str(file)[:127],
        "quantize.imatrix.dataset": "calib.txt",
        "quantize.imatrix.entries_count": len(theirs),
        "quantize.imatrix.chunks_count": 2,
    }
    for recipe, number in (("Q4_K_M", 15), ("Q5_0", 8), ("IQ4_XS", 30), ("Q3_K_S", 11)):
        native_oracle.quantize(source, tmp_path / "theirs", number, imatrix=theirs, metadata=added)
        bq.quantize_file(source, tmp_path / "ours", recipe, imatrix=file)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes(), recipe


def test_weights_for() -> None:
    m = dense_and_experts()
    assert imatrix.weights_for(m, "missing", (4, 8)) is None
    dense = imatrix.weights_for(m, "blk.0.attn_q.weight", (16, 8))
    assert dense is not None
    assert dense.shape == (8,)
    with pytest.raises(ValueError, match=r"has 8 weights for 'blk\.0\.attn_q\.weight', which needs 16"):
        imatrix.weights_for(m, "blk.0.attn_q.weight", (8, 16))
    with pytest.raises(ValueError, match="needs 8 x 8"):
        imatrix.weights_for(m, "blk.0.ffn_down_exps.weight", (8, 2, 8))


def test_save_wants_a_known_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name it \.gguf or \.dat"):
        dense_and_experts().save(tmp_path / "m.bin")
    assert list(tmp_path.iterdir()) == []
    for suffix in (".gguf", ".dat"):
        with pytest.raises(ValueError, match="nothing to save"):
            Imatrix({}).save(tmp_path / f"m{suffix}")
    with pytest.raises(ValueError, match="nothing to save"):
        Imatrix({"a": entry([0.0], 0)}).save(tmp_path / "m.dat")


def test_counts_that_the_formats_cannot_hold(tmp_path: Path) -> None:
    calls = 2**31 - 1
    full = imatrix.load(write_legacy(tmp_path / "m.dat", [("a", calls, np.ones(4))], struct.pack("<i", calls)))
    full.save(tmp_path / "same.dat")
    full.save(tmp_path / "same.gguf")
    assert imatrix.load(tmp_path / "same.dat").entries["a"].counts == [calls]
    with pytest.raises(ValueError, match=r"counts up to 2147483647 chunks, 'a' has 4294967294; save a \.gguf"):
        imatrix.merge([full, full]).save(tmp_path / "twice.dat")
    many = Imatrix({"a": entry([1], 2**50)})
    with pytest.raises(ValueError, match="chunks, 'a' has"):
        many.save(tmp_path / "many.dat")
    with pytest.raises(ValueError, match="chunk_count is"):
        imatrix.merge([many])
    with pytest.raises(ValueError, match=r"a count is 9007199254740993, expected at most"):
        Imatrix({"a": entry([1], 2**53 + 1)})
    with pytest.raises(ValueError, match="chunk_size is -1"):
        Imatrix({"a": entry([1], 1)}, chunk_size=-1)
    assert len(list(tmp_path.iterdir())) == 3


def test_sums_beyond_float32(tmp_path: Path) -> None:
    large = Imatrix({"a": entry([3e38], 1)}, chunk_size=0)
    for do in (lambda: imatrix.merge([large, large]), lambda: large.save(tmp_path / "m.gguf")):
        with pytest.raises(ValueError, match="sum 0 is inf"):
            do()
    with pytest.raises(ValueError, match="sum 0 is inf"):
        Imatrix({"a": Entry(np.array([1e300]), np.array([1]))})
    with pytest.raises(ValueError, match="sum 0 is inf"):
        Imatrix({"e": entry([[3e38], [1]], 1, 5)}, chunk_size=1).save(tmp_path / "m.dat")
    doubles = Imatrix({"a": Entry(np.ones(4), np.array([512]))})
    doubles.save(tmp_path / "m.gguf")
    np.testing.assert_array_equal(imatrix.load(tmp_path / "m.gguf")["a"], doubles["a"])


def test_old_entries_without_a_count_keep_their_means(tmp_path: Path) -> None:
    means = np.arange(1.0, 5.0)
    old = imatrix.load(write_legacy(tmp_path / "m.dat", [("a", 0, means), ("b", 3, means)]))
    old.save(tmp_path / "m.gguf")
    np.testing.assert_array_equal(imatrix.load(tmp_path / "m.gguf")["a"], means)
    # They weigh as much as one chunk.
    four = imatrix.load(write_legacy(tmp_path / "n.dat", [("a", 4, 4 * 6 * means)]))
    np.testing.assert_array_equal(imatrix.merge([old, four])["a"], 5 * means)
    new = Imatrix({"a": entry(4 * 64 * 6 * means, 256)}, chunk_size=64)
    np.testing.assert_array_equal(imatrix.merge([old, new])["a"], 5 * means)


BROKEN_LEGACY = {
    "empty": b"",
    "text": b"This is not an importance matrix, it is a sentence.",
    "no entries": struct.pack("<i", 0),
    "too many entries": struct.pack("<i", 2**31 - 1) + bytes(64),
    "negative name": struct.pack("<ii", 1, -5) + bytes(64),
    "long name": struct.pack("<ii", 1, 2**31 - 1) + bytes(64),
    "name not text": struct.pack("<ii1sii", 1, 1, b"\xff", 1, 1) + bytes(4),
    "no values": struct.pack("<ii1sii", 1, 1, b"a", 1, 0) + bytes(8),
    "more values than bytes": struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1) + bytes(8),
    "nan": struct.pack("<ii1siif", 1, 1, b"a", 1, 1, float("nan")),
    "negative": struct.pack("<ii1siif", 1, 1, b"a", 1, 1, -1.0),
    "twice": struct.pack("<i", 2) + struct.pack("<i1siif", 1, b"a", 1, 1, 1.0) * 2,
    "short end": struct.pack("<ii1siifh", 1, 1, b"a", 1, 1, 1.0, 3),
    "dataset cut": struct.pack("<ii1siifii", 1, 1, b"a", 1, 1, 1.0, 3, 100),
}


@pytest.mark.parametrize("case", BROKEN_LEGACY)
def test_broken_legacy_files(tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(BROKEN_LEGACY[case])
    with pytest.raises(ValueError, match="is not an importance matrix") as caught:
        imatrix.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["too many entries", "long name", "more values than bytes", "dataset cut"])
def test_claims_take_no_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(BROKEN_LEGACY[case])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not an importance matrix"):
            imatrix.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def broken_gguf(path: Path, **changes: Any) -> Path:
    writer = gguf_py.GGUFWriter(path, "none")
    values = {"datasets": ["a"], "chunk_count": 1, "chunk_size": 512} | changes.get("keys", {})
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"imatrix.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"imatrix.{key}", value)
        elif value is not None:
            (writer.add_uint32 if value < 1 << 32 else writer.add_uint64)(f"imatrix.{key}", value)
    tensors = {"a.in_sum2": np.ones((2, 8), np.float32), "a.counts": np.ones((2, 1), np.float32)}
    for name, tensor in (tensors | changes.get("tensors", {})).items():
        if tensor is not None:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": {"chunk_size": None}}, "no 'imatrix.chunk_size'"),
        ({"keys": {"chunk_count": "many"}}, "'many' chunks"),
        ({"keys": {"chunk_count": 1 << 40}}, "chunk_count is 1099511627776, expected 0 to 4294967295"),
        ({"keys": {"chunk_size": (1 << 64) - 1}}, "chunk_size is 18446744073709551615, expected 0 to 4294967295"),
        ({"keys": {"datasets": [["a"], ["b"]]}}, "datasets must be names of texts"),
        ({"tensors": {"a.counts": None}}, "both sums"),
        ({"tensors": {"a.in_sum2": None}}, "both sums"),
        ({"tensors": {"a.in_sum2": None, "a.counts": None, "b": np.ones(4, np.float32)}}, "no tensor is named"),
        ({"tensors": {"a.counts": np.ones(3, np.float32)}}, "3 counts for 16 sums"),
        ({"tensors": {"a.counts": np.array([np.nan, 1], np.float32)}}, "not numbers of tokens"),
        ({"tensors": {"a.counts": np.array([-1, 1], np.float32)}}, "negative"),
        ({"tensors": {"a.in_sum2": np.full((2, 8), np.inf, np.float32)}}, "expected a finite number"),
        ({"tensors": {"a.in_sum2": np.ones((2, 8), np.float16)}}, "is F16, expected F32"),
    ],
)
def test_broken_gguf_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        imatrix.load(broken_gguf(tmp_path / "m.gguf", **changes))
    assert "m.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_intact_file_of_the_same_writer_loads(tmp_path: Path) -> None:
    assert imatrix.load(broken_gguf(tmp_path / "m.gguf"))["a"].shape == (2, 8)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_never_raise_anything_but_valueerror(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.bin"
    if not (tmp_path / "good.gguf").exists():
        dense_and_experts().save(tmp_path / "good.gguf")
        dense_and_experts().save(tmp_path / "good.dat")
    raw = bytearray((tmp_path / data.draw(st.sampled_from(["good.gguf", "good.dat"]))).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        loaded = imatrix.load(path)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(loaded[name]).all() for name in loaded)
