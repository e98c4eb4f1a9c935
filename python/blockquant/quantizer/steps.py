"""The work in steps: some rows of a tensor from the source, encoded, to their place in an output file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from blockquant import _core, gguf, recipes
from blockquant._arrays import BF16, F16, F32
from blockquant._formats import formats
from blockquant._runtime import thread_count
from blockquant._tensor import QuantizedTensor
from blockquant.errors import BlockquantError
from blockquant.quantizer.plan import OutputFile, Weights

Array: TypeAlias = "np.ndarray[Any, Any]"
Tensor: TypeAlias = "Array | QuantizedTensor"

# Elements that are encoded at a time: large enough to keep many threads busy, small beside any model.
PIECE = 1 << 22

_CODES = {"F32": F32, "F16": F16, "BF16": BF16}


@dataclass(frozen=True)
class Step:
    """Rows `first_row` to `first_row + rows` of a tensor seen as [rows, k]."""

    choice: recipes.Choice
    origin: str  # the format in the source
    first_row: int
    rows: int
    k: int
    weights: Weights | None  # float32 [1 or experts of these rows, k]
    file: int  # index of the output file
    at: int  # offset in it
    nbytes: int  # to be written there
    source: tuple[int, int]  # bytes of the tensor in the source: begin, end
    is_last: bool  # of its tensor

    @property
    def name(self) -> str:
        return self.choice.name

    @property
    def is_copy(self) -> bool:
        return self.origin == self.choice.format or not self.choice.quantized


def steps_of(
    file: gguf.GGUFFile,
    choices: Sequence[recipes.Choice],
    outputs: Sequence[OutputFile],
    weights: Mapping[str, Weights],
) -> Iterator[Step]:
    """All steps in the order of the output. It depends on the arguments and PIECE alone: a journal counts steps."""
    place = {name: index for index, output in enumerate(outputs) for name in output.entries}
    for choice in choices:
        info = file.tensor_infos[choice.name]
        output = outputs[place[choice.name]]
        entry = output.entries[choice.name]
        if not entry.nbytes:
            continue
        k, total = (choice.shape[-1], prod(choice.shape[:-1])) if choice.shape else (1, 1)
        row_bytes, source_bytes = entry.nbytes // total, info.nbytes // total
        matrix = weights.get(choice.name)
        experts = matrix if matrix is not None and matrix.ndim == 2 else None
        own: Weights | None = None if matrix is None else matrix.reshape(-1, k)
        row = 0
        while row < total:
            count = min(max(1, PIECE // k), total - row)
            if experts is not None:
                # Experts have weights of their own: a piece is whole experts, or does not reach into the next one.
                per_expert = choice.shape[-2]
                first, within = divmod(row, per_expert)
                first %= len(experts)
                whole = min(count // per_expert, len(experts) - first) if within == 0 else 0
                count = whole * per_expert if whole else min(count, per_expert - within)
                own = experts[first : first + max(1, whole)]
            yield Step(
                choice,
                str(info.format),
                row,
                count,
                k,
                own,
                place[choice.name],
                len(output.header) + entry.offset + row * row_bytes,
                count * row_bytes,
                (row * source_bytes, (row + count) * source_bytes),
                row + count == total,
            )
            row += count


def rows_of(tensor: Tensor, step: Step) -> Tensor:
    """The step's rows of the whole tensor: [rows, k], a view."""
    if isinstance(tensor, QuantizedTensor):
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        return QuantizedTensor(data[step.first_row : step.first_row + step.rows], tensor.format)
    return tensor.reshape(-1, step.k)[step.first_row : step.first_row + step.rows]


def raw_bytes(rows: Tensor) -> Array:
    """The bytes of rows as they are stored, uint8 [n], a view."""
    data = rows.data if isinstance(rows, QuantizedTensor) else rows
    return data.reshape(-1).view(np.uint8)


class Encoder:
    """Encodes steps; keeps the scratch memory for decoding what is quantized already."""

    def __init__(self, threads: int | None) -> None:
        self._threads = thread_count(threads)
        self._scratch: Array = np.empty(0, np.float32)

    def encode(self, step: Step, rows: Tensor, out: Array) -> Array:
        """The bytes of these rows in the step's format: `out`, uint8 [nbytes], or those of the source to copy.

        ValueError names the first element that is not finite, there or here: llama-quantize refuses both.
        """
        if step.is_copy:
            raw = raw_bytes(rows)
            self._check(raw, step.origin, step)
            return raw
        values, code = self._floats(rows, step)
        blocks = out[: step.nbytes].reshape(step.rows, -1)
        bad = _core.encode(values, code, formats[step.choice.format].ggml_type, blocks, step.weights, self._threads)
        if bad >= 0:
            raise _not_finite(step, int(bad), step.origin)
        # Finite values, or weights, can still be too large for the scales of the format.
        self._check(out[: step.nbytes], step.choice.format, step)
        return out[: step.nbytes]

    def _check(self, raw: Array, format: str, step: Step) -> None:
        """ValueError when what is stored is not finite: too large for the format, or damaged."""
        if format in formats and formats[format].implemented:
            bad = _core.find_bad(raw, formats[format].ggml_type, step.rows * step.k, self._threads)
            if bad is not None:
                raise _not_finite(step, bad[0], format)

    def _floats(self, rows: Tensor, step: Step) -> tuple[Array, int]:
        if not isinstance(rows, QuantizedTensor):
            return rows, _CODES[step.origin]
        if step.origin == "BF16":
            return rows.data.view(np.uint16), BF16
        count = step.rows * step.k
        if self._scratch.size < count:
            self._scratch = np.empty(count, np.float32)
        values = self._scratch[:count].reshape(step.rows, step.k)
        rows.dequantize(out=values, threads=self._threads or None)
        return values, F32


def _not_finite(step: Step, flat: int, format: str) -> BlockquantError:
    row, column = divmod(flat, step.k)
    weights = "" if step.weights is None else ", or the weights of the importance matrix are too large"
    return BlockquantError(
        f"tensor {step.name!r}: element [{step.first_row + row}, {column}] is not finite in {format}: "
        f"the file is damaged or its values do not fit{weights}"
    )
