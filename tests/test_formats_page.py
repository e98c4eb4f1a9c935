"""docs/formats.md says what the code does: its tables, its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import blockquant as bq
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
QUANTIZED = [f for f in bq.formats.values() if not f.is_float]


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_formats

    return make_formats


def rows(table: str) -> dict[str, list[float]]:
    """The figures of an error table, by format."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {name: [float(figure) for figure in figures] for name, *figures in lines}


def generated(generator: ModuleType, name: str) -> str:
    begin, end = generator.part(PAGE, name)
    return PAGE[begin:end]


def test_the_sizes_are_the_registry(generator: ModuleType) -> None:
    assert generated(generator, "sizes") == generator.sizes(), "run: python docs/make_formats.py --sizes"


def test_the_errors_on_gaussian_weights_are_measured(generator: ModuleType) -> None:
    stated, measured = (
        rows(t) for t in (generated(generator, "gaussian"), generator.error_table(generator.gaussian()))
    )
    assert list(stated) == list(measured), "run: python docs/make_formats.py"
    for name, figures in measured.items():
        np.testing.assert_allclose(stated[name], figures, rtol=0.02, err_msg=name)


def test_the_errors_on_real_weights_are_of_every_format_and_plausible(generator: ModuleType) -> None:
    stated, on_gaussian = (rows(generated(generator, name)) for name in ("weights", "gaussian"))
    assert set(stated) == {f.name for f in QUANTIZED if f.implemented}
    for name, (bits, error, weighted, tuned) in stated.items():
        assert bits == bq.formats[name].bits_per_weight
        assert error == pytest.approx(on_gaussian[name][1], rel=0.25)
        assert tuned <= weighted * 1.001


@pytest.mark.parametrize("f", QUANTIZED, ids=str)
def test_every_format_has_a_picture_that_ends_where_its_block_does(f: bq.Format) -> None:
    section = re.search(rf"^### {f.name}\n```\n([\d ]+)\n", PAGE, re.M)
    assert section is not None
    offsets = [int(number) for number in section[1].split()]
    assert offsets[0] == 0
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == f.type_size
