"""Blocks apart and together again: unpack and assemble."""

from __future__ import annotations

import dataclasses

import blockquant as bq
import blocks
import numpy as np
import pytest
from blocks import Floats, imatrix_for
from hypothesis import given, settings
from hypothesis import strategies as st

QUANTIZED = [f.name for f in bq.formats.values() if f.implemented and f.run]
SUPER_BLOCKS = [name for name in QUANTIZED if bq.formats[name].block_size == 256 and bq.formats[name].run < 256]
WITH_MINIMA = [name for name in QUANTIZED if bq.formats[name].has_minima]
seeds = st.integers(0, 2**32 - 1)


def gaussian(name: str, seed: int = 0, rows: int = 4, k: int = 1024) -> bq.QuantizedTensor:
    x = (np.random.default_rng(seed).standard_normal((rows, k)) * 0.05).astype(np.float32)
    return bq.quantize(x, name, imatrix=imatrix_for(name, k))


def random_tensor(name: str, seed: int, count: int = 256) -> bq.QuantizedTensor:
    f = bq.formats[name]
    return bq.QuantizedTensor(blocks.random_blocks(name, f.type_size, count, np.random.default_rng(seed)), name)


def values_of(u: bq.Unpacked) -> Floats:
    """The formula, in numpy."""
    with np.errstate(all="ignore"):
        product = np.repeat(u.scales, u.run, axis=-1) * u.values.astype(np.float32)
        return product if u.minima is None else product - np.repeat(u.minima, u.run, axis=-1)


