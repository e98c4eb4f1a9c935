"""What convert and save_gguf share: a recipe applied to tensors that are not written yet, and the writing of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blockquant import _core, gguf, recipes
from blockquant._formats import formats as registry
from blockquant._runtime import thread_count
from blockquant._tensor import QuantizedTensor, quantize
from blockquant.converter.floats import to_float32, to_format
from blockquant.errors import BlockquantError
from blockquant.gguf._types import tensor_bytes
from blockquant.imatrix import Float32, quantization_metadata, take, weights_of
from blockquant.recipes import Choice, Recipe
from blockquant.recipes.planner import Overrides

PathLike: TypeAlias = "str | os.PathLike[str]"
Progress = Callable[[str, int, int], None]
Rows: TypeAlias = "NDArray[Any] | QuantizedTensor"

FLOATS = ("F32", "F16", "BF16")

# `dtype` -> (tensor format, general.file_type).
FLOAT_TYPES: dict[str, tuple[str, int]] = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32)}

# ggml's version of the block formats, written by every tool that makes a file.
QUANTIZATION_VERSION = 2


class Planned(Protocol):
    """A tensor of the output, before it is written."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def pieces(self) -> Iterator[tuple[Any, str]]:
        """Its elements in pieces of whole rows, [n, K] (a vector whole), with their dtype."""

    def release(self) -> None:
        """What was read is not needed again soon."""


@dataclass(frozen=True)
class RecipeOptions:
    """What `quantize_file` takes beside a recipe; it means the same."""

    imatrix: PathLike | Mapping[str, Any] | None = None
    overrides: Overrides | None = None
    pure: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None

    def refuse_without_recipe(self, dtype: object) -> None:
        """ValueError when there are options and `dtype` is a float type, which has no use for them."""
        given = [name for name, value in vars(self).items() if value]
        if given:
            raise BlockquantError(f"{given[0]} goes with a recipe such as Q4_K_M; {dtype!r} has no use for it")

    def files(self, dtype: object) -> Iterator[Path]:
        """The files that say how to quantize: the importance matrix, and the recipe that `dtype` is the path of."""
        if isinstance(self.imatrix, (str, os.PathLike)):
            yield Path(self.imatrix)
        if str(dtype).lower().endswith(".toml"):
            yield Path(str(dtype))


