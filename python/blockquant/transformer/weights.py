"""Taking the tensors of a file: each is asked for by name and shape, and what nobody asked for is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant._arrays import F32
from blockquant._formats import find_format
from blockquant._tensor import QuantizedTensor
from blockquant.errors import BlockquantError

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Tensor = QuantizedTensor | npt.NDArray[Any]

_F32 = find_format("F32").ggml_type
_F16 = find_format("F16").ggml_type


class Linear:
    """A weight matrix [n, k] ready to multiply: `linear(x, out)` writes x [rows, k] @ w.T + bias into out [rows, n].

    Of a matrix per expert, [experts, n, k], each row of x takes the one that `chosen`, int32 [rows], names. Goes
    straight to the compiled function, because shapes were checked when the model was loaded. With `pack` the first
    product lays the weights out as `blockquant.pack` does; rows are decoded from where they were.
    """

    __slots__ = ("_bias", "_data", "_kind", "_laid_out", "_lanes", "_scale", "is_float32", "shape", "threads")

    def __init__(
        self, weight: Tensor, bias: FloatArray | None, threads: int, scale: float = 1.0, pack: bool = False
    ) -> None:
        if isinstance(weight, QuantizedTensor):
            weight.format.require_implemented()
            self._data, self._kind = weight.data, weight.format.ggml_type
        elif weight.dtype == np.float16:
            self._data, self._kind = np.ascontiguousarray(weight).view(np.uint8), _F16
        else:
            self._data, self._kind = np.ascontiguousarray(weight, np.float32).view(np.uint8), _F32
        self.shape: tuple[int, ...] = weight.shape
        self._bias, self._scale = bias, scale
        self.is_float32 = self._kind == _F32
        self.threads = threads
        # What is multiplied: the stored rows, strips of them, or strips that are still to be made.
        self._laid_out: Array | None = None if pack and isinstance(weight, QuantizedTensor) else self._data
        self._lanes = 0

    def __call__(self, x: FloatArray, out: FloatArray, chosen: npt.NDArray[np.int32] | None = None) -> FloatArray:
        weights, lanes = self._laid_out, self._lanes
        if weights is None:
            weights, lanes = self._lay_out()
        _core.matmul(x, weights, self._kind, out, self.threads, False, chosen, lanes)
        if self._scale != 1.0:
            out *= self._scale
        if self._bias is not None:
            out += self._bias
        return out

    def _lay_out(self) -> tuple[Array, int]:
        lanes, strips = _core.lay_out_weights(self._data, self._kind, 1, self.threads)
        weights = self._data if strips is None else strips
        self._lanes, self._laid_out = lanes, weights  # in this order: another thread may multiply meanwhile
        return weights, lanes

    def rows(self, index: Sequence[int], out: FloatArray) -> None:
        """Decode the chosen rows (embeddings of tokens) into out [len(index), k]."""
        chosen = self._data[np.asarray(index)]
        _core.decode(chosen, self._kind, out, F32, self.threads)


class Weights:
    """The tensors of an open GGUF file, handed out with their shapes checked.

    `tensors` maps names to arrays; `origin` names the file in error messages; `pack` is as for `Linear`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], origin: str, threads: int, pack: bool = False) -> None:
        self._tensors, self._origin, self.threads, self._pack = tensors, origin, threads, pack
        self._taken: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._tensors:
            raise BlockquantError(f"{self._origin} lacks the tensor {name!r}, expected with shape {shape}")
        tensor = self._tensors[name]
        if tensor.shape != shape:
            raise BlockquantError(f"{self._origin}: tensor {name!r} has shape {tensor.shape}, expected {shape}")
        if not isinstance(tensor, QuantizedTensor) and tensor.dtype not in (np.float32, np.float16, np.float64):
            raise BlockquantError(f"{self._origin}: tensor {name!r} holds {tensor.dtype}, expected floats")
        self._taken.add(name)
        return tensor

    def linear(self, name: str, *shape: int) -> Linear:
        """The matrix `name`.weight of shape [n, k], with `name`.bias where the file has one; or one [e, n, k].

        Some converters keep the common scale of a matrix in a tensor of its own, `name`.scale.
        """
        bias = self.optional_vector(f"{name}.bias", shape[0]) if len(shape) == 2 else None
        return self.make_linear(name, self._take(f"{name}.weight", shape), bias, self._scale(name))

    def embedding(self, name: str, *shape: int) -> Linear:
        """The matrix `name`.weight alone. Its rows are read as they are, so that a bias or scale is left over."""
        return self.make_linear(name, self._take(f"{name}.weight", shape), None)

    def make_linear(self, name: str, weight: Tensor, bias: FloatArray | None, scale: float = 1.0) -> Linear:
        """What `linear` hands out; an observer of products overrides it."""
        return self._plain_linear(weight, bias, scale)

    def _plain_linear(self, weight: Tensor, bias: FloatArray | None, scale: float) -> Linear:
        return Linear(weight, bias, self.threads, scale, self._pack)

    def linears(self, prefix: str, parts: Mapping[str, int], fused: str, k: int) -> Mapping[str, Linear]:
        """The matrices `parts`, name -> n: tensors of their own, or in this order the rows of one called `fused`."""
        total, name = sum(parts.values()), prefix + fused
        whole = self._tensors.get(f"{name}.weight")
        if whole is None or whole.shape[:1] != (total,):
            return {part: self.linear(prefix + part, n, k) for part, n in parts.items()}
        whole = self._take(f"{name}.weight", (total, k))
        bias, scale = self.optional_vector(f"{name}.bias", total), self._scale(name)
        found: dict[str, Linear] = {}
        start = 0
        for part, n in parts.items():
            rows = slice(start, start + n)
            pieces = whole[rows], None if bias is None else bias[rows]
            # An observer sees the common input once, with the first part.
            found[part] = self._plain_linear(*pieces, scale) if found else self.make_linear(name, *pieces, scale)
            start += n
        return found

    def _scale(self, name: str) -> float:
        scale = self.optional_vector(f"{name}.scale", 1)
        return 1.0 if scale is None else float(scale[0])

    def vector(self, name: str, n: int) -> FloatArray:
        """The vector `name` of n elements, as float32."""
        tensor = self._take(name, (n,))
        values = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
        return np.ascontiguousarray(values, dtype=np.float32)

    def optional_vector(self, name: str, n: int) -> FloatArray | None:
        """The vector `name`, or None where the file has none."""
        return self.vector(name, n) if name in self else None

    def check_layers(self, count: int) -> None:
        """A file cannot have more layers than tensors: ValueError before a hostile count costs time and memory."""
        if count > len(self._tensors):
            raise BlockquantError(
                f"{self._origin} names {count} layers (block_count) and has {len(self._tensors)} tensors"
            )

    def vocabulary_size(self, n_embd: int) -> int:
        """Rows of the embedding matrix."""
        tensor = self._tensors.get("token_embd.weight")
        if tensor is None or len(tensor.shape) != 2:
            raise BlockquantError(
                f"{self._origin} lacks the tensor 'token_embd.weight', expected [vocabulary, {n_embd}]"
            )
        return tensor.shape[0]

    def check_all_used(self) -> None:
        """A tensor that the loop does not know would silently change the result: refuse it."""
        left = [name for name in self._tensors if name not in self._taken]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise BlockquantError(
                f"{self._origin} has tensors that this architecture's loop does not use: {', '.join(left[:3])}{more}"
            )
