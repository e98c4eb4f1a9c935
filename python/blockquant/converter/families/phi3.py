"""Phi-3, Phi-3.5 and Phi-4-mini: fused projections, partly rotated heads, LongRoPE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blockquant.converter.families.base import Family, TensorRule
from blockquant.errors import BlockquantError

# What checkpoints have called LongRoPE.
_LONG = ("longrope", "su", "yarn")


class Phi3(Family):
    architectures = ("Phi3ForCausalLM",)
    arch = "phi3"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    rope_types = ("default", *_LONG)

    def check_rotation(self) -> None:
        if self.rotated < 2 or self.rotated % 2 or self.rotated > self.head_dim:
            raise BlockquantError(
                f"config.json: {self.rotated} of the {self.head_dim} elements of a head cannot be rotated"
            )

    def metadata(self) -> dict[str, Any]:
        config = self.config
        keys = {
            "context_length": config.count("max_position_embeddings"),
            "rope.scaling.original_context_length": self.rope.original_context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.feed_forward,
            "block_count": self.block_count,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
            "rope.dimension_count": self.rotated,
            "rope.freq_base": self.rope.theta,
        }
        return {f"{self.arch}.{key}": value for key, value in keys.items()}

    def first_metadata(self) -> dict[str, Any]:
        return {f"{self.arch}.rope.scaling.attn_factor": self._attention_factor()} if self.rope.type in _LONG else {}

    def late_metadata(self) -> dict[str, Any]:
        window = 0 if self.config.get("sliding_window") is None else self.config.count("sliding_window")
        return {f"{self.arch}.attention.sliding_window": window}

    def _attention_factor(self) -> float:
        """What LongRoPE multiplies rotated queries and keys by, unless the checkpoint says it."""
        if self.rope.parameters.get("attention_factor") is not None:
            return float(self.rope.number("attention_factor"))
        original = self.rope.original_context
        scale = self.config.count("max_position_embeddings") / original
        return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 < original else 1.0

    def computed_tensors(self) -> dict[str, NDArray[np.float32]]:
        if self.rope.type not in _LONG:
            return {}
        return {f"rope_factors_{kind}.weight": self._factors(kind) for kind in ("long", "short")}

    def _factors(self, kind: str) -> NDArray[np.float32]:
        found = self.rope.parameters.get(f"{kind}_factor")
        numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
        if not isinstance(found, list) or not numbers or len(found) != self.rotated // 2:
            raise BlockquantError(
                f"config.json: {kind}_factor of the rope parameters must be a list of {self.rotated // 2} numbers"
            )
        return np.array(found, np.float32)

    def attention_tensors(self) -> Iterator[TensorRule]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield TensorRule("self_attn.qkv_proj.weight", "attn_qkv.weight", (q + 2 * kv, self.hidden))
        yield TensorRule("self_attn.o_proj.weight", "attn_output.weight", (self.hidden, q))

    def feed_forward_tensors(self) -> Iterator[TensorRule]:
        yield TensorRule("mlp.gate_up_proj.weight", "ffn_up.weight", (2 * self.feed_forward, self.hidden))
        yield TensorRule("mlp.down_proj.weight", "ffn_down.weight", (self.hidden, self.feed_forward))
