"""Blocks apart and together again: unpack and assemble."""

from __future__ import annotations

import dataclasses

import blockquant as bq
import blocks
import numpy as np
import pytest
from blocks import Floats
from hypothesis import given, settings
from hypothesis import strategies as st

QUANTIZED = [f.name for f in bq.formats.values() if f.implemented and f.run]
SUPER_BLOCKS = [name for name in QUANTIZED if bq.formats[name].block_size == 256 and bq.formats[name].run < 256]
WITH_MINIMA = [name for name in QUANTIZED if bq.formats[name].has_minima]
seeds = st.integers(0, 2**32 - 1)


def weights_for(name: str, k: int) -> Floats | None:
    """An imatrix for the formats that need one."""
    return np.linspace(0.1, 1, k, dtype=np.float32) if bq.formats[name].needs_imatrix else None


def gaussian(name: str, seed: int = 0, rows: int = 4, k: int = 1024) -> bq.QuantizedTensor:
    x = (np.random.default_rng(seed).standard_normal((rows, k)) * 0.05).astype(np.float32)
    return bq.quantize(x, name, imatrix=weights_for(name, k))


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


# One block, one meaning: every byte comes back from the arrays alone.
INJECTIVE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "TQ2_0", "Q1_0", "Q2_0"}


@pytest.mark.parametrize("name", sorted(INJECTIVE))
def test_any_bytes_come_back_from_the_arrays(name: str) -> None:
    q = random_tensor(name, 4, 2048)
    assert np.array_equal(from_arrays(bq.unpack(q)).data, q.data)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, low=st.floats(-2, 2), spread=st.floats(0, 3), weighted=st.booleans())
@pytest.mark.parametrize("name", QUANTIZED)
def test_encoded_bytes_come_back_from_the_arrays(name, seed, low, spread, weighted) -> None:
    rng = np.random.default_rng(seed)
    magnitudes = (10.0 ** rng.uniform(low, low + spread, (4, 64))).repeat(16, axis=1)
    x = (rng.standard_normal((4, 1024)) * magnitudes).astype(np.float32)
    imatrix = rng.random(1024).astype(np.float32) if weighted else weights_for(name, 1024)
    q = bq.quantize(x, name, imatrix=imatrix)
    assert np.array_equal(from_arrays(bq.unpack(q)).data, q.data)
