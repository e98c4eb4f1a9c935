"""Float conversions of whole arrays: bfloat16 as its 16 bits, round to nearest even, as llama.cpp rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockquant.errors import BlockquantError


def to_float32(data: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Elements of a stored dtype (BF16 given as uint16 bits) as float32.

    Raises ValueError for a finite float64 beyond the range of float32, naming the first.
    """
    if dtype == "BF16":
        widened: NDArray[np.float32] = (data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    with np.errstate(over="ignore", invalid="ignore"):
        values = data.astype(np.float32)
    if dtype == "F64" and (lost := np.isinf(values) & np.isfinite(data)).any():
        index = np.unravel_index(int(np.argmax(lost)), lost.shape)
        at = ", ".join(map(str, index))
        raise BlockquantError(f"x[{at}] is {data[index]:g}, beyond the range of float32; scale the weights down first")
    return values


def to_bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 to bfloat16 bits, rounded to nearest even; NaN stays NaN (made quiet)."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    result: NDArray[np.uint16] = np.where(nan, (bits >> np.uint32(16)) | np.uint32(64), rounded).astype(np.uint16)
    return result


def to_format(data: NDArray[Any], dtype: str, format: str) -> NDArray[Any]:
    """Elements of a stored dtype as `format`: float32 for F32, float16 for F16, uint16 bits for BF16."""
    if dtype == format:
        return np.ascontiguousarray(data)
    values = to_float32(data, dtype)
    if format == "BF16":
        return to_bfloat16_bits(values)
    if format == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float16)
    return values
