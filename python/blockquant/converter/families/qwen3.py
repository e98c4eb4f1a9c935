"""Qwen3: RMS norms on every query and key head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from blockquant.converter.families.base import Family, TensorRule


class Qwen3(Family):
    architectures = ("Qwen3ForCausalLM",)
    arch = "qwen3"
    embeds = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
    }

    def attention_tensors(self) -> Iterator[TensorRule]:
        yield from super().attention_tensors()
        yield TensorRule("self_attn.q_norm.weight", "attn_q_norm.weight", (self.head_dim,))
        yield TensorRule("self_attn.k_norm.weight", "attn_k_norm.weight", (self.head_dim,))
