"""llama.cpp's samplers as a test oracle: what each of them makes of given logits, through ctypes."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import llamacpp
import numpy as np


class _Token(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class _Tokens(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.POINTER(_Token)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


class _Bias(ctypes.Structure):
    _fields_ = (("token", ctypes.c_int32), ("bias", ctypes.c_float))


@functools.cache
def _library() -> ctypes.CDLL:
    lib = llamacpp.library()
    p, i32, f32, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float, ctypes.c_size_t
    made = {
        "logit_bias": (i32, i32, ctypes.POINTER(_Bias)),
        "penalties": (i32, i32, f32, f32, f32),
        "top_k": (i32,),
        "typical": (f32, size),
        "top_p": (f32, size),
        "min_p": (f32, size),
        "temp": (f32,),
    }
    for name, arguments in made.items():
        function = getattr(lib, f"llama_sampler_init_{name}")
        function.restype, function.argtypes = p, arguments
    lib.llama_sampler_apply.argtypes = (p, ctypes.POINTER(_Tokens))
    lib.llama_sampler_accept.argtypes = (p, i32)
    lib.llama_sampler_free.argtypes = (p,)
    return lib


def distribution(logits: np.ndarray[Any, Any], seen: Sequence[int], options: Mapping[str, Any]) -> dict[int, float]:
    """Probability of each token that llama.cpp's default chain leaves; `options` are fields of `Sampling`."""
    lib, n = _library(), len(logits)
    get = {"repeat_last_n": 64, "temperature": 1.0, **options}.get
    bias = get("logit_bias", {})
    biases = (_Bias * len(bias))(*(_Bias(t, b) for t, b in bias.items()))
    penalties = (
        n,
        len(seen) if get("repeat_last_n") < 0 else get("repeat_last_n"),
        get("repeat_penalty", 1.0),
        get("frequency_penalty", 0.0),
        get("presence_penalty", 0.0),
    )
    steps = [
        lib.llama_sampler_init_logit_bias(n, len(bias), biases),
        lib.llama_sampler_init_penalties(*penalties),
        lib.llama_sampler_init_top_k(get("top_k", 0)),
        lib.llama_sampler_init_typical(get("typical_p", 1.0), 0),
        lib.llama_sampler_init_top_p(get("top_p", 1.0), 0),
        lib.llama_sampler_init_min_p(get("min_p", 0.0), 0),
        lib.llama_sampler_init_temp(get("temperature")),
    ]
    data = (_Token * n)(*(_Token(i, float(x), 0.0) for i, x in enumerate(logits)))
    tokens = _Tokens(data, n, -1, False)
    for step in steps:
        for token in seen:
            lib.llama_sampler_accept(step, token)
        lib.llama_sampler_apply(step, ctypes.byref(tokens))
        lib.llama_sampler_free(step)
    left = [(t.id, t.logit) for t in tokens.data[: tokens.size] if t.logit > -math.inf]
    top = max(logit for _, logit in left)
    weights = {token: math.exp(logit - top) for token, logit in left}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}
