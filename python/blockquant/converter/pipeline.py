"""From a Hugging Face directory to a GGUF file: plan everything, then stream the tensors.

Whatever can be wrong with the input is found while planning, before any output exists. Then tensors go through in
pieces of whole rows, so that memory is bounded by a piece, not by the model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from blockquant.converter.config import load_config, read_json
from blockquant.converter.families import Family, family_of
from blockquant.converter.general import general_metadata, sampling_metadata
from blockquant.converter.generic import convert_generic, is_generic
from blockquant.converter.model_card import card_metadata, read_model_card
from blockquant.converter.plan import Planned, plan_tensors
from blockquant.converter.pooling import pooling_metadata
from blockquant.converter.safetensors import StoredTensor, open_checkpoint
from blockquant.converter.vocabulary import tokenizer_metadata
from blockquant.converter.writing import (
    FLOAT_TYPES,
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
from blockquant.recipes import Recipe
from blockquant.recipes.planner import Overrides


def convert(
    src_dir: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    dtype: str | os.PathLike[str] | Recipe = "bf16",
    threads: int | None = None,
    progress: Progress | None = None,
    *,
    pre_tokenizer: str | None = None,
    architecture: str | None = None,
    imatrix: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
) -> Conversion:
    """Convert a Hugging Face model directory to one GGUF file that llama.cpp loads.

    Weights of any other kind, a .safetensors file or a folder of them without a language model's config.json and
    tokenizer, keep their names and shapes and are quantized by these: see `recipes.unknown`.

    Args:
        src_dir: the folder with config.json, model.safetensors (or shards with their index) and tokenizer.json; or
            other weights: a .safetensors file, an index, or a folder with one of these.
        out_path: the file to write; it appears whole or not at all.
        dtype: "f32", "f16", "bf16", "auto" (the checkpoint's own), or a recipe such as "Q4_K_M", which quantizes on the
            way and gives the bytes of "auto" followed by `quantize_file`. Norms and vectors are float32 in any case,
            but for weights of other kinds, where they stay.
        threads: for quantizing; default `get_num_threads()`.
        progress: called as progress(tensor name, bytes written, bytes in all).
        pre_tokenizer: `tokenizer.ggml.pre` of a byte-level vocabulary whose splitting is not recognized.
        architecture: take the weights as they are named, whatever they are, as a file of this architecture ("flux").
        imatrix, overrides, pure, output_tensor_type, token_embedding_type: as `quantize_file` takes them.

    Returns what was written; its `left_out` says what of the source is not in the file.

    Raises:
        ValueError: no config.json, an unsupported architecture, missing or unexpected tensors, a damaged file, a
            tokenizer that GGUF cannot hold, an unknown dtype, an `out_path` that is a file of the source, a float64
            beyond the range of float32. Nothing is written then.
    """
    directory, out = Path(src_dir), Path(out_path)
    options = RecipeOptions(imatrix, overrides, pure, output_tensor_type, token_embedding_type)
    if is_generic(directory, architecture):
        return convert_generic(directory, out, dtype, options, architecture, threads, progress)
    config = load_config(directory)
    family = family_of(config)
    return convert_checkpoint(
        config, family, open_checkpoint(directory), directory, out, dtype, options, threads, progress, pre_tokenizer
    )


def convert_checkpoint(
    config: Mapping[str, Any],
    family: Family,
    checkpoint: Mapping[str, StoredTensor],
    directory: Path | None,
    out: Path,
    dtype: str | os.PathLike[str] | Recipe,
    options: RecipeOptions,
    threads: int | None,
    progress: Progress | None,
    pre_tokenizer: str | None = None,
    vocabulary: bool = True,
    given: Mapping[str, Any] | None = None,
    sources: Iterable[Path] = (),
) -> Conversion:
    """Convert the tensors of a checkpoint; the tokenizer and the model card come from the directory.

    Without a directory the model is named as the file is. Without `vocabulary` the file has none. `given` is metadata
    that comes instead of, or after, what is found. `sources` are files and folders, beside the directory, that `out`
    must not replace.
    """
    plan = plan_tensors(family, checkpoint)
    left_out: list[str] = []
    kind = str(dtype).lower()
    recipe = None if kind in (*FLOAT_TYPES, "auto") else take_recipe(dtype, (*FLOAT_TYPES, "auto"))
    base, file_type = FLOAT_TYPES[kind if kind in FLOAT_TYPES else _own_dtype(checkpoint)]
    metadata = _metadata(directory, out, config, family, plan, file_type, left_out)
    if directory is not None and vocabulary:
        tokenizer = tokenizer_metadata(directory, family.vocab_size, pre_tokenizer, config, left_out)
        metadata |= tokenizer | family.tokenizer_metadata(tokenizer)
    else:
        metadata |= {"tokenizer.ggml.model": "no_vocab", f"{family.arch}.vocab_size": family.vocab_size}
    metadata |= given or {}
    whole = Plan(metadata, plan, {tensor.name: "F32" if tensor.is_exact else base for tensor in plan})
    if recipe is None:
        options.refuse_without_recipe(dtype)
    else:
        whole = apply_recipe(whole, recipe, options)
    folders = () if directory is None else (directory,)
    stored = {tensor.file.path for tensor in checkpoint.values() if isinstance(tensor.file.path, Path)}
    check_output(out, (*folders, *stored, *sources, *options.files(dtype)))
    nbytes = write(out, whole, base, threads, progress)
    name = recipe.name if recipe else base
    done = Conversion(out, family.arch, name, len(plan), whole.parameters, nbytes, whole.choices, whole.unweighted)
    return replace(done, left_out=tuple(left_out))


def _own_dtype(checkpoint: Mapping[str, StoredTensor]) -> str:
    """The float type that holds most of the checkpoint's matrix elements; f32 for a checkpoint of anything else."""
    held: Counter[str] = Counter()
    for tensor in checkpoint.values():
        if len(tensor.shape) >= 2:
            held[tensor.dtype.lower()] += tensor.size
    most = held.most_common(1)[0][0] if held else "f32"
    return most if most in FLOAT_TYPES else "f32"


def _metadata(
    directory: Path | None,
    out: Path,
    config: Mapping[str, Any],
    family: Family,
    plan: list[Planned],
    file_type: int,
    left_out: list[str],
) -> dict[str, Any]:
    """All metadata but the vocabulary, in the order that llama.cpp's converter writes."""
    card = read_model_card(directory, left_out) if directory is not None else {}
    generation = read_json(directory / "generation_config.json", required=False) if directory is not None else {}
    parameters = sum(prod(tensor.shape) for tensor in plan)
    label = family.size_label({tensor.name: tensor.shape for tensor in plan})
    return {
        "general.architecture": family.arch,
        **family.first_metadata(),
        "general.type": "model",
        **sampling_metadata(generation),
        **general_metadata(directory or out.with_suffix(""), config, card, parameters, label),
        **card_metadata(card, parameters),
        **family.metadata(),
        "general.file_type": file_type,
        **family.late_metadata(),
        **(pooling_metadata(directory, family.arch, left_out) if directory is not None and family.embeds else {}),
        "general.quantization_version": QUANTIZATION_VERSION,
    }
