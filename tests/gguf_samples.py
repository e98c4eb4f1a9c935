"""Metadata and tensors of every kind, shared by the GGUF tests."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from blockquant import QuantizedTensor
from blockquant.gguf import TypedValue, ValueType

SCALARS: dict[str, TypedValue] = {
    "v.u8": TypedValue(255, ValueType.UINT8),
    "v.i8": TypedValue(-128, ValueType.INT8),
    "v.u16": TypedValue(65535, ValueType.UINT16),
    "v.i16": TypedValue(-32768, ValueType.INT16),
    "v.u32": TypedValue(2**32 - 1, ValueType.UINT32),
    "v.i32": TypedValue(-(2**31), ValueType.INT32),
    "v.f32": TypedValue(0.15625, ValueType.FLOAT32),
    "v.bool": TypedValue(True, ValueType.BOOL),
    "v.str": TypedValue("tale é 魚 \U0001f980", ValueType.STRING),
    "v.u64": TypedValue(2**64 - 1, ValueType.UINT64),
    "v.i64": TypedValue(-(2**63), ValueType.INT64),
    "v.f64": TypedValue(0.1, ValueType.FLOAT64),
}

NUMBER_ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    f"a.{dtype}": np.arange(-3, 4).astype(dtype)
    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8", "?")
}

# As raw bytes would be: the bytes of any block decode to something, so random ones will do.
_BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q2_K": 84, "Q3_K": 110, "Q4_K": 144}
_BLOCK_BYTES |= {"Q5_K": 176, "Q6_K": 210, "IQ4_NL": 18, "IQ4_XS": 136, "TQ1_0": 54, "TQ2_0": 66, "MXFP4": 17}
_BLOCK_BYTES |= {"NVFP4": 36, "Q1_0": 18, "Q2_0": 18, "IQ1_S": 50, "IQ1_M": 56, "IQ2_XXS": 66, "IQ2_XS": 74}
_BLOCK_BYTES |= {"IQ2_S": 82, "IQ3_XXS": 98, "IQ3_S": 110}


def tensors() -> dict[str, Any]:
    """Name to array or QuantizedTensor, of every dtype and implemented format."""
    rng = np.random.default_rng(7)
    out: dict[str, Any] = {
        "f32": rng.standard_normal((4, 6)).astype(np.float32),
        "f16": rng.standard_normal((2, 3, 4)).astype(np.float16),
        "f64": rng.standard_normal(5),
        "bf16": rng.standard_normal((3, 8)).astype(ml_dtypes.bfloat16),
    }
    for dtype in ("i1", "i2", "i4", "i8"):
        out[f"int.{dtype}"] = rng.integers(-100, 100, (2, 3)).astype(dtype)
    for name, size in _BLOCK_BYTES.items():
        out[f"blocks.{name}"] = QuantizedTensor(rng.integers(0, 256, (3, 2 * size), dtype=np.uint8), name)
    return out


def stored_bytes(tensor: Any) -> bytes:
    """The bytes of a tensor in this machine's order."""
    return bytes(
        tensor.data.tobytes() if isinstance(tensor, QuantizedTensor) else np.ascontiguousarray(tensor).tobytes()
    )


def plan_of(tensors: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """The plan that `create` takes for these tensors."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16"}
    names |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
    return {
        name: (t.shape, t.format if isinstance(t, QuantizedTensor) else names[t.dtype.name])
        for name, t in tensors.items()
    }
