"""The loop against llama.cpp on the same files: logits, greedy text, and llama-perplexity's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llamacpp
import model_files
import numpy as np
import pytest
from blockquant import Model

RECIPES = ("F16", "Q8_0", "Q4_K_M", "Q2_K")
PROMPTS = ("Once upon a time", "The old witch looked at the little girl and said,", "A king had three sons")


def spread(logits: np.ndarray[Any, Any]) -> float:
    return float(logits.std(axis=-1).mean())


def exact_logits(recipe: str, ids: list[int]) -> np.ndarray[Any, Any]:
    """The same weights multiplied by float activations: what both engines approximate."""
    with Model.open(model_files.decoded(recipe)) as model:
        return model.logits(ids)


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_are_as_close_to_exact_as_llama_cpps(recipe: str) -> None:
    with llamacpp.Model(model_files.tales(recipe)) as other, Model.open(model_files.tales(recipe)) as model:
        ids = model.tokenizer.encode(model_files.eval_text()[20_000:22_000])[:300]
        ours, theirs = model.logits(ids), other.logits(ids)
    exact = exact_logits(recipe, ids)
    unit = spread(exact)

    def rms(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2))) / unit

    # Both round activations (to int8, to float16 in F16 matrices and in the cache), each in its own way, so each is
    # as far from the other as from the exact result, and ours must not be the worse one.
    assert rms(ours, exact) < 1.2 * rms(theirs, exact) + 1e-3
    assert rms(ours, theirs) < {"F16": 0.004, "Q8_0": 0.02, "Q4_K_M": 0.03, "Q2_K": 0.05}[recipe]


def mean_divergence(p: np.ndarray[Any, Any], q: np.ndarray[Any, Any]) -> float:
    """Mean Kullback-Leibler divergence of the distributions with logits q from those with logits p."""

    def log_softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = x.astype(np.float64) - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    a, b = log_softmax(p), log_softmax(q)
    return float((np.exp(a) * (a - b)).sum(-1).mean())


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_K_M", "Q4_0", "IQ4_XS"])
def test_divergence_from_llama_cpp_is_that_of_int8_activations(recipe: str) -> None:
    with llamacpp.Model(model_files.tales(recipe)) as other, Model.open(model_files.tales(recipe)) as model:
        ids = model.tokenizer.encode(model_files.eval_text()[40_000:44_000])[:500]
        ours, theirs = model.logits(ids), other.logits(ids)
    exact = exact_logits(recipe, ids)
    rounding = mean_divergence(exact, theirs) + mean_divergence(exact, ours)
    between = mean_divergence(theirs, ours)
    print(f"{recipe}: between {between:.2e}, explained by rounding {rounding:.2e}")
    # Independent errors add up: what parts two roundings is the sum of what parts each from the exact result.
    assert between < 1.1 * rounding
    assert mean_divergence(exact, ours) < 1.2 * mean_divergence(exact, theirs)


def greedy_rows(
    eval_one: Callable[[list[int]], np.ndarray[Any, Any]], ids: list[int]
) -> Iterator[np.ndarray[Any, Any]]:
    """The logits that decide each of 64 greedy tokens, one token at a time as generation does."""
    row = eval_one(ids)
    for _ in range(64):
        yield row
        row = eval_one([int(row.argmax())])


@pytest.mark.parametrize("recipe", RECIPES)
def test_greedy_text_is_llama_cpps_up_to_rounding(recipe: str) -> None:
    with llamacpp.Model(model_files.tales(recipe)) as other, Model.open(model_files.tales(recipe)) as model:
        for prompt in PROMPTS:
            ids = model.tokenizer.encode(prompt)
            other.reset()
            ours = greedy_rows(model.session().eval, ids)
            theirs = greedy_rows(lambda tokens: other.eval(tokens)[-1], ids)
            chosen: list[int] = []
            rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
            for mine, its in zip(ours, theirs, strict=True):
                rows.append((mine, its))
                a, b = int(mine.argmax()), int(its.argmax())
                if a == b:
                    chosen.append(a)
                    continue
                # They part. Rounded activations move each logit, by `rounding` (root mean square, measured here over
                # the tokens so far); the difference of two of them may move by a few times as much. With exact
                # activations the two candidates must be no further apart than that, and the best two or three.
                exact = exact_logits(recipe, ids + chosen)[len(ids) - 1 :]
                moved = [float(np.sqrt(np.mean((np.stack(side) - exact) ** 2))) for side in zip(*rows, strict=True)]
                assert moved[0] < 1.5 * moved[1] + 1e-3
                gap = abs(float(exact[-1, a] - exact[-1, b]))
                rounding = max(moved)
                print(f"{recipe}: {prompt!r} parts at token {len(chosen)}, gap {gap:.4f}, rounding {rounding:.4f}")
                assert gap < 5 * rounding
                assert {a, b} <= {int(i) for i in np.argsort(exact[-1])[-3:]}
                break
            else:
                assert len(chosen) == 64
            # Generation walks the same way until it meets an end token.
            tokens = model.generate(prompt, max_tokens=64)
            text, end = tokens.text(), tokens.tokens
            assert end[: len(chosen)] == chosen[: len(end)]
            assert text == model.tokenizer.decode(end)


# llama-perplexity -f eval.txt -c 256: over all windows and over the first 40 (MODEL_CARD.md).
PERPLEXITY = {
    "F16": (38.1081, 36.4796),
    "Q8_0": (38.1249, 36.5033),
    "Q4_K_M": (38.4099, 36.5999),
    "Q4_0": (38.4430, 36.8374),
    "Q2_K": (40.9099, 38.6281),
}


@pytest.mark.parametrize("recipe", ["F16", "Q8_0", "Q4_K_M"])
def test_perplexity_is_llama_perplexitys(recipe: str) -> None:
    with Model.open(model_files.tales(recipe)) as model:
        found = model.perplexity(model_files.eval_text(), n_ctx=256, chunks=40)
    assert found["ppl"] == pytest.approx(PERPLEXITY[recipe][1], rel=0.005)
    assert found["stderr"] == pytest.approx(1.4215, abs=0.01)
    assert (found["tokens"], found["windows"]) == (5080, 40)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PERPLEXITY)
def test_perplexity_over_the_whole_text(recipe: str) -> None:
    with Model.open(model_files.tales(recipe)) as model:
        found = model.perplexity(model_files.eval_text(), n_ctx=256)
    assert found["ppl"] == pytest.approx(PERPLEXITY[recipe][0], rel=0.005)
    assert found["windows"] == 917
