"""Weights laid out for the running CPU: the bytes come back, and products are those of the tensor."""

from __future__ import annotations

import blockquant as bq
import numpy as np
import pytest
from blocks import gaussian, quantize

pytestmark = pytest.mark.usefixtures("restore_isa")
READY = [f.name for f in bq.formats.values() if f.implemented]


@pytest.mark.parametrize("name", READY)
def test_products_are_those_of_the_tensor_whatever_it_was_packed_for(name: str) -> None:
    """For shapes that are no whole strips, row counts around every threshold, and instruction sets that the strips were
    not made for."""
    block = bq.formats[name].block_size
    x = gaussian(97, 3 * 256)
    for n, k in ((1, 256), (7, 512), (16, 256), (53, 768)):
        k = k if k % block == 0 else block
        rows = np.ascontiguousarray(x[:, :k])
        w = quantize(gaussian(n, k, seed=3), name)
        bound = 1e-5 * np.abs(rows).sum(axis=1).max() * np.abs(w.dequantize()).max()
        for packed_for in bq.available_isas():
            bq.set_isa(packed_for)
            p = bq.pack(w, rows=4)  # for which every format that has strips is laid out
            assert p.nbytes == w.nbytes
            np.testing.assert_array_equal(p.unpack().data, w.data)
            for isa in bq.available_isas():
                bq.set_isa(isa)
                for count in (1, 2, 3, 4, 5, 8, 12, 16, 17, 30, 49, 97):
                    np.testing.assert_allclose(bq.matmul(rows[:count], p), bq.matmul(rows[:count], w), 0, bound)
                np.testing.assert_array_equal(bq.matmul(rows[:4], p)[3], bq.matmul(rows[3], p))
                for count in (4, 30):
                    np.testing.assert_array_equal(
                        bq.matmul(rows[:count], p, threads=1), bq.matmul(rows[:count], p, threads=3)
                    )
                np.testing.assert_array_equal(
                    bq.matmul(rows, p, precision="float32"), bq.matmul(rows, w, precision="float32")
                )


@pytest.mark.parametrize("name", ["Q4_0", "IQ2_XXS", "BF16"])
def test_experts(name: str) -> None:
    x = gaussian(70, 256)
    w = quantize(gaussian(3 * 19, 256, seed=3), name)
    which = np.arange(70) % 7 % 3
    for isa in bq.available_isas():
        bq.set_isa(isa)
        p = bq.pack(bq.QuantizedTensor(w.data.reshape(3, 19, -1), name))
        assert p.shape == (3, 19, 256)
        np.testing.assert_array_equal(p.unpack().data.reshape(w.data.shape), w.data)
        y = bq.matmul(x, p, experts=which)
        for e in range(3):
            alone = bq.matmul(x[which == e], bq.pack(w[19 * e : 19 * e + 19]))
            np.testing.assert_array_equal(y[which == e], alone)


def test_one_alone_and_in_company() -> None:
    """Up to 4 rows take the same way where there are kernels for the strips, with the same result to the bit; more
    may be summed in another order."""
    x, w = gaussian(16, 512), quantize(gaussian(64, 512, seed=3), "Q4_K")
    for isa in bq.available_isas():
        bq.set_isa(isa)
        p = bq.pack(w, rows=16)
        if "strips" not in repr(p):
            continue
        for count in (4, 16):
            together = bq.matmul(x[:count], p)
            bound = 1e-5 * np.abs(together).max() if count > 4 else 0.0
            for i in range(count):
                np.testing.assert_allclose(together[i], bq.matmul(x[i], p), 0, bound)


def test_many_rows_take_part_whatever_the_threads() -> None:
    w = quantize(gaussian(512, 1024, seed=3), "Q4_K")
    one, many = bq.pack(w, 2, threads=1), bq.pack(w, 2, threads=5)
    np.testing.assert_array_equal(one.unpack(threads=3).data, many.unpack().data)
    x = gaussian(1, 1024)
    np.testing.assert_array_equal(bq.matmul(x, one), bq.matmul(x, many))


def test_rows_say_what_pays() -> None:
    # One row of weights with eight bits is bound by memory: on AVX2 strips come faster than rows, but those of Q6_K.
    # Many rows take panels, which AVX2 fills from strips and others from rows.
    in_strips = {("avx2", "Q8_0"): (1, 97, 512), ("avx2", "Q6_K"): (97, 512)}
    for isa in bq.available_isas():
        bq.set_isa(isa)
        for name in ("Q8_0", "Q6_K") if isa == "avx2" else ("Q8_0",):
            w = quantize(gaussian(32, 512, seed=3), name)
            for rows in (1, 97, 512):
                p = bq.pack(w, rows=rows)
                lies_in_strips = rows in in_strips.get((isa, name), ())
                assert ("strips" in repr(p)) == lies_in_strips
                np.testing.assert_array_equal(p.unpack().data, w.data)
                assert np.shares_memory(p.unpack().data, w.data) != lies_in_strips
    for rows, kind in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="rows must be an integer"):
            bq.pack(w, rows=rows)  # type: ignore[arg-type]
