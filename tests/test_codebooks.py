"""The committed codebooks are what their script writes from the installed gguf package."""

from __future__ import annotations

import runpy
from pathlib import Path

CODEBOOKS = Path(__file__).parents[1] / "csrc" / "formats" / "codebooks"


def test_the_committed_header_is_the_generated_one() -> None:
    generated = runpy.run_path(str(CODEBOOKS / "generate.py"))["header"]()
    assert (CODEBOOKS / "grids.hpp").read_text() == generated
