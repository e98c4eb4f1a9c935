"""Llama, and what files call llama (Mistral among others)."""

from __future__ import annotations

from typing import ClassVar

from blockquant.transformer.decoder import Decoder


class Llama(Decoder):
    """The common loop as it is. Converters reorder the rows of Wq and Wk so that rotated pairs are neighbours."""

    architecture: ClassVar[str] = "llama"
    rope_interleaved: ClassVar[bool] = True

    def prepare(self) -> None:
        self.config.keys.refuse_experts()
