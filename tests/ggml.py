"""ggml itself, through ctypes: the oracle of bytes and bits.

Any shared library that exports ggml will do; the ordinary tests use the extension module of the xllamacpp wheel.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ToFloat),
        ("from_float_ref", ctypes.c_void_p),
    ]


class Ggml:
    """The functions of ggml that fix bytes. Formats are ggml type ids."""

    def __init__(self, library: str | Path) -> None:
        lib = self._lib = ctypes.CDLL(str(library))
        lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 3,
            ctypes.c_void_p,
        ]
        lib.ggml_row_size.restype = ctypes.c_size_t
        lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        lib.ggml_version.restype = ctypes.c_char_p
        self.version: str = lib.ggml_version().decode()

    @classmethod
    def from_xllamacpp(cls) -> Ggml:
        import xllamacpp

        return cls(xllamacpp.xllamacpp.__file__)

    def row_size(self, ggml_type: int, k: int) -> int:
        """Bytes of a row of k elements."""
        return int(self._lib.ggml_row_size(ggml_type, k))

    def quantize(
        self, ggml_type: int, x: NDArray[np.float32], imatrix: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """float32 [N, K] to uint8 [N, row_size(K)]; imatrix is float32 [K]."""
        x = np.ascontiguousarray(x, np.float32)
        rows, k = x.shape
        out = np.zeros((rows, self.row_size(ggml_type, k)), np.uint8)
        weights = None
        if imatrix is not None:
            imatrix = np.ascontiguousarray(imatrix, np.float32)
            assert imatrix.shape == (k,)
            weights = imatrix.ctypes.data
        self._lib.ggml_quantize_chunk(ggml_type, x.ctypes.data, out.ctypes.data, 0, rows, k, weights)
        return out

    def dequantize(self, ggml_type: int, data: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
        """uint8 [N, row_size(k)] to float32 [N, k]."""
        data = np.ascontiguousarray(data, np.uint8)
        assert data.shape[1] == self.row_size(ggml_type, k)
        if ggml_type == 0:  # ggml has no function for float32
            return data.view(np.float32)
        out = np.empty((data.shape[0], k), np.float32)
        self._lib.ggml_get_type_traits(ggml_type).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)
        return out
