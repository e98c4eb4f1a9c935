"""What this CPU's arithmetic and memory can do (peak.cpp, compiled on the spot)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _program() -> Path | None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        print("without percentages of the peaks: no C++ compiler", file=sys.stderr)
        return None
    program = Path(tempfile.mkdtemp()) / "peak"
    source = Path(__file__).with_name("peak.cpp")
    done = subprocess.run([compiler, "-O3", "-std=c++20", "-pthread", "-o", str(program), str(source)], check=False)
    return program if done.returncode == 0 else None


def peaks(threads: int, seconds: float = 0.1) -> dict[str, float]:
    """Measured now: "vnni", "maddubs" (10^9 int8 operations a second and thread), "bf16" (10^9 bfloat16 operations),
    "fma" (10^9 float32 operations) and "read" (GB/s with `threads` threads). What this CPU lacks is missing; all of it
    without a compiler or off x86-64.
    """
    program = _program()
    if program is None:
        return {}
    done = subprocess.run([str(program), str(seconds), str(threads)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["read"] = found["read"][str(threads)]
    return found
