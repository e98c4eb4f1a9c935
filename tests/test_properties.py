"""What must hold for any input, whatever the bytes are."""

from __future__ import annotations

import blockquant as bq
import blocks
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from blocks import Floats, imatrix_for, quantize
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
    q = quantize(x, name)
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
@pytest.mark.parametrize("name", blocks.INTEGERS)
def test_error_is_bounded_by_the_step(name, seed, low, spread):
    check_error_bound(matrix(seed, 3, 512, low, low + spread), name)


@quick
@given(x=hnp.arrays(np.float32, (1, 256), elements=st.floats(-1024, 1024, width=32, allow_subnormal=False)))
@pytest.mark.parametrize("name", blocks.INTEGERS)
def test_error_is_bounded_by_the_step_on_any_array(name, x):
    check_error_bound(x, name)


# How far the points of a grid may be from a value, as a share of the largest magnitude of its block: an outlier takes
# the scale, the lowest level is not zero, and a sign may give way. Not where most weights are zero: these count for
# nothing in the search, so that anything may become of them (by the bytes of ggml, too).
GRID_BOUNDS = {"IQ1_S": 1.5, "IQ1_M": 1.35, "IQ2_XXS": 1.5, "IQ2_XS": 1.1, "IQ2_S": 0.85, "IQ3_XXS": 0.85, "IQ3_S": 0.6}


def test_every_format_has_a_bound():
    assert set(blocks.INTEGERS) | set(GRID_BOUNDS) == set(QUANTIZED)


@quick
@given(seed=seeds, low=st.floats(-4, 2), spread=st.floats(0, 2), weighted=st.booleans())
@pytest.mark.parametrize("name", GRID_BOUNDS)
def test_error_of_grids_is_bounded_by_the_largest_magnitude(name, seed, low, spread, weighted):
    x = matrix(seed, 3, 512, low, low + spread)
    imatrix = np.random.default_rng(seed).random(512, np.float32) + 0.1 if weighted else imatrix_for(name, 512)
    error = np.abs(bq.quantize(x, name, imatrix=imatrix).dequantize() - x)
    largest = np.abs(x).reshape(-1, 256).max(axis=1).repeat(256).reshape(x.shape)
    assert (error <= GRID_BOUNDS[name] * largest + 2.0**-14).all()


@pytest.mark.parametrize(
    ("name", "bound"),
    [("Q8_0", 0.006), ("Q6_K", 0.02), ("Q5_K", 0.04), ("Q5_1", 0.045), ("Q5_0", 0.05), ("Q4_K", 0.08), ("Q4_1", 0.085),
     ("Q4_0", 0.1), ("Q3_K", 0.17), ("Q2_K", 0.35), ("IQ4_NL", 0.085), ("IQ4_XS", 0.085), ("NVFP4", 0.11),
     ("MXFP4", 0.14), ("Q1_0", 0.61), ("Q2_0", 0.75), ("TQ1_0", 0.85), ("TQ2_0", 0.85),
     ("IQ1_S", 0.51), ("IQ1_M", 0.61), ("IQ2_XXS", 0.37), ("IQ2_XS", 0.32), ("IQ2_S", 0.28), ("IQ3_XXS", 0.225),
     ("IQ3_S", 0.18),
     ("F16", 0.0004), ("BF16", 0.003), ("F32", 0.0)],
)  # fmt: skip
def test_relative_error_of_gaussian_weights(name, bound):
    x = np.random.default_rng(3).standard_normal((16, 1024)).astype(np.float32)
    error = quantize(x, name).dequantize().astype(np.float64) - x
    assert np.sqrt((error**2).sum() / (x.astype(np.float64) ** 2).sum()) <= bound


@quick
@given(seed=seeds, rows=st.integers(1, 40), data=st.data())
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_slices_equal_rows_of_the_whole(name, seed, rows, data):
    x = matrix(seed, rows, 256)
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    q = quantize(x, name)
    assert np.array_equal(quantize(x[begin:end], name).data, q.data[begin:end])
    assert np.array_equal(q[begin:end].dequantize(), q.dequantize()[begin:end])
    assert np.array_equal(quantize(x.reshape(1, rows, 256), name).data[0], q.data)


@pytest.mark.usefixtures("restore_isa")
@quick
@given(seed=seeds, rows=st.integers(1, 70), threads=st.integers(2, 9), weighted=st.booleans())
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_threads_and_instruction_sets_change_nothing(name, seed, rows, threads, weighted):
    x = matrix(seed, rows, 256)
    imatrix = np.random.default_rng(seed).random(256, np.float32) if weighted else imatrix_for(name, 256)
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
        expected = quantize(typed.astype(np.float32), name).data
        for layout, view in layouts(typed).items():
            before = view.copy()
            got = quantize(view, name).data
            assert np.array_equal(got, expected), f"{name}, {np.dtype(dtype)}, {layout}"
            assert view.tobytes() == before.tobytes()
    repeated = np.broadcast_to(x[:1], (4, 256))
    assert np.array_equal(quantize(repeated, name).data, quantize(x[:1], name).data.repeat(4, axis=0))


