"""Builds and runs the C++ tests: with sanitizers on this machine, and for aarch64 under qemu.

Needs a compiler, CMake and doctest (Debian: doctest-dev; for NEON also g++-aarch64-linux-gnu and qemu-user). Without
them these tests are skipped, and say what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCTEST = Path("/usr/include/doctest/doctest.h")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}\n{output[-6000:]}"
    return output


def build_and_test(preset: str, directory: Path, *options: str) -> None:
    # The environment of this Python first: cmake and ninja come with blockquant[test].
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    if cmake is None:
        pytest.skip("no cmake: pip install cmake")
    if ninja is None:
        pytest.skip("no ninja: pip install ninja")
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    if not DOCTEST.exists():
        pytest.skip("no doctest: apt-get install doctest-dev")
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    run(
        cmake,
        "--preset",
        preset,
        "-S",
        str(ROOT),
        "-B",
        str(directory),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DBQ_PYTHON=OFF",
        *launcher,
        *options,
        cwd=ROOT,
    )
    run(cmake, "--build", str(directory), "-j2", cwd=ROOT)
    ctest = str(Path(cmake).with_name("ctest"))
    output = run(ctest, "--test-dir", str(directory), "--output-on-failure", "-j2", cwd=ROOT)
    assert "100% tests passed" in output


def test_cpp_with_sanitizers(tmp_path: Path) -> None:
    """Every kernel of this CPU, and the AVX-512 ones through SIMDe where the CPU lacks them."""
    build_and_test("asan-ubsan", tmp_path / "build")


def test_cpp_on_aarch64(tmp_path: Path) -> None:
    """The NEON kernels, under qemu."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install g++-aarch64-linux-gnu qemu-user")
    # Little optimisation: the build is what costs.
    build_and_test("aarch64", tmp_path / "build", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DBQ_FORCED_INLINING=OFF")
