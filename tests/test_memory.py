"""Encoding and decoding need a few rows of memory for each thread, whatever the size of the tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import blockquant as bq
import pytest

PROGRAM = """
import resource, sys
import numpy as np
import blockquant as bq

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

name, dtype = sys.argv[1:]
x = np.ones((4096, 4096), dtype)
x[:, ::3] = 0.5
out = np.full((4096, bq.formats[name].row_bytes(4096)), 1, np.uint8)
floats = np.full((4096, 4096), 1, np.float32)
weights = np.ones(4096, np.float32)
bq.quantize(x[:8], name, imatrix=weights, threads=2).dequantize(out=floats[:8], threads=2)  # threads and tables
before = peak()
bq.quantize(x, name, imatrix=weights, threads=2, out=out).dequantize(out=floats, threads=2)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K"])
def test_peak_memory_does_not_grow_with_the_tensor(name: str, dtype: str) -> None:
    environment = {"PYTHONPATH": str(Path(bq.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, name, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 << 20  # of 64 MiB of floats