@quick
@given(seed=seeds, rows=st.integers(1, 9))
@pytest.mark.parametrize("name", QUANTIZED)
def test_decoding_again_is_stable(name, seed, rows):
    """Encoding decoded values costs no more than encoding the originals did."""
    x = matrix(seed, rows, 256, -1, 0)
    once = quantize(x, name).dequantize()
    twice = quantize(once, name).dequantize()
    first = np.sqrt(np.mean((once - x) ** 2, dtype=np.float64))
    second = np.sqrt(np.mean((twice - once) ** 2, dtype=np.float64))
    assert second <= first * 1.05


@pytest.mark.usefixtures("restore_isa")
@quick
@given(
    seed=seeds, exponents=st.integers(1, 255), values=st.integers(1, 512), zeros=st.floats(0, 1), weighted=st.booleans()
)
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_any_finite_floats_encode_alike_everywhere(name, seed, exponents, values, zeros, weighted):
    """Any bits of any magnitude, repeated, among zeros of both signs."""
    rng = np.random.default_rng(seed)
    alphabet = blocks.finite_bits(rng, (values,), exponents)
    x = np.where(rng.random((2, 256)) < zeros, alphabet[0] * np.float32(0), rng.choice(alphabet, (2, 256)))
    imatrix = np.abs(rng.choice(blocks.finite_bits(rng, (64,)), 256)) if weighted else imatrix_for(name, 256)
    encoded, decoded = set(), []
    for isa in bq.available_isas():
        bq.set_isa(isa)
        q = bq.quantize(x, name, imatrix=imatrix)
        encoded.add(q.data.tobytes())
        decoded.append(q.dequantize())
    assert len(encoded) == 1
    for got in decoded[1:]:
        assert np.array_equal(got, decoded[0], equal_nan=True)


@quick
@given(seed=seeds, row=st.integers(0, 2), data=st.data())
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", IMPLEMENTED)
def test_the_first_value_that_is_not_finite_is_named(name, bad, seed, row, data):
    x = matrix(seed, 3, 512)
    column = data.draw(st.integers(0, 511))
    x[row, column] = bad
    later = np.flatnonzero(np.arange(x.size) > row * 512 + column)
    x.reshape(-1)[data.draw(st.lists(st.sampled_from(later), max_size=3)) if later.size else []] = -bad
    with pytest.raises(ValueError, match=rf"x\[{row}, {column}\] is -?(nan|inf)"):
        bq.quantize(x, name, imatrix=imatrix_for(name, 512), threads=2)


# The formats whose encoder gives back any block that uses the whole range of its codes: the largest magnitude fixes
# the scale, so blocks that leave the ends of the range unused come back with a smaller one. (The K and IQ formats
# search, and may well find other blocks for the same values.)
EXTREMES = {
    "Q4_0": (-8,), "Q5_0": (-16,), "Q8_0": (127,), "Q4_1": (0, 15), "Q5_1": (0, 31), "TQ1_0": (1,), "TQ2_0": (1,),
    "MXFP4": (12,), "NVFP4": (12,), "Q1_0": (1,), "Q2_0": (1,),
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("name", EXTREMES)
def test_encoding_decoded_blocks_gives_them_back(name, seed):
    f, rng = bq.formats[name], np.random.default_rng(seed)
    levels = np.unique(bq.unpack(bq.QuantizedTensor(blocks.random_blocks(name, f.type_size, 64, rng), name)).values)
    if name == "Q8_0":
        levels = levels[levels > -128]
    if name in ("TQ2_0", "Q2_0"):
        levels = levels[levels < 2]
    runs = 64
    values = rng.choice(levels, (runs, f.run)).astype(np.int8)
    at = rng.integers(0, f.run - 1, runs)
    for i, extreme in enumerate(EXTREMES[name]):
        values[np.arange(runs), at + i] = extreme
    sign = rng.choice([-1, 1], (runs, 1)) if name in ("Q4_0", "Q5_0") else 1
    if name == "MXFP4":
        scales = 2.0 ** rng.integers(-120, 120, (runs, 1))
    elif name == "NVFP4":
        exponent, mantissa = rng.integers(-6, 8, (runs, 1)), rng.integers(8, 16, (runs, 1))
        scales = mantissa * 2.0 ** (exponent - 4)  # below 256, halved
    else:
        scales = sign * rng.integers(1, 0x7000, (runs, 1)).astype(np.uint16).view(np.float16).astype(np.float64)
    minima = None
    if f.has_minima:  # whose sum with the largest value is exact
        minima = scales * rng.integers(-64, 64, (runs, 1))
        minima[np.abs(minima) > 65504] = 0
        minima = minima.astype(np.float16).astype(np.float64)
        minima[minima == 0] = -0.0  # the block holds what is added, +0
    shape = (runs * f.run // f.block_size, f.block_size)
    q = bq.assemble(
        name,
        values.reshape(shape),
        scales.reshape(shape[0], -1),
        None if minima is None else minima.reshape(shape[0], -1),
    )
    assert np.array_equal(bq.quantize(q.dequantize(), name).data, q.data)


def test_encoding_decoded_floats_gives_them_back():
    """Every finite float16 and bfloat16 pattern."""
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(1, -1)
    for name in ("F16", "BF16"):
        with np.errstate(all="ignore"):
            values = bq.dequantize(patterns, name)[0]
        keep = np.isfinite(values)
        again = bq.quantize(values[keep].reshape(1, -1), name).data.view(np.uint16)[0]
        assert np.array_equal(again, np.arange(1 << 16)[keep])
