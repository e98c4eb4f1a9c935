"""A valid GGUF file cut into the fields of its header, to be changed one by one and put together again."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SCALAR = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Field:
    """A piece of the file. `width` is that of an integer in bytes, 0 for text and data; `name` says what it is."""

    name: str
    data: bytes
    width: int = 0


class _Walk:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.order = "<" if content[4] else ">"
        self.fields: list[Field] = []

    def take(self, name: str, size: int, width: int = 0) -> bytes:
        data = self.content[self.at : self.at + size]
        assert len(data) == size
        self.fields.append(Field(name, data, width))
        self.at += size
        return data

    def integer(self, name: str, width: int) -> int:
        return int.from_bytes(self.take(name, width, width), "little" if self.order == "<" else "big")

    def text(self, name: str) -> None:
        self.take(name, self.integer(f"{name} length", 8))

    def value(self, kind: int) -> None:
        if kind == 8:
            self.text("string")
        elif kind == 9:
            element, count = self.integer("element type", 4), self.integer("array length", 8)
            for _ in range(count):
                self.value(element)
        else:
            self.take("number", _SCALAR[kind], _SCALAR[kind])


@dataclass
class Pieces:
    """A file as groups of fields: the header's numbers, a group for each metadata entry and each tensor, the data."""

    header: list[Field]
    entries: list[list[Field]]
    tensors: list[list[Field]]
    data: bytes
    big_endian: bool
    alignment: int

    def join(self, repair: bool) -> bytes:
        """The file again; with `repair` counts, lengths of texts and padding are made to agree with what is there."""
        header = list(self.header)
        if repair:
            counts = {"tensors": len(self.tensors), "entries": len(self.entries)}
            header = [
                Field(f.name, number(counts[f.name], 8, self.big_endian), 8) if f.name in counts else f for f in header
            ]
        out = b"".join(field.data for field in header)
        for group in (*self.entries, *self.tensors):
            for field, following in zip(group, [*group[1:], None], strict=True):
                is_length = following is not None and field.name == f"{following.name} length"
                if repair and is_length and following is not None:
                    out += number(len(following.data), 8, self.big_endian)
                else:
                    out += field.data
        return out + bytes(-len(out) % self.alignment) + self.data


def cut(content: bytes, data_offset: int, alignment: int) -> Pieces:
    """The pieces of a valid file."""
    walk = _Walk(content)

    def group(start: int) -> list[Field]:
        fields, walk.fields[start:] = walk.fields[start:], []
        return fields

    walk.take("magic", 4)
    walk.integer("version", 4)
    n_tensors, n_entries = walk.integer("tensors", 8), walk.integer("entries", 8)
    entries, tensors = [], []
    for _ in range(n_entries):
        walk.text("key")
        walk.value(walk.integer("value type", 4))
        entries.append(group(4))
    for _ in range(n_tensors):
        walk.text("tensor name")
        for _ in range(walk.integer("dimensions", 4)):
            walk.integer("dimension", 8)
        walk.integer("tensor type", 4)
        walk.integer("offset", 8)
        tensors.append(group(4))
    found = Pieces(walk.fields, entries, tensors, content[data_offset:], walk.order == ">", alignment)
    assert found.join(repair=False) == found.join(repair=True) == content
    return found


def number(value: int, width: int, big_endian: bool) -> bytes:
    """An integer of any size, wrapped to the width."""
    return struct.pack(">Q", value % 2**64)[8 - width :] if big_endian else struct.pack("<Q", value % 2**64)[:width]
