"""The model families that can be converted, by config.json's `architectures[0]`. One module per family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockquant.converter.families.base import Family, TensorRule
from blockquant.converter.families.llama import Llama, Mistral
from blockquant.converter.families.qwen2 import Qwen2
from blockquant.converter.families.qwen3 import Qwen3
from blockquant.errors import BlockquantError

__all__ = ["Family", "TensorRule", "families", "family_of"]

families: dict[str, type[Family]] = {
    architecture: family for family in (Llama, Mistral, Qwen2, Qwen3) for architecture in family.architectures
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json, set up for it. Raises ValueError, naming the supported ones, when there is none."""
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str) or name not in families:
        raise BlockquantError(
            f"config.json: architecture {name!r} is not supported; supported are {', '.join(sorted(families))}"
        )
    return families[name](config)
