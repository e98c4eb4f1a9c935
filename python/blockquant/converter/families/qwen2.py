"""Qwen2 and Qwen2.5: biases on query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from blockquant.converter.families.base import Family


class Qwen2(Family):
    architectures = ("Qwen2ForCausalLM",)
    arch = "qwen2"
    embeds = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
    }

    def attention_biases(self) -> str:
        return "qkv"
