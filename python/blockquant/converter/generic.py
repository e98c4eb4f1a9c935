"""Weights of any kind to GGUF: names and shapes stay, and say what is quantized.

For diffusion, speech and vision models, whose readers know tensors by their own names. What GGUF cannot hold is told in
the metadata: a name of more than 63 bytes keeps its end behind a digest (`blockquant.original_name.NAME`), and of five
dimensions and more the first are merged (`comfy.gguf.orig_shape.NAME`, as ComfyUI-GGUF reads it).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blockquant import gguf
from blockquant._tensor import QuantizedTensor
from blockquant.converter.config import read_json
from blockquant.converter.safetensors import is_weights_file, open_weights
from blockquant.converter.writing import (
    FLOAT_TYPES,
    FLOATS,
    QUANTIZATION_VERSION,
    Conversion,
    Plan,
    Progress,
    RecipeOptions,
    apply_recipe,
    check_output,
    take_recipe,
    write,
)
from blockquant.errors import BlockquantError
from blockquant.recipes import Recipe
from blockquant.recipes.tensors import dimensions, why_kept
from blockquant.recipes.unknown import is_unknown

_NAME_BYTES, _DIMENSIONS = 63, 4  # llama.cpp's limits
_PIECE_ELEMENTS = 1 << 22

# Stored dtype -> that of the file, where it is another: GGUF has signed integers alone, and few read its doubles.
_STORED_AS = {"F64": "F32", "BOOL": "I8", "U8": "I16", "U16": "I32", "U32": "I64", "U64": "I64"}
_INTEGERS = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}


class Held(Protocol):
    """A tensor of a checkpoint, or of a caller's memory; `data` holds uint16 bits when `dtype` is BF16."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> Any: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class _Kept:
    """A tensor under its name and shape in the file."""

    name: str
    shape: tuple[int, ...]
    source: Held

    @property
    def format(self) -> str:
        return _STORED_AS.get(self.source.dtype, self.source.dtype)

    def release(self) -> None:
        self.source.release()

    def pieces(self) -> Iterator[tuple[Any, str]]:
        data, dtype = self.source.data, self.source.dtype
        if not isinstance(data, np.ndarray):  # a QuantizedTensor
            yield QuantizedTensor(data.data.reshape(*self.shape[:-1], data.data.shape[-1]), data.format), dtype
            return
        if data.size == 0:
            return
        rows = data.reshape(-1, self.shape[-1]) if len(self.shape) > 1 else data.reshape(self.shape)
        step = max(1, _PIECE_ELEMENTS // max(1, self.shape[-1]))
        for start in range(0, len(rows), step):
            yield self._as_stored(rows[start : start + step], dtype)

    def _as_stored(self, data: NDArray[Any], dtype: str) -> tuple[Any, str]:
        if self.format not in _INTEGERS:
            return data, dtype
        if dtype == "U64" and data.size and data.max() > np.iinfo(np.int64).max:
            raise BlockquantError(f"{data.max()} does not fit GGUF's 64-bit integers")
        return data.astype(_INTEGERS[self.format]), self.format


def is_generic(source: Path, architecture: str | None) -> bool:
    """Whether `convert` takes these weights as they are named, instead of as a language model's."""
    if architecture is not None or is_weights_file(source):
        return True
    if not source.is_dir() or any((source / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    return "architectures" not in read_json(source / "config.json", required=False) and any(
        source.glob("*.safetensors")
    )


def convert_generic(
    source: Path,
    out: Path,
    dtype: str | os.PathLike[str] | Recipe,
    options: RecipeOptions,
    architecture: str | None,
    threads: int | None,
    progress: Progress | None,
) -> Conversion:
    """Write weights of any kind; `convert` describes the arguments."""
    metadata = {"general.architecture": architecture or "unknown", "general.name": source.resolve().stem}
    tensors = open_weights(source)
    check_output(out, (source, *{tensor.file.path for tensor in tensors.values()}, *options.files(dtype)))
    return write_tensors(tensors, out, metadata, dtype, options, threads, progress)


def write_tensors(
    tensors: Mapping[str, Held],
    out: Path,
    metadata: Mapping[str, Any],
    dtype: str | os.PathLike[str] | Recipe,
    options: RecipeOptions,
    threads: int | None,
    progress: Progress | None,
) -> Conversion:
    """Write tensors under their own names. Float types are recipes here: they leave alone what a recipe would."""
    kind = str(dtype).lower()
    recipe = None if kind == "auto" else take_recipe(dtype, (*FLOAT_TYPES, "auto"))
    if recipe is None or kind in FLOAT_TYPES:
        options.refuse_without_recipe(dtype)
    kept, renamed, reshaped = _fit(tensors)
    # What llama.cpp calculates with in float32 alone is float32 in its files.
    known = not is_unknown(tensors, metadata)
    formats = {}
    for tensor in kept:
        exact = known and tensor.format in FLOATS and why_kept(tensor.name, tensor.shape, _architecture(metadata))
        formats[tensor.name] = "F32" if exact else tensor.format
    keys = dict(metadata)
    keys.setdefault("general.file_type", np.uint32(_file_type(kept)))
    keys.setdefault("general.quantization_version", np.uint32(QUANTIZATION_VERSION))
    for name, original in renamed.items():
        keys[f"blockquant.original_name.{name}"] = original
    for name, shape in reshaped.items():
        keys[f"comfy.gguf.orig_shape.{name}"] = np.array(shape, np.int32)
    plan = Plan(keys, kept, formats)
    if recipe is not None:
        plan = apply_recipe(plan, recipe, options)
    check_output(out, options.files(dtype))
    nbytes = write(out, plan, None, threads, progress)
    return Conversion(
        out,
        _architecture(metadata),
        recipe.name if recipe else "auto",
        len(kept),
        plan.parameters,
        nbytes,
        plan.choices,
        plan.unweighted,
        {original: name for name, original in renamed.items()},
        reshaped,
    )


def _architecture(metadata: Mapping[str, Any]) -> str:
    value = metadata["general.architecture"]
    return str(value.value if isinstance(value, gguf.TypedValue) else value)


def _file_type(tensors: list[_Kept]) -> int:
    """That of the float type that holds most elements of matrices; 0 for none of them."""
    held = {number: 0 for _, number in FLOAT_TYPES.values()}
    numbers = dict(FLOAT_TYPES.values())
    for tensor in tensors:
        if tensor.format in numbers and dimensions(tensor.shape) > 1:
            held[numbers[tensor.format]] += prod(tensor.shape)
    return max(held, key=lambda number: held[number])


def _fit(tensors: Mapping[str, Held]) -> tuple[list[_Kept], dict[str, str], dict[str, tuple[int, ...]]]:
    """The tensors as GGUF can hold them, the original names of those renamed, and shapes of those reshaped."""
    kept: list[_Kept] = []
    renamed: dict[str, str] = {}
    reshaped: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        short = _short(name)
        if short != name:
            if short in tensors or short in renamed:
                raise BlockquantError(f"tensor {name!r}: its short name {short!r} is taken; rename one of them")
            renamed[short] = name
        shape = tensor.shape or (1,)
        if len(shape) > _DIMENSIONS:
            first = len(shape) - _DIMENSIONS + 1
            reshaped[short] = shape
            shape = (prod(shape[:first]), *shape[first:])
        kept.append(_Kept(short, shape, tensor))
    if not kept:
        raise BlockquantError("there are no tensors to write")
    return kept, renamed, reshaped


def _short(name: str) -> str:
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise BlockquantError(f"tensor name {name!a} is not Unicode text: rename it") from None
    if len(raw) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    end = raw[-(_NAME_BYTES - len(digest) - 1) :].decode("utf-8", "ignore")
    return f"{digest}.{end.lstrip('.')}"
