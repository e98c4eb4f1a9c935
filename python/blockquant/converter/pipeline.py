"""From a Hugging Face directory to a GGUF file: plan everything, then stream the tensors.

Whatever can be wrong with the input is found while planning, before any output exists. Then tensors go through in
pieces of whole rows, so that memory is bounded by a piece, not by the model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockquant import gguf, recipes
from blockquant._formats import formats as registry
from blockquant._tensor import QuantizedTensor, quantize
from blockquant.converter.config import load_config, read_json
from blockquant.converter.families import Family, TensorRule, family_of
from blockquant.converter.floats import to_float32, to_format
from blockquant.converter.general import general_metadata, sampling_metadata
from blockquant.converter.model_card import card_metadata, read_model_card
from blockquant.converter.safetensors import StoredTensor, open_checkpoint
from blockquant.converter.vocabulary import tokenizer_metadata
from blockquant.errors import BlockquantError

Progress = Callable[[str, int, int], None]

_PIECE_ELEMENTS = 1 << 22

# `dtype` -> (tensor format, general.file_type).
_FLOAT_TYPES: dict[str, tuple[str, int]] = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32)}

# ggml's version of the block formats, written by every tool that makes a file.
_QUANTIZATION_VERSION = 2

# Buffers that old checkpoints hold beside the weights; they follow from the config.
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote: the file, its `general.architecture`, what `dtype` came to, and counts."""

    path: Path
    architecture: str
    dtype: str
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class _Planned:
    """A tensor of the output: from the checkpoint, or computed (`source` None)."""

    name: str
    shape: tuple[int, ...]
    source: StoredTensor | None
    order: NDArray[np.intp] | None
    computed: NDArray[np.float32] | None = None

    def pieces(self) -> Iterator[tuple[NDArray[Any], str]]:
        """The stored elements in pieces of whole rows, [n, K] (a vector whole), with their dtype."""
        if self.source is None:
            assert self.computed is not None
            yield self.computed, "F32"
            return
        data, dtype = self.source.data, self.source.dtype
        if len(self.shape) < 2:
            yield data if self.order is None else data[self.order], dtype
            return
        rows = data.reshape(-1, self.shape[-1])
        step = max(1, _PIECE_ELEMENTS // max(1, self.shape[-1]))
        for start in range(0, len(rows), step):
            if self.order is None:
                yield rows[start : start + step], dtype
            else:
                yield rows[self.order[start : start + step]], dtype


def convert(
    src_dir: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    dtype: str = "bf16",
    threads: int | None = None,
    progress: Progress | None = None,
    *,
    pre_tokenizer: str | None = None,
) -> Conversion:
    """Convert a Hugging Face model directory to one GGUF file that llama.cpp loads.

    Args:
        src_dir: the folder with config.json, model.safetensors (or shards with their index) and tokenizer.json.
        out_path: the file to write; it appears whole or not at all.
        dtype: "f32", "f16", "bf16", "auto" (the checkpoint's own), or a recipe such as "Q4_K_M", which quantizes on the
            way and gives the bytes of "auto" followed by `quantize_file`. Norms and vectors are float32 in any case.
        threads: for quantizing; default `get_num_threads()`.
        progress: called as progress(tensor name, bytes written, bytes in all).
        pre_tokenizer: `tokenizer.ggml.pre` of a byte-level vocabulary whose splitting is not recognized.

    Raises:
        ValueError: no config.json, an unsupported architecture, missing or unexpected tensors, a damaged file, a
            tokenizer that GGUF cannot hold, an unknown dtype. Nothing is written then.
    """
    directory, out = Path(src_dir), Path(out_path)
    config = load_config(directory)
    family = family_of(config)
    checkpoint = open_checkpoint(directory)
    plan = _plan(family, checkpoint)
    kind = dtype.lower()
    if kind not in (*_FLOAT_TYPES, "auto"):
        _check_recipe(dtype)
    base, file_type = _FLOAT_TYPES[kind if kind in _FLOAT_TYPES else _own_dtype(checkpoint)]
    metadata = _metadata(directory, config, family, plan, file_type, pre_tokenizer)
    formats = {tensor.name: "F32" if len(tensor.shape) < 2 else base for tensor in plan}
    name = base
    if kind not in (*_FLOAT_TYPES, "auto"):
        name = recipes.get(dtype).name
        plan, formats, metadata = _apply_recipe(name, plan, formats, metadata)
    if not out.resolve().parent.is_dir():
        raise BlockquantError(f"{out}: the directory {out.resolve().parent} does not exist; make it first")
    nbytes = _write(out, metadata, plan, formats, base, threads, progress)
    return Conversion(out, family.arch, name, len(plan), sum(prod(tensor.shape) for tensor in plan), nbytes)


def _check_recipe(name: str) -> None:
    """Refuse what is neither a float type nor a recipe, naming both."""
    try:
        recipes.get(name)
    except ValueError:
        known = ", ".join(known for known in recipes.names() if known.lower() not in _FLOAT_TYPES)
        raise BlockquantError(f"unknown dtype {name!r}; expected bf16, f16, f32, auto or a recipe: {known}") from None


def _own_dtype(checkpoint: Mapping[str, StoredTensor]) -> str:
    """The float type that holds most of the checkpoint's matrix elements; f32 for a checkpoint of anything else."""
    held: Counter[str] = Counter()
    for tensor in checkpoint.values():
        if len(tensor.shape) >= 2:
            held[tensor.dtype.lower()] += tensor.size
    most = held.most_common(1)[0][0] if held else "f32"
    return most if most in _FLOAT_TYPES else "f32"


def _plan(family: Family, checkpoint: Mapping[str, StoredTensor]) -> list[_Planned]:
    """The output tensors in order: computed ones, then those of the checkpoint as they stand there."""
    rules: dict[str, TensorRule] = {rule.source: rule for rule in family.tensors()}
    # A checkpoint saved from the bare model (without its output head) has no "model." before its names.
    bare = "model.embed_tokens.weight" not in checkpoint and "embed_tokens.weight" in checkpoint
    plan = [_Planned(name, data.shape, None, None, data) for name, data in family.computed_tensors().items()]
    for name, tensor in checkpoint.items():
        rule = rules.pop(f"model.{name}" if bare and not name.startswith("lm_head.") else name, None)
        if rule is None:
            if name.endswith(_BUFFERS):
                continue
            raise BlockquantError(
                f"{tensor.file.path}: tensor {name!r} belongs to no {family.arch} model with {family.block_count} "
                "layers; config.json and the weights do not fit together"
            )
        if tensor.shape != rule.shape:
            raise BlockquantError(
                f"{tensor.file.path}: tensor {name!r} has shape {list(tensor.shape)}, "
                f"config.json makes it {list(rule.shape)}"
            )
        plan.append(_Planned(rule.target, rule.shape, tensor, rule.row_order))
    missing = [rule.source for rule in rules.values() if rule.required]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise BlockquantError(f"the checkpoint lacks the tensor {missing[0]!r}{more} of a {family.arch} model")
    return plan


def _metadata(
    directory: Path,
    config: Mapping[str, Any],
    family: Family,
    plan: list[_Planned],
    file_type: int,
    pre_tokenizer: str | None,
) -> dict[str, Any]:
    """All metadata, in the order that llama.cpp's converter writes."""
    card = read_model_card(directory)
    parameters = sum(prod(tensor.shape) for tensor in plan)
    return {
        "general.architecture": family.arch,
        "general.type": "model",
        **sampling_metadata(read_json(directory / "generation_config.json", required=False)),
        **general_metadata(directory, config, card, parameters),
        **card_metadata(card, parameters),
        **family.metadata(),
        "general.file_type": file_type,
        **family.late_metadata(),
        "general.quantization_version": _QUANTIZATION_VERSION,
        **tokenizer_metadata(directory, family.vocab_size, pre_tokenizer),
    }


def _apply_recipe(
    name: str, plan: list[_Planned], formats: dict[str, str], metadata: dict[str, Any]
) -> tuple[list[_Planned], dict[str, str], dict[str, Any]]:
    """The plan, formats and metadata of the file that `quantize_file` makes of the one with these."""
    infos = {tensor.name: gguf.TensorInfo(tensor.name, tensor.shape, formats[tensor.name], 0, 0) for tensor in plan}
    choices = recipes.explain(infos, name, metadata)
    for choice in choices:
        if not choice.quantized:
            continue
        if choice.needs_imatrix or registry[choice.format].needs_imatrix:
            raise BlockquantError(
                f"{name} makes {choice.name!r} {choice.format}, which needs an importance matrix: convert to bf16, "
                "then quantize that file with one"
            )
        registry[choice.format].require_implemented()
    by_name = {tensor.name: tensor for tensor in plan}
    added = {
        "general.quantization_version": metadata["general.quantization_version"],
        "general.file_type": recipes.get(name).file_type,
    }
    kept = {key: value for key, value in metadata.items() if key not in added}
    chosen = {choice.name: str(choice.format) for choice in choices}
    return [by_name[choice.name] for choice in choices], chosen, kept | added


def _write(
    out: Path,
    metadata: Mapping[str, Any],
    plan: list[_Planned],
    formats: Mapping[str, str],
    base: str,
    threads: int | None,
    progress: Progress | None,
) -> int:
    shapes = {tensor.name: (tensor.shape, formats[tensor.name]) for tensor in plan}
    total = sum(_row_bytes(shape[-1], format) * prod(shape[:-1]) for shape, format in shapes.values())
    done = 0
    with gguf.create(out, metadata, tensors=shapes) as writer:
        for tensor in plan:
            format = formats[tensor.name]
            for data, dtype in tensor.pieces():
                try:
                    rows = _encode(data, dtype, base, format, threads)
                except ValueError as error:
                    raise BlockquantError(f"tensor {tensor.name!r}: {error}") from None
                writer.add_rows(tensor.name, rows)
                if tensor.source is not None:
                    tensor.source.release()
                done += rows.nbytes
                if progress is not None:
                    progress(tensor.name, done, total)
    return out.stat().st_size


def _row_bytes(columns: int, format: str) -> int:
    return registry[format].row_bytes(columns)


def _encode(
    data: NDArray[Any], dtype: str, base: str, format: str, threads: int | None
) -> NDArray[Any] | QuantizedTensor:
    """Elements of a stored dtype as `format`; quantized ones pass through `base`, as a converted file holds them."""
    if format == "BF16":
        return QuantizedTensor(to_format(data, dtype, format).view(np.uint8), format)
    if format in ("F32", "F16"):
        return to_format(data, dtype, format)
    return quantize(to_float32(to_format(data, dtype, base), base), format, threads=threads)
