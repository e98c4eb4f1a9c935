"""Products with quantized weights are at least as near the exact ones as ggml's own dot comes, on activations of every
kind: activations are rounded alike, so what could differ is what the kernels lose."""

from __future__ import annotations

import json

import blockquant as bq
import numpy as np
import pytest
from ggml import Ggml
from matmul_errors import CASES, RECORDED, ggml_product, inputs, relative_error, weights

READY = [name for name, f in bq.formats.items() if f.implemented]
RECORDS = json.loads(RECORDED.read_text(encoding="utf-8"))["errors"]

# Both round activations to integers of which either may be luckier by a part in a thousand; and float32 sums of many
# rows are added in one chain of 256.
SLACK, FLOAT32 = 1.002, 4e-7


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", bq.available_isas())
@pytest.mark.parametrize("name", READY)
def test_errors_do_not_exceed_ggmls(name: str, isa: str) -> None:
    bq.set_isa(isa)
    for case in CASES:
        x, q = inputs(case)[0], weights(name, case)[0]
        allowed = RECORDS[case][name] * SLACK + FLOAT32
        together = bq.matmul(x, q)
        alone = np.concatenate([bq.matmul(row[None], q) for row in x])
        packed = bq.pack(q, rows=4)
        alone_packed = np.concatenate([bq.matmul(row[None], packed) for row in x])
        for y in (together, alone, bq.matmul(x, packed), alone_packed):
            assert relative_error(name, case, y) <= allowed, case
        assert relative_error(name, case, bq.matmul(x, q, precision="float32")) <= FLOAT32
        # One row at a time and all together differ in the order of float additions alone.
        assert np.abs(together - alone).max() <= 1e-5 * np.abs(together).max()
        for threads in (2, 3):
            np.testing.assert_array_equal(bq.matmul(x, q, threads=threads), together)


@pytest.mark.parametrize("name", READY)
def test_recorded_errors_are_ggmls(ggml: Ggml, name: str) -> None:
    measured = relative_error(name, "real", ggml_product(ggml, name, "real"))
    # Of float32 sums, instruction sets give different ones.
    assert measured == pytest.approx(RECORDS["real"][name], rel=0.5 if name == "F32" else 0.01)
