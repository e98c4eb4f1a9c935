"""Metadata values to bytes: the types that a value gets, and its encoding in either byte order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockquant import _core
from blockquant.gguf._types import SCALAR_DTYPES, GGUFError, RawValue, TypedValue, ValueType

_TYPE_OF_DTYPE = {dtype: kind for kind, dtype in SCALAR_DTYPES.items()}
_INTEGERS = (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64)
# Lists of Python ints become int32 arrays where they can, as llama.cpp writes and reads them.
_LIST_INTEGERS = (ValueType.INT32, ValueType.UINT32, ValueType.INT64, ValueType.UINT64)
_MAX_DEPTH = 8  # of nested arrays, the reader's limit


def _describe(value: object) -> str:
    kind = type(value).__name__
    return f"{kind} of dtype {value.dtype}" if isinstance(value, np.ndarray | np.generic) else kind


def _integer_type(low: int, high: int, candidates: Sequence[ValueType]) -> ValueType:
    for kind in candidates:
        bounds = np.iinfo(SCALAR_DTYPES[kind])
        if bounds.min <= low and high <= bounds.max:
            return kind
    raise GGUFError(f"no integer type of GGUF holds the values {low} to {high}")


def _dtype_type(value: np.ndarray[Any, Any] | np.generic) -> ValueType:
    kind = _TYPE_OF_DTYPE.get(value.dtype.newbyteorder("="))
    if kind is None:
        raise TypeError(f"GGUF metadata cannot hold a {_describe(value)}")
    return kind


def infer(value: object, depth: int = 1) -> TypedValue:
    """The value with its types; TypeError for what GGUF metadata cannot hold. `depth` counts the arrays around it."""
    if depth > _MAX_DEPTH:
        raise GGUFError(f"arrays are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, TypedValue):
        kind = ValueType(value.type)
        if kind is not ValueType.ARRAY:
            return value
        if value.element_type is not None:
            return TypedValue(value.value, kind, ValueType(value.element_type))
        return _infer_array(value.value, depth)
    if isinstance(value, str):  # before numpy scalars: numpy.str_ is a str
        return TypedValue(str(value), ValueType.STRING)
    if isinstance(value, np.generic):
        return TypedValue(value.item(), _dtype_type(value))
    if isinstance(value, bool):
        return TypedValue(value, ValueType.BOOL)
    if isinstance(value, int):
        return TypedValue(int(value), _integer_type(value, value, _INTEGERS))
    if isinstance(value, float):
        return TypedValue(value, ValueType.FLOAT32)
    return _infer_array(value, depth)


def _infer_array(value: object, depth: int) -> TypedValue:
    def array(elements: object, kind: ValueType) -> TypedValue:
        return TypedValue(elements, ValueType.ARRAY, kind)

    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            return infer(value[()])
        if value.dtype.kind in "UO":
            return _infer_array(value.tolist(), depth)
        if value.ndim != 1:
            raise TypeError(f"GGUF metadata arrays have one dimension, got the shape {value.shape}")
        return array(value, _dtype_type(value))
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"GGUF metadata cannot hold a {_describe(value)}: expected str, bool, int, float, a list or a numpy array"
        )
    items = list(value)
    if not items:
        raise TypeError("the type of an empty list is unknown: give TypedValue([], ValueType.ARRAY, element_type)")
    if all(isinstance(item, str) for item in items):
        return array(items, ValueType.STRING)
    if all(isinstance(item, bool | np.bool_) for item in items):
        return array(items, ValueType.BOOL)
    if any(isinstance(item, bool | np.bool_) for item in items):
        raise TypeError("a GGUF metadata list cannot mix bools with other values")
    if all(isinstance(item, int | np.integer) for item in items):
        return array(items, _integer_type(int(min(items)), int(max(items)), _LIST_INTEGERS))
    if all(isinstance(item, int | float | np.integer | np.floating) for item in items):
        return array(items, ValueType.FLOAT32)
    if all(isinstance(item, list | tuple | np.ndarray | TypedValue) for item in items):
        return array([infer(item, depth + 1) for item in items], ValueType.ARRAY)
    raise TypeError("the items of a GGUF metadata list must be of one type: " + ", ".join(map(_describe, items[:4])))


def encode_text(text: str) -> bytes:
    """UTF-8; lone surrogates that stand for undecodable bytes become those bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise GGUFError(f"{text[:40]!r} cannot be written as UTF-8: {error.reason}") from None


