"""Before anything is written: the format of every tensor, the files of the output, and what cannot be done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from blockquant import gguf, recipes
from blockquant._formats import formats
from blockquant.errors import BlockquantError
from blockquant.gguf import _shards as shards
from blockquant.gguf._header import Entry, HeaderPlan
from blockquant.imatrix import quantization_metadata, weights_of
from blockquant.quantizer.report import TensorReport

PathLike: TypeAlias = "str | os.PathLike[str]"
Weights: TypeAlias = "np.ndarray[Any, Any]"

FLOATS = ("F32", "F16", "BF16")
_QUANTIZATION_VERSION = 2  # of ggml's block formats


@dataclass(frozen=True)
class OutputFile:
    """A file to be written: its path, the bytes before the data, and the place of its tensors after them."""

    name: Path  # as asked for
    path: Path  # without links: what is replaced where the name is a link
    header: bytes
    entries: Mapping[str, Entry]
    size: int


def tensor_reports(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> tuple[TensorReport, ...]:
    """What becomes of each tensor, in the order of the output."""
    reports = []
    for c in choices:
        info = file.tensor_infos[c.name]
        nbytes = info.nbytes
        if c.format != info.format:
            nbytes = formats[c.format].row_bytes(c.shape[-1]) * prod(c.shape[:-1])
        reports.append(TensorReport(c.name, c.shape, info.format, c.format, c.wanted, info.nbytes, nbytes, c.reason))
    return tuple(reports)


def requantized(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> tuple[str, ...]:
    """Tensors that are quantized and get another format."""
    origins = {c.name: str(file.tensor_infos[c.name].format) for c in choices if c.quantized}
    return tuple(
        c.name
        for c in choices
        if c.quantized and origins[c.name] != c.format and origins[c.name] in formats and origins[c.name] not in FLOATS
    )


def changed(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> list[recipes.Choice]:
    """Those of the choices that give a tensor another format: the others are copied."""
    return [c for c in choices if str(file.tensor_infos[c.name].format) != c.format]


def check(
    file: gguf.GGUFFile,
    choices: Sequence[recipes.Choice],
    recipe: str,
    matrix: Mapping[str, Any] | None,
    allow_requantize: bool,
) -> tuple[dict[str, Weights], tuple[str, ...]]:
    """Refuse what cannot be done before the work starts; the weights of the tensors that are encoded, and the names of
    those that the matrix has nothing for.
    """
    unready = sorted({str(c.format) for c in choices if c.quantized and not formats[c.format].implemented})
    if unready:
        ready = [n for n in recipes.names() if formats[recipes.get(n).base].implemented]
        raise BlockquantError(
            f"{recipe} needs {', '.join(unready)}, which this version cannot encode yet; "
            f"recipes that it can: {', '.join(ready)}"
        )
    encoded = changed(file, choices)
    for c in encoded:
        origin = str(file.tensor_infos[c.name].format)
        if origin not in formats:
            raise BlockquantError(f"tensor {c.name!r} is {origin}, and only floats can become {c.format}")
        if origin not in FLOATS:
            if not allow_requantize:
                raise BlockquantError(
                    f"tensor {c.name!r} is already {origin}: quantize from the F32, F16 or BF16 file, "
                    "or allow requantizing, which loses quality twice"
                )
            formats[origin].require_implemented()
    weights, unweighted = weights_of(matrix, encoded, recipe)
    return {name: np.ascontiguousarray(values, np.float32) for name, values in weights.items()}, unweighted


def output_metadata(file: gguf.GGUFFile, file_type: int, matrix: Mapping[str, Any] | None) -> dict[str, Any]:
    """The input's metadata with what llama-quantize adds, in its order: the new ones at the end."""
    added: dict[str, Any] = {
        "general.quantization_version": np.uint32(_QUANTIZATION_VERSION),
        "general.file_type": np.uint32(file_type),
        **quantization_metadata(matrix),
    }
    kept = {k: v for k, v in file.typed_metadata().items() if k not in added and not k.startswith("split.")}
    return kept | added


def output_files(
    target: Path,
    metadata: Mapping[str, Any],
    file: gguf.GGUFFile,
    tensors: Sequence[TensorReport],
    keep_split: bool,
    max_shard_size: int | str | None,
) -> list[OutputFile]:
    """The files of the output: one, or a set of shards like the input's (`keep_split`) or of limited size."""
    names = [t.name for t in tensors]
    groups = [names]
    if keep_split and len(file.paths) > 1:
        groups = [[] for _ in file.paths]
        for name in names:
            groups[file.tensor_infos[name].shard].append(name)
    elif max_shard_size is not None:
        alignment = HeaderPlan(metadata).alignment
        groups = shards.group_by_size({t.name: t.nbytes for t in tensors}, shards.parse_size(max_shard_size), alignment)
    of_name = {t.name: t for t in tensors}
    files = []
    for index, group in enumerate(groups):
        own, path = metadata, target
        if len(groups) > 1:
            own = shards.shard_metadata(metadata, index, len(groups), len(names))
            path = shards.shard_path(shards.shard_prefix(target), index, len(groups))
        plan = HeaderPlan(own)
        for name in group:
            plan.add(name, of_name[name].shape, str(of_name[name].format))
        header = plan.encode()
        files.append(OutputFile(path, Path(os.path.realpath(path)), header, plan.entries, len(header) + plan.end))
    return files


def file_order(file: gguf.GGUFFile, keep_split: bool) -> list[str] | None:
    """The order of tensors when it is not the usual one: a set that stays a set keeps the order of its shards."""
    if not keep_split or len(file.paths) == 1:
        return None
    return sorted(file.tensor_infos, key=lambda n: (file.tensor_infos[n].shard, file.tensor_infos[n].offset))
