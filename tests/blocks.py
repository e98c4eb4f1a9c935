"""Facts about the formats' bytes that tests use, and inputs that are hard to quantize."""

from __future__ import annotations

import blockquant as bq
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Byte offsets of the float16 fields of a block.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,), "Q1_0": (0,), "Q2_0": (0,),
}  # fmt: skip

# The bytes of a block that hold its integers, how many levels they have, and what sets all to the extremes. Where
# levels are uneven: how many even ones would have the largest gap of theirs.
INTEGERS = {
    "Q4_0": (slice(2, 18), 16, 0x00, 0xFF), "Q4_1": (slice(4, 20), 16, 0x00, 0xFF),
    "Q5_0": (slice(2, 22), 32, 0x00, 0xFF), "Q5_1": (slice(4, 24), 32, 0x00, 0xFF),
    "Q8_0": (slice(2, 34), 255, 0x81, 0x7F), "Q2_K": (slice(16, 80), 4, 0x00, 0xFF),
    "Q3_K": (slice(0, 96), 8, 0x00, 0xFF), "Q4_K": (slice(16, 144), 16, 0x00, 0xFF),
    "Q5_K": (slice(16, 176), 32, 0x00, 0xFF), "Q6_K": (slice(0, 192), 64, 0x00, 0xFF),
    "TQ1_0": (slice(0, 52), 3, 0x00, 0xFF), "TQ2_0": (slice(0, 64), 3, 0x00, 0xAA),
    "Q1_0": (slice(2, 18), 2, 0x00, 0xFF), "Q2_0": (slice(2, 18), 4, 0x00, 0xFF),
    "MXFP4": (slice(1, 17), 7, 0xFF, 0x77), "NVFP4": (slice(4, 36), 7, 0xFF, 0x77),  # 6 - 4 of 12
    "IQ4_NL": (slice(2, 18), 11, 0x00, 0xFF), "IQ4_XS": (slice(8, 136), 11, 0x00, 0xFF),  # 113 - 89 of 240
}  # fmt: skip

# Their integers are chosen for the scales as stored; the others' for the scale before it is rounded to float16.
CHOSEN_FOR_STORED_SCALES = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "NVFP4"})

# The formats with codebooks. Where a search in one overflows, ggml stops the program.
GRIDS = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"})

# Zero, subnormals, the normal range's ends, infinities, NaNs.
SPECIAL_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x83FF, 0x03FF, 0x0400, 0x8400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x3C00],
    np.uint16,
)


def imatrix_for(name: str, k: int) -> Floats | None:
    """Importance for a format that needs it, else None."""
    return np.linspace(0.1, 1, k, dtype=np.float32) if bq.formats[name].needs_imatrix else None


def gaussian(*shape: int, seed: int = 0) -> Floats:
    """Weights of an ordinary size."""
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def quantize(x: object, name: str) -> bq.QuantizedTensor:
    """With importance where the format needs it."""
    return bq.quantize(x, name, imatrix=imatrix_for(name, np.shape(x)[-1]))


def with_integers(data: Bytes, name: str, type_size: int, value: int) -> Bytes:
    """The same scales, every byte of integers set to `value`."""
    blocks = data.reshape(-1, type_size).copy()
    blocks[:, INTEGERS[name][0]] = value
    return blocks.reshape(data.shape)


def random_blocks(name: str, type_size: int, blocks: int, rng: np.random.Generator) -> Bytes:
    """One row of random bytes; in half of the blocks each float16 field is one of SPECIAL_HALVES."""
    data = rng.integers(0, 256, (blocks, type_size), dtype=np.uint8)
    for at in HALVES.get(name, ()):
        special = rng.choice(SPECIAL_HALVES, blocks).view(np.uint8).reshape(blocks, 2)
        use = np.arange(blocks) % 2 == 0
        data[use, at : at + 2] = special[use]
    return data.reshape(1, -1)


def finite_bits(rng: np.random.Generator, shape: tuple[int, ...], exponents: int = 255) -> Floats:
    """Random bits of either sign with an exponent field below `exponents`: 1 gives subnormals, 255 anything."""
    mantissa = rng.integers(0, 1 << 23, shape, dtype=np.uint32)
    exponent = rng.integers(0, exponents, shape, dtype=np.uint32)
    sign = rng.integers(0, 2, shape, dtype=np.uint32)
    return (sign << 31 | exponent << 23 | mantissa).view(np.float32)


