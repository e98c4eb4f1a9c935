"""No format, instruction set or weighting without a test of its bytes."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import blockquant as bq
import pytest

TESTS = Path(__file__).parent
QUANTIZED = [f for f in bq.formats.values() if f.run]

Cell = tuple[str, str, str]


def collected_cells() -> set[Cell]:
    """Format, weighting and instruction set of each test that compares with recorded bytes, as pytest collects them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(bq.__file__).parents[1])}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "test_golden.py"]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"::test_bytes_equal_recorded_ones\[(\w+)-(\w+)-(\w+)\]", done.stdout)
    return {(name, weighting, isa) for name, weighting, isa in found}


def test_every_cell_compares_with_recorded_bytes() -> None:
    expected = {
        (f.name, weighting, isa)
        for f, weighting, isa in itertools.product(QUANTIZED, ("plain", "imatrix"), bq.available_isas())
        if f.implemented and not (weighting == "plain" and f.needs_imatrix)
    }
    assert expected == collected_cells()


@pytest.mark.parametrize("f", bq.formats.values(), ids=str)
def test_every_format_has_a_hash_for_the_instruction_sets_of_other_machines(f: bq.Format) -> None:
    """tests/cpp/test_encode.cpp checks them on every kernel table: NEON under qemu, AVX-512 through SIMDe."""
    text = (TESTS / "cpp" / "encode_hashes.inc").read_text(encoding="utf-8")
    match = re.search(rf"^\{{FormatId::{f.name}, 0x(\w{{16}})u, 0x(\w{{16}})u\}},$", text, re.M)
    assert match is not None, "run tests/make_hashes.py"
    plain, imatrix = (int(digits, 16) for digits in match.groups())
    assert imatrix
    assert bool(plain) != f.needs_imatrix
