"""Bytes equal to ggml's on recorded inputs, for every format of the registry. Needs no oracle."""

from __future__ import annotations

import blockquant as bq
import numpy as np
import pytest
from blockquant.errors import FormatNotImplementedError

QUANTIZED = [f for f in bq.formats.values() if f.run]
IMPLEMENTED = [f.name for f in QUANTIZED if f.implemented]
PLANNED = [f.name for f in QUANTIZED if not f.implemented]


def test_golden_data_covers_the_registry(golden):
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


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("with_imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_bytes_equal_recorded_ones(name, with_imatrix, golden):
    key = "imatrix" if with_imatrix else "plain"
    expected = golden.get(f"{name}.{key}.bytes")
    if expected is None:  # the format does not work without importance
        with pytest.raises(ValueError, match="imatrix"):
            bq.quantize(golden["x"], name)
        return
    imatrix = golden["imatrix"] if with_imatrix else None
    for isa in bq.available_isas():
        bq.set_isa(isa)
        q = bq.quantize(golden["x"], name, imatrix=imatrix)
        wrong = np.nonzero((q.data != expected).any(axis=1))[0]
        assert wrong.size == 0, f"{isa}: rows {wrong.tolist()} differ"


@pytest.mark.parametrize("name", PLANNED)
def test_formats_to_come_say_so(name, golden):
    f = bq.formats[name]
    imatrix = golden["imatrix"]
    data = golden[f"{name}.imatrix.bytes"]
    with pytest.raises(FormatNotImplementedError, match=name):
        bq.quantize(golden["x"], name, imatrix=imatrix)
    with pytest.raises(FormatNotImplementedError, match=name):
        bq.dequantize(data, name)
    # Their bytes can still be carried: sizes are known.
    q = bq.QuantizedTensor(data, name)
    assert q.shape == golden["x"].shape
    assert q.nbytes == golden["x"].shape[0] * f.row_bytes(golden["x"].shape[1])
