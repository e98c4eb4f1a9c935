"""`diff`: what differs in metadata, and errors that are those of `quantization_error`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from gguf_samples import NUMBER_ARRAYS, SCALARS, tensors

METADATA: dict[str, Any] = {"general.architecture": "llama", **SCALARS, **NUMBER_ARRAYS, "tokens": ["a"] * 50}


def _write(path: Path, metadata: dict[str, Any], contents: dict[str, Any], **options: Any) -> Path:
    with gguf.create(path, metadata, **options) as w:
        for name, tensor in contents.items():
            w.add_tensor(name, tensor)
    return path


def test_equal_contents_are_identical_whatever_holds_them(tmp_path: Path) -> None:
    sound = {n: t for n, t in tensors().items() if not n.startswith("blocks")}
    a = _write(tmp_path / "a.gguf", METADATA, sound)
    big = _write(tmp_path / "big.gguf", METADATA, sound, endianness="big")
    shards = gguf.split(a, tmp_path / "s", max_tensors=3)
    for other in (a, big, shards[1].path):
        report = gguf.diff(a, other)
        assert report.identical
        assert [t.name for t in report.tensors] == list(sound)
        assert all(t.error is not None and t.error["rmse"] == 0 for t in report.tensors)


def test_metadata_differences(tmp_path: Path) -> None:
    a = _write(tmp_path / "a.gguf", METADATA, {})
    changed = {k: v for k, v in METADATA.items() if k != "v.u8"}
    changed |= {"v.u32": np.uint64(2**32 - 1), "v.str": "other", "tokens": [*["a"] * 49, "b"], "new": [1, 2]}
    changed["a.f4"] = np.append(NUMBER_ARRAYS["a.f4"], np.float32(9))
    b = _write(tmp_path / "b.gguf", changed, {}, endianness="big")
    found = {d.key: d for d in gguf.diff(a, b).metadata}
    assert set(found) == {"v.u8", "v.u32", "v.str", "tokens", "new", "a.f4"}
    assert found["v.u8"].b is None
    assert found["new"].a is None
    assert (found["tokens"].count_a, found["tokens"].count_b) == (50, 50)
    assert found["tokens"].a is not None
    assert found["tokens"].a.value == ["a"] * 4
    assert (found["a.f4"].count_a, found["a.f4"].count_b) == (7, 8)
    assert not gguf.diff(a, b).identical


def test_errors_are_those_of_quantization_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockquant.gguf._diff._STEP_ELEMENTS", 1024)
    rng = np.random.default_rng(5)
    x = {
        f"w{i}": rng.standard_normal(shape).astype(np.float32)
        for i, shape in enumerate([(7, 256), (2, 3, 512), (4096,)])
    }
    q = {
        name: bq.quantize(value, format)
        for (name, value), format in zip(x.items(), ["Q4_K", "Q2_K", "Q8_0"], strict=True)
    }
    a = _write(tmp_path / "a.gguf", {}, {**x, "same": np.arange(5.0), "halves": np.ones(8, np.float16)})
    b = _write(tmp_path / "b.gguf", {}, {**q, "same": np.arange(5.0), "halves": np.ones(8, np.float32)})
    seen: list[tuple[str, int, int]] = []
    report = gguf.diff(a, b, progress=lambda *args: seen.append(args))
    by_name = {t.name: t for t in report.tensors}
    for name in x:
        t = by_name[name]
        assert (t.format_a, t.format_b, t.identical) == ("F32", str(q[name].format), False)
        assert t.error is not None
        for key, value in bq.quantization_error(x[name], q[name]).items():
            assert math.isclose(t.error[key], value, rel_tol=1e-9), (name, key)
    assert by_name["same"].identical
    assert not by_name["halves"].identical
    assert by_name["halves"].error == {"rmse": 0, "relative_rmse": 0, "max_abs": 0, "cosine": 1, "snr_db": math.inf}
    noise = sum(float(np.square(x[n].astype(float) - np.asarray(q[n])).sum()) for n in x)
    count = sum(v.size for v in x.values()) + 5 + 8
    assert report.overall is not None
    assert math.isclose(report.overall["rmse"], math.sqrt(noise / count), rel_tol=1e-9)
    total = sum(v.nbytes for v in x.values()) + 40 + 16
    assert seen[-1] == ("halves", total, total)
    assert all(t.error is None for t in gguf.diff(a, b, values=False).tensors)


def test_tensors_that_cannot_be_compared(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    a = _write(tmp_path / "a.gguf", {}, {"x": one, "only a": one, "nan": one, "order": one, "e": np.empty((0, 4))})
    nan = np.array([1, np.nan, np.inf, 1], np.float32)
    contents = {"order": one, "x": np.ones((2, 2), np.float32), "nan": nan, "only b": one, "e": np.empty((0, 4))}
    b = _write(tmp_path / "b.gguf", {}, contents)
    report = gguf.diff(a, b)
    assert (report.only_a, report.only_b, report.same_order) == (["only a"], ["only b"], False)
    by_name = {t.name: t for t in report.tensors}
    assert by_name["x"].error is None
    assert by_name["e"].identical
    error = by_name["nan"].error
    assert error is not None
    assert math.isnan(error["rmse"])
    assert math.isnan(error["max_abs"])


def test_command(tmp_path: Path) -> None:
    typer = pytest.importorskip("typer")
    testing = pytest.importorskip("typer.testing")
    from blockquant.cli import diff, verify

    app = typer.Typer()
    diff.register(app)
    verify.register(app)  # a second command, so that the first keeps its name
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    a = _write(tmp_path / "a.gguf", {"n": 1, "evil": "\x1b[31m"}, {"w": x, "v": x[0], "s": x})
    b = _write(tmp_path / "b.gguf", {"n": 2, "evil": "\x1b[32m"}, {"w": bq.quantize(x, "Q8_0"), "v": x[0], "s": x[:2]})

    def run(*arguments: object) -> Any:
        return testing.CliRunner().invoke(app, ["diff", *map(str, arguments)])

    done = run(a, b)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    lines = done.output.splitlines()
    assert lines[:3] == ["n", "  A: uint32 1", "  B: uint32 2"]
    (row,) = [line.split() for line in lines if line.startswith("w ")]
    assert row[1:7] == ["4", "x", "256", "F32", "->", "Q8_0"]
    assert "not compared" in done.output
    assert not any(line.startswith("v ") for line in lines)
    assert any(line.startswith("v ") for line in run(a, b, "--all").output.splitlines())
    assert run(a, b, "--exit-code").exit_code == 1
    assert run(a, a, "--exit-code").exit_code == 0
    assert "identical: metadata and 3 tensors" in run(a, a).output

    def refuse(name: str) -> None:
        raise AssertionError(name)

    report = json.loads(run(a, b, "--json").output, parse_constant=refuse)
    assert not report["identical"]
    assert report["metadata"][0] == {
        "key": "n",
        "a": {"type": "uint32", "value": 1},
        "b": {"type": "uint32", "value": 2},
    }
    assert report["tensors"][0]["error"]["snr_db"] > 30
    assert report["tensors"][1]["error"]["snr_db"] == "inf"