def same(a: Floats, b: Floats) -> bool:
    """Equal bits; a NaN equals any NaN."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def from_arrays(u: bq.Unpacked, **options) -> bq.QuantizedTensor:
    return bq.assemble(u.format, u.values, u.scales, u.minima, **options)


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_common_form_is_the_decoded_values(name: str) -> None:
    for q in (gaussian(name), random_tensor(name, 1)):
        u = bq.unpack(q)
        f = bq.formats[name]
        assert (u.format, u.run, u.shape) == (name, f.run, q.shape)
        assert (u.values.dtype, u.scales.dtype) == (np.int8, np.float32)
        assert u.scales.shape == (*q.shape[:-1], q.shape[-1] // f.run)
        assert (u.minima is not None) == f.has_minima
        assert same(values_of(u), q.dequantize())


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_bytes_come_back_from_an_unpacked(name: str) -> None:
    q = random_tensor(name, 2, 2048)
    assert np.array_equal(bq.assemble(bq.unpack(q)).data, q.data)


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_values_come_back_from_the_arrays(name: str) -> None:
    q = random_tensor(name, 3, 2048)
    again = from_arrays(bq.unpack(q))
    with np.errstate(all="ignore"):
        assert np.array_equal(again.dequantize(), q.dequantize(), equal_nan=True)
    # and what comes back is settled
    assert np.array_equal(from_arrays(bq.unpack(again)).data, again.data)


def check_bytes_from_arrays(q: bq.QuantizedTensor) -> None:
    """The encoders' bytes come back from the arrays alone, but for one thing that these do not say: which way round the
    signs of the shared float16 and of all its multiples are, when the largest scales are of both signs and equal
    (one in thirty blocks of Q3_K with an imatrix).
    """
    f, u = q.format, bq.unpack(q)
    got = from_arrays(u)
    wrong = (got.data.reshape(-1, f.type_size) != q.data.reshape(-1, f.type_size)).any(axis=1)
    if f.name in ("Q3_K", "Q6_K", "IQ4_XS"):
        scales = u.scales.reshape(wrong.size, -1)
        wrong &= scales.max(axis=1) != -scales.min(axis=1)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} blocks"
    assert np.array_equal(got.dequantize(), q.dequantize())


# One block, one meaning: every byte comes back from the arrays alone.
INJECTIVE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "TQ2_0", "Q1_0", "Q2_0"}


@pytest.mark.parametrize("name", sorted(INJECTIVE))
def test_any_bytes_come_back_from_the_arrays(name: str) -> None:
    q = random_tensor(name, 4, 2048)
    assert np.array_equal(from_arrays(bq.unpack(q)).data, q.data)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, low=st.floats(-2, 1), spread=st.floats(0, 2), weighted=st.booleans())
@pytest.mark.parametrize("name", QUANTIZED)
def test_encoded_bytes_come_back_from_the_arrays(name, seed, low, spread, weighted) -> None:
    rng = np.random.default_rng(seed)
    magnitudes = (10.0 ** rng.uniform(low, low + spread, (4, 64))).repeat(16, axis=1)
    x = (rng.standard_normal((4, 1024)) * magnitudes).astype(np.float32)
    imatrix = rng.random(1024).astype(np.float32) if weighted else imatrix_for(name, 1024)
    check_bytes_from_arrays(bq.quantize(x, name, imatrix=imatrix))


@pytest.mark.parametrize("name", QUANTIZED)
def test_bytes_of_gaussian_weights_come_back_from_the_arrays(name: str) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((64, 1024)) * 0.03).astype(np.float32)
    for imatrix in (imatrix_for(name, 1024), rng.random(1024).astype(np.float32)):
        check_bytes_from_arrays(bq.quantize(x, name, imatrix=imatrix))


@pytest.mark.parametrize("name", QUANTIZED)
def test_hard_rows_come_back_with_their_values(name: str) -> None:
    x, _ = blocks.hard_rows(3, 512, rows=1)
    for imatrix in blocks.hard_imatrices(3, 512).values():
        if imatrix is None and bq.formats[name].needs_imatrix:
            continue
        q = bq.quantize(x, name, imatrix=imatrix)
        u = bq.unpack(q)
        assert same(values_of(u), q.dequantize())
        assert np.array_equal(bq.assemble(u).data, q.data)
        with np.errstate(all="ignore"):
            assert np.array_equal(from_arrays(u).dequantize(), q.dequantize(), equal_nan=True)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("name", QUANTIZED)
def test_other_integers_with_the_scales_kept(name, seed) -> None:
    """Any mix of what can be unpacked can be assembled, and nearest changes nothing that fits."""
    a, b = random_tensor(name, seed, 16), random_tensor(name, seed + 1, 16)
    u = dataclasses.replace(bq.unpack(a), values=bq.unpack(b).values)
    q = bq.assemble(u)
    got = bq.unpack(q)
    assert np.array_equal(got.values, u.values)
    assert same(got.scales, u.scales)
    assert u.minima is None or same(got.minima, u.minima)
    finite = np.isfinite(u.scales).all() and (u.minima is None or np.isfinite(u.minima).all())
    if finite:
        near = from_arrays(u, rounding="nearest")
        assert np.array_equal(near.dequantize(), q.dequantize())


@settings(max_examples=10, deadline=None)
@given(seed=seeds, magnitude=st.floats(-3, 3))
@pytest.mark.parametrize("name", QUANTIZED)
def test_nearest_scales_are_near(name, seed, magnitude) -> None:
    """Scales of weights, disturbed: each finds one near, in the format's steps and at float16's precision."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, 1024)) * 10.0**magnitude).astype(np.float32)
    u = bq.unpack(bq.quantize(x, name, imatrix=imatrix_for(name, 1024)))
    scales = (u.scales * rng.uniform(0.95, 1.05, u.scales.shape)).astype(np.float32)
    near = bq.unpack(bq.assemble(u.format, u.values, scales, u.minima, rounding="nearest"))
    assert np.array_equal(near.values, u.values)
    assert u.minima is None or np.array_equal(near.minima, u.minima)
    largest = np.abs(scales).reshape(2, -1, u.format.block_size // u.run).max(axis=2, keepdims=True)
    step = {"Q2_K": 1 / 15, "Q3_K": 1 / 31, "Q4_K": 1 / 63, "Q5_K": 1 / 63, "Q6_K": 1 / 127, "IQ4_XS": 1 / 31}
    step |= dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), 2 / 31) | {
        "IQ1_S": 2 / 15,
        "IQ1_M": 2 / 15,
    }
    relative = {"MXFP4": 1 / 3, "NVFP4": 1 / 16}.get(name, 2.0**-10)
    error = np.abs(near.scales - scales).reshape(*largest.shape[:2], -1)
    asked = np.abs(scales).reshape(error.shape)
    precision = relative * np.maximum(asked, 0.02 * largest) + 1e-7
    # A run that counts little may give way to those that count, all together they come as near as by rounding.
    assert (error <= step.get(name, 0) * largest + precision).all()
    if name in step:
        assert np.sqrt(np.mean((error / (step[name] * largest + precision)) ** 2)) <= 1 / 3


