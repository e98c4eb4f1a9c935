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
Tensor = QuantizedTensor | npt.NDArray[Any]

_F32 = find_format("F32").ggml_type
_F16 = find_format("F16").ggml_type


class Linear:
    """A weight matrix [n, k] ready to multiply: `linear(x, out)` writes x [rows, k] @ w.T + bias into out [rows, n].

    Goes straight to the compiled function, because shapes were checked when the model was loaded.
    """

    __slots__ = ("_bias", "_data", "_kind", "is_float32", "shape", "threads")

    def __init__(self, weight: Tensor, bias: FloatArray | None, threads: int) -> None:
        if isinstance(weight, QuantizedTensor):
            weight.format.require_implemented()
            self._data, self._kind = weight.data, weight.format.ggml_type
        elif weight.dtype == np.float16:
            self._data, self._kind = np.ascontiguousarray(weight).view(np.uint8), _F16
        else:
            self._data, self._kind = np.ascontiguousarray(weight, np.float32).view(np.uint8), _F32
        self.shape: tuple[int, ...] = weight.shape
        self._bias = bias
        self.is_float32 = self._kind == _F32
        self.threads = threads

    def __call__(self, x: FloatArray, out: FloatArray) -> FloatArray:
        _core.matmul(x, self._data, self._kind, out, self.threads, False)
        if self._bias is not None:
            out += self._bias
        return out

    def rows(self, index: Sequence[int], out: FloatArray) -> None:
        """Decode the chosen rows (embeddings of tokens) into out [len(index), k]."""
        chosen = self._data[np.asarray(index)]
        _core.decode(chosen, self._kind, out, F32, self.threads)


class Weights:
    """The tensors of an open GGUF file, handed out with their shapes checked.

    `tensors` maps names to arrays; `origin` names the file in error messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], origin: str, threads: int) -> None:
        self._tensors, self._origin, self.threads = tensors, origin, threads
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

    def linear(self, name: str, n: int, k: int) -> Linear:
        """The matrix `name`.weight of shape [n, k], with `name`.bias where the file has one."""
        return self.make_linear(name, self._take(f"{name}.weight", (n, k)), self.optional_vector(f"{name}.bias", n))

    def make_linear(self, name: str, weight: Tensor, bias: FloatArray | None) -> Linear:
        """What `linear` hands out; an observer of products overrides it."""
        return Linear(weight, bias, self.threads)

    def vector(self, name: str, n: int) -> FloatArray:
        """The vector `name` of n elements, as float32."""
        tensor = self._take(name, (n,))
        values = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
        return np.ascontiguousarray(values, dtype=np.float32)

    def optional_vector(self, name: str, n: int) -> FloatArray | None:
        """The vector `name`, or None where the file has none."""
        return self.vector(name, n) if name in self else None

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
