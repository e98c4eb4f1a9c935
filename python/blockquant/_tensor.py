"""Quantized tensors: encode, decode, multiply, measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant._arrays import (
    BF16,
    Array,
    bf16_to_float32,
    delivered,
    output_dtype,
    room_for,
    take_floats,
    to_float32,
)
from blockquant._error_sums import ErrorSums
from blockquant._formats import Format, find_format
from blockquant._runtime import thread_count
from blockquant.errors import BlockquantError

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class QuantizedTensor:
    """Blocks of one format, an array of rows: the last axis of `shape` is the row.

    Args:
        data: uint8 array [..., row_bytes] of whole rows. It is not copied when it is C-contiguous, and may be a
            read-only view of a mapped file.
        format: name, Format or ggml type id.

    ``np.asarray(q)`` is the float32 array, ``q[i]`` and ``q[i:j]`` are rows (views), ``len(q)`` is the length of the
    first axis. Tensors pickle.
    """

    __slots__ = ("__weakref__", "_data", "_format", "_kind")
    _data: Bytes
    _format: Format
    _kind: int  # the ggml type

    def __init__(self, data: npt.ArrayLike, format: object) -> None:
        found = find_format(format)
        array = np.asarray(data)
        if array.dtype != np.uint8:
            hint = "; take np.frombuffer(data, np.uint8)" if isinstance(data, bytes) else ""
            raise TypeError(f"data must be a uint8 array of the bytes of blocks, got {array.dtype}{hint}")
        if array.ndim == 0:
            raise BlockquantError("data must have at least one dimension")
        if array.shape[-1] % found.type_size:
            raise BlockquantError(
                f"rows of {array.shape[-1]} bytes are not whole {found.name} blocks of {found.type_size} bytes"
            )
        self._data = np.ascontiguousarray(array)
        self._format, self._kind = found, found.ggml_type

    @property
    def format(self) -> Format:
        """The format, equal to its name."""
        return self._format

    @property
    def data(self) -> Bytes:
        """The bytes, uint8 [..., row_bytes], C-contiguous; read-only when the tensor views a mapped file."""
        return self._data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in elements."""
        f = self._format
        return (*self._data.shape[:-1], self._data.shape[-1] // f.type_size * f.block_size)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self._data.size // self._format.type_size * self._format.block_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self._data.nbytes

    def dequantize(
        self, dtype: npt.DTypeLike | str | None = None, out: Array | None = None, threads: int | None = None
    ) -> Array:
        """Decode to an array of `shape`: float32, float16 or bfloat16 (``"bfloat16"`` or ``ml_dtypes.bfloat16``).

        The default is the dtype of `out`, or float32 without it. Float32 values are the exact bits that ggml gives; the
        16-bit ones are those rounded to nearest even. With `out` (C-contiguous, of the same shape and dtype) nothing is
        allocated, unless it overlaps `data`, and `out` is returned.
        """
        self._format.require_implemented()
        if dtype is None:
            dtype = out.dtype if isinstance(out, np.ndarray) else np.float32
        wanted, code = output_dtype(dtype)
        result = room_for(out, self.shape, wanted, self._data)
        bits = result.view(np.uint16) if code == BF16 else result
        _core.decode(self._data, self._format.ggml_type, bits, code, thread_count(threads))
        return delivered(result, out)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a quantized tensor becomes an array only by decoding, which makes a copy")
        array = self.dequantize()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        if self.ndim == 1:
            raise TypeError("a single quantized row has no length along rows; use shape[-1] for its elements")
        return int(self._data.shape[0])

    def __iter__(self) -> Iterator[QuantizedTensor]:
        if self.ndim == 1:
            raise TypeError("a single quantized row has no rows; dequantize() it to reach its elements")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: SupportsIndex | slice | tuple[SupportsIndex | slice, ...]) -> QuantizedTensor:
        items = index if isinstance(index, tuple) else (index,)
        if len(items) >= self.ndim:
            raise IndexError(
                f"a quantized tensor of shape {self.shape} can be indexed along its first {self.ndim - 1} axes only; "
                f"dequantize() a row to reach its elements"
            )
        for item in items:
            if isinstance(item, bool | np.ndarray) or not (isinstance(item, slice) or hasattr(item, "__index__")):
                raise TypeError(f"rows are chosen by integers and slices, not {type(item).__name__}")
        return QuantizedTensor(self._data[items], self._format)

    def __repr__(self) -> str:
        return f"QuantizedTensor({self._format.name}, shape={self.shape}, {self.nbytes:,} bytes)"

    def __copy__(self) -> QuantizedTensor:
        return QuantizedTensor(self._data, self._format)

    def __reduce__(self) -> tuple[Any, ...]:
        return (QuantizedTensor, (np.array(self._data), self._format.name))


