"""Builds and runs the C++ tests: with sanitizers on this machine, and for aarch64 under qemu.

Needs a compiler, CMake and doctest (Debian: doctest-dev; for NEON also g++-aarch64-linux-gnu and qemu-user). Without
them these tests are skipped, and say what is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cmake_builds import build, find, links, need, run

DOCTEST = Path("/usr/include/doctest/doctest.h")


def build_and_test(preset: str, directory: Path, *options: str) -> None:
    need("c++", "a C++ compiler")
    if not DOCTEST.exists():
        pytest.skip("no doctest: apt-get install doctest-dev")
    build(directory, "--preset", preset, *options)
    ctest = Path(need("cmake")).with_name("ctest")
    output = run(ctest, "--test-dir", directory, "--output-on-failure", "-j2")
    assert "100% tests passed" in output


def test_cpp_with_sanitizers(tmp_path: Path) -> None:
    """Every kernel of this CPU, and the AVX-512 ones through SIMDe where the CPU lacks them.

    By clang where it has the sanitizers: it takes half of gcc's time, and what gcc makes is tested from Python.
    """
    clang = find("clang++")
    able = links(clang, "-fsanitize=address,undefined", "int main() {}\n", tmp_path)
    build_and_test("asan-ubsan", tmp_path / "build", *([f"-DCMAKE_CXX_COMPILER={clang}"] if able else []))


def test_cpp_on_aarch64(tmp_path: Path) -> None:
    """The NEON kernels, under qemu."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        need(tool, "apt-get install g++-aarch64-linux-gnu qemu-user")
    # Little optimisation: the build is what costs.
    build_and_test("aarch64", tmp_path / "build", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DBQ_FORCED_INLINING=OFF")
