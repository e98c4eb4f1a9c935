"""BitNet b1.58: weights of -1, 0 and 1 times a scale, and norms in front of Wo and Wdown."""

from __future__ import annotations

from typing import ClassVar

from blockquant.errors import BlockquantError
from blockquant.transformer.decoder import Decoder

_ACTIVATIONS = {"relu2": "relu_squared", "silu": "silu"}


class BitNet(Decoder):
    """The gate is a squared ReLU, as in b1.58-2B-4T, unless the file says silu, as the first models had."""

    architecture: ClassVar[str] = "bitnet"
    rope_interleaved: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("attn_sub_norm", "ffn_sub_norm")

    def prepare(self) -> None:
        name = self.config.keys.get("hidden_activation", str, "relu2")
        if name not in _ACTIVATIONS:
            raise BlockquantError(f"bitnet.hidden_activation is {name!r}; supported: {', '.join(_ACTIVATIONS)}")
        self.activation = _ACTIVATIONS[name]
