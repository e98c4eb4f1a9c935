"""Taking arrays in: numpy, bfloat16, DLPack, anything with __array__."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant.errors import MissingExtraError

Array = npt.NDArray[Any]

# Codes that the core takes; bfloat16 travels as uint16.
F32, F16, BF16, F64 = 0, 1, 2, 3
_CACHE_LINE, _LARGE = 64, 16 << 20  # bytes
_CODES = {np.dtype(np.float32): F32, np.dtype(np.float16): F16, np.dtype(np.float64): F64}


def is_bfloat16(dtype: npt.DTypeLike) -> bool:
    """Whether this is ml_dtypes.bfloat16, told by name so that ml_dtypes is not imported."""
    return getattr(dtype, "name", None) == "bfloat16" or getattr(dtype, "__name__", None) == "bfloat16"


def bfloat16_dtype() -> np.dtype[Any]:
    """ml_dtypes.bfloat16 as a numpy dtype; MissingExtraError without ml_dtypes."""
    try:
        import ml_dtypes
    except ImportError:
        raise MissingExtraError("ml_dtypes", "convert") from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def take_floats(x: object, name: str = "x") -> tuple[Array, int]:
    """An array of floats as numpy sees it, without a copy where that is possible, and its element code.

    Takes numpy arrays of float16, float32, float64 and ml_dtypes.bfloat16 (which comes back as uint16 with the code
    BF16), anything with ``__dlpack__`` on the CPU (torch), anything with ``__array__``, and nested lists of floats.
    """
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
            return _from_dlpack(x, name)
        if not (hasattr(x, "__array__") or isinstance(x, list | tuple | float)):
            raise TypeError(f"{name} must be an array of floats, got {type(x).__name__}")
        x = np.asarray(x)
    code = _CODES.get(x.dtype)
    if code is not None:
        return x, code
    if is_bfloat16(x.dtype):
        return x.view(np.uint16), BF16
    if x.dtype.kind == "f" and x.dtype.newbyteorder("=") in _CODES:  # the other byte order
        native = x.astype(x.dtype.newbyteorder("="))
        return native, _CODES[native.dtype]
    raise TypeError(f"{name} has dtype {x.dtype}; expected float16, float32, float64 or ml_dtypes.bfloat16")


def _from_dlpack(x: Any, name: str) -> tuple[Array, int]:
    try:
        array, bfloat = _core.from_dlpack(x)
    except (BufferError, RuntimeError, ValueError, IndexError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        if lines[0].startswith("the tensor "):  # the core's own: a device or a dtype that it does not take
            raise
        tracked = bool(getattr(x, "requires_grad", False))
        if isinstance(error, BufferError) and hasattr(x, "__array__") and not tracked:
            with contextlib.suppress(TypeError, ValueError, RuntimeError):
                plain = np.asarray(x)  # such as read-only data, which DLPack could not speak of for long
                if plain.dtype.kind != "O":
                    return take_floats(plain, name)
        try:
            device = x.__dlpack_device__()
        except Exception:  # the error that is being told
            device = (0, 0)
        if not (isinstance(device, tuple | list) and len(device) == 2 and hasattr(device[0], "__index__")):
            raise TypeError(
                f"{name} cannot be read through DLPack: its device is {device!r:.60}, expected two integers"
            ) from None
        hint = "; detach it first (x.detach())" if tracked else ""
        raise TypeError(f"{name} cannot be read through DLPack: {lines[0]}{hint}") from None
    return array, BF16 if bfloat else _CODES[array.dtype]


def bf16_to_float32(bits: Array) -> npt.NDArray[np.float32]:
    """The float32 values of bfloat16 bits (uint16), C-contiguous."""
    wide = bits.astype(np.uint32, order="C") << np.uint32(16)  # numpy before 2 makes int64 of one uint32 << 16
    return np.asarray(wide).view(np.float32)


def to_float32(x: object, name: str = "x") -> npt.NDArray[np.float32]:
    """x as an aligned, C-contiguous float32 array; x itself where it already is one."""
    if type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned:
        return x
    array, code = take_floats(x, name)
    if code == BF16:
        return bf16_to_float32(array)
    return np.require(np.asarray(array), np.float32, ["C", "A"]).reshape(array.shape)


def output_dtype(dtype: npt.DTypeLike | str) -> tuple[np.dtype[Any], int]:
    """The numpy dtype and element code of a decode target: float32, float16 or bfloat16."""
    if (isinstance(dtype, str) and dtype == "bfloat16") or is_bfloat16(dtype):
        return bfloat16_dtype(), BF16
    wanted = np.dtype(dtype)
    code = _CODES.get(wanted)
    if code not in (F32, F16):
        raise TypeError(f"cannot decode to {wanted}; expected float32, float16 or ml_dtypes.bfloat16")
    return wanted, code


def empty_on_cache_line(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """np.empty, but a large array starts on a cache line, so that the core can write it past the caches."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _LARGE:
        return np.empty(shape, dtype)
    buffer = np.empty(nbytes + _CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % _CACHE_LINE
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """out itself when results of this shape and dtype can be written into it."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out has shape {out.shape} and dtype {out.dtype}; expected {shape} and {dtype}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out must be C-contiguous and writeable; pass a fresh array or leave it out")
    if not out.flags.aligned:
        raise ValueError(f"out starts at an address that no {dtype} has; pass a fresh array or leave it out")
    return out


def room_for(out: object | None, shape: tuple[int, ...], dtype: np.dtype[Any], *read: Array) -> Array:
    """Where results are to be written: `out`, checked, or a new array without it and where it overlaps what is read."""
    if out is not None:
        target = check_out(out, shape, dtype)
        if not any(np.may_share_memory(target, values) for values in read):
            return target
    return empty_on_cache_line(shape, dtype)


def delivered(result: Array, out: Array | None) -> Array:
    """`out` with the results in it, or without it the results."""
    if out is None or result is out:
        return result
    out[...] = result
    return out
