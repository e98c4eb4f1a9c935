"""Cutting a text into the windows that llama-perplexity and llama-imatrix evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.transformer.tokenizer import Tokenizer
from blockquant.transformer.weights import FloatArray

Progress = Callable[[str, int, int], None]
Targets = npt.NDArray[np.intp]


class Windows:
    """The tokenized text in windows of n_ctx tokens; what is left at the end is dropped.

    Each window starts from an empty cache, its first token replaced by BOS where the vocabulary adds one. The
    predictions made from positions `first` = n_ctx / 2 to n_ctx - 2 are scored. `chunks` uses the first so many only.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, n_ctx: int, chunks: int | None, purpose: str) -> None:
        if n_ctx < 4:
            raise BlockquantError(f"n_ctx must be at least 4, got {n_ctx}")
        if chunks is not None and chunks < 1:
            raise BlockquantError(f"chunks must be at least 1, got {chunks}")
        self._tokens = tokenizer.encode(text)
        if len(self._tokens) < 2 * n_ctx:
            raise BlockquantError(
                f"the text has {len(self._tokens)} tokens; {purpose} with windows of {n_ctx} needs at least {2 * n_ctx}"
            )
        self.n_ctx, self.first = n_ctx, n_ctx // 2
        windows = len(self._tokens) // n_ctx
        self.count = windows if chunks is None else min(windows, chunks)
        self._bos = tokenizer.bos_id if tokenizer.add_bos else None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[list[int], Targets]]:
        """Of each window the tokens to evaluate, and the targets of positions `first` to n_ctx - 2."""
        for start in range(0, self.count * self.n_ctx, self.n_ctx):
            ids = self._tokens[start : start + self.n_ctx]
            targets = np.array(ids[self.first + 1 :], np.intp)
            if self._bos is not None:
                ids[0] = self._bos
            yield ids, targets


def require_finite(logits: FloatArray, whose: str) -> None:
    """BlockquantError when one of the logits [rows, V] is no finite number: nothing that is made of them means much."""
    # NaN is the least and the largest of any numbers.
    if logits.size and not (math.isfinite(logits.min()) and math.isfinite(logits.max())):
        row, token = np.argwhere(~np.isfinite(logits))[0]
        raise BlockquantError(f"cannot score a text by {whose}: the logit of token {token} is {logits[row, token]}")


def exponential(x: float) -> float:
    """e^x, inf where that is more than a float holds."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def mean_and_error(total: float, squares: float, count: int) -> tuple[float, float]:
    """The mean of `count` numbers and its standard error, from their sum and the sum of their squares."""
    mean = total / count
    variance = max(0.0, squares / count - mean * mean)
    return mean, (variance / (count - 1)) ** 0.5 if count > 1 else 0.0