@dataclass(frozen=True)
class Conversion:
    """What was written: the file, `general.architecture`, what `dtype` came to, counts, and what each tensor got."""

    path: Path
    architecture: str
    dtype: str
    tensors: int
    parameters: int
    nbytes: int
    choices: tuple[Choice, ...] = field(default=(), repr=False)
    unweighted: tuple[str, ...] = field(default=(), repr=False)
    """Tensors that were encoded without weights although there is an importance matrix."""
    renamed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in the file of tensors whose own name GGUF cannot hold."""
    reshaped: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """Shapes of tensors that have more dimensions than GGUF can hold."""
    left_out: tuple[str, ...] = field(default=(), repr=False)
    """What the source says and the file does not, a line each, such as added tokens that the model has no rows for."""

    @property
    def kept(self) -> tuple[Choice, ...]:
        """Tensors that the recipe did not touch; `reason` says why."""
        return tuple(choice for choice in self.choices if not choice.quantized)

    @property
    def fallbacks(self) -> tuple[Choice, ...]:
        """Tensors that have another format than the recipe wanted; `reason` says why."""
        return tuple(choice for choice in self.choices if choice.is_fallback)

    @property
    def format_counts(self) -> dict[str, int]:
        """Tensors of each format, the most frequent first; empty where no recipe was applied."""
        return dict(Counter(str(choice.format) for choice in self.choices).most_common())


@dataclass(frozen=True)
class Plan:
    """Everything that is written: metadata, and in file order each tensor with its format and weights."""

    metadata: Mapping[str, Any]
    tensors: Sequence[Planned]
    formats: Mapping[str, str]
    weights: Mapping[str, Float32] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    unweighted: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)


def take_recipe(dtype: PathLike | Recipe, known: Iterable[str]) -> Recipe:
    """The recipe that `dtype` names; ValueError naming the float types and the recipes when it names none."""
    try:
        return recipes.get(dtype)
    except ValueError as error:
        if str(dtype).lower().endswith(".toml"):
            raise
        names = ", ".join(name for name in recipes.names() if name.lower() not in known)
        raise BlockquantError(
            f"unknown dtype {str(dtype)!r}; expected {', '.join(known)}, a .toml file or a recipe: {names}"
        ) from error


def apply_recipe(plan: Plan, recipe: Recipe, options: RecipeOptions) -> Plan:
    """The plan of the file that `quantize_file` would make of the file of this plan.

    ValueError: a format that does not fit where it was asked for, a missing importance matrix, or one of other shapes.
    """
    infos = {t.name: gguf.TensorInfo(t.name, t.shape, plan.formats[t.name], 0, 0) for t in plan.tensors}
    matrix = take(options.imatrix)
    choices = recipes.explain(
        infos,
        recipe,
        {key: value.value if isinstance(value, gguf.TypedValue) else value for key, value in plan.metadata.items()},
        list(matrix) if matrix else None,
        options.overrides,
        options.pure,
        options.output_tensor_type,
        options.token_embedding_type,
    )
    choices = [_once(choice, plan.formats[choice.name]) for choice in choices]
    weights, unweighted = weights_of(matrix, choices, recipe.name)
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    added = {
        "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        "general.file_type": np.uint32(recipe.file_type),
        **quantization_metadata(matrix),
    }
    kept = {key: value for key, value in plan.metadata.items() if key not in added}
    chosen = {choice.name: str(choice.format) for choice in choices}
    ordered = [by_name[choice.name] for choice in choices]
    return Plan(kept | added, ordered, chosen, weights, tuple(choices), unweighted)


def _once(choice: Choice, stored: str) -> Choice:
    """The choice, unless the tensor is quantized already: nothing is quantized twice here."""
    if not choice.quantized:
        return choice
    registry[choice.format].require_implemented()
    if stored in FLOATS or stored == choice.format:
        return choice
    return replace(choice, format=stored, quantized=False, needs_imatrix=False, reason="it is quantized already")


def check_output(out: Path, sources: Iterable[Path] = ()) -> None:
    """ValueError when the file cannot appear where it should, or would replace what it is made of.

    `sources` are files and folders; of a folder every file is one but for GGUF files, whatever their names.
    """
    if not out.resolve().parent.is_dir():
        raise BlockquantError(f"{out}: the directory {out.resolve().parent} does not exist; make it first")
    if not out.is_file():
        return
    with open(out, "rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    for source in sources:
        # Of a model's folder also what is in its folders, such as additional_chat_templates.
        found = (path for pattern in ("*", "*/*") for path in source.glob(pattern)) if source.is_dir() else [source]
        if not (is_gguf and source.is_dir()) and any(path.is_file() and os.path.samefile(path, out) for path in found):
            raise BlockquantError(f"{out} is the input: write to another file")


def write(out: Path, plan: Plan, base: str | None, threads: int | None, progress: Progress | None) -> int:
    """Write the file and return its size in bytes.

    Tensors that are quantized pass through the float format `base`, as if they came from a file of it; not for None.
    """
    shapes = {tensor.name: (tensor.shape, plan.formats[tensor.name]) for tensor in plan.tensors}
    total = sum(tensor_bytes(name, shape, format) for name, (shape, format) in shapes.items())
    done = 0
    with gguf.create(out, plan.metadata, tensors=shapes) as writer:
        for tensor in plan.tensors:
            for parts in _encoded(tensor, base, plan, threads):
                for rows in parts:
                    writer.add_rows(tensor.name, rows)
                    done += rows.nbytes
                tensor.release()
                if progress is not None:
                    progress(tensor.name, done, total)
    return out.stat().st_size


def _encoded(tensor: Planned, base: str | None, plan: Plan, threads: int | None) -> Iterator[list[Rows]]:
    """The pieces of a tensor in its format. Raises ValueError for what is wrong in one, naming the tensor and row."""
    at = 0
    try:
        for data, dtype in tensor.pieces():
            yield list(_encode(data, dtype, base, plan, tensor, at, threads))
            at += len(data) if data.ndim else 1
    except ValueError as error:
        where = f" (x begins at row {at})" if at else ""
        raise BlockquantError(f"tensor {tensor.name!r}: {error}{where}") from None


def _encode(
    data: Any, dtype: str, base: str | None, plan: Plan, tensor: Planned, at: int, threads: int | None
) -> Iterator[Rows]:
    """A piece that begins at row `at` of the tensor, in the tensor's format; no part reaches into the next expert."""
    format = plan.formats[tensor.name]
    if dtype == format and format not in FLOATS:
        yield data
    elif format in FLOATS:
        stored = to_format(data, dtype, format)
        _check_floats(stored, format, data, dtype, threads)
        yield QuantizedTensor(stored.view(np.uint8), format) if format == "BF16" else stored
    else:
        values = to_float32(data if base is None else to_format(data, dtype, base), base or dtype)
        weights = plan.weights.get(tensor.name)
        if weights is None or weights.ndim == 1:
            yield _quantize(values, format, weights, threads, 0)
            return
        per_expert = tensor.shape[-2]
        start = 0
        while start < len(values):
            expert, within = divmod(at + start, per_expert)
            stop = min(start + per_expert - within, len(values))
            yield _quantize(values[start:stop], format, weights[expert % len(weights)], threads, start)
            start = stop


def _check_floats(stored: Any, format: str, data: Any, dtype: str, threads: int | None) -> None:
    """ValueError for finite numbers that became infinite; infinities and NaNs of the source stay what they are."""
    raw = stored.reshape(-1).view(np.uint8)
    if _core.find_bad(raw, registry[format].ggml_type, stored.size, thread_count(threads)) is None:
        return
    given = to_float32(data, dtype)
    lost = np.isfinite(given) & ~np.isfinite(to_float32(stored, format))
    if lost.any():
        at = np.unravel_index(int(np.argmax(lost)), lost.shape)
        place = ", ".join(map(str, at))
        raise BlockquantError(f"x[{place}] is {given[at]:g}, beyond the range of {format}: convert to bf16 or f32")


def _quantize(values: Rows, format: str, weights: Float32 | None, threads: int | None, start: int) -> QuantizedTensor:
    """`quantize` of rows that begin at `start` of their piece; ValueError for what the format cannot hold."""
    encoded = quantize(values, format, weights, threads)
    raw = encoded.data.reshape(-1)
    bad = _core.find_bad(raw, encoded.format.ggml_type, encoded.size, thread_count(threads))
    if bad is not None:
        row, column = divmod(bad[0], encoded.shape[-1])
        why = "" if weights is None else ", or the weights of the importance matrix are too large"
        raise BlockquantError(f"x[{start + row}, {column}] is not finite in {format}: its values do not fit{why}")
    return encoded
