"""GGUF files: `open` maps one for reading, `create` writes one, `verify` checks one. Needs numpy and nothing else.

Every malformed file ends in a GGUFError with one line that names the file and the byte where it goes wrong.
"""

from __future__ import annotations

from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._types import GGUFError, TensorInfo, TypedValue, ValueInfo, ValueType
from blockquant.gguf._verify import VerifyReport, verify
from blockquant.gguf._writer import GGUFWriter, create

__all__ = [
    "GGUFError",
    "GGUFFile",
    "GGUFWriter",
    "TensorInfo",
    "TypedValue",
    "ValueInfo",
    "ValueType",
    "VerifyReport",
    "create",
    "open",
    "verify",
]
