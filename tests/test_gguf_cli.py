"""`blockquant inspect` and `blockquant verify`, and the check beneath."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from gguf_samples import SCALARS

typer = pytest.importorskip("typer")
testing = pytest.importorskip("typer.testing")


@pytest.fixture
def app() -> Any:
    from blockquant.cli import inspect, verify

    app = typer.Typer()
    inspect.register(app)
    verify.register(app)
    return app


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    metadata = {
        "general.architecture": "llama",
        **SCALARS,
        "tokens": [f"t{i}" for i in range(50)],
        "evil": "\x1b[31mred\nline " + "x" * 200,
        "nan": float("nan"),
        "nested": [[1, 2], ["a"]],
    }
    with gguf.create(path, metadata) as w:
        w.add_tensor("blk.0.weight", bq.quantize(np.ones((4, 256), np.float32), "Q4_K"))
        w.add_tensor("norm", np.ones(256, np.float32))
        w.add_tensor("ids", np.arange(4, dtype=np.int32))
        w.add_tensor("bf16", bq.quantize(np.ones((2, 8), np.float32), "BF16"))
    return path


def test_inspect_shows_tables(app: Any, model: Path) -> None:
    done = testing.CliRunner().invoke(app, ["inspect", str(model)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.split() == ["blk.0.weight", "4", "x", "256", "Q4_K", "4.5", "576"] for line in lines), done.output
    assert any(line.split() == ["norm", "256", "F32", "32", "1,024"] for line in lines)
    assert any(line.startswith("tokens") and "string[50]" in line and "['t0', 't1'" in line for line in lines)
    (total,) = [line for line in lines if line.startswith("all ")]
    assert total.split()[1:4] == ["4", "1,300", f"{576 + 1024 + 16 + 32:,}"]
    assert "\x1b" not in done.output
    assert "\\x1b[31mred\\nline" in done.output
    assert max(map(len, lines)) < 160
    assert "x" * 200 in testing.CliRunner().invoke(app, ["inspect", str(model), "--full"]).output
    assert "blk.0" not in testing.CliRunner().invoke(app, ["inspect", str(model), "--no-tensors"]).output


def test_inspect_as_json(app: Any, model: Path) -> None:
    done = testing.CliRunner().invoke(app, ["inspect", str(model), "--json"])
    assert done.exit_code == 0, done.output

    def refuse(name: str) -> None:
        raise AssertionError(name)

    report = json.loads(done.output, parse_constant=refuse)
    assert report["architecture"] == "llama"
    assert report["metadata"]["v.u64"] == {"type": "uint64", "value": 2**64 - 1}
    assert report["metadata"]["tokens"]["count"] == 50
    assert len(report["metadata"]["tokens"]["value"]) == 4
    assert report["metadata"]["nested"]["value"][1]["value"] == ["a"]
    assert report["metadata"]["nan"]["value"] == "nan"
    assert [t["name"] for t in report["tensors"]] == ["blk.0.weight", "norm", "ids", "bf16"]
    assert report["total"]["nbytes"] == 576 + 1024 + 16 + 32
    assert report["formats"][0]["format"] == "F32"
    assert {f["format"]: f["bits_per_weight"] for f in report["formats"]}["Q4_K"] == 4.5
    full = json.loads(testing.CliRunner().invoke(app, ["inspect", str(model), "--json", "--full"]).output)
    assert len(full["metadata"]["tokens"]["value"]) == 50


def test_verify_a_sound_file(app: Any, model: Path) -> None:
    done = testing.CliRunner().invoke(app, ["verify", str(model)])
    assert done.exit_code == 0, done.output
    assert "sound, 4 tensors" in done.output
    seen: list[tuple[str, int, int]] = []
    assert gguf.verify(model, progress=lambda *args: seen.append(args)).ok
    assert seen[-1] == ("bf16", 1648, 1648)


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00])
@pytest.mark.parametrize(
    ("format", "offset"),
    [
        *(("Q4_0", 0), ("Q4_1", 2), ("Q5_0", 0), ("Q5_1", 2), ("Q8_0", 0)),
        *(("Q2_K", 80), ("Q2_K", 82), ("Q3_K", 108), ("Q4_K", 0), ("Q4_K", 2), ("Q5_K", 2), ("Q6_K", 208)),
    ],
)
def test_verify_finds_a_bad_scale(tmp_path: Path, format: str, offset: int, bits: int) -> None:
    q = bq.quantize(np.linspace(-1, 1, 3 * 512, dtype=np.float32).reshape(3, 512), format)
    data = q.data.copy()
    size = bq.formats[format].type_size
    data[2, size + offset : size + offset + 2] = np.array([bits], "<u2").view(np.uint8)
    path = tmp_path / "bad.gguf"
    with gguf.create(path, {}) as w:
        w.add_tensor("good", q)
        w.add_tensor("bad", bq.QuantizedTensor(data, format))
    report = gguf.verify(path)
    assert not report.ok
    assert report.tensors == 2
    (problem,) = report.problems
    assert problem.startswith(f"tensor 'bad' ({format}) holds ")
    assert "row 2, " in problem
    assert "(block 1 of the row" in problem


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bfloat16"])
def test_verify_finds_a_bad_float(tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockquant.gguf._verify._STEP_BYTES", 64)
    values = np.ones((9, 8), np.float32)
    values[7, 3] = np.inf
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    path = tmp_path / "bad.gguf"
    with gguf.create(path, {}) as w:
        w.add_tensor("bad", values.astype(dtype))
    (problem,) = gguf.verify(path).problems
    assert "holds inf at row 7, element 3" in problem


def test_verify_reports_damage(app: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with gguf.create(path, {}) as w:
        w.add_tensor("ones", np.ones(100, np.float32))
    path.write_bytes(path.read_bytes()[:-200])
    done = testing.CliRunner().invoke(app, ["verify", str(path), "--json"])
    assert done.exit_code == 1
    report = json.loads(done.output)
    assert not report["ok"]
    assert "truncated" in report["problems"][0]
    missing = testing.CliRunner().invoke(app, ["verify", str(tmp_path / "none.gguf")])
    assert isinstance(missing.exception, FileNotFoundError)
