"""Gemma 3: most layers see a sliding window and rotate faster; norms before and after each part; GELU gates.

The file's norm weights are those of the checkpoint plus 1, which is what the model multiplies by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from blockquant.transformer.decoder import Buffers, Decoder
from blockquant.transformer.rope import Rope, Rotation

_LAYERS_OF_27B = 62


class Gemma3(Decoder):
    architecture: ClassVar[str] = "gemma3"
    rope_interleaved: ClassVar[bool] = False
    activation = "gelu"
    norms: ClassVar[tuple[str, ...]] = ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")

    def prepare(self) -> None:
        config, keys = self.config, self.config.keys
        # Every sixth layer sees everything, unless the file has a list of its own.
        self.is_local = keys.flags("attention.sliding_window_pattern", config.n_layers, period=6)
        # The scaling of the rotation is that of the global layers; what all vectors grow by is not part of it.
        base, grown = keys.get("rope.freq_base_swa", float, 10000.0), config.rope.attention_factor
        self.local_rope = Rope(config.rope.dims, base, attention_factor=grown)
        # Queries are scaled by the head size, in the 27B model by what it would be if heads filled the width.
        usual = config.n_embd // config.n_heads if config.n_layers == _LAYERS_OF_27B else config.head_dim
        self.attention_scale = keys.get("attention.scale", float, usual**-0.5)

    def window(self, index: int) -> int:
        return self.config.sliding_window if self.is_local[index] else 0

    def rotation(self, index: int) -> int:
        return int(self.window(index) > 0)

    def rotations(self, n_ctx: int) -> list[Rotation]:
        return [self.rope.rotation(n_ctx), self.local_rope.rotation(n_ctx)]

    def embed(self, tokens: Sequence[int], b: Buffers) -> None:
        super().embed(tokens, b)
        b.x *= math.sqrt(self.config.n_embd)
