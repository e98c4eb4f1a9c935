"""One file, mapped: where its header says that everything is, and what is there when it is asked for."""

from __future__ import annotations

import builtins
import functools
import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from blockquant import _core
from blockquant.gguf._journal import journal_path
from blockquant.gguf._types import (
    ARRAY_DTYPES,
    LAYOUTS,
    SCALAR_DTYPES,
    GGUFError,
    RawValue,
    TensorInfo,
    TypedValue,
    ValueInfo,
    ValueType,
)

if TYPE_CHECKING:
    from blockquant._tensor import QuantizedTensor

# Where a metadata value is: type, element type, count, offset, nbytes.
Location: TypeAlias = tuple[int, int, int, int, int]


class MappedFile:
    """One file: its mapping and the index of its header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer: mmap.mmap | bytes | None = b""
        if os.path.lexists(journal_path(path)):
            raise GGUFError(
                f"{path}: an edit of its metadata is going on or was interrupted: "
                "`blockquant edit` without changes finishes it if it was interrupted"
            )
        with builtins.open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size:
                self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = self._core_call(_core.gguf_parse, tensor_types())
        self.version: int = header[0]
        self.big_endian: bool = header[1]
        self.alignment: int = header[2]
        self.data_offset: int = header[3]
        self.metadata: dict[str, Location] = dict(header[4])
        self.tensors: list[tuple[str, tuple[int, ...], str, int, int]] = header[5]

    @property
    def mapped(self) -> mmap.mmap | bytes:
        if self.buffer is None:
            raise GGUFError(f"{self.path} is closed; views taken earlier stay valid")
        return self.buffer

    def _core_call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(self.mapped, *args)
        except GGUFError:
            raise
        except ValueError as error:
            raise GGUFError(f"{self.path}: {error}") from None

    def value(self, location: Location, limit: int | None = None) -> TypedValue:
        """Decode a value; of an array, the first `limit` elements at most."""
        type_, element, count, offset, nbytes = location
        kind = ValueType(type_)
        if kind is ValueType.STRING:
            return TypedValue(self.mapped[offset : offset + nbytes].decode("utf-8", "surrogateescape"), kind)
        if kind is ValueType.ARRAY:
            count = count if limit is None else min(count, limit)
            return TypedValue(self._array(ValueType(element), count, offset), kind, ValueType(element))
        return TypedValue(np.frombuffer(self.mapped, self._stored(kind), 1, offset).item(), kind)

    def value_info(self, key: str) -> ValueInfo:
        """Type and length of a value without decoding it."""
        type_, element, count, _, nbytes = self.metadata[key]
        kind = ValueType(type_)
        return ValueInfo(kind, ValueType(element) if kind is ValueType.ARRAY else None, count, nbytes)

    def raw_value(self, key: str) -> RawValue:
        """A value as the file's bytes, which `create` writes again as they are."""
        type_, element, count, offset, nbytes = self.metadata[key]
        order = ">" if self.big_endian else "<"
        if type_ == ValueType.STRING:
            head = struct.pack(order + "Q", nbytes)
        elif type_ == ValueType.ARRAY:
            head = struct.pack(order + "IQ", element, count)
        else:
            head = b""
        return RawValue(type_, head + self.mapped[offset : offset + nbytes], order)

    def raw_tensor(self, info: TensorInfo) -> memoryview:
        """A tensor's bytes in the file's byte order, without a copy."""
        return memoryview(self.mapped)[info.offset : info.offset + info.nbytes]

    def _stored(self, kind: ValueType) -> np.dtype[Any]:
        dtype: np.dtype[Any] = SCALAR_DTYPES[kind].newbyteorder("big" if self.big_endian else "little")
        return dtype

    def _array(self, element: ValueType, count: int, offset: int) -> Any:
        if element is ValueType.STRING:
            return self._core_call(_core.gguf_strings, offset, count, self.big_endian)
        if element is ValueType.ARRAY:
            locations = self._core_call(_core.gguf_arrays, offset, count, self.big_endian)
            return [self.value(location) for location in locations]
        dtype = SCALAR_DTYPES[element]
        if count == 0:
            array = np.empty(0, dtype)
        else:
            # A copy, so that a value keeps neither the mapping alive nor an odd alignment.
            array = np.frombuffer(self.mapped, self._stored(element), count, offset).astype(dtype)
        array.flags.writeable = False
        return array

    def tensor(self, info: TensorInfo) -> np.ndarray[Any, Any] | QuantizedTensor:
        raw: np.ndarray[Any, Any]
        if info.nbytes == 0:
            raw = np.empty(0, np.uint8)
        else:
            # The view holds the mapping: it outlives this object.
            raw = np.frombuffer(self.mapped, np.uint8, info.nbytes, info.offset)
        layout = LAYOUTS[info.format]
        dtype = ARRAY_DTYPES.get(info.format)
        width = dtype.itemsize if dtype is not None else 2
        if self.big_endian != (sys.byteorder == "big"):
            raw = raw.copy()
            try:
                _core.gguf_swap_blocks(str(info.format), raw)
            except ValueError as error:
                raise GGUFError(f"{self.path}: tensor {info.name!r}: {error}") from None
        elif info.offset % width:
            raw = raw.copy()  # an alignment of 1 in the file: kernels want aligned numbers
        raw.flags.writeable = False
        if dtype is not None:
            return raw.view(dtype).reshape(info.shape)
        from blockquant._tensor import QuantizedTensor

        shape = info.shape or (1,)
        row_bytes = shape[-1] // layout.block_size * layout.type_size
        return QuantizedTensor(raw.reshape(*shape[:-1], row_bytes), info.format)


@functools.cache
def tensor_types() -> dict[str, str]:
    """Each tensor type's name to the registry's Format, or to itself when only files have it."""
    from blockquant._formats import formats

    return {name: formats.get(name, name) for name in LAYOUTS}
