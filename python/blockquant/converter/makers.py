"""How tensors of the file are made of those of a checkpoint, where more is to do than to reorder rows.

A maker takes the checkpoint's tensors and yields the elements of the file's in pieces of whole rows, [n, K] (a vector
whole), with their dtype. Nothing is held but the piece at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockquant.converter.floats import to_float32
from blockquant.converter.safetensors import StoredTensor

Pieces = Iterator[tuple[NDArray[Any], str]]
Maker = Callable[[Sequence[StoredTensor]], Pieces]

PIECE_ELEMENTS = 1 << 22


def plain(tensor: StoredTensor, order: NDArray[np.intp] | None = None) -> Pieces:
    """A tensor as it is stored, its rows in another order where one is given."""
    data = tensor.data
    if len(tensor.shape) < 2:
        yield data if order is None else data[order], tensor.dtype
        return
    rows = data.reshape(-1, tensor.shape[-1])
    step = max(1, PIECE_ELEMENTS // max(1, tensor.shape[-1]))
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        yield rows[piece if order is None else order[piece]], tensor.dtype


def plus_one(tensors: Sequence[StoredTensor]) -> Pieces:
    """A norm that multiplies by 1 + weight, as one that multiplies by its weight."""
    for data, dtype in plain(tensors[0]):
        yield to_float32(data, dtype) + np.float32(1), "F32"


def stacked(tensors: Sequence[StoredTensor]) -> Pieces:
    """Matrices of one shape along a new first axis."""
    for tensor in tensors:
        yield from plain(tensor)


def ternary(tensors: Sequence[StoredTensor]) -> Pieces:
    """A matrix rounded to -1, 0 and 1 times the mean magnitude (BitNet b1.58); one that is ternary already stays."""
    tensor = tensors[0]
    total, smallest, largest = 0.0, np.float32(np.inf), np.float32(0)
    for data, dtype in plain(tensor):
        magnitude = np.abs(to_float32(data, dtype))
        total += float(magnitude.sum(dtype=np.float64))
        largest = max(largest, magnitude.max(initial=np.float32(0)))
        smallest = min(smallest, magnitude.min(where=magnitude > 0, initial=np.float32(np.inf)))
    # As the models' own code rounds, with the inverse of the inverse.
    inverse = np.float32(1) / max(np.float32(total / max(1, tensor.size)), np.float32(1e-5))
    for data, dtype in plain(tensor):
        values = to_float32(data, dtype)
        yield values if smallest >= largest else np.clip(np.rint(values * inverse), -1, 1) / inverse, "F32"


def unpacked_ternary(inverse_scale: bool) -> Maker:
    """A matrix [N, K] of bytes [N / 4, K]: byte n of a column holds elements n, n + N / 4, ... of it, two bits each.

    The second tensor is the scale, or its inverse.
    """

    def make(tensors: Sequence[StoredTensor]) -> Pieces:
        packed, scale = tensors[0], to_float32(tensors[1].data, tensors[1].dtype).reshape(-1)[0]
        factor = np.float32(1) / scale if inverse_scale else scale
        for part in range(4):
            for data, _ in plain(packed):
                codes = (data >> np.uint8(2 * part)) & np.uint8(3)
                yield (codes.astype(np.float32) - np.float32(1)) * factor, "F32"

    return make
