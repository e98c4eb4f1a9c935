"""Typed look-ups in the metadata of a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError

T = TypeVar("T", int, float, str, bool)
Array = npt.NDArray[Any]

MOST = 2**31 - 1  # sizes are 32 bits wide


class Keys:
    """Typed look-ups of `<architecture>.<key>`; an error names the full key."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self._architecture = metadata, architecture

    def name(self, key: str) -> str:
        return f"{self._architecture}.{key}"

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value, which must be there unless `default` is given."""
        value = self._metadata.get(self.name(key), default)
        if value is None:
            raise BlockquantError(f"the file lacks {self.name(key)}, which a {self._architecture} model needs")
        if isinstance(value, (list, np.ndarray)):
            values = set(self._elements(key, value))
            if len(values) != 1:
                raise BlockquantError(f"{self.name(key)} differs between layers: not supported")
            value = values.pop()
        if kind is str:
            return kind(value)
        if kind is bool and isinstance(value, (bool, np.bool_)):
            return kind(value)
        wrong = isinstance(value, (str, bool)) or kind is bool or not math.isfinite(value)
        if wrong or (kind is int and int(value) != value):
            raise BlockquantError(f"{self.name(key)} is {value!r}; expected {kind.__name__}")
        return kind(value)

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value, one and not an array, or None where the file has none."""
        value = self._metadata.get(self.name(key))
        if isinstance(value, (list, np.ndarray)):
            raise BlockquantError(f"{self.name(key)} is an array; expected {kind.__name__}")
        return None if value is None else self.get(key, kind)

    def array(self, key: str, kind: type[T]) -> list[T] | None:
        """The elements of an array of this kind, floats NaN and Inf included; None where the file has none."""
        value = self._metadata.get(self.name(key))
        if value is None:
            return None
        if not isinstance(value, (list, np.ndarray)):
            raise BlockquantError(f"{self.name(key)} is {value!r}; expected an array of {kind.__name__}")
        elements = value.tolist() if isinstance(value, np.ndarray) else list(value)
        if set(map(type, elements)) <= {kind}:  # hundreds of thousands, most often
            return elements
        elements = self._elements(key, value)
        wanted = (int, float) if kind is float else kind
        for element in elements:
            if not isinstance(element, wanted) or (isinstance(element, bool) and kind is not bool):
                raise BlockquantError(f"{self.name(key)} holds {element!r}; expected an array of {kind.__name__}")
        return [kind(element) for element in elements]

    def _elements(self, key: str, value: list[Any] | Array) -> list[Any]:
        """Of an array of numbers, flags or strings, as Python's own."""
        elements: list[Any] = value.tolist() if isinstance(value, np.ndarray) else value
        if any(isinstance(element, (list, np.ndarray)) for element in elements):
            raise BlockquantError(f"{self.name(key)} is an array of arrays: not supported")
        return [element.item() if isinstance(element, np.generic) else element for element in elements]

    def positive(self, key: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A size or count, which fits 32 bits: no real one is larger, and compiled code takes it as it is."""
        value = self.get(key, int, default)
        if not least <= value <= most:
            bound = f"least {least}" if value < least else f"most {most}"
            raise BlockquantError(f"{self.name(key)} is {value}; expected at {bound}")
        return value

    def flags(self, key: str, count: int, period: int) -> list[bool]:
        """A flag for each of `count` layers: the file's list, or all but every n-th, n being the file's or `period`."""
        value = self._metadata.get(self.name(key), period)
        if isinstance(value, (list, np.ndarray)):
            found = [bool(flag) for flag in self._elements(key, value)]
            if len(found) != count:
                raise BlockquantError(f"{self.name(key)} has {len(found)} entries for {count} layers")
            return found
        if isinstance(value, (str, bool)) or not math.isfinite(value) or int(value) != value or value < 1:
            raise BlockquantError(f"{self.name(key)} is {value!r}; expected a list of flags or at least 1")
        return [(i + 1) % int(value) != 0 for i in range(count)]

    def refuse_experts(self) -> None:
        """Raises ValueError for a mixture of experts, which the family's loop does not know."""
        if self.get("expert_count", int, 0) > 0:
            raise BlockquantError(f"mixture-of-experts {self._architecture} models are not supported")