def hard_rows(seed: int, k: int, rows: int = 3) -> tuple[Floats, list[str]]:
    """Float32 [N, k] of every kind that has a trap for an encoder, and the kind of each row."""
    rng = np.random.default_rng(seed)
    shape = (rows, k)
    f32 = np.float32
    largest = np.finfo(f32).max

    def normal() -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    def scaled(exponent: NDArray[np.float64] | float) -> Floats:
        return np.clip(normal() * 10.0**exponent, -largest, largest).astype(f32)

    def per_run(low: float, high: float) -> Floats:
        return scaled(rng.uniform(low, high, (rows, k // 16)).repeat(16, axis=1))

    one_hot = np.zeros(shape, f32)
    one_hot[np.arange(rows), rng.integers(0, k, rows)] = rng.standard_normal(rows)
    two_runs = np.zeros(shape, f32)
    two_runs[:, :16] = normal()[:, :16]
    two_runs[:, -16:] = -0.0
    kinds: dict[str, NDArray[np.floating]] = {
        "gaussian": normal(),
        "heavy-tailed": rng.standard_t(2, shape),
        "sparse": normal() * (rng.random(shape) < 0.05),
        "one-sided": np.abs(normal()),
        "negative": -np.abs(normal()),
        "shifted": normal() * 0.01 + 5,
        "shifted down": normal() * 0.01 - 5,
        "constant": np.repeat(rng.standard_normal((rows, 1)), k, axis=1),
        "zero": np.zeros(shape),
        "negative zero": -np.zeros(shape),
        "zeros of both signs": np.where(normal() > 0, 0.0, -0.0),
        "one-hot": one_hot,
        "two runs": two_runs,
        "two values": np.where(normal() > 0, 1.5, -0.25),
        "integers": np.round(normal() * 4),
        "mixed magnitudes": scaled(rng.uniform(-8, 4, shape)),
        "runs of all magnitudes": per_run(-44, 38),
        "runs whose squares overflow": per_run(14, 24),
        "runs around the f16 range": per_run(-9, 6),
        "largest floats": np.where(normal() > 0, largest, -largest),
        "largest float": np.full(shape, largest),
        "subnormal": finite_bits(rng, shape, exponents=1),
        "smallest subnormals": finite_bits(rng, shape, exponents=1) * f32(2.0**-19),
        "any bits": finite_bits(rng, shape),
    }
    for exponent in (
        -45,
        -42,
        -39,
        -38,
        -37,
        -36,
        -30,
        -20,
        -16,
        -14,
        -10,
        -8,
        -6,
        -4,
        4,
        5,
        6,
        8,
        12,
        18,
        19,
        25,
        37,
        38,
    ):
        kinds[f"1e{exponent}"] = scaled(exponent)
    x = np.concatenate([np.asarray(value, f32) for value in kinds.values()])
    return np.ascontiguousarray(x), [kind for kind in kinds for _ in range(rows)]


def encodable_by_ggml(
    name: str, x: Floats, kinds: list[str], imatrices: dict[str, Floats | None]
) -> tuple[Floats, list[str], dict[str, Floats | None]]:
    """Of the results of `hard_rows` and `hard_imatrices` those that ggml encodes in this format."""
    if bq.formats[name].needs_imatrix:
        imatrices = {kind: imatrix for kind, imatrix in imatrices.items() if imatrix is not None}
    if name in GRIDS:
        imatrices = {kind: imatrix for kind, imatrix in imatrices.items() if imatrix is None or imatrix.max() < 1e5}
        keep = np.abs(x).max(axis=1) < 1e5
        x, kinds = x[keep], [kind for kind, kept in zip(kinds, keep, strict=True) if kept]
    return x, kinds, imatrices


def hard_imatrices(seed: int, k: int) -> dict[str, Floats | None]:
    """Float32 [k] weights of every kind, and None."""
    rng = np.random.default_rng(seed + 1000)
    random = (rng.random(k) ** 4 * 10 + 1e-4).astype(np.float32)
    holes = np.where(rng.random(k) < 0.5, np.float32(0), random)
    empty_runs = np.where((rng.random(k // 16) < 0.5).repeat(16), np.float32(0), random)
    return {
        "none": None,
        "random": random,
        "with zeros": holes,
        "with empty runs": empty_runs,
        "constant": np.ones(k, np.float32),
        "all zero": np.zeros(k, np.float32),
        "huge": random * np.float32(1e30),
        "largest": np.full(k, 3e38, np.float32),
        "tiny": random * np.float32(1e-35),
        "subnormal": np.full(k, 1e-44, np.float32),
        "of all magnitudes": (10.0 ** rng.uniform(-40, 38, k)).astype(np.float32),
    }
