"""`save_gguf`: tensors that a program holds in memory, as a training framework does, to a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from blockquant._arrays import BF16, take_floats
from blockquant._tensor import QuantizedTensor
from blockquant.converter.config import load_config
from blockquant.converter.families import families, family_of
from blockquant.converter.generic import write_tensors
from blockquant.converter.pipeline import convert_checkpoint
from blockquant.converter.safetensors import StoredTensor
from blockquant.converter.writing import Conversion, PathLike, Progress, RecipeOptions
from blockquant.errors import BlockquantError
from blockquant.gguf import TypedValue
from blockquant.recipes import Recipe
from blockquant.recipes.planner import Overrides

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_EMBEDDINGS = ("model.embed_tokens.weight", "embed_tokens.weight")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_MEMORY = SimpleNamespace(path="the state dict")  # where a checkpoint's tensor has its file


def save_gguf(
    state_dict: Mapping[str, Any],
    path: PathLike,
    architecture: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    recipe: PathLike | Recipe = "auto",
    *,
    config: Mapping[str, Any] | PathLike | None = None,
    tokenizer: PathLike | None = None,
    imatrix: PathLike | Mapping[str, Any] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write tensors to a GGUF file, quantized on the way.

    With `config`, the tensors have a Hugging Face model's names, and the file is the one that `convert` makes of the
    same model saved to a folder:

        save_gguf(model.state_dict(), "out.gguf", config=model.config.to_dict(), tokenizer="folder", recipe="Q4_K_M")

    Without it, they are written under the names they have, which are GGUF's, or those of a model that llama.cpp does
    not know:

        save_gguf({"blk.0.attn_q.weight": w, ...}, "out.gguf", "llama", {"llama.block_count": 1, ...}, "Q4_K_M")

    Args:
        state_dict: name -> tensor: numpy, torch (taken to the CPU one at a time), bfloat16, anything with `__dlpack__`
            or `__array__`, or a `QuantizedTensor`, which stays as it is. Nothing is copied but the piece at hand.
        path: the file to write; it appears whole or not at all.
        architecture: `general.architecture` of the file; with `config` not needed, or the model's class
            ("LlamaForCausalLM") where the config does not say it.
        metadata: further GGUF metadata; it comes before what would be written otherwise.
        recipe: as `convert` takes its `dtype`: "auto" keeps the floats as they are.
        config: the model's config as a mapping, or the folder that holds config.json.
        tokenizer: the folder with tokenizer.json, and generation_config.json and README.md if there are any; default
            the folder of `config`. Without either the file has no vocabulary, and its name is the model's.
        imatrix, overrides, pure, output_tensor_type, token_embedding_type, threads: as for `quantize_file`.
        progress: called as progress(tensor name, bytes written, bytes in all).

    Returns what was written, with the tensors that were not quantized and why.

    Raises ValueError: as `convert`; TypeError for what is no tensor.
    """
    out = Path(path)
    options = RecipeOptions(imatrix, overrides, pure, output_tensor_type, token_embedding_type)
    held = {str(name): _hold(str(name), tensor) for name, tensor in state_dict.items()}
    if config is None:
        if tokenizer is not None:
            raise BlockquantError("a tokenizer is read for models with a config: give config, or put it in metadata")
        keys = dict(metadata or {})
        if architecture is not None:
            keys = {"general.architecture": architecture, **keys}
        if "general.architecture" not in keys:
            raise BlockquantError("save_gguf needs the architecture of the file, such as 'llama', or a config")
        named = _checked_architecture(keys["general.architecture"])
        if any(name in held for name in _EMBEDDINGS) and named in _converted():
            raise BlockquantError(
                f"the tensors have Hugging Face's names: give config= for a {named} file, or name them as GGUF does "
                "(token_embd.weight)"
            )
        return write_tensors(held, out, keys, recipe, options, threads, progress)
    if metadata is not None and "general.architecture" in metadata:
        _checked_architecture(metadata["general.architecture"])
    values, folder = _take_config(config, architecture)
    directory = Path(tokenizer) if tokenizer is not None else folder
    # As in a saved folder: by name, and the output matrix only where it is one of its own.
    quantized = next((name for name, tensor in held.items() if isinstance(tensor.tensor, QuantizedTensor)), None)
    if quantized is not None:
        raise BlockquantError(f"tensor {quantized!r} is quantized already: with a config, all are floats")
    family = family_of(values)
    tied = family.config.flag("tie_word_embeddings")
    ordered = {name: held[name] for name in sorted(held) if not (tied and _is_tied(name, state_dict))}
    vocabulary = directory is not None and any((directory / name).exists() for name in _TOKENIZERS)
    if tokenizer is not None and not vocabulary:
        raise BlockquantError(f"{tokenizer}: no {' or '.join(_TOKENIZERS)} in it")
    return convert_checkpoint(
        values,
        family,
        cast("Mapping[str, StoredTensor]", ordered),
        directory,
        out,
        recipe,
        options,
        threads,
        progress,
        vocabulary=vocabulary,
        given=metadata,
        sources=() if folder is None else (folder,),
    )


