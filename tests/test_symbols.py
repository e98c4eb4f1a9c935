"""The objects compiled for one instruction set export nothing but the function that fills the kernel table.

A shared (weak) symbol in one of them could be picked by the linker for all of them, and crash older CPUs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[1] / "build"
NM = shutil.which("nm")

# A few objects a build and instruction set: <build>/CMakeFiles/bq_<isa>.dir/csrc/targets/<source>.cpp.o
OBJECTS = sorted(
    path
    for path in BUILD.glob("*/CMakeFiles/bq_*.dir/csrc/targets/*.cpp.o")
    if path.name != "dispatch.cpp.o"
    # Sanitizers add symbols of their own.
    and "fsanitize" not in (path.parents[4] / "build.ninja").read_text(errors="replace")
)


def exported(path: Path) -> list[str]:
    """What others can see: defined symbols whose type letter is a capital, or weak or unique."""
    assert NM is not None
    out = subprocess.run([NM, "-C", "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in out.splitlines() if line]
    return [name for kind, name in symbols if kind.isupper() or kind in "vwu"]


@pytest.mark.skipif(NM is None, reason="needs nm")
@pytest.mark.skipif(not OBJECTS, reason="needs the objects of a build in build/")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: f"{p.parents[4].name}-{p.parents[2].stem}-{p.name}")
def test_only_the_table_is_exported(path: Path) -> None:
    isa = path.parents[2].stem.removeprefix("bq_")
    names = [name for name in exported(path) if not re.match(r"(DW\.ref\.)?__gxx_personality_v0$", name)]
    part = path.name.removesuffix(".cpp.o").partition("_")[2]
    table = "StripKernels" if part == "strips" else "KernelTable"
    assert names == [f"bq::fill_{isa}{'_' + part if part else ''}(bq::{table}&)"]
