"""The decoder-only transformer loop that all families share; model/families/ says what differs.

    x = embedding of the tokens
    for each layer:
        q, k, v = rms_norm(x) @ Wq, Wk, Wv;  rotate q and k;  x += attention(q, cache + k, cache + v) @ Wo
        h = rms_norm(x);  x += (silu(h @ Wgate) * (h @ Wup)) @ Wdown
    logits = rms_norm(x) @ Woutput

Every array is [rows, ...] with one row per token of the chunk at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant.transformer.cache import KVCache
from blockquant.transformer.config import Config
from blockquant.transformer.weights import FloatArray, Linear, Weights

PROMPT_CHUNK = 256  # rows that go through the layers together


@dataclass
class Layer:
    """The weights of one layer. Names are the file's, without the `blk.N.` prefix."""

    attn_norm: FloatArray
    attn_q: Linear
    attn_k: Linear
    attn_v: Linear
    attn_output: Linear
    ffn_norm: FloatArray
    ffn_gate: Linear
    ffn_up: Linear
    ffn_down: Linear


class Buffers:
    """Scratch arrays for chunks of `rows` tokens, made once per size."""

    def __init__(self, config: Config, rows: int) -> None:
        def empty(*shape: int) -> FloatArray:
            return np.empty((rows, *shape), np.float32)

        heads, kv_heads, dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.x, self.h = empty(config.n_embd), empty(config.n_embd)
        self.q, self.k, self.v = empty(heads, dim), empty(kv_heads, dim), empty(kv_heads, dim)
        self.attended = empty(heads, dim)
        # The same memory, one row per token, for the matrix products.
        self.q_rows, self.attended_rows = self.q.reshape(rows, -1), self.attended.reshape(rows, -1)
        self.k_rows, self.v_rows = self.k.reshape(rows, -1), self.v.reshape(rows, -1)
        self.gate, self.up = empty(config.n_ff), empty(config.n_ff)


class Decoder:
    """Weights and the forward pass. A family is a subclass that overrides the steps in which it differs."""

    architecture: ClassVar[str]
    rope_interleaved: ClassVar[bool]  # whether rotated pairs are neighbours or half a head apart

    def __init__(self, config: Config, weights: Weights, threads: int) -> None:
        self.config, self.threads = config, threads
        self.n_vocab = weights.vocabulary_size(config.n_embd)
        self.embedding = weights.linear("token_embd", self.n_vocab, config.n_embd)
        self.layers = [self.load_layer(weights, f"blk.{i}.") for i in range(config.n_layers)]
        self.output_norm = weights.vector("output_norm.weight", config.n_embd)
        tied = "output.weight" not in weights
        self.output = self.embedding if tied else weights.linear("output", self.n_vocab, config.n_embd)
        frequencies = config.rope.frequencies()
        factors = weights.optional_vector("rope_freqs.weight", len(frequencies))  # llama3 scaling
        self.rope_frequencies = frequencies if factors is None else frequencies / factors
        weights.check_all_used()
        self.cache_dtype: npt.DTypeLike = np.float32 if self.layers[0].attn_k.is_float32 else np.float16

    # ---- what families override ----

    def load_layer(self, weights: Weights, prefix: str) -> Layer:
        return Layer(**self.common_weights(weights, prefix))

    def prepare_heads(self, layer: Any, b: Buffers) -> None:
        """Between the projections and the rotation of b.q, b.k [rows, heads, dim]."""

    def feed_forward(self, layer: Any, b: Buffers) -> None:
        """b.x += feed-forward of b.x, using b.h as scratch."""
        _core.rms_norm(b.x, layer.ffn_norm, b.h, self.config.norm_eps, self.threads)
        layer.ffn_gate(b.h, b.gate)
        layer.ffn_up(b.h, b.up)
        _core.swiglu(b.gate, b.up, b.gate, self.threads)
        layer.ffn_down(b.gate, b.h)
        _core.add(b.x, b.h, self.threads)

    # ---- the loop ----

    def common_weights(self, weights: Weights, prefix: str) -> dict[str, Any]:
        """The fields of `Layer`, taken from the file."""
        c = self.config
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        vectors = {"attn_norm": c.n_embd, "ffn_norm": c.n_embd}
        matrices = {
            "attn_q": (q, c.n_embd),
            "attn_k": (kv, c.n_embd),
            "attn_v": (kv, c.n_embd),
            "attn_output": (c.n_embd, q),
            "ffn_gate": (c.n_ff, c.n_embd),
            "ffn_up": (c.n_ff, c.n_embd),
            "ffn_down": (c.n_embd, c.n_ff),
        }
        return {name: weights.vector(f"{prefix}{name}.weight", n) for name, n in vectors.items()} | {
            name: weights.linear(f"{prefix}{name}", *shape) for name, shape in matrices.items()
        }

    def rope_rows(self, position: int, rows: int) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines [rows, pairs] of the positions from `position` on."""
        angles = np.multiply.outer(np.arange(position, position + rows, dtype=np.float64), self.rope_frequencies)
        magnitude = self.config.rope.magnitude()
        return (np.cos(angles) * magnitude).astype(np.float32), (np.sin(angles) * magnitude).astype(np.float32)

    def attention(
        self, index: int, layer: Any, b: Buffers, cache: KVCache, rope: tuple[FloatArray, FloatArray]
    ) -> None:
        """b.x += attention of b.x over layer `index` of the cache, into which its keys and values go first."""
        config, threads = self.config, self.threads
        _core.rms_norm(b.x, layer.attn_norm, b.h, config.norm_eps, threads)
        layer.attn_q(b.h, b.q_rows)
        layer.attn_k(b.h, b.k_rows)
        layer.attn_v(b.h, b.v_rows)
        self.prepare_heads(layer, b)
        _core.rope(b.q, *rope, self.rope_interleaved, threads)
        _core.rope(b.k, *rope, self.rope_interleaved, threads)
        cache.store(index, b.k, b.v)
        cache.attend(index, b.q, b.attended, config.attention_scale, 0, threads)
        layer.attn_output(b.attended_rows, b.h)
        _core.add(b.x, b.h, threads)

    def forward(self, tokens: Sequence[int], cache: KVCache, logits: int) -> FloatArray:
        """Append at most PROMPT_CHUNK tokens to the cache; the logits [logits, V] of the last `logits` of them."""
        rows = len(tokens)
        cache.reserve(rows)
        b = self._buffers_of(rows, cache)
        self.embedding.rows(tokens, b.x)
        rope = self.rope_rows(cache.position, rows)
        for index, layer in enumerate(self.layers):
            self.attention(index, layer, b, cache, rope)
            self.feed_forward(layer, b)
        cache.position += rows
        out = np.empty((logits, self.n_vocab), np.float32)
        if logits:
            h = b.h[rows - logits :]
            _core.rms_norm(b.x[rows - logits :], self.output_norm, h, self.config.norm_eps, self.threads)
            self.output(h, out)
        return out

    def _buffers_of(self, rows: int, cache: KVCache) -> Buffers:
        # They belong to the cache, so that sessions can run at the same time. Only single tokens and full chunks
        # come again and again.
        if rows not in (1, PROMPT_CHUNK):
            return Buffers(self.config, rows)
        found: Buffers | None = cache.scratch.get(rows)
        if found is None:
            found = cache.scratch[rows] = Buffers(self.config, rows)
        return found
