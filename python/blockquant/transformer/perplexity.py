"""Perplexity over a text with the windows of llama-perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.transformer.weights import FloatArray

if TYPE_CHECKING:
    from blockquant.transformer.model import Model

Progress = Callable[[str, int, int], None]


def negative_log_likelihoods(logits: FloatArray, targets: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """-log softmax(logits)[target] of each row, float64 [rows]."""
    best = logits.max(axis=1)
    total = np.exp(logits - best[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets]
    losses: npt.NDArray[np.float64] = np.log(total) - (chosen - best).astype(np.float64)
    return losses


def perplexity(
    model: Model, text: str, n_ctx: int, chunks: int | None, progress: Progress | None
) -> dict[str, float | int]:
    """See `Model.perplexity`.

    The tokenized text is cut into windows of n_ctx tokens; what is left at the end is dropped. Each window starts
    from an empty cache, its first token replaced by BOS where the vocabulary adds one. The predictions made from
    positions n_ctx / 2 to n_ctx - 2 are scored.
    """
    if n_ctx < 4:
        raise BlockquantError(f"n_ctx must be at least 4, got {n_ctx}")
    if chunks is not None and chunks < 1:
        raise BlockquantError(f"chunks must be at least 1, got {chunks}")
    tokenizer = model.tokenizer
    tokens = tokenizer.encode(text)
    if len(tokens) < 2 * n_ctx:
        raise BlockquantError(
            f"the text has {len(tokens)} tokens; perplexity with windows of {n_ctx} needs at least {2 * n_ctx}"
        )
    windows = len(tokens) // n_ctx
    if chunks is not None:
        windows = min(windows, chunks)
    first = n_ctx // 2
    session = model.session(n_ctx)
    count, total, squares = 0, 0.0, 0.0
    for w in range(windows):
        ids = tokens[w * n_ctx : (w + 1) * n_ctx]
        targets = np.array(ids[first + 1 :], np.intp)
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            ids[0] = tokenizer.bos_id
        session.reset()
        row = 0
        for logits in session.eval_rows(ids, first):
            wanted = targets[row : row + len(logits)]  # the last position predicts the next window: not scored
            nll = negative_log_likelihoods(logits[: len(wanted)], wanted)
            total += float(nll.sum())
            squares += float(np.dot(nll, nll))
            row += len(logits)
        count += len(targets)
        if progress is not None:
            progress("perplexity", w + 1, windows)
    mean = total / count
    variance = max(0.0, squares / count - mean * mean)
    ppl = math.exp(mean)
    stderr = math.sqrt(variance / (count - 1)) * ppl if count > 1 else 0.0
    return {"ppl": ppl, "nll": mean, "tokens": count, "stderr": stderr, "windows": windows, "n_ctx": n_ctx}
