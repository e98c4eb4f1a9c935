"""The vocabulary of GGUF files: value types, typed values, what is known of a tensor without its data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from blockquant import _core
from blockquant.errors import BlockquantError


class GGUFError(BlockquantError):
    """A malformed file, or something that a GGUF file cannot hold."""


class ValueType(IntEnum):
    """Types of metadata values; the numbers are those in files."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True)
class TypedValue:
    """A metadata value with its exact type in the file.

    `value` is an int, float, bool or str; for ValueType.ARRAY a numpy array, a list of str, or a list of TypedValue
    arrays. `element_type` is the type of an array's elements; left out, it follows from the value (an empty list
    needs it).
    """

    value: Any
    type: ValueType
    element_type: ValueType | None = None


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """What is known of a metadata value without decoding it.

    `count` is the length of an array, else 1; `nbytes` the bytes of its elements in the file.
    """

    type: ValueType
    element_type: ValueType | None
    count: int
    nbytes: int


class RawValue(NamedTuple):
    """A value as a file's bytes; they go unchanged into another file of the same byte order ("<" or ">")."""

    type: int
    payload: bytes
    order: str


class TensorInfo(NamedTuple):
    """Where a tensor is.

    `shape` is in numpy order ([N, K]: rows of K elements, the reverse of the file's), `format` a `blockquant.Format`
    or, for what only files have, one of "I8", "I16", "I32", "I64", "F64"; `nbytes` and `offset` (from the beginning
    of its file) are bytes, `shard` is the index of its file in a set of shards.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int
    offset: int
    shard: int = 0


# The numpy type of each scalar type; both orders of bytes are made of these.
SCALAR_DTYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("u2"),
    ValueType.INT16: np.dtype("i2"),
    ValueType.UINT32: np.dtype("u4"),
    ValueType.INT32: np.dtype("i4"),
    ValueType.FLOAT32: np.dtype("f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("u8"),
    ValueType.INT64: np.dtype("i8"),
    ValueType.FLOAT64: np.dtype("f8"),
}

# Tensor types whose data is an ndarray; all others are QuantizedTensors.
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "F64": np.dtype("f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("i2"),
    "I32": np.dtype("i4"),
    "I64": np.dtype("i8"),
}


class Layout(NamedTuple):
    """How a tensor type is stored."""

    ggml_type: int
    block_size: int
    type_size: int


LAYOUTS: dict[str, Layout] = {row[0]: Layout(row[1], row[2], row[3]) for row in _core.format_table()}
LAYOUTS.update({name: Layout(ggml_type, 1, size) for name, ggml_type, size in _core.gguf_plain_types()})


def tensor_bytes(name: str, shape: tuple[int, ...], format: str) -> int:
    """Bytes of a tensor; GGUFError for an unknown format, a wrong number of dimensions, or rows that do not fit."""
    layout = LAYOUTS.get(format)
    if layout is None:
        raise GGUFError(f"tensor {name!r}: unknown format {str(format)!r}, expected one of {', '.join(LAYOUTS)}")
    if len(shape) > 4 or any(n < 0 for n in shape):
        raise GGUFError(f"tensor {name!r}: GGUF holds 0 to 4 dimensions, got the shape {tuple(shape)}")
    row = shape[-1] if shape else 1
    if row % layout.block_size:
        raise GGUFError(
            f"tensor {name!r}: rows of {row} elements are not a multiple of the {layout.block_size} of a {format} block"
        )
    count = 1
    for n in shape:
        count *= int(n)
    return count // layout.block_size * layout.type_size
