"""Qwen3 with a mixture of experts: a router picks, for each token, the gated units that it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from blockquant import _core
from blockquant.errors import BlockquantError
from blockquant.transformer.decoder import Buffers, Layer
from blockquant.transformer.families.qwen3 import Qwen3
from blockquant.transformer.weights import Linear, Weights


@dataclass(kw_only=True)
class ExpertLayer(Layer):
    ffn_gate_inp: Linear  # the router: a score of each expert
    ffn_gate_exps: Linear  # [experts, n_ff, n_embd]
    ffn_up_exps: Linear
    ffn_down_exps: Linear


class Qwen3Moe(Qwen3):
    architecture: ClassVar[str] = "qwen3moe"

    def prepare(self) -> None:
        keys = self.config.keys
        self.n_experts = keys.positive("expert_count")
        self.n_used = keys.positive("expert_used_count")
        if self.n_used > self.n_experts:
            raise BlockquantError(f"{self.n_used} of {self.n_experts} experts cannot be used")
        self.n_ff = keys.positive("expert_feed_forward_length", max(1, self.config.n_ff // self.n_used))
        self.normalised = keys.get("expert_weights_norm", bool, True)

    def load_layer(self, weights: Weights, index: int) -> Layer:
        experts, n_ff, n_embd, prefix = self.n_experts, self.n_ff, self.config.n_embd, f"blk.{index}."
        return ExpertLayer(
            **self.attention_weights(weights, index),
            ffn_gate_inp=weights.linear(f"{prefix}ffn_gate_inp", experts, n_embd),
            ffn_gate_exps=weights.linear(f"{prefix}ffn_gate_exps", experts, n_ff, n_embd),
            ffn_up_exps=weights.linear(f"{prefix}ffn_up_exps", experts, n_ff, n_embd),
            ffn_down_exps=weights.linear(f"{prefix}ffn_down_exps", experts, n_embd, n_ff),
        )

    def feed_forward(self, layer: Any, b: Buffers) -> None:
        self.norm(b.x, layer.ffn_norm, b.h)
        rows, used = len(b.h), self.n_used
        scores = layer.ffn_gate_inp(b.h, np.empty((rows, self.n_experts), np.float32))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        chosen = np.argsort(-shares, axis=-1, kind="stable")[:, :used]
        shares = np.take_along_axis(shares, chosen, -1)
        if self.normalised:
            shares /= shares.sum(-1, keepdims=True)

        # From here on there is a row for each token and each of its experts.
        expert = np.ascontiguousarray(chosen.reshape(-1), np.int32)
        h = np.repeat(b.h, used, axis=0)
        gate, up = (np.empty((rows * used, self.n_ff), np.float32) for _ in range(2))
        layer.ffn_gate_exps(h, gate, expert)
        layer.ffn_up_exps(h, up, expert)
        _core.gated(gate, up, gate, self.activation, self.threads)
        layer.ffn_down_exps(gate, h, expert)
        np.einsum("re,red->rd", shares, h.reshape(rows, used, -1), out=b.h)
        _core.add(b.x, b.h, self.threads)
