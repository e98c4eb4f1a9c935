"""Block quantization with ggml's exact bytes: quantize, dequantize and multiply; read, write, convert and run GGUF.

The base package needs numpy alone. Submodules are loaded when first used: `blockquant.gguf` (files),
`blockquant.recipes` (which format each tensor gets), `blockquant.imatrix`, and the functions `convert`,
`quantize_file`, `save_gguf` and the class `Model`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blockquant._assemble import Unpacked, assemble, unpack
from blockquant._core import __version__
from blockquant._formats import Format, formats
from blockquant._matmul import PackedWeight, matmul, pack
from blockquant._runtime import available_isas, cpu_info, get_num_threads, set_isa, set_num_threads
from blockquant._tensor import QuantizedTensor, dequantize, quantization_error, quantize
from blockquant.errors import BlockquantError, FormatNotImplementedError

if TYPE_CHECKING:
    from blockquant import gguf, imatrix, recipes
    from blockquant.converter import convert
    from blockquant.quantizer import quantize_file
    from blockquant.saving import save_gguf
    from blockquant.transformer import Model
    from blockquant.transformer.compare import compare

__all__ = [
    "BlockquantError",
    "Format",
    "FormatNotImplementedError",
    "Model",
    "PackedWeight",
    "QuantizedTensor",
    "Unpacked",
    "__version__",
    "assemble",
    "available_isas",
    "compare",
    "convert",
    "cpu_info",
    "dequantize",
    "formats",
    "get_num_threads",
    "gguf",
    "imatrix",
    "matmul",
    "pack",
    "quantization_error",
    "quantize",
    "quantize_file",
    "recipes",
    "save_gguf",
    "set_isa",
    "set_num_threads",
    "unpack",
]

_LAZY_MODULES = {"gguf", "imatrix", "recipes"}
_LAZY_NAMES = {
    "Model": "blockquant.transformer",
    "compare": "blockquant.transformer.compare",
    "convert": "blockquant.converter",
    "quantize_file": "blockquant.quantizer",
    "save_gguf": "blockquant.saving",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        value: Any = importlib.import_module(f"blockquant.{name}")
    elif name in _LAZY_NAMES:
        value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    else:
        raise AttributeError(f"module 'blockquant' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
