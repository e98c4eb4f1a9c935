"""Reading a SentencePiece tokenizer.model: a protocol buffer of which three fields matter."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blockquant.errors import BlockquantError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2


@dataclass(frozen=True)
class Piece:
    """A vocabulary entry; `kind` is 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte, as in GGUF."""

    text: str
    score: float
    kind: int


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a varint is longer than ten bytes")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message, in order; fixed-width fields are given as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("a field runs past the end")
        yield key >> 3, data[at : at + size]
        at += size


def _piece(message: bytes) -> Piece:
    text, score, kind = b"", 0.0, 1
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            score = float(struct.unpack("<f", value)[0])
        elif number == 3 and isinstance(value, int):
            kind = value
    if kind not in range(1, 7):
        raise ValueError(f"a piece of type {kind}")
    return Piece(text.decode("utf-8"), score, kind)


def read_pieces(path: Path) -> list[Piece]:
    """The vocabulary of a BPE tokenizer.model. Raises ValueError when it is damaged or of another kind (unigram)."""
    pieces: list[Piece] = []
    model_type = 1
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                types = [v for n, v in _fields(value) if n == 3 and isinstance(v, int)]
                model_type = types[-1] if types else model_type
    except (ValueError, IndexError) as error:
        raise BlockquantError(f"{path}: not a SentencePiece model ({error})") from None
    if not pieces:
        raise BlockquantError(f"{path}: not a SentencePiece model (no pieces in it)")
    if model_type != _BPE:
        raise BlockquantError(f"{path}: SentencePiece model type {model_type}; only BPE (2) can be converted")
    return pieces
