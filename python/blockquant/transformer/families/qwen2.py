"""Qwen2: the halves of a head are rotated against each other, and queries, keys and values have biases."""

from __future__ import annotations

from typing import ClassVar

from blockquant.transformer.decoder import Decoder


class Qwen2(Decoder):
    """Biases need nothing here: a matrix brings its own where the file has one."""

    architecture: ClassVar[str] = "qwen2"
    rope_interleaved: ClassVar[bool] = False
