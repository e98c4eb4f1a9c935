"""x @ w.T with quantized weights, and weights laid out for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant._arrays import Array, delivered, room_for, to_float32
from blockquant._formats import Format, find_format
from blockquant._runtime import thread_count, whole_number
from blockquant._tensor import Bytes, FloatArray, QuantizedTensor
from blockquant.errors import BlockquantError

_FLOAT32 = np.dtype(np.float32)
_PRECISIONS = {"int8": False, "float32": True}  # whether the exact path is meant
_F32_ID, _F16_ID = find_format("F32").ggml_type, find_format("F16").ggml_type


class PackedWeight:
    """Weights laid out as `matmul` multiplies a few rows fastest on this CPU; made by `pack`, taken by `matmul`.

    Their bytes are those of the blocks, taken apart so that the same bytes of 16 rows (8 with AVX2) lie side by side:
    as many as before, with no copy of the original. Where the CPU has no kernels for such strips, this holds the
    blocks as they are, without a copy. A PackedWeight works on any CPU and after any `set_isa`, fast where the
    strips are the running kernels'.
    """

    __slots__ = ("__weakref__", "_data", "_format", "_kind", "_lanes")
    _data: Bytes
    _format: Format
    _kind: int
    _lanes: int

    def __init__(self, w: QuantizedTensor, rows: int = 1, threads: int | None = None) -> None:
        if not isinstance(w, QuantizedTensor):
            raise TypeError(f"w must be a QuantizedTensor, got {type(w).__name__}")
        w.format.require_implemented()
        if w.ndim not in (2, 3):
            raise BlockquantError(f"w has shape {w.shape}; expected [N, K], or [E, N, K] for experts")
        if isinstance(rows, bool):
            raise TypeError(f"rows must be an integer, got {rows!r}")
        rows = min(whole_number(rows, "rows"), 1 << 62)
        if rows < 1:
            raise BlockquantError(f"rows must be an integer from 1 on, got {rows!r}")
        self._format, self._kind = w._format, w._kind
        self._lanes, strips = _core.lay_out_weights(w._data, w._kind, rows, thread_count(threads))
        self._data = w._data if strips is None else strips

    @property
    def format(self) -> Format:
        """The format of the weights, equal to its name."""
        return self._format

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, K], or [E, N, K]."""
        return (*self._data.shape[:-1], self._data.shape[-1] // self._format.type_size * self._format.block_size)

    @property
    def nbytes(self) -> int:
        """Bytes that this keeps alive: as many as the weights had."""
        return self._data.nbytes

    def unpack(self, threads: int | None = None) -> QuantizedTensor:
        """The tensor that this was made of, byte for byte."""
        data = self._data
        if self._lanes:
            data = _core.take_apart_weights(data, self._kind, self._lanes, thread_count(threads))
        return QuantizedTensor(data, self._format)

    def __repr__(self) -> str:
        layout = f"strips of {self._lanes} rows" if self._lanes else "rows"
        return f"PackedWeight({self._format.name}, shape={self.shape}, {layout}, {self.nbytes:,} bytes)"


def pack(w: QuantizedTensor, rows: int = 1, threads: int | None = None) -> PackedWeight:
    """w [N, K] or [E, N, K] laid out for this CPU's fastest `matmul` of a few activation rows, as in generation.

    Args:
        w: the weights.
        rows: how many rows of activations (for each expert) most products will have. A single one gains most below 4
            bits, where a core cannot unpack as fast as memory delivers, on AVX2 in nearly every format of 4 bits and
            more; 2 to 16 gain in nearly every format, some formats up to 96, and on AVX2 most formats with any
            number; where nothing gains, w stays as it is.
        threads: default `get_num_threads()`.

    Costs as many bytes as w has, which may be let go afterwards: pack tensor by tensor while loading. Results are those
    of w within the last bits. Products of more rows put the rows of blocks together again as they go, which costs
    them a few percent (but not on AVX2, which multiplies most formats as they lie). Raises TypeError for anything but a
    QuantizedTensor, ValueError for one that is not a matrix.
    """
    return PackedWeight(w, rows, threads)


def matmul(
    x: object,
    w: QuantizedTensor | PackedWeight | Array,
    out: FloatArray | None = None,
    threads: int | None = None,
    *,
    precision: str = "int8",
    experts: npt.ArrayLike | None = None,
) -> FloatArray:
    """x @ w.T without decoding w to floats first.

    Args:
        x: activations [..., K], float32 (other floats are converted).
        w: weights [N, K]: a QuantizedTensor, a PackedWeight, or a float32 or float16 array. With `experts`,
            [E, N, K].
        out: float32 [..., N], C-contiguous, to write into. It may overlap x (the product is then found beside it).
        threads: default `get_num_threads()`. The result does not depend on it.
        precision: ``"int8"`` quantizes activations to 8-bit integers in runs of 32 (of 256 where the weights are in
            super-blocks of 256), as fast kernels do: where they exceed 1e37, results may be infinite or NaN.
            ``"float32"`` multiplies the decoded weights in float32. Float weights take the second way, except that
            those of bfloat16 meet activations rounded to bfloat16 where the CPU multiplies these (avx512_bf16),
            unless this is ``"float32"``.
        experts: for each row of x the index of its matrix in w, integers [...] in 0..E-1 (mixture of experts).

    Returns float32 [..., N]. Raises ValueError when the shapes do not fit, IndexError for an expert that w lacks. Many
    rows of x with the same matrix are summed in another order than few: results then differ in the last bits (within
    1e-5 of the largest product), but not with what other rows there are. Where that begins depends on the format and
    the instruction set (mostly at 5 rows; at 9, 15 or more, also back and forth, with some formats, floats and
    PackedWeights). A thread keeps the memory that it needed, up to some 64 MiB, for its next product.
    """
    if experts is None and (type(w) is QuantizedTensor or type(w) is PackedWeight):
        # What needs no conversion and fits goes straight to the core; the rest is told apart below.
        exact = _PRECISIONS.get(precision) if type(precision) is str else None
        if exact is not None:
            threads_wanted = 0 if threads is None else thread_count(threads)
            lanes = w._lanes if type(w) is PackedWeight else 0
            done = _core.matmul_plain(x, w._data, w._kind, out, threads_wanted, exact, lanes)
            if done is not None:
                return done
    activations = to_float32(x)
    lanes = w._lanes if isinstance(w, PackedWeight) else 0
    if isinstance(w, QuantizedTensor | PackedWeight):
        data, kind = w._data, w._format.ggml_type
        if not w._format.implemented:
            w._format.require_implemented()
        shape = w.shape
    elif isinstance(w, np.ndarray):
        data, kind, shape = _float_weights(w)
    else:
        raise TypeError(
            f"w must be a QuantizedTensor, a PackedWeight or a numpy array, got {type(w).__name__}"
            + ("; take np.from_dlpack(w)" if hasattr(w, "__dlpack__") else "")
        )
    if len(shape) != (2 if experts is None else 3):
        hints = {
            1: "; of a single row take w[i : i + 1]",
            3: "; for [E, N, K] pass experts=, the matrix of each row of x",
        }
        expected = (
            "[N, K]" + hints.get(len(shape), "")
            if experts is None
            else "[E, N, K], with a leading axis for the experts"
        )
        raise BlockquantError(f"w has shape {shape}; expected {expected}")
    if activations.ndim == 0 or activations.shape[-1] != shape[-1]:
        raise BlockquantError(
            f"x of shape {activations.shape} does not fit w of shape {shape}: "
            f"the last axis of x must have {shape[-1]} elements"
        )
    index = None if experts is None else _expert_index(experts, activations.shape[:-1])
    if not isinstance(precision, str) or precision not in _PRECISIONS:
        raise BlockquantError(f"precision must be 'int8' or 'float32', got {precision!r}")
    result_shape = (*activations.shape[:-1], shape[-2])
    result = room_for(out, result_shape, _FLOAT32, activations, data)
    _core.matmul(activations, data, kind, result, thread_count(threads), _PRECISIONS[precision], index, lanes)
    return delivered(result, out)


def _expert_index(experts: npt.ArrayLike, rows: tuple[int, ...]) -> npt.NDArray[np.int32]:
    index = np.asarray(experts)
    if index.size == 0 and isinstance(experts, list | tuple):
        index = index.astype(np.int32)  # an empty list has no dtype of its own
    if index.dtype.kind not in "iu":
        raise TypeError(f"experts must be integers, got {index.dtype}")
    if index.shape != rows:
        raise BlockquantError(f"experts has shape {index.shape}; expected {rows}, an index for each row of x")
    if index.size and (int(index.min()) < 0 or int(index.max()) > np.iinfo(np.int32).max):
        raise IndexError(f"experts must be 0 or more and less than 2^31, got {int(index.min())}..{int(index.max())}")
    return np.ascontiguousarray(index, np.int32)


def _float_weights(w: Array) -> tuple[Array, int, tuple[int, ...]]:
    if w.ndim not in (2, 3):
        return w, _F32_ID, w.shape
    if w.dtype == np.float16:
        return np.ascontiguousarray(w).view(np.uint8), _F16_ID, w.shape
    return to_float32(w, "w").view(np.uint8), _F32_ID, w.shape
