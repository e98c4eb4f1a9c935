"""The header of a file in the making: metadata, tensor infos, and where the data of each tensor will be."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from blockquant.gguf._types import LAYOUTS, GGUFError, TypedValue, ValueType, tensor_bytes
from blockquant.gguf._values import encode_entry, encode_string, encode_text, infer

ALIGNMENT_KEY = "general.alignment"
MAX_NAME_BYTES = 63  # llama.cpp refuses a file with a longer tensor name


@dataclass
class Entry:
    """A tensor of the file: its place in the data section and how much of it has been written."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int
    written: int = 0


class HeaderPlan:
    """Metadata and tensors of one file; `encode` gives the bytes before the data section.

    Attributes: entries ({name: Entry} in file order), end (bytes of the data section so far, padding included),
    alignment, order ("<" or ">").
    """

    def __init__(
        self, metadata: Mapping[str, Any], alignment: int = 32, endianness: Literal["little", "big"] = "little"
    ) -> None:
        if endianness not in ("little", "big"):
            raise GGUFError(f"endianness must be 'little' or 'big', got {endianness!r}")
        self.order = "<" if endianness == "little" else ">"
        metadata, self.alignment = with_alignment(metadata, alignment)
        self._metadata = b"".join(encode_entry(key, value, self.order) for key, value in metadata.items())
        self._metadata_count = len(metadata)
        self.entries: dict[str, Entry] = {}
        self.end = 0

    def add(self, name: str, shape: tuple[int, ...], format_: str) -> Entry:
        """Give the next tensor its place. GGUFError for a name or shape that a file cannot have."""
        if not isinstance(name, str):
            raise TypeError(f"tensor names are str, got {type(name).__name__}")
        if name in self.entries:
            raise GGUFError(f"tensor {name!r} has already been written")
        if not 0 < len(encode_text(name)) <= MAX_NAME_BYTES:
            raise GGUFError(f"tensor name {name!r} must have 1 to {MAX_NAME_BYTES} bytes of UTF-8, llama.cpp's limit")
        nbytes = tensor_bytes(name, shape, format_)
        entry = Entry(name, shape, format_, self.end, nbytes)
        self.entries[name] = entry
        self.end += padded(nbytes, self.alignment)
        return entry

    def encode(self) -> bytes:
        """Everything before the data, padded to the alignment."""
        order = self.order
        parts = [b"GGUF", struct.pack(order + "IQQ", 3, len(self.entries), self._metadata_count), self._metadata]
        for entry in self.entries.values():
            dims = entry.shape[::-1]
            parts.append(encode_string(entry.name, order))
            parts.append(struct.pack(f"{order}I{len(dims)}Q", len(dims), *dims))
            parts.append(struct.pack(order + "IQ", LAYOUTS[entry.format].ggml_type, entry.offset))
        header = b"".join(parts)
        return header + bytes(-len(header) % self.alignment)


def padded(nbytes: int, alignment: int) -> int:
    """The bytes that a tensor takes in the file."""
    return -(-nbytes // alignment) * alignment


def with_alignment(metadata: Mapping[str, Any], alignment: int) -> tuple[dict[str, Any], int]:
    """The metadata and the alignment they agree on."""
    metadata = dict(metadata)
    if ALIGNMENT_KEY in metadata:
        value = infer(metadata[ALIGNMENT_KEY])
        if value.type is not ValueType.UINT32:
            raise GGUFError(f"{ALIGNMENT_KEY} must be a uint32")
        if alignment not in (32, value.value):
            raise GGUFError(f"{ALIGNMENT_KEY} is {value.value}, but alignment={alignment} was asked for")
        alignment = int(value.value)
    elif alignment != 32:
        metadata[ALIGNMENT_KEY] = TypedValue(alignment, ValueType.UINT32)
    if not 0 < alignment < 1 << 32 or alignment & (alignment - 1):
        raise GGUFError(f"the alignment must be a power of two, got {alignment}")
    return metadata, alignment
