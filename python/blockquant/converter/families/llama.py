"""Llama 1 to 3.3, and Mistral, which llama.cpp runs as Llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blockquant.converter.families.base import Family


def interleaved(heads: int, rows: int) -> NDArray[np.intp]:
    """The order that turns half-split rotary rows into pairs of neighbours.

    A Hugging Face checkpoint rotates row i of a head with row i + head_dim / 2; GGUF's `llama` architecture rotates
    rows 2i and 2i + 1. Returns, for each of `rows` stored rows, the source row.
    """
    order: NDArray[np.intp] = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return order


# What Code Llama fills a gap with: role in GGUF's key -> token.
_INFILL = {"prefix": "<PRE>", "suffix": "<SUF>", "middle": "<MID>", "eot": "<EOT>"}
# The vocabulary that SmolLM and the small Granite models share, whose texts begin without a token.
_WITHOUT_BOS = 49152


class Llama(Family):
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM", "LLaMAForCausalLM")
    arch = "llama"
    defaults: ClassVar[Mapping[str, Any]] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    rope_types = (*Family.rope_types, "llama3")

    def metadata(self) -> dict[str, Any]:
        keys = super().metadata()
        # The configuration classes of this family always know their head size.
        keys[f"{self.arch}.attention.key_length"] = self.head_dim
        keys[f"{self.arch}.attention.value_length"] = self.head_dim
        return keys

    def late_metadata(self) -> dict[str, Any]:
        return {f"{self.arch}.vocab_size": self.vocab_size, f"{self.arch}.rope.dimension_count": self.head_dim}

    def tokenizer_metadata(self, vocabulary: Mapping[str, Any]) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        if vocabulary["tokenizer.ggml.model"] == "llama":
            ids = {text.replace("▁", " "): i for i, text in enumerate(vocabulary["tokenizer.ggml.tokens"])}
            found = {role: ids.get(f" {text}") for role, text in _INFILL.items()}
            if None not in found.values():
                keys = {f"tokenizer.ggml.{role}_token_id": token for role, token in found.items()}
        if self.vocab_size == _WITHOUT_BOS:
            keys["tokenizer.ggml.add_bos_token"] = False
        return keys

    def query_key_orders(self) -> dict[str, NDArray[np.intp]]:
        return {
            "q": interleaved(self.heads, self.heads * self.head_dim),
            "k": interleaved(self.kv_heads, self.kv_heads * self.head_dim),
        }

    def computed_tensors(self) -> dict[str, NDArray[np.float32]]:
        return {"rope_freqs.weight": self._llama3_factors()} if self.rope.type == "llama3" else {}

    def _llama3_factors(self) -> NDArray[np.float32]:
        """What each rotary frequency is divided by: 1 for short wavelengths, `factor` for long ones."""
        rope = self.rope
        factor = np.float32(rope.positive("factor", 8.0))
        low, high = rope.positive("low_freq_factor", 1.0), rope.positive("high_freq_factor", 4.0)
        context = rope.original_context
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        frequencies = np.float32(1) / np.power(np.float32(rope.theta), exponents)
        wavelengths = np.float32(2 * np.pi) / frequencies
        with np.errstate(all="ignore"):  # outside the band in between
            smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
            between = 1 / ((1 - smooth) / factor + smooth)
            factors = np.where(wavelengths > np.float32(context / low), factor, between)
            result: NDArray[np.float32] = np.where(wavelengths < np.float32(context / high), 1, factors).astype(
                np.float32
            )
        return result


class Mistral(Llama):
    """Mistral 7B and Nemo: Llama's tensors; the sliding window of 7B v0.1 is not represented, as in llama.cpp."""

    architectures: ClassVar[tuple[str, ...]] = ("MistralForCausalLM",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
    }
