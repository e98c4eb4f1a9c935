"""Builds and runs the C++ tests with sanitizers on this machine.

Needs a compiler, CMake and doctest (Debian: doctest-dev). Without them the test is skipped, and says what is missing.
"""

from __future__ import annotations

from pathlib import Path

from cmake_builds import build_and_test, find, links


def test_cpp_with_sanitizers(tmp_path: Path) -> None:
    """Every kernel of this CPU, and the AVX-512 ones through SIMDe where the CPU lacks them.

    By clang where it has the sanitizers: it takes half of gcc's time, and what gcc makes is tested from Python.
    """
    clang = find("clang++")
    able = links(clang, "-fsanitize=address,undefined", "int main() {}\n", tmp_path)
    build_and_test("asan-ubsan", tmp_path / "build", *([f"-DCMAKE_CXX_COMPILER={clang}"] if able else []))