def quantize(
    x: object,
    format: object,
    imatrix: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    out: Bytes | None = None,
) -> QuantizedTensor:
    """Quantize floats to blocks along the last axis; the bytes are those of ggml.

    Args:
        x: [..., K]: numpy float16, float32, float64 or ml_dtypes.bfloat16 with any strides, anything with
            ``__dlpack__`` (torch tensors on the CPU, not copied) or ``__array__``. Values are taken as float32.
        format: a name such as ``"Q4_K"``, a Format, a ggml type id or a ``gguf.GGMLQuantizationType``.
        imatrix: weights of the squared error, float [K], or [E, K] for x of shape [E, N, K]; finite and >= 0.
        threads: default `get_num_threads()`. The bytes do not depend on it.
        out: uint8 [..., row_bytes], C-contiguous, for the bytes; the result is a view of it. It may overlap x, which
            takes a copy.

    Raises:
        ValueError: K is not a multiple of the block size, unknown format, NaN or infinity in x (the first index is
            named), missing or unsuitable imatrix.
        TypeError: a dtype that cannot be taken.
    """
    found = find_format(format)
    found.require_implemented()
    array, code = take_floats(x)
    if array.ndim == 0:
        raise BlockquantError("x must have at least one dimension, got a single number")
    row_bytes = found.row_bytes(array.shape[-1])
    weights = _check_imatrix(imatrix, array.shape, found)
    shape, dtype = (*array.shape[:-1], row_bytes), np.dtype(np.uint8)
    data = room_for(out, shape, dtype, array, *(() if weights is None else (weights,)))
    bad = _core.encode(array, code, found.ggml_type, data, weights, thread_count(threads))
    if bad >= 0:
        raise _nonfinite_error(array, code, bad)
    return QuantizedTensor(delivered(data, out), found)


def _check_imatrix(imatrix: npt.ArrayLike | None, shape: tuple[int, ...], format: Format) -> FloatArray | None:
    if imatrix is None:
        if format.needs_imatrix:
            raise BlockquantError(
                f"{format.name} needs an importance matrix; pass imatrix=, for example from blockquant.imatrix.load() "
                "of a file that llama-imatrix made of this model"
            )
        return None
    with np.errstate(over="ignore"):
        weights = to_float32(imatrix, "imatrix")
    k = shape[-1]
    per_expert = len(shape) >= 3 and weights.shape == (shape[0], k)
    if weights.shape != (k,) and not per_expert:
        expected = f"({k},)" + (f" or ({shape[0]}, {k})" if len(shape) >= 3 else "")
        raise BlockquantError(f"imatrix has shape {weights.shape}; expected {expected} for x of shape {shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        where = np.unravel_index(int(np.argmax(~(np.isfinite(weights) & (weights >= 0)))), weights.shape)
        at = ", ".join(map(str, where))
        raise BlockquantError(f"imatrix[{at}] is {weights[where]}; weights must be finite and not negative")
    return weights.reshape(-1, k) if weights.size else None  # without weights there are no elements either


def _nonfinite_error(array: Array, code: int, flat: int) -> BlockquantError:
    index = np.unravel_index(flat, array.shape)
    at = ", ".join(map(str, index))
    value = float(bf16_to_float32(array[index]) if code == BF16 else array[index])
    why = "beyond the range of float32" if np.isfinite(value) else "not finite"
    return BlockquantError(f"x[{at}] is {value:g}, {why}; quantization needs finite values, replace them first")


def dequantize(
    data: npt.ArrayLike | QuantizedTensor,
    format: object = None,
    dtype: npt.DTypeLike | str | None = None,
    out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """Decode bytes of blocks, uint8 [..., row_bytes], to an array [..., K]; see `QuantizedTensor.dequantize`."""
    if isinstance(data, QuantizedTensor):
        if format is not None and find_format(format) != data.format:
            raise BlockquantError(f"data is a {data.format.name} tensor, but format says {find_format(format).name}")
        return data.dequantize(dtype, out, threads)
    if format is None:
        raise BlockquantError("bytes need a format; pass format='Q4_K' or whichever they are")
    return QuantizedTensor(data, format).dequantize(dtype, out, threads)


def quantization_error(x: object, q: QuantizedTensor) -> dict[str, float]:
    """How far the decoded q is from x, in float64: rmse, relative_rmse (rmse over the root mean square of x),
    max_abs, cosine (similarity of the two as vectors), snr_db (signal to noise ratio in decibels).

    Raises ValueError when the shapes differ, TypeError when q is no QuantizedTensor.
    """
    if not isinstance(q, QuantizedTensor):
        raise TypeError(f"q must be a QuantizedTensor, got {type(q).__name__}; quantize x, or wrap bytes in one")
    array, code = take_floats(x)
    if array.shape != q.shape:
        raise BlockquantError(f"x has shape {array.shape}, q has shape {q.shape}; they must be equal")
    rows = int(np.prod(array.shape[:-1], dtype=np.int64))
    k = array.shape[-1]
    sums = ErrorSums()
    if rows * k:
        flat = array.reshape(rows, k)
        blocks = q.data.reshape(rows, -1)
        step = max(1, (1 << 20) // k)  # bounded memory: about a million elements at a time
        for begin in range(0, rows, step):
            piece = flat[begin : begin + step]
            decoded = QuantizedTensor(blocks[begin : begin + step], q.format).dequantize()
            sums.add(bf16_to_float32(piece) if code == BF16 else piece, decoded)
    return sums.figures()
