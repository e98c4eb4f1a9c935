"""The decoder-only transformer loop that all families share; families/ says what differs.

    x = embedding of the tokens
    for each layer:
        q, k, v = rms_norm(x) @ Wq, Wk, Wv;  rotate q and k;  x += attention(q, cache + k, cache + v) @ Wo
        h = rms_norm(x);  x += (silu(h @ Wgate) * (h @ Wup)) @ Wdown
    logits = rms_norm(x) @ Woutput

Some families have further norms, another gate or a window of positions (`Layer` lists them); what a family lacks is
skipped. Every array is [rows, ...] with one row per token of the chunk at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from blockquant import _core
from blockquant.transformer.cache import KVCache
from blockquant.transformer.config import Config
from blockquant.transformer.rope import RopeTable, Rotation
from blockquant.transformer.weights import FloatArray, Linear, Weights

PROMPT_CHUNK = 256  # rows that go through the layers together


@dataclass(kw_only=True)
class Layer:
    """One layer: its weights, by the names in the file (without the `blk.N.` prefix), and what sets it apart.

    The norms that may be None are those that only some families have.
    """

    index: int
    window: int  # how many positions a query sees, its own included; 0 for all
    rope: int  # which of the model's rotations it uses

    attn_norm: FloatArray
    attn_q: Linear
    attn_k: Linear
    attn_v: Linear
    attn_q_norm: FloatArray | None = None  # of each head, before the rotation
    attn_k_norm: FloatArray | None = None
    attn_sub_norm: FloatArray | None = None  # of all heads together, before Wo
    attn_output: Linear
    post_attention_norm: FloatArray | None = None  # of what Wo gives

    ffn_norm: FloatArray
    post_ffw_norm: FloatArray | None = None  # of what Wdown gives


@dataclass(kw_only=True)
class DenseLayer(Layer):
    """A layer whose feed-forward part is one gated unit."""

    ffn_gate: Linear
    ffn_up: Linear
    ffn_sub_norm: FloatArray | None = None  # of the gated unit, before Wdown
    ffn_down: Linear


class Buffers:
    """Scratch arrays for chunks of `rows` tokens, made once per size."""

    def __init__(self, config: Config, n_ff: int, rows: int) -> None:
        def empty(*shape: int) -> FloatArray:
            return np.empty((rows, *shape), np.float32)

        heads, kv_heads, dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.x, self.h = empty(config.n_embd), empty(config.n_embd)
        self.q, self.k, self.v = empty(heads, dim), empty(kv_heads, dim), empty(kv_heads, dim)
        self.attended = empty(heads, dim)
        # The same memory, one row per token, for the matrix products.
        self.q_rows, self.attended_rows = self.q.reshape(rows, -1), self.attended.reshape(rows, -1)
        self.k_rows, self.v_rows = self.k.reshape(rows, -1), self.v.reshape(rows, -1)
        self.gate, self.up = empty(n_ff), empty(n_ff)


class Decoder:
    """Weights and the forward pass. A family is a subclass that names or overrides what differs."""

    architecture: ClassVar[str]
    rope_interleaved: ClassVar[bool]  # whether rotated pairs are neighbours or half a head apart
    activation: str = "silu"  # of the gate: "silu", "gelu" (its tanh form) or "relu_squared"
    norms: ClassVar[tuple[str, ...]] = ()  # the norms that a layer has besides attn_norm and ffn_norm

    def __init__(self, config: Config, weights: Weights, threads: int) -> None:
        self.config, self.threads = config, threads
        self.attention_scale = config.head_dim**-0.5
        self.n_ff = config.n_ff  # elements of a gated unit
        weights.check_layers(config.n_layers)
        self.prepare()
        self.n_vocab = weights.vocabulary_size(config.n_embd)
        self.embedding = weights.embedding("token_embd", self.n_vocab, config.n_embd)
        self.layers = [self.load_layer(weights, i) for i in range(config.n_layers)]
        self.output_norm = weights.vector("output_norm.weight", config.n_embd)
        tied = "output.weight" not in weights
        self.output = self.embedding if tied else weights.linear("output", self.n_vocab, config.n_embd)
        self.rope = config.rope.with_factors(weights)
        weights.check_all_used()
        self.cache_type = "f32" if self.layers[0].attn_k.is_float32 else "f16"

    # ---- what families override ----

    def prepare(self) -> None:
        """Before the weights are loaded: read the hyper-parameters that only this family has (self.config.keys)."""

    def window(self, index: int) -> int:
        """How many positions layer `index` sees, 0 for all."""
        return 0

    def rotation(self, index: int) -> int:
        """Which of `rotations()` layer `index` uses."""
        return 0

    def rotations(self, n_ctx: int) -> list[Rotation]:
        """The rotations of the model in a context of n_ctx."""
        return [self.rope.rotation(n_ctx)]

    def load_layer(self, weights: Weights, index: int) -> Layer:
        return DenseLayer(**self.attention_weights(weights, index), **self.feed_forward_weights(weights, index))

    def feed_forward(self, layer: Any, b: Buffers) -> None:
        """b.x += feed-forward of b.x, using b.h as scratch."""
        self.norm(b.x, layer.ffn_norm, b.h)
        layer.ffn_gate(b.h, b.gate)
        layer.ffn_up(b.h, b.up)
        _core.gated(b.gate, b.up, b.gate, self.activation, self.threads)
        self.norm(b.gate, layer.ffn_sub_norm, b.gate)
        layer.ffn_down(b.gate, b.h)
        self.norm(b.h, layer.post_ffw_norm, b.h)
        _core.add(b.x, b.h, self.threads)

    # ---- loading ----

    def attention_weights(self, weights: Weights, index: int) -> dict[str, Any]:
        """The fields of `Layer`."""
        c, prefix = self.config, f"blk.{index}."
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        sizes = {"attn_norm": c.n_embd, "ffn_norm": c.n_embd}
        further = {"attn_q_norm": c.head_dim, "attn_k_norm": c.head_dim, "attn_sub_norm": q}
        further |= {"post_attention_norm": c.n_embd, "post_ffw_norm": c.n_embd}
        sizes |= {name: size for name, size in further.items() if name in self.norms}
        found: dict[str, Any] = {name: weights.vector(f"{prefix}{name}.weight", n) for name, n in sizes.items()}
        # Some files hold the three projections in one matrix.
        parts = {"attn_q": q, "attn_k": kv, "attn_v": kv}
        found |= weights.linears(prefix, parts, "attn_qkv", c.n_embd)
        found["attn_output"] = weights.linear(f"{prefix}attn_output", c.n_embd, q)
        return found | {"index": index, "window": self.window(index), "rope": self.rotation(index)}

    def feed_forward_weights(self, weights: Weights, index: int) -> dict[str, Any]:
        """The further fields of `DenseLayer`."""
        c, prefix = self.config, f"blk.{index}."
        # A file with the gate in front of ffn_up's own rows has no ffn_gate.
        found: dict[str, Any] = dict(
            weights.linears(prefix, {"ffn_gate": self.n_ff, "ffn_up": self.n_ff}, "ffn_up", c.n_embd)
        )
        if "ffn_sub_norm" in self.norms:
            found["ffn_sub_norm"] = weights.vector(f"{prefix}ffn_sub_norm.weight", self.n_ff)
        return found | {"ffn_down": weights.linear(f"{prefix}ffn_down", c.n_embd, self.n_ff)}

    # ---- the loop ----

    def forward(self, tokens: Sequence[int], cache: KVCache, logits: int) -> FloatArray:
        """Append at most PROMPT_CHUNK tokens to the cache; the logits [logits, V] of the last `logits` of them."""
        rows = len(tokens)
        cache.reserve(rows)
        b = self._buffers_of(rows, cache)
        self.embed(tokens, b)
        cache.rotations = cache.rotations or self.rotations(cache.n_ctx)
        ropes = [rotation.table(cache.position, rows) for rotation in cache.rotations]
        for layer in self.layers:
            self.attention(layer, b, cache, ropes[layer.rope])
            self.feed_forward(layer, b)
        cache.position += rows
        out = np.empty((logits, self.n_vocab), np.float32)
        if logits:
            h = b.h[rows - logits :]
            self.norm(b.x[rows - logits :], self.output_norm, h)
            self.output(h, out)
            self.cap(out)
        return out

    def embed(self, tokens: Sequence[int], b: Buffers) -> None:
        """b.x = the embeddings of the tokens."""
        self.embedding.rows(tokens, b.x)

    def attention(self, layer: Layer, b: Buffers, cache: KVCache, rope: RopeTable) -> None:
        """b.x += attention of b.x over the layer's part of the cache, into which its keys and values go first."""
        self.norm(b.x, layer.attn_norm, b.h)
        layer.attn_q(b.h, b.q_rows)
        layer.attn_k(b.h, b.k_rows)
        layer.attn_v(b.h, b.v_rows)
        self.norm(b.q, layer.attn_q_norm, b.q)
        self.norm(b.k, layer.attn_k_norm, b.k)
        _core.rope(b.q, *rope, self.rope_interleaved, self.threads)
        _core.rope(b.k, *rope, self.rope_interleaved, self.threads)
        cache.store(layer.index, b.k, b.v)
        cache.attend(layer.index, b.q, b.attended, self.attention_scale, layer.window, self.threads)
        self.norm(b.attended_rows, layer.attn_sub_norm, b.attended_rows)
        layer.attn_output(b.attended_rows, b.h)
        self.norm(b.h, layer.post_attention_norm, b.h)
        _core.add(b.x, b.h, self.threads)

    def norm(self, x: FloatArray, weight: FloatArray | None, out: FloatArray) -> None:
        """out = x / rms(x) * weight over the last axis; nothing where the family has no such norm (out is then x)."""
        if weight is not None:
            _core.rms_norm(x, weight, out, self.config.norm_eps, self.threads)

    def cap(self, logits: FloatArray) -> None:
        """Soft-capping, where the file asks for it: logits = cap * tanh(logits / cap)."""
        cap = self.config.logit_cap
        if cap:
            np.tanh(np.divide(logits, cap, out=logits), out=logits)
            logits *= cap

    def _buffers_of(self, rows: int, cache: KVCache) -> Buffers:
        # They belong to the cache, so that sessions can run at the same time. Only single tokens and full chunks
        # come again and again.
        if rows not in (1, PROMPT_CHUNK):
            return Buffers(self.config, self.n_ff, rows)
        found: Buffers | None = cache.scratch.get(rows)
        if found is None:
            found = cache.scratch[rows] = Buffers(self.config, self.n_ff, rows)
        return found
