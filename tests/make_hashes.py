"""Write tests/cpp/encode_hashes.inc: FNV-1a 64 of the bytes that ggml's own ggml_quantize_chunk gives for
the inputs of tests/cpp/test_encode.cpp. Needs the xllamacpp wheel.

usage: python tests/make_hashes.py > tests/cpp/encode_hashes.inc
"""

from __future__ import annotations

import struct
import sys

import numpy as np
from ggml import Ggml
from numpy.typing import NDArray

FORMATS = {
    "F32": 0, "F16": 1, "BF16": 30, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8,
    "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ1_S": 19, "IQ1_M": 29, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ2_S": 22, "IQ3_XXS": 18, "IQ3_S": 21,
    "IQ4_NL": 20, "IQ4_XS": 23, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41, "Q2_0": 42,
}  # fmt: skip
NEED_IMATRIX = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
OVERFLOWING_ROWS = (8, 11)  # where ggml's search in a grid stops the program
ROWS, K = 12, 512
MASK = (1 << 64) - 1


class Rng:
    """tests/cpp/rng.hpp: splitmix64."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31

    def uniform(self) -> np.float32:
        return np.float32(((self.next() >> 40) - (1 << 23)) / (1 << 23))


def element(rng: Rng, row: int, i: int) -> np.float32:
    """The rows of test_encode.cpp; every operation is exact or rounds once."""
    u = rng.uniform()
    odd = rng.next()
    zero = np.float32(-0.0 if odd & 16 else 0.0)
    match row:
        case 0:
            return u
        case 1:
            return u * u * u
        case 2:
            return u if odd % 16 == 0 else zero
        case 3:
            return abs(u)
        case 4:
            return np.float32(np.ldexp(u, (i // 16 * 7) % 60 - 40))
        case 5:
            return zero
        case 6:
            return np.float32(-0.75)
        case 7:
            return np.float32(1.5) if i % 97 == 5 else zero
        case 8:
            return np.float32(np.ldexp(u, 127))
        case 9:
            return np.float32(np.ldexp(u, -130))
        case 10:
            return np.float32(5.0) + np.float32(np.ldexp(u, -6))
        case _:
            (value,) = struct.unpack("<f", struct.pack("<I", (odd & 0xBFFFFFFF)))  # any finite bits
            return np.float32(value)


def inputs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = Rng(2024)
    x = np.array([[element(rng, row, i) for i in range(K)] for row in range(ROWS)], np.float32)
    imatrix = np.zeros(K, np.float32)
    for i in range(K):
        u = rng.uniform()
        imatrix[i] = 0 if i % 11 == 3 else u * u * np.float32(8)
    return x, imatrix


def fnv1a(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def main() -> None:
    oracle = Ggml.from_xllamacpp()
    x, imatrix = inputs()
    out = sys.stdout
    out.write(f"// Written by tests/make_hashes.py from the bytes of ggml {oracle.version}; do not edit.\n")
    for name, ggml_type in FORMATS.items():
        rows = np.delete(x, OVERFLOWING_ROWS, axis=0) if name.startswith(("IQ1", "IQ2", "IQ3")) else x
        plain = 0 if name in NEED_IMATRIX else fnv1a(oracle.quantize(ggml_type, rows).tobytes())
        weighted = fnv1a(oracle.quantize(ggml_type, rows, imatrix).tobytes())
        out.write(f"{{FormatId::{name}, 0x{plain:016x}u, 0x{weighted:016x}u}},\n")


if __name__ == "__main__":
    main()
