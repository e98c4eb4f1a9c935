"""The hyper-parameters of a model, read from the metadata of its GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blockquant import _core
from blockquant.errors import BlockquantError
from blockquant.transformer.keys import MOST, Keys
from blockquant.transformer.rope import Rope

MOST_LAYERS = 1 << 16  # a list of the layers must fit memory before the tensors are looked up


@dataclass(frozen=True)
class Config:
    """Sizes in elements; what every family here has in common."""

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context_length: int  # positions that the model was trained for
    norm_eps: float
    sliding_window: int  # positions that layers with a window see, 0 where the file names none
    logit_cap: float  # soft cap of the logits, 0 for none
    rope: Rope
    keys: Keys = field(repr=False, compare=False)  # for what only one family asks

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], architecture: str) -> Config:
        """Raises ValueError for a missing key, or for what the loop cannot compute."""
        keys = Keys(metadata, architecture)
        n_embd = keys.positive("embedding_length")
        n_heads = keys.positive("attention.head_count")
        n_kv_heads = keys.positive("attention.head_count_kv", n_heads)
        head_dim = keys.positive("attention.key_length", n_embd // n_heads)
        value_length = keys.positive("attention.value_length", head_dim)
        if n_heads % n_kv_heads:
            raise BlockquantError(f"{n_heads} heads cannot share {n_kv_heads} key/value heads")
        if head_dim > _core.max_head_dim:
            raise BlockquantError(f"heads of {head_dim} elements: at most {_core.max_head_dim} are supported")
        if value_length != head_dim:
            raise BlockquantError(f"values of {value_length} and keys of {head_dim} elements: not supported")
        # Some files say "any" with the largest number of 32 bits.
        context_length = min(keys.positive("context_length", most=2**32 - 1), MOST)
        return cls(
            architecture=architecture,
            n_layers=keys.positive("block_count", most=MOST_LAYERS),
            n_embd=n_embd,
            n_ff=keys.positive("feed_forward_length"),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            context_length=context_length,
            norm_eps=keys.get("attention.layer_norm_rms_epsilon", float),
            sliding_window=min(keys.positive("attention.sliding_window", 0, least=0, most=2**32 - 1), MOST),
            logit_cap=keys.get("final_logit_softcapping", float, 0.0),
            rope=Rope.from_keys(keys, head_dim, context_length),
            keys=keys,
        )
