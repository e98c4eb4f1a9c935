"""Samplers: each against a distribution computed by hand, and whole chains against llama.cpp's."""

from __future__ import annotations

import math
from typing import Any

import llama_samplers
import numpy as np
import pytest
from blockquant.transformer import Sampling
from blockquant.transformer.sampling import Sampler
from hypothesis import given, settings
from hypothesis import strategies as st

NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SHARES = [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]  # of tokens 0 to 5


def distribution(logits: Any, seen: tuple[int, ...] = (), **options: Any) -> dict[int, float]:
    sampler = Sampler(Sampling(**(NEUTRAL | options)))
    sampler.accept(seen)
    ids, probabilities = sampler.distribution(np.asarray(logits, np.float32))
    assert probabilities.sum() == pytest.approx(1)
    return dict(zip(ids.tolist(), probabilities.tolist(), strict=True))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 100}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 0.7}, [0, 1, 2]),
        ({"top_p": 0.05}, [0]),
        ({"min_p": 0.2}, [0, 1, 2, 3]),
        # top_p sees what top_k left, as shares of that: 0.4 / 0.65 is enough.
        ({"top_k": 2, "top_p": 0.6}, [0]),
        # The entropy is 1.53 nats; the tokens' informations are 0.92, 1.39, 1.90, 2.30, 2.81 and 3.22.
        ({"typical_p": 0.2}, [1]),
        ({"typical_p": 0.3}, [1, 2]),
        ({"typical_p": 0.5}, [0, 1, 2]),
        ({"typical_p": 0.85}, [0, 1, 2, 3]),
    ],
)
def test_filters_by_hand(options: dict[str, Any], kept: list[int]) -> None:
    found = distribution(np.log(SHARES), **options)
    total = sum(SHARES[i] for i in kept)
    assert found == pytest.approx({i: SHARES[i] / total for i in kept}, rel=1e-5)


def test_temperature_by_hand() -> None:
    found = distribution(np.log(SHARES), temperature=0.5)
    squares = [share**2 for share in SHARES]
    assert found == pytest.approx({i: square / sum(squares) for i, square in enumerate(squares)}, rel=1e-5)
    assert distribution(np.log(SHARES), temperature=0.0) == {0: 1.0}
    for temperature in (1e-30, 1e-308, 5e-324):  # so low that logits divided by it are infinite
        assert distribution(np.log(SHARES), temperature=temperature) == {i: float(i == 0) for i in range(len(SHARES))}
    # Typical sampling can drop the likeliest token, and then temperature 0 takes the best that is left.
    assert distribution(np.log(SHARES), temperature=0.0, typical_p=0.3) == {1: 1.0}


def test_penalties_by_hand() -> None:
    logits = [2.0, -1.0, 0.5, 0.0]
    seen = (3, 0, 1, 1)

    def shares(*values: float) -> dict[int, float]:
        weights = [math.exp(v) for v in values]
        return {i: w / sum(weights) for i, w in enumerate(weights)}

    assert distribution(logits, seen, repeat_penalty=2.0) == pytest.approx(shares(1.0, -2.0, 0.5, 0.0))
    assert distribution(logits, seen, frequency_penalty=0.5) == pytest.approx(shares(1.5, -2.0, 0.5, -0.5))
    assert distribution(logits, seen, presence_penalty=0.5) == pytest.approx(shares(1.5, -1.5, 0.5, -0.5))
    assert distribution(logits, seen, presence_penalty=0.5, repeat_last_n=2) == pytest.approx(
        shares(2.0, -1.5, 0.5, 0.0)
    )
    assert distribution(logits, seen, presence_penalty=0.5, repeat_last_n=0) == pytest.approx(shares(*logits))
    assert distribution(logits, seen * 50, frequency_penalty=0.01, repeat_last_n=-1) == pytest.approx(
        shares(1.5, -2.0, 0.5, -0.5)
    )
    assert distribution(logits, seen, presence_penalty=5.0, temperature=0.0) == {2: 1.0}


def test_biases_by_hand() -> None:
    found = distribution([0.0, 0.0, 0.0], logit_bias={1: math.log(2), 2: -math.inf})
    assert found == pytest.approx({0: 1 / 3, 1: 2 / 3, 2: 0.0}, rel=1e-6)


def test_drawn_tokens_are_penalised() -> None:
    sampler = Sampler(Sampling(presence_penalty=1.0, repeat_last_n=2))
    logits = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert [sampler(logits) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_logits_are_left_alone() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    distribution(logits, (0, 1, 2), repeat_penalty=3.0, logit_bias={0: 1.0})
    assert logits.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("logits", [[0.0, math.nan, 1.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_logits_that_are_no_numbers(logits: list[float]) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="cannot choose a token: the logit of token"):
            distribution(logits, temperature=temperature)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 0.0}, "typical_p must be more than 0"),
        ({"repeat_penalty": 0.0}, "repeat_penalty must be more than 0"),
        ({"repeat_penalty": math.inf}, "repeat_penalty must be more than 0"),
        ({"repeat_last_n": -2}, "repeat_last_n must be at least -1"),
        ({"frequency_penalty": math.nan}, "frequency_penalty must be a finite number"),
        ({"presence_penalty": math.inf}, "presence_penalty must be a finite number"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias maps token ids"),
        ({"logit_bias": {1: math.nan}}, "logit_bias maps token ids"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


# The same examples every time: at the edge of a filter sums of float32 and of float64 could fall on either side.
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 2, 7, 60, 1500]),
    spread=st.sampled_from([0.3, 2.0, 6.0]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "top_k": st.integers(1, 80),
            "top_p": st.floats(0.03, 0.999),
            "min_p": st.floats(0.001, 0.9),
            "typical_p": st.floats(0.05, 0.99),
            "temperature": st.sampled_from([0.0, 0.3, 0.8, 1.7]),
            "repeat_penalty": st.sampled_from([0.8, 1.1, 1.9]),
            "repeat_last_n": st.sampled_from([-1, 0, 3, 64]),
            "frequency_penalty": st.sampled_from([-0.2, 0.3]),
            "presence_penalty": st.sampled_from([-0.4, 0.5]),
        },
    ),
)
def test_chains_are_llama_cpps(seed: int, size: int, spread: float, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal(size)).astype(np.float32)
    seen = rng.integers(0, size, 12).tolist()
    options["logit_bias"] = {int(t): float(rng.normal()) for t in rng.integers(0, size, 2)}
    theirs = llama_samplers.distribution(logits, seen, options)
    ours = distribution(logits, tuple(seen), **options)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)