def _take_config(config: Mapping[str, Any] | PathLike, architecture: str | None) -> tuple[dict[str, Any], Path | None]:
    folder = None
    if isinstance(config, Mapping):
        values = dict(config)
    else:
        folder = Path(config)
        values = load_config(folder)
    if architecture in families:
        values["architectures"] = [architecture]
    elif architecture is not None:
        family = family_of(values)
        if architecture != family.arch:
            raise BlockquantError(
                f"the config is that of a {family.arch!r} file, not {architecture!r}: leave the architecture out, or "
                f"give the model's class, one of {', '.join(sorted(families))}"
            )
    return values, folder


def _checked_architecture(value: Any) -> str:
    text = value.value if isinstance(value, TypedValue) else value
    if not isinstance(text, str) or not text:
        raise BlockquantError(f"general.architecture is {text!r:.80}; expected a name such as 'llama'")
    return text


def _converted() -> set[str]:
    """The architectures that a config leads to."""
    return {family.arch for family in families.values()}


def _is_tied(name: str, state_dict: Mapping[str, Any]) -> bool:
    """Whether this is the token embedding under its second name, which no saved folder has."""
    return name.endswith("lm_head.weight") and any(
        other.endswith("embed_tokens.weight") and _is_same(state_dict[name], state_dict[other]) for other in state_dict
    )


def _is_same(a: Any, b: Any) -> bool:
    """Whether both are one tensor: the object, or the memory where a tensor has memory of its own to look at."""
    if hasattr(a, "data_ptr") and hasattr(b, "data_ptr"):
        return bool(a.data_ptr() == b.data_ptr())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(a.ctypes.data == b.ctypes.data)
    return a is b


@dataclass(frozen=True)
class _HeldTensor:
    """A caller's tensor with what a checkpoint's tensor has; its elements are looked at when they are written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    tensor: Any
    file: Any = field(default_factory=lambda: _MEMORY)

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def data(self) -> Any:
        return _elements(self.name, self.tensor)

    def release(self) -> None:
        """Nothing to give back: the tensor is the caller's."""


def _hold(name: str, tensor: Any) -> _HeldTensor:
    if isinstance(tensor, QuantizedTensor):
        return _HeldTensor(name, str(tensor.format), tuple(tensor.shape), tensor)
    if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
        raise TypeError(f"tensor {name!r} must be an array, got {type(tensor).__name__}")
    dtype = getattr(tensor.dtype, "name", None) or str(tensor.dtype).rpartition(".")[2]
    if dtype not in _DTYPES:
        raise TypeError(f"tensor {name!r} has dtype {dtype}; expected one of {', '.join(_DTYPES)}")
    return _HeldTensor(name, _DTYPES[dtype], tuple(int(n) for n in tensor.shape), tensor)


def _elements(name: str, tensor: Any) -> Any:
    """A numpy array of the tensor's elements (uint16 bits of bfloat16), without a copy where that is possible."""
    if isinstance(tensor, QuantizedTensor):
        float_type = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}.get(tensor.format)
        return tensor if float_type is None else tensor.data.view(float_type)
    if isinstance(tensor, np.ndarray) and tensor.dtype.name != "bfloat16":
        return np.asarray(tensor, tensor.dtype.newbyteorder("="))
    if hasattr(tensor, "detach"):  # torch: the values, wherever they are
        tensor = tensor.detach()
        if str(tensor.device) != "cpu":
            tensor = tensor.cpu()
        if not str(tensor.dtype).rpartition(".")[2].startswith(("float", "bfloat")):
            return tensor.numpy()
    array, code = take_floats(tensor, f"tensor {name!r}")
    return array.view(np.uint16) if code == BF16 else array


__all__ = ["save_gguf"]
