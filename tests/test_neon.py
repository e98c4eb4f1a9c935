"""Builds and runs the C++ tests for aarch64, under qemu. (Far from test_cpp.py in the order: both take minutes.)

Needs besides what test_cpp.py does g++-aarch64-linux-gnu and qemu-user.
"""

from __future__ import annotations

from pathlib import Path

from cmake_builds import build_and_test, need


def test_cpp_on_aarch64(tmp_path: Path) -> None:
    """The NEON kernels, under qemu."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        need(tool, "apt-get install g++-aarch64-linux-gnu qemu-user")
    # Little optimisation: the build is what costs.
    build_and_test("aarch64", tmp_path / "build", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DBQ_FORCED_INLINING=OFF")
