"""Checking a whole file: what `open` checks of its structure, and every number of its tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._types import ARRAY_DTYPES, LAYOUTS, GGUFError, TensorInfo

_CHUNK_ELEMENTS = 1 << 20


@dataclass
class VerifyReport:
    """What `verify` found.

    Attributes:
        problems: one line each; empty for a sound file.
        unchecked: names of tensors whose format this version cannot decode, with the format.
        tensors, nbytes: how many tensors were checked, and their bytes.
    """

    problems: list[str] = field(default_factory=list)
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

    A NaN or Inf in a block's scale shows as numbers that are not finite. `progress` is called as
    progress(tensor, bytes done, bytes in all). Raises OSError when the file cannot be read; whatever is wrong with
    its content is in the report.
    """
    report = VerifyReport()
    try:
        file = open(path)
    except GGUFError as error:
        report.problems.append(str(error))
        return report
    with file:
        total = sum(info.nbytes for info in file.tensor_infos.values())
        for info in file.tensor_infos.values():
            if getattr(info.format, "implemented", True):
                try:
                    problem = _check(file, info, threads)
                except GGUFError as error:  # blocks of the other byte order
                    problem = str(error)
                if problem:
                    report.problems.append(problem)
                file.release(info.name)  # memory stays bounded by one tensor
                report.tensors += 1
                report.nbytes += info.nbytes
            else:
                report.unchecked[info.name] = str(info.format)
            if progress is not None:
                progress(info.name, report.nbytes, total)
    return report


def _check(file: GGUFFile, info: TensorInfo, threads: int | None) -> str | None:
    """One line about the first number that is not finite, if there is one."""
    dtype = ARRAY_DTYPES.get(info.format)
    if info.nbytes == 0 or (dtype is not None and dtype.kind != "f"):
        return None
    tensor: Any = file.tensors[info.name]
    row = info.shape[-1] if info.shape else 1
    if dtype is not None:
        rows = tensor.reshape(-1, row)
    else:
        from blockquant._tensor import QuantizedTensor

        rows = QuantizedTensor(tensor.data.reshape(-1, tensor.data.shape[-1]), info.format)
    count = math.prod(info.shape[:-1])
    step = max(1, _CHUNK_ELEMENTS // row)
    for start in range(0, count, step):
        part = rows[start : start + step]
        values = part if dtype is not None else part.dequantize(threads=threads)
        finite = np.isfinite(values)
        if finite.all():
            continue
        at_row, at = (int(n) for n in np.argwhere(~finite)[0])
        block = at // LAYOUTS[info.format].block_size
        where = f"row {start + at_row}, element {at}"
        if LAYOUTS[info.format].block_size > 1:
            where += f" (block {block} of the row: its scale is not a finite number)"
        return f"tensor {info.name!r} ({info.format}) holds {values[at_row, at]} at {where}"
    return None