def encode_string(text: str, order: str) -> bytes:
    data = encode_text(text)
    return struct.pack(order + "Q", len(data)) + data


def encode_entry(key: str, value: object, order: str) -> bytes:
    """A metadata entry: key, type, value. `order` is "<" or ">"."""
    if not isinstance(key, str):
        raise TypeError(f"metadata keys are str, got {_describe(key)}")
    if not 0 < len(encode_text(key)) <= 65535:
        raise GGUFError(f"metadata key {key[:40]!r} is empty or longer than 65535 bytes")
    if isinstance(value, RawValue):
        if value.order != order:
            raise GGUFError(f"metadata {key!r} is in the other byte order")
        return encode_string(key, order) + struct.pack(order + "I", value.type) + value.payload
    try:
        typed = infer(value)
        entry = encode_string(key, order) + struct.pack(order + "I", typed.type) + _encode_value(typed, order)
        check_entries(entry, 1, order)
        return entry
    except GGUFError as error:
        raise GGUFError(f"metadata {key!r}: {error}") from None
    except TypeError as error:
        raise TypeError(f"metadata {key!r}: {error}") from None


def check_entries(entries: bytes, count: int, order: str) -> None:
    """GGUFError when the reader would not take these metadata entries: what is written can be read again."""
    head = b"GGUF" + struct.pack(order + "IQQ", 3, 0, count)
    try:
        _core.gguf_parse(head + entries, {})
    except ValueError as error:
        raise GGUFError(str(error).rsplit(" (at byte", 1)[0]) from None


def _encode_value(typed: TypedValue, order: str, depth: int = 1) -> bytes:
    value, kind = typed.value, ValueType(typed.type)
    if kind is ValueType.STRING:
        if not isinstance(value, str):
            raise TypeError(f"a value of type STRING must be a str, got {_describe(value)}")
        return encode_string(value, order)
    if kind is ValueType.ARRAY:
        assert typed.element_type is not None
        return _encode_array(value, typed.element_type, order, depth)
    if isinstance(value, str | list | tuple | np.ndarray):
        raise TypeError(f"a value of type {kind.name} must be a number, got {_describe(value)}")
    return _stored([value], kind, order)


def _encode_array(value: Any, element: ValueType, order: str, depth: int) -> bytes:
    if isinstance(value, str):
        raise TypeError(f"an array of type {element.name} must be a list or a numpy array, got {_describe(value)}")
    if element is ValueType.STRING:
        value = list(value)
        try:
            body: bytes = _core.gguf_encode_strings(value, order == ">")
        except UnicodeEncodeError as error:
            raise GGUFError(f"a string cannot be written as UTF-8: {error.reason}") from None
    elif element is ValueType.ARRAY:
        value = [infer(item, depth + 1) for item in value]
        if any(item.type is not ValueType.ARRAY for item in value):
            raise TypeError("the items of an array of arrays must be arrays")
        body = b"".join(_encode_value(item, order, depth + 1) for item in value)
    else:
        body = _stored(value, element, order)
    return struct.pack(order + "IQ", element, len(value)) + body


def _stored(numbers: Any, kind: ValueType, order: str) -> bytes:
    return _numbers(numbers, kind).astype(SCALAR_DTYPES[kind].newbyteorder(order)).tobytes()  # type: ignore[arg-type]


def _numbers(value: Any, kind: ValueType) -> np.ndarray[Any, Any]:
    """A list or array of numbers in the type's dtype; GGUFError when one of them does not fit."""
    dtype = SCALAR_DTYPES[kind]
    try:
        given = np.asarray(value)
        if given.ndim != 1:
            raise ValueError(f"an array has one dimension, got the shape {given.shape}")
        if isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") == dtype:
            return value
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                cast = np.asarray(value, np.float64).astype(dtype)
            fits = bool(np.array_equal(np.isinf(cast), np.isinf(np.asarray(value, np.float64))))
        elif given.size == 0:
            return np.empty(0, dtype)
        else:
            # Element by element through Python: numpy would wrap, or round 64-bit integers through doubles.
            items = given.ravel().tolist() if not isinstance(value, list) else value
            low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            fits = all(low <= item <= high and item == int(item) for item in items)
            cast = np.array([int(item) for item in items], dtype) if fits else given
    except (OverflowError, ValueError, TypeError) as error:
        raise TypeError(f"expected numbers of type {kind.name}: {error}") from None
    if not fits:
        raise GGUFError(f"a value does not fit the type {kind.name}")
    return cast
