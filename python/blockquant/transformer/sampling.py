"""Choosing the next token from logits, by the steps of llama.cpp in its order."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.transformer.penalties import Biases, Penalties
from blockquant.transformer.weights import FloatArray

Indices = npt.NDArray[np.intp]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The steps, in llama.cpp's order, each applied to what the one before left:

    logit_bias: numbers added to the logits of chosen tokens; -inf forbids one.
    repeat_penalty, frequency_penalty, presence_penalty: over the last repeat_last_n tokens, prompt included
        (0: none, -1: all); see `blockquant.transformer.penalties.Penalties`. 1, 0 and 0 change nothing.
    top_k: the k most likely tokens stay (0: all).
    typical_p: those whose information is nearest to the entropy stay, up to this probability (1: all).
    top_p: the most likely ones that together reach this probability stay (1: all).
    min_p: those at least min_p times as likely as the best stay (0: all).
    temperature: one is drawn with probabilities proportional to exp(logit / temperature); 0 takes the most likely.
    seed: the same seed gives the same tokens.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise BlockquantError(f"{name} must be {wanted}, got {getattr(self, name)}")

        check(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "at least 0")
        check(self.top_k >= 0, "top_k", "at least 0 (0 keeps all)")
        for name in ("top_p", "typical_p"):
            check(0 < getattr(self, name) <= 1, name, "more than 0 and at most 1")
        check(0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        check(self.seed >= 0, "seed", "at least 0")
        check(0 < self.repeat_penalty < math.inf, "repeat_penalty", "more than 0 (1 changes nothing)")
        check(self.repeat_last_n >= -1, "repeat_last_n", "at least -1 (-1 looks at all tokens)")
        for name in ("frequency_penalty", "presence_penalty"):
            check(math.isfinite(getattr(self, name)), name, "a finite number")
        for token, bias in self.logit_bias.items():
            if operator.index(token) < 0 or math.isnan(bias) or bias == math.inf:
                raise BlockquantError(f"logit_bias maps token ids to numbers or -inf, got {token}: {bias}")

    def check_vocabulary(self, n_vocab: int) -> None:
        """ValueError when a bias is for a token that does not exist."""
        for token in self.logit_bias:
            if token >= n_vocab:
                raise BlockquantError(f"logit_bias names token {token}, outside the vocabulary of {n_vocab} tokens")


class Sampler:
    """Draws tokens one after the other, and remembers them for the penalties. `accept` tells it of a prompt."""

    def __init__(self, sampling: Sampling) -> None:
        self._options = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._biases = Biases(sampling.logit_bias)
        self._penalties = Penalties(
            sampling.repeat_last_n, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
        )

    def accept(self, tokens: Iterable[int]) -> None:
        """These tokens were not drawn here, but count as seen."""
        self._penalties.accept(tokens)

    def __call__(self, logits: FloatArray) -> int:
        """Draw a token from logits float32 [V]."""
        ids, probabilities = self.distribution(logits)
        if len(ids) == 1:
            token = int(ids[0])
        else:
            cumulative = np.cumsum(probabilities)
            draw = self._random.random() * cumulative[-1]
            token = int(ids[min(int(np.searchsorted(cumulative, draw, side="right")), len(ids) - 1)])
        self._penalties.accept((token,))
        return token

    def distribution(self, logits: FloatArray) -> tuple[Indices, Float64Array]:
        """The tokens that may be drawn, the most likely first, and their probabilities."""
        options = self._options
        logits = self._penalties.apply(self._biases.apply(logits))
        best = int(logits.argmax())  # the first NaN, if there is one
        if not math.isfinite(logits[best]):
            raise BlockquantError(f"cannot choose a token: the logit of token {best} is {logits[best]}")
        if options.temperature == 0 and options.typical_p == 1:
            return np.array([best]), np.ones(1)
        top_k = min(options.top_k or len(logits), len(logits))
        ids = self._candidates(logits, float(logits[best]), top_k)
        scores = logits[ids].astype(np.float64)
        # What the filters see in all, though only candidates were sorted.
        total = float(np.sum(np.exp((logits if top_k == len(logits) else scores) - scores[0]), dtype=np.float64))
        if options.typical_p < 1:
            keep = _typical(scores, options.typical_p)
            ids, scores = ids[keep], scores[keep]
            total = float(np.exp(scores - scores[0]).sum())
        # At least one token passes each filter, because the best comes first.
        count = len(ids)
        if options.top_p < 1:
            count = min(count, int(np.searchsorted(np.cumsum(np.exp(scores - scores[0])), options.top_p * total)) + 1)
        if options.min_p > 0:
            near = np.count_nonzero(scores >= scores[0] + math.log(options.min_p))
            count = min(count, max(1, int(near)))
        if options.temperature == 0:
            count = 1
        with np.errstate(over="ignore"):  # what is far below the best at a low temperature is left out
            scaled = (scores[:count] - scores[0]) / (options.temperature or 1.0)
        return ids[:count], _softmax(scaled)

    def _candidates(self, logits: FloatArray, best: float, top_k: int) -> Indices:
        """The ids of the top_k, the most likely first; those that min_p drops may be missing."""
        options = self._options
        if top_k < len(logits):
            return _best_first(logits, top_k)
        if options.min_p == 0 or options.typical_p < 1:
            return np.argsort(-logits, kind="stable")
        near = np.flatnonzero(logits >= np.nextafter(np.float32(best + math.log(options.min_p)), np.float32(-np.inf)))
        return near[np.argsort(-logits[near], kind="stable")]


def _softmax(scores: Float64Array) -> Float64Array:
    """Of scores that begin with the largest."""
    weights: Float64Array = np.exp(scores - scores[0])
    weights /= weights.sum()
    return weights


def _typical(scores: Float64Array, p: float) -> Indices:
    """Which of the scores, largest first, are locally typical (Meister et al. 2022): the places of those nearest to the
    entropy that together exceed p, in ascending order."""
    probabilities = _softmax(scores)
    with np.errstate(divide="ignore"):
        information = -np.log(probabilities)
    entropy = float(np.sum(probabilities * np.where(probabilities > 0, information, 0.0)))
    nearest = np.argsort(np.abs(information - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[nearest]), p, side="right")) + 1
    return np.sort(nearest[:count])


def _best_first(logits: FloatArray, k: int) -> Indices:
    """The ids of the k < len(logits) largest logits, the largest first, ties in the order of ids."""
    least = np.partition(logits, -k)[-k]
    above = np.flatnonzero(logits > least)
    ties = np.flatnonzero(logits == least)[: k - len(above)]  # to the lower ids, as in a full sort
    best: Indices = np.concatenate([above, ties])
    return best[np.argsort(-logits[best], kind="stable")]