def test_a_power_of_two_is_chosen_by_distance() -> None:
    q = np.zeros((1, 32), np.int8)
    near = bq.unpack(bq.assemble("MXFP4", q, [[2.9]], rounding="nearest"))
    assert near.scales[0, 0] == 2
    near = bq.unpack(bq.assemble("MXFP4", q, [[3.1]], rounding="nearest"))
    assert near.scales[0, 0] == 4


@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "Q6_K", "IQ4_XS", "Q4_0"])
def test_a_tuned_quantizer_beats_the_plain_one(name: str) -> None:
    """Integers chosen one after the other, each carrying its error into the next as GPTQ does, under the scales of the
    plain encoder: the outputs on correlated inputs come closer."""
    rng = np.random.default_rng(8)
    k = 256
    w = (rng.standard_normal((48, k)) * 0.05).astype(np.float32)
    inputs = rng.standard_normal((512, k)) @ (
        np.eye(k) + 0.3 * rng.standard_normal((k, 40)) @ rng.standard_normal((40, k))
    )
    hessian = inputs.T @ inputs / len(inputs) + 0.01 * np.eye(k)
    u = bq.unpack(bq.quantize(w, name))
    levels = np.unique(bq.unpack(random_tensor(name, 0)).values).astype(np.float64)
    scale = np.repeat(u.scales, u.run, axis=1).astype(np.float64)
    minimum = 0.0 if u.minima is None else np.repeat(u.minima, u.run, axis=1).astype(np.float64)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left = w.astype(np.float64)
    values = np.zeros(w.shape, np.int8)
    for i in range(k):
        s, m = scale[:, i], minimum if np.isscalar(minimum) else minimum[:, i]
        candidates = s[:, None] * levels - np.expand_dims(m, -1)
        chosen = np.abs(candidates - left[:, i : i + 1]).argmin(axis=1)
        values[:, i] = levels[chosen]
        error = (left[:, i] - candidates[np.arange(len(w)), chosen]) / upper[i, i]
        left[:, i:] -= error[:, None] * upper[i, i:]
    tuned = bq.assemble(dataclasses.replace(u, values=values))

    def loss(q: bq.QuantizedTensor) -> float:
        difference = q.dequantize().astype(np.float64) - w
        return float(np.einsum("ni,ij,nj->", difference, hessian, difference))

    assert tuned.shape == w.shape
    assert loss(tuned) < 0.8 * loss(bq.quantize(w, name))


def test_any_integer_dtype_and_any_threads() -> None:
    u = bq.unpack(gaussian("Q4_K"))
    expected = from_arrays(u).data
    for values in (u.values.astype(np.int64), u.values.astype(np.uint8), np.asfortranarray(u.values)):
        assert np.array_equal(
            bq.assemble("Q4_K", values, u.scales.astype(np.float64), u.minima, threads=2).data, expected
        )
    assert np.array_equal(bq.assemble(12, u.values.tolist(), u.scales.tolist(), u.minima.tolist()).data, expected)
    assert bq.assemble("Q4_K", np.zeros((0, 256), np.int8), np.zeros((0, 8)), np.zeros((0, 8))).shape == (0, 256)
    assert repr(u) == "Unpacked(Q4_K, shape=(4, 1024), run=32)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        u.values = u.values  # type: ignore[misc]


