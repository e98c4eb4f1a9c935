"""Phi-3 to Phi-4-mini: one matrix for Wq, Wk and Wv, one for the gate and Wup, LongRoPE, heads rotated in part.

The loop knows fused matrices and LongRoPE, because other files have them too.
"""

from __future__ import annotations

from typing import ClassVar

from blockquant.transformer.decoder import Decoder


class Phi3(Decoder):
    """All layers see the sliding window, as in training. (llama.cpp reads the window and does not apply it.)"""

    architecture: ClassVar[str] = "phi3"
    rope_interleaved: ClassVar[bool] = False

    def prepare(self) -> None:
        self.config.keys.refuse_experts()

    def window(self, index: int) -> int:
        return self.config.sliding_window
