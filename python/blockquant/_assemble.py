"""The common form: blocks apart into integers and scales, and together again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant._arrays import take_floats, to_float32
from blockquant._formats import Format, find_format
from blockquant._runtime import thread_count
from blockquant._tensor import FloatArray, QuantizedTensor
from blockquant.errors import BlockquantError

Integers = npt.NDArray[np.int8]
Rounding = Literal["exact", "nearest"]


@dataclass(frozen=True, eq=False)
class Unpacked:
    """What blocks hold: ``value = scale * q - minimum``, float32, the product rounded before the difference.

    Attributes:
        format: the format.
        values: int8 [..., K], the integers q with their offsets and tables applied.
        scales: float32 [..., K / run].
        minima: float32 [..., K / run], or None where the format has none.
        source: the tensor that was unpacked, or None. `assemble` takes from it what integers and scales do not say
            where blocks of different bytes mean the same.

    ``dataclasses.replace(u, values=...)`` is u with other integers.
    """

    format: Format
    values: Integers
    scales: FloatArray
    minima: FloatArray | None = None
    source: QuantizedTensor | None = field(default=None, repr=False)

    @property
    def run(self) -> int:
        """Neighbours along the last axis that share a scale."""
        return self.format.run

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in elements."""
        return self.values.shape

    def __repr__(self) -> str:
        return f"Unpacked({self.format.name}, shape={self.shape}, run={self.run})"


def _block_format(format: object) -> Format:
    found = find_format(format)
    if found.is_float:
        raise BlockquantError(f"{found.name} holds floats, not integers with scales; use a block format such as Q4_K")
    found.require_implemented()
    return found


