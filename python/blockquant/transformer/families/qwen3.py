"""Qwen3: every head of queries and keys is normalised before the rotation, which pairs the halves of a head."""

from __future__ import annotations

from typing import ClassVar

from blockquant.transformer.decoder import Decoder


class Qwen3(Decoder):
    architecture: ClassVar[str] = "qwen3"
    rope_interleaved: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("attn_q_norm", "attn_k_norm")
