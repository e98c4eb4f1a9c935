"""A GGUF file to a quantized GGUF file, a piece of a tensor at a time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from blockquant import gguf, recipes
from blockquant._formats import formats
from blockquant._tensor import QuantizedTensor, quantize
from blockquant.errors import BlockquantError
from blockquant.imatrix import Imatrix, weights_for
from blockquant.imatrix import load as load_imatrix
from blockquant.recipes.planner import Overrides
from blockquant.recipes.tensors import TOKEN_EMBEDDINGS

Progress = Callable[[str, int, int], None]
PathLike: TypeAlias = "str | os.PathLike[str]"
Tensor: TypeAlias = "np.ndarray[Any, Any] | QuantizedTensor"

# Elements that are encoded at a time: large enough to keep many threads busy, small beside any model.
_PIECE = 1 << 22
_FLOATS = ("F32", "F16", "BF16")
_QUANTIZATION_VERSION = 2  # of ggml's block formats
_TEXT_BYTES = 127  # llama.cpp keeps no more of the imatrix's file name


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor. `wanted` is the recipe's choice, which `format` replaces where it does not fit."""

    name: str
    shape: tuple[int, ...]
    source_format: str
    format: str
    wanted: str
    source_bytes: int
    nbytes: int

    @property
    def is_fallback(self) -> bool:
        return self.format != self.wanted


@dataclass(frozen=True, repr=False)
class QuantizationReport:
    """What `quantize_file` did, or would do. Bytes are those of the tensors alone, without the header."""

    source: Path
    target: Path | None  # None: a dry run
    recipe: str
    tensors: tuple[TensorReport, ...]
    needs_imatrix: tuple[str, ...]  # tensors whose format is garbage without one, in a dry run without one
    seconds: float
    file_bytes: int  # of the target; 0 in a dry run

    @property
    def source_bytes(self) -> int:
        return sum(t.source_bytes for t in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @property
    def elements(self) -> int:
        return sum(int(np.prod(t.shape, dtype=np.int64)) for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(self.elements, 1)

    @property
    def source_bits_per_weight(self) -> float:
        return 8 * self.source_bytes / max(self.elements, 1)

    @property
    def fallbacks(self) -> tuple[TensorReport, ...]:
        return tuple(t for t in self.tensors if t.is_fallback)

    @property
    def format_counts(self) -> dict[str, int]:
        """Tensors of each format, the most frequent first."""
        return dict(Counter(str(t.format) for t in self.tensors).most_common())

    @property
    def bytes_per_second(self) -> float:
        return self.source_bytes / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "source": str(self.source),
            "target": str(self.target) if self.target else None,
            "recipe": self.recipe,
            "source_bytes": self.source_bytes,
            "bytes": self.nbytes,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "seconds": self.seconds,
            "needs_imatrix": list(self.needs_imatrix),
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "source_format": str(t.source_format),
                    "format": str(t.format),
                    "wanted": str(t.wanted),
                    "bytes": t.nbytes,
                }
                for t in self.tensors
            ],
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.format_counts.items())
        lines = [
            f"{self.recipe}: {_size(self.source_bytes)} ({self.source_bits_per_weight:.2f} bits per weight) to "
            f"{_size(self.nbytes)} ({self.bits_per_weight:.2f})"
            + (f" in {self.seconds:.2f} s, {_size(int(self.bytes_per_second))}/s" if self.target else ", dry run"),
            f"{len(self.tensors)} tensors: {counts}",
        ]
        for (wanted, got, row), count in Counter((t.wanted, t.format, t.shape[-1]) for t in self.fallbacks).items():
            tensors = "1 tensor has" if count == 1 else f"{count} tensors have"
            lines.append(f"fallback: {tensors} rows of {row}, which {wanted} does not fit: {got} instead")
        if self.needs_imatrix:
            lines.append(f"{len(self.needs_imatrix)} tensors need an importance matrix in this recipe")
        return "\n".join(lines)


