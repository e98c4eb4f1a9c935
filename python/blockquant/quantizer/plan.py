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
from blockquant.imatrix import Imatrix, weights_for
from blockquant.imatrix import load as load_imatrix
from blockquant.quantizer.report import TensorReport
from blockquant.recipes.tensors import TOKEN_EMBEDDINGS

PathLike: TypeAlias = "str | os.PathLike[str]"
Weights: TypeAlias = "np.ndarray[Any, Any]"

FLOATS = ("F32", "F16", "BF16")
_QUANTIZATION_VERSION = 2  # of ggml's block formats
_TEXT_BYTES = 127  # llama.cpp keeps no more of the imatrix's file name


@dataclass(frozen=True)
class OutputFile:
    """A file to be written: its path, the bytes before the data, and the place of its tensors after them."""

    name: Path  # as asked for
    path: Path  # without links: what is replaced where the name is a link
    header: bytes
    entries: Mapping[str, Entry]
    size: int


def take_imatrix(given: PathLike | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The importance matrix as a mapping; ValueError for weights that cannot be."""
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return load_imatrix(given)
    for name, values in given.items():
        array = np.asarray(values)
        if array.dtype.kind != "f" or not np.isfinite(array).all() or (array < 0).any():
            raise BlockquantError(f"imatrix: the weights of {name!r} must be floats, finite and not negative")
    return given or None


def tensor_reports(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> tuple[TensorReport, ...]:
    """What becomes of each tensor, in the order of the output."""
    reports = []
    for c in choices:
        info = file.tensor_infos[c.name]
        nbytes = info.nbytes
        if c.format != info.format:
            nbytes = formats[c.format].row_bytes(c.shape[-1]) * prod(c.shape[:-1])
        reports.append(TensorReport(c.name, c.shape, info.format, c.format, c.wanted, info.nbytes, nbytes))
    return tuple(reports)


def requantized(file: gguf.GGUFFile, choices: Sequence[recipes.Choice]) -> tuple[str, ...]:
    """Tensors that are quantized and get another format."""
    origins = {c.name: str(file.tensor_infos[c.name].format) for c in choices if c.quantized}
    return tuple(
        c.name
        for c in choices
        if c.quantized and origins[c.name] != c.format and origins[c.name] in formats and origins[c.name] not in FLOATS
    )


def check(
    file: gguf.GGUFFile,
    choices: Sequence[recipes.Choice],
    recipe: str,
    matrix: Mapping[str, Any] | None,
    allow_requantize: bool,
) -> dict[str, Weights]:
    """Refuse what cannot be done before the work starts; return the weights of the tensors that are encoded."""
    unready = sorted({str(c.format) for c in choices if c.quantized and not formats[c.format].implemented})
    if unready:
        ready = [n for n in recipes.names() if formats[recipes.get(n).base].implemented]
        raise BlockquantError(
            f"{recipe} needs {', '.join(unready)}, which this version cannot encode yet; "
            f"recipes that it can: {', '.join(ready)}"
        )
    weights: dict[str, Weights] = {}
    for c in choices:
        origin = str(file.tensor_infos[c.name].format)
        if origin == c.format:
            continue
        if origin not in formats:
            raise BlockquantError(f"tensor {c.name!r} is {origin}, and only floats can become {c.format}")
        if origin not in FLOATS:
            if not allow_requantize:
                raise BlockquantError(
                    f"tensor {c.name!r} is already {origin}: quantize from the F32, F16 or BF16 file, "
                    "or allow requantizing, which loses quality twice"
                )
            formats[origin].require_implemented()
        if c.format in FLOATS:
            continue
        found = None
        if matrix is not None:
            try:
                found = weights_for(matrix, c.name, c.shape)
            except ValueError:
                # The embedding is looked up, not multiplied: what a matrix has for it is the output's.
                if c.name not in TOKEN_EMBEDDINGS:
                    raise
        if found is not None:
            if not np.isfinite(found).all() or (found < 0).any():
                raise BlockquantError(f"the importance matrix's weights of {c.name!r} are not finite and positive")
            weights[c.name] = np.ascontiguousarray(found, np.float32)
        elif c.needs_imatrix or formats[c.format].needs_imatrix:
            raise BlockquantError(
                f"{recipe} makes {c.name!r} {c.format}, which is useless without an importance matrix: "
                + (
                    "the one given has nothing for this tensor"
                    if matrix
                    else "pass imatrix=, a file that llama-imatrix made of this model"
                )
            )
    return weights


def output_metadata(
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
