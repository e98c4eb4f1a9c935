"""Typed look-ups in the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from blockquant.errors import BlockquantError

T = TypeVar("T", int, float, str)


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
            values = set(np.asarray(value).tolist())
            if len(values) != 1:
                raise BlockquantError(f"{self.name(key)} differs between layers: not supported")
            value = values.pop()
        if kind is str:
            return kind(value)
        if isinstance(value, (str, bool)) or (kind is int and int(value) != value):
            raise BlockquantError(f"{self.name(key)} is {value!r}; expected {kind.__name__}")
        return kind(value)

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.get(key, int, default)
        if value < 1:
            raise BlockquantError(f"{self.name(key)} is {value}; expected at least 1")
        return value
