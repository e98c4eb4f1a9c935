"""Checking a whole file: what `open` checks of its structure, and every number of its tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockquant import _core
from blockquant._runtime import thread_count
from blockquant.gguf._header import MAX_NAME_BYTES, padded
from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._types import ARRAY_DTYPES, LAYOUTS, GGUFError, TensorInfo, ValueType
from blockquant.gguf._values import encode_text

# Bytes that are checked between two calls of `progress`: enough that starting threads costs nothing.
_STEP_BYTES = 64 << 20


@dataclass
class VerifyReport:
    """What `verify` found.

    Attributes:
        problems: one line each; empty for a sound file.
        warnings: one line for each thing that is sound in itself but that llama.cpp does not load.
        unchecked: names of tensors whose format this version cannot decode, with the format.
        tensors, nbytes: how many tensors were checked, and their bytes.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    tensors: int = 0
    nbytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Check a GGUF file or set of shards: its structure, and that every block decodes to finite numbers.

    A NaN or Inf in a block's float16 scale shows as numbers that are not finite; the NaNs of E8M0 and E4M3 scales
    (MXFP4, NVFP4), which decode to numbers, are looked for as such. `progress` is called as
    progress(tensor, bytes done, bytes in all). Raises OSError when the file cannot be read; whatever is wrong with
    its content is in the report.
    """
    report = VerifyReport()
    thread_count(threads)  # a wrong number is not a problem of the file
    try:
        file = open(path)
    except GGUFError as error:
        report.problems.append(str(error))
        return report
    with file:
        report.warnings += _warnings(file)
        total = sum(info.nbytes for info in file.tensor_infos.values())
        infos = list(file.tensor_infos.values())
        for info, following in zip(infos, [*infos, None][1:], strict=True):
            done = report.nbytes
            if following is not None:
                file.prefetch(following.name, 0, min(_STEP_BYTES, following.nbytes))

            def advance(
                nbytes: int, name: str = info.name, done: int = done, report_to: Any = progress, total: int = total
            ) -> None:
                if report_to is not None:
                    report_to(name, done + nbytes, total)

            if getattr(info.format, "implemented", True):
                try:
                    problem = _check(file, info, threads, advance)
                except GGUFError as error:  # blocks of the other byte order
                    problem = str(error)
                if problem:
                    report.problems.append(problem)
                report.tensors += 1
                report.nbytes += info.nbytes
            else:
                report.unchecked[info.name] = str(info.format)
            advance(info.nbytes)
    return report


def _check(file: GGUFFile, info: TensorInfo, threads: int | None, advance: Callable[[int], None]) -> str | None:
    """One line about the first number that is not finite, if there is one."""
    dtype = ARRAY_DTYPES.get(info.format)
    if info.nbytes == 0 or (dtype is not None and dtype.kind != "f"):
        return None
    tensor: Any = file.tensors[info.name]
    layout = LAYOUTS[info.format]
    raw = (tensor if dtype is not None else tensor.data).reshape(-1).view(np.uint8)
    step = _STEP_BYTES // layout.type_size * layout.type_size
    for start in range(0, info.nbytes, step):
        part = raw[start : start + step]
        if start + step < info.nbytes:
            file.prefetch(info.name, start + step, min(start + 2 * step, info.nbytes))
        bad = _find_bad(part, info.format, threads)
        if bad is not None:
            index, is_nan_scale = bad
            return _describe(info, start // layout.type_size * layout.block_size + index, part, index, is_nan_scale)
        file.release(info.name, start, start + part.nbytes)  # memory stays bounded
        advance(start + part.nbytes)
    return None


def _find_bad(raw: np.ndarray[Any, Any], format: str, threads: int | None) -> tuple[int, bool] | None:
    if format == "F64":
        finite = np.isfinite(raw.view(np.float64))
        return None if finite.all() else (int(np.argmin(finite)), False)
    layout = LAYOUTS[format]
    elements = raw.nbytes // layout.type_size * layout.block_size
    return _core.find_bad(raw, layout.ggml_type, elements, thread_count(threads))


def _describe(info: TensorInfo, flat: int, part: np.ndarray[Any, Any], index: int, is_nan_scale: bool) -> str:
    """`flat` counts elements of the tensor, `index` those of `part`."""
    layout = LAYOUTS[info.format]
    row, at = divmod(flat, info.shape[-1] if info.shape else 1)
    where = f"row {row}, element {at}"
    block = f"block {at // layout.block_size} of the row"
    label = f"tensor {info.name!r} ({info.format})"
    if is_nan_scale:
        return f"{label} holds a scale that is NaN at {where} ({block})"
    if layout.block_size == 1:
        dtype = ARRAY_DTYPES.get(info.format)
        if dtype is None:  # BF16: the upper half of a float32
            value = np.array([int(part.view(np.uint16)[index]) << 16], np.uint32).view(np.float32)[0]
        else:
            value = part.view(dtype)[index]
        return f"{label} holds {value} at {where}"
    from blockquant._tensor import QuantizedTensor

    at_block = index // layout.block_size
    one = QuantizedTensor(part[at_block * layout.type_size : (at_block + 1) * layout.type_size], info.format)
    value = one.dequantize()[index % layout.block_size]
    return f"{label} holds {value} at {where} ({block}: its scale is not a finite number)"


def _warnings(file: GGUFFile) -> Iterator[str]:
    """What llama.cpp asks of a file beyond what the specification does."""
    if not file.architecture:
        yield "there is no general.architecture: llama.cpp will not load the file as a model"
    for key in file.metadata:
        if file.metadata_info(key).element_type is ValueType.ARRAY:
            yield f"metadata {key!r} is an array of arrays: llama.cpp refuses the file"
    expected: dict[int, int] = {}
    scattered: set[int] = set()
    for info in file.tensor_infos.values():
        if len(encode_text(info.name)) > MAX_NAME_BYTES:
            yield f"tensor {info.name!r} has a name of more than {MAX_NAME_BYTES} bytes: llama.cpp refuses the file"
        shard = file.shards[info.shard]
        place = info.offset - shard.data_offset
        if place != expected.get(info.shard, 0) and info.shard not in scattered:
            scattered.add(info.shard)
            yield (
                f"tensor {info.name!r} is at byte {place:,} of the data, not right after the one before it "
                f"({expected.get(info.shard, 0):,}): llama.cpp refuses the file"
            )
        expected[info.shard] = place + padded(info.nbytes, shard.alignment)
