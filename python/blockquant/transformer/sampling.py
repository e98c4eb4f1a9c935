"""Choosing the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from blockquant.errors import BlockquantError
from blockquant.transformer.weights import FloatArray


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the most likely token. Otherwise the filters apply in this order, each to what is left:

    top_k: the k most likely tokens (0: all). top_p: the most likely ones that together reach probability p (1: all).
    min_p: those at least min_p times as likely as the best (0: all). Then one is drawn with probabilities
    proportional to exp(logit / temperature). The same seed gives the same tokens.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise BlockquantError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise BlockquantError(f"top_k must be at least 0 (0 keeps all), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise BlockquantError(f"top_p must be more than 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise BlockquantError(f"min_p must be from 0 to 1, got {self.min_p}")
        if self.seed < 0:
            raise BlockquantError(f"seed must be at least 0, got {self.seed}")


class Sampler:
    """Draws tokens one after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self._options = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: FloatArray) -> int:
        options = self._options
        if options.temperature == 0:
            return int(logits.argmax())
        order = self._best_first(logits)
        scores = logits[order].astype(np.float64)
        scores -= scores[0]
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum()
        # At least one token passes each filter, because the best comes first.
        keep = len(order)
        if options.top_p < 1:
            keep = min(keep, int(np.searchsorted(np.cumsum(probabilities), options.top_p)) + 1)
        if options.min_p > 0:
            enough = int(np.count_nonzero(probabilities >= options.min_p * probabilities[0]))
            keep = min(keep, max(1, enough))
        cumulative = np.cumsum(np.exp(scores[:keep] / options.temperature))
        draw = self._random.random() * cumulative[-1]
        return int(order[min(int(np.searchsorted(cumulative, draw, side="right")), keep - 1)])

    def _best_first(self, logits: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        k = self._options.top_k
        if 0 < k < len(logits):
            least = np.partition(logits, -k)[-k]
            above = np.flatnonzero(logits > least)
            ties = np.flatnonzero(logits == least)[: k - len(above)]  # to the lower ids, as in the full sort
            best = np.concatenate([above, ties])
            return best[np.argsort(-logits[best], kind="stable")]
        return np.argsort(-logits, kind="stable")
