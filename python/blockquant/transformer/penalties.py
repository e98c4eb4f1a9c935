"""Making tokens that were seen lately less likely, and biases for chosen tokens."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

import numpy as np

from blockquant.transformer.weights import FloatArray


class Penalties:
    """Changes to logits that depend on the tokens before, as llama.cpp makes them.

    Of a token that is among the last `last_n` (-1: all so far), seen `count` times there, the logit is divided by
    `repeat` when positive and multiplied by it otherwise; then `count * frequency + presence` is subtracted.
    """

    def __init__(self, last_n: int, repeat: float, frequency: float, presence: float) -> None:
        self._repeat = np.float32(repeat)
        self._frequency, self._presence = np.float32(frequency), np.float32(presence)
        self._active = last_n != 0 and (repeat != 1 or frequency != 0 or presence != 0)
        self._limit = None if last_n < 0 else last_n
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()

    def accept(self, tokens: Iterable[int]) -> None:
        """These tokens come next."""
        if not self._active:
            return
        for token in tokens:
            self._recent.append(token)
            self._counts[token] += 1
            if self._limit is not None and len(self._recent) > self._limit:
                oldest = self._recent.popleft()
                self._counts[oldest] -= 1
                if not self._counts[oldest]:
                    del self._counts[oldest]

    def apply(self, logits: FloatArray) -> FloatArray:
        """The changed logits: a copy, or the same array where nothing changes."""
        if not self._active or not self._counts:
            return logits
        seen = np.fromiter(self._counts.keys(), np.intp, len(self._counts))
        counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        out: FloatArray = logits.copy()
        values = out[seen]
        values = np.where(values <= 0, values * self._repeat, values / self._repeat)
        out[seen] = values - (counts * self._frequency + self._presence)
        return out


class Biases:
    """A number added to the logit of each chosen token; -inf forbids it."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._tokens = np.fromiter(biases.keys(), np.intp, len(biases))
        self._values = np.fromiter(biases.values(), np.float32, len(biases))

    def apply(self, logits: FloatArray) -> FloatArray:
        """The changed logits: a copy, or the same array where there are no biases."""
        if not len(self._tokens):
            return logits
        out: FloatArray = logits.copy()
        out[self._tokens] += self._values
        return out
