"""Typed look-ups in the metadata of a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from blockquant.errors import BlockquantError

MOST = 2**31 - 1

T = TypeVar("T", int, float, str, bool)


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
        if kind is bool and isinstance(value, (bool, np.bool_)):
            return kind(value)
        wrong = isinstance(value, (str, bool)) or kind is bool or not math.isfinite(value)
        if wrong or (kind is int and int(value) != value):
            raise BlockquantError(f"{self.name(key)} is {value!r}; expected {kind.__name__}")
        return kind(value)

    def positive(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A size or count, which fits 32 bits: no real one is larger, and compiled code takes it as it is."""
        value = self.get(key, int, default)
        if value < least:
            raise BlockquantError(f"{self.name(key)} is {value}; expected at least {least}")
        if value > MOST:
            raise BlockquantError(f"{self.name(key)} is {value}; expected at most {MOST}")
        return value

    def flags(self, key: str, count: int, period: int) -> list[bool]:
        """A flag for each of `count` layers: the file's list, or all but every n-th, n being the file's or `period`."""
        value = self._metadata.get(self.name(key), period)
        if isinstance(value, (list, np.ndarray)):
            found = [bool(flag) for flag in value]
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
