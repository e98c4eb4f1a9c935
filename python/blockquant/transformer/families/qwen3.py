"""Qwen3: every head of queries and keys is normalised before the rotation, which pairs the halves of a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockquant import _core
from blockquant.transformer.decoder import Buffers, Decoder, Layer
from blockquant.transformer.weights import FloatArray, Weights


@dataclass
class Qwen3Layer(Layer):
    q_norm: FloatArray
    k_norm: FloatArray


class Qwen3(Decoder):
    architecture: ClassVar[str] = "qwen3"
    rope_interleaved: ClassVar[bool] = False

    def load_layer(self, weights: Weights, prefix: str) -> Qwen3Layer:
        dim = self.config.head_dim
        return Qwen3Layer(
            **self.common_weights(weights, prefix),
            q_norm=weights.vector(f"{prefix}attn_q_norm.weight", dim),
            k_norm=weights.vector(f"{prefix}attn_k_norm.weight", dim),
        )

    def prepare_heads(self, layer: Qwen3Layer, b: Buffers) -> None:
        _core.rms_norm(b.q, layer.q_norm, b.q, self.config.norm_eps, self.threads)
        _core.rms_norm(b.k, layer.k_norm, b.k, self.config.norm_eps, self.threads)
