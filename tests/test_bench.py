"""The benchmarks run, with what a bare environment has."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import blockquant as bq
import model_files
import pytest
from blockquant.cli import app

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize(
    ("script", "options", "tables"),
    [("encode.py", [], 2), ("decode.py", ["--dtypes", "f32,f16"], 2)],
)
def test_quick_run_prints_a_table(script: str, options: list[str], tables: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(bq.__file__).parents[1]), "GGML_LIB_DIR": str(tmp_path)}
    command = [sys.executable, str(BENCH / script), "--quick", "--seconds", "0.01", "--formats", "Q8_0,TQ2_0", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "without ggml's figures" in done.stderr
    assert len(re.findall(r"^\| TQ2_0 +\| +[\d.]+ *\|", done.stdout, re.M)) == tables, done.stdout


def test_what_a_call_costs_is_measured() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(bq.__file__).parents[1])}
    command = [sys.executable, str(BENCH / "call.py"), "--quick", "--threads", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\| (?:numpy\.)?matmul\(.*\) +\| [\d.]+ +\|$", done.stdout, re.M)) == 6, done.stdout
    assert len(re.findall(r"^\| \d+ +(?:\| [\d.]+ +){4}\|$", done.stdout, re.M)) == 5, done.stdout
    refused = subprocess.run(
        [*command[:2], "--threads", "1"], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--threads 1" in refused.stderr


def test_models_of_any_size_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 80 tokens, and fewer positions than the benchmark takes.
    path = model_files.write(tmp_path / "small.gguf", *model_files.random_model("llama", context_length=32))
    assert app.run(["bench", "model", "--model", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["prompt tokens/s"] > 0
    assert row["generated tokens/s"] > 0


def test_unknown_format_is_an_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(bq.__file__).parents[1])}
    command = [sys.executable, str(BENCH / "encode.py"), "--formats", "Q4_Z"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Q4_Z" in done.stderr


def test_whole_models_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    bench: Any = importlib.import_module("model")
    for name, value in {"LAYERS": 1, "VOCABULARY": 512, "EMBEDDING": 256, "FEED_FORWARD": 512, "HEADS": 2}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "KV_HEADS", 1)
    path = bench.model_file(tmp_path, "Q4_0")
    assert path.name.endswith("Q4_0.gguf")
    row = bench.measure(path, 1, list(range(40)), 3, 1, None)
    prompt, theirs, ratio, generation, *_, first, their_first, memory = row
    assert (theirs, ratio, their_first) == ("", "", "")
    assert min(float(prompt), float(generation)) > 0
    assert float(first) >= 0
    assert 5 < float(memory) < 300  # the interpreter and numpy