def quantize_file(
    source: PathLike,
    target: PathLike | None,
    recipe: str,
    imatrix: PathLike | Mapping[str, Any] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    allow_requantize: bool = False,
    dry_run: bool = False,
) -> QuantizationReport:
    """Quantize a GGUF file by a recipe; the file is the one that llama-quantize writes, byte for byte.

    source: an F32, F16 or BF16 file, or the first shard of one.
    target: appears when it is whole, and not at all after an error. May be None in a dry run.
    recipe, overrides, pure, output_tensor_type, token_embedding_type: see `recipes.plan`.
    imatrix: a file, an `Imatrix`, or {tensor name: float [K] or [E, K]}.
    threads: default `get_num_threads()`; the bytes do not depend on it.
    progress: called as progress(tensor name, source bytes done, source bytes in all).
    allow_requantize: decode tensors that are already quantized, which loses quality twice.
    dry_run: choose formats and add up sizes, write nothing.

    Raises ValueError before anything is written: unknown recipe or format, a format that this version cannot encode,
    an importance matrix that is missing or of another model, quantized input. NaN or infinity in a tensor: ValueError.
    """
    chosen = recipes.get(recipe)
    origin = Path(source)
    if target is None and not dry_run:
        raise BlockquantError("quantize_file needs a target file, unless dry_run is set")
    with gguf.open(origin) as file:
        if target is not None and any(_same_file(path, Path(target)) for path in file.paths):
            raise BlockquantError(f"{target} is the input: quantize to another file")
        matrix = _take_imatrix(imatrix)
        choices = recipes.explain(
            file.tensor_infos,
            chosen,
            file.metadata,
            list(matrix) if matrix else None,
            overrides,
            pure,
            output_tensor_type,
            token_embedding_type,
        )
        if dry_run or target is None:
            missing = tuple(c.name for c in choices if c.needs_imatrix and c.name not in (matrix or ()))
            return QuantizationReport(origin, None, chosen.name, _reports(file, choices), missing, 0.0, 0)
        weights = _check(file, choices, chosen.name, matrix, allow_requantize)
        started = time.perf_counter()
        metadata = _output_metadata(file, chosen.file_type, matrix)
        plan = {c.name: (c.shape, c.format) for c in choices}
        total = sum(info.nbytes for info in file.tensor_infos.values())
        done = 0
        with gguf.create(target, metadata, tensors=plan) as out:
            for choice in choices:
                size = file.tensor_infos[choice.name].nbytes
                if not choice.shape:
                    out.add_tensor(choice.name, file.tensors[choice.name])  # a single number has no rows
                    continue
                for rows, share in _convert(file.tensors[choice.name], choice, weights.get(choice.name), threads):
                    out.add_rows(choice.name, rows)
                    if progress is not None:
                        progress(choice.name, done + int(size * share), total)
                file.release(choice.name)
                done += size
        seconds = time.perf_counter() - started
        reports = _reports(file, choices)
    return QuantizationReport(origin, Path(target), chosen.name, reports, (), seconds, os.path.getsize(target))


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and os.path.samefile(a, b)


