"""GGUF files: `open` maps one for reading, `create` writes one; `verify`, `split`, `merge`, `edit` and `diff` are the
tools of the command line. Needs numpy and nothing else.

Every malformed file ends in a GGUFError with one line that names the file and the byte where it goes wrong.
"""

from __future__ import annotations

from blockquant.gguf._diff import DiffReport, MetadataDifference, TensorDifference, diff
from blockquant.gguf._edit import Change, EditReport, edit
from blockquant.gguf._journal import recover
from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._sets import Shard, merge, split
from blockquant.gguf._types import GGUFError, TensorInfo, TypedValue, ValueInfo, ValueType
from blockquant.gguf._verify import VerifyReport, verify
from blockquant.gguf._writer import GGUFWriter, create

__all__ = [
    "Change",
    "DiffReport",
    "EditReport",
    "GGUFError",
    "GGUFFile",
    "GGUFWriter",
    "MetadataDifference",
    "Shard",
    "TensorDifference",
    "TensorInfo",
    "TypedValue",
    "ValueInfo",
    "ValueType",
    "VerifyReport",
    "create",
    "diff",
    "edit",
    "merge",
    "open",
    "recover",
    "split",
    "verify",
]
