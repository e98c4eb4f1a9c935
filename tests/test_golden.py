"""Bytes equal to ggml's on recorded inputs, for every format of the registry. Needs no oracle."""

from __future__ import annotations

import blockquant as bq
import numpy as np
import pytest
from conftest import GOLDEN

QUANTIZED = [f for f in bq.formats.values() if f.run]
IMPLEMENTED = [f.name for f in QUANTIZED if f.implemented]


def test_golden_data_covers_the_registry(golden):
    assert len(IMPLEMENTED) == len(QUANTIZED) == 25
    recorded = {key.split(".")[0] for key in golden if key.endswith(".bytes")}
    assert recorded == {f.name for f in QUANTIZED}
    for f in QUANTIZED:
        for key in ("plain", "imatrix"):
            bytes_ = golden.get(f"{f.name}.{key}.bytes")
            if bytes_ is None:
                assert key == "plain"
                assert f.needs_imatrix
            else:
                assert bytes_.shape == (golden["x"].shape[0], f.row_bytes(golden["x"].shape[1]))


def recorded() -> list[tuple[str, str]]:
    """The formats and weightings that bytes are recorded for."""
    with np.load(GOLDEN) as archive:
        keys = [key.split(".") for key in archive.files if key.endswith(".bytes")]
    return [(name, weighting) for name, weighting, _ in keys if name in IMPLEMENTED]


# One test for each format, instruction set and weighting: test_coverage.py holds these cells to the registry.
@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", bq.available_isas())
@pytest.mark.parametrize(("name", "weighting"), recorded())
def test_bytes_equal_recorded_ones(name, weighting, isa, golden):
    imatrix = golden["imatrix"] if weighting == "imatrix" else None
    bq.set_isa(isa)
    q = bq.quantize(golden["x"], name, imatrix=imatrix)
    wrong = np.nonzero((q.data != golden[f"{name}.{weighting}.bytes"]).any(axis=1))[0]
    assert wrong.size == 0, f"rows {wrong.tolist()} differ"


@pytest.mark.parametrize("name", [name for name in IMPLEMENTED if bq.formats[name].needs_imatrix])
def test_formats_that_need_importance_say_so(name, golden):
    with pytest.raises(ValueError, match="importance matrix"):
        bq.quantize(golden["x"], name)
