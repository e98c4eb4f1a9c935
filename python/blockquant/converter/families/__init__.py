"""The model families that can be converted, by config.json's `architectures[0]`. One module per family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockquant.converter.families.base import Family, TensorRule
from blockquant.converter.families.bitnet import BitNet
from blockquant.converter.families.gemma3 import Gemma3
from blockquant.converter.families.llama import Llama, Mistral
from blockquant.converter.families.phi3 import Phi3
from blockquant.converter.families.qwen2 import Qwen2
from blockquant.converter.families.qwen3 import Qwen3
from blockquant.converter.families.qwen3moe import Qwen3Moe
from blockquant.errors import BlockquantError

__all__ = ["Family", "TensorRule", "families", "family_of"]

families: dict[str, type[Family]] = {
    architecture: family
    for family in (BitNet, Gemma3, Llama, Mistral, Phi3, Qwen2, Qwen3, Qwen3Moe)
    for architecture in family.architectures
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json, set up for it. Raises ValueError, naming the supported ones, when there is none."""
    # A model of several parts keeps what concerns its language model apart; a null there says nothing.
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **{key: value for key, value in text.items() if value is not None}}
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str) or name not in families:
        raise BlockquantError(
            f"config.json: architecture {name!r} is not supported; supported are {', '.join(sorted(families))} "
            "(any weights can be taken under their own names: give the architecture of the file)"
        )
    return families[name](config)
