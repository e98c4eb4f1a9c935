"""What must hold for any input, whatever the bytes are."""

from __future__ import annotations

import blockquant as bq
import blocks
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from blocks import Floats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IMPLEMENTED = [f.name for f in bq.formats.values() if f.implemented]
QUANTIZED = [name for name in IMPLEMENTED if bq.formats[name].run]

quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32 - 1)


def matrix(seed: int, rows: int, k: int, low: float = -3, high: float = 3) -> Floats:
    """Rows of runs of 32 with magnitudes of their own, 10**low to 10**high."""
    rng = np.random.default_rng(seed)
    magnitudes = (10.0 ** rng.uniform(low, high, (rows, k // 32))).repeat(32, axis=1)
    return (rng.standard_normal((rows, k)) * magnitudes).astype(np.float32)


def check_error_bound(x: Floats, name: str) -> None:
    """No value is further from its code than half a step, beyond what lies outside of the range of the codes."""
    f = bq.formats[name]
    q = bq.quantize(x, name)
    _, levels, lowest, highest = blocks.INTEGERS[name]
    low, high = (
        bq.dequantize(blocks.with_integers(q.data, name, f.type_size, value), name).astype(np.float64)
        for value in (lowest, highest)
    )
    step = np.abs(high - low) / (levels - 1)
    outside = np.maximum(0, np.maximum(np.minimum(low, high) - x, x - np.maximum(low, high)))
    reach = np.maximum(np.abs(low), np.abs(high))
    if name in blocks.CHOSEN_FOR_STORED_SCALES:
        slack = 1e-5 * (np.abs(x) + reach)  # float32 rounding only
    else:
        largest_integer = {"IQ4_NL": 127, "IQ4_XS": 127 * 32}.get(name, levels)  # times the float16
        slack = 2 * np.maximum(reach * 2.0**-11, largest_integer * 2.0**-25)
    error = np.abs(q.dequantize().astype(np.float64) - x)
    # A zero step is a run whose scale vanished beside the super-block's (or below f16); it cannot resolve anything.
    bad = (error > step / 2 + outside + slack) & (step > 0)
    assert not bad.any(), f"{name}: error {error[bad][0]}, step {step[bad][0]}, x {x[bad][0]}"
    # And the codes' range fits the data: to a step where the block's extremes fix it; the K formats' searches may
    # give up outliers, but lose no more than the super-block's largest magnitude.
    if f.block_size == 32:
        assert (outside <= step + slack).all()
    largest = np.abs(x).reshape(-1, f.block_size).max(axis=1).repeat(f.block_size).reshape(x.shape)
    assert (error <= largest * 1.001 + 2.0**-14).all()


@quick
@given(seed=seeds, low=st.floats(-4, 2), spread=st.floats(0, 2))
@pytest.mark.parametrize("name", QUANTIZED)
def test_error_is_bounded_by_the_step(name, seed, low, spread):
    check_error_bound(matrix(seed, 3, 512, low, low + spread), name)


@quick
@given(x=hnp.arrays(np.float32, (1, 256), elements=st.floats(-1024, 1024, width=32, allow_subnormal=False)))
@pytest.mark.parametrize("name", QUANTIZED)
def test_error_is_bounded_by_the_step_on_any_array(name, x):
    check_error_bound(x, name)


@pytest.mark.parametrize(
    ("name", "bound"),
    [("Q8_0", 0.006), ("Q6_K", 0.02), ("Q5_K", 0.04), ("Q5_1", 0.045), ("Q5_0", 0.05), ("Q4_K", 0.08), ("Q4_1", 0.085),
     ("Q4_0", 0.1), ("Q3_K", 0.17), ("Q2_K", 0.35), ("IQ4_NL", 0.085), ("IQ4_XS", 0.085), ("NVFP4", 0.11),
     ("MXFP4", 0.14), ("Q1_0", 0.61), ("Q2_0", 0.75), ("TQ1_0", 0.85), ("TQ2_0", 0.85),
     ("F16", 0.0004), ("BF16", 0.003), ("F32", 0.0)],
)  # fmt: skip
def test_relative_error_of_gaussian_weights(name, bound):
    x = np.random.default_rng(3).standard_normal((16, 1024)).astype(np.float32)
    error = bq.quantize(x, name).dequantize().astype(np.float64) - x
    assert np.sqrt((error**2).sum() / (x.astype(np.float64) ** 2).sum()) <= bound


@quick
@given(seed=seeds, rows=st.integers(1, 40), data=st.data())
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_slices_equal_rows_of_the_whole(name, seed, rows, data):
    x = matrix(seed, rows, 256)
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    q = bq.quantize(x, name)
    assert np.array_equal(bq.quantize(x[begin:end], name).data, q.data[begin:end])
    assert np.array_equal(q[begin:end].dequantize(), q.dequantize()[begin:end])
    assert np.array_equal(bq.quantize(x.reshape(1, rows, 256), name).data[0], q.data)


@pytest.mark.usefixtures("restore_isa")
@quick
@given(seed=seeds, rows=st.integers(1, 70), threads=st.integers(2, 9), weighted=st.booleans())
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_threads_and_instruction_sets_change_nothing(name, seed, rows, threads, weighted):
    x = matrix(seed, rows, 256)
    imatrix = np.random.default_rng(seed).random(256, np.float32) if weighted else None
    expected = bq.quantize(x, name, imatrix=imatrix, threads=1)
    values = expected.dequantize(threads=1)
    for isa in bq.available_isas():
        bq.set_isa(isa)
        q = bq.quantize(x, name, imatrix=imatrix, threads=threads)
        assert np.array_equal(q.data, expected.data)
        assert np.array_equal(q.dequantize(threads=threads), values)


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The values of x in every memory layout."""
    rows, k = x.shape
    padded = np.zeros((rows * 2, k + 5), x.dtype)
    padded[::2, 3 : k + 3] = x
    every_third = np.zeros((rows, k * 3), x.dtype)
    every_third[:, ::3] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    return {
        "contiguous": x,
        "fortran": np.asfortranarray(x),
        "window": padded[::2, 3 : k + 3],
        "strided": every_third[:, ::3],
        "backwards": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        "unaligned": unaligned,
    }


@quick
@given(seed=seeds, rows=st.integers(1, 5))
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_every_dtype_and_stride(name, seed, rows):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = matrix(seed, rows, 256, -2, 1)
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        typed = x.astype(dtype)
        expected = bq.quantize(typed.astype(np.float32), name).data
        for layout, view in layouts(typed).items():
            before = view.copy()
            got = bq.quantize(view, name).data
            assert np.array_equal(got, expected), f"{name}, {np.dtype(dtype)}, {layout}"
            assert view.tobytes() == before.tobytes()
    repeated = np.broadcast_to(x[:1], (4, 256))
    assert np.array_equal(bq.quantize(repeated, name).data, bq.quantize(x[:1], name).data.repeat(4, axis=0))


@quick
@given(seed=seeds, rows=st.integers(1, 9))
@pytest.mark.parametrize("name", QUANTIZED)
def test_decoding_again_is_stable(name, seed, rows):
    """Encoding decoded values costs no more than encoding the originals did."""
    x = matrix(seed, rows, 256, -1, 0)
    once = bq.quantize(x, name).dequantize()
    twice = bq.quantize(once, name).dequantize()
    first = np.sqrt(np.mean((once - x) ** 2, dtype=np.float64))
    second = np.sqrt(np.mean((twice - once) ** 2, dtype=np.float64))
    assert second <= first * 1.05