def k4(values: object = None, scales: object = None, minima: object = None, **options) -> bq.QuantizedTensor:
    """assemble("Q4_K", ...) with what is not given from K4."""
    given = [
        mine if mine is not None else its
        for mine, its in ((values, K4.values), (scales, K4.scales), (minima, K4.minima))
    ]
    return bq.assemble("Q4_K", *given, **options)


def changed(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


K4, NL = bq.unpack(gaussian("Q4_K")), bq.unpack(gaussian("IQ4_NL"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: k4(changed(K4.values, (2, 600), 16)), ValueError,
         r"Q4_K cannot hold block 2, 2: values\[2, 600\] is 16; its integers are 0 to 15"),
        (lambda: bq.assemble("IQ4_NL", changed(NL.values, (1, 33), 3), NL.scales), ValueError,
         r"values\[1, 33\] is 3; its integers are -127, -104, .*113"),
        (lambda: bq.assemble("IQ4_NL", NL.values, changed(NL.scales, (0, 5), 0.1)), ValueError,
         r"block 0, 5: scales\[0, 5\] is 0\.1\d*; it must be a float16; rounding='nearest' takes the nearest"),
        (lambda: k4(scales=changed(K4.scales, (3, 31), 0.1)), ValueError,
         r"block 3, 3: scales\[3, 24:32\] is \[.*\]; they must be one float16 times integers from 0 to 63; round"),
        (lambda: k4(minima=changed(K4.minima, (0, 0), 0.1)), ValueError,
         r"block 0, 0: minima\[0, 0:8\] is"),
        (lambda: k4(scales=changed(K4.scales, (0, 0), np.inf), rounding="nearest"), ValueError,
         r"scales\[0, 0:8\] is \[inf, .*0 to 63$"),
        (lambda: k4(K4.values.astype(int) + 200), ValueError, r"values\[0, 0\] is 2\d\d"),
        (lambda: k4(K4.values.astype(np.float32)), TypeError, r"integers, got float32"),
        (lambda: bq.assemble("Q4_K", K4.values, K4.scales), ValueError, r"minima: pass minima= of shape \(4, 32\)"),
        (lambda: bq.assemble("IQ4_NL", NL.values, NL.scales, NL.scales), ValueError, r"IQ4_NL has no minima"),
        (lambda: k4(scales=K4.scales[:, :3]), ValueError, r"need \(4, 32\)"),
        (lambda: k4(K4.values[:, :100]), ValueError, r"multiple of 256"),
        (lambda: bq.assemble("F16", K4.values, K4.scales), ValueError, r"F16 holds floats"),
        (lambda: bq.assemble("Q8_0", np.ones((2, 32), np.int8), [[1.0], [-1e300]]), ValueError,
         r"scales\[1, 0\] is -1e\+300, beyond the range of float32"),
        (lambda: k4(minima=np.full(K4.minima.shape, 1e39), rounding="nearest"), ValueError, r"minima\[0, 0\] is 1e"),
        (lambda: k4(rounding="up"), ValueError, r"'exact' or 'nearest', got 'up'"),
        (lambda: k4(like=gaussian("Q5_K")), ValueError, r"expected Q4_K"),
        (lambda: bq.assemble(K4, K4.values), TypeError, r"dataclasses\.replace"),
        (lambda: bq.assemble("Q4_K"), TypeError, r"needs values and scales"),
        (lambda: bq.unpack(np.zeros(144, np.uint8)), TypeError, r"QuantizedTensor"),
        (lambda: bq.unpack(bq.quantize(np.ones((2, 8), np.float32), "F16")), ValueError, r"F16 holds floats"),
    ],
)  # fmt: skip
def test_bad_calls_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