def _take_imatrix(given: PathLike | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return load_imatrix(given)
    for name, values in given.items():
        array = np.asarray(values)
        if array.dtype.kind != "f" or not np.isfinite(array).all() or (array < 0).any():
            raise BlockquantError(f"imatrix: the weights of {name!r} must be floats, finite and not negative")
    return given or None


def _reports(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> tuple[TensorReport, ...]:
    reports = []
    for c in choices:
        info = file.tensor_infos[c.name]
        nbytes = info.nbytes
        if c.format != info.format:
            nbytes = formats[c.format].row_bytes(c.shape[-1]) * int(np.prod(c.shape[:-1], dtype=np.int64))
        reports.append(TensorReport(c.name, c.shape, info.format, c.format, c.wanted, info.nbytes, nbytes))
    return tuple(reports)


def _check(
    file: gguf.GGUFFile,
    choices: Sequence[recipes.Choice],
    recipe: str,
    matrix: Mapping[str, Any] | None,
    allow_requantize: bool,
) -> dict[str, np.ndarray[Any, Any]]:
    """Refuse what cannot be done before the work starts; return the weights of the tensors that are encoded."""
    unready = sorted({str(c.format) for c in choices if c.quantized and not formats[c.format].implemented})
    if unready:
        ready = [n for n in recipes.names() if formats[recipes.get(n).base].implemented]
        raise BlockquantError(
            f"{recipe} needs {', '.join(unready)}, which this version cannot encode yet; "
            f"recipes that it can: {', '.join(ready)}"
        )
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for c in choices:
        origin = str(file.tensor_infos[c.name].format)
        if origin == c.format:
            continue
        if origin not in formats:
            raise BlockquantError(f"tensor {c.name!r} is {origin}, and only floats can become {c.format}")
        if origin not in _FLOATS:
            if not allow_requantize:
                raise BlockquantError(
                    f"tensor {c.name!r} is already {origin}: quantize from the F32, F16 or BF16 file, "
                    "or allow requantizing, which loses quality twice"
                )
            formats[origin].require_implemented()
        if c.format in _FLOATS:
            continue
        if matrix is not None:
            try:
                found = weights_for(matrix, c.name, c.shape)
            except ValueError:
                # The embedding is looked up, not multiplied: what a matrix has for it is the output's.
                if c.name not in TOKEN_EMBEDDINGS:
                    raise
                found = None
            if found is not None:
                weights[c.name] = found
                continue
        if c.needs_imatrix or formats[c.format].needs_imatrix:
            raise BlockquantError(
                f"{recipe} makes {c.name!r} {c.format}, which is useless without an importance matrix: "
                + (
                    "the one given has nothing for this tensor"
                    if matrix
                    else "pass imatrix=, a file that llama-imatrix made of this model"
                )
            )
    return weights


def _output_metadata(
    file: gguf.GGUFFile, file_type: int, matrix: Mapping[str, Any] | None
) -> dict[str, gguf.TypedValue]:
    """The input's metadata with what llama-quantize adds, in its order: the new ones at the end."""
    number, text = gguf.ValueType.UINT32, gguf.ValueType.STRING
    added = {
        "general.quantization_version": gguf.TypedValue(_QUANTIZATION_VERSION, number),
        "general.file_type": gguf.TypedValue(file_type, number),
    }
    if matrix:
        if isinstance(matrix, Imatrix) and matrix.path is not None:
            added["quantize.imatrix.file"] = gguf.TypedValue(_shorten(str(matrix.path)), text)
        if isinstance(matrix, Imatrix) and matrix.datasets:
            added["quantize.imatrix.dataset"] = gguf.TypedValue(_shorten(matrix.datasets[0]), text)
        added["quantize.imatrix.entries_count"] = gguf.TypedValue(len(matrix), number)
        if isinstance(matrix, Imatrix) and matrix.chunk_count > 0:
            added["quantize.imatrix.chunks_count"] = gguf.TypedValue(matrix.chunk_count, number)
    kept = {k: v for k, v in file.typed_metadata().items() if k not in added and not k.startswith("split.")}
    return kept | added


def _shorten(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_TEXT_BYTES].decode("utf-8", "ignore")


def _convert(
    tensor: Tensor, choice: recipes.Choice, weights: np.ndarray[Any, Any] | None, threads: int | None
) -> Iterator[tuple[Tensor, float]]:
    """Yield the rows of the tensor in its new format, piece by piece, each with the share that is then done."""
    k = choice.shape[-1]
    rows = _as_rows(tensor, k)
    total = len(rows)
    origin = rows.format if isinstance(rows, QuantizedTensor) else _NAMES.get(rows.dtype)
    same = origin == choice.format or not choice.quantized
    # Experts have weights of their own: a piece does not reach into the next expert.
    per_expert = choice.shape[-2] if weights is not None and weights.ndim == 2 else max(total, 1)
    at = 0
    while at < total:
        expert, within = divmod(at, per_expert)
        count = min(max(1, _PIECE // max(k, 1)), per_expert - within, total - at)
        piece = rows[at : at + count]
        if same:
            _check_finite(piece, choice.name, at)
            yield piece, (at + count) / total
        else:
            values = piece.dequantize(threads=threads) if isinstance(piece, QuantizedTensor) else piece
            row_weights = weights[expert % len(weights)] if weights is not None and weights.ndim == 2 else weights
            try:
                encoded = quantize(values, choice.format, row_weights, threads)
            except ValueError as error:
                _check_finite(values, choice.name, at)
                raise BlockquantError(f"tensor {choice.name!r}: {error}") from None
            _check_finite(encoded, choice.name, at)
            yield encoded, (at + count) / total
        at += count


_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def _as_rows(tensor: Tensor, k: int) -> Tensor:
    """The same data as [rows, k]."""
    if isinstance(tensor, QuantizedTensor):
        return QuantizedTensor(tensor.data.reshape(-1, tensor.data.shape[-1]), tensor.format)
    return tensor.reshape(-1, k)


def _check_finite(values: Tensor, name: str, first_row: int) -> None:
    """ValueError naming the first element that is not finite, of float rows that begin at `first_row`."""
    if isinstance(values, QuantizedTensor):
        if values.format == "BF16":
            bits = values.data.view(np.uint16)
            bad = (bits & 0x7F80) == 0x7F80
        elif values.format in _DTYPES:
            bad = ~np.isfinite(values.data.view(_DTYPES[str(values.format)]))
        else:
            return
    elif values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    else:
        return
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise BlockquantError(
            f"tensor {name!r}: element [{first_row + row}, {column}] is not finite"
            + (f" in {values.format}" if isinstance(values, QuantizedTensor) else "")
            + ": the file is damaged or its values do not fit"
        )


def _size(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB" if count < 1_000_000_000 else f"{count / 1_000_000_000:.2f} GB"
