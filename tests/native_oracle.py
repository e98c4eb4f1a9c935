"""llama-quantize as a test oracle, through llama-cpp-python built from source.

`quantize` runs llama_model_quantize on files; `formats` asks for its choice of formats alone, with a dry run on a file
that has only a header, so that models of any size can be asked about.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_lines: list[str] = []


def llama() -> Any:
    """The llama_cpp module; skips the calling test when it is not installed."""
    module = pytest.importorskip("llama_cpp")

    @module.llama_log_callback
    def log(_level: int, text: bytes, _user: Any) -> None:
        _lines.append(text.decode("utf-8", "replace"))

    if not hasattr(module, "_blockquant_log"):
        module._blockquant_log = log  # keeps the callback alive
        module.llama_log_set(log, ctypes.c_void_p(0))
        module.llama_backend_init()
    return module


def quantize(
    source: Path,
    target: Path,
    file_type: int,
    imatrix: Mapping[str, np.ndarray] | None = None,
    overrides: Sequence[tuple[str, int]] = (),
    metadata: Mapping[str, str | int] | None = None,
    **params: Any,
) -> str:
    """Run llama_model_quantize and return its log; RuntimeError with the log when it fails."""
    module = llama()
    api = module.llama_cpp
    settings = module.llama_model_quantize_default_params()
    settings.ftype = file_type
    settings.nthread = 2
    for key, value in params.items():
        setattr(settings, key, value)
    keep: list[Any] = []  # what the structs point to
    if imatrix:
        entries = (api.llama_model_imatrix_data * (len(imatrix) + 1))()
        for entry, (name, values) in zip(entries, imatrix.items(), strict=False):
            data = np.ascontiguousarray(values, np.float32)
            entry.name = name.encode()
            entry.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = data.size
            keep.append(data)
        settings.imatrix = ctypes.cast(entries, type(settings.imatrix))
        keep.append(entries)
    if overrides:
        table = (api.llama_model_tensor_override * (len(overrides) + 1))()
        for row, (pattern, kind) in zip(table, overrides, strict=False):
            row.pattern, row.type = pattern.encode(), kind
        settings.tt_overrides = ctypes.cast(table, type(settings.tt_overrides))
        keep.append(table)
    if metadata:
        pairs = (api.llama_model_kv_override * (len(metadata) + 1))()
        for pair, (key, value) in zip(pairs, metadata.items(), strict=False):
            pair.key = key.encode()
            if isinstance(value, str):
                pair.tag = api.LLAMA_KV_OVERRIDE_TYPE_STR
                pair.value.val_str = value.encode()
            else:
                pair.tag = api.LLAMA_KV_OVERRIDE_TYPE_INT
                pair.value.val_i64 = value
        settings.kv_overrides = ctypes.cast(pairs, type(settings.kv_overrides))
        keep.append(pairs)
    _lines.clear()
    status = module.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(settings))
    log = "".join(_lines)
    if status:
        raise RuntimeError(log[-600:])
    return log


def formats(source: Path, file_type: int, **options: Any) -> dict[str, str]:
    """The format of every tensor, in llama-quantize's order; tensors that stay have the source's, in upper case."""
    log = quantize(source, source, file_type, dry_run=True, **options)
    found: dict[str, str] = {}
    for line in re.split(r"(?=\[ *\d+/ *\d+\] )", log)[1:]:
        match = re.match(
            r"\[ *\d+/ *\d+\] (\S+) .*?type = *(\w+), size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\w+)\))?", line
        )
        assert match, line
        found[match[1]] = (match[3] or match[2]).upper()
    return found