def unpack(q: QuantizedTensor, threads: int | None = None) -> Unpacked:
    """The integers, scales and minima of a quantized tensor.

    ``scale * value - minimum`` (each operation rounded to float32) is `QuantizedTensor.dequantize`, bit for bit.

    Args:
        q: a tensor of a block format.
        threads: default `get_num_threads()`.

    Raises ValueError for the float formats, TypeError for what is no QuantizedTensor.
    """
    if not isinstance(q, QuantizedTensor):
        raise TypeError(
            f"expected a QuantizedTensor, got {type(q).__name__}; wrap bytes in QuantizedTensor(data, format)"
        )
    f = _block_format(q.format)
    shape = q.shape
    runs = (*shape[:-1], shape[-1] // f.run)
    values = np.empty(shape, np.int8)
    scales = np.empty(runs, np.float32)
    minima = np.empty(runs, np.float32) if f.has_minima else None
    _core.unpack(q.data, f.ggml_type, values, scales, minima, thread_count(threads))
    return Unpacked(f, values, scales, minima, q)


@overload
def assemble(format: Unpacked, *, rounding: Rounding = "exact", threads: int | None = None) -> QuantizedTensor: ...
@overload
def assemble(
    format: object,
    values: npt.ArrayLike,
    scales: npt.ArrayLike,
    minima: npt.ArrayLike | None = None,
    rounding: Rounding = "exact",
    *,
    like: QuantizedTensor | None = None,
    threads: int | None = None,
) -> QuantizedTensor: ...
def assemble(
    format: object,
    values: npt.ArrayLike | None = None,
    scales: npt.ArrayLike | None = None,
    minima: npt.ArrayLike | None = None,
    rounding: Rounding = "exact",
    *,
    like: QuantizedTensor | None = None,
    threads: int | None = None,
) -> QuantizedTensor:
    """Blocks from integers and scales that were chosen elsewhere: the inverse of `unpack`.

    ``assemble(unpack(q))`` has the bytes of q, whatever they are, and ``assemble(replace(u, values=...))`` keeps its
    scales' bytes. From the arrays alone, ``assemble(u.format, u.values, u.scales, u.minima)`` decodes to the same
    values, and has the same bytes if q was encoded by `quantize`, unless the float16 that the runs of a super-block
    share became zero or not finite, or the largest scales of such a block are equal but for their signs.

    Args:
        format: a block format, or the Unpacked that stands for all of the arrays.
        values: integers [..., K], the q of ``value = scale * q - minimum``, each one of the format's levels.
        scales: float [..., K / run], taken as float32; a float64 beyond its range is refused.
        minima: the same for the formats with minima (``Format.has_minima``), else None.
        rounding: ``"exact"`` refuses scales and minima that the format does not hold; ``"nearest"`` searches those that
            it holds for some that change the values little in the sum of squares, block by block. Where the runs of a
            super-block share a float16 they need not be the best: on random scales the sum is mostly the least, and at
            times half as much again. Integers are never changed.
        like: a tensor of the same shape and format to take bits from where blocks of different bytes mean the same.
        threads: default `get_num_threads()`. The bytes do not depend on it.

    Raises:
        ValueError: shapes that do not fit together, or a block that the format cannot hold; the message names the first
            such block and why.
        TypeError: values that are no integers.
    """
    if isinstance(format, Unpacked):
        if values is not None or scales is not None or minima is not None:
            raise TypeError(
                "an Unpacked brings its own values, scales and minima; use dataclasses.replace to change them"
            )
        values, scales, minima = format.values, format.scales, format.minima
        like = like if like is not None else format.source
        format = format.format
    if values is None or scales is None:
        raise TypeError("assemble needs values and scales; bq.unpack shows what they look like")
    if rounding not in ("exact", "nearest"):
        raise BlockquantError(f"rounding must be 'exact' or 'nearest', got {rounding!r}")
    f = _block_format(format)
    q = _take_integers(values, f)
    row_bytes = f.row_bytes(q.shape[-1])
    runs = (*q.shape[:-1], q.shape[-1] // f.run)
    s = _take_scales(scales, "scales", runs, q.shape, f)
    if f.has_minima and minima is None:
        raise BlockquantError(f"{f.name} has minima: pass minima= of shape {runs} (value = scale * q - minimum)")
    if not f.has_minima and minima is not None:
        raise BlockquantError(f"{f.name} has no minima (value = scale * q); leave minima out")
    m = None if minima is None else _take_scales(minima, "minima", runs, q.shape, f)
    hint = None if like is None else _take_like(like, f, q.shape)
    out = np.empty((*q.shape[:-1], row_bytes), np.uint8)
    failed = _core.assemble(f.ggml_type, q, s, m, rounding == "nearest", hint, out, thread_count(threads))
    if failed is not None:
        raise _misfit(f, q, s, m, *failed)
    return QuantizedTensor(out, f)


def _take_integers(values: npt.ArrayLike, f: Format) -> Integers:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"values must be integers, got {array.dtype}; round them first (np.rint(values).astype(np.int8))"
        )
    if array.ndim == 0:
        raise BlockquantError("values must have at least one dimension, got a single number")
    if array.dtype != np.int8:
        outside = (array < -128) | (array > 127)
        if outside.any():
            at = np.unravel_index(int(np.argmax(outside)), array.shape)
            raise BlockquantError(
                f"values[{_index(at)}] is {array[at]}; {f.name} holds {_core.assembly_rules(f.ggml_type)[0]}"
            )
    return np.ascontiguousarray(array, np.int8).reshape(array.shape)


def _take_scales(
    scales: npt.ArrayLike, name: str, expected: tuple[int, ...], shape: tuple[int, ...], f: Format
) -> FloatArray:
    given = scales if hasattr(scales, "dtype") else np.asarray(scales, np.float64)
    with np.errstate(over="ignore"):
        array = to_float32(given, name)
    if array.shape != expected:
        raise BlockquantError(
            f"{name} has shape {array.shape}; {f.name} has one for {f.run} values, so values of shape {shape} "
            f"need {expected}"
        )
    infinite = np.isinf(array)
    if infinite.any():  # an infinity that was given may be what a block holds, but this would be another value
        exact, _ = take_floats(given, name)
        lost = infinite & np.isfinite(exact) if exact.dtype == np.float64 else np.zeros_like(infinite)
        if lost.any():
            at = np.unravel_index(int(np.argmax(lost)), lost.shape)
            raise BlockquantError(f"{name}[{_index(at)}] is {exact[at]:g}, beyond the range of float32")
    return array


def _take_like(like: QuantizedTensor, f: Format, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if not isinstance(like, QuantizedTensor):
        raise TypeError(f"like must be a QuantizedTensor, got {type(like).__name__}")
    if like.format != f or like.shape != shape:
        raise BlockquantError(f"like is {like!r}; expected {f.name} of shape {shape}")
    return like.data


def _index(at: Iterable[object]) -> str:
    return ", ".join(map(str, at))


def _misfit(
    f: Format, q: Integers, scales: FloatArray, minima: FloatArray | None, block: int, why: str, at: int, count: int
) -> BlockquantError:
    per_row = q.shape[-1] // f.block_size
    row, column = [int(i) for i in np.unravel_index(block // per_row, q.shape[:-1])], block % per_row
    levels, scale_rule, _ = _core.assembly_rules(f.ggml_type)
    if why in ("value", "group", "signs"):
        name, first = "values", column * f.block_size + at
        rule = {
            "value": f"its integers are {levels}",
            "group": f"neighbours must be points of its grid of {levels}",
            "signs": "an even number of them must be negative",
        }[why]
        array: npt.NDArray[Any] = q
        hint = ""
    else:
        name, array = ("scales", scales) if why.startswith("scale") else ("minima", minima)  # type: ignore[assignment]
        first = column * (f.block_size // f.run) + at
        rule = f"it must be {scale_rule}" if count == 1 else f"they must be {scale_rule}"
        hint = "; rounding='nearest' takes the nearest"
    index: tuple[Any, ...] = (*row, slice(first, first + count))
    part = array[index]
    if not np.isfinite(part).all():
        hint = ""
    where = _index([*row, first if count == 1 else f"{first}:{first + count}"])
    what = f"{part[0]:.9g}" if count == 1 else "[" + _index(f"{v:.9g}" for v in part) + "]"
    return BlockquantError(
        f"{f.name} cannot hold block {_index([*row, column])}: {name}[{where}] is {what}; {rule}{hint}"
    )
