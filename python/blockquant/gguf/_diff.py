"""Comparing two files: metadata, and for each tensor how far its numbers are from the other's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from blockquant._error_sums import ErrorSums
from blockquant.gguf._mapped import MappedFile
from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._types import ARRAY_DTYPES, LAYOUTS, TensorInfo, TypedValue
from blockquant.gguf._values import encode_entry

# Elements that are decoded at a time, twice; a multiple of every block.
_STEP_ELEMENTS = 1 << 20
_SHOWN_ITEMS = 4


@dataclass(frozen=True)
class MetadataDifference:
    """A key whose type or value differs; None where a file does not have it. Long arrays are cut to their beginning,
    with their whole length in `count_a` and `count_b` (1 for what is no array)."""

    key: str
    a: TypedValue | None
    b: TypedValue | None
    count_a: int = 1
    count_b: int = 1


@dataclass(frozen=True)
class TensorDifference:
    """A tensor of both files.

    `identical`: shape, format and bytes are equal. `error` holds rmse, relative_rmse (over the root mean square of
    the first file's tensor), max_abs, cosine and snr_db, None when the shapes differ, a format cannot be decoded, or
    values were not compared.
    """

    name: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    format_a: str
    format_b: str
    nbytes_a: int
    nbytes_b: int
    identical: bool
    error: dict[str, float] | None = None


@dataclass
class DiffReport:
    """What `diff` found.

    Attributes:
        metadata: one entry for each key that differs, first those of the first file.
        only_a, only_b: names of tensors that only one file has.
        tensors: one entry for each tensor of both files, in the first one's order.
        same_order: whether the tensors of both come in the same order.
        overall: the error figures over all tensors that were compared.
    """

    metadata: list[MetadataDifference] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    same_order: bool = True
    overall: dict[str, float] | None = None

    @property
    def identical(self) -> bool:
        """Whether metadata, tensors and their order are all the same."""
        return (
            not (self.metadata or self.only_a or self.only_b)
            and self.same_order
            and all(tensor.identical for tensor in self.tensors)
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it, made of dicts, lists and plain values; the TypedValues as they are."""
        return asdict(self) | {"identical": self.identical}


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    values: bool = True,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> DiffReport:
    """Compare two GGUF files or sets of shards, the first as the reference.

    Args:
        a, b: the files, of any versions, byte orders and formats.
        values: decode tensors whose bytes differ and measure the error; False compares bytes alone.
        threads: that decode.
        progress: called as progress(tensor, bytes done, bytes in all), counting the first file's bytes.

    Memory is bounded by a few million elements. Raises GGUFError for a malformed file, OSError for one that cannot be
    read.
    """
    report = DiffReport()
    with open(a) as first, open(b) as second:
        report.metadata = _metadata(first, second)
        report.only_a = [name for name in first.tensor_infos if name not in second.tensor_infos]
        report.only_b = [name for name in second.tensor_infos if name not in first.tensor_infos]
        common = [name for name in first.tensor_infos if name in second.tensor_infos]
        report.same_order = common == [name for name in second.tensor_infos if name in first.tensor_infos]
        total = sum(first.tensor_info(name).nbytes for name in common)
        done = 0
        overall = ErrorSums()
        for name in common:
            tensor, sums = _tensor(first, second, name, values, threads)
            report.tensors.append(tensor)
            if sums is not None:
                overall.merge(sums)
            done += tensor.nbytes_a
            if progress is not None:
                progress(name, done, total)
        report.overall = overall.figures() if overall.count else None
    return report


def _metadata(a: GGUFFile, b: GGUFFile) -> list[MetadataDifference]:
    def side(file: GGUFFile, key: str) -> tuple[TypedValue | None, int]:
        if key not in file.metadata:
            return None, 1
        return file.typed_value(key, _SHOWN_ITEMS), file.metadata_info(key).count

    found = []
    for key in [*a.metadata, *(key for key in b.metadata if key not in a.metadata)]:
        if key in a.metadata and key in b.metadata and _same_value(a.shards[0], b.shards[0], key):
            continue
        (value_a, count_a), (value_b, count_b) = side(a, key), side(b, key)
        found.append(MetadataDifference(key, value_a, value_b, count_a, count_b))
    return found


def _same_value(a: MappedFile, b: MappedFile, key: str) -> bool:
    if a.value_info(key) != b.value_info(key):
        return False
    if a.big_endian == b.big_endian:
        return a.raw_value(key) == b.raw_value(key)
    return encode_entry(key, a.value(a.metadata[key]), "<") == encode_entry(key, b.value(b.metadata[key]), "<")


def _tensor(
    a: GGUFFile, b: GGUFFile, name: str, values: bool, threads: int | None
) -> tuple[TensorDifference, ErrorSums | None]:
    of_a, of_b = a.tensor_info(name), b.tensor_info(name)
    both = (of_a.shape, of_b.shape, str(of_a.format), str(of_b.format), of_a.nbytes, of_b.nbytes)
    same_shape = of_a.shape == of_b.shape
    in_a, in_b = _Elements(a, of_a, threads), _Elements(b, of_b, threads)
    identical = same_shape and of_a.format == of_b.format and in_a.equal(in_b)
    sums = None
    if values and same_shape and in_a.decodes and in_b.decodes:
        sums = ErrorSums()
        for start, stop in _steps(in_a.count):
            part = in_a.decoded(start, stop)
            # Equal bytes are equal numbers, and still count for the overall figures.
            sums.add(part, part if identical else in_b.decoded(start, stop))
    a.release(name)
    b.release(name)
    return TensorDifference(name, *both, identical, None if sums is None else sums.figures()), sums


class _Elements:
    """A tensor's elements, decoded some at a time whatever its shape: rows are whole blocks, one after the other."""

    def __init__(self, file: GGUFFile, info: TensorInfo, threads: int | None) -> None:
        self._threads = threads
        self._format = info.format
        self._block = LAYOUTS[info.format].block_size if info.format not in ARRAY_DTYPES else 0
        self.decodes = getattr(info.format, "implemented", True)
        self.count = math.prod(info.shape) if info.nbytes else 0
        tensor: Any = file.tensors[info.name]
        self._data: np.ndarray[Any, Any] = (tensor.data if self._block else tensor).reshape(-1)

    def _stored(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        if not self._block:
            return self._data[start:stop]
        size = LAYOUTS[self._format].type_size
        return self._data[start // self._block * size : stop // self._block * size]

    def decoded(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Elements from `start` to `stop`, multiples of every block."""
        stored = self._stored(start, stop)
        if not self._block:
            return stored
        from blockquant._tensor import QuantizedTensor

        return QuantizedTensor(stored, self._format).dequantize(threads=self._threads)

    def equal(self, other: _Elements) -> bool:
        """Whether the bytes of two tensors of one shape and format are equal."""
        for start, stop in _steps(self.count):
            ours, theirs = self._stored(start, stop), other._stored(start, stop)
            if not np.array_equal(ours.view(np.uint8), theirs.view(np.uint8)):
                return False
        return True


def _steps(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _STEP_ELEMENTS):
        yield start, min(start + _STEP_ELEMENTS, count)
