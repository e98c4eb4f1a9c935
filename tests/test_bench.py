"""The benchmarks run, with what a bare environment has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import blockquant as bq
import pytest

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


def test_unknown_format_is_an_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(bq.__file__).parents[1])}
    command = [sys.executable, str(BENCH / "encode.py"), "--formats", "Q4_Z"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Q4_Z" in done.stderr
