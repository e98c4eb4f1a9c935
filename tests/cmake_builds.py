"""What the tests that build C++ share: finding tools, asking what a compiler can link, configuring, building."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCTEST = Path("/usr/include/doctest/doctest.h")


def find(name: str) -> str | None:
    """A tool's path, of this Python's environment first: cmake and ninja come with blockquant[test]."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def need(name: str, hint: str = "") -> str:
    """A tool's path; without it the test is skipped, and says how to get it."""
    found = find(name)
    if found is None:
        pytest.skip(f"no {name}{': ' if hint else ''}{hint}")
    return found


def run(*command: str | Path) -> str:
    """What the command prints; it fails the test if its status is not 0."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(words)}\n{output[-6000:]}"
    return output


def links(compiler: str | None, flags: str, source: str, directory: Path) -> bool:
    """Whether the compiler is there and makes a program of this source with these flags."""
    probe = directory / "probe.cpp"
    probe.write_text(source)
    command = [str(compiler), flags, str(probe), "-o", str(directory / "probe")]
    return compiler is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(directory: Path, *options: str, targets: tuple[str, ...] = ()) -> None:
    """Configures this repository's CMake project without its Python part, and builds it with two jobs."""
    cmake, ninja = need("cmake", "pip install cmake"), need("ninja", "pip install ninja")
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if find("ccache") else []
    options = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DBQ_PYTHON=OFF", *launcher, *options)
    run(cmake, "-S", ROOT, "-B", directory, *options)
    run(cmake, "--build", directory, "-j2", *(["--target", *targets] if targets else []))


def build_and_test(preset: str, directory: Path, *options: str) -> None:
    """Builds a preset and runs its C++ tests; without what they need the test is skipped."""
    need("c++", "a C++ compiler")
    if not DOCTEST.exists():
        pytest.skip("no doctest: apt-get install doctest-dev")
    build(directory, "--preset", preset, *options)
    ctest = Path(need("cmake")).with_name("ctest")
    output = run(ctest, "--test-dir", directory, "--output-on-failure", "-j2")
    assert "100% tests passed" in output
