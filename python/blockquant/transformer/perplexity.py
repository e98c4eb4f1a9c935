"""Perplexity over a text with the windows of llama-perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blockquant.transformer.weights import FloatArray
from blockquant.transformer.windows import Progress, Windows, exponential, mean_and_error, require_finite

if TYPE_CHECKING:
    from blockquant.transformer.model import Model


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
    """See `Model.perplexity` and `Windows`."""
    windows = Windows(model.tokenizer, text, n_ctx, chunks, "perplexity")
    session = model.session(n_ctx)
    count, total, squares = 0, 0.0, 0.0
    for done, (ids, targets) in enumerate(windows, 1):
        session.reset()
        row = 0
        for logits in session.eval_rows(ids, windows.first):
            wanted = targets[row : row + len(logits)]  # the last position predicts the next window: not scored
            require_finite(logits[: len(wanted)], "this model")
            nll = negative_log_likelihoods(logits[: len(wanted)], wanted)
            total += float(nll.sum())
            squares += float(np.dot(nll, nll))
            row += len(logits)
        count += len(targets)
        if progress is not None:
            progress("perplexity", done, len(windows))
    mean, error = mean_and_error(total, squares, count)
    ppl = exponential(mean)
    return {
        "ppl": ppl,
        "nll": mean,
        "tokens": count,
        "stderr": ppl * error,
        "windows": len(windows),
        "n_ctx": n_ctx,
    }
