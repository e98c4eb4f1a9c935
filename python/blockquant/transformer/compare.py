"""How far a model's predictions are from a baseline's, with the definitions of llama-perplexity --kl-divergence.

Where the baseline gives token i the probability p_i and the model q_i, the divergence of a position is
sum p_i log(p_i / q_i), in nats, over the tokens with log p_i > -16 (the range of llama-perplexity's files of
probabilities). Errors are standard errors of means; those of ratios take the covariance into account.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.transformer.model import Model
from blockquant.transformer.session import Session
from blockquant.transformer.weights import FloatArray
from blockquant.transformer.windows import Progress, Targets, Windows, exponential, mean_and_error, require_finite

Comparison = dict[str, float | int]
Source = Model | str | os.PathLike[str]
Float64Array = npt.NDArray[np.float64]

LEAST_LOG_PROBABILITY = -16.0
ROWS = 16  # positions whose probabilities are held as float64 at a time
KLD_PERCENTILES = {
    "p01": 1.0,
    "p05": 5.0,
    "p10": 10.0,
    "median": 50.0,
    "p90": 90.0,
    "p95": 95.0,
    "p99": 99.0,
    "p999": 99.9,
}


def compare(
    model: Source,
    baseline: Source,
    text: str,
    n_ctx: int = 512,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a model with the baseline that it was made from, on a text.

    Args:
        model, baseline: GGUF files or open models, with the same vocabulary.
        text: at least 2 * n_ctx tokens.
        n_ctx: tokens of a window; the second half of each is scored, as `Model.perplexity` does.
        chunks: use the first so many windows only.
        progress: called as progress("comparing", windows done, windows).

    Returns a dict; KL divergences are in nats, probabilities from 0 to 1:
        kld_mean, kld_stderr, kld_min, kld_p01, kld_p05, kld_p10, kld_median, kld_p90, kld_p95, kld_p99, kld_p999,
            kld_max: over the scored positions.
        top1_agreement, top1_stderr: how often both find the same token the likeliest.
        ppl, ppl_stderr, ppl_baseline, ppl_baseline_stderr, ppl_ratio, ppl_ratio_stderr, log_ppl_correlation.
        p_diff_mean, p_diff_rms: how the probability of the right token changes.
        tokens, windows, n_ctx, bits_per_weight, bits_per_weight_baseline.

    Raises ValueError for different vocabularies, a short text, or logits that are not finite, and what `Model.open`
    raises.
    """
    return compare_all([model], baseline, text, n_ctx, chunks, progress)[0]


def compare_all(
    models: Sequence[Source],
    baseline: Source,
    text: str,
    n_ctx: int = 512,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """`compare` for several models, evaluating the baseline once."""
    if not models:
        raise BlockquantError("there is no model to compare with the baseline")
    with contextlib.ExitStack() as stack:
        base, *others = (_opened(source, stack) for source in (baseline, *models))
        for other in others:
            _check_same_vocabulary(other, base)
        windows = Windows(base.tokenizer, text, n_ctx, chunks, "a comparison")
        session, sessions = base.session(n_ctx), [other.session(n_ctx) for other in others]
        scores = [_Scores() for _ in others]
        for done, (ids, targets) in enumerate(windows, 1):
            pieces = [_scored_rows(s, ids, windows.first) for s in (session, *sessions)]
            row = 0
            for wanted in pieces[0]:
                chosen = targets[row : row + len(wanted)]
                row += len(wanted)
                require_finite(wanted, f"the baseline ({baseline})")
                for score, piece, source in zip(scores, pieces[1:], models, strict=True):
                    logits = next(piece)
                    require_finite(logits, str(source))
                    score.add(logits, wanted, chosen)
            if progress is not None:
                progress("comparing", done, len(windows))
        shared = {"windows": len(windows), "n_ctx": n_ctx, "bits_per_weight_baseline": base.bits_per_weight}
        return [
            score.result() | shared | {"bits_per_weight": other.bits_per_weight}
            for score, other in zip(scores, others, strict=True)
        ]


def _opened(source: Source, stack: contextlib.ExitStack) -> Model:
    return source if isinstance(source, Model) else stack.enter_context(Model.open(source))


def _check_same_vocabulary(model: Model, baseline: Model) -> None:
    if model.n_vocab != baseline.n_vocab:
        raise BlockquantError(
            f"the models have vocabularies of {model.n_vocab} and {baseline.n_vocab} tokens: they cannot be compared"
        )
    pairs = zip(model.tokenizer.tokens, baseline.tokenizer.tokens, strict=False)
    different = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if different is not None:
        raise BlockquantError(f"the models have different vocabularies, from token {different} on")


def _scored_rows(session: Session, ids: list[int], first: int) -> Iterator[FloatArray]:
    """The logits of positions `first` and later, in equal pieces for every model."""
    session.reset()
    return session.eval_rows(ids, first)


def _log_softmax(logits: FloatArray) -> Float64Array:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


class _Scores:
    """What is gathered over the scored positions, float64 each."""

    def __init__(self) -> None:
        self._parts: list[tuple[Float64Array, ...]] = []

    def add(self, logits: FloatArray, baseline: FloatArray, targets: Targets) -> None:
        """Rows of logits [rows, V] of both; those beyond the targets are not scored."""
        for start in range(0, len(targets), ROWS):
            chosen = targets[start : start + ROWS]
            rows = slice(start, start + len(chosen))
            log_q, log_p = _log_softmax(logits[rows]), _log_softmax(baseline[rows])
            counted = log_p > LEAST_LOG_PROBABILITY
            kld = np.sum(np.exp(log_p) * (log_p - log_q), axis=1, where=counted)
            same = (log_p.argmax(axis=1) == log_q.argmax(axis=1)).astype(np.float64)
            at = np.arange(len(chosen))
            self._parts.append((kld, same, -log_q[at, chosen], -log_p[at, chosen]))

    def result(self) -> Comparison:
        kld, same, nll, nll_base = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        count = len(kld)

        def moments(values: Float64Array) -> tuple[float, float]:
            return mean_and_error(float(values.sum()), float(np.dot(values, values)), count)

        mean, error = moments(nll)
        mean_base, error_base = moments(nll_base)
        covariance = (float(np.dot(nll, nll_base)) / count - mean * mean_base) / max(1, count - 1)
        ppl, ppl_base, ratio = (exponential(value) for value in (mean, mean_base, mean - mean_base))
        ratio_variance = max(0.0, error**2 + error_base**2 - 2 * covariance)
        p_diff = np.exp(-nll) - np.exp(-nll_base)
        kld_mean, kld_error = moments(kld)
        agreement = float(same.mean())
        return {
            "kld_mean": kld_mean,
            "kld_stderr": kld_error,
            "kld_min": float(kld.min()),
            **{f"kld_{name}": float(np.percentile(kld, percent)) for name, percent in KLD_PERCENTILES.items()},
            "kld_max": float(kld.max()),
            "top1_agreement": agreement,
            "top1_stderr": math.sqrt(agreement * (1 - agreement) / max(1, count - 1)),
            "ppl": ppl,
            "ppl_stderr": ppl * error,
            "ppl_baseline": ppl_base,
            "ppl_baseline_stderr": ppl_base * error_base,
            "ppl_ratio": ratio,
            "ppl_ratio_stderr": ratio * math.sqrt(ratio_variance),
            "log_ppl_correlation": covariance / (error * error_base) if error and error_base else 1.0,
            "p_diff_mean": float(p_diff.mean()),
            "p_diff_rms": float(np.sqrt(np.mean(p_diff**2))),
            "tokens": count,
        }
